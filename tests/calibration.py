"""Does a 95% interval over replicates hold what it says, at this study's numbers?

A replicate's true rate is the population's, moved on the logit scale; its effect (a difference of
two rates) is the population's, moved by the standard deviations that were seen between bases (0.11
for C1, 0.17 for C5) and by none. Responses are right or wrong around the replicate's own rates, so
a value has the noise of its prompts, too. An interval is right if it holds the population's rate or
effect. `python tests/calibration.py` (some seconds) writes hybridlib/evaluation/calibration.csv,
which 07_verdicts shows, with the methods that were tried and left.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special
from scipy import stats as scipy_stats

from hybridlib.evaluation import statistics
from hybridlib.evaluation.statistics import Replicates

FILE = Path(statistics.__file__).with_name("calibration.csv")
REPLICATES = (5, 10, 24, 32)
PROMPTS = (32, 256)  # responses behind one value
SPREADS = (0.0, 0.3, 1.0)  # standard deviation of a replicate's rate, on the logit scale
BETWEEN = (0.0, 0.11, 0.17)  # standard deviation of a replicate's effect
RATES = (0.02, 0.1, 0.5, 0.9)
EFFECTS = (0.0, 0.05, 0.2)
MARGIN, TESTS = 0.05, 18  # of a rate; the primary tests under Holm's correction
NUMBER = 2000


def rates(rng: np.random.Generator, rate: float, spread: float, size: tuple) -> np.ndarray:
    """Replicates' true rates, whose mean is `rate`."""
    moved = rng.normal(0, spread, (*size, 1)) if spread else np.zeros((*size, 1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    at = np.linspace(-12, 12, 2001)
    means = special.expit(at[:, None] + spread * nodes) @ (weights / weights.sum())
    return special.expit(np.interp(rate, means, at) + moved[..., 0])


def observed(rng: np.random.Generator, truth: np.ndarray, prompts: int) -> np.ndarray:
    return rng.binomial(prompts, truth) / prompts


def drawn_rates(rng, replicates, prompts, spread, rate):
    truth = rates(rng, rate, spread, (NUMBER, replicates))
    return observed(rng, truth, prompts), rate


def drawn_effects(rng, replicates, prompts, between, effect):
    """Differences within replicates between a rate near 0.3 and one that is higher by `effect`."""
    low = rates(rng, 0.3, 0.3, (NUMBER, replicates))
    moved = rng.normal(effect, between, low.shape) if between else np.full(low.shape, effect)
    high = low + moved
    # What leaves [0, 1] is folded back, which moves the mean: the truth is that of what is drawn.
    high = np.clip(high, 0, 1)
    truth = (high - low).mean()
    return observed(rng, high, prompts) - observed(rng, low, prompts), truth


def holds(found, truth) -> np.ndarray:
    return (found.low <= truth + 1e-12) & (truth - 1e-12 <= found.high)


def rate(values, truth, prompts):
    return holds(Replicates(values, True, np.full(values.shape, prompts)).interval(), truth)


def t_of_rate(values, truth, prompts):
    """Left: Student's t, clipped."""
    return holds(Replicates(values).interval(), truth)


def wilson_of_responses(values, truth, prompts):
    """Left: Wilson's interval of all responses together, as if they were independent."""
    n = values.shape[-1] * prompts
    p = values.mean(-1)
    z = 1.959964
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return (low <= truth) & (truth <= high)


def difference(values, truth, prompts):
    return holds(Replicates(values, responses_S=np.full(values.shape, prompts)).interval(), truth)


def predicted(values, truth, prompts):
    """Whether the prediction interval of all replicates but one holds that one."""
    others = Replicates(values[..., 1:], responses_S=np.full(values[..., 1:].shape, prompts))
    low, high = others.predicted()
    return (low <= values[..., 0]) & (values[..., 0] <= high)


def decided(values, prompts, level) -> np.ndarray:
    found = Replicates(values, responses_S=np.full(values.shape, prompts)).interval(level)
    bounds = zip(found.low, found.high)
    return np.array([statistics.verdict(*b, MARGIN, values.shape[-1]) for b in bounds])


def false_verdict(values, truth, prompts):
    """A verdict that the truth does not bear, in a single test."""
    right = "supported" if truth > MARGIN + 1e-3 else "negligible"
    found = decided(values, prompts, 0.95)
    if abs(truth - MARGIN) < 5e-3:  # at the margin every verdict is false
        return found != "undecided"
    return (found != right) & (found != "undecided")


def supported(values, truth, prompts):
    """The decision of the hardest test of Holm's correction."""
    return decided(values, prompts, 1 - 0.05 / TESTS) == "supported"


Check = Callable[[np.ndarray, float, int], np.ndarray]
#: name -> (check, draw, spreads, truths)
CHECKS: dict[str, tuple[Check, Callable, tuple, tuple]] = {
    "coverage, rate": (rate, drawn_rates, SPREADS, RATES),
    "coverage, difference": (difference, drawn_effects, BETWEEN, EFFECTS),
    "coverage, prediction": (predicted, drawn_effects, BETWEEN, EFFECTS),
    "A/A, false verdicts": (false_verdict, drawn_effects, BETWEEN, (0.0, MARGIN)),
    "power, true difference 0.2": (supported, drawn_effects, BETWEEN[1:], (0.2,)),
    "left: rate, t": (t_of_rate, drawn_rates, SPREADS, RATES),
    "left: rate, all responses as one sample": (wilson_of_responses, drawn_rates, SPREADS, RATES),
}


def measure(name: str, replicates: int, rng_seed: int = 0) -> np.ndarray:
    """Share of simulations in which a check is true, one a design."""
    check, draw, spreads, truths = CHECKS[name]
    rng = np.random.default_rng([rng_seed, replicates])
    found = []
    for prompts, spread, truth in product(PROMPTS, spreads, truths):
        values, true = draw(rng, replicates, prompts, spread, truth)
        found.append(check(values, true, prompts).mean())
    return np.array(found)


def calibrate() -> pd.DataFrame:
    """The calibration table: measured is the mean over designs, with its 95% interval.

    `worst_tenth`: in a tenth of the designs the share is lower (A/A: higher) than this.
    """
    rows = []
    for name, replicates in product(CHECKS, REPLICATES):
        found = measure(name, replicates)
        nominal = {"A/A": 0.05, "power": np.nan}.get(name.partition(",")[0], 0.95)
        simulations = NUMBER * len(found)
        test = scipy_stats.binomtest(round(found.mean() * simulations), simulations)
        bounds = test.proportion_ci(method="wilson")
        worst = np.quantile(found, 0.9 if nominal < 0.5 else 0.1)
        rows.append((name, replicates, nominal, found.mean(), *bounds, worst, simulations))
    columns = ["check", "replicates", "nominal", "measured", "low", "high", "worst_tenth"]
    return pd.DataFrame(rows, columns=[*columns, "simulations"])


if __name__ == "__main__":
    table = calibrate()
    table.to_csv(FILE, index=False, float_format="%.4f")
    print(table.to_string(index=False))
