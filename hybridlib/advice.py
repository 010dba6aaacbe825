"""Which hybrid to use: written from the tables, and only what their intervals carry.

Under one reward a variant beats another if it leaves less harm and is shown not to be worse at
over-refusal and at sums by the margin that C7 has for "not worse", all by the Holm-adjusted
intervals of hybrids.csv. What no other beats may be used; of what is not told apart nothing is
said. Fewer than five seeds, or a control that fails, carry no advice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hybridlib import hypotheses, lookup, markdown, prose
from hybridlib.lookup import Results
from hybridlib.prose import join
from hybridlib.stats import SEEDS_FOR_A_VERDICT
from hybridlib.study import committed
from hybridlib.tables import control_holds

BLOCK = "hybrids"
PRESETS = {"hybrids": "", "hybrids_few": ", few demonstrations"}  # preset -> how it is special
REWARDS = {"rule": "a weak reward (the rule)", "model": "a good reward (the reward model)"}
COLUMNS = {  # heading -> (metric, where)
    "harm": ("harm_rate", {}),
    "over-refusal": ("over_refusal_rate", {}),
    "sums right": ("accuracy", {"task": "sums"}),
}


class Situation(NamedTuple):
    """What somebody has who must choose: a reward, in a study."""

    words: str
    results: Results
    reward: str


def situations(results: Results, special: str = "") -> list[Situation]:
    """The situations that a study speaks of."""
    found = lookup.rewards(results)
    return [Situation(REWARDS[reward] + special, results, reward) for reward in found]


def margin() -> float:
    """By how much worse is still "not worse": the margin of the halves of C7."""
    (claim,) = (claim for claim in hypotheses.load().claims if claim.claim == "C7")
    return min(-half.margin for half in claim.halves)


def beaten(results: Results, reward: str) -> dict[str, list[str]]:
    """Each variant that was compared under a reward -> those that beat it."""
    rows = lookup.select(results.table("hybrids"), reward=reward)
    arms = list(dict.fromkeys([*rows.b, *rows.a]))
    return {arm: [by for by in arms if _beats(results, reward, by, arm)] for arm in arms}


def _beats(results: Results, reward: str, a: str, b: str) -> bool:
    """Whether a leaves less harm than b and is not worse at what that could be paid with."""
    names = [metric for metric, _ in COLUMNS.values()]
    rows = [lookup.holm(results, metric, reward, a, b) for metric in names]
    if any(row is None for row in rows):  # the same, or without a common seed
        return False
    harm, over_refusal, accuracy = rows
    return harm.high < 0 and over_refusal.high < margin() and accuracy.low > -margin()


def advice(chosen: Sequence[Situation]) -> str:
    """Markdown: a sentence a situation, and a table of what is not beaten where anything is."""
    sentences, rows = [], []
    for words, results, reward in chosen:
        losers = beaten(results, reward)
        reason = _no_advice(results, reward, losers)
        if reason:
            sentences.append(f"With {words}: {reason}")
            continue
        lost = (f"{_name(arm)} by {join(map(_name, by))}" for arm, by in losers.items() if by)
        sentences.append(f"With {words}, beaten are {join(lost)}.")
        rows += _rows(words, results, losers)
    blocks = [" ".join(sentences)]
    if rows:
        costs = ["FLOPs, times `sft`", "seconds, times `sft`"]
        head = ["with", "beaten by none", "beats", *COLUMNS, *costs]
        blocks.append(markdown.table(head, rows))
    return "\n\n".join(blocks)


def _no_advice(results: Results, reward: str, losers: dict[str, list[str]]) -> str:
    """Why nothing can be advised; '' if something can."""
    seeds = lookup.select(results.table("hybrids"), reward=reward).seeds.min()
    if not losers:
        return "no two variants were compared."
    if seeds < SEEDS_FOR_A_VERDICT:
        return f"{seeds} of the {SEEDS_FOR_A_VERDICT} seeds that a claim needs, so none is made."
    if not control_holds(results.table("training")):
        return prose.control(results)
    if not any(losers.values()):
        return "nothing separates, no variant beats another."
    return ""


def _rows(words: str, results: Results, losers: dict[str, list[str]]) -> list[list[str]]:
    """A row a variant that none beats, the least harm first."""
    metrics = [results.metric(metric, **where) for metric, where in COLUMNS.values()]
    harm = metrics[0].estimate
    costs = [lookup.totals(results, column).estimate for column in ("flops", "seconds")]
    rows = []
    for arm in sorted((arm for arm, by in losers.items() if not by), key=harm.get):
        beats = join(_name(other) for other, by in losers.items() if arm in by) or "none"
        rates = [prose.interval(metric.loc[arm]) for metric in metrics]
        rows.append([words, _name(arm), beats, *rates, *(_times_sft(cost, arm) for cost in costs)])
    return rows


def _times_sft(cost: pd.Series, arm: str) -> str:
    return f"{cost[arm] / cost['sft/none']:.1f}" if "sft/none" in cost.index else ""


def _name(arm: str) -> str:
    """The variant alone: the situation has said the reward."""
    return f"`{arm.partition('/')[0]}`"


def published() -> list[Situation]:
    """The situations that the committed results speak of."""
    folders = {committed(preset): special for preset, special in PRESETS.items()}
    there = {folder: special for folder, special in folders.items() if (folder / "tables").is_dir()}
    return [
        found for folder, special in there.items() for found in situations(Results(folder), special)
    ]


def write(readme: Path, chosen: Sequence[Situation]) -> None:
    """Replace the account in a README."""
    text = "## Which hybrid to use\n\n" + advice(chosen)
    markdown.replace_block(readme, BLOCK, text)
