"""Intervals, contrasts, corrections and verdicts.

One method for every number. Responses form an array of seeds x prompts. Every seed answers the same
prompts, and prompts come in categories, so seeds and categories are crossed sources of error. The
method has three steps, chosen by the simulation in tests/calibration.py, which compares others:

1. Variance of a mean: seeds + categories - seeds x categories (multiway clustering; Cameron,
   Gelbach, Miller 2011), at least that of independent responses, with Satterthwaite's degrees of
   freedom of the larger of the two.
2. Interval of a rate: Wilson's at the effective sample size that this variance implies, with t
   instead of z (as Korn and Graubard 1998). It is inside [0, 1] and has some width even if all
   responses agree. Interval of an unbounded mean: mean +- t standard errors.
3. Interval of a difference of means (or of gaps): the distances from each mean to its own bounds,
   squared and added (MOVER; Zou and Donner 2008), times the effect of pairing: the root of the
   ratio of the variance of the difference to the sum of the variances. The covariance of two runs
   over a few seeds is mostly noise and is shrunk by (S-1)/(S+1).

Bootstraps are left out on purpose. With so few seeds and categories they cover too little (90% to
94%, by kind), and a formula needs no random numbers.

Shape suffixes: K means in a contrast, S seeds, P prompts, C categories; `...` any batch of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import special

SEEDS_FOR_A_VERDICT = 5
DECIDED = ("supported", "refuted", "inconclusive")
VERDICTS = (*DECIDED, "descriptive")


@dataclass(frozen=True)
class Estimate:
    """An estimate and its interval; arrays where the values came in a batch."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    seeds: int | np.ndarray
    responses: int | np.ndarray


class Contrast:
    """A weighted sum of means over seeds x prompts.

    Parameters
    ----------
    weights_K : (1,) for a mean, (1, -1) for a difference, (1, -1, -1, 1) for one of two gaps.
    values_KSP : (..., K, S, P) scores, NaN where there is no response. Seeds and prompts are paired
        over K, so a mean over some of the prompts has NaN at the others.
    clusters_P : (P,) category of each prompt; if there is only one, each prompt is its own.
    bounded : the values are in [0, 1].
    runs_K : which run each mean comes from; by default each from its own.

    A contrast is NaN if one of its means has no response.

    Raises
    ------
    ValueError : shapes do not fit, or a bounded value is outside [0, 1].
    """

    def __init__(
        self,
        weights_K: Sequence[float],
        values_KSP,
        clusters_P,
        bounded: bool = True,
        runs_K: Sequence[int] | None = None,
    ):
        values = np.asarray(values_KSP, dtype=float)
        weights = np.asarray(weights_K, dtype=float)
        if values.ndim < 3 or values.shape[-3] != len(weights):
            raise ValueError(f"values of shape {values.shape} for {len(weights)} means")
        if values.shape[-1] != len(clusters_P):
            raise ValueError(f"{values.shape[-1]} prompts, {len(clusters_P)} categories")
        present = ~np.isnan(values)
        filled = np.where(present, values, 0.0)
        if bounded and filled.size and not (filled.min() >= 0 and filled.max() <= 1):
            raise ValueError("values outside [0, 1]: not a rate, use bounded=False")
        self.weights, self.bounded = weights, bounded
        self.runs_K = np.arange(len(weights)) if runs_K is None else np.asarray(runs_K)
        self.responses_K = present.sum((-2, -1))
        self.seeds_K = present.any(-1).sum(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.means_K = filled.sum((-2, -1)) / self.responses_K
            self._variances(filled, present, np.asarray(clusters_P))

    def _variances(self, filled, present, clusters_P) -> None:
        """Set variance_K of the means, and df and `pairing` of their weighted sum."""
        some = present.reshape(-1, len(clusters_P)).any(0)
        _, codes = np.unique(clusters_P, return_inverse=True)
        if np.unique(codes[some]).size < 2:
            codes = np.arange(len(codes))
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        # what each response, and each seed x category, contributes to the error of its mean
        n = self.responses_K[..., None, None]
        error_KSP = np.where(present, filled - self.means_K[..., None, None], 0.0) / n
        error_KSC = np.add.reduceat(error_KSP[..., order], starts, axis=-1)
        size_KSC = np.add.reduceat(present[..., order] / n, starts, axis=-1)
        size_KS, size_KC = size_KSC.sum(-1), size_KSC.sum(-2)
        error_KS, error_KC = error_KSC.sum(-1), error_KSC.sum(-2)
        both_KSC = error_KSC - error_KS[..., None] * size_KC[..., None, :]
        both_KSC -= error_KC[..., None, :] * size_KS[..., None]

        seeds = self.seeds_K.astype(float)
        categories = 1 / (size_KC**2).sum(-1)  # the effective number: unequal sizes count for less
        by_seed, by_category = _bessel(seeds), _bessel(categories)
        fewest = seeds.min(-1)
        shrink = np.maximum(fewest - 1, 0) / (fewest + 1)
        same_run = self.runs_K[:, None] == self.runs_K
        covariances = (
            _products(error_KS, by_seed) * np.where(same_run, 1.0, shrink[..., None, None]),
            _products(error_KC, by_category),
            _products(_flat(both_KSC), by_seed * by_category),
            _products(_flat(error_KSP), np.ones_like(by_seed)),
        )
        w = self.weights
        self.variance_K = _total(*(np.diagonal(c, axis1=-2, axis2=-1) for c in covariances))
        parts = [np.einsum("k,...kl,l->...", w, c, w) for c in covariances]
        variance = _total(*parts)
        df = _satterthwaite(variance, parts, fewest - 1, categories.min(-1) - 1)
        clustered = variance > parts[-1]  # else it is that of independent responses
        self.df = np.where(clustered | (variance == 0), df, self.responses - 1)
        if self.bounded and len(w) > 1:  # one response may always differ
            variance = np.maximum(variance, 1 / np.maximum(self.responses_K.min(-1), 1) ** 2)
        apart = (self.variance_K * w**2).sum(-1)
        self.pairing = np.sqrt(np.where(apart > 0, variance / np.where(apart > 0, apart, 1), 1.0))

    @property
    def estimate(self):
        """Weighted sum of the means, shape (...)."""
        return self.means_K @ self.weights

    def interval(self, level: float | np.ndarray = 0.95) -> Estimate:
        """Two-sided interval; `level` broadcasts against the batch."""
        level = np.asarray(level, dtype=float)[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            t = special.stdtrit(self.df[..., None], (1 + level) / 2)
            if self.bounded:
                below, above = self._wilson(t)
            else:
                below = above = t * np.sqrt(self.variance_K)
            up = self.weights > 0
            low = self.estimate - self._combine(np.where(up, below, above))
            high = self.estimate + self._combine(np.where(up, above, below))
        if self.bounded:
            low = np.maximum(low, self.weights[~up].sum())
            high = np.minimum(high, self.weights[up].sum())
        return Estimate(*map(_plain, (self.estimate, low, high, self.seeds, self.responses)))

    def p_value(self, margin: float) -> float:
        """Two-sided p of estimate = margin, by inverting the interval (one contrast, no batch)."""
        a, b = 0.0, 1.0  # the margin is inside the interval at level 1 - a, outside at 1 - b
        for _ in range(50):
            middle = (a + b) / 2
            found = self.interval(1 - middle)
            a, b = (middle, b) if found.low <= margin <= found.high else (a, middle)
        return b

    @property
    def seeds(self):
        """The number of seeds behind every mean."""
        return self.seeds_K.min(-1)

    @property
    def responses(self):
        """The number of responses in all means."""
        return self.responses_K.sum(-1)

    @cached_property
    def _effective_K(self):
        """The size of a simple random sample that would estimate each rate as precisely."""
        spread = self.means_K * (1 - self.means_K)
        ok = (self.variance_K > 0) & (spread > 0)
        return np.where(ok, spread / np.where(ok, self.variance_K, 1), self.responses_K)

    def _wilson(self, t):
        """The distances from the means down and up to the bounds of Wilson's interval."""
        p, n = self.means_K, self._effective_K
        middle = (p + t**2 / (2 * n)) / (1 + t**2 / n)
        half = t / (1 + t**2 / n) * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
        # rounding must not put an estimate outside its interval
        below, above = p - np.maximum(middle - half, 0), np.minimum(middle + half, 1) - p
        return np.maximum(below, 0), np.maximum(above, 0)

    def _combine(self, distance_K):
        return self.pairing * np.sqrt(((self.weights * distance_K) ** 2).sum(-1))


def interval(values_SP, clusters_P, level: float = 0.95, bounded: bool = True) -> Estimate:
    """Mean of (S, P) values with its interval; leading axes are a batch."""
    values = np.asarray(values_SP, dtype=float)[..., None, :, :]
    return Contrast((1,), values, clusters_P, bounded).interval(level)


def difference(a_SP, b_SP, clusters_P, bounded: bool = True) -> Contrast:
    """a - b of two means on the same seeds and prompts; a response without its partner is left
    out."""
    a, b = _both_present(a_SP, b_SP)
    return Contrast((1, -1), np.stack([a, b], axis=-3), clusters_P, bounded)


def gap(values_SP, unseen_P, seen_P, clusters_P, bounded: bool = True) -> Contrast:
    """Mean on unseen minus mean on seen prompts."""
    parts = [np.where(mask, values_SP, np.nan) for mask in (unseen_P, seen_P)]
    return Contrast((1, -1), np.stack(parts, axis=-3), clusters_P, bounded, runs_K=(0, 0))


def gap_contrast(a_SP, b_SP, unseen_P, seen_P, clusters_P, bounded: bool = True) -> Contrast:
    """[mean of a on unseen - on seen prompts] - [the same of b]; masks are (P,) booleans."""
    a, b = _both_present(a_SP, b_SP)
    parts = [np.where(mask, values, np.nan) for values in (a, b) for mask in (unseen_P, seen_P)]
    runs = (0, 0, 1, 1)
    return Contrast((1, -1, -1, 1), np.stack(parts, axis=-3), clusters_P, bounded, runs)


def holm_levels(p_values: Sequence[float], alpha: float = 0.05) -> np.ndarray:
    """The level of each hypothesis' interval that agrees with Holm's step-down decisions.

    With r of m rejected, the k-th smallest p (k <= r) gets 1 - alpha / (m - k + 1) and all others
    get 1 - alpha / (m - r): intervals at these levels exclude exactly the rejected margins.
    """
    p = np.asarray(p_values, dtype=float)
    steps = alpha / np.arange(len(p), 0, -1)
    order = np.argsort(p, kind="stable")
    failed = np.flatnonzero(p[order] > steps)
    if failed.size:
        steps[failed[0] :] = steps[failed[0]]
    levels = np.empty(len(p))
    levels[order] = 1 - steps
    return levels


def holm_intervals(
    contrasts: Sequence[Contrast], margins: Sequence[float], alpha: float = 0.05
) -> list[Estimate]:
    """Intervals of a family of contrasts, each tested against its margin."""
    p = [contrast.p_value(margin) for contrast, margin in zip(contrasts, margins, strict=True)]
    levels = holm_levels(p, alpha)
    return [contrast.interval(level) for contrast, level in zip(contrasts, levels, strict=True)]


def interval_of_change(frame: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """(mean, low, high) of the change in training: the last tenth of the steps minus the first.

    A t interval over seeds, NaN for one seed.

    Parameters
    ----------
    frame : columns seed, step and `column`.
    """
    wide = frame.pivot(index="seed", columns="step", values=column)
    tenth = max(1, wide.shape[1] // 10)
    by_seed = wide.iloc[:, -tenth:].mean(axis=1) - wide.iloc[:, :tenth].mean(axis=1)
    mean, half = by_seed.mean(), float("nan")
    if len(by_seed) > 1:
        half = special.stdtrit(len(by_seed) - 1, 0.975) * by_seed.sem()
    return mean, mean - half, mean + half


def verdict(low: float, high: float, margin: float, seeds: int) -> str:
    """The decision rule, for an effect with the sign of the claim."""
    if seeds < SEEDS_FOR_A_VERDICT:
        return "descriptive"
    if low > margin:
        return "supported"
    return "refuted" if high < margin else "inconclusive"


def verdict_of_halves(verdicts: Sequence[str]) -> str:
    """The verdict of a claim: supported if all its halves are, refuted if any is."""
    found = set(verdicts)
    if not found or "descriptive" in found:
        return "descriptive"
    if "refuted" in found:
        return "refuted"
    return "supported" if found == {"supported"} else "inconclusive"


def _bessel(n):
    """n / (n - 1), and 0 where one unit says nothing about the spread of units."""
    several = n > 1 + 1e-9
    return np.where(several, n / np.where(several, n - 1, 1), 0.0)


def _flat(array_KSX):
    return array_KSX.reshape(*array_KSX.shape[:-2], -1)


def _products(errors_KX, scale_K):
    """The sums over X of the products of each pair of K, (..., K, K)."""
    scaled = errors_KX * np.sqrt(scale_K)[..., None]
    return scaled @ np.swapaxes(scaled, -1, -2)


def _total(seed, category, both, independent):
    """Variance from its parts; never below that of independent responses."""
    return np.maximum(seed + category - both, independent)


def _satterthwaite(variance, parts, df_seed, df_category):
    """Degrees of freedom of a variance with parts for seeds, categories and both."""
    degrees = df_seed, df_category, df_seed * df_category
    some = [np.where(df > 1e-9, df, np.inf) for df in degrees]
    noise = sum(part**2 / df for part, df in zip(parts, some))
    fewest = np.minimum(some[0], some[1])
    return np.maximum(np.where(noise > 0, variance**2 / np.where(noise > 0, noise, 1), 0), fewest)


def _both_present(a_SP, b_SP):
    a, b = np.asarray(a_SP, dtype=float), np.asarray(b_SP, dtype=float)
    absent = np.isnan(a) | np.isnan(b)
    return np.where(absent, np.nan, a), np.where(absent, np.nan, b)


def _plain(x):
    """A Python number where there is no batch."""
    return x.item() if np.ndim(x) == 0 else x
