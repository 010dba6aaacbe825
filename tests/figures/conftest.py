"""Results that tests of figures share: invented tables, written once a session."""

from unittest import mock

import pytest
import synthetic

from hybridlib.figures.results import Results


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Results:
    """Results of the default variants."""
    return synthetic.write_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def one_seed(tmp_path_factory) -> Results:
    """Results of the default variants, one seed of each."""
    return synthetic.write_results(tmp_path_factory.mktemp("one_seed"), seeds=1)


@pytest.fixture(scope="session")
def compared(tmp_path_factory) -> Results:
    """Results of every variant, with sweeps."""
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        folder, runs = tmp_path_factory.mktemp("compared"), tuple(synthetic.RATES)
        return synthetic.write_results(folder, runs=runs, flops=True)


@pytest.fixture(scope="session")
def flipped(tmp_path_factory) -> Results:
    """Results in which RL and SFT have changed places."""
    sft = synthetic.RATES["sft", "none"]
    swapped = {
        ("rl", "rule"): sft,
        ("rl", "model"): sft,
        ("sft", "none"): synthetic.RATES["rl", "rule"],
    }
    runs = (("base", "none"), ("two_stage", "model"), *swapped)
    with mock.patch.dict(synthetic.RATES, swapped):
        return synthetic.write_results(tmp_path_factory.mktemp("flipped"), runs=runs)
