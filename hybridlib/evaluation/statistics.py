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
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

SEEDS_FOR_A_VERDICT = 5
ROUNDING = 1e-12  # equal values may be so far from their mean
DECIDED = ("supported", "refuted", "inconclusive")


class Estimate(NamedTuple):
    """An estimate, its interval and the seeds behind it; arrays if the values came in a batch."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    seeds: int | np.ndarray


class Contrast:
    """The mean of a, or of a minus b, over seeds x prompts; or the same of their gaps.

    Parameters
    ----------
    a_SP : (..., S, P) scores, NaN where there is no response.
    clusters_P : (P,) category of each prompt; if there is only one, each prompt is its own.
    b_SP : scores of the same seeds and prompts; a response without its partner is left out.
    gap_P : masks (P,) of unseen and seen prompts: a gap is the mean on those minus that on these.
    bounded : the values are in [0, 1].

    A contrast is NaN if one of its means has no response.

    Raises ValueError: shapes do not fit, or a bounded value is outside [0, 1].
    """

    def __init__(self, a_SP, clusters_P, b_SP=None, gap_P=None, bounded: bool = True):
        runs = np.broadcast_arrays(*(np.asarray(x, float) for x in (a_SP, b_SP) if x is not None))
        paired = ~np.isnan(runs).any(0)
        masks = [True] if gap_P is None else gap_P
        present = np.stack([paired & mask for _ in runs for mask in masks], axis=-3)
        values = np.stack([run for run in runs for _ in masks], axis=-3)
        if values.shape[-1] != len(clusters_P):
            raise ValueError(f"{values.shape[-1]} prompts, {len(clusters_P)} categories")
        filled = np.where(present, values, 0.0)
        if bounded and filled.size and not (filled.min() >= 0 and filled.max() <= 1):
            raise ValueError("values outside [0, 1]: not a rate, use bounded=False")
        self.bounded = bounded
        self.weights = np.outer((1.0, -1.0)[: len(runs)], (1.0, -1.0)[: len(masks)]).flatten()
        self.responses_K = present.sum((-2, -1))
        self.responses = self.responses_K.sum(-1)
        seeds_K = present.any(-1).sum(-1)
        self.seeds = seeds_K.min(-1)  # behind every mean
        run_K = np.repeat(np.arange(len(runs)), len(masks))
        with np.errstate(invalid="ignore", divide="ignore"):
            self.means_K = filled.sum((-2, -1)) / self.responses_K
            self.estimate = self.means_K @ self.weights
            self._variances(filled, present, np.asarray(clusters_P), seeds_K.astype(float), run_K)

    def _variances(self, filled, present, clusters_P, seeds_K, run_K) -> None:
        """Set variance_K of the means, and df and `pairing` of their weighted sum."""
        some = present.reshape(-1, len(clusters_P)).any(0)
        _, codes = np.unique(clusters_P, return_inverse=True)
        if np.unique(codes[some]).size < 2:
            codes = np.arange(len(codes))
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        # what each response, and each seed x category, contributes to the error of its mean
        n = self.responses_K[..., None, None]
        apart = filled - self.means_K[..., None, None]
        error_KSP = np.where(present & (np.abs(apart) > ROUNDING), apart, 0.0) / n
        error_KSC = np.add.reduceat(error_KSP[..., order], starts, axis=-1)
        size_KSC = np.add.reduceat(present[..., order] / n, starts, axis=-1)
        size_KS, size_KC = size_KSC.sum(-1), size_KSC.sum(-2)
        error_KS, error_KC = error_KSC.sum(-1), error_KSC.sum(-2)
        both_KSC = error_KSC - error_KS[..., None] * size_KC[..., None, :]
        both_KSC -= error_KC[..., None, :] * size_KS[..., None]

        categories_K = 1 / (size_KC**2).sum(-1)  # effective number: unequal sizes count for less
        by_seed, by_category = _bessel(seeds_K), _bessel(categories_K)
        fewest = seeds_K.min(-1)
        shrink = np.maximum(fewest - 1, 0) / (fewest + 1)
        shrink_KK = np.where(run_K[:, None] == run_K, 1.0, shrink[..., None, None])
        covariances = (
            _products(error_KS, by_seed) * shrink_KK,
            _products(error_KC, by_category),
            _products(both_KSC, by_seed * by_category),
            _products(error_KSP, np.ones_like(by_seed)),
        )
        w = self.weights
        of_means = [np.diagonal(c, axis1=-2, axis2=-1) for c in covariances]
        of_sum = [np.einsum("k,...kl,l->...", w, c, w) for c in covariances]
        self.variance_K, variance = (
            np.maximum(seed + category - both, independent)
            for seed, category, both, independent in (of_means, of_sum)
        )
        df = _satterthwaite(variance, of_sum, fewest - 1, categories_K.min(-1) - 1)
        clustered = variance > of_sum[-1]  # else it is that of independent responses
        self.df = np.where(clustered | (variance == 0), df, self.responses - 1)
        if self.bounded and len(w) > 1:  # one response may always differ
            variance = np.maximum(variance, 1 / np.maximum(self.responses_K.min(-1), 1) ** 2)
        apart = (self.variance_K * w**2).sum(-1)
        self.pairing = np.sqrt(np.where(apart > 0, variance / np.where(apart > 0, apart, 1), 1.0))

    def interval(self, level: float | np.ndarray = 0.95) -> Estimate:
        """Two-sided interval; `level` broadcasts against the batch."""
        level = np.asarray(level, dtype=float)[..., None]
        up = self.weights > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            t = special.stdtrit(self.df[..., None], (1 + level) / 2)
            below = above = t * np.sqrt(self.variance_K)
            if self.bounded:
                below, above = self._wilson(t)
            low, high = (
                self.estimate + sign * self.pairing * np.sqrt(((self.weights * x_K) ** 2).sum(-1))
                for sign, x_K in ((-1, np.where(up, below, above)), (1, np.where(up, above, below)))
            )
        if self.bounded:
            low = np.maximum(low, self.weights[~up].sum())
            high = np.minimum(high, self.weights[up].sum())
        return Estimate(self.estimate, low, high, self.seeds)

    def p_value(self, margin: float) -> float:
        """Two-sided p of estimate = margin, by inverting the interval (one contrast, no batch)."""
        a, b = 0.0, 1.0  # the margin is inside the interval at level 1 - a, outside at 1 - b
        for _ in range(50):
            middle = (a + b) / 2
            found = self.interval(1 - middle)
            a, b = (middle, b) if found.low <= margin <= found.high else (a, middle)
        return b

    def _wilson(self, t):
        """The distances from the means down and up to the bounds of Wilson's interval."""
        p, variance = self.means_K, self.variance_K
        spread = p * (1 - p)
        ok = (variance > 0) & (spread > 0)
        # the size of a simple random sample that would estimate each rate as precisely
        n = np.where(ok, spread / np.where(ok, variance, 1), self.responses_K)
        middle = (p + t**2 / (2 * n)) / (1 + t**2 / n)
        half = t / (1 + t**2 / n) * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
        # rounding must not put an estimate outside its interval
        below, above = p - np.maximum(middle - half, 0), np.minimum(middle + half, 1) - p
        return np.maximum(below, 0), np.maximum(above, 0)


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
    return 1 - steps[np.argsort(order)]


def holm_intervals(contrasts: Sequence[Contrast], margins: Sequence[float]) -> list[Estimate]:
    """Intervals of a family of contrasts, each tested against its margin."""
    levels = holm_levels(
        [one.p_value(margin) for one, margin in zip(contrasts, margins, strict=True)]
    )
    return [one.interval(level) for one, level in zip(contrasts, levels)]


def interval_of_change(frame: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """(mean, low, high) of the change in training: the last tenth of the steps minus the first.

    A t interval over seeds, NaN for one seed; the mean of none is NaN.

    Parameters
    ----------
    frame : columns seed, step and `column`.
    """
    wide = frame.pivot(index="seed", columns="step", values=column)
    tenth = max(1, wide.shape[1] // 10)
    by_seed = wide.iloc[:, -tenth:].mean(axis=1) - wide.iloc[:, :tenth].mean(axis=1)
    by_seed = by_seed.dropna()  # a seed without a value at an end says nothing of the change
    mean = by_seed.mean()
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
    found = set(verdicts) or {"descriptive"}
    order = ("descriptive", "refuted", "inconclusive", "supported")
    return next(verdict for verdict in order if verdict in found)


def _bessel(n):
    """n / (n - 1), and 0 where one unit says nothing about the spread of units."""
    several = n > 1 + 1e-9
    return np.where(several, n / np.where(several, n - 1, 1), 0.0)


def _products(error, scale_K):
    """The products of the errors of each pair of K, summed over all other axes, (..., K, K)."""
    scaled_KX = error.reshape(*scale_K.shape, -1) * np.sqrt(scale_K)[..., None]
    return scaled_KX @ scaled_KX.mT


def _satterthwaite(variance, parts, df_seed, df_category):
    """Degrees of freedom of a variance with parts for seeds, categories and both."""
    degrees = df_seed, df_category, df_seed * df_category
    some = [np.where(df > 1e-9, df, np.inf) for df in degrees]
    noise = sum(part**2 / df for part, df in zip(parts, some))
    fewest = np.minimum(some[0], some[1])
    return np.maximum(np.where(noise > 0, variance**2 / np.where(noise > 0, noise, 1), 0), fewest)
