"""What tests of training share: a base of random weights, and models in float64."""

from pathlib import Path

import pytest
from tiny import save_random, tiny

from hybridlib.training import loading


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("base"), tiny(), scale=4.0)


@pytest.fixture
def double(monkeypatch):
    """Models in float64: what is the same in exact numbers then differs by less than 1e-9."""
    load = loading.load_base
    monkeypatch.setattr(loading, "load_base", lambda folder: load(folder).double())
