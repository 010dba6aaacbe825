"""The tables of a preset, and what is looked up in them.

An arm is 'variant/reward' ('base/none', 'rl/keyword'), as in contrasts.csv.
"""

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from scipy import stats

from hybridlib.evaluation import comparison, statistics
from hybridlib.figures.style import order_of
from hybridlib.store.errors import OneLineError, ParameterError
from hybridlib.store.paths import committed, local

# What a row of metrics.csv is pooled over, unless a figure says otherwise.
POOLED = {"task": "all", "split": "all", "language": "all", "part": "whole", "decoding": "sample"}
SPLITS = {
    "seen": "seen",
    "unseen_category": "unseen category",
    "unseen_attack": "unseen attack",
    "unseen_both": "both unseen",
    "undeclared": "undeclared",
}
LANGUAGES = {"en": "English", "es": "Spanish"}


class ResultsError(OneLineError, ValueError):
    """A file of results cannot be read: one line that names it."""

    @classmethod
    def of(cls, path: Path, error: Exception) -> "ResultsError":
        """The error of a file that raised `error`."""
        return cls(
            f"{path} cannot be read ({type(error).__name__}): restore it, or run the study again"
        )


@dataclass(frozen=True)
class Results:
    """The tables of one preset: `folder` holds tables/ and figures/."""

    folder: Path
    _read: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def table(self, name: str) -> pd.DataFrame:
        """tables/NAME.csv, or NAME.csv.gz; with a column `arm` where rows have a variant and a
        reward.

        Raises FileNotFoundError where the preset has no such table, ResultsError if it is none.
        """
        if name not in self._read:
            path = self._path(name)
            try:
                # 'none' is a word of the tables, not a missing value
                frame = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
            except FileNotFoundError:
                raise
            except (OSError, ValueError, EOFError, zlib.error) as error:
                raise ResultsError.of(path, error) from None
            if {"variant", "reward"} <= set(frame):
                frame["arm"] = frame.variant + "/" + frame.reward
            self._read[name] = frame
        return self._read[name]

    def _path(self, name: str) -> Path:
        plain = self.folder / "tables" / f"{name}.csv"
        return plain if plain.exists() else plain.with_suffix(".csv.gz")

    def has(self, name: str) -> bool:
        """Whether there is a table of that name: some belong to some presets only."""
        return self._path(name).exists()

    @property
    def preset(self) -> str:
        """The preset whose tables these are."""
        return self.table("metrics").preset.iloc[0]

    def arms(self, table: str = "metrics") -> list[str]:
        """The arms of a table, in the order of every figure."""
        return sorted(self.table(table).arm.unique(), key=order_of)

    def metric(self, name: str, **where: str) -> pd.DataFrame:
        """Rows of metrics.csv for one metric by arm: estimate, low, high, replicates, responses;
        and `each`, the values of the replicates, none where values.csv does not hold them."""
        where = POOLED | where
        rows = by_arm(select(self.table("metrics"), metric=name, **where))
        each: dict[str, list[float]] = {}
        if self.has("values") and (where["part"], where["decoding"]) == ("whole", "sample"):
            at = {column: where[column] for column in ("task", "split", "language")}
            found = select(self.table("values"), metric=name, **at)
            each = found.groupby("arm").value.agg(list).to_dict()
        return rows.assign(each=[each.get(arm, []) for arm in rows.index])


def by_arm(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows indexed by arm, in the order of every figure."""
    rows = rows.set_index("arm")
    return rows.loc[sorted(rows.index, key=order_of)]


def select(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """Rows whose columns have these values."""
    mask = pd.Series(True, index=frame.index)
    for column, value in where.items():
        mask &= frame[column].eq(value)
    return frame[mask]


def load(preset: str, results: str = "") -> Results:
    """The results in the folder `results`, else the preset's local ones, else the committed.

    Raises ParameterError where none of them is there.
    """
    for place in [Path(str(results))] if results else [local(preset), committed(preset)]:
        if (found := Results(place)).has("metrics"):  # a sweep alone is no study
            return found
    if results:
        raise ParameterError(f"results = {results!r}: there are no tables in this folder")
    command = f"make study PRESET={preset}"
    raise ParameterError(f"there are no tables of preset {preset!r}: run `{command}` first")


def rewards(results: Results) -> list[str]:
    """The rewards under which arms of the study are compared."""
    return comparison.rewards([arm.split("/") for arm in results.arms()])


def under(results: Results, reward: str) -> list[str]:
    """The arms to show under a reward: those trained by it, and those that have no choice of it."""
    return [arm for arm in results.arms() if arm.endswith((f"/{reward}", "/none", "/gold"))]


def trained_by_rl(results: Results) -> list[str]:
    """Arms that were trained by a reward: those with a proxy in training.csv."""
    rewarded = results.table("training").dropna(subset="proxy").arm
    return sorted(rewarded.unique(), key=order_of)


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


def snapshots(results: Results) -> pd.DataFrame:
    """snapshots.csv with `distance`, sqrt(KL(pi || base))."""
    frame = results.table("snapshots")
    return frame.assign(distance=frame.kl.clip(lower=0) ** 0.5)


def over_replicates(wide: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95% t interval of each row over its columns, one a replicate; NaN ends for one."""
    mean = wide.mean(axis=1)
    half = wide.sem(axis=1) * stats.t.ppf(0.975, wide.count(axis=1) - 1)
    return pd.DataFrame({"estimate": mean, "low": mean - half, "high": mean + half})


def totals(results: Results, column: str) -> pd.DataFrame:
    """A column of cost.csv, its phases summed: mean over replicates and 95% t interval by arm."""
    sums = results.table("cost").groupby(["arm", "seed"])[column].sum().unstack("seed")
    return over_replicates(sums).clip(lower=0).ffill(axis=1)  # of one: low = high = mean


def calibration() -> pd.DataFrame:
    """What was simulated of the intervals in use (tests/calibration.py)."""
    table = pd.read_csv(Path(statistics.__file__).with_name("calibration.csv"))
    return table[~table.check.str.startswith("left")]
