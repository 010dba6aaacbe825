"""Learning rates that are missing, sweeps of hybrids, and sensitivity: points, rows, failures."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
import synthetic

from hybridlib import config as configuration
from hybridlib.config import PARAMETERS, PARTS, load_config
from hybridlib.evaluation import tables
from hybridlib.figures.results import EFFECT
from hybridlib.store.errors import ParameterError
from hybridlib.store.lock import BusyError, only_here
from hybridlib.study import collect, jobs, stages, sweep
from hybridlib.study.sweep import AXES, NO_BASE, Point, points
from hybridlib.training.reward_model import OneSidedLabels
from hybridlib.variants import VARIANTS

# --- learning rates ---


def test_only_arms_that_are_lacking_are_tuned_and_the_rest_stays(tmp_path, monkeypatch):
    path, asked = tmp_path / "rates.csv", []
    before = (
        "variant,reward,seed,learning_rate,objective,chosen\n"
        "reward_model,none,100,0.0003,-0.00348382,True\n"
        "reward_model,none,100,0.001,-0.00696498,False\n"
        "rl,keyword,100,0.001,1.46875,True\n"
    )
    path.write_text(before)

    def trial(preset, chosen, arm, rate):
        asked.append((arm, rate, chosen.get("sft"), chosen["rl/keyword"]))
        return -abs(rate - (3e-4 if arm[0] == "sft" else 3e-3))

    monkeypatch.setattr(configuration, "LEARNING_RATES", path)
    monkeypatch.setattr(jobs, "processes", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(sweep, "_objective", trial)
    monkeypatch.setattr(stages, "base", lambda config: None)
    chosen = load_config("hybrids", variants=["base", "rl", "sft", "gated"], rewards=["keyword"])
    monkeypatch.setattr(sweep, "load_config", lambda preset: chosen)
    monkeypatch.setattr(sweep, "local", lambda preset: tmp_path / preset)
    with only_here(tmp_path), pytest.raises(BusyError):
        sweep.tune("hybrids")
    assert path.read_text() == before and not asked
    table = sweep.tune("hybrids")
    assert path.read_text().startswith(before)
    assert [arm for arm, *_ in asked] == [("sft", "none")] * 3 + [("gated", "keyword")] * 3
    # what others are built on was chosen first, and what stands in the file is used
    assert {known[2:] for known in asked[3:]} == {(3e-4, 1e-3)}
    assert {known[2:] for known in asked[:3]} == {(None, 1e-3)}
    picked = table[table.chosen].set_index(["variant", "reward"]).learning_rate
    assert picked["sft", "none"] == 3e-4 and picked["gated", "keyword"] == 3e-3
    written, count = path.read_text(), len(asked)
    sweep.tune("hybrids")
    assert path.read_text() == written and len(asked) == count


# --- sweeps of hybrids ---


@pytest.fixture(scope="module")
def few():
    return load_config("organism", variants=["base", "rl", "sft", "joint"], seeds=2)


def test_every_value_is_a_point_of_each_reward_and_the_default_is_marked(few):
    found = sweep.swept(few)
    parameter, values = VARIANTS["joint"].swept
    assert [(r, p.value) for _, r, p in found] == list(product(("keyword", "model"), values))
    assert {(v, p.parameter) for v, _, p in found} == {("joint", parameter)}
    assert [p.value for *_, p in found if p.default] == [few.train.joint_lambda] * 2


@pytest.mark.parametrize("variant", [name for name, row in VARIANTS.items() if row.swept])
def test_what_is_swept_is_a_parameter_and_its_default_is_among_the_values(variant):
    parameter, values = VARIANTS[variant].swept
    default = PARTS[PARAMETERS[parameter]].model_fields[parameter].default
    assert default in values and list(values) == sorted(set(values))
    for value in values:
        changed = load_config("organism", **{parameter: value})
        assert changed.flat()[parameter] == value


def test_a_row_is_a_mean_of_the_responses_of_its_point():
    responses = synthetic.responses(2, runs=(("joint", "keyword"),))
    table = sweep._weighed("joint", "keyword", Point("joint_lambda", 0.25, False), responses)
    assert list(table) == sweep.SWEPT and len(table) == 4
    assert set(table.value) == {0.25} and not table.published.any()
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
        sweep.sweep("organism", variants=["base", "sft"])
    assert "\n" not in str(error.value)


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
    monkeypatch.setattr(jobs, "processes", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(sweep, "local", lambda preset: tmp_path / preset)
    joint = replace(VARIANTS["joint"], swept=("joint_lambda", (0.5, 2.0)))
    monkeypatch.setitem(VARIANTS, "joint", joint)
    few = {"variants": ["base", "joint"], "rewards": ["keyword"], "seeds": 2, "gate": False}
    with only_here(tmp_path / "organism"), pytest.raises(BusyError):
        sweep.sweep("organism", report=said.append, **few)
    path = sweep.sweep("organism", report=said.append, **few)
    assert asked == [("joint", "keyword", value, seed) for value in (0.5, 2.0) for seed in (0, 1)]
    assert said[0] == "joint_lambda 2: joint/keyword seed 1 diverged"
    table = pd.read_csv(path)
    assert dict(table.groupby("value").seeds.first()) == {0.5: 2, 2.0: 1}


# --- sensitivity ---


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(variant, reward, seed) -> the folder of an invented run, written once for all tests."""
    place, curves = tmp_path_factory.mktemp("runs"), synthetic.training(seeds=15)

    def run(variant, reward, seed):
        folder = place / f"{variant}-{reward}-{seed}"
        if not folder.exists():
            folder.mkdir()
            rows = synthetic.responses(1, seed, runs=((variant, reward),)).assign(seed=seed)
            rows.to_parquet(folder / "responses.parquet")
            at = curves[["variant", "reward", "seed"]].eq([variant, reward, seed]).all(axis=1)
            curves[at].to_csv(folder / "training.csv", index=False)
        return folder

    return run


@pytest.fixture
def made(tmp_path, monkeypatch, runs):
    """A store in which width 128 has no competent base and width 256 diverges."""
    asked, bases = [], []

    def base(config):
        folder = tmp_path / f"base{config.base.hidden_size}{config.base.base_seed}"
        if not folder.exists():
            folder.mkdir()
            bases.append((config.base.hidden_size, len(asked)))
            passes = config.base.hidden_size != 128
            synthetic.gate().assign(passes=passes).to_csv(folder / "gate.csv", index=False)
        return folder

    def evaluate(config, variant, reward, seed):
        asked.append((config.base.hidden_size, config.base.base_seed, variant, reward, seed))
        if (config.base.hidden_size, variant, seed) == (256, "sft", 1):
            raise FloatingPointError("the loss is not finite")
        if reward == "model" and config.shares.genuine_refusal_share == 0:
            raise OneSidedLabels("the labels are all the same")
        return runs(variant, reward, seed)

    monkeypatch.setattr(stages, "base", base)
    monkeypatch.setattr(stages, "evaluate", evaluate)

    def costs(config, measured):
        cost = synthetic.cost(len(config.seeds))
        arms = {(variant, reward) for variant, reward, _ in measured}
        return cost[[arm in arms for arm in zip(cost.variant, cost.reward)]]

    monkeypatch.setattr(collect, "costs", costs)
    monkeypatch.setattr(jobs, "processes", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(sweep, "local", lambda preset: tmp_path / "local")
    monkeypatch.setattr(sweep, "committed", lambda preset: tmp_path / "committed")
    return SimpleNamespace(runs=asked, bases=bases)


def _at_a_point(runs, arms=tuple(synthetic.RATES)):
    """The rows of a point, and the runs behind them."""
    found = {(*arm, seed): runs(*arm, seed) for arm in arms for seed in range(5)}
    made = {None: (None, "")} | {unit: (folder, "") for unit, folder in found.items()}
    config = load_config("confirmatory", seeds=5)
    return sweep._at(config, Point("hidden_size", 128, False), made), found.values()


def test_the_rows_of_a_point_are_the_verdicts_of_a_study_of_it(tmp_path, made, runs):
    rows, folders = _at_a_point(runs)
    responses = pd.concat(pd.read_parquet(folder / "responses.parquet") for folder in folders)
    tables.write_tables(
        tmp_path, "test", responses, synthetic.training(), synthetic.cost(), synthetic.gate(),
        synthetic.learning_rates(), synthetic.runs(),
    )  # fmt: skip
    expected = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    numbers = [*EFFECT, "estimate", "low", "high", "seeds", "verdict"]
    pd.testing.assert_frame_equal(
        rows[numbers].reset_index(drop=True), expected[numbers], rtol=1e-5, check_dtype=False
    )
    assert set(rows.parameter) == {"hidden_size"} and not rows.default.any()


def test_without_its_control_no_verdict_on_rl_is_given(made, runs):
    rows, _ = _at_a_point(runs, [arm for arm in synthetic.RATES if arm != ("rl_gold", "gold")])
    assert set(rows.why) == {"the control fails"}
    with_rl = rows.contrast.str.contains("rl|two_stage") & rows.metric.ne("log_flops")
    assert set(rows[with_rl].verdict) == {"descriptive"}
    assert "descriptive" not in set(rows[~with_rl].verdict)


def test_what_the_tests_compare_is_trained_on_the_seeds_of_a_verdict(made, tmp_path):
    with only_here(tmp_path / "local"), pytest.raises(BusyError):
        sweep.sensitivity("confirmatory", ["base_seed"], report=str)
    sweep.sensitivity("confirmatory", ["base_seed"], report=str)
    arms = ["base/none", "rl/keyword", "rl/model", "rl_gold/gold", "sft/none", "sft_narrow/none",
            "two_stage/model"]  # fmt: skip
    assert {(f"{variant}/{reward}", seed) for _, _, variant, reward, seed in made.runs} == {
        (arm, seed) for arm in arms for seed in range(10, 15)
    }


def test_points_without_a_base_and_diverged_runs_are_said(made):
    said = []
    path = sweep.sensitivity("confirmatory", ["hidden_size"], seeds=2, report=said.append)
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


def test_a_base_is_pretrained_before_the_runs_of_the_point_before_its_own(made):
    """Of three bases the first is not competent: all are pretrained before anything is trained."""
    sweep.sensitivity("confirmatory", ["hidden_size"], seeds=2, report=str)
    assert made.bases == [(128, 0), (192, 0), (256, 0)]
    made.bases.clear()
    made.runs.clear()
    sweep.sensitivity("confirmatory", ["base_seed"], seeds=1, report=str)
    runs_of_a_point = 7
    assert made.bases == [(192, 0), (192, runs_of_a_point)]  # that of seed 0 is there


def test_an_error_of_a_base_is_raised(made, monkeypatch):
    def broken(config):
        raise OSError("no room on the disk")

    monkeypatch.setattr(stages, "base", broken)
    with pytest.raises(OSError, match="no room on the disk"):
        sweep.sensitivity("confirmatory", seeds=2, report=str)
    assert not made.runs


def test_without_a_reward_model_the_rule_is_decided_alone(made):
    path = sweep.sensitivity("confirmatory", ["genuine_refusal_share"], report=str)
    table = pd.read_csv(path, dtype={"value": str}, keep_default_na=False)
    lost = table[table.value.eq("0.0")]
    assert set(lost.why) == {"the labels are all the same"}
    assert set(lost.reward) == {"keyword", "none"} and "model" in set(table.reward)
    assert NO_BASE not in set(lost.verdict)


def test_other_axes_are_kept_and_the_same_point_is_replaced(made, tmp_path):
    path = sweep.sensitivity("confirmatory", ["base_seed"], seeds=2, report=str)
    before = pd.read_csv(path, dtype=str, keep_default_na=False)
    committed = tmp_path / "committed" / "tables"
    committed.mkdir(parents=True)
    path.rename(committed / path.name)  # as on another machine, after `make publish`
    for _ in range(2):
        sweep.sensitivity("confirmatory", ["hidden_size"], seeds=2, report=str)
    after = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(dict.fromkeys(after.parameter)) == ["hidden_size", "base_seed"]  # as in AXES
    kept = after[after.parameter.eq("base_seed")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)
    assert not after.duplicated(["parameter", "value", *EFFECT]).any()


@pytest.mark.parametrize("alike", [True, False])
def test_the_committed_unchanged_point_stands_beside_points_on_its_own_base_alone(
    made, tmp_path, monkeypatch, alike
):
    path = sweep.sensitivity("confirmatory", ["base_seed=0"], report=str)
    committed = tmp_path / "committed" / "tables"
    committed.mkdir(parents=True)
    pd.read_csv(path).assign(estimate=0.123).to_csv(committed / path.name, index=False)
    gate = synthetic.gate()
    gate.loc[len(gate) - 1, "value"] -= 0 if alike else 0.01
    gate.to_csv(committed / "gate.csv", index=False, float_format="%.6g")
    path.unlink()
    monkeypatch.setattr(sweep.collect, "is_present", lambda folder: True)
    said = []
    narrow = ["narrow_categories=1", "narrow_categories=2"]
    sweep.sensitivity("confirmatory", narrow, report=said.append)
    rows = pd.read_csv(path)
    unchanged = rows[rows.parameter.eq("narrow_categories") & rows.default]
    assert set(unchanged.estimate.eq(0.123)) == {alike}
    assert any("another base than the committed one" in line for line in said) != alike
    # What changes the base has another base anyway.
    sweep.sensitivity("confirmatory", ["base_seed=0", "base_seed=1"], report=str)
    rows = pd.read_csv(path)
    assert rows[rows.parameter.eq("base_seed") & rows.default].estimate.eq(0.123).all()
