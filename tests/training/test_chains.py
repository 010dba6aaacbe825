"""Chains of stages through the run store."""

import json

import pandas as pd
import pytest
from safetensors.torch import load_file
from tiny import tiny

from hybridlib.evaluation import respond
from hybridlib.study import collect, stages
from hybridlib.training import loading, rewards
from hybridlib.training.cost import flops

ARMS = ("multi_stage/keyword", "self_distill", "rl/keyword", "sft")
RATES = dict.fromkeys([*ARMS, "reward_model"], 1e-3)
CHAIN = {
    "variants": ["base", "sft", "multi_stage", "self_distill"],
    "rewards": ["keyword"],
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
    run = stages.train(config, "multi_stage", "keyword", 0)
    assert len(list((store / "train").glob("[!.]*"))) == 4
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    table = collect.costs(config, stages.units(config))
    chain = table[table.variant == "multi_stage"]
    assert list(chain.phase) == ["sft", "rl", "sft", "rl"]
    assert chain.optimiser_steps.sum() == 2 * config.train.sft_steps + config.train.steps
    resampling = chain.iloc[2]
    assert resampling.completion_tokens > 0 and resampling.prompt_tokens > 0
    parameters = json.loads((stages.base(config, 0) / "model" / "size.json").read_text())[
        "parameters"
    ]
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
