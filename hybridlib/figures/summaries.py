"""Tables that a reader sees: a row a variant or an effect, numbers as text with their intervals."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from hybridlib.evaluation import comparison, hypotheses
from hybridlib.evaluation.statistics import FEWEST_FOR_A_VERDICT, VERDICTS, interval_of_change
from hybridlib.evaluation.tables import control_holds
from hybridlib.figures import prose
from hybridlib.figures import results as lookup
from hybridlib.figures.prose import interval, join
from hybridlib.figures.results import EFFECT, Results, by_arm, select
from hybridlib.figures.style import label_of, order_of

ENDS = ["low", "high"]
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


def rates(
    results: Results, columns: Columns = MAIN, arms: list[str] | None = None,
    told: Callable[[pd.Series], str] = interval,
) -> pd.DataFrame:  # fmt: skip
    """A row an arm, a column a metric: rates with their 95% intervals; empty where undefined."""
    found = {name: results.metric(metric, **where) for name, (metric, where) in columns.items()}
    return _intervals(found, results.arms() if arms is None else arms, told)


def across(rows: pd.DataFrame, column: str, names: Mapping[str, str]) -> pd.DataFrame:
    """A row an arm, a column each value of `column` that is named: rates with their intervals."""
    found = {name: by_arm(select(rows, **{column: value})) for value, name in names.items()}
    return _intervals(found, sorted(rows.arm.unique(), key=order_of), interval)


def _intervals(
    found: Mapping[str, pd.DataFrame], arms: Sequence[str], told: Callable[[pd.Series], str]
) -> pd.DataFrame:
    texts = {n: rows.apply(told, axis=1, result_type="reduce") for n, rows in found.items()}
    frame = pd.DataFrame(texts, index=arms, dtype=object).fillna("")
    return frame.rename(index=label_of).reset_index(names="variant")


def changes(results: Results, columns: Mapping[str, str]) -> pd.DataFrame:
    """By arm trained by RL: how columns of training.csv (-> heading) changed from the first to the
    last tenth of the steps, with 95% t intervals over seeds."""
    arms = lookup.trained_by_rl(results)
    frame = pd.DataFrame({"variant": map(label_of, arms)})
    runs = [select(results.table("training"), arm=arm) for arm in arms]
    for column, name in columns.items():
        found = [interval_of_change(run.dropna(subset=column), column) for run in runs]
        rows = pd.DataFrame(found, columns=["estimate", "low", "high"])
        frame[name] = [prose.difference(row) for row in rows.itertuples()]
    return frame


def regrets(results: Results) -> pd.DataFrame:
    """By arm, over seeds: the distance from the base at which the ground-truth score, smoothed over
    a tenth of the steps, is highest, the last distance, and the `regret`, what of the score is lost
    by then (Gao et al., arXiv 2210.10760): its mean, least and most."""
    frame, rows = lookup.training(results).dropna(subset=["gold", "distance"]), []
    for (arm, _), run in frame.groupby(["arm", "seed"]):
        window = max(1, len(run) // 10)
        gold = run.gold.rolling(window, center=True, min_periods=window).mean().dropna()
        peak, end = run.distance[gold.idxmax()], run.distance.iloc[-1]
        rows.append((arm, peak, end, gold.max() - gold.iloc[-1]))
    runs = pd.DataFrame(rows, columns=["arm", "peak", "end", "regret"]).groupby("arm")
    found = runs.mean().assign(least=runs.regret.min(), most=runs.regret.max())
    return by_arm(found.reset_index()).rename(index=label_of).reset_index(names="variant")


def claims(results: Results) -> pd.DataFrame:
    """A row a claim that was tested: what the paper says, the verdict, and that by reward."""
    frame = results.table("claims").pivot(index="claim", columns="reward", values="verdict")
    names = {"all": "verdict", "keyword": "keyword reward", "model": "reward model"}
    frame = frame[[name for name in names if name in frame]].rename(columns=names).fillna("")
    said = {claim.claim: claim.statement for claim in hypotheses.load().claims}
    frame.insert(0, "about", frame.index.map(prose.CLAIMS))
    frame.insert(1, "the paper says", frame.index.map(said))
    return frame.reset_index()


def effects(results: Results, table: str = "verdicts") -> pd.DataFrame:
    """A row an effect of verdicts.csv, exploratory.csv or beside.csv, Holm-adjusted intervals."""
    rows = results.table(table).rename(columns={"preset": "study", "asks": "question"})
    told = rows.assign(
        effect=[prose.effect(row) for row in rows.itertuples()],
        estimate=[prose.difference(row, digits=3) for row in rows.itertuples()],
        margin=[prose.signed(margin, 3) for margin in rows.margin],
    )
    # of these columns, those that the table has
    return told.filter(["claim", "effect", "study", "estimate", "margin", "verdict", "question"])


def reach(results: Results) -> pd.DataFrame:
    """A row an effect: its estimate and verdict here; over the changed points that touch it and
    give a verdict, the least and most, their number, at how many it is on the same side of its
    margin, and how often which verdict."""
    points = lookup.sides(results).groupby(EFFECT)
    found = points.estimate.agg(least="min", most="max", points="size")
    found["same side"] = points.same.sum()
    found[[*VERDICTS]] = points.verdict.value_counts().unstack().reindex(columns=VERDICTS)
    found = found.fillna(0).astype(dict.fromkeys(VERDICTS, int))
    rows = results.table("verdicts").join(found, on=EFFECT, how="inner")
    rows["effect"] = [prose.effect(row) for row in rows.itertuples()]
    return rows[["claim", "effect", "estimate", "verdict", *found]]


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
    ran = [tuple(arm.split("/")) for arm in results.arms()]
    arms = ["/".join(arm) for arm in comparison.compared(ran, reward)]
    table = select(results.table("hybrids"), reward=reward, split="all")
    decided = table.seeds.min() >= FEWEST_FOR_A_VERDICT and control_holds(results.table("training"))
    turned = table.assign(a=table.b, b=table.a, low=-table.high, high=-table.low)
    pairs = pd.concat([table, turned]).pivot(index=["a", "b"], columns="metric", values=ENDS)
    pairs = pairs.reindex(
        columns=pd.MultiIndex.from_product([ENDS, [m for m, _ in WEIGHED.values()]])
    )
    beats = decided & (pairs.high.harm_rate < 0)  # never where one of them is undefined
    if at_no_cost:
        beats &= (pairs.high.over_refusal_rate < margin()) & (pairs.low.accuracy > -margin())
    return {arm: [by for by in arms if beats.get((by, arm), False)] for arm in arms}


def choices(results: Results, reward: str) -> pd.DataFrame:
    """A row a variant under a reward, the least harm first: what it does, which variants beat it on
    harm, which of them at no cost, and what it costs as a multiple of `sft`."""
    on_harm, at_no_cost = (beaten(results, reward, free) for free in (False, True))
    harm = results.metric("harm_rate").estimate.reindex(list(on_harm))
    arms = list(harm.sort_values(kind="stable").index)
    frame = rates(results, WEIGHED, arms)
    for name, by in (("beaten on harm by", on_harm), ("of these, at no cost by", at_no_cost)):
        frame[name] = [join(other.partition("/")[0] for other in by[arm]) for arm in arms]
    return frame.merge(costs(results), on="variant", how="left")


def costs(results: Results, columns: Sequence[str] = ("flops", "seconds")) -> pd.DataFrame:
    """A row an arm: what its training took, as a multiple of `sft`."""
    arms = results.arms("cost")
    frame = pd.DataFrame({"variant": map(label_of, arms)})
    for column in columns:
        cost = lookup.totals(results, column).estimate
        if "sft/none" in cost:
            frame[f"{column}, times sft"] = [f"{cost[a] / cost['sft/none']:.1f}" for a in arms]
    return frame
