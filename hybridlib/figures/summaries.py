"""Tables that a reader sees: a row a variant or an effect, numbers as text with their intervals."""

from collections.abc import Mapping

import pandas as pd

from hybridlib.evaluation import hypotheses
from hybridlib.evaluation.statistics import DECIDED, SEEDS_FOR_A_VERDICT, interval_of_change
from hybridlib.evaluation.tables import control_holds
from hybridlib.figures import prose
from hybridlib.figures.prose import interval, join
from hybridlib.figures.results import (
    EFFECT,
    Results,
    difference,
    over_optimised,
    select,
    sides,
    totals,
    trained_by_rl,
)
from hybridlib.figures.style import label_of

Columns = Mapping[str, tuple[str, dict[str, str]]]  # heading -> (metric, where)
MAIN: Columns = {
    "harm, seen": ("harm_rate", {"split": "seen"}),
    "harm, both unseen": ("harm_rate", {"split": "unseen_both"}),
    "superficial refusals": ("superficial_refusal_rate", {}),
    "genuine refusals": ("genuine_refusal_rate", {}),
    "over-refusal": ("over_refusal_rate", {}),
    "language mixing": ("off_language_rate", {}),
    "accuracy, arithmetic": ("accuracy", {"task": "sums"}),
}
WEIGHED: Columns = {  # what hybrids.csv compares
    "harm": ("harm_rate", {}),
    "over-refusal": ("over_refusal_rate", {}),
    "accuracy": ("accuracy", {"task": "sums"}),
    "language mixing": ("off_language_rate", {}),
}


def rates(results: Results, columns: Columns = MAIN, arms: list[str] | None = None) -> pd.DataFrame:
    """A row an arm, a column a metric: rates with their 95% intervals."""
    found = {name: results.metric(metric, **where) for name, (metric, where) in columns.items()}
    rows = [
        {"variant": label_of(arm)}
        | {name: interval(m.loc[arm]) if arm in m.index else "" for name, m in found.items()}
        for arm in arms or results.arms()
    ]
    return pd.DataFrame(rows)


def changes(results: Results, columns: Mapping[str, str]) -> pd.DataFrame:
    """By arm trained by RL: how columns of training.csv (-> heading) changed from the first to the
    last tenth of the steps, with 95% t intervals over seeds."""
    frame = results.table("training")

    def change(arm: str, column: str) -> str:
        found = interval_of_change(select(frame, arm=arm).dropna(subset=column), column)
        return prose.difference(pd.Series(found, index=["estimate", "low", "high"]))

    return pd.DataFrame(
        {"variant": label_of(arm)} | {name: change(arm, c) for c, name in columns.items()}
        for arm in trained_by_rl(results)
    )


def regrets(results: Results) -> pd.DataFrame:
    """By arm: where along the way the ground-truth score peaks, and what of it is lost by the end,
    as means over seeds."""
    found = {label_of(arm): over_optimised(results, arm) for arm in trained_by_rl(results)}
    return pd.DataFrame(
        {
            "variant": arm,
            "distance at the peak": round(rows.peak.mean(), 2),
            "distance at the end": round(rows.end.mean(), 2),
            "regret": prose.percent(rows.regret.mean()),
            "seeds, least to most": " to ".join(
                map(prose.percent, (rows.regret.agg(["min", "max"])))
            ),
        }
        for arm, rows in found.items()
        if len(rows)
    )


def effects(results: Results, table: str = "verdicts") -> pd.DataFrame:
    """A row an effect of verdicts.csv or exploratory.csv, with its Holm-adjusted interval."""
    rows = [
        {
            "claim": row.claim,
            "effect": prose.effect(row),
            "estimate": prose.difference(row, digits=3),
            "margin": prose.signed(row.margin, 3),
            "verdict": row.verdict,
        }
        | ({"question": row.asks} if "asks" in row._fields else {})
        for row in results.table(table).itertuples()
    ]
    return pd.DataFrame(rows)


def reach(results: Results) -> pd.DataFrame:
    """A row an effect: its estimate here, its range over the changed points that touch it and give
    a verdict, and how often which verdict is given there, naming those that differ from here."""
    at, rows = sides(results).groupby(EFFECT), []
    for here in results.table("verdicts").itertuples():
        key = tuple(getattr(here, name) for name in EFFECT)
        if key not in at.groups:
            continue
        there = at.get_group(key)
        verdicts = {
            word: f"{word} at {len(points)}{'' if word == here.verdict else f' ({_named(points)})'}"
            for word, points in there.groupby("verdict")
        }
        rows.append(
            {
                "claim": here.claim,
                "effect": prose.effect(here),
                "here": f"{prose.signed(here.estimate, 2)}, {here.verdict}",
                "least": prose.signed(there.estimate.min(), 2),
                "most": prose.signed(there.estimate.max(), 2),
                "verdicts there": ", ".join(verdicts[w] for w in DECIDED if w in verdicts),
            }
        )
    return pd.DataFrame(rows)


def _named(points: pd.DataFrame) -> str:
    """'base seed 1, 2; hidden size 128': points by parameter."""
    values = points.groupby("parameter", sort=False).value
    told = (f"{n.replace('_', ' ')} {', '.join(map(str, v.unique()))}" for n, v in values)
    return "; ".join(told)


def margin() -> float:
    """By how much worse is still "not worse": the margin of the halves of C7."""
    (claim,) = (claim for claim in hypotheses.load().claims if claim.claim == "C7")
    return min(-half.margin for half in claim.halves)


def beaten(results: Results, reward: str, at_no_cost: bool = False) -> dict[str, list[str]]:
    """Each arm that was compared under a reward -> those that clearly do less harm.

    `at_no_cost`: and are shown not to be worse at over-refusal and accuracy, by `margin`. Intervals
    are Holm-adjusted over all pairs. Nothing is beaten on fewer than five seeds, or where the
    positive control fails.
    """
    table = select(results.table("hybrids"), reward=reward, split="all")
    arms = list(dict.fromkeys([*table.b, *table.a]))
    decided = table.seeds.min() >= SEEDS_FOR_A_VERDICT and control_holds(results.table("training"))

    def beats(a: str, b: str) -> bool:
        names = ("harm_rate", "over_refusal_rate", "accuracy")
        found = [difference(select(table, metric=name), a, b) for name in names]
        if not decided or any(row is None for row in found):
            return False
        harm, over_refusal, accuracy = found
        no_worse = over_refusal.high < margin() and accuracy.low > -margin()
        return harm.high < 0 and (no_worse or not at_no_cost)

    return {arm: [by for by in arms if beats(by, arm)] for arm in arms}


def choices(results: Results, reward: str) -> pd.DataFrame:
    """A row a variant under a reward, the least harm first: what it does, which variants beat it on
    harm, which of them at no cost, and what it costs as a multiple of `sft`."""
    on_harm, at_no_cost = (beaten(results, reward, free) for free in (False, True))
    harm = results.metric("harm_rate").estimate
    arms = sorted(on_harm, key=harm.get)
    frame = rates(results, WEIGHED, arms)
    for name, by in (("beaten on harm by", on_harm), ("of these, at no cost by", at_no_cost)):
        frame[name] = [join(other.partition("/")[0] for other in by[arm]) for arm in arms]
    return frame.merge(costs(results), on="variant", how="left")


def costs(results: Results) -> pd.DataFrame:
    """A row an arm: what its training took, as a multiple of `sft`."""
    frame = pd.DataFrame({"variant": map(label_of, results.arms("cost"))})
    for column, name in {"flops": "FLOPs", "seconds": "seconds"}.items():
        cost = totals(results, column).estimate
        base = cost.get("sft/none", float("nan"))
        frame[f"{name}, times sft"] = [f"{cost[arm] / base:.1f}" for arm in results.arms("cost")]
    return frame
