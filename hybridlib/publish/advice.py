"""Which hybrid to use: written from the tables, and only what their intervals carry.

Under one reward a variant beats another on harm if the Holm-adjusted interval of hybrids.csv says
that it leaves less. It beats it at no cost if it is also shown not to be worse at over-refusal and
at sums, by the margin that C7 has for "not worse". Listed is what none beats on harm. Fewer than
five seeds, or a control that fails, carry no claim.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hybridlib.evaluation import hypotheses
from hybridlib.evaluation.statistics import SEEDS_FOR_A_VERDICT
from hybridlib.evaluation.tables import control_holds
from hybridlib.figures import prose
from hybridlib.figures.prose import join
from hybridlib.figures.results import Results, holm, rewards, select, totals
from hybridlib.publish import markdown
from hybridlib.store.paths import committed

BLOCK = "hybrids"
PRESETS = {"hybrids": "", "hybrids_few": ", few demonstrations"}  # preset -> how it is special
REWARDS = {"rule": "a weak reward (the rule)", "model": "a good reward (the reward model)"}
COLUMNS = {  # heading -> (metric, where)
    "harm": ("harm_rate", {}),
    "over-refusal": ("over_refusal_rate", {}),
    "sums right": ("accuracy", {"task": "sums"}),
}
COSTS = ("FLOPs, times `sft`", "seconds, times `sft`")
SHOWN = COLUMNS | {"off-language": ("off_language_rate", {})}


class Situation(NamedTuple):
    """What somebody has who must choose: a reward, in a study."""

    words: str
    results: Results
    reward: str


def situations(results: Results, special: str = "") -> list[Situation]:
    """The situations that a study speaks of."""
    found = rewards(results)
    return [Situation(REWARDS[reward] + special, results, reward) for reward in found]


def margin() -> float:
    """By how much worse is still "not worse": the margin of the halves of C7."""
    (claim,) = (claim for claim in hypotheses.load().claims if claim.claim == "C7")
    return min(-half.margin for half in claim.halves)


def beaten(results: Results, reward: str, at_no_cost: bool = False) -> dict[str, list[str]]:
    """Each variant that was compared under a reward -> those that beat it on harm."""
    rows = select(results.table("hybrids"), reward=reward)
    arms = list(dict.fromkeys([*rows.b, *rows.a]))

    def beats(a: str, b: str) -> bool:
        names = [metric for metric, _ in COLUMNS.values()]
        found = [holm(results, metric, reward, a, b) for metric in names]
        if any(row is None for row in found):  # the same variant, or no seed in common
            return False
        harm, over_refusal, accuracy = found
        no_worse = over_refusal.high < margin() and accuracy.low > -margin()
        return harm.high < 0 and (no_worse or not at_no_cost)

    return {arm: [by for by in arms if beats(by, arm)] for arm in arms}


def advice(chosen: Sequence[Situation]) -> str:
    """Markdown: a sentence a situation, and a table of what none beats where anything is beaten."""
    parts = []
    for words, results, reward in chosen:
        on_harm, at_no_cost = beaten(results, reward), beaten(results, reward, at_no_cost=True)
        if no_claim := _no_claim(results, reward, on_harm):
            parts.append(f"With {words}: {no_claim}")
        else:
            free = "; ".join(
                f"{_name(arm)} is beaten by {join(map(_name, by))}"
                for arm, by in at_no_cost.items() if by
            )  # fmt: skip
            lost = sum(map(bool, on_harm.values()))
            parts.append(
                f"With {words}: {lost} of {len(on_harm)} are beaten on harm; shown to cost neither "
                f"over-refusal nor sums: {free or 'none of it'}."
            )
            head = ["beaten by none", "beats on harm", "of these at no cost", *SHOWN, *COSTS]
            parts.append(markdown.table(head, _rows(results, on_harm, at_no_cost)))
    return "\n\n".join(parts)


def _no_claim(results: Results, reward: str, losers: dict[str, list[str]]) -> str:
    """Why no claim is made; '' if one is."""
    if not losers:
        return "no two variants were compared."
    seeds = select(results.table("hybrids"), reward=reward).seeds.min()
    if seeds < SEEDS_FOR_A_VERDICT:
        return f"{seeds} of the {SEEDS_FOR_A_VERDICT} seeds that a claim needs, so none is made."
    if not control_holds(results.table("training")):
        return prose.control(results)
    if not any(losers.values()):
        return f"nothing separates, none of {len(losers)} beats another."
    return ""


def _rows(
    results: Results, on_harm: dict[str, list[str]], at_no_cost: dict[str, list[str]]
) -> list[list[str]]:
    """A row a variant that none beats on harm, the least harm first."""
    metrics = [results.metric(metric, **where) for metric, where in SHOWN.values()]
    costs = [totals(results, column).estimate for column in ("flops", "seconds")]

    def beats(arm: str, losers: dict[str, list[str]]) -> str:
        return join(_name(other) for other, by in losers.items() if arm in by) or "none"

    unbeaten = [arm for arm, by in on_harm.items() if not by]
    return [
        [
            _name(arm),
            beats(arm, on_harm),
            beats(arm, at_no_cost),
            *(prose.interval(metric.loc[arm]) for metric in metrics),
            *(_times_sft(cost, arm) for cost in costs),
        ]
        for arm in sorted(unbeaten, key=metrics[0].estimate.get)
    ]


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
    rule = (
        "A variant beats another on harm if it clearly leaves less (Holm-adjusted interval over "
        "all pairs), and at no cost if it is also shown not to be worse at over-refusal and sums, "
        f"by {100 * margin():.0f} points. Listed is what none beats on harm."
    )
    text = "\n\n".join(["## Which hybrid to use", rule, advice(chosen)])
    markdown.replace_block(readme, BLOCK, text)
