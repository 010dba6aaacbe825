"""Results that tests of figures and notebooks share: invented tables, written once a run."""

import fcntl
import os
from unittest import mock

import pytest
import synthetic

from hybridlib.figures.results import Results


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Write a folder of results if none of the workers of this run has done so."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def write(name: str, rates: dict | None = None, **options) -> Results:
        folder, part = shared / name, shared / f"{name}.part"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                with mock.patch.dict(synthetic.RATES, rates or {}):
                    synthetic.write_results(part, **options)
                part.rename(folder)
        return Results(folder)

    return write


@pytest.fixture(scope="session")
def results(once) -> Results:
    """Results of the default variants."""
    return once("default")


@pytest.fixture(scope="session")
def population(once) -> Results:
    """Results of three variants, nine replicates whose recipes are drawn; one is not competent."""
    runs = (("base", "none"), ("rl", "keyword"), ("rl", "model"), ("rl_gold", "gold"),
            ("sft", "none"))  # fmt: skip
    return once("population", seeds=9, runs=runs, drawn=True)


@pytest.fixture(scope="session")
def one_seed(once) -> Results:
    """Results of the default variants, one replicate of each."""
    return once("one_seed", seeds=1)


@pytest.fixture(scope="session")
def few(once) -> Results:
    """Results of three variants, two replicates of each."""
    return once("few", seeds=2, runs=(("base", "none"), ("rl", "keyword"), ("sft", "none")))


@pytest.fixture(scope="session")
def compared(once) -> Results:
    """Results of every variant, with sweeps."""
    runs = (*synthetic.RATES, *synthetic.HYBRIDS)
    return once("compared", synthetic.HYBRIDS, runs=runs, flops=True)


@pytest.fixture(scope="session")
def flipped(once) -> Results:
    """Results in which RL and SFT have changed places."""
    sft, rl = (synthetic.RATES[arm] for arm in (("sft", "none"), ("rl", "keyword")))
    swapped = {("rl", "keyword"): sft, ("rl", "model"): sft, ("sft", "none"): rl}
    runs = (("base", "none"), ("two_stage", "model"), *swapped)
    return once("flipped", swapped, runs=runs)


@pytest.fixture(scope="session")
def of_arms():
    """Results of some of the arms of a study: its tables without the rows of all others."""

    def kept(results: Results, arms: set[str]) -> Results:
        read = {}
        for path in (results.folder / "tables").iterdir():
            name = path.name.partition(".")[0]
            frame = results.table(name)
            for column in {"arm", "a", "b"} & set(frame):
                frame = frame[frame[column].isin(arms)]
            read[name] = frame
        return Results(results.folder, read)

    return kept
