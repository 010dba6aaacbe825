"""What `make bench` does with its measurements; the timings themselves are no matter of tests."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny import save_random, tiny

from bench import bench
from hybridlib.__main__ import _parser
from hybridlib.config import load_config
from hybridlib.study import keys, stages


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    return tmp_path


def runs(shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Five seeds of both trainers, 20 steps, `ours` shifted."""
    rng = np.random.default_rng(seed)
    rows = [
        {"trainer": t, "seed": s, "step": step, "reward": rng.normal(shift * (t == "ours"), 0.1)}
        for t in bench.TRAINERS
        for s in range(5)
        for step in range(1, 21)
    ]
    return pd.DataFrame(rows).assign(length=lambda frame: frame.reward + 10)


@pytest.mark.parametrize("trainer", bench.TRAINERS)
def test_a_trainer_is_measured_step_by_step(trainer, tmp_path, monkeypatch):
    save_random(tmp_path / "model", tiny(), scale=4.0)
    bases = []

    def base(config, seed):
        bases.append(keys.base(config, seed).key)
        return tmp_path

    monkeypatch.setattr(stages, "base", base)
    setting = bench.Setting(prompts=4, tokens=8, dtype="float32", rounds=1, steps=1, group=4)
    monkeypatch.setitem(bench.SETTINGS, "organism", setting)
    found = bench._train("organism", trainer, seed=1, steps=2)
    # whatever the seed, the trainers are compared on one base
    assert bases == [keys.base(load_config("organism", max_completion=8, fresh_bases=True), 0).key]
    assert len(found["steps"]) == 2 and found["memory_mib"] > 0
    for step in found["steps"]:
        assert 0 < step["generation_seconds"] < step["seconds"]
        assert 4 * 4 <= step["tokens"] <= 4 * 4 * 8
        assert 0 < step["length"] <= 8


def test_the_ratios_are_those_of_rounds_and_of_tokens():
    """By hand: ours takes half the time of a step; of generation, a quarter a token."""
    columns = ["trainer", "round", "seconds", "generation_seconds", "tokens"]
    rows = [("stock", 0, 4, 2, 100), ("ours", 0, 2, 1, 200), ("stock", 1, 4, 2, 100),
            ("ours", 1, 2, 1, 200)]  # fmt: skip
    found = bench._ratios(pd.DataFrame(rows, columns=columns))
    assert found["step_ratio"] == {"min": 2.0, "median": 2.0, "max": 2.0}
    assert found["generation_ratio"] == {"min": 4.0, "median": 4.0, "max": 4.0}
    assert found["ours_tokens_per_second"] == {"generation": 200, "training": 200}


def test_bands_are_t_intervals_over_seeds():
    table = runs()
    band = bench.bands(table, "reward")
    assert len(band) == 2 * 20 / bench.CURVE["window"]
    rows = table[(table.trainer == "stock") & table.step.between(6, 10)]
    by_seed = rows.groupby("seed").reward.mean()
    low, high = stats.t.interval(0.95, 4, by_seed.mean(), stats.sem(by_seed))
    assert tuple(band.loc[("stock", 1)]) == pytest.approx((by_seed.mean(), low, high))


def test_curves_that_differ_are_said_to_differ(folder):
    far = bench.draw_curves(runs(shift=5.0))["inside_each_other"]
    assert far == {"reward": 0.0, "length": 0.0}
    near = bench.draw_curves(runs())["inside_each_other"]
    assert near["reward"] > 0.5
    same = runs()
    ours = same[same.trainer == "stock"].assign(trainer="ours")
    both = pd.concat([same[same.trainer == "stock"], ours])
    assert bench.draw_curves(both)["inside_each_other"] == {"reward": 1.0, "length": 1.0}
    assert (folder / "learning_curves.png").exists()


def test_a_part_keeps_what_other_parts_noted(folder):
    bench._note("study", {"cold_s": 2.0})
    bench._note("organism", {"step_ratio": {"min": 1.0}})
    bench._note("study", {"warm_s": 1.0})
    found = json.loads((folder / "bench.json").read_text())
    assert found == {
        "study": {"cold_s": 2.0, "warm_s": 1.0},
        "organism": {"step_ratio": {"min": 1.0}},
    }


def test_parts_are_named_or_all(capsys):
    assert _parser().parse_args(["bench"]).parts == []
    assert _parser().parse_args(["bench", "steps", "study"]).parts == ["steps", "study"]
    assert _parser().parse_args(["bench", *bench.PARTS]).parts == list(bench.PARTS)
    with pytest.raises(SystemExit):
        _parser().parse_args(["bench", "stepps"])
    assert "stepps" in capsys.readouterr().err
