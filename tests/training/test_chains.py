"""Chains of stages through the run store, and the choice of learning rates that are lacking."""

import json

import pandas as pd
import pytest
from safetensors.torch import load_file
from tiny import tiny

from hybridlib import config as configuration
from hybridlib.config import load_config
from hybridlib.evaluation import respond
from hybridlib.study import collect, jobs, stages, tune
from hybridlib.training import loading, rewards
from hybridlib.training.cost import flops

ARMS = ("multi_stage/rule", "self_distill", "rl/rule", "sft")
RATES = dict.fromkeys([*ARMS, "reward_model"], 1e-3)
CHAIN = {
    "variants": ["base", "sft", "multi_stage", "self_distill"],
    "rewards": ["rule"],
    "steps": 6,
    "learning_rates": RATES,
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(respond, "GATE_PER_CELL", 1)

    def pay(harmlessness, prompts, responses, texts):  # a random base earns nothing
        return [len({*text.split()}) % 5 / 4 for text in texts]

    monkeypatch.setattr(rewards, "task_rewards", pay)
    return tmp_path / "store"


def weights(run):
    return load_file(run / "model" / "adapter_model.safetensors")


def test_a_chain_is_trained_stage_by_stage_and_its_cost_counted_as_a_whole(store):
    config = tiny(**CHAIN, max_completion=30)
    run = stages.train(config, "multi_stage", "rule", 0)
    assert len(list((store / "train").glob("[!.]*"))) == 4
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    table = collect.costs(config, stages.units(config))
    chain = table[table.variant == "multi_stage"]
    assert list(chain.phase) == ["sft", "rl", "sft", "rl"]
    assert chain.optimiser_steps.sum() == 2 * config.train.sft_steps + config.train.steps
    resampling = chain.iloc[2]
    assert resampling.completion_tokens > 0 and resampling.prompt_tokens > 0
    parameters = json.loads((stages.base(config) / "model" / "size.json").read_text())["parameters"]
    counted = ["prompt_tokens", "completion_tokens", "scored_tokens", "trained_tokens"]
    for row in table.to_dict("records"):
        assert row["flops"] == flops(parameters, {name: row[name] for name in counted})
        assert (row["scored_tokens"] > 0) == (row["variant"] == "self_distill")
    assert list(collect.warnings(config).columns) == [
        "variant", "reward", "seed", "name", "step", "says"
    ]  # fmt: skip


def test_a_run_is_measured_at_a_budget(store, monkeypatch):
    values = CHAIN | {"variants": ["self_distill"]}
    unlimited = tiny(**values)
    whole = collect.costs(unlimited, stages.units(unlimited)).flops.sum()
    config = tiny(**values, flops_budget=whole / 2)
    found = stages.train(config, "self_distill", "none", 0)
    then = load_file(found / "model_at_budget" / "adapter_model.safetensors")
    assert any((then[name] != value).any() for name, value in weights(found).items())
    load, loaded = loading.load_policy, []
    monkeypatch.setattr(loading, "load_policy", lambda *a: loaded.append(a[1]) or load(*a))
    measured = stages.evaluate(config, "self_distill", "none", 0)
    assert loaded == [found / "model", found / "model_at_budget"]
    at, end = (pd.read_parquet(measured / f"{n}.parquet") for n in ("at_budget", "responses"))
    assert list(at.prompt_id) == list(end.prompt_id)
    never = tiny(**values, flops_budget=2 * whole)
    assert not (stages.evaluate(never, "self_distill", "none", 0) / "at_budget.parquet").exists()


# --- learning rates ------------------------------------------------------------------------------


class Here:
    """A pool of processes that is this process."""

    def __init__(self, *args) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *args) -> None: ...

    map = staticmethod(map)


def test_only_arms_that_are_lacking_are_tuned_and_the_rest_stays(tmp_path, monkeypatch):
    path, asked = tmp_path / "rates.csv", []
    before = (
        "variant,reward,seed,learning_rate,objective,chosen\n"
        "reward_model,none,100,0.0003,-0.00348382,True\n"
        "reward_model,none,100,0.001,-0.00696498,False\n"
        "rl,rule,100,0.001,1.46875,True\n"
    )
    path.write_text(before)

    def trial(preset, chosen, arm, rate, seed):
        asked.append((arm, rate, chosen.get("sft"), chosen["rl/rule"]))
        return -abs(rate - (3e-4 if arm[0] == "sft" else 3e-3))

    monkeypatch.setattr(tune, "LEARNING_RATES", path)
    monkeypatch.setattr(configuration, "LEARNING_RATES", path)
    monkeypatch.setattr(jobs, "processes", Here)
    monkeypatch.setattr(tune, "_trial", trial)
    monkeypatch.setattr(stages, "base", lambda config: None)
    chosen = load_config("hybrids", variants=["base", "rl", "sft", "gated"], rewards=["rule"])
    monkeypatch.setattr(tune, "load_config", lambda preset: chosen)
    table = tune.tune("hybrids")
    assert path.read_text().startswith(before)
    assert [arm for arm, *_ in asked] == [("sft", "none")] * 3 + [("gated", "rule")] * 3
    # what others are built on was chosen first, and what stands in the file is used
    assert {known[2:] for known in asked[3:]} == {(3e-4, 1e-3)}
    assert {known[2:] for known in asked[:3]} == {(None, 1e-3)}
    picked = table[table.chosen].set_index(["variant", "reward"]).learning_rate
    assert picked["sft", "none"] == 3e-4 and picked["gated", "rule"] == 3e-3
    written, count = path.read_text(), len(asked)
    tune.tune("hybrids")
    assert path.read_text() == written and len(asked) == count
