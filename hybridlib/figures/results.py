"""The tables of a preset, and what is looked up in them.

An arm is 'variant/reward' ('base/none', 'rl/rule'), as in contrasts.csv.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from scipy import stats

from hybridlib.config import PARAMETERS
from hybridlib.evaluation import statistics
from hybridlib.evaluation.statistics import DECIDED, interval_of_change
from hybridlib.figures.style import order_of
from hybridlib.store.errors import ParameterError
from hybridlib.store.paths import committed, local
from hybridlib.variants import REWARDS

# What a row of metrics.csv is pooled over, unless a figure says otherwise.
POOLED = {"task": "all", "split": "all", "language": "all", "part": "whole", "decoding": "sample"}
SPLITS = {
    "seen": "seen",
    "unseen_category": "unseen category",
    "unseen_attack": "unseen attack",
    "unseen_both": "both unseen",
}

EFFECT = ["claim", "metric", "contrast", "reward"]  # what names a row of verdicts.csv

# The arms that titles and sentences name; the figures show all.
MAIN = ("base/none", "rl/rule", "rl/model", "sft/none", "two_stage/model")
RL = ("rl/rule", "rl/model")


@dataclass(frozen=True)
class Results:
    """The tables of one preset: `folder` holds tables/ and figures/."""

    folder: Path
    _read: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def table(self, name: str) -> pd.DataFrame:
        """tables/NAME.csv, with a column `arm` where rows have a variant and a reward."""
        if name not in self._read:
            path = self.folder / "tables" / f"{name}.csv"
            # 'none' is a word of the tables, not a missing value
            frame = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
            if {"variant", "reward"} <= set(frame):
                frame["arm"] = frame.variant + "/" + frame.reward
            self._read[name] = frame
        return self._read[name]

    def has(self, name: str) -> bool:
        """Whether there is a table of that name: some belong to some presets only."""
        return (self.folder / "tables" / f"{name}.csv").exists()

    def arms(self, table: str = "metrics") -> list[str]:
        """The arms of a table, in the order of every figure."""
        return sorted(self.table(table).arm.unique(), key=order_of)

    def metric(self, name: str, **where: str) -> pd.DataFrame:
        """Rows of metrics.csv for one metric by arm: estimate, low, high, seeds, responses."""
        rows = select(self.table("metrics"), metric=name, **(POOLED | where)).set_index("arm")
        return rows.loc[sorted(rows.index, key=order_of)]

    def value(self, name: str, arm: str, **where: str) -> pd.Series:
        """One row of `metric`; KeyError where the preset has no such arm."""
        return self.metric(name, **where).loc[arm]

    def contrast(self, name: str, a: str, b: str, **where: str) -> pd.Series | None:
        """a - b paired by seed and prompt, whichever way round it is there; None if neither."""
        where = POOLED | where
        if where.pop("part") != "whole":
            return None  # contrasts.csv is about whole responses
        return _either_way(select(self.table("contrasts"), metric=name, **where), a, b)


def _either_way(rows: pd.DataFrame, a: str, b: str) -> pd.Series | None:
    """The row a - b, or b - a with its sign turned; None if neither is there."""
    for row in select(rows, a=a, b=b).itertuples():
        return pd.Series({"estimate": row.estimate, "low": row.low, "high": row.high})
    for row in select(rows, a=b, b=a).itertuples():
        return pd.Series({"estimate": -row.estimate, "low": -row.high, "high": -row.low})
    return None


def select(frame: pd.DataFrame, **where: str) -> pd.DataFrame:
    """Rows whose columns have these values."""
    mask = pd.Series(True, index=frame.index)
    for column, value in where.items():
        mask &= frame[column].eq(value)
    return frame[mask]


def load(preset: str, results: str = "") -> Results:
    """The results in the folder `results`, else the preset's local ones, else the committed."""
    for place in [Path(results)] if results else [local(preset), committed(preset)]:
        if (place / "tables" / "metrics.csv").exists():  # a sweep alone is no study
            return Results(place)
    command = f"make study PRESET={preset}"
    raise ParameterError(f"there are no tables of preset {preset!r}: run `{command}` first")


def extreme(results: Results, metric: str, lowest: bool = True, **where: str) -> str:
    """The trained arm, the control aside, with the lowest (highest) estimate; '' if none is."""
    rows = results.metric(metric, **where)
    rows = rows[~rows.variant.isin(["base", "rl_gold"])]
    if rows.empty:
        return ""
    return rows.estimate.idxmin() if lowest else rows.estimate.idxmax()


def direction(results: Results, metric: str, a: str, b: str, **where: str) -> int:
    """+1 if a is higher than b, -1 if lower, 0 if they are not told apart at 95%.

    By the paired contrast; where there is none, by intervals that do not touch (stricter).
    """
    row = results.contrast(metric, a, b, **where)
    if row is not None:
        return int(row.low > 0) - int(row.high < 0)
    first, second = results.value(metric, a, **where), results.value(metric, b, **where)
    return int(first.low > second.high) - int(first.high < second.low)


def rewards(results: Results) -> list[str]:
    """The rewards that pay some arm of the study, the control aside."""
    return [r for r in REWARDS if any(arm.endswith(f"/{r}") for arm in results.arms())]


def under(results: Results, reward: str) -> list[str]:
    """The arms to show under a reward: those that it pays, and those that neither reward pays."""
    return [arm for arm in results.arms() if arm.endswith((f"/{reward}", "/none", "/gold"))]


def holm(results: Results, metric: str, reward: str, a: str, b: str) -> pd.Series | None:
    """a - b over all splits, its interval Holm-adjusted, from hybrids.csv; None if not there."""
    rows = select(results.table("hybrids"), metric=metric, reward=reward, split="all")
    return _either_way(rows, a, b)


def prefilled(results: Results, start: str) -> pd.DataFrame:
    """Harm over all splits behind one beginning of a response (prefill.csv), by arm."""
    rows = select(results.table("prefill"), start=start, split="all").set_index("arm")
    return rows.loc[sorted(rows.index, key=order_of)]


def advised(results: Results) -> pd.DataFrame:
    """Rows of usage.csv that say what a form of asking changes."""
    rows = results.table("usage")
    return rows[rows.than.ne("none")]


def sweep_ranges(results: Results) -> pd.DataFrame:
    """Least and most harm (low, high) by parameter swept, over its values and both rewards."""
    rows = select(results.table("sweep"), metric="harm_rate")
    harm = rows.groupby("parameter", sort=False).estimate
    return pd.DataFrame({"low": harm.min(), "high": harm.max()})


def trained_by_rl(results: Results) -> list[str]:
    """Arms whose training was paid a reward: those with a proxy in training.csv."""
    frame = results.table("training")
    paid = set(frame[frame.proxy.notna()].arm)
    return [arm for arm in results.arms("training") if arm in paid]


def sides(results: Results) -> pd.DataFrame:
    """Rows of sensitivity.csv at the changed points at which there is a verdict, with `same`:
    whether the estimate lies on the side of its margin on which it lies in verdicts.csv.

    An effect that a change does not touch has no row: one of two arms that a parameter of training
    leaves as they were, to the last digit. Another base touches all.
    """
    table = results.table("sensitivity")
    default = table.default.astype(bool)
    unchanged = table[default].drop_duplicates(EFFECT).set_index(EFFECT).estimate
    at = table[table.verdict.isin(DECIDED) & ~default]
    moved = at.estimate.ne(at.join(unchanged.rename("unchanged"), on=EFFECT).unchanged)
    at = at[moved | at.parameter.map(PARAMETERS).isin(["base", "shares"])]
    here = results.table("verdicts").set_index(EFFECT)
    beyond = (here.estimate > here.margin).rename("here")
    rows = at.assign(beyond=at.estimate > at.margin).join(beyond, on=EFFECT).dropna(subset="here")
    return rows.assign(same=rows.beyond.eq(rows.here))


def same_side(results: Results) -> pd.DataFrame:
    """By effect: of those points (`size`), at how many it lies on the same side (`sum`)."""
    return sides(results).groupby(EFFECT).same.agg(["sum", "size"])


def smoothed(curve: pd.DataFrame | pd.Series) -> pd.DataFrame | pd.Series:
    """A training curve (rows: steps) as the mean over a tenth of its steps around each."""
    return curve.rolling(max(1, len(curve) // 10), center=True, min_periods=1).mean()


def training(results: Results) -> pd.DataFrame:
    """training.csv with `distance`, sqrt(KL(pi || base)), each run's KL smoothed over a tenth of
    its steps; NaN where it was not measured."""
    frame = results.table("training")
    if "kl" not in frame:
        return frame.assign(distance=float("nan"))
    kl = frame.groupby(["arm", "seed"]).kl.transform(smoothed)
    return frame.assign(distance=kl.clip(lower=0) ** 0.5)


def over_optimised(results: Results, arm: str) -> pd.DataFrame:
    """By seed: `peak`, the distance at which gold is highest, and `regret`, what of it is lost by
    the end (Gao et al., arXiv 2210.10760), gold smoothed over a tenth of the steps."""
    rows = select(training(results), arm=arm).dropna(subset=["gold", "distance"])
    found = {}
    for seed, run in rows.groupby("seed"):
        window = max(1, len(run) // 10)
        gold = run.gold.rolling(window, center=True, min_periods=window).mean().dropna()
        found[seed] = {
            "peak": run.distance[gold.idxmax()],
            "end": run.distance.iloc[-1],
            "regret": gold.max() - gold.iloc[-1],
        }
    return pd.DataFrame.from_dict(found, orient="index")


def change(results: Results, column: str, arm: str) -> tuple[float, float, float]:
    """(mean, low, high) over seeds of a training column: last tenth of its steps minus first."""
    frame = select(results.table("training"), arm=arm).dropna(subset=column)
    return interval_of_change(frame, column)


def totals(results: Results, column: str) -> pd.DataFrame:
    """A column of cost.csv, its phases summed: mean over seeds and 95% t interval by arm."""
    sums = results.table("cost").groupby(["arm", "seed"])[column].sum().unstack("seed")
    mean, count = sums.mean(axis=1), sums.count(axis=1)
    half = (sums.sem(axis=1) * stats.t.ppf(0.975, (count - 1).clip(lower=1))).fillna(0)
    low = (mean - half).clip(lower=0)
    return pd.DataFrame({"estimate": mean, "low": low, "high": mean + half})


def calibration() -> pd.DataFrame:
    """What was simulated of the intervals in use, at 5 and 10 seeds (tests/calibration.py)."""
    table = pd.read_csv(Path(statistics.__file__).with_name("calibration.csv"))
    return table[~table.check.str.startswith("left")]


def claims(results: Results) -> pd.Series:
    """One verdict a claim, all rewards together."""
    return select(results.table("claims"), reward="all").set_index("claim").verdict
