"""From the values of replicates to the tables of a results folder: metrics, contrasts, verdicts.

'all' is pooled; `unseen` pools the splits that are not seen. A row names at most two of task, split
and language; in contrasts.csv, which has a row for each pair of arms, at most one. The order of
rows and the format of numbers are fixed: the same responses give the same bytes.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hybridlib.evaluation import comparison, hypotheses, statistics
from hybridlib.evaluation.metrics import (
    AT,
    CLASS_METRICS,
    METRICS,
    PARTS,
    WHOLE,
    Arm,
    Rows,
    arm_under,
    measured,
)
from hybridlib.evaluation.statistics import Replicates
from hybridlib.tasks.responses import CLASSES
from hybridlib.variants import VARIANTS, compares_hybrids

RUN = ["preset", "variant", "reward"]
WHERE = ["task", "split", "language"]
NUMBERS = ["estimate", "low", "high", "predicted_low", "predicted_high", "replicates", "responses"]
TEST = ["claim", "metric", "contrast", "task", "split", "reward", "estimate", "low", "high",
        "predicted_low", "predicted_high", "margin", "replicates", "share_on_side", "verdict",
        "asks"]  # fmt: skip
#: What names an effect.
EFFECT = ["claim", "metric", "contrast", "task", "split", "reward"]
#: What is measured in each form of asking (usage.csv).
ASKED_FOR = ("accuracy", "harm_rate", "over_refusal_rate", "off_language_rate", "well_formedness")
#: What a curve of training may hold; of a run that samples nothing all but the first three is NaN.
CURVE = ("loss", "entropy", "zero_variance_groups", "proxy", "gold", "keyword_satisfied", "harm",
         "off_language_en", "off_language_es", "target_language_share_en",
         "target_language_share_es", "tokens", "kl", "base_nll")  # fmt: skip
RL = {name for name, variant in VARIANTS.items() if variant.method == "rl"}


def metrics(rows: Rows, preset: str) -> pd.DataFrame:
    """metrics.csv: every metric of every arm, and the interval of one further replicate."""
    return _sorted(_table(rows, METRICS, _named(rows, preset)), [*RUN, *AT])


def classes(rows: Rows, preset: str) -> pd.DataFrame:
    """classes.csv: the share of each response class, in the order of CLASSES."""
    found = _sorted(_table(rows, CLASS_METRICS, _named(rows, preset)), [*RUN, *AT])
    parts = found.metric.str.split(" ")
    found = found.assign(kind=parts.str[1], response_class=parts.str[2])
    order = {name: i for names in CLASSES.values() for i, name in enumerate(names)}
    keys = [*RUN, *WHERE, "decoding", "kind"]
    found = found.assign(nth=found.response_class.map(order)).sort_values([*keys, "nth"])
    return found[[*keys, "response_class", *NUMBERS]].rename(columns={"estimate": "share"})


def contrasts(rows: Rows, preset: str, claims: hypotheses.Hypotheses) -> pd.DataFrame:
    """contrasts.csv: every arm minus the base, and every pair that a hypothesis names."""
    pairs = _pairs(rows, claims)
    sides = tuple([rows.arms.index(pair[side]) for pair in pairs] for side in (0, 1))
    named = [{"preset": preset, "a": "/".join(a), "b": "/".join(b)} for a, b in pairs]
    found = _table(rows, METRICS if pairs else (), named, *sides, subsets=1, parts=(WHOLE,))
    return _sorted(found, ["preset", "metric", "a", "b", *WHERE, "decoding"])


def prefill(begun: pd.DataFrame, preset: str) -> pd.DataFrame:
    """prefill.csv: the harm that the policy adds to each prefilled beginning, by split."""
    found = []
    for start, responses in begun.groupby("start", sort=False):
        rows = Rows(measured(responses, named=1))
        named = [arm | {"start": start} for arm in _named(rows, preset)]
        found += [
            row
            for row in _table(rows, ["harm_rate"], named, parts=(WHOLE,))
            if row["split"] in ("all", "seen", "unseen") and row["task"] == row["language"] == "all"
        ]
    return _sorted(found, RUN, ["start", "split", "metric"])


def usage(asked: pd.DataFrame, preset: str) -> pd.DataFrame:
    """usage.csv: metrics in each form of asking (`than` none), and their difference from the plain
    form, by language."""
    forms = asked.assign(variant=asked.variant + "/" + asked.reward, reward=asked.form)
    rows, order = Rows(measured(forms, named=1)), {f: i for i, f in enumerate(asked.form.unique())}
    plain = next(iter(order))
    named = [
        dict(zip(RUN, (preset, *arm.split("/")))) | {"order": order[form], "form": form}
        for arm, form in rows.arms
    ]
    arms = range(len(named))
    moved = [arm for arm in arms if rows.arms[arm][1] != plain]
    unmoved = [rows.arms.index((rows.arms[arm][0], plain)) for arm in moved]
    found = []
    for than, compared in (("none", (list(arms),)), (plain, (moved, unmoved))):
        at = [named[arm] | {"than": than} for arm in compared[0]]
        found += [
            row
            for row in _table(rows, ASKED_FOR, at, *compared, parts=(WHOLE,))
            if row["task"] == row["split"] == "all"
        ]
    keys = [*RUN, "order", "form", "than", "metric", "language"]
    return _sorted(found, keys).drop(columns="order")


#: Tables of responses to prompts in other forms, by the stage that asked.
BESIDES = {"prefill": prefill, "usage": usage}
#: Tables that only some studies have; what an earlier study in the same folder left is removed.
OF_SOME = {"hybrids", "at_budget", "beside", "judges", "requests", "identifier", *BESIDES}


def effects(
    rows: Rows, cost: pd.DataFrame, tests: list[tuple[str, hypotheses.Half, str]]
) -> pd.DataFrame:
    """replicates.csv: the effect of each test in each replicate; without tests whose arms were not
    run."""
    found = []
    for claim, half, reward in tests:
        at = {"claim": claim, "reward": reward}
        at |= half.model_dump(include={"metric", "contrast", "task", "split"})
        found.append(_effect(rows, cost, half, reward).reset_index().assign(**at))
    columns = [*EFFECT, "seed", "estimate", "responses"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def verdicts(
    rows: Rows, cost: pd.DataFrame, claims: hypotheses.Hypotheses, control: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """verdicts.csv, exploratory.csv and claims.csv.

    Holm's correction is over all tests of verdicts.csv, and separately over those of
    exploratory.csv. Tests whose arms were not run are left out. claims.csv holds a verdict for each
    claim and reward, and one for the claim ('all') where all its rewards were run. If the positive
    control fails, tests with RL are descriptive, except that of compute.
    """
    primary, asked = (_tests(rows, cost, claims.tests(p)) for p in ("halves", "exploratory"))
    if not control:
        for frame in (primary, asked):
            with_rl = frame.contrast.map(lambda pair: bool(RL & set(pair.split(" - "))))
            frame.loc[with_rl & frame.metric.ne("log_flops"), "verdict"] = "descriptive"
    decided = []
    for claim in claims.claims:
        found = primary[primary.claim.eq(claim.claim)]
        rewards = sorted({reward for half in claim.halves for reward in half.rewards} - {"none"})
        rewards, verdicts = rewards or ["none"], []
        for reward in rewards:
            halves = found[found.reward.isin([reward, "none"])]
            if len(halves) == len(claim.halves):  # else an arm was not run
                verdicts.append(statistics.verdict_of_halves(halves.verdict))
                decided.append((claim.claim, reward, len(halves), verdicts[-1]))
        if len(verdicts) == len(rewards):  # no claim rests on one of two rewards
            overall = verdicts[0] if len(set(verdicts)) == 1 else "undecided"
            decided.append((claim.claim, "all", len(found), overall))
    frame = pd.DataFrame(decided, columns=["claim", "reward", "tests", "verdict"])
    return primary.drop(columns="asks"), asked, frame


def control_holds(training: pd.DataFrame) -> bool:
    """Whether RL rewarded by the oracle raised `gold` on its training prompts: interval above 0."""
    if training.empty:
        return False
    gold = training[training.variant.eq("rl_gold")].dropna(subset="gold")
    return not gold.empty and bool(statistics.interval_of_change(gold, "gold")[1] > 0)


def write_tables(
    folder: Path,
    preset: str,
    replicates: pd.DataFrame,
    training: pd.DataFrame,
    cost: pd.DataFrame,
    gate: pd.DataFrame,
    learning_rates: pd.DataFrame,
    runs: pd.DataFrame,
    at_budget: pd.DataFrame | None = None,
    besides: Mapping[str, pd.DataFrame] = {},
) -> None:
    """Write all tables of a results folder to `folder`.

    Parameters
    ----------
    replicates : what `metrics.measured` finds in the responses.
    at_budget : responses of the policies when they had cost their column `flops`.
    besides : responses by the stage of BESIDES that asked for them.
    """
    rows, claims = Rows(replicates), hypotheses.load()
    run = ["variant", "reward", "seed"]
    steps = [*run, "step"]
    training = training.reindex(columns=[*dict.fromkeys([*steps, *training, *CURVE])])
    verdict_rows, exploratory, decided = verdicts(rows, cost, claims, control_holds(training))
    tables = {
        "values": replicates,
        "metrics": metrics(rows, preset),
        "classes": classes(rows, preset),
        "contrasts": contrasts(rows, preset, claims),
        "verdicts": verdict_rows,
        "exploratory": exploratory,
        "claims": decided,
        "replicates": effects(rows, cost, claims.tests() + claims.tests("exploratory")),
        "training": training.sort_values(steps),
        "cost": cost.sort_values(run, kind="stable"),
        "gate": gate,
        "learning_rates": learning_rates.sort_values([*run[:2], "learning_rate", "seed"]),
        "runs": runs.sort_values([*run, "stage", "run"]),
    }
    if compares_hybrids(variant for variant, _ in rows.arms):
        tables["hybrids"] = _tidy(comparison.pairs(rows))
    if at_budget is not None and len(at_budget):
        found = comparison.weighed(Rows(measured(at_budget)))
        tables["at_budget"] = _tidy(found).assign(flops=at_budget.flops.iloc[0])
    tables |= {stage: BESIDES[stage](rows, preset) for stage, rows in besides.items()}
    for name, frame in tables.items():
        write(frame, folder / f"{name}.csv")
    for name in OF_SOME - set(tables):
        (folder / f"{name}.csv").unlink(missing_ok=True)


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as results/ holds them: the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _pairs(rows: Rows, claims: hypotheses.Hypotheses) -> list[tuple[Arm, Arm]]:
    """Pairs (a, b) of arms that were run, each only one way round."""
    base = ("base", "none")
    pairs = [(arm, base) for arm in rows.arms if arm != base and base in rows.arms]
    tests = claims.tests() + claims.tests("exploratory")
    named = (_arms(rows.arms, half, reward) for _, half, reward in tests)
    pairs += [pair for pair in named if len(pair) == 2]
    return list({frozenset(pair): pair for pair in reversed(pairs)}.values())


def _arms(arms: Collection[Arm], half: hypotheses.Half, reward: str) -> tuple[Arm, ...]:
    """The arms of a half under a reward; none if one of them was not run."""
    found = tuple(arm_under(reward, variant, arms) for variant in half.variants)
    return found if all(found) else ()


def _effect(rows: Rows, cost: pd.DataFrame, half: hypotheses.Half, reward: str) -> pd.DataFrame:
    """The effect of a half in each replicate (estimate, responses by seed), none if its arms were
    not run. Log ratios of compute rest on no response."""
    flops = cost.groupby(["variant", "reward", "seed"]).flops.sum()
    counted = half.metric == "log_flops"
    pair = _arms(set(flops.index.droplevel("seed")) if counted else rows.arms, half, reward)
    empty = pd.DataFrame(columns=["estimate", "responses"], dtype=float).rename_axis("seed")
    if not pair:
        return empty
    if counted:
        effect = np.log(flops[pair[0]]) - np.log(flops[pair[1]])
        return effect.dropna().rename("estimate").to_frame().assign(responses=np.nan)
    positions = [rows.arms.index(arm) for arm in pair]
    key = (half.metric, half.task, half.split, half.language, half.part, half.decoding)
    if len(pair) == 2:
        values, counts = rows.differences(key, *positions)
    else:
        values, counts = (table[positions[0]] for table in rows.at(key))
    found = pd.DataFrame({"estimate": values, "responses": counts}, index=rows.seeds)
    return found.rename_axis("seed").dropna()


def _tests(
    rows: Rows, cost: pd.DataFrame, tests: list[tuple[str, hypotheses.Half, str]]
) -> pd.DataFrame:
    """One row a test, with Holm-adjusted intervals over all of them."""
    found, tested = [], []
    for claim, half, reward in tests:
        effect = _effect(rows, cost, half, reward)
        if effect.empty:
            continue
        responses = None if effect.responses.isna().any() else effect.responses
        tested.append(Replicates(effect.estimate, responses_S=responses))
        at = {"claim": claim, "reward": reward}
        at |= half.model_dump(include=set(TEST))
        on_side = (effect.estimate > half.margin).mean()
        low, high = tested[-1].predicted()
        at |= {"share_on_side": on_side, "predicted_low": low, "predicted_high": high}
        found.append(at)
    intervals = statistics.holm_intervals(tested, [row["margin"] for row in found])
    for row, estimate in zip(found, intervals, strict=True):
        row |= estimate._asdict()
        bounds = estimate.low, estimate.high
        row["verdict"] = statistics.verdict(*bounds, row["margin"], estimate.replicates)
    return _tidy(pd.DataFrame(found, columns=TEST))


def _named(rows: Rows, preset: str) -> list[dict]:
    """What names each arm in a row."""
    return [dict(zip(RUN, (preset, *arm))) for arm in rows.arms]


def _table(
    rows: Rows,
    metrics: Iterable[str],
    named: list[dict],
    *sides: list[int],
    subsets: int = 2,
    parts: Collection[str] = (WHOLE, *PARTS),
) -> list[dict]:
    """One row an arm, or a pair of arms, and each metric and subset that rests on a response."""
    found = []
    for metric in metrics:
        for key in (key for key in rows.where(metric, subsets) if key[4] in parts):
            values, responses = rows.of(key, *sides)
            numbers = *values.interval(), *values.predicted(), responses
            names = ("estimate", "low", "high", "replicates", "predicted_low", "predicted_high")
            columns = dict(zip((*names, "responses"), map(np.atleast_1d, numbers)))
            found += [
                name | dict(zip(AT, key)) | {column: x[i] for column, x in columns.items()}
                for i, name in enumerate(named)
                if not np.isnan(columns["estimate"][i])
            ]
    return found


def _sorted(rows: list[dict], keys: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*keys, *NUMBERS])
    return _tidy(frame.sort_values(keys, kind="stable"))


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the last bits, which depend on the order of summation, and without negative zeros."""
    floats = frame.select_dtypes("float").columns
    return frame.assign(**{name: frame[name].round(9) + 0.0 for name in floats})
