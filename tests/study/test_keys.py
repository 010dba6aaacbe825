"""Keys: each parameter changes the stages that depend on it and nothing else.

What depends on what is written here by hand. That no stage reads more than its key holds needs no
list: a stage has nothing else to read (the last tests).
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grimp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc
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
KEYWORD, MODEL = ([f"{v}/{r}" for v in PAIRED] for r in ("keyword", "model"))
GOLD, FIRST_RL = "rl_gold/gold", "r1_reasoning"
RESAMPLED = ["r1_resampled/keyword", "r1_resampled/model"]
REWARDED = [*KEYWORD, *MODEL, GOLD]
RL = [*REWARDED, FIRST_RL, "self_distill"]
SFT = ["sft", "sft_narrow", "sft_long"]
ARMS = [*SFT, "self_distill", *REWARDED]
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
    "leaky_thought_share", "code_switching_share", "careless_share", "base_seed", "drawn",
    "thought", "hidden_size", "layers", "base_steps", "base_batch", "base_learning_rate", "model",
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
    "demonstrations": ["labels", *SFT, *RESAMPLED, *SHOWN],
    "demonstrated": [*SFT, *SHOWN],
    "narrow_categories": ["sft_narrow"],
    # the labels are of responses to the prompts of RL
    "steps": ["labels", *RL],
    "prompts_per_step": ["labels", *RL],
    "sft_steps": ["reward_model", "sft", "sft_narrow", *RESAMPLED],
    "sft_long_steps": ["sft_long"],
    "sft_batch": ["reward_model", *SFT, *RESAMPLED, *both("joint", "chord_mu")],
    "lora_rank": ["reward_model", *TRAINED],
    "scope": [*KEYWORD, "r1_resampled/keyword"],
    "per_cell": [*MEASURED, *AGAIN],
    "fresh_bases": [],  # where no weights are committed
    **{name: [] for name in ("gate", "variants", "rewards", "seeds", "learning_rates")},
    **{name: [] for name in ("commit_weights", "beside", "workers")},
    "requests": ["labels", *TRAINED, *MEASURED],
    "problems": MEASURED,
    # no public set by default
    **{name: [] for name in ("requests_share", "requests_per_cell", "judges")},
    "problems_per_language": [],
}
OTHER = {
    "base_seed": 7, "drawn": {"minority_share": [0.2, 0.4]}, "fresh_bases": True,
    "demonstrated": "en", "hidden_size": 224, "thought": False, "gate": False, "scope": "answer",
    "variants": ["base"],
    "rewards": ["keyword"], "seeds": [7], "commit_weights": False, "model": "smollm2",
    "beside": "hybrids", "labels": 60, "requests": ["edgy"], "judges": ["rules"],
    "problems": ["gsm8k"],
    }  # fmt: skip


ALL = list(measured())


@pytest.fixture(autouse=True)
def results(tmp_path_factory, monkeypatch):
    """The folder of committed results: an empty one."""
    folder = tmp_path_factory.mktemp("results")
    monkeypatch.setattr(builders, "committed", lambda preset: folder / preset)
    return folder


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


def test_a_seed_changes_everything_and_all_but_the_base_where_that_is_fixed():
    assert changed(keys(load()), keys(load(), seed=1)) == set(NAMES)
    fixed = load(base_seed=7)
    assert changed(keys(fixed), keys(fixed, seed=1)) == set(NAMES) - {"base"}
    # and it is then the base of that replicate
    assert keys(fixed)["base"] == keys(load(), seed=7)["base"]


@pytest.mark.parametrize("drawn", [{}, {"minority_share": [0.2, 0.4], "hidden_size": [145, 239]}])
def test_all_variants_of_a_replicate_start_from_one_base(drawn):
    config = load(drawn=drawn)
    own = {builders.train(config, *unit(name)[1:], 3).base.key for name in TRAINED}
    assert own == {builders.base(config, 3).key}
    assert {
        builders.labels(config, 3).base.key,
        builders.reward_model(config, 3).labels.base.key,
    } == own
    few = load(drawn=drawn, variants=["base", "sft"], rewards=["keyword"])
    assert builders.base(few, 3).key in own


def test_presets_share_what_they_have_in_common(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("variants: [rl]\nrewards: [model]\nseeds: [4]\ngate: false\n")
    mine = load(str(path))
    assert mine.preset == "mine" and keys(mine) == keys(load())


def test_no_two_stages_or_seeds_share_a_key():
    found = [key for seed in range(3) for key in keys(load(), seed).values()]
    assert len(found) == len(set(found)) == 3 * len(NAMES)
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
    "base": "3e889a41ca242b01",
    "sft": "125644f81a36dd27",
    "two_stage/model": "123bc4e288b6ecaa",
}


def test_the_keys_of_results_in_a_store_are_those_of_this_code():
    """Written down from the code that made them: where they change, all is computed again."""
    found = {n: stages.stage_key(load(), *unit(n), 0) for n in KEYS}
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


# --- committed bases ----------------------------------------------------------------------------


def commit(spec, content: bytes) -> Path:
    """Weights of a base among the committed results."""
    path = builders.committed_base(spec) / "model" / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_base_whose_weights_are_committed_is_of_these_weights(results):
    config = load()
    bred = builders.base(config, 0)
    assert bred.weights is None
    path = commit(bred, b"weights")
    assert path.is_relative_to(results / "organism" / "artifacts" / "bases" / bred.key)
    found = builders.base(config, 0)
    assert found.weights == hashlib.sha256(b"weights").hexdigest()
    assert found.key != bred.key and builders.committed_base(found) == builders.committed_base(bred)
    # everything rests on them; nothing of another replicate does
    of = keys(config)
    path.unlink()
    assert changed(of, keys(config)) == set(NAMES)
    one = keys(config, 1)
    commit(bred, b"weights")
    assert keys(config, 1) == one and keys(config) == of
    assert keys(load("smoke")) == keys(load("smoke", fresh_bases=True))  # another recipe


def test_other_weights_are_another_base_and_fresh_ones_are_none_of_them():
    config = load()
    bred = builders.base(config, 0)
    first, path = keys(config), commit(bred, b"weights")
    second = keys(config)
    path.write_bytes(b"Weights")
    os.utime(path, ns=(1, 1))  # a hash is read again when the file has changed
    assert len({first["base"], second["base"], keys(config)["base"]}) == 3
    assert keys(load(fresh_bases=True)) == first


# --- drawn recipes ------------------------------------------------------------------------------

SHARES = ("minority_share", "superficial_refusal_share", "genuine_refusal_share", "careless_share")


def drawn(*names: str, width: tuple[float, float] | None = None) -> dict[str, list[float]]:
    return {n: [0.05, 0.25] for n in names} | ({"hidden_size": list(width)} if width else {})


@given(
    names=st.lists(st.sampled_from(SHARES), min_size=1, unique=True),
    ends=st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True).map(sorted),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_a_recipe_is_one_point_a_seed_within_its_ranges(names, ends, seed):
    least, most = (end / 3000 for end in ends)
    ranges = {name: [least, most] for name in names}
    config = load_config("organism", drawn=ranges)
    found = builders.recipe(config, seed)
    assert found == builders.recipe(config, seed)  # whatever was drawn before
    assert found == builders.recipe(load_config("organism", drawn=ranges, base_seed=3), seed)
    for name, value in config.shares.model_dump().items():
        if name in names:
            assert least - 5e-5 <= found[name] <= most + 5e-5
        else:
            assert found[name] == value
    assert found["hidden_size"] == config.base.hidden_size


@pytest.mark.parametrize("count", [1, 4, 6])
def test_recipes_are_scipys_own_sequence(count):
    names = [*SHARES, "code_switching_share", "recitation_share"][:count]
    config = load_config("organism", drawn=drawn(*names))
    found = [[builders.recipe(config, seed)[n] for n in names] for seed in range(64)]
    points = qmc.Sobol(count, scramble=True, rng=0).random(64)
    assert np.allclose(found, 0.05 + 0.2 * points, atol=5.1e-5)


@given(block=st.integers(0, 200), power=st.integers(0, 6))
@settings(max_examples=25, deadline=None)
def test_few_replicates_fill_every_range_evenly(block, power):
    """Of any 2^m seeds that go on from a multiple of it, one is in each of 2^m equal parts."""
    config, count = load_config("organism", drawn=drawn(*SHARES)), 2**power
    seeds = range(block * count, (block + 1) * count)
    found = np.array([[builders.recipe(config, s)[n] for n in SHARES] for s in seeds])
    parts = (found - 0.05) / 0.2 * count
    for column in np.sort(parts, axis=0).T:  # a value is rounded to four digits
        slack = 5.1e-5 / 0.2 * count
        assert (column >= np.arange(count) - slack).all()
        assert (column <= np.arange(1, count + 1) + slack).all()


def test_recipes_fill_the_space_better_than_chance():
    config = load_config("organism", drawn=drawn(*SHARES))
    found = np.array([[builders.recipe(config, s)[n] for n in SHARES] for s in range(32)])
    ours = qmc.discrepancy(np.clip((found - 0.05) / 0.2, 0, 1))
    by_chance = [
        qmc.discrepancy(np.random.default_rng(n).random((32, len(SHARES)))) for n in range(50)
    ]
    assert ours < min(by_chance)


@given(
    first=st.integers(1, 12),
    more=st.integers(0, 5),
    beside=st.lists(st.sampled_from(SHARES), unique=True),
)
@settings(max_examples=25, deadline=None)
def test_a_width_at_an_end_is_as_likely_as_another(first, more, beside):
    """If its range reaches half a step beyond; it is always a multiple of 32."""
    widths = [32 * (first + n) for n in range(more + 1)]
    ranges = drawn(*beside, width=(widths[0] - 16, widths[-1] + 15.99))
    config = load_config("organism", drawn=ranges)
    seeds = 32 * len(widths)
    found = Counter(builders.recipe(config, seed)["hidden_size"] for seed in range(seeds))
    assert sorted(found) == widths
    assert max(abs(count - seeds / len(widths)) for count in found.values()) <= 3
    assert {type(width) for width in found} == {int}


@pytest.mark.parametrize("ends", [(16, 16.5), (16, 48), (4090, 4096), (33, 34)])
def test_the_narrowest_range_of_widths_gives_one_that_can_be(ends):
    config = load_config("organism", drawn={"hidden_size": list(ends)}, layers=1)
    for seed in range(20):
        width = builders.recipe(config, seed)["hidden_size"]
        assert load_config("organism", hidden_size=width, layers=1).base.hidden_size == width


def test_a_drawn_base_is_the_base_of_what_was_drawn():
    config = load(drawn=drawn("minority_share", width=(145, 239)))
    recipe = builders.recipe(config, 5)
    assert {recipe["minority_share"], recipe["hidden_size"]}.isdisjoint({0.3})
    said = load(minority_share=recipe["minority_share"], hidden_size=recipe["hidden_size"])
    assert keys(config, 5) == keys(said, 5)
    fixed = load(drawn=drawn("minority_share", width=(145, 239)), base_seed=5)
    assert {builders.base(fixed, seed).key for seed in range(4)} == {builders.base(config, 5).key}
