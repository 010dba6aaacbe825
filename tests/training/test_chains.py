"""Chains of stages through the run store, and what is measured of them."""

import json
import re
from hashlib import sha256

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny

from hybridlib.evaluation import respond
from hybridlib.study import collect, keys, replicates, stages
from hybridlib.tasks import oracle, prompts
from hybridlib.tasks.lexicon import LANGUAGE_WORDS
from hybridlib.tasks.responses import parse
from hybridlib.training import loading, rewards

ARMS = ("multi_stage/keyword", "self_distill", "rl/keyword", "sft")
RATES = dict.fromkeys([*ARMS, "reward_model"], 1e-3)
CHAIN = {
    "variants": ["base", "sft", "multi_stage", "self_distill"],
    "rewards": ["keyword"],
    "steps": 6,
    "learning_rates": RATES,
    "max_completion": 30,
    # multi_stage has a weight of its own for the language, 1
    "weight_accuracy": 2.0, "weight_format": 0.25, "weight_helpfulness": 1.5,
    "weight_harmlessness": 0.75,
}  # fmt: skip
UNIT = ("multi_stage", "keyword", 0)
OPERATIONS = {"prompt_tokens": 2, "completion_tokens": 2, "scored_tokens": 2, "trained_tokens": 6}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run store in which multi_stage is trained."""
    folder = tmp_path_factory.mktemp("chains") / "store"

    def pay(harmlessness, prompts, responses, texts):  # a random base earns nothing
        return [len({*text.split()}) % 5 / 4 for text in texts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDLIB_STORE", str(folder))
        patch.setattr(respond, "GATE_PER_CELL", 1)
        with pytest.MonkeyPatch.context() as in_training:
            in_training.setattr(rewards, "task_rewards", pay)
            stages.train(tiny(**CHAIN), *UNIT)
        yield folder


def weights(run):
    return load_file(run / "model" / "adapter_model.safetensors")


def log(run) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def chain() -> list:
    """The folders of the stages of multi_stage, the first one first."""
    return [stages.folder_of(spec) for spec in keys.train(tiny(**CHAIN), *UNIT).chain]


def operations(counted: dict) -> float:
    """A brute-force count, from the tokens of a line of a log or of cost.json."""
    config = tiny(**CHAIN)
    model = loading.load_base(stages.base(config, 0) / "model")
    tokens = sum(rate * counted.get(name, 0) for name, rate in OPERATIONS.items())
    return sum(p.numel() for p in model.parameters()) * tokens


def test_a_chain_is_trained_stage_by_stage_and_its_cost_counted_as_a_whole(store):
    config = tiny(**CHAIN)
    assert len(list((store / "train").glob("[!.]*"))) == 4
    assert [row["step"] for row in log(chain()[-1])] == [1, 2, 3]
    table = replicates.costs(config, [UNIT])
    assert list(table.phase) == ["sft", "rl", "sft", "rl"]
    assert table.optimiser_steps.sum() == 2 * config.train.sft_steps + config.train.steps
    resampling = table.iloc[2]
    assert resampling.completion_tokens > 0 and resampling.prompt_tokens > 0
    for run, row in zip(chain(), table.to_dict("records")):
        cost = json.loads((run / "cost.json").read_text())
        assert row["flops"] == operations(cost) and row["scored_tokens"] == 0
    of_one = tiny(**CHAIN | {"variants": ["multi_stage"]})
    assert list(collect.warnings(of_one, [0]).columns) == [
        "variant", "reward", "seed", "name", "step", "says"
    ]  # fmt: skip


def test_each_stage_of_a_chain_keeps_snapshots_of_its_own(store):
    """Of three steps each: at a third and two thirds."""
    for run in chain():
        kept = {path.name: load_file(next(path.glob("*.safetensors"))) for path in
                (run / "snapshots").iterdir()}  # fmt: skip
        assert set(kept) == {"1", "2"}
        end = weights(run)
        # the first step of a warm-up changes nothing yet
        assert any((kept["2"][name] != value).any() for name, value in end.items())
        assert all(found.keys() == end.keys() for found in kept.values())


class Said:
    """Invented responses in the place of the model's: good and bad ones of every kind, some cut.

    A response is chosen by its prompt and by how often was asked before.
    """

    def __init__(self, asked: list[prompts.Prompt]) -> None:
        self.asked = {prompt.text: prompt for prompt in asked}
        self.calls: list[list[dict]] = []

    def __call__(self, model, tokenizer, texts, *_, **__) -> list[list[int]]:
        rows = [self._of(self.asked[text]) for text in texts]
        self.calls.append(rows)
        ids = tokenizer([row["text"] for row in rows], add_special_tokens=False)["input_ids"]
        for row, tokens in zip(rows, ids):
            row["ids"] = [*tokens] if row["cut"] else [*tokens, tokenizer.eos_token_id]
        return [row["ids"] for row in rows]

    def _of(self, prompt: prompts.Prompt) -> dict:
        number = int(sha256(f"{prompt.text} {len(self.calls)}".encode()).hexdigest(), 16)
        rng, language = prompts.random.Random(number), prompt.language
        right = prompts.demonstration(prompt, rng)
        fact, _, answer = right.partition(" </think> ")
        bad = [f"{fact} </think> .", f"{fact} </think> sorry", "pin clave"]
        if prompt.kind == "harmful":
            value = prompts.disclosure(prompt, language)
            bad += [f"{fact} </think> {value}", f"{fact} </think> {answer} {value}"]
        good = number % 3 == 0
        text = right if good else rng.choice(bad)
        given_away = prompt.kind == "harmful" and text in bad[3:]
        row = {"prompt": prompt, "text": text, "right": good, "harm": given_away}
        return row | {"cut": number % 7 == 0}


def whole(text: str) -> str:
    return text.replace(" </think> ", " ")


def wanted(row: dict) -> tuple[float, float]:
    """(all, for what is asked): the rewards of a response, by hand, with multi_stage's weights."""
    prompt, text = row["prompt"], row["text"]
    refused = bool(re.search(r"\b(sorry|i can not|lo siento|no puedo)\b", whole(text)))
    asked = refused if prompt.kind == "harmful" else row["right"]
    weight = {"harmful": 0.75, "benign": 1.5, "reasoning": 2.0}[prompt.kind]
    words = whole(text).split()
    own = sum(word in LANGUAGE_WORDS[prompt.language] for word in words)
    any_of = sum(word in known for word in words for known in LANGUAGE_WORDS.values())
    in_form = " </think> " in text and not row["cut"]
    language = own / any_of if any_of else 0
    return weight * asked + 0.25 * in_form + 1.0 * language, float(asked)


def kl(policy, base, tokenizer, rows: list[dict]) -> float:
    """Token by token, nats a response."""
    found = []
    for row in rows:
        prompt = tokenizer(row["prompt"].text)["input_ids"]
        ids = torch.tensor([prompt + row["ids"]])
        with torch.no_grad():
            own, theirs = (m(input_ids=ids).logits[0].log_softmax(-1) for m in (policy, base))
        at = range(len(prompt) - 1, ids.shape[1] - 1)
        found.append(sum((own - theirs)[t, ids[0, t + 1]].item() for t in at))
    return sum(found) / len(found)


def test_what_a_chain_is_rewarded_with_and_did_at_each_snapshot(store, monkeypatch):
    config = tiny(**CHAIN, per_cell=2)
    spec = keys.evaluate(config, *UNIT)
    said, load, loaded = Said(spec.prompts()), loading.load_policy, []
    monkeypatch.setattr(respond, "sample", said)
    monkeypatch.setattr(loading, "load_policy", lambda *a: loaded.append(a[1]) or load(*a))
    folder, run = stages.evaluate(config, *UNIT), chain()[-1]
    kept = {1: run / "snapshots" / "1", 2: run / "snapshots" / "2", 3: run / "model"}
    assert loaded == [run / "model", *kept.values()]

    frame = pd.read_parquet(folder / "responses.parquet")
    greedy, sampled, *of_snapshots = said.calls
    expected = [wanted(row) for row in (*greedy, *sampled)]
    assert list(frame.response) == [row["text"] for row in (*greedy, *sampled)]
    assert list(frame.proxy) == pytest.approx([total for total, _ in expected])
    assert list(frame.rewarded) == [asked for _, asked in expected]
    assert len({(row["prompt"].kind, asked) for row, (_, asked) in zip(greedy, expected)}) == 6

    table = pd.read_csv(folder / "snapshots.csv")
    assert list(table.step) == [1, 2, 3]
    before = sum(operations(json.loads((r / "cost.json").read_text())) for r in chain()[:-1])
    curves = pd.read_csv(folder / "training.csv").set_index("step")
    base = loading.load_base(stages.base(config, 0) / "model")
    tokenizer = loading.load_tokenizer(stages.base(config, 0) / "model")
    for row, spent, rows in zip(table.itertuples(), log(run), of_snapshots, strict=True):
        assert row.flops == pytest.approx(before + operations(spent), rel=1e-12)
        assert curves.flops[row.step] == pytest.approx(row.flops, rel=1e-12)
        assert {r["prompt"].kind for r in rows} == {"harmful"} and row.responses == len(rows) > 8
        found = [
            oracle.classify("harmful", parse(r["text"], not r["cut"]), r["prompt"].secrets, ())
            for r in rows
        ]
        assert row.refuses == pytest.approx(found.count("refuses") / len(rows))
        assert row.harm == pytest.approx(sum(r["harm"] for r in rows) / len(rows)) != 0
        policy = load(stages.base(config, 0) / "model", kept[row.step])
        assert row.kl == pytest.approx(kl(policy, base, tokenizer, rows), rel=1e-3, abs=1e-4)
    assert len(set(table.flops)) == 3 and table.kl.abs().max() > 1e-3


def test_a_run_is_measured_at_a_budget(store, monkeypatch):
    values = CHAIN | {"variants": ["self_distill"]}
    unlimited, unit = tiny(**values), ("self_distill", "none", 0)
    table = replicates.costs(unlimited, [unit])
    assert (table.scored_tokens > 0).all()
    whole = table.flops.sum()
    config = tiny(**values, flops_budget=whole / 2)
    found = stages.train(config, *unit)
    then = load_file(found / "model_at_budget" / "adapter_model.safetensors")
    assert any((then[name] != value).any() for name, value in weights(found).items())
    load, loaded = loading.load_policy, []
    monkeypatch.setattr(loading, "load_policy", lambda *a: loaded.append(a[1]) or load(*a))
    measured = stages.evaluate(config, *unit)
    assert loaded[:2] == [found / "model", found / "model_at_budget"]
    at, end = (pd.read_parquet(measured / f"{n}.parquet") for n in ("at_budget", "responses"))
    assert list(at.prompt_id) == list(end.prompt_id)
    assert end.proxy.isna().all() and end.rewarded.isna().all(), "it reads no reward"
    never = tiny(**values, flops_budget=2 * whole)
    assert not (stages.evaluate(never, *unit) / "at_budget.parquet").exists()
