"""Intervals over replicates and verdicts against scipy, statsmodels and simulation."""

import calibration
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from hybridlib.evaluation import statistics
from hybridlib.evaluation.statistics import Replicates

settings.register_profile("no deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("no deadline")

VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=40)


@given(VALUES, st.sampled_from([0.5, 0.95, 0.99]))
def test_the_interval_of_a_difference_is_scipys_t(values, level):
    found = Replicates(values).interval(level)
    if np.ptp(values) == 0:  # scipy has no interval of these
        assert found.low == pytest.approx(found.high) == pytest.approx(values[0])
        return
    wanted = scipy_stats.ttest_1samp(values, 0).confidence_interval(level)
    assert found[:3] == pytest.approx((np.mean(values), *wanted))


@given(VALUES, st.integers(0, 2**32 - 1))
def test_missing_replicates_and_batches_change_nothing(values, rng_seed):
    rng = np.random.default_rng(rng_seed)
    padded = np.insert(np.array(values), rng.integers(0, len(values), 3), np.nan)
    one, other = Replicates(values).interval(), Replicates(padded).interval()
    assert other == pytest.approx(one) and one.replicates == len(values)
    batch = Replicates(np.stack([padded, padded[::-1]])).interval()
    assert np.allclose(batch.low, one.low) and batch.estimate.shape == (2,)


@given(st.floats(0.05, 0.95), st.integers(6, 40), st.integers(1, 500))
def test_wilsons_interval_where_replicates_vary_as_one_sample_would(rate, replicates, prompts):
    """With the variance of independent responses and z for t it is statsmodels' interval."""
    error = np.sqrt(rate * (1 - rate) / (replicates * prompts))
    values = np.full(replicates, rate)
    spread = error * np.sqrt(replicates)  # the standard deviation that gives this error
    values[::2] += spread
    values[1::2] -= spread
    if replicates % 2 or not (values.min() >= 0 and values.max() <= 1):
        return
    found = Replicates(values, rate=True)
    scale = found.error / error  # n - 1 in the variance of a sample
    size = replicates * prompts / scale**2
    level = 2 * scipy_stats.norm.cdf(scipy_stats.t.ppf(0.975, replicates - 1)) - 1
    wanted = proportion_confint(rate * size, size, 1 - level, "wilson")
    assert found.interval()[1:3] == pytest.approx(wanted, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(1, 300))
def test_a_rates_interval_holds_the_rate_and_stays_inside(values, prompts):
    found = Replicates(values, True, np.full(len(values), prompts)).interval()
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    mirrored = Replicates(1 - np.array(values), True, np.full(len(values), prompts)).interval()
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_rates_that_all_agree_leave_some_doubt():
    found = Replicates(np.zeros(24), True, np.full(24, 256)).interval()
    assert found.low == 0 and 0 < found.high < 0.01


def test_a_difference_where_all_agree_is_as_wide_as_one_response():
    found = Replicates(np.zeros(10), responses_S=np.full(10, 100)).interval()
    assert found.high == pytest.approx(scipy_stats.t.ppf(0.975, 9) / 1000)


def test_one_replicate_has_no_interval_and_none_no_mean():
    found = Replicates([0.3], rate=True).interval()
    assert found.estimate == 0.3 and np.isnan([found.low, found.high]).all()
    assert np.isnan(Replicates([np.nan, np.nan]).estimate)
    assert np.isnan(Replicates([0.3]).predicted()).all()


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=20))
def test_prediction_is_of_one_further_replicate(values):
    """The closed form of a t prediction interval."""
    low, high = Replicates(values).predicted()
    half = scipy_stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)
    half *= np.sqrt(1 + 1 / len(values))
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_a_difference_stays_within_its_limit():
    found = Replicates([0.9, 1.0, 0.5], limit=1.0)
    assert found.interval().high == 1.0 and found.predicted()[1] == 1.0


def test_what_is_no_rate_is_refused():
    with pytest.raises(ValueError, match="no rate"):
        Replicates([0.2, 1.5], rate=True)


# --- decisions ----------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-0.4, 0.4), min_size=5, max_size=20),
    st.sampled_from([0.0, 0.05, -0.05]),
    st.floats(0.001, 0.5),
)
def test_p_is_the_least_alpha_of_a_verdict(values, margin, alpha):
    """By inverting the interval: at any alpha above p there is a verdict, below it none."""
    if np.ptp(values) < 1e-6:
        return
    found = Replicates(values)
    p = found.p_value(margin)
    if abs(p - alpha) < 1e-6:
        return
    at = found.interval(1 - alpha)
    said = statistics.verdict(at.low, at.high, margin, len(values))
    if margin < 0 and said == "undecided":  # worse by more than the margin, less than reversed
        said = "reversed" if at.high < margin else said
    assert (said != "undecided") == (p < alpha)


@pytest.mark.slow
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_levels_take_statsmodels_decisions(p, alpha):
    # an interval at level L leaves its margin out exactly if p < 1 - L
    decisions = np.array(p) <= 1 - statistics.holm_levels(p, alpha) + 1e-15
    np.testing.assert_array_equal(decisions, multipletests(p, alpha, method="holm")[0])


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_holm_intervals_decide_exactly_what_holm_rejects(rng_seed):
    rng = np.random.default_rng(rng_seed)
    tested = [Replicates(rng.normal(effect, 0.1, 8)) for effect in rng.choice([0, 0.1, 0.3], 8)]
    margins = rng.choice([0, 0.05], 8)
    p = [one.p_value(margin) for one, margin in zip(tested, margins)]
    found = statistics.holm_intervals(tested, margins)
    said = [statistics.verdict(e.low, e.high, m, 8) for e, m in zip(found, margins)]
    rejected = multipletests(p, 0.05, method="holm")[0]
    np.testing.assert_array_equal([word != "undecided" for word in said], rejected)


@pytest.mark.parametrize(
    ("low", "high", "margin", "replicates", "expected"),
    [
        (0.06, 0.2, 0.05, 5, "supported"),
        (0.05, 0.2, 0.05, 5, "undecided"),
        (-0.2, -0.06, 0.05, 5, "reversed"),
        (-0.2, 0.04, 0.05, 5, "undecided"),
        (-0.04, 0.04, 0.05, 5, "negligible"),
        (-0.05, 0.04, 0.05, 5, "undecided"),
        (0.01, 0.2, 0.0, 5, "supported"),
        (-0.2, -0.01, 0.0, 5, "reversed"),
        (-0.2, 0.1, 0.0, 5, "undecided"),
        (-0.04, 0.01, -0.05, 10, "supported"),
        (-0.2, -0.06, -0.05, 10, "reversed"),
        (-0.06, 0.01, -0.05, 10, "undecided"),
        (0.06, 0.2, 0.05, 4, "descriptive"),
        (np.nan, np.nan, 0.05, 5, "undecided"),
    ],
)
def test_decision_rule(low, high, margin, replicates, expected):
    assert statistics.verdict(low, high, margin, replicates) == expected


@pytest.mark.parametrize(
    ("halves", "expected"),
    [
        (["supported", "supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["supported", "reversed"], "reversed"),
        (["undecided", "negligible"], "negligible"),
        (["negligible", "reversed"], "reversed"),
        (["supported", "descriptive"], "descriptive"),
        ([], "descriptive"),
    ],
)
def test_halves(halves, expected):
    assert statistics.verdict_of_halves(halves) == expected


def test_the_change_in_training_is_of_the_last_tenth_against_the_first():
    frame = pd.DataFrame([(s, t, s + t / 10) for s in range(4) for t in range(20)])
    frame.columns = ["seed", "step", "x"]
    assert statistics.interval_of_change(frame, "x").estimate == pytest.approx(1.8)


# --- coverage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", calibration.RATES)
def test_the_simulation_has_the_rates_that_it_says(rate):
    drawn = calibration.rates(np.random.default_rng(0), rate, 1.0, (200_000,))
    assert drawn.mean() == pytest.approx(rate, abs=0.005)


def test_the_simulation_finds_a_method_that_covers_too_little():
    assert calibration.measure("left: rate, all responses as one sample", 10).mean() < 0.9


def test_the_recorded_calibration_is_within_its_target_and_this_codes():
    found = calibration.calibrate().set_index(["check", "replicates"])
    recorded = pd.read_csv(calibration.FILE).set_index(["check", "replicates"])
    assert (found.measured - recorded.measured).abs().max() < 1e-4
    for (name, replicates), measured in recorded.measured.items():
        if name.startswith("coverage"):
            assert 0.93 <= measured <= 0.97, (name, replicates)
        if name.startswith("A/A"):
            assert measured <= 0.05, replicates
    assert recorded.measured["power, true difference 0.2", 32] >= 0.8
