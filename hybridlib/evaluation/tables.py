"""From responses to the tables of a results folder: metrics, classes, contrasts, verdicts.

'all' is pooled; `unseen` pools the three unseen splits. Rows name at most two of task, split and
language; in contrasts.csv, which has a row a pair, one. The order of rows and the format of numbers
are fixed: the same responses give the same bytes.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from hybridlib.evaluation import comparison, hypotheses, statistics
from hybridlib.evaluation.metrics import METRICS, POPULATIONS, WHOLE, Arm, Cube, Subset
from hybridlib.tasks.responses import CLASSES
from hybridlib.variants import VARIANTS, compares_hybrids

ASKED_FOR = ("accuracy", "harm_rate", "over_refusal_rate", "off_language_rate", "well_formedness")
RL = {name for name, variant in VARIANTS.items() if variant.method == "rl"}


def metrics(cube: Cube, preset: str) -> pd.DataFrame:
    """metrics.csv: every metric of every arm."""
    rows, arms = [], list(range(len(cube.arms)))
    for (name, metric), decoding in product(METRICS.items(), cube.decodings):
        population = POPULATIONS[metric.population](cube.prompts).to_numpy()
        for part, subset in product(metric.columns(), cube.subsets(population, metric.gap)):
            contrast, responses = cube.contrast(name, part, decoding, subset, arms)
            what = {
                "task": subset.task,
                "split": subset.split,
                "language": subset.language,
                "part": part,
                "decoding": decoding,
                "metric": name,
            }
            rows += _rows(
                contrast,
                responses,
                what,
                [
                    {"preset": preset, "variant": variant, "reward": reward}
                    for variant, reward in cube.arms
                ],
            )
    return _sorted(
        rows,
        ["preset", "variant", "reward", "task", "split", "language", "part", "decoding", "metric"],
    )


def classes(cube: Cube, preset: str) -> pd.DataFrame:
    """classes.csv: the share of each response class."""
    rows = []
    named = [
        {"preset": preset, "variant": variant, "reward": reward} for variant, reward in cube.arms
    ]
    for (kind, names), decoding in product(CLASSES.items(), cube.decodings):
        population = (cube.prompts.kind.eq(kind) & POPULATIONS["every"](cube.prompts)).to_numpy()
        for order, response_class in enumerate(names):
            values, counts = cube.shares(response_class, decoding)
            for subset in cube.subsets(population):
                there = subset.task_and_language(cube.prompts) & subset.in_split(cube.prompts)
                there &= population
                contrast = statistics.Contrast(
                    (1,), values[:, None, :, there], cube.clusters[there]
                )
                what = {
                    "task": subset.task,
                    "split": subset.split,
                    "language": subset.language,
                    "decoding": decoding,
                    "kind": kind,
                    "order": order,
                    "response_class": response_class,
                }
                rows += _rows(contrast, counts[..., there].sum((-2, -1)), what, named)
    frame = _sorted(
        rows,
        ["preset", "variant", "reward", "task", "split", "language", "decoding", "kind", "order"],
    )
    return frame.drop(columns="order").rename(columns={"estimate": "share"})[
        [
            "preset",
            "variant",
            "reward",
            "task",
            "split",
            "language",
            "decoding",
            "kind",
            "response_class",
            "share",
            "low",
            "high",
            "seeds",
            "responses",
        ]
    ]


def contrasts(cube: Cube, preset: str, claims: hypotheses.Hypotheses) -> pd.DataFrame:
    """contrasts.csv: every arm minus the base, and every pair that a hypothesis names."""
    pairs = _pairs(cube, claims)
    first, second = ([cube.arms.index(pair[side]) for pair in pairs] for side in (0, 1))
    rows = []
    for (name, metric), decoding in product(METRICS.items(), cube.decodings):
        population = POPULATIONS[metric.population](cube.prompts).to_numpy()
        for subset in cube.subsets(population, metric.gap, named=1) if pairs else ():
            contrast, responses = cube.contrast(name, WHOLE, decoding, subset, first, second)
            what = {
                "preset": preset,
                "metric": name,
                "task": subset.task,
                "split": subset.split,
                "language": subset.language,
                "decoding": decoding,
            }
            rows += _rows(
                contrast, responses, what, [{"a": "/".join(a), "b": "/".join(b)} for a, b in pairs]
            )
    return _sorted(rows, ["preset", "metric", "a", "b", "task", "split", "language", "decoding"])


def prefill(begun: pd.DataFrame, preset: str) -> pd.DataFrame:
    """prefill.csv: harm that the policy adds to each beginning of a response, by split."""
    rows = []
    for order, (start, responses) in enumerate(begun.groupby("start", sort=False)):
        cube = Cube(responses)
        arms = list(range(len(cube.arms)))
        for split in ("all", "seen", "unseen"):
            where = Subset("all", split, "all")
            contrast, count = cube.contrast("harm_rate", WHOLE, "sample", where, arms)
            what = {"order": order, "start": start, "split": split, "metric": "harm_rate"}
            rows += _rows(
                contrast,
                count,
                what,
                [
                    {"preset": preset, "variant": variant, "reward": reward}
                    for variant, reward in cube.arms
                ],
            )
    keys = ["preset", "variant", "reward", "order", "start", "split", "metric"]
    return _sorted(rows, keys).drop(columns="order")


def usage(asked: pd.DataFrame, preset: str) -> pd.DataFrame:
    """usage.csv: what is measured in each form of asking (`than` none), and by how much it differs
    from the prompts as they are asked elsewhere, by language."""
    cube = Cube(asked.assign(variant=asked.variant + "/" + asked.reward, reward=asked.form))
    order = {form: nth for nth, form in enumerate(asked.form.unique())}
    plain = next(iter(order))
    arms = list(range(len(cube.arms)))
    moved = [arm for arm in arms if cube.arms[arm][1] != plain]
    unmoved = [cube.arms.index((cube.arms[arm][0], plain)) for arm in moved]
    rows = []
    for metric, language in product(ASKED_FOR, ("all", *sorted(asked.language.unique()))):
        where = Subset("all", "all", language)
        for than, compared in (("none", (arms,)), (plain, (moved, unmoved))):
            contrast, count = cube.contrast(metric, WHOLE, "sample", where, *compared)
            what = {"than": than, "metric": metric, "language": language}
            rows += _rows(
                contrast,
                count,
                what,
                [
                    {
                        "preset": preset,
                        "variant": variant,
                        "reward": reward,
                        "order": order[form],
                        "form": form,
                    }
                    for (variant, reward), form in (
                        (cube.arms[arm][0].split("/"), cube.arms[arm][1]) for arm in compared[0]
                    )
                ],
            )
    keys = ["preset", "variant", "reward", "order", "form", "than", "metric", "language"]
    return _sorted(rows, keys).drop(columns="order")


#: Tables of responses to prompts that were asked otherwise, by the stage that asked.
BESIDES = {"prefill": prefill, "usage": usage}


def verdicts(
    cube: Cube, cost: pd.DataFrame, claims: hypotheses.Hypotheses, control: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """verdicts.csv, exploratory.csv and claims.csv.

    Holm runs over all tests of the first, and apart over those of the second. Tests whose arms were
    not run are left out. claims.csv holds one verdict a claim and reward, and one a claim ('all')
    where all its rewards were run. Where the control fails, no test with RL in it gets a verdict,
    that of compute aside: its rows are descriptive.
    """
    primary = _tests(cube, cost, [(c.claim, half) for c in claims.claims for half in c.halves])
    asked = _tests(cube, cost, [(c.claim, half) for c in claims.claims for half in c.exploratory])
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
    """Whether RL paid by the oracle raised gold on its training prompts: interval above zero."""
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
    """Writes all tables of a results folder to `folder`.

    `at_budget` : responses of the policies as they were when they had cost their column `flops`.
    `besides` : responses by the stage of BESIDES that asked for them.
    """
    cube, claims = Cube(responses), hypotheses.load()
    verdict_rows, exploratory, decided = verdicts(cube, cost, claims, control_holds(training))
    run = ["variant", "reward", "seed"]
    tables = {
        "metrics": metrics(cube, preset),
        "classes": classes(cube, preset),
        "contrasts": contrasts(cube, preset, claims),
        "verdicts": verdict_rows,
        "exploratory": exploratory,
        "claims": decided,
        "training": _first(training, [*run, "step"]).sort_values([*run, "step"]),
        "cost": cost.sort_values(run, kind="stable"),
        "gate": gate,
        "learning_rates": learning_rates.sort_values([*run[:2], "learning_rate", "seed"]),
        "runs": _first(runs, ["run", *run, "stage"]).sort_values([*run, "stage", "run"]),
    }
    if compares_hybrids(variant for variant, _ in cube.arms):
        tables["hybrids"] = _tidy(comparison.pairs(cube))
    if at_budget is not None and len(at_budget):
        found = comparison.weighed(Cube(at_budget))
        tables["at_budget"] = _tidy(found).assign(flops=at_budget.flops.iloc[0])
    tables |= {stage: BESIDES[stage](rows, preset) for stage, rows in besides.items()}
    for name, frame in tables.items():
        write(frame, folder / f"{name}.csv")


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as results/ holds them: the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _pairs(cube: Cube, claims: hypotheses.Hypotheses) -> list[tuple[Arm, Arm]]:
    """Pairs (a, b) of arms that were run, each only one way round."""
    pairs = [
        (arm, ("base", "none"))
        for arm in cube.arms
        if arm[0] != "base" and ("base", "none") in cube.arms
    ]
    for claim in claims.claims:
        for half in (*claim.halves, *claim.exploratory):
            pairs += [pair for reward in half.rewards if (pair := _arms(cube.arms, half, reward))]
    kept: list[tuple[Arm, Arm]] = []
    for a, b in pairs:
        if (a, b) not in kept and (b, a) not in kept:
            kept.append((a, b))
    return kept


def _arms(arms: Iterable[Arm], half: hypotheses.Half, reward: str) -> tuple[Arm, Arm] | None:
    """The two arms of a half under a reward; a variant that no such reward pays has its own."""
    found = []
    for variant in half.variants:
        choices = [(variant, choice) for choice in (reward, "none", "gold")]
        found += [next((arm for arm in choices if arm in arms), None)]
    return None if None in found else (found[0], found[1])


def _tests(
    cube: Cube, cost: pd.DataFrame, halves: list[tuple[str, hypotheses.Half]]
) -> pd.DataFrame:
    """One row a half and reward, with Holm-adjusted intervals over all of them."""
    rows, tested = [], []
    for claim, half in halves:
        for reward in half.rewards:
            contrast = _test(cube, cost, half, reward)
            if contrast is not None:
                tested.append(contrast)
                rows.append(
                    {
                        "claim": claim,
                        "metric": half.metric,
                        "contrast": half.contrast,
                        "reward": reward,
                        "margin": half.margin,
                        "asks": half.asks,
                    }
                )
    found = statistics.holm_intervals(tested, [row["margin"] for row in rows])
    for row, estimate in zip(rows, found, strict=True):
        decided = statistics.verdict(estimate.low, estimate.high, row["margin"], estimate.seeds)
        row |= {
            "estimate": estimate.estimate,
            "low": estimate.low,
            "high": estimate.high,
            "seeds": estimate.seeds,
            "verdict": decided,
        }
    columns = [
        "claim",
        "metric",
        "contrast",
        "reward",
        "estimate",
        "low",
        "high",
        "margin",
        "seeds",
        "verdict",
        "asks",
    ]
    return _tidy(pd.DataFrame(rows, columns=columns))


def _test(
    cube: Cube, cost: pd.DataFrame, half: hypotheses.Half, reward: str
) -> statistics.Contrast | None:
    """The contrast of a half, or None where its arms were not run."""
    if half.metric == "log_flops":
        flops = cost.groupby(["variant", "reward", "seed"]).flops.sum()
        pair = _arms(set(flops.index.droplevel("seed")), half, reward)
        if pair is None:
            return None
        effect = (np.log(flops[pair[0]]) - np.log(flops[pair[1]])).dropna().to_numpy()
        contrast = statistics.Contrast((1,), effect[None, :, None], [0], bounded=False)
    else:
        pair = _arms(cube.arms, half, reward)
        if pair is None or half.decoding not in cube.decodings:
            return None
        a, b = (cube.arms.index(arm) for arm in pair)
        subset = Subset(half.task, half.split, half.language)
        contrast, _ = cube.contrast(half.metric, half.part, half.decoding, subset, a, b)
    return None if np.isnan(contrast.estimate) else contrast


def _rows(
    contrast: statistics.Contrast, responses: np.ndarray, what: dict, named: list[dict]
) -> list[dict]:
    """One row an element of a batch, without those that rest on nothing."""
    found = contrast.interval()
    columns = zip(named, found.estimate, found.low, found.high, found.seeds, responses, strict=True)
    return [
        {
            **name,
            **what,
            "estimate": estimate,
            "low": low,
            "high": high,
            "seeds": seeds,
            "responses": count,
        }
        for name, estimate, low, high, seeds, count in columns
        if not np.isnan(estimate)
    ]


def _sorted(rows: list[dict], keys: list[str]) -> pd.DataFrame:
    columns = [*keys, "estimate", "low", "high", "seeds", "responses"]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*columns, *(rows[0] if rows else ())])))
    return _tidy(frame.sort_values(keys, kind="stable"))


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the last bits, which hang on the order of summation, and without a negative zero."""
    floats = frame.select_dtypes("float").columns
    return frame.assign(**{name: frame[name].round(9) + 0.0 for name in floats})


def _first(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return frame[columns + [name for name in frame if name not in columns]]
