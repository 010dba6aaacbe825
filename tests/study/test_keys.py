"""Keys: each parameter changes the stages that depend on it and nothing else.

What depends on what is written here by hand. That no stage reads more than its key holds needs no
list: a stage has nothing else to read (the last tests).
"""

import json
import os
import re
import subprocess
import sys

import grimp
import pytest
from tiny import training

from hybridlib import config as configuration
from hybridlib.config import PARAMETERS, load_config
from hybridlib.store.errors import ParameterError
from hybridlib.store.stage import Given
from hybridlib.study import keys as builders
from hybridlib.study import stages
from hybridlib.variants import measured

PAIRED = ("rl", "two_stage", "multi_stage", "joint", "chord_mu", "demo_in_group", "gated", "prefix",
          "safety_prefix")  # fmt: skip
RULE, MODEL = ([f"{v}/{r}" for v in PAIRED] for r in ("keyword", "model"))
GOLD, FIRST_RL = "rl_gold/gold", "r1_reasoning"
RESAMPLED = ["r1_resampled/rule", "r1_resampled/model"]
REWARDED = [*RULE, *MODEL, GOLD]
RL = [*REWARDED, FIRST_RL, "self_distill"]
ARMS = ["sft", "sft_narrow", "self_distill", *REWARDED]
TRAINED = [*ARMS, FIRST_RL, *RESAMPLED]
RATES = dict.fromkeys([*ARMS, "reward_model"], 1e-3)
MEASURED = [f"evaluate {name}" for name in ("base", *ARMS)]
AGAIN = [f"{stage} {name}" for stage in ("prefill", "usage") for name in ("base", *ARMS)]


def both(*variants: str) -> list[str]:
    return [f"{variant}/{reward}" for variant in variants for reward in ("keyword", "model")]


SHOWN = ["self_distill", *both("joint", "chord_mu", "demo_in_group", "gated", "prefix")]

# Who is built on whom.
BUILT_ON = {
    "base": ["labels", *TRAINED, "evaluate base", "prefill base", "usage base"],
    "labels": ["reward_model"],
    "reward_model": [*MODEL, "r1_resampled/model"],
    **{name: [] for name in TRAINED},
    "sft": [*both("two_stage"), FIRST_RL],
    FIRST_RL: RESAMPLED,
    **{f"r1_resampled/{reward}": [f"multi_stage/{reward}"] for reward in ("keyword", "model")},
}
for _name in ARMS:
    BUILT_ON[_name] += [f"{stage} {_name}" for stage in ("evaluate", "prefill", "usage")]

# Which stages a parameter changes by itself; what is built on them follows.
PRETRAINING = (
    "minority_share", "recitation_share", "genuine_refusal_share", "superficial_refusal_share",
    "leaky_thought_share", "code_switching_share", "careless_share", "base_seed", "thought",
    "hidden_size", "layers", "base_steps", "base_batch", "base_learning_rate", "model",
)  # fmt: skip
OWN = {
    "joint_lambda": "joint", "luffy_gamma": "demo_in_group", "switch_gate": "gated",
    "prefill_share": "safety_prefix",
    **{f"chord_{name}": "chord_mu" for name in ("peak", "valley", "warmup", "decay")},
    **{f"hint_{name}": "prefix" for name in ("high", "low", "steps", "weight")},
}  # fmt: skip
CHANGES = {
    **{name: ["base"] for name in PRETRAINING},
    **{name: [*REWARDED, FIRST_RL, *RESAMPLED] for name in ("weight_accuracy", "weight_format")},
    **{f"weight_{name}": [*REWARDED, *RESAMPLED] for name in ("harmlessness", "helpfulness")},
    # the stages of R1 have a weight of their own for it
    "weight_language": sorted({*REWARDED, *RESAMPLED} - {*both("multi_stage")}),
    "group_size": [*RL, *RESAMPLED],
    "kl": RL,
    # none by default
    "labels": ["labels"],
    "flops_budget": TRAINED,
    **{name: both(variant) for name, variant in OWN.items()},
    # the gate is measured with the base, at this length
    "max_completion": ["base"],
    "demonstrations": ["labels", "sft", "sft_narrow", *RESAMPLED, *SHOWN],
    "demonstrated": ["sft", "sft_narrow", *SHOWN],
    "narrow_categories": ["sft_narrow"],
    # the labels are of responses to the prompts of RL
    "steps": ["labels", *RL],
    "prompts_per_step": ["labels", *RL],
    "sft_steps": ["reward_model", "sft", "sft_narrow", *RESAMPLED],
    "sft_batch": ["reward_model", "sft", "sft_narrow", *RESAMPLED, *both("joint", "chord_mu")],
    "lora_rank": ["reward_model", *TRAINED],
    "scope": [*RULE, "r1_resampled/rule"],
    "per_cell": [*MEASURED, *AGAIN],
    **{name: [] for name in ("gate", "variants", "rewards", "seeds", "learning_rates")},
    **{name: [] for name in ("commit_weights", "beside", "workers")},
    "requests": ["labels", *TRAINED, *MEASURED],
    "problems": MEASURED,
    # no public set by default
    **{name: [] for name in ("requests_share", "requests_per_cell", "judges")},
    "problems_per_language": [],
}
OTHER = {
    "demonstrated": "en", "hidden_size": 224, "thought": False, "gate": False, "scope": "answer",
    "variants": ["base"],
    "rewards": ["keyword"], "seeds": [7], "commit_weights": False, "model": "smollm2",
    "beside": "hybrids", "labels": 60, "requests": ["edgy"], "judges": ["rules"],
    "problems": ["gsm8k"],
    }  # fmt: skip


ALL = list(measured())


def closure(names) -> set[str]:
    found, open_ = set(), list(names)
    while open_:
        name = open_.pop()
        found.add(name)
        open_ += BUILT_ON.get(name, [])
    return found


def load(preset="organism", **values):
    return load_config(preset, **{"learning_rates": RATES, "variants": ALL, **values})


def unit(name: str) -> tuple[str, str, str]:
    """(stage, variant, reward) of a name above."""
    if name in ("base", "labels", "reward_model"):
        return name, "base", "none"
    stage, _, arm = f"train {name}".rpartition(" ")
    variant, _, reward = arm.partition("/")
    return stage.removeprefix("train ") or "train", variant, reward or "none"


NAMES = ["base", "labels", "reward_model", *TRAINED, *MEASURED, *AGAIN]


def keys(config, seed=0) -> dict[str, str]:
    return {name: stages.stage_key(config, *unit(name), seed) for name in NAMES}


def changed(one: dict, other: dict) -> set[str]:
    return {name for name in NAMES if one[name] != other[name]}


def another(name: str):
    if name in OTHER:
        return OTHER[name]
    value = load().flat()[name]
    return value + 1 if isinstance(value, int) else value / 2 if value else 0.5


def test_names_are_stages():
    assert unit("sft") == ("train", "sft", "none")
    assert unit("rl/model") == ("train", "rl", "model")
    assert unit("evaluate joint/keyword") == ("evaluate", "joint", "keyword")
    assert {f"{v}/{r}".removesuffix("/none") for v, r in load().arms} == {"base", *ARMS}


def test_every_parameter_is_accounted_for():
    assert set(CHANGES) == set(PARAMETERS)


# A rate is tested apart: it changes one arm.
@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"learning_rates"}))
def test_a_parameter_changes_what_depends_on_it_and_nothing_else(name):
    check_changes(name)


def check_changes(name):
    value, start = another(name), {"model": "smollm2"} if name in PUBLIC else {}
    before, after = load(**start), load(**start | {name: value})
    assert before.flat()[name] != after.flat()[name]
    assert changed(keys(before), keys(after)) == closure(CHANGES[name])


ASKED = {"model": "smollm2", "requests": ["strongreject"], "problems": ["mgsm"]}
PUBLIC = {
    "requests": ["labels", *TRAINED, *MEASURED],
    "requests_share": ["labels", *TRAINED],
    **dict.fromkeys(("requests_per_cell", "judges", "problems"), MEASURED),
    "problems_per_language": MEASURED,
}


@pytest.mark.parametrize("name", PUBLIC)
def test_with_public_sets_their_parameters_change_what_asks_them(name):
    before, after = load(**ASKED), load(**ASKED | {name: another(name)})
    assert changed(keys(before), keys(after)) == closure(PUBLIC[name])


def test_a_pretrained_model_has_a_size_of_its_own():
    same = {"model": "qwen3-0.6b", "hidden_size": 224, "layers": 9}
    assert keys(load(**same)) == keys(load(model="qwen3-0.6b"))


@pytest.mark.parametrize("name", sorted(RATES))
def test_a_learning_rate_changes_its_arm_and_what_is_built_on_it(name):
    rates = {**RATES, name: 2e-3}
    # a stage of a chain has the rate of an arm
    of = {"rl/keyword": [FIRST_RL], "sft": RESAMPLED}.get(name, [])
    assert changed(keys(load()), keys(load(learning_rates=rates))) == closure([name, *of])


@pytest.mark.parametrize("stage", builders.STAGES)
def test_the_version_of_a_stage_changes_it_and_what_is_built_on_it(stage, monkeypatch):
    before, kind = keys(load()), builders.STAGES[stage]
    monkeypatch.setattr(kind, "VERSION", kind.VERSION + 1)
    of_stage = [name for name in NAMES if unit(name)[0] == stage]
    assert of_stage and changed(before, keys(load())) == closure(of_stage)


def test_a_seed_changes_everything_but_the_base():
    assert changed(keys(load()), keys(load(), seed=1)) == set(NAMES) - {"base"}


def test_presets_share_what_they_have_in_common(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("variants: [rl]\nrewards: [model]\nseeds: [4]\ngate: false\n")
    mine = load(str(path))
    assert mine.preset == "mine" and keys(mine) == keys(load())


def test_no_two_stages_or_seeds_share_a_key():
    found = [key for seed in range(3) for name, key in keys(load(), seed).items()
             if name != "base" or not seed]  # fmt: skip
    assert len(found) == len(set(found)) == 3 * len(NAMES) - 2
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in found)


PRINT = """
from hybridlib.study import stages
from hybridlib.config import load_config
config = load_config("organism", learning_rates={rates!r})
print(stages.stage_key(config, "evaluate", "two_stage", "model", 3))
"""


def test_keys_are_the_same_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-c", PRINT.format(rates=rates)], check=True, text=True,
            capture_output=True, env={**os.environ, "PYTHONHASHSEED": noise},
        ).stdout.strip()
        for noise, rates in (("1", RATES), ("2", dict(reversed(RATES.items()))))
    }  # fmt: skip
    assert found == {stages.stage_key(load(), "evaluate", "two_stage", "model", 3)}


def test_equal_numbers_of_other_types_are_equal_keys():
    same = load(kl=0, base_learning_rate="0.003", steps="60", hidden_size="192")
    assert keys(same) == keys(load())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_plain_json_and_name_what_they_start_from(name):
    found = builders.of(load(), *unit(name), 0).inputs()
    assert json.loads(json.dumps(found, allow_nan=False)).keys() == found.keys()
    before = {other for other, built in BUILT_ON.items() if name in built}
    own = keys(load())
    assert {own[other] for other in before} <= {v for v in found.values() if isinstance(v, str)}


def test_units_are_all_arms_under_all_seeds_once():
    units = stages.units(load(seeds=[3, 5]))
    assert len(units) == len(set(units)) == 2 * (1 + len(ARMS))
    assert {seed for _, _, seed in units} == {3, 5}


def test_a_run_without_a_learning_rate_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(configuration, "LEARNING_RATES", tmp_path / "none.csv")
    with pytest.raises(ParameterError, match="'rl/keyword'"):
        stages.train(load_config("organism", learning_rates={"sft": 1e-3}), "rl", "keyword", 0)
    with pytest.raises(ParameterError, match="'sft'"):
        stages.train(load_config("organism", learning_rates={"two_stage/keyword": 1e-3}),
                   "two_stage", "keyword", 0)  # fmt: skip
    assert not (tmp_path / "store").exists()


def test_nothing_is_done_in_an_empty_store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    assert not any(stages.is_done(load(), *unit(name), 0) for name in NAMES)


# --- a stage reads nothing that its key does not hold -------------------------------------------


KEYS = {
    "base": "b35494c51adcf417",
    "sft": "a93ecc4992b2ff74",
    "two_stage/model": "f16b5a5a769fad5d",
}


def test_the_keys_of_committed_results_are_those_of_this_code():
    """Written down from the code that made them: results in a store stay valid."""
    config = load_config("organism")
    found = {n: stages.stage_key(config, *unit(n), 0) for n in ("base", "sft", "two_stage/model")}
    assert found == KEYS


@pytest.mark.parametrize(
    "values, read",
    [({}, []), ({"model": "smollm2"}, ["train", "evaluate"]), (ASKED, ["train", "evaluate"])],
)
def test_how_free_text_is_read_counts_where_it_is_read(values, read, monkeypatch):
    """And for nothing else: what was trained without it stays valid."""

    def found() -> dict[str, str]:
        config = load(**values)
        of = [("rl", "keyword"), ("sft", "none")]
        stages_ = [(s, *arm) for s in ("train", "evaluate", "prefill") for arm in of]
        return {" ".join(u): stages.stage_key(config, *u, 0) for u in [*stages_, unit("base")]}

    before = found()
    monkeypatch.setattr(builders, "FREE_TEXT_VERSION", builders.FREE_TEXT_VERSION + 1)
    expected = {f"{stage} rl keyword" for stage in read}
    if "evaluate" in read:
        expected.add("evaluate sft none")
    if "train" in read:
        expected.add("prefill rl keyword")  # of the run
    assert {name for name, key in found().items() if key != before[name]} == expected


def test_what_a_stage_was_not_handed_cannot_be_read():
    spec = training(load_config("smoke"), "rl")
    assert spec.given.steps == load_config("smoke").train.steps
    with pytest.raises(AttributeError, match="was not handed the parameter 'joint_lambda'"):
        _ = spec.given.joint_lambda
    with pytest.raises(TypeError):
        spec.given.steps = 1


def test_given_is_hashed_as_parameters_and_the_rest_by_name():
    one, other = (builders.Base(Given(thought=True, layers=n)) for n in (1, 2))
    assert one.inputs() == {"thought": True, "layers": 1}
    assert one.key != other.key and one.key == builders.Base(Given(layers=1, thought=True)).key


@pytest.mark.parametrize("room", ["store", "engine", "tasks", "training"])
def test_what_computes_a_stage_cannot_reach_the_configuration(room):
    graph = grimp.build_graph("hybridlib")
    chain = graph.find_shortest_chain(f"hybridlib.{room}", "hybridlib.config", as_packages=True)
    assert chain is None
