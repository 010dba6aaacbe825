"""Intervals over replicates, corrections and verdicts.

The unit is the replicate: a seed draws the base, what is unseen, the training data and the test
prompts anew, so replicates are independent, and so are their values: a rate, a mean, or a
difference of those within the replicate, which pairs by prompt. What is left is the mean of
independent numbers:

- of a difference or an unbounded mean: Student's t;
- of a rate: Wilson's interval at the size of a simple random sample that would be as precise, with
  t instead of z (Korn and Graubard 1998), which stays inside [0, 1] and has some width even where
  all replicates agree.

tests/calibration.py measures the coverage with the variance between bases that was seen.

Shape suffixes: S replicates (seeds); `...` any batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

FEWEST_FOR_A_VERDICT = 5
VERDICTS = ("supported", "reversed", "negligible", "undecided")


class Estimate(NamedTuple):
    """A mean, its interval and the number of replicates; arrays if the values came in a batch."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    replicates: int | np.ndarray


class Replicates:
    """The values of independent replicates.

    Parameters
    ----------
    values_S : (..., S), NaN where a replicate has none.
    rate : the values are rates, in [0, 1].
    responses_S : (..., S) responses behind each value; one of them may always differ, so no
        standard error is taken to be less than 1 / responses. None: values without responses.
    limit : a difference of rates lies between -limit and limit.

    Raises ValueError: a rate is outside [0, 1].
    """

    def __init__(
        self, values_S, rate: bool = False, responses_S=None, limit: float = np.inf
    ) -> None:
        values = np.asarray(values_S, dtype=float)
        there = ~np.isnan(values)
        if rate and not ((values[there] >= 0) & (values[there] <= 1)).all():
            raise ValueError("values outside [0, 1]: no rate")
        self.rate, self.limit = rate, limit
        self.replicates = there.sum(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.estimate = np.where(there, values, 0).sum(-1) / self.replicates
            squares = np.where(there, values - self.estimate[..., None], 0) ** 2
            self.variance = squares.sum(-1) / (self.replicates - 1)  # of a replicate
        self.variance = np.where(self.replicates > 1, self.variance, np.nan)
        least = 0.0
        if responses_S is not None:
            total = np.where(there, responses_S, 0).sum(-1)
            least = 1 / np.maximum(total, 1)
        self.error = np.maximum(np.sqrt(self.variance / np.maximum(self.replicates, 1)), least)

    def interval(self, level: float | np.ndarray = 0.95) -> Estimate:
        """Two-sided interval of the mean, NaN for one replicate; `level` broadcasts."""
        t = self._t(level)
        if self.rate:
            low, high = self._wilson(t)
        else:
            low, high = self.estimate - t * self.error, self.estimate + t * self.error
        return Estimate(self.estimate, *self._inside(low, high), self.replicates)

    def predicted(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one further replicate (Student's t)."""
        half = self._t(level) * np.sqrt(self.variance + self.error**2)
        return self._inside(self.estimate - half, self.estimate + half)

    def p_value(self, margin: float) -> float:
        """The least alpha at which the interval of a difference lies on one side of the margins:
        above both, below both, or between them (one contrast, no batch)."""
        nearest = min(abs(self.estimate - margin), abs(self.estimate + margin))
        if margin < 0:  # not worse by more than this: one limit
            nearest = abs(self.estimate - margin)
        if not self.error > 0:  # NaN for one replicate, of which there is no interval
            return float(not nearest or np.isnan(self.error))
        return float(2 * special.stdtr(self.replicates - 1, -nearest / self.error))

    def _t(self, level):
        with np.errstate(invalid="ignore"):
            df = np.where(self.replicates > 1, self.replicates - 1, np.nan)
            return special.stdtrit(df, (1 + np.asarray(level)) / 2)

    def _inside(self, low, high):
        if self.rate:
            return np.maximum(low, 0.0), np.minimum(high, 1.0)
        return np.maximum(low, -self.limit), np.minimum(high, self.limit)

    def _wilson(self, t):
        p = self.estimate
        spread = p * (1 - p)
        # Where all agree, the size that the least error implies.
        some = spread > 1e-12
        n = np.where(some, spread / self.error**2, 1 / np.maximum(self.error, 1e-12))
        middle = (p + t**2 / (2 * n)) / (1 + t**2 / n)
        half = t / (1 + t**2 / n) * np.sqrt(spread / n + t**2 / (4 * n**2))
        # Rounding must not put an estimate outside its interval.
        return np.minimum(middle - half, p), np.maximum(middle + half, p)


def holm_levels(p_values: Sequence[float], alpha: float = 0.05) -> np.ndarray:
    """The level of each hypothesis' interval that agrees with Holm's step-down decisions.

    With r of m rejected, the k-th smallest p (k <= r) gets 1 - alpha / (m - k + 1) and all others
    get 1 - alpha / (m - r): intervals at these levels exclude exactly the rejected margins.
    """
    p = np.asarray(p_values, dtype=float)
    steps = alpha / np.arange(len(p), 0, -1)
    order = np.argsort(p, kind="stable")
    failed = np.flatnonzero(~(p[order] <= steps))
    if failed.size:
        steps[failed[0] :] = steps[failed[0]]
    return 1 - steps[np.argsort(order)]


def holm_intervals(tested: Sequence[Replicates], margins: Sequence[float]) -> list[Estimate]:
    """Intervals of a family of differences, each tested against its margin."""
    levels = holm_levels([one.p_value(margin) for one, margin in zip(tested, margins, strict=True)])
    return [one.interval(level) for one, level in zip(tested, levels)]


def interval_of_change(frame: pd.DataFrame, column: str) -> Estimate:
    """The change in training, the last tenth of the steps minus the first, over replicates.

    Parameters
    ----------
    frame : columns seed, step and `column`.
    """
    wide = frame.pivot(index="seed", columns="step", values=column)
    tenth = max(1, wide.shape[1] // 10)
    change = wide.iloc[:, -tenth:].mean(axis=1) - wide.iloc[:, :tenth].mean(axis=1)
    return Replicates(change.to_numpy()).interval()


def verdict(low: float, high: float, margin: float, replicates: int) -> str:
    """The decision rule, for an effect with the sign of the claim.

    A negative margin asks whether an effect is not worse by more than that: supported, reversed or
    undecided.
    """
    if replicates < FEWEST_FOR_A_VERDICT:
        return "descriptive"
    if low > margin:
        return "supported"
    if high < -abs(margin):
        return "reversed"
    return "negligible" if -margin < low and high < margin else "undecided"


def verdict_of_halves(verdicts: Sequence[str]) -> str:
    """The verdict of a claim: supported if all its halves are, else the worst of them for it."""
    found = set(verdicts) or {"descriptive"}
    order = ("descriptive", "reversed", "negligible", "undecided", "supported")
    return next(verdict for verdict in order if verdict in found)
