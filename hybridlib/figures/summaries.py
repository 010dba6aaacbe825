"""Tables that a reader sees: a row a variant or an effect, numbers as text with their intervals."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from hybridlib.evaluation import comparison, hypotheses
from hybridlib.evaluation.statistics import FEWEST_FOR_A_VERDICT, interval_of_change
from hybridlib.evaluation.tables import control_holds
from hybridlib.evaluation.verdicts import EFFECT, flops_to
from hybridlib.figures import prose
from hybridlib.figures import results as lookup
from hybridlib.figures.panels import LEVEL
from hybridlib.figures.prose import interval, join
from hybridlib.figures.results import Results, by_arm, select
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
    last tenth of the steps, with 95% t intervals over replicates."""
    arms = lookup.trained_by_rl(results)
    frame = pd.DataFrame({"variant": map(label_of, arms)})
    runs = [select(results.table("training"), arm=arm) for arm in arms]
    for column, name in columns.items():
        found = [interval_of_change(run.dropna(subset=column), column) for run in runs]
        rows = pd.DataFrame([one[:3] for one in found], columns=["estimate", "low", "high"])
        frame[name] = [prose.difference(row) for row in rows.itertuples()]
    return frame


def regrets(results: Results) -> pd.DataFrame:
    """By arm, over replicates: the distance from the base at which the ground-truth score, smoothed
    over a tenth of the steps, is highest, the last distance, and the `regret`, what of the score is
    lost by then (Gao et al., arXiv 2210.10760): its mean, least and most."""
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
    """A row an effect of verdicts.csv, exploratory.csv or beside.csv: Holm-adjusted intervals, the
    interval of a new replicate, and what of the recipe the effect depends on."""
    rows = results.table(table).rename(columns={"preset": "study", "asks": "question"})
    told = rows.assign(
        effect=[prose.effect(row) for row in rows.itertuples()],
        reward=rows.reward.map(prose.under),
        estimate=[_told(row) for row in rows.itertuples()],
        margin=[_margin(row) for row in rows.itertuples()],
    )
    if "fragile" in rows:
        told["new replicate"] = [_predicted(row) for row in rows.itertuples()]
        told["claimed side"] = [
            f"{row.share_on_side * row.replicates:.0f} of {row.replicates}"
            for row in rows.itertuples()
        ]
        told["fragile"] = rows.fragile.map({True: "fragile", False: "no"}).fillna("")
        told["depends on"] = [_depends(results, row) for row in rows.itertuples()]
    # of these columns, those that the table has
    return told.filter(
        ["claim", "effect", "reward", "study", "estimate", "margin", "verdict", "new replicate",
         "claimed side", "fragile", "depends on", "question"]
    )  # fmt: skip


def _told(row) -> str:
    """An effect with its interval: a ratio, or percentage points."""
    ends = pd.Series({"estimate": row.estimate, "low": row.low, "high": row.high})
    return prose.times(ends) if prose.is_ratio(row.metric) else prose.difference(100 * ends, 1)


def _margin(row) -> str:
    """What an effect must exceed, in the units of `_told`."""
    if prose.is_ratio(row.metric):
        return f"{np.exp(row.margin):.2g} times"
    return prose.signed(100 * row.margin)


def _predicted(row) -> str:
    """The interval in which a new replicate is expected; nothing of one replicate."""
    ends = pd.Series([row.predicted_low, row.predicted_high])
    if ends.isna().any():
        return ""
    if prose.is_ratio(row.metric):
        return "[{:.2g}, {:.2g}] times".format(*np.exp(ends))
    return f"[{', '.join(prose.signed(end) for end in 100 * ends)}]"


def _depends(results: Results, row) -> str:
    """The drawn parameters on which an effect depends: those whose slope excludes zero, with the
    change of the effect over their whole range."""
    named = {name: getattr(row, name) for name in EFFECT}
    slopes = select(results.table("moderators"), **named).rename(columns={"slope": "estimate"})
    clear = slopes[(slopes.low > 0) | (slopes.high < 0)].assign(metric=row.metric)
    return "; ".join(f"{at.parameter.replace('_', ' ')} {_told(at)}" for at in clear.itertuples())


def reached(results: Results, level: float = LEVEL) -> pd.DataFrame:
    """A row an arm: in how many replicates harm fell to a level, and the FLOPs until then (median
    of those). Harm at no FLOPs is that of the base."""
    base = select(results.table("values"), arm="base/none", metric="harm_rate", split="all")
    base = select(base, task="all", language="all").set_index("seed").value
    rows = []
    for arm in results.arms("snapshots"):
        runs = select(results.table("snapshots"), arm=arm).sort_values("step").groupby("seed")
        found = [
            flops_to(level, [0.0, *run.flops], [base.get(seed, run.harm.iloc[0]), *run.harm])
            for seed, run in runs
        ]
        spent = [flops for flops, there in found if there]
        said = prose.short(float(np.median(spent))) if spent else ""
        rows.append((label_of(arm), f"{len(spent)} of {len(found)}", said))
    return pd.DataFrame(rows, columns=["variant", f"fall to {level:.0%} harm", "FLOPs until then"])


def distances(results: Results) -> pd.DataFrame:
    """A row an arm: how far from the base it ended, and its harm there, with 95% intervals."""
    last = lookup.snapshots(results)
    last = last[last.step.eq(last.groupby(["arm", "seed"]).step.transform("max"))]
    found = {}
    for column, told in (("distance", prose.amount), ("harm", interval)):
        wide = last.pivot(index="arm", columns="seed", values=column)
        rows = lookup.over_replicates(wide).ffill(axis=1)
        found[column] = rows.apply(told, axis=1)
    frame = pd.DataFrame(found).loc[results.arms("snapshots")]
    return frame.rename(index=label_of).reset_index(names="variant")


def hacks(results: Results) -> pd.DataFrame:
    """A row an arm, a column a hack: in how many replicates it counts, its mean share and the
    highest; empty where it cannot occur."""
    rows = results.table("hacks")
    told = [
        f"{row.counts} of {row.replicates}: {prose.percent(row.share)} [{prose.percent(row.most)}]"
        for row in rows.itertuples()
    ]
    wide = rows.assign(told=told).pivot(index="arm", columns="hack", values="told").fillna("")
    wide = wide.loc[results.arms("hacks"), list(rows.hack.unique())]
    return wide.rename(index=label_of).reset_index(names="variant")


def by_place(results: Results, by: str) -> pd.DataFrame:
    """A row an attack or a category, a column an arm: harm in all splits in which it was asked."""
    rows = select(results.table("places"), by=by)
    summed = rows.assign(harm=rows.harm * rows.responses).groupby(["name", "arm"])
    sums = summed[["harm", "responses"]].sum()
    wide = (sums.harm / sums.responses).unstack().map(prose.percent)[results.arms("places")]
    counts = sums.responses.groupby("name").sum().rename("responses")
    frame = wide.rename(columns=label_of).join(counts).reset_index(names=by)
    return frame.fillna("")


def gates(results: Results) -> pd.DataFrame:
    """A row a check of competence: the least and the most over the bases, and how many pass."""
    checks = results.table("gate").groupby(["check", "language", "bound"], sort=False)
    found = checks.agg(least=("value", "min"), most=("value", "max"), passes=("passes", "sum"))
    return found.assign(bases=checks.size()).reset_index()


def chosen_rates(results: Results) -> pd.DataFrame:
    """A row an arm: the learning rate that was chosen, the ends of the plateau, the rates tried."""
    grid, arm = results.table("learning_rates"), ["variant", "reward"]
    chosen, plateau = (
        grid[grid[name].astype(bool)].groupby(arm, sort=False).learning_rate
        for name in ("chosen", "plateau")
    )
    found = chosen.agg(chosen="first").assign(
        **{"plateau from": plateau.min(), "to": plateau.max()}
    )
    found["rates tried"] = grid.groupby(arm, sort=False).learning_rate.nunique()
    rates = [name for name in found if name != "rates tried"]
    return found.assign(**{name: found[name].map(prose.short) for name in rates}).reset_index()


def margin() -> float:
    """By how much worse is still "not worse": the margin of the weaker reading of C7."""
    (claim,) = (claim for claim in hypotheses.load().claims if claim.claim == "C7")
    return min(-half.margin for half in claim.exploratory if half.margin < 0)


def beaten(results: Results, reward: str, at_no_cost: bool = False) -> dict[str, list[str]]:
    """Each arm that was compared under a reward -> those that clearly do less harm.

    `at_no_cost`: and are shown not to be worse at over-refusal and accuracy, by `margin`. Intervals
    are Holm-adjusted over all pairs. Nothing is beaten on fewer than five replicates, or where the
    positive control fails.
    """
    ran = [tuple(arm.split("/")) for arm in results.arms()]
    arms = ["/".join(arm) for arm in comparison.compared(ran, reward)]
    table = select(results.table("hybrids"), reward=reward, split="all")
    enough = table.replicates.min() >= FEWEST_FOR_A_VERDICT
    decided = enough and control_holds(results.table("training"))
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
