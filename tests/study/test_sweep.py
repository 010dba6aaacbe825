"""Sweeps of hybrids: points, rows, failures."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
import synthetic

from hybridlib.config import PARAMETERS, PARTS, load_config
from hybridlib.evaluation.metrics import measured
from hybridlib.evaluation.respond import GateError
from hybridlib.store.errors import OneLineError, ParameterError
from hybridlib.store.lock import BusyError, only_here
from hybridlib.study import jobs, stages, sweep
from hybridlib.study.sweep import Point
from hybridlib.variants import VARIANTS

FEW = {"variants": ["base", "joint"], "rewards": ["keyword"], "seeds": 2}


def test_every_value_is_a_point_of_each_reward_and_the_default_is_marked():
    few = load_config("organism", variants=["base", "rl", "sft", "joint"], seeds=2)
    found = sweep.swept(few)
    parameter, values = VARIANTS["joint"].swept
    assert [(p.reward, p.value) for p in found] == list(product(("keyword", "model"), values))
    assert {(p.variant, p.parameter) for p in found} == {("joint", parameter)}
    assert [p.value for p in found if p.published] == [few.train.joint_lambda] * 2


@pytest.mark.parametrize("variant", [name for name, row in VARIANTS.items() if row.swept])
def test_what_is_swept_is_a_parameter_and_its_default_is_among_the_values(variant):
    parameter, values = VARIANTS[variant].swept
    default = PARTS[PARAMETERS[parameter]].model_fields[parameter].default
    assert default in values and list(values) == sorted(set(values))
    for value in values:
        changed = load_config("organism", **{parameter: value})
        assert changed.flat()[parameter] == value


def responses(seeds: int, **more) -> pd.DataFrame:
    return synthetic.responses(seeds, runs=(("joint", "keyword"),), **more)


def test_a_row_is_a_mean_over_replicates_of_their_means():
    found = responses(2)
    point = Point("joint", "keyword", "joint_lambda", 0.25, False)
    table = sweep._weighed(point, measured(found, 1, sweep.METRICS))
    assert list(table) == sweep.SWEPT and len(table) == 4
    assert set(table.value) == {0.25} and not table.published.any()
    rows = found[found.decoding.eq("sample")]
    expected = {
        "harm_rate": rows[rows.kind.eq("harmful")].groupby("seed").harm.mean(),
        "over_refusal_rate": rows[rows.kind.eq("benign")].groupby("seed").refusal.mean(),
        "off_language_rate": rows.groupby("seed").off_language.mean(),
        "accuracy": rows[rows.task.eq("sums")].groupby("seed").correct.mean(),
    }
    means = {metric: values.mean() for metric, values in expected.items()}
    assert dict(zip(table.metric, table.estimate)) == pytest.approx(means)
    assert set(table.replicates) == {2} and (table.low <= table.estimate).all()


def test_a_preset_without_what_is_swept_is_refused_in_one_line():
    with pytest.raises(ParameterError, match="none is swept, name two_stage, joint") as error:
        sweep.sweep("organism", variants=["base", "sft"])
    assert "\n" not in str(error.value)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A store of invented runs, in which joint_lambda 2 diverges under the second seed."""
    asked, passes = [], {}

    def base(config, seed):
        folder = tmp_path / f"base{seed}"
        folder.mkdir(exist_ok=True)
        gate = synthetic.gate().assign(passes=passes.get(seed, True))
        gate.to_csv(folder / "gate.csv", index=False)
        return folder

    def evaluate(config, variant, reward, seed):
        value = config.train.joint_lambda
        asked.append((variant, reward, value, seed))
        if (value, seed) == (2.0, 1):
            raise FloatingPointError("the loss is not finite")
        folder = tmp_path / f"{reward}-{value}-{seed}"
        folder.mkdir()
        rows = responses(1, rng_seed=seed).assign(seed=seed)
        rows.to_parquet(folder / "responses.parquet")
        return folder

    monkeypatch.setattr(stages, "base", base)
    monkeypatch.setattr(stages, "evaluate", evaluate)
    monkeypatch.setattr(jobs, "processes", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(sweep, "local", lambda preset: tmp_path / preset)
    joint = replace(VARIANTS["joint"], swept=("joint_lambda", (0.5, 2.0)))
    monkeypatch.setitem(VARIANTS, "joint", joint)
    return SimpleNamespace(asked=asked, passes=passes, folder=tmp_path)


def test_each_point_is_measured_with_its_value_and_one_that_diverges_is_told(made):
    said = []
    with only_here(made.folder / "organism"), pytest.raises(BusyError):
        sweep.sweep("organism", report=said.append, **FEW)
    assert not made.asked
    path = sweep.sweep("organism", report=said.append, **FEW)
    assert made.asked == [("joint", "keyword", v, seed) for v in (0.5, 2.0) for seed in (0, 1)]
    assert said[1:3] == ["[2/2] joint/keyword: joint_lambda 2",
                         "        joint/keyword seed 1 diverged"]  # fmt: skip
    table = pd.read_csv(path)
    assert dict(table.groupby("value").replicates.first()) == {0.5: 2, 2.0: 1}
    assert table.published.eq(table.value.eq(0.5)).all()
    one = table[table.value.eq(2)]  # of one replicate there is no interval
    assert one.estimate.notna().all() and one.low.isna().all()


def test_a_base_that_is_not_competent_ends_it_as_it_ends_a_study(made):
    made.passes[1] = False
    with pytest.raises(GateError):
        sweep.sweep("organism", report=str, **FEW)
    assert not made.asked
    sweep.sweep("organism", report=str, **FEW, gate=False)
    assert len(made.asked) == 4


def test_where_every_run_diverges_the_table_that_is_there_stays(made, monkeypatch):
    path = sweep.sweep("organism", report=str, **FEW)
    before = path.read_bytes()

    def diverges(*_):
        raise FloatingPointError

    monkeypatch.setattr(stages, "evaluate", diverges)
    with pytest.raises(OneLineError, match="no run"):
        sweep.sweep("organism", report=str, **FEW)
    assert path.read_bytes() == before
