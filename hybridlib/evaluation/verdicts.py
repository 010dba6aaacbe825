"""What the claims come to: the effect of each test in each replicate, its interval, its verdict,
whether it hangs on a learning rate, and what of the recipe it depends on.

Tables of a study come in, tables go out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from hybridlib.evaluation import statistics
from hybridlib.evaluation.hypotheses import REACHED, Half, Hypotheses
from hybridlib.evaluation.metrics import WHOLE, Arm, Rows, arm_under, replicates_of
from hybridlib.evaluation.statistics import Replicates
from hybridlib.variants import VARIANTS

#: What names an effect.
EFFECT = ["claim", "metric", "contrast", "task", "split", "language", "reward"]
TEST = [*EFFECT, "estimate", "low", "high", "predicted_low", "predicted_high", "margin",
        "replicates", "share_on_side", "verdict", "fragile", "asks"]  # fmt: skip
RL = {name for name, variant in VARIANTS.items() if variant.method == "rl"}

Test = tuple[str, Half, str]  # (claim, half, reward)


@dataclass
class Measured:
    """What effects are computed from."""

    rows: Rows
    snapshots: pd.DataFrame  # snapshots.csv
    rates: pd.DataFrame  # learning_rates.csv
    curves: pd.DataFrame  # response_curves.csv


def arms_of(half: Half, reward: str, arms: Collection[Arm]) -> tuple[Arm, ...]:
    """The arms of a half under a reward; none if one of them was not run."""
    found = tuple(arm_under(reward, variant, arms) for variant in half.variants)
    return found if all(found) else ()


def effect(measured: Measured, half: Half, reward: str) -> pd.DataFrame:
    """The effect of a half in each replicate: `estimate` and `responses` by seed; empty if its arms
    were not run."""
    rows = measured.rows
    pair = arms_of(half, reward, rows.arms)
    if not pair:
        return pd.DataFrame(columns=["estimate", "responses"], dtype=float).rename_axis("seed")
    if half.metric == REACHED:
        return _cost_of_safety(measured, pair, half.level)
    positions = [rows.arms.index(arm) for arm in pair]
    key = (half.metric, half.task, half.split, half.language, WHOLE, "sample")
    if len(pair) == 2:
        values, counts = rows.differences(key, *positions)
    else:
        values, counts = (table[positions[0]] for table in rows.at(key))
    found = pd.DataFrame({"estimate": values, "responses": counts}, index=rows.seeds)
    return found.rename_axis("seed").dropna()


def flops_to(level: float, flops: Sequence[float], harm: Sequence[float]) -> tuple[float, bool]:
    """At how many FLOPs the harm rate of a run first is at most `level`, and whether it ever is.

    Between two snapshots it is taken to change linearly. A run that never gets there has all its
    FLOPs: it would take more.
    """
    for i, value in enumerate(harm):
        if value <= level:
            if i == 0:
                return float(flops[0]), True
            share = (harm[i - 1] - level) / (harm[i - 1] - value)
            return float(flops[i - 1] + share * (flops[i] - flops[i - 1])), True
    return float(flops[-1]), False


def _cost_of_safety(measured: Measured, pair: tuple[Arm, ...], level: float) -> pd.DataFrame:
    """log(FLOPs of a / FLOPs of b) to the harm level.

    A run that never gets there has too few: the effect is too small where a fails, too large where
    b does. Where neither gets there, or the base is there already, there is none.
    """
    rows, found = measured.rows, {}
    start, _ = rows.at(("harm_rate", "all", "all", "all", "whole", "sample"))
    base = rows.arms.index(("base", "none")) if ("base", "none") in rows.arms else None
    for i, seed in enumerate(rows.seeds):
        reached = []
        for variant, reward in pair:
            frame = measured.snapshots
            of = frame.variant.eq(variant) & frame.reward.eq(reward) & frame.seed.eq(seed)
            frame = frame[of].sort_values("step")
            if frame.empty:
                break
            first = start[base, i] if base is not None else frame.harm.iloc[0]
            reached.append(flops_to(level, [0.0, *frame.flops], [first, *frame.harm]))
        else:
            if any(there for _, there in reached) and all(cost > 0 for cost, _ in reached):
                costs = [np.log(cost) for cost, _ in reached]
                found[seed] = costs[0] - costs[1]
    frame = pd.DataFrame({"estimate": pd.Series(found, dtype=float)}).rename_axis("seed")
    return frame.assign(responses=np.nan)


def replicates(measured: Measured, tests: list[Test]) -> pd.DataFrame:
    """replicates.csv: the effect of each test in each replicate; without tests whose arms were not
    run. Two tests of one effect, against other margins, have it once."""
    found = {}
    for claim, half, reward in tests:
        at = _named(claim, half, reward)
        found[tuple(at.values())] = effect(measured, half, reward).reset_index().assign(**at)
    columns = [*EFFECT, "seed", "estimate", "responses"]
    return pd.concat(found.values(), ignore_index=True)[columns]


def _named(claim: str, half: Half, reward: str) -> dict:
    return {
        "claim": claim,
        "reward": reward,
        **half.model_dump(include={"metric", "contrast", "task", "split", "language"}),
    }


def verdicts(
    measured: Measured, claims: Hypotheses, control: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """verdicts.csv, exploratory.csv and claims.csv.

    Holm's correction is over all tests of verdicts.csv, and separately over those of
    exploratory.csv. Tests whose arms were not run are left out. claims.csv holds a verdict for each
    claim and reward, and one for the claim ('all') where all its rewards were run. If the positive
    control fails, tests with RL are descriptive, except that of compute.
    """
    primary, asked = (_tests(measured, claims.tests(p)) for p in ("halves", "exploratory"))
    if not control:
        for frame in (primary, asked):
            with_rl = frame.contrast.map(lambda pair: bool(RL & set(pair.split(" - "))))
            frame.loc[with_rl & frame.metric.ne(REACHED), "verdict"] = "descriptive"
    decided = []
    for claim in claims.claims:
        found = primary[primary.claim.eq(claim.claim)]
        rewards = sorted({reward for half in claim.halves for reward in half.rewards} - {"none"})
        rewards, words = rewards or ["none"], []
        for reward in rewards:
            halves = found[found.reward.isin([reward, "none"])]
            if len(halves) == len(claim.halves):  # else an arm was not run
                words.append(statistics.verdict_of_halves(halves.verdict))
                decided.append((claim.claim, reward, len(halves), words[-1]))
        if len(words) == len(rewards):  # no claim rests on one of two rewards
            overall = words[0] if len(set(words)) == 1 else "undecided"
            decided.append((claim.claim, "all", len(found), overall))
    frame = pd.DataFrame(decided, columns=["claim", "reward", "tests", "verdict"])
    return primary.drop(columns="asks"), asked, frame


def _tests(measured: Measured, tests: list[Test]) -> pd.DataFrame:
    """One row a test, with Holm-adjusted intervals over all of them."""
    found, tested, halves = [], [], []
    for claim, half, reward in tests:
        values = effect(measured, half, reward)
        if values.empty:
            continue
        if half.metric == REACHED:
            tested.append(Replicates(values.estimate))
        else:
            of = values.estimate, values.responses, len(half.variants)
            tested.append(replicates_of(half.metric, *of))
        halves.append((half, reward))
        low, high = tested[-1].predicted()
        found.append(
            _named(claim, half, reward)
            | {"margin": half.margin, "asks": half.asks}
            | {"share_on_side": (values.estimate > half.margin).mean()}
            | {"predicted_low": low, "predicted_high": high}
        )
    intervals = statistics.holm_intervals(tested, [row["margin"] for row in found])
    for row, estimate, (half, reward) in zip(found, intervals, halves, strict=True):
        row |= estimate._asdict()
        bounds = estimate.low, estimate.high
        row["verdict"] = statistics.verdict(*bounds, row["margin"], estimate.replicates)
        row["fragile"] = fragile(measured, half, reward, row["verdict"], row["estimate"])
    return pd.DataFrame(found, columns=TEST)


def fragile(
    measured: Measured, half: Half, reward: str, verdict: str, estimate: float
) -> bool | None:
    """Whether the estimate leaves the side of its verdict at another learning rate that is as good.

    It is moved by as much as the effect moves in the development replicates from the chosen rates
    to every pair of rates of the plateaus of its arms. None where these say nothing: no response
    curve, which are of both languages, or a verdict without a side.
    """
    sides = {
        "supported": lambda x: x > half.margin,
        "reversed": lambda x: x < -abs(half.margin),
        "negligible": lambda x: abs(x) < abs(half.margin),
    }
    if verdict not in sides or half.metric == REACHED or half.language != "all":
        return None
    arms, effects = arms_of(half, reward, measured.rows.arms), {}
    for at in product(*(_at_rates(measured, arm, half).items() for arm in arms)):
        rates, values = zip(*at)
        effects[rates] = (values[0] - values[1] if len(values) == 2 else values[0]).mean()
    chosen = effects.get(tuple(_chosen(measured, arm) for arm in arms), np.nan)
    moved = [estimate + effect - chosen for effect in effects.values()]
    said = [sides[verdict](effect) for effect in moved if not np.isnan(effect)]
    return not all(said) if said else None


def _chosen(measured: Measured, arm: Arm) -> float | None:
    """The chosen rate of an arm; None if it has none."""
    rates = measured.rates
    of = rates.variant.eq(arm[0]) & rates.reward.eq(arm[1]) & rates.chosen.astype(bool)
    return next(iter(rates[of].learning_rate), None)


def _at_rates(measured: Measured, arm: Arm, half: Half) -> dict[float | None, pd.Series]:
    """The metric of a half in the development replicates, at each rate of an arm's plateau; that of
    the base, which has no rate, once."""
    curves, rates = measured.curves, measured.rates
    at = curves.variant.eq(arm[0]) & curves.reward.eq(arm[1]) & curves.metric.eq(half.metric)
    there = curves[at & curves.task.eq(half.task) & curves.split.eq(half.split)]
    of = rates.variant.eq(arm[0]) & rates.reward.eq(arm[1]) & rates.plateau.astype(bool)
    if arm[0] == "base":
        return {None: there.set_index("seed").value}
    parts = there[there.learning_rate.isin(rates[of].learning_rate)].groupby("learning_rate")
    return {rate: rows.set_index("seed").value for rate, rows in parts}


def moderators(
    effects: pd.DataFrame, recipes: pd.DataFrame, drawn: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """moderators.csv: the change of each effect over the whole range of each drawn parameter.

    A linear regression of the effect in each replicate on all drawn parameters (statsmodels, robust
    errors HC3); intervals are 95%, and not adjusted: they are exploratory.
    """
    columns = [*EFFECT, "parameter", "slope", "low", "high"]
    if not drawn:
        return pd.DataFrame(columns=columns)
    import statsmodels.api as sm  # takes a second, which most notebooks can do without

    ranges = pd.DataFrame(drawn, index=["least", "most"])
    scaled = (recipes.set_index("seed")[list(drawn)] - ranges.loc["least"]) / (
        ranges.loc["most"] - ranges.loc["least"]
    )
    found = []
    for named, rows in effects.groupby(EFFECT, sort=False):
        rows = rows.set_index("seed")
        if len(rows) < len(drawn) + 3 or rows.estimate.nunique() < 2:
            continue
        given = sm.add_constant(scaled.loc[rows.index], has_constant="add")
        fitted = sm.OLS(rows.estimate, given).fit(cov_type="HC3", use_t=True)
        for name, (low, high) in fitted.conf_int().drop(index="const").iterrows():
            found.append((*named, name, fitted.params[name], low, high))
    return pd.DataFrame(found, columns=columns)
