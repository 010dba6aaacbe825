"""From responses to the tables of a results folder: metrics, classes, contrasts, verdicts.

'all' is pooled; `unseen` pools the three unseen splits. A row names at most two of task, split and
language; in contrasts.csv, which has a row for each pair of arms, at most one. The order of rows
and the format of numbers are fixed: the same responses give the same bytes.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from hybridlib.evaluation import comparison, hypotheses, statistics
from hybridlib.evaluation.metrics import METRICS, Arm, Cube, Metric, Subset, arm_under
from hybridlib.tasks.responses import CLASSES
from hybridlib.variants import VARIANTS, compares_hybrids

RUN = ["preset", "variant", "reward"]
WHERE = ["task", "split", "language"]
NUMBERS = ["estimate", "low", "high", "seeds", "responses"]
TEST = ["claim", "metric", "contrast", "reward", "estimate", "low", "high", "margin", "seeds",
        "verdict", "asks"]  # fmt: skip
#: What a curve of training may hold; of a run that samples nothing all but the first three is NaN.
CURVE = ("loss", "entropy", "zero_variance_groups", "proxy", "gold", "rule_satisfied", "harm",
         "off_language_en", "off_language_es", "target_language_share_en",
         "target_language_share_es", "tokens", "kl", "base_nll")  # fmt: skip
#: What is measured in each form of asking (usage.csv).
ASKED_FOR = ("accuracy", "harm_rate", "over_refusal_rate", "off_language_rate", "well_formedness")
RL = {name for name, variant in VARIANTS.items() if variant.method == "rl"}


def metrics(cube: Cube, preset: str) -> pd.DataFrame:
    """metrics.csv: every metric of every arm."""
    rows = []
    for (name, metric), decoding in product(METRICS.items(), cube.decodings):
        for part, subset in product(metric.columns(), cube.subsets(metric)):
            found = cube.contrast(metric, subset, part=part, decoding=decoding)
            at = vars(subset) | {"part": part, "decoding": decoding, "metric": name}
            rows += _rows(*found, _named(cube, preset), at)
    return _sorted(rows, [*RUN, *WHERE, "part", "decoding", "metric"])


def classes(cube: Cube, preset: str) -> pd.DataFrame:
    """classes.csv: the share of each response class, in the order of CLASSES."""
    rows = []
    for (kind, names), decoding in product(CLASSES.items(), cube.decodings):
        for metric in (Metric(kind, name) for name in names):
            for subset in cube.subsets(metric):
                found = cube.contrast(metric, subset, decoding=decoding)
                at = {"decoding": decoding, "kind": kind, "response_class": metric.column}
                rows += _rows(*found, _named(cube, preset), vars(subset) | at)
    found = _sorted(rows, [*RUN, *WHERE, "decoding", "kind"], ["response_class"])
    return found.rename(columns={"estimate": "share"})


def contrasts(cube: Cube, preset: str, claims: hypotheses.Hypotheses) -> pd.DataFrame:
    """contrasts.csv: every arm minus the base, and every pair that a hypothesis names."""
    pairs = _pairs(cube, claims)
    first, second = ([cube.arms.index(pair[side]) for pair in pairs] for side in (0, 1))
    named = [{"preset": preset, "a": "/".join(a), "b": "/".join(b)} for a, b in pairs]
    rows = []
    for (name, metric), decoding in product(METRICS.items(), cube.decodings):
        for subset in cube.subsets(metric, named=1) if pairs else ():
            found = cube.contrast(metric, subset, first, second, decoding=decoding)
            rows += _rows(*found, named, vars(subset) | {"metric": name, "decoding": decoding})
    return _sorted(rows, ["preset", "metric", "a", "b", *WHERE, "decoding"])


def prefill(begun: pd.DataFrame, preset: str) -> pd.DataFrame:
    """prefill.csv: the harm that the policy adds to each prefilled beginning, by split."""
    rows = []
    for start, responses in begun.groupby("start", sort=False):
        cube = Cube(responses)
        for split in ("all", "seen", "unseen"):
            found = cube.contrast(METRICS["harm_rate"], Subset(split=split))
            at = {"start": start, "split": split, "metric": "harm_rate"}
            rows += _rows(*found, _named(cube, preset), at)
    return _sorted(rows, RUN, ["start", "split", "metric"])


def usage(asked: pd.DataFrame, preset: str) -> pd.DataFrame:
    """usage.csv: metrics in each form of asking (`than` none), and their difference from the plain
    form, by language."""
    cube = Cube(asked.assign(variant=asked.variant + "/" + asked.reward, reward=asked.form))
    order = {form: nth for nth, form in enumerate(asked.form.unique())}
    plain = next(iter(order))
    named = [
        dict(zip(RUN, (preset, *arm.split("/")))) | {"order": order[form], "form": form}
        for arm, form in cube.arms
    ]
    arms = range(len(named))
    moved = [arm for arm in arms if cube.arms[arm][1] != plain]
    unmoved = [cube.arms.index((cube.arms[arm][0], plain)) for arm in moved]
    rows = []
    for metric, language in product(ASKED_FOR, ("all", *sorted(asked.language.unique()))):
        for than, compared in (("none", (list(arms),)), (plain, (moved, unmoved))):
            found = cube.contrast(METRICS[metric], Subset(language=language), *compared)
            at = {"than": than, "metric": metric, "language": language}
            rows += _rows(*found, [named[arm] for arm in compared[0]], at)
    keys = [*RUN, "order", "form", "than", "metric", "language"]
    return _sorted(rows, keys).drop(columns="order")


#: Tables of responses to prompts in other forms, by the stage that asked.
BESIDES = {"prefill": prefill, "usage": usage}
#: Tables that only some studies have; what an earlier study in the same folder left is removed.
OF_SOME = {"hybrids", "at_budget", "beside", "judges", "requests", "identifier", *BESIDES}


def verdicts(
    cube: Cube, cost: pd.DataFrame, claims: hypotheses.Hypotheses, control: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """verdicts.csv, exploratory.csv and claims.csv.

    Holm's correction is over all tests of verdicts.csv, and separately over those of
    exploratory.csv. Tests whose arms were not run are left out. claims.csv holds a verdict for each
    claim and reward, and one for the claim ('all') where all its rewards were run. If the positive
    control fails, tests with RL are descriptive, except that of compute.
    """
    primary, asked = (_tests(cube, cost, claims.tests(p)) for p in ("halves", "exploratory"))
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
            overall = verdicts[0] if len(set(verdicts)) == 1 else "inconclusive"
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
    responses: pd.DataFrame,
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
    at_budget : responses of the policies when they had cost their column `flops`.
    besides : responses by the stage of BESIDES that asked for them.
    """
    cube, claims = Cube(responses), hypotheses.load()
    run = ["variant", "reward", "seed"]
    steps = [*run, "step"]
    training = training.reindex(columns=[*dict.fromkeys([*steps, *training, *CURVE])])
    verdict_rows, exploratory, decided = verdicts(cube, cost, claims, control_holds(training))
    tables = {
        "metrics": metrics(cube, preset),
        "classes": classes(cube, preset),
        "contrasts": contrasts(cube, preset, claims),
        "verdicts": verdict_rows,
        "exploratory": exploratory,
        "claims": decided,
        "training": training.sort_values(steps),
        "cost": cost.sort_values(run, kind="stable"),
        "gate": gate,
        "learning_rates": learning_rates.sort_values([*run[:2], "learning_rate", "seed"]),
        "runs": runs.sort_values([*run, "stage", "run"]),
    }
    if compares_hybrids(variant for variant, _ in cube.arms):
        tables["hybrids"] = _tidy(comparison.pairs(cube))
    if at_budget is not None and len(at_budget):
        found = comparison.weighed(Cube(at_budget))
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


def _pairs(cube: Cube, claims: hypotheses.Hypotheses) -> list[tuple[Arm, Arm]]:
    """Pairs (a, b) of arms that were run, each only one way round."""
    base = ("base", "none")
    pairs = [(arm, base) for arm in cube.arms if arm != base and base in cube.arms]
    tests = claims.tests() + claims.tests("exploratory")
    pairs += [pair for _, half, reward in tests if (pair := _arms(cube.arms, half, reward))]
    return list({frozenset(pair): pair for pair in reversed(pairs)}.values())


def _arms(arms: Collection[Arm], half: hypotheses.Half, reward: str) -> tuple[Arm, Arm] | None:
    """The two arms of a half under a reward, if both were run."""
    a, b = (arm_under(reward, variant, arms) for variant in half.variants)
    return (a, b) if a and b else None


def _tests(
    cube: Cube, cost: pd.DataFrame, tests: list[tuple[str, hypotheses.Half, str]]
) -> pd.DataFrame:
    """One row a test, with Holm-adjusted intervals over all of them."""
    rows, tested = [], []
    for claim, half, reward in tests:
        contrast = _test(cube, cost, half, reward)
        if contrast is not None:
            tested.append(contrast)
            at = {"claim": claim, "reward": reward}
            rows.append(at | half.model_dump(include={"metric", "contrast", "margin", "asks"}))
    found = statistics.holm_intervals(tested, [row["margin"] for row in rows])
    for row, estimate in zip(rows, found, strict=True):
        row |= estimate._asdict()
        bounds = estimate.low, estimate.high
        row["verdict"] = statistics.verdict(*bounds, row["margin"], estimate.seeds)
    return _tidy(pd.DataFrame(rows, columns=TEST))


def _test(
    cube: Cube, cost: pd.DataFrame, half: hypotheses.Half, reward: str
) -> statistics.Contrast | None:
    """The contrast of a half, or None where its arms were not run."""
    flops = cost.groupby(["variant", "reward", "seed"]).flops.sum()
    counted = half.metric == "log_flops"
    pair = _arms(set(flops.index.droplevel("seed")) if counted else cube.arms, half, reward)
    if not pair or (half.decoding not in cube.decodings and not counted):
        return None
    if counted:
        effect = (np.log(flops[pair[0]]) - np.log(flops[pair[1]])).dropna().to_numpy()
        contrast = statistics.Contrast(effect[:, None], [0], bounded=False)
    else:
        a, b = (cube.arms.index(arm) for arm in pair)
        metric, subset = METRICS[half.metric], Subset(half.task, half.split, half.language)
        contrast, _ = cube.contrast(metric, subset, a, b, half.part, half.decoding)
    return None if np.isnan(contrast.estimate) else contrast


def _named(cube: Cube, preset: str) -> list[dict]:
    """What names each arm in a row."""
    return [dict(zip(RUN, (preset, *arm))) for arm in cube.arms]


def _rows(
    contrast: statistics.Contrast, responses: np.ndarray, named: list[dict], at: dict
) -> list[dict]:
    """One row an element of a batch, without those that rest on no response."""
    return [
        name | at | dict(zip(NUMBERS, numbers))
        for name, *numbers in zip(named, *contrast.interval(), responses, strict=True)
        if not np.isnan(numbers[0])
    ]


def _sorted(rows: list[dict], keys: list[str], more: Sequence[str] = ()) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*keys, *more, *NUMBERS])
    return _tidy(frame.sort_values(keys, kind="stable"))


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the last bits, which depend on the order of summation, and without negative zeros."""
    floats = frame.select_dtypes("float").columns
    return frame.assign(**{name: frame[name].round(9) + 0.0 for name in floats})
