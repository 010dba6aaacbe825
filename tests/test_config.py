"""Parameters: what is refused, in which words; presets; the committed learning rates."""

import csv
import math
from collections import defaultdict

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybridlib import config
from hybridlib.config import (
    LEARNING_RATES,
    PARAMETERS,
    PRESETS,
    RunConfig,
    load_config,
    notebook_parameters,
)
from hybridlib.store.errors import ParameterError
from hybridlib.variants import REWARDS, measured

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


def refusal(preset="organism", **parameters) -> str:
    with pytest.raises(ParameterError) as caught:
        load_config(preset, **parameters)
    said = str(caught.value)
    assert len(said.splitlines()) == 1, said
    (shown,) = caught.value._render_traceback_()
    assert said in shown and "Traceback" not in shown
    return said


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "misspelt, nearest",
    [
        ("stepss", "steps"), ("sed", "seeds"), ("varients", "variants"), ("reward", "rewards"),
        ("lora_rnak", "lora_rank"), ("weight_harmlesness", "weight_harmlessness"),
        ("minority", "minority_share"), ("STEPS", None), ("xyzzy", None),
    ],
)  # fmt: skip
def test_an_unknown_parameter(misspelt, nearest):
    said = refusal(**{misspelt: 1})
    assert repr(misspelt) in said
    assert (f"did you mean {nearest!r}" in said) if nearest else True


@pytest.mark.parametrize(
    "name, value, named",
    [
        ("steps", -1, "1"), ("steps", 0, "1"), ("steps", "many", "integer"),
        ("steps", 2.5, "integer"), ("steps", [60], "integer"),
        ("kl", -0.1, "0"), ("kl", math.nan, "finite"), ("kl", "x", "number"),
        ("thought", "maybe", "boolean"), ("gate", 2, "boolean"),
        ("minority_share", 1.1, "1"), ("minority_share", -0.1, "0"),
        ("recitation_share", "a", "number"),
        ("hidden_size", 100, "32"), ("hidden_size", 0, "1"), ("group_size", 1, "2"),
        ("lora_rank", -1, "0"), ("base_learning_rate", 0, "0"), ("weight_format", -1, "0"),
        ("joint_lambda", -1, "0"), ("per_cell", 0, "1"), ("evaluation_seed", -1, "0"),
        ("scope", "hole", "whole"), ("scope", "anser", "answer"), ("scope", 3, "answer"),
        ("variants", "rl_glod", "rl_gold"), ("variants", ["base", "stf"], "sft"),
        ("variants", ["two-stage"], "two_stage"), ("variants", [], "at least one"),
        ("variants", ["rl", "rl"], "twice"), ("variants", 5, "tuple"), ("variants", [1], "string"),
        ("rewards", "modle", "model"), ("rewards", ["rule", "gold"], "model"),
        ("rewards", [], "one"),
        ("seeds", 0, "1"), ("seeds", -3, "1"), ("seeds", "three", ""), ("seeds", 2.5, ""),
        ("seeds", [], "one"), ("seeds", [1, 1], "twice"), ("seeds", [-1], "negative"),
        ("seeds", True, ""), ("seeds", [[1]], "integer"), ("seeds", ["a"], "integer"),
        ("learning_rates", {"sft": "x"}, "number"), ("learning_rates", 3, "dictionary"),
    ],
)  # fmt: skip
def test_an_ill_typed_or_impossible_value(name, value, named):
    said = refusal(**{name: value})
    assert said.startswith(f"{name} = {value!r}: ") and named in said


@pytest.mark.parametrize("value", ["3\n4", "a\nb"])
def test_a_value_of_several_lines_is_refused_in_one(value):
    refusal(steps=value)


def test_shares_of_refusals_together():
    said = refusal(genuine_refusal_share=0.6, superficial_refusal_share=0.6)
    assert "genuine_refusal_share" in said and "exceed 1" in said


def test_shares_of_refusals_together_are_named_first():
    assert refusal(genuine_refusal_share=0.9, leaky_thought_share=0.9)[0].isalpha()


@pytest.mark.parametrize(
    "name, value",
    [
        ("learning_rates", {"sff": 1e-3}), ("learning_rates", {"rl": 1e-3}),
        ("learning_rates", {"sft": -1}), ("learning_rates", {"sft": 0}),
        ("learning_rates", {"sft": math.nan}), ("kl", math.inf), ("base_learning_rate", math.inf),
        ("steps", True), ("kl", True), ("seeds", [True]), ("seeds", {3: 1}),
        ("narrow_categories", 6),
    ],
)  # fmt: skip
def test_impossible_values_that_pass_for_now(name, value):
    assert refusal(**{name: value}).startswith(name)


def test_an_unknown_preset():
    said = refusal("organsim")
    assert "'organsim'" in said and "did you mean 'organism'" in said and "smoke" in said
    assert "there is no preset 'zzz'" in refusal("zzz")
    assert "cannot be read" in refusal("/nowhere/at/all.yaml")


@pytest.mark.parametrize(
    "text", ["a: [\n", "\tsteps: 3\n", "stepss: 3\n", "steps: -3\n", "seeds:\n"]
)
def test_a_preset_file_that_cannot_be(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert refusal(str(path))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "steps\n", "1: 2\n"])
def test_a_preset_file_that_is_no_table(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert "mine.yaml" in refusal(str(path))


def test_a_preset_name_that_is_no_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: 3\n")
    assert refusal(str(path)).startswith("preset")


def test_nothing_is_written_when_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    refusal(steps=-1)
    refusal("organsim")
    assert not list(tmp_path.iterdir())


# --- what is understood -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, seeds",
    [(3, (0, 1, 2)), ("3", (0, 1, 2)), (1, (0,)), ([1, 2], (1, 2)), ((7,), (7,)),
     (["4", 5], (4, 5)), (range(100, 102), (100, 101))],
)  # fmt: skip
def test_seeds(value, seeds):
    assert load_config("organism", seeds=value).seeds == seeds


@pytest.mark.parametrize("value", [["rl", "sft"], ("rl", "sft"), "rl sft", "rl,sft", "rl, sft"])
def test_variants(value):
    assert load_config("organism", variants=value).variants == ("rl", "sft")


def test_none_leaves_the_value_of_the_preset():
    assert load_config("smoke", seeds=None, steps=None) == load_config("smoke")
    assert load_config("smoke", steps=5).train.steps == 5


def test_arms_are_the_variants_under_their_rewards():
    found = load_config("organism", variants=["base", "two_stage", "rl_gold", "sft"]).arms
    assert found == [("base", "none"), ("two_stage", "rule"), ("two_stage", "model"),
                     ("rl_gold", "gold"), ("sft", "none")]  # fmt: skip


def test_it_is_frozen_and_nothing_can_be_added():
    loaded = load_config("organism")
    with pytest.raises(ValidationError):
        loaded.train.steps = 3
    with pytest.raises(ValidationError):
        loaded.preset = "x"
    with pytest.raises(ValidationError):
        RunConfig(stepss=3)


def test_each_name_belongs_to_one_part():
    fields = [name for part in config.PARTS.values() for name in part.model_fields]
    assert len(fields) == len(set(fields)) == len(PARAMETERS)
    assert set(load_config("organism").flat()) == {"preset", *fields}
    described = [f for part in config.PARTS.values() for f in part.model_fields.values()]
    assert all(field.description for field in described)


@pytest.mark.parametrize("preset", NAMES)
def test_every_preset_loads_and_survives_a_round_trip(preset, tmp_path):
    loaded = load_config(preset)
    assert loaded.preset == preset and loaded.arms
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(loaded.flat()))
    assert load_config(str(path)) == loaded
    names = set(yaml.safe_load((PRESETS / f"{preset}.yaml").read_text()))
    assert names <= set(PARAMETERS)


def test_the_presets_of_the_design_are_there():
    assert {"smoke", "organism"} <= set(NAMES)
    default = load_config()
    assert default.preset == "organism" and len(default.seeds) == 5 and default.base.gate
    assert set(default.rewards) == {"rule", "model"}


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "seeds": st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True),
        "variants": st.lists(st.sampled_from(sorted(measured())), min_size=1, unique=True),
        "rewards": st.lists(st.sampled_from(REWARDS), min_size=1, unique=True),
        "kl": st.floats(0, 1e6),
        "minority_share": st.floats(0, 1),
        "steps": st.integers(1, 10**6),
        "thought": st.booleans(),
        "scope": st.sampled_from(["answer", "whole"]),
        "learning_rates": st.dictionaries(
            st.sampled_from(["sft", "rl/rule", "reward_model"]), st.floats(1e-6, 1)),
    },
)  # fmt: skip


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_flat_to_yaml_and_back(tmp_path_factory, values):
    loaded = load_config("organism", **values)
    path = tmp_path_factory.mktemp("presets") / "copy.yaml"
    path.write_text(yaml.safe_dump(loaded.flat()))
    again = load_config(str(path))
    assert again == loaded and again.flat() == loaded.flat()
    for name, value in values.items():
        assert loaded.flat()[name] == value


# --- what papermill injects -------------------------------------------------------------------


def test_the_cell_that_papermill_injected():
    own = ["preset", "seeds", "steps"]
    cells = ["", "preset = 'x'\nother = 3", "# Parameters\nseeds = 3\nsteps = 4\n"]
    notebook_parameters(cells, own)
    notebook_parameters([], own)
    with pytest.raises(ParameterError) as caught:
        notebook_parameters(["", "# Parameters\nseeds = 3\nstpes = 4\n"], own)
    assert str(caught.value) == "there is no parameter 'stpes'; did you mean 'steps'?"


def test_a_cell_that_papermill_itself_writes():
    from papermill.translators import papermill_translators

    cell = papermill_translators.find_translator("python3", "python").codify(
        {"sedes": [1, 2]}, "Parameters"
    )
    with pytest.raises(ParameterError, match="'sedes'; did you mean 'seeds'"):
        notebook_parameters(["", cell], ["seeds"])


# --- learning rates ---------------------------------------------------------------------------


def rates() -> list[dict[str, str]]:
    with LEARNING_RATES.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_arm_without_a_rate_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "LEARNING_RATES", tmp_path / "none.csv")
    loaded = load_config("organism", learning_rates={"sft": 2e-3, "rl/rule": 3e-3})
    assert loaded.learning_rate("sft") == 2e-3 and loaded.learning_rate("rl", "rule") == 3e-3
    with pytest.raises(ParameterError, match="'rl/model'"):
        loaded.learning_rate("rl", "model")


def test_only_chosen_rows_count_and_a_parameter_overrides_them(monkeypatch, tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text(
        "variant,reward,seed,learning_rate,objective,chosen\n"
        "sft,none,100,0.001,-2,False\nsft,none,100,0.003,-1,True\nrl,model,100,0.01,1,True\n"
    )
    monkeypatch.setattr(config, "LEARNING_RATES", path)
    assert load_config("organism").learning_rate("sft") == 0.003
    assert load_config("organism").learning_rate("rl", "model") == 0.01
    assert load_config("organism", learning_rates={"sft": 0.1}).learning_rate("sft") == 0.1


def test_the_chosen_rate_has_the_best_objective_of_its_own_grid():
    objectives = defaultdict(lambda: defaultdict(list))
    chosen = defaultdict(set)
    for row in rates():
        arm, rate = (row["variant"], row["reward"]), float(row["learning_rate"])
        objectives[arm][rate].append(float(row["objective"]))
        if row["chosen"] == "True":
            chosen[arm].add(rate)
    for arm, grid in objectives.items():
        mean = {rate: sum(values) / len(values) for rate, values in grid.items()}
        (rate,) = chosen[arm]
        assert mean[rate] == max(mean.values()), arm
        assert math.isfinite(mean[rate]), arm


def test_all_arms_had_the_same_grid_and_trials_on_seeds_that_no_preset_uses():
    trials = defaultdict(set)
    for row in rates():
        trials[row["variant"], row["reward"]].add((row["learning_rate"], row["seed"]))
    assert len({frozenset(found) for found in trials.values()}) == 1
    assert sum(map(len, trials.values())) == len(rates())
    tuned = {int(row["seed"]) for row in rates()}
    assert not tuned & {seed for preset in NAMES for seed in load_config(preset).seeds}


@pytest.mark.parametrize("preset", NAMES)
def test_every_arm_of_every_preset_has_a_rate(preset):
    loaded = load_config(preset)
    for variant, reward in loaded.arms:
        if variant != "base":
            assert loaded.learning_rate(variant, reward) > 0
    if "model" in loaded.rewards:
        assert loaded.learning_rate("reward_model") > 0
