"""Sensitivity: the points, the rows of one, what is kept, and bases that fail their gate."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pandas as pd
import pytest
import synthetic

from hybridlib.config import load_config
from hybridlib.evaluation import tables
from hybridlib.figures import prose
from hybridlib.figures import results as lookup
from hybridlib.figures.results import EFFECT
from hybridlib.store.errors import ParameterError
from hybridlib.study import jobs, sensitivity, stages
from hybridlib.study.sensitivity import AXES, NO_BASE, Point, points
from hybridlib.training.reward_model import OneSidedLabels


@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_a_parameter_and_its_default_among_the_values(name):
    found = points([name])
    assert [p.value for p in found] == list(AXES[name]) and sum(p.default for p in found) == 1
    for point in found:
        changed = load_config("confirmatory", **{name: point.value})
        assert changed.flat()[name] == point.value
        same = changed.flat() == load_config("confirmatory").flat()
        assert same == point.default


def test_an_axis_that_is_none_is_refused_in_one_line():
    with pytest.raises(ParameterError, match="axis 'colour' is none of genuine_refusal_share"):
        points(["colour"])
    with pytest.raises(ParameterError, match="base_seed '7' is none of 0, 1, 2"):
        points(["base_seed=7"])


def test_one_value_of_an_axis_can_be_asked_for():
    assert points(["base_seed=2", "thought=False"]) == [
        Point("base_seed", 2, False),
        Point("thought", False, False),
    ]


def test_the_rows_of_a_point_are_the_verdicts_of_a_study_of_it(tmp_path):
    responses, cost, training = synthetic.responses(), synthetic.cost(), synthetic.training()
    point = Point("hidden_size", 128, False)
    rows = sensitivity.verdicts(point, responses, cost, training)
    tables.write_tables(
        tmp_path, "test", responses, training, cost, synthetic.gate(),
        synthetic.learning_rates(), synthetic.runs(),
    )  # fmt: skip
    expected = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    numbers = [*EFFECT, "estimate", "low", "high", "seeds", "verdict"]
    pd.testing.assert_frame_equal(
        rows[numbers].reset_index(drop=True), expected[numbers], rtol=1e-5, check_dtype=False
    )
    assert set(rows.parameter) == {"hidden_size"} and not rows.default.any()


def test_without_its_control_no_verdict_on_rl_is_given():
    point = Point("hidden_size", 128, False)
    rows = sensitivity.verdicts(point, synthetic.responses(), synthetic.cost(), pd.DataFrame())
    assert set(rows.why) == {"the control fails"}
    with_rl = rows.contrast.str.contains("rl|two_stage") & rows.metric.ne("log_flops")
    assert set(rows[with_rl].verdict) == {"descriptive"}
    assert "descriptive" not in set(rows[~with_rl].verdict)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A store in which width 128 has no competent base and width 256 diverges."""
    asked, bred = [], []

    def base(config):
        folder = tmp_path / f"base{config.base.hidden_size}{config.base.base_seed}"
        if not folder.exists():
            folder.mkdir()
            bred.append((config.base.hidden_size, len(asked)))
            passes = config.base.hidden_size != 128
            synthetic.gate().assign(passes=passes).to_csv(folder / "gate.csv", index=False)
        return folder

    def evaluate(config, variant, reward, seed):
        asked.append((config.base.hidden_size, config.base.base_seed, variant, reward, seed))
        if (config.base.hidden_size, variant, seed) == (256, "sft", 1):
            raise FloatingPointError("the loss is not finite")
        if reward == "model" and config.shares.genuine_refusal_share == 0:
            raise OneSidedLabels("the labels are all the same")
        folder = tmp_path / f"{variant}-{reward}-{seed}"
        if not folder.exists():
            folder.mkdir()
            rows = synthetic.responses(1, seed, runs=((variant, reward),)).assign(seed=seed)
            rows.to_parquet(folder / "responses.parquet")
            curve = synthetic.training(seed + 1)
            curve = curve[curve.variant.eq(variant) & curve.reward.eq(reward) & curve.seed.eq(seed)]
            curve.to_csv(folder / "training.csv", index=False)
        return folder

    monkeypatch.setattr(stages, "base", base)
    monkeypatch.setattr(stages, "evaluate", evaluate)

    def costs(config, measured):
        cost = synthetic.cost(len(config.seeds))
        arms = {(variant, reward) for variant, reward, _ in measured}
        return cost[[arm in arms for arm in zip(cost.variant, cost.reward)]]

    monkeypatch.setattr(stages, "costs", costs)
    monkeypatch.setattr(jobs, "processes", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(sensitivity, "local", lambda preset: tmp_path / "local")
    monkeypatch.setattr(sensitivity, "committed", lambda preset: tmp_path / "committed")
    return SimpleNamespace(runs=asked, bases=bred)


def test_what_the_tests_compare_is_trained_on_the_seeds_of_a_verdict(made):
    sensitivity.sensitivity("confirmatory", ["base_seed"], report=str)
    arms = ["base/none", "rl/rule", "rl/model", "rl_gold/gold", "sft/none", "sft_narrow/none",
            "two_stage/model"]  # fmt: skip
    assert {(f"{variant}/{reward}", seed) for _, _, variant, reward, seed in made.runs} == {
        (arm, seed) for arm in arms for seed in range(10, 15)
    }


def test_points_without_a_base_and_diverged_runs_are_said(made):
    said = []
    path = sensitivity.sensitivity("confirmatory", ["hidden_size"], seeds=2, report=said.append)
    table = pd.read_csv(path, dtype={"value": str}, keep_default_na=False)
    by_value = table.groupby("value", sort=False)
    assert list(by_value.groups) == ["128", "192", "256"]
    lost = by_value.get_group("128")
    assert set(lost.verdict) == {NO_BASE} and lost.why.str.contains("recall_records en").all()
    assert not any(width == 128 for width, *_ in made.runs)
    assert set(by_value.get_group("256").why) == {"sft/none seed 1 diverged"}
    assert set(by_value.get_group("192").verdict) == {"descriptive"}  # of two seeds
    assert [len(rows) for _, rows in by_value] == [len(lost)] * 3
    assert said[0].startswith("[1/3] hidden_size 128: ") and len(said) == 3


def test_a_base_is_bred_before_the_runs_of_the_point_before_its_own(made):
    """Of three bases the first is not competent: all are bred before anything is trained."""
    sensitivity.sensitivity("confirmatory", ["hidden_size"], seeds=2, report=str)
    assert made.bases == [(128, 0), (192, 0), (256, 0)]
    made.bases.clear()
    made.runs.clear()
    sensitivity.sensitivity("confirmatory", ["base_seed"], seeds=1, report=str)
    runs_of_a_point = 7
    assert made.bases == [(192, 0), (192, runs_of_a_point)]  # seed 0 was bred above


def test_an_error_of_a_base_is_raised(made, monkeypatch):
    def broken(config):
        raise OSError("no room on the disk")

    monkeypatch.setattr(stages, "base", broken)
    with pytest.raises(OSError, match="no room on the disk"):
        sensitivity.sensitivity("confirmatory", seeds=2, report=str)
    assert not made.runs


def test_without_a_reward_model_the_rule_is_decided_alone(made):
    path = sensitivity.sensitivity("confirmatory", ["genuine_refusal_share"], report=str)
    table = pd.read_csv(path, dtype={"value": str}, keep_default_na=False)
    lost = table[table.value.eq("0.0")]
    assert set(lost.why) == {"the labels are all the same"}
    assert set(lost.reward) == {"rule", "none"} and "model" in set(table.reward)
    assert NO_BASE not in set(lost.verdict)


def test_other_axes_are_kept_and_the_same_point_is_replaced(made, tmp_path):
    path = sensitivity.sensitivity("confirmatory", ["base_seed"], seeds=2, report=str)
    before = pd.read_csv(path, dtype=str, keep_default_na=False)
    committed = tmp_path / "committed" / "tables"
    committed.mkdir(parents=True)
    path.rename(committed / path.name)  # as on another machine, after `make publish`
    for _ in range(2):
        sensitivity.sensitivity("confirmatory", ["hidden_size"], seeds=2, report=str)
    after = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(dict.fromkeys(after.parameter)) == ["hidden_size", "base_seed"]  # as in AXES
    kept = after[after.parameter.eq("base_seed")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)
    assert not after.duplicated(["parameter", "value", *EFFECT]).any()


@pytest.mark.parametrize("alike", [True, False])
def test_the_committed_unchanged_point_stands_beside_points_on_its_own_base_alone(
    made, tmp_path, monkeypatch, alike
):
    path = sensitivity.sensitivity("confirmatory", ["base_seed=0"], report=str)
    committed = tmp_path / "committed" / "tables"
    committed.mkdir(parents=True)
    pd.read_csv(path).assign(estimate=0.123).to_csv(committed / path.name, index=False)
    gate = synthetic.gate()
    gate.loc[len(gate) - 1, "value"] -= 0 if alike else 0.01
    gate.to_csv(committed / "gate.csv", index=False, float_format="%.6g")
    path.unlink()
    monkeypatch.setattr(sensitivity.release, "is_present", lambda folder: True)
    said = []
    narrow = ["narrow_categories=1", "narrow_categories=2"]
    sensitivity.sensitivity("confirmatory", narrow, report=said.append)
    rows = pd.read_csv(path)
    unchanged = rows[rows.parameter.eq("narrow_categories") & rows.default]
    assert set(unchanged.estimate.eq(0.123)) == {alike}
    assert any("the base is not the committed one" in line for line in said) != alike
    # What changes the base has another base anyway.
    sensitivity.sensitivity("confirmatory", ["base_seed=0", "base_seed=1"], report=str)
    rows = pd.read_csv(path)
    assert rows[rows.parameter.eq("base_seed") & rows.default].estimate.eq(0.123).all()


def test_points_are_named_at_which_an_effect_changes_sides(tmp_path):
    """One effect, supported; of six changed points one is on the other side, one has no base, at
    one the control fails, and of two of training one leaves both arms as they were."""
    (tmp_path / "tables").mkdir()
    effect = {"claim": "C1", "metric": "harm_rate", "contrast": "rl - base", "reward": "rule"}
    here = pd.DataFrame([effect | {"estimate": 0.3, "margin": 0.05}])
    here.to_csv(tmp_path / "tables" / "verdicts.csv", index=False)
    bred, trained = "minority_share", ("narrow_categories", "labels")
    found = [
        (bred, "0.1", 0.3, "supported"), (bred, "0.0", 0.01, "inconclusive"),
        (bred, "0.2", 0.3, "supported"), (bred, "0.3", None, NO_BASE),
        (bred, "0.4", 0.01, "descriptive"), (trained[0], "1", 0.3, "supported"),
        (trained[1], "60", 0.06, "supported"),
    ]  # fmt: skip
    rows = [
        effect | {"parameter": parameter, "value": value, "default": value == "0.1"}
        | {"estimate": estimate, "margin": 0.05, "verdict": verdict}
        for parameter, value, estimate, verdict in found
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "tables" / "sensitivity.csv", index=False)
    results = lookup.Results(tmp_path)
    assert prose.other_sides(results).endswith("of its margin in C1 (minority share 0.0).")
    assert lookup.same_side(results).iloc[0].to_list() == [2, 3]
    assert prose.sensitivity(results) == (
        "0 of 1 effects have the same verdict at every point that gives one (the unchanged and 6 "
        "changed); it changes in C1; at 1 the base is not competent and at 1 the control fails, "
        "and RL has no verdict."
    )
