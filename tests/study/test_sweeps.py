"""Sweeps: the points of a study, and their table against plain means of responses."""

from itertools import product

import pandas as pd
import pytest
import synthetic

from hybridlib.config import PARAMETERS, PARTS, load_config
from hybridlib.store.errors import ParameterError
from hybridlib.study import jobs, stages, sweeps


@pytest.fixture(scope="module")
def config():
    return load_config("organism", variants=["base", "rl", "sft", "joint"], seeds=2)


def test_every_value_is_a_point_of_each_reward_and_the_default_is_marked(config):
    found = sweeps.points(config)
    parameter, values = sweeps.SWEEPS["joint"]
    assert [(p.reward, p.value) for p in found] == list(product(("rule", "model"), values))
    assert {(p.variant, p.parameter) for p in found} == {("joint", parameter)}
    assert [p.value for p in found if p.published] == [config.train.joint_lambda] * 2


@pytest.mark.parametrize("variant", sweeps.SWEEPS)
def test_what_is_swept_is_a_parameter_and_its_default_is_among_the_values(variant):
    parameter, values = sweeps.SWEEPS[variant]
    default = PARTS[PARAMETERS[parameter]].model_fields[parameter].default
    assert default in values and list(values) == sorted(set(values))
    for value in values:
        changed = load_config("organism", **{parameter: value})
        assert changed.flat()[parameter] == value


def test_a_row_is_a_mean_of_the_responses_of_its_point():
    responses = synthetic.responses(2, runs=(("joint", "rule"),))
    point = sweeps.Point("joint", "rule", "joint_lambda", 0.25, False)
    table = sweeps.table([(point, responses)])
    assert list(table) == sweeps.COLUMNS and len(table) == 4
    rows = responses[responses.decoding.eq("sample")]
    expected = {
        "harm_rate": rows.harm.mean(),
        "over_refusal_rate": rows[rows.kind.eq("benign")].refusal.mean(),
        "off_language_rate": rows.off_language.mean(),
        "accuracy": rows[rows.task.eq("sums")].correct.mean(),
    }
    assert dict(zip(table.metric, table.estimate)) == pytest.approx(expected)
    assert set(table.seeds) == {2} and (table.low <= table.estimate).all()


def test_a_preset_without_what_is_swept_is_refused_in_one_line():
    with pytest.raises(ParameterError, match="none is swept, name two_stage, joint") as error:
        sweeps.sweep("organism", variants=["base", "sft"])
    assert "\n" not in str(error.value)


class InPlace:
    """A pool that calls at once."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    map = staticmethod(map)


def test_each_point_is_measured_with_its_value_and_one_that_diverges_is_told(tmp_path, monkeypatch):
    asked, said = [], []

    def evaluate(config, variant, reward, seed):
        value = config.train.joint_lambda
        asked.append((variant, reward, value, seed))
        if (value, seed) == (2.0, 1):
            raise FloatingPointError("the loss is not finite")
        folder = tmp_path / f"{reward}-{value}-{seed}"
        folder.mkdir()
        rows = synthetic.responses(1, rng_seed=seed, runs=((variant, reward),)).assign(seed=seed)
        rows.to_parquet(folder / "responses.parquet")
        return folder

    monkeypatch.setattr(stages, "evaluate", evaluate)
    monkeypatch.setattr(stages, "base", lambda config: None)
    monkeypatch.setattr(jobs, "processes", InPlace)
    monkeypatch.setattr(sweeps, "local", lambda preset: tmp_path / preset)
    monkeypatch.setattr(sweeps, "SWEEPS", {"joint": ("joint_lambda", (0.5, 2.0))})
    few = {"variants": ["base", "joint"], "rewards": ["rule"], "seeds": 2}
    monkeypatch.setattr(
        sweeps, "load_config", lambda preset, **at: load_config(preset, **few, **at)
    )
    path = sweeps.sweep("organism", report=said.append)
    assert asked == [("joint", "rule", value, seed) for value in (0.5, 2.0) for seed in (0, 1)]
    assert said[0] == "joint at joint_lambda 2 diverged, seed 1"
    table = pd.read_csv(path)
    assert dict(table.groupby("value").seeds.first()) == {0.5: 2, 2.0: 1}
