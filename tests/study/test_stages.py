"""Keys: each parameter changes the stages that depend on it and nothing else.

What depends on what stands here by hand; and a second time as the code has it, by the parameters
that each stage's functions read.
"""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hybridlib import config as configuration
from hybridlib.config import PARAMETERS, load_config
from hybridlib.store.errors import ParameterError
from hybridlib.study import stages
from hybridlib.training.hybrids import FORMULATIONS
from hybridlib.variants import measured as MEASURED_VARIANTS

LIBRARY = Path(stages.__file__).parent
PAIRED = ("rl", "two_stage", "multi_stage", "joint", "chord_mu", "demo_in_group", "gated", "prefix",
          "safety_prefix")  # fmt: skip
RULE, MODEL = ([f"{v}/{r}" for v in PAIRED] for r in ("rule", "model"))
GOLD, FIRST_RL = "rl_gold/gold", "r1_reasoning"
RESAMPLED = ["r1_resampled/rule", "r1_resampled/model"]
PAID = [*RULE, *MODEL, GOLD]
RL = [*PAID, FIRST_RL, "self_distill"]
ARMS = ["sft", "sft_narrow", "self_distill", *PAID]
TRAINED = [*ARMS, FIRST_RL, *RESAMPLED]
RATES = dict.fromkeys([*ARMS, "reward_model"], 1e-3)
MEASURED = [f"evaluate {name}" for name in ("base", *ARMS)]
AGAIN = [f"{stage} {name}" for stage in ("prefill", "usage") for name in ("base", *ARMS)]


def both(*variants: str) -> list[str]:
    return [f"{variant}/{reward}" for variant in variants for reward in ("rule", "model")]


SHOWN = ["self_distill", *both("joint", "chord_mu", "demo_in_group", "gated", "prefix")]

# Who is built on whom.
BUILT_ON = {
    "base": ["labels", *TRAINED, "evaluate base", "prefill base", "usage base"],
    "labels": ["reward_model"],
    "reward_model": [*MODEL, "r1_resampled/model"],
    **{name: [] for name in TRAINED},
    "sft": [*both("two_stage"), FIRST_RL],
    FIRST_RL: RESAMPLED,
    **{f"r1_resampled/{reward}": [f"multi_stage/{reward}"] for reward in ("rule", "model")},
}
for _name in ARMS:
    BUILT_ON[_name] += [f"{stage} {_name}" for stage in ("evaluate", "prefill", "usage")]

# Which stages a parameter changes by itself; what is built on them follows.
BREEDING = (
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
    **{name: ["base"] for name in BREEDING},
    **{name: [*PAID, FIRST_RL, *RESAMPLED] for name in ("weight_accuracy", "weight_format")},
    **{f"weight_{name}": [*PAID, *RESAMPLED] for name in ("harmlessness", "helpfulness")},
    # the stages of R1 have a weight of their own for it
    "weight_language": sorted({*PAID, *RESAMPLED} - {*both("multi_stage")}),
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
    "per_cell": [*measured(), *AGAIN],
    "evaluation_seed": [*measured(), *AGAIN],
    **{name: [] for name in ("gate", "variants", "rewards", "seeds", "learning_rates")},
    **{name: [] for name in ("commit_weights", "beside", "workers")},
    "requests": ["labels", *TRAINED, *measured()],
    "problems": measured(),
    # no public set by default
    **{name: [] for name in ("requests_share", "requests_per_cell", "judges")},
    "problems_per_language": [],
}
OTHER = {
    "demonstrated": "en", "hidden_size": 224, "thought": False, "gate": False, "scope": "answer",
    "variants": ["base"],
    "rewards": ["rule"], "seeds": [7], "commit_weights": False, "model": "smollm2",
    "beside": "organism", "requests": ["edgy"], "judges": ["rules"], "problems": ["gsm8k"],
    }  # fmt: skip


ALL = list(MEASURED_VARIANTS)


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


NAMES = ["base", "labels", "reward_model", *TRAINED, *measured(), *AGAIN]


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
    assert unit("evaluate joint/rule") == ("evaluate", "joint", "rule")
    assert {f"{v}/{r}".removesuffix("/none") for v, r in load().arms} == {"base", *ARMS}


def test_every_parameter_is_accounted_for():
    assert set(CHANGES) == set(PARAMETERS)


# A rate is tested apart: it changes one arm.
@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"learning_rates"}))
def test_a_parameter_changes_what_depends_on_it_and_nothing_else(name):
    check_changes(name)


def check_changes(name):
    value = another(name)
    before, after = load(), load(**{name: value})
    assert before.flat()[name] != after.flat()[name]
    assert changed(keys(before), keys(after)) == closure(CHANGES[name])


ASKED = {"requests": ["strongreject"], "problems": ["mgsm"]}
PUBLIC = {
    "requests": ["labels", *TRAINED, *measured()],
    "requests_share": ["labels", *TRAINED],
    **dict.fromkeys(("requests_per_cell", "judges", "problems"), measured()),
    "problems_per_language": measured(),
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
    of = {"rl/rule": [FIRST_RL], "sft": RESAMPLED}.get(name, [])
    assert changed(keys(load()), keys(load(learning_rates=rates))) == closure([name, *of])


@pytest.mark.parametrize("stage", configuration.STAGE_VERSIONS)
def test_the_version_of_a_stage_changes_it_and_what_is_built_on_it(stage, monkeypatch):
    before = keys(load())
    versions = {**configuration.STAGE_VERSIONS, stage: configuration.STAGE_VERSIONS[stage] + 1}
    monkeypatch.setattr(configuration, "STAGE_VERSIONS", versions)
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
from hybridlib.study import stages as runs
from hybridlib.config import load_config
config = load_config("organism", learning_rates={rates!r})
print(runs.stage_key(config, "evaluate", "two_stage", "model", 3))
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
    same = load(kl=0, base_learning_rate="0.003", steps="60", hidden_size=192.0)
    assert keys(same) == keys(load())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_plain_json_and_name_what_they_start_from(name):
    found = stages.inputs(load(), *unit(name), 0)
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
    with pytest.raises(ParameterError, match="'rl/rule'"):
        stages.train(load_config("organism", learning_rates={"sft": 1e-3}), "rl", "rule", 0)
    with pytest.raises(ParameterError, match="'sft'"):
        stages.train(load_config("organism", learning_rates={"two_stage/rule": 1e-3}),
                   "two_stage", "rule", 0)  # fmt: skip
    assert not (tmp_path / "store").exists()


def test_nothing_is_done_in_an_empty_store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    assert not any(stages.is_done(load(), *unit(name), 0) for name in NAMES)


# --- the same by what the code reads ----------------------------------------------------------


@cache
def functions(module: str) -> dict[str, ast.AST]:
    """Functions and classes of a module by name."""
    tree = ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


@cache
def aliases(module: str) -> dict[str, tuple[str, str]]:
    """Name in a module -> (module, function) of the library; function "" for a module."""
    tree = ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
    found = {name: (module, name) for name in functions(module)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hybridlib"):
            for alias in node.names:
                name = alias.asname or alias.name
                whole = node.module == "hybridlib"
                source = alias.name if whole else node.module.removeprefix("hybridlib.")
                found[name] = (source, "" if whole else alias.name)
    return found


def read(*entries: tuple[str, str]) -> set[str]:
    """Parameters that functions of the library read as attributes, and all that they call."""
    found, done, open_ = set(), set(), list(entries)
    while open_:
        module, name = open_.pop()
        if (module, name) in done or module in ("config", "store") or name not in functions(module):
            continue
        done.add((module, name))
        for node in ast.walk(functions(module)[name]):
            if isinstance(node, ast.Attribute):
                found |= {node.attr} & set(PARAMETERS)
                owner = node.value.id if isinstance(node.value, ast.Name) else None
                source, what = aliases(module).get(owner, (None, None))
                if source and not what:
                    open_.append((source, node.attr))
            elif isinstance(node, ast.Name) and node.id in aliases(module):
                open_.append(aliases(module)[node.id])
    assert len(done) >= len(entries) and all(entry in done for entry in entries)
    return found


ENTRIES = {
    "base": [("models", "pretrain"), ("evaluate", "gate")],
    "labels": [("reward_model", "write_labels")],
    "reward_model": [("reward_model", "fit")],
    "sft": [("train", "sft")],
    "sft_narrow": [("train", "sft")],
    "joint/model": [("train", "rl"), ("reward_model", "load")],
    "evaluate base": [("evaluate", "respond"), ("tasks", "evaluation_prompts")],
    "evaluate joint/rule": [("evaluate", "respond"), ("evaluate", "add_proxy"),
                            ("evaluate", "curves"), ("rewards", "rule_reward")],
    "prefill sft": [("prefill", "respond"), ("tasks", "evaluation_prompts")],
    "usage sft": [("usage", "respond"), ("tasks", "evaluation_prompts")],
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_every_parameter_that_a_stage_reads_is_in_its_key(name):
    names = read(*ENTRIES[name]) - {"learning_rates"}
    if name == "joint/model" or name == "sft":
        names.remove("narrow_categories")  # read for sft_narrow alone
    assert names, "the search finds nothing"
    before = stages.stage_key(load(**ASKED), *unit(name), 0)
    unnoticed = {
        parameter for parameter in names
        if before
        == stages.stage_key(load(**ASKED | {parameter: another(parameter)}), *unit(name), 0)
    }  # fmt: skip
    assert unnoticed == set()


@pytest.mark.parametrize("name", [name for name in FORMULATIONS if name])
def test_a_formulation_names_the_parameters_that_it_reads(name):
    formulation = FORMULATIONS[name]
    functions_ = [f for f in (formulation.loss, formulation.begin) if f]
    of_base = {"thought", "layers"}
    found = read(*(("hybrids", f.__name__) for f in functions_)) - of_base
    given = {"demonstrations", "sft_batch"}  # by the step
    assert found - given == set(formulation.parameters) - given
    source = "".join(inspect.getsource(f) for f in functions_)
    assert ("s.batch()" in source) == ("sft_batch" in formulation.parameters)
    shown = formulation.shows or re.search(r"s\.batch|demonstration\b[^s]", source)
    assert bool(shown) == ("demonstrations" in formulation.parameters)


def test_the_search_finds_what_is_known_to_be_read():
    assert {"demonstrations", "sft_steps", "sft_batch", "lora_rank", "thought"} <= read(
        ("train", "sft")
    )
    assert {"kl", "group_size", "weight_language", "max_completion"} <= read(("train", "rl"))
    assert {"base_batch", "careless_share", "minority_share", "layers"} <= read(
        ("models", "pretrain")
    )
    assert "kl" not in read(("train", "sft"))
