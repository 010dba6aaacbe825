"""Does a 95% interval hold what it says, at this study's seeds and categories?

Simulated responses are right or wrong (Bernoulli); the logit of their rate moves with the seed,
the category, both together and the prompt, by several sizes each, over rates from 2% to 98%.
Categories and prompts are drawn anew in every simulation, so an interval is right if it holds the
rate of the population. `python tests/calibration.py` (about a minute) writes
hybridlib/calibration.csv, which 07_verdicts shows, with the methods that were tried and left: it is
what `hybridlib.evaluation.statistics` was chosen by.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special
from scipy import stats as scipy_stats

from hybridlib.evaluation import statistics
from hybridlib.evaluation.statistics import Contrast, Estimate

FILE = Path(statistics.__file__).with_name("calibration.csv")
# Standard deviations on the logit scale: seed, category, seed x category, prompt.
EFFECTS = ((0, 0, 0, 0), (0.5, 0.5, 0, 0), (0.3, 1, 0.3, 1), (1, 0.3, 0.3, 0.5), (1, 1, 1, 1))
CATEGORIES = (5, 10, 25)
RATES = (0.02, 0.1, 0.5, 0.9, 0.98)
PAIRS = ((0.02, 0.02), (0.1, 0.02), (0.1, 0.1), (0.5, 0.4), (0.9, 0.2), (0.98, 0.9))
MARGIN, TESTS = 0.05, 18  # of a rate, and the primary tests of hypotheses.yaml
BEYOND = (0.1, 0.2, 0.3)  # true differences whose verdict should be "supported"
FROM = (0.1, 0.4, 0.65)  # the lesser of two rates
SHARED = 0.7  # of the variance of category and prompt effects, between two variants
SHARED_SEEDS = 0.3  # of the variance of seed effects: the same data in the same order


@dataclass(frozen=True)
class Design:
    """Seeds, and the category of each prompt: 4 to 20 prompts a category."""

    seeds: int
    clusters_P: np.ndarray
    effects: tuple[float, ...]

    @classmethod
    def of(cls, seeds: int, categories: int, effects: tuple[float, ...]) -> "Design":
        sizes = np.random.default_rng(categories).integers(4, 21, categories)
        return cls(seeds, np.repeat(np.arange(categories), sizes), effects)

    def draw(self, rates: tuple[float, ...], number: int, rng: np.random.Generator) -> np.ndarray:
        """(number, K, S, P) responses of K variants with such rates in the population."""
        c = self.clusters_P
        shape, categories = (number, len(rates), self.seeds), c.max() + 1
        seed, category, both, prompt = self.effects
        spread = np.sqrt(np.square(self.effects).sum())
        middle = np.array([_logit_of_mean(rate, spread) for rate in rates])[:, None, None]

        def normal(*axes: int, shared: float = 0.0) -> np.ndarray:
            own = rng.normal(size=(number, len(rates), *axes))
            return np.sqrt(shared) * rng.normal(size=(number, 1, *axes)) + np.sqrt(1 - shared) * own

        logit = middle + seed * normal(self.seeds, 1, shared=SHARED_SEEDS)
        logit = logit + category * normal(1, categories, shared=SHARED)[..., c]
        logit = logit + both * normal(self.seeds, categories)[..., c]
        logit = logit + prompt * normal(1, len(c), shared=SHARED)
        return (rng.random((*shape, len(c))) < special.expit(logit)).astype(float)


def _logit_of_mean(rate: float, spread: float) -> float:
    """m such that the mean of expit(m + spread * z) is `rate`, z standard normal."""
    z, weight = np.polynomial.hermite_e.hermegauss(60)
    grid = np.linspace(-12, 12, 4001)
    means = special.expit(grid[:, None] + spread * z) @ (weight / weight.sum())
    return float(np.interp(rate, means, grid))


def _designs(seeds: int, check: "Check") -> Iterator[Design]:
    halves = 2 if check is gap_difference else 1  # so many categories on either side of a gap
    for categories, effects in product(CATEGORIES, EFFECTS):
        yield Design.of(seeds, halves * categories, effects)


def holds(found: Estimate, truth: float) -> np.ndarray:
    """Whether each interval of a batch holds the truth, but for rounding."""
    return (found.low <= truth + 1e-9) & (truth - 1e-9 <= found.high)


# A check: (responses of one draw, rates, design) -> whether each simulation is as it should be.
Check = Callable[[np.ndarray, tuple[float, ...], Design], np.ndarray]


def rate(values, rates, design):
    """The interval of a rate."""
    return holds(Contrast(values[:, 0], design.clusters_P).interval(), rates[0])


def difference(values, rates, design):
    """The interval of a paired difference."""
    found = Contrast(values[:, 0], design.clusters_P, values[:, 1]).interval()
    return holds(found, rates[0] - rates[1])


def gap_difference(values, rates, design):
    """The interval of a difference of gaps; odd categories are unseen, no harder than seen ones."""
    unseen = design.clusters_P % 2 == 1
    a, b = values[:, 0], values[:, 1]
    return holds(Contrast(a, design.clusters_P, b, (unseen, ~unseen)).interval(), 0)


def same(values, rates, design):
    """A/A: two runs of one variant, margin 0; a false verdict is supported or refuted."""
    return ~difference(values, rates, design)


def supported(values, rates, design):
    """Power: the verdict at Holm's first and strictest step."""
    contrast = Contrast(values[:, 0], design.clusters_P, values[:, 1])
    return contrast.interval(1 - 0.05 / TESTS).low > MARGIN


def t_over_seeds(values, rates, design):
    """Left: t interval over the means of the seeds. Categories count as fixed."""
    means = values[:, 0].mean(-1)
    half = scipy_stats.t.ppf(0.975, design.seeds - 1) * scipy_stats.sem(means, axis=1)
    return np.abs(means.mean(1) - rates[0]) <= half


def t_two_way(values, rates, design):
    """Left: the variance of `stats`, but a symmetric t interval for a rate."""
    found = Contrast(values[:, 0], design.clusters_P, bounded=False).interval()
    return holds(found, rates[0])


def t_of_differences(values, rates, design):
    """Left: the same for a paired difference."""
    paired = values[:, 0] - values[:, 1]
    found = Contrast(paired, design.clusters_P, bounded=False).interval()
    return holds(found, rates[0] - rates[1])


def pigeonhole_percentile(values, rates, design):
    """Left: percentile bootstrap that resamples seeds and categories, each with replacement."""
    means, _ = _resampled(values[:, 0], design, resamples=400)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return (low <= rates[0]) & (rates[0] <= high)


def pigeonhole_t(values, rates, design):
    """Left: the same, bootstrap-t."""
    means, variances = _resampled(values[:, 0], design, resamples=400)
    contrast = Contrast(values[:, 0], design.clusters_P)
    mean, error = contrast.estimate, np.sqrt(contrast.variance_K[:, 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(variances > 0, (means - mean[:, None]) / np.sqrt(variances), 0.0)
    low, high = np.quantile(t, [0.025, 0.975], axis=1)
    return (mean - high * error <= rates[0]) & (rates[0] <= mean - low * error)


def _resampled(values_RSP, design, resamples):
    """Means of resamples and their two-way variances, both (R, resamples)."""
    rng = np.random.default_rng(0)
    starts = np.flatnonzero(np.diff(design.clusters_P, prepend=-1))
    sums = np.add.reduceat(values_RSP, starts, axis=-1)
    sizes = np.diff(np.append(starts, len(design.clusters_P))).astype(float)
    seeds, categories = sums.shape[1:]
    seed_B = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    category_B = rng.multinomial(categories, np.full(categories, 1 / categories), resamples)
    total = seeds * (category_B @ sizes)
    means = np.einsum("bs,rsc,bc->rb", seed_B, sums, category_B, optimize=True) / total
    # error of a cell of resample b: (sum - mean * size) / total; a cell drawn twice counts twice
    by_seed = (
        np.einsum("rsc,bc->rbs", sums, category_B)
        - means[..., None] * (category_B @ sizes)[:, None]
    )
    by_category = np.einsum("rsc,bs->rbc", sums, seed_B) - means[..., None] * seeds * sizes
    variances = (seed_B * by_seed**2).sum(-1) * seeds / (seeds - 1)
    variances += (category_B * by_category**2).sum(-1) * categories / (categories - 1)
    return means, variances / total**2


CHOSEN: dict[str, tuple[Check, tuple]] = {
    "coverage, rate": (rate, tuple((rate,) for rate in RATES)),
    "coverage, paired difference": (difference, PAIRS),
    "coverage, difference of gaps": (gap_difference, PAIRS),
    "A/A, false verdicts": (same, tuple((rate, rate) for rate in RATES)),
}
POWER: dict[str, tuple[Check, tuple]] = {
    f"power, true difference {beyond}": (supported, tuple((a + beyond, a) for a in FROM))
    for beyond in BEYOND
}
LEFT: dict[str, tuple[Check, tuple]] = {
    "left: rate, t over seeds": (t_over_seeds, CHOSEN["coverage, rate"][1]),
    "left: rate, two-way t": (t_two_way, CHOSEN["coverage, rate"][1]),
    "left: rate, pigeonhole percentile": (pigeonhole_percentile, CHOSEN["coverage, rate"][1]),
    "left: rate, pigeonhole t": (pigeonhole_t, CHOSEN["coverage, rate"][1]),
    "left: paired difference, two-way t": (t_of_differences, PAIRS),
}


def measure(check: Check, rates: tuple, seeds: int, number: int, rng_seed: int = 0) -> np.ndarray:
    """Share of `number` simulations in which a check is true, one a design and rate."""
    rng = np.random.default_rng([rng_seed, seeds])
    return np.array(
        [
            check(design.draw(chosen, number, rng), chosen, design).mean()
            for design in _designs(seeds, check)
            for chosen in rates
        ]
    )


def calibrate(checks: dict[str, tuple[Check, tuple]], number: int) -> pd.DataFrame:
    """The calibration table: measured is the mean over designs and rates, with its 95% interval.

    `worst_tenth`: in a tenth of the designs and rates the share is lower (A/A: higher) than this.
    """
    rows = []
    for (name, (check, rates)), seeds in product(checks.items(), (5, 10)):
        found = measure(check, rates, seeds, number)
        nominal = {"A/A": 0.05, "power": np.nan}.get(name.partition(",")[0], 0.95)
        simulations = number * len(found)
        test = scipy_stats.binomtest(round(found.mean() * simulations), simulations)
        bounds = test.proportion_ci(method="wilson")
        worst = np.quantile(found, 0.9 if nominal < 0.5 else 0.1)
        rows.append((name, seeds, nominal, found.mean(), *bounds, worst, simulations))
    columns = ["check", "seeds", "nominal", "measured", "low", "high", "worst_tenth", "simulations"]
    return pd.DataFrame(rows, columns=columns)


if __name__ == "__main__":
    table = pd.concat([calibrate(CHOSEN, 500), calibrate(POWER, 250), calibrate(LEFT, 250)])
    table.to_csv(FILE, index=False, float_format="%.4f")
    print(table.to_string(index=False))
