"""Training: what the trainers are given and what they minimise, held against TRL and autograd."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from reading import sum_of
from safetensors.torch import load_file
from tiny import RATE, handed, tiny, training
from training_runs import (
    Recorder,
    adapter,
    close,
    demonstrations,
    gradients,
    rl_prompts,
    rows,
    run_rl,
    run_sft,
)
from trl import GRPOConfig, GRPOTrainer

from hybridlib.config import load_config
from hybridlib.evaluation import respond
from hybridlib.store.stage import Given
from hybridlib.study import keys
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.lexicon import LANGUAGE_WORDS, LEXICON
from hybridlib.tasks.responses import parse
from hybridlib.tasks.world import world
from hybridlib.training import (
    callbacks,
    data,
    grpo,
    loading,
    pretrain,
    reward_model,
    rewards,
    rollouts,
    sft,
)
from hybridlib.training.cost import flops

# --- GRPO against TRL's own ------------------------------------------------------------------


@pytest.fixture
def recorded(base, double, monkeypatch, tmp_path) -> Recorder:
    """A trainer after three steps, with the inputs of each."""
    monkeypatch.setattr(grpo, "PolicyTrainer", Recorder)
    run_rl(tiny(), base, tmp_path / "recorded")
    trainer = Recorder.made.pop()
    trainer.model.train()
    return trainer


def test_packing_and_leaving_rows_out_change_neither_loss_nor_gradient(
    recorded: Recorder, monkeypatch
):
    dropped, counted = 0, recorded.tokens["trained_tokens"]
    for inputs in list(recorded.seen):  # which grows by each call
        # Some prompts earn nothing here, whatever was sampled.
        lengths = inputs["prompt_mask"].sum(1)
        inputs["advantages"] = inputs["advantages"] * (lengths < lengths.max())
        ours = grpo.PolicyTrainer._compute_loss(recorded, recorded.model, inputs)
        paid = inputs["advantages"] != 0
        dropped += int((~paid).sum())
        counted += int((lengths + inputs["completion_mask"].sum(1))[paid].sum())
        assert recorded.tokens["trained_tokens"] == counted
        grads = gradients(recorded, ours)
        with monkeypatch.context() as patch:
            scored = GRPOTrainer._get_per_token_logps_and_entropies
            patch.setattr(grpo.PolicyTrainer, "_get_per_token_logps_and_entropies", scored)
            theirs = GRPOTrainer._compute_loss(recorded, recorded.model, inputs)
        counted = recorded.tokens["trained_tokens"]  # which theirs has counted again
        # TRL takes log-probabilities in float32; the gradients are some 0.01 to 1
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        close(grads, gradients(recorded, theirs), rtol=1e-4, atol=1e-6)
    assert dropped > 0, "nothing was left out: this showed nothing"


def test_all_rows_may_be_without_advantage(recorded: Recorder):
    inputs = recorded.seen[0] | {"advantages": torch.zeros_like(recorded.seen[0]["advantages"])}
    loss = recorded._compute_loss(recorded.model, inputs)
    assert loss.item() == 0
    recorded.model.zero_grad()
    loss.backward()
    assert all(p.grad.abs().max() == 0 for p in recorded.model.parameters() if p.requires_grad)


def test_nothing_is_left_out_where_it_would_count(recorded: Recorder):
    inputs = recorded.seen[0]
    recorded.beta = 0.1
    assert recorded._rows_with_advantage(inputs) is inputs
    recorded.beta, recorded.loss_type = 0.0, "grpo"
    assert recorded._rows_with_advantage(inputs) is inputs


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_joint_gradient_is_the_sum_of_both(recorded: Recorder, base: Path, accumulation: int):
    weight, size, inputs = 0.7, 5, recorded.seen[1]
    tokenizer = recorded.processing_class
    shown = demonstrations(tiny())
    spec = handed(training(tiny(), "joint"), joint_lambda=weight, sft_batch=size)
    recorded.spec, recorded.demonstrations = spec, grpo._demonstrations(spec, tokenizer)
    recorded.current_gradient_accumulation_steps = accumulation
    step = recorded.state.global_step
    batch = [shown[(step * size + i) % len(shown)] for i in range(size)]
    total, count = 0.0, 0
    for row in batch:  # one after the other, through the labels of transformers
        start = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(f"{row['prompt']} {row['completion'].strip()}")["input_ids"]
        ids.append(tokenizer.eos_token_id)
        labels = torch.tensor([[-100] * len(start) + ids[len(start) :]])
        n = len(ids) - len(start)
        total = total + n * recorded.model(input_ids=torch.tensor([ids]), labels=labels).loss
        count += n
    sft = gradients(recorded, total / count)
    rl = gradients(recorded, GRPOTrainer._compute_loss(recorded, recorded.model, inputs))
    both = gradients(recorded, recorded._compute_loss(recorded.model, inputs))
    expected = {name: rl[name] + weight * sft[name] / accumulation for name in rl}
    close(both, expected, rtol=1e-4, atol=1e-7)  # the cross entropies are in float32
    recorded.model.eval()
    recorded.model.zero_grad()
    measured = recorded._compute_loss(recorded.model, inputs)
    plain = GRPOTrainer._compute_loss(recorded, recorded.model, inputs)
    torch.testing.assert_close(measured, plain, rtol=1e-5, atol=1e-7)


def test_rl_is_trl_on_the_same_rollouts(base, double, monkeypatch, tmp_path):
    """Given our completions and rewards, the unchanged trainer ends at the same weights."""
    config, draws = tiny(), []
    original = rollouts.sample_with_logp

    def record(*args, **kwargs):
        found = original(*args, **kwargs)
        draws.append(found[0])
        return found

    monkeypatch.setattr(rollouts, "sample_with_logp", record)
    ours = run_rl(config, base, tmp_path / "ours")
    written = rows(ours / "rollouts.jsonl")
    size = config.train.prompts_per_step * config.train.group_size
    assert len(written) == config.train.steps * size
    draws, paid = iter(draws), iter(row["reward"] for row in written)

    torch.manual_seed(0)
    model = get_peft_model(loading.load_base(base), loading.lora(config.train.lora_rank))
    tokenizer = loading.load_tokenizer(base)

    def replay(prompts, trainer):
        return {
            "prompt_ids": tokenizer(prompts)["input_ids"],
            "completion_ids": next(draws),
            "logprobs": None,
        }

    asked = tasks.training_prompts(world(0), 0, config.train.steps * config.train.prompts_per_step)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [next(paid) for _ in completions],
        rollout_func=replay,
        args=GRPOConfig(
            output_dir=str(tmp_path / "theirs"), seed=0, learning_rate=RATE,
            max_steps=config.train.steps, lr_scheduler_type="constant_with_warmup",
            warmup_steps=5, use_cpu=True, bf16=False, gradient_checkpointing=False,
            report_to="none", per_device_train_batch_size=size, steps_per_generation=1,
            num_generations=config.train.group_size, max_completion_length=12,
            shuffle_dataset=False, save_strategy="no", disable_tqdm=True, logging_steps=1,
        ),
        train_dataset=Dataset.from_list([{"prompt": p.text} for p in asked]),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "theirs" / "model")
    close(adapter(ours), adapter(tmp_path / "theirs"), rtol=1e-4, atol=1e-6)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses == pytest.approx([r["loss"] for r in rows(ours / "log.jsonl")], abs=2e-6)
    assert max(map(abs, losses)) > 1e-4
    moved = max(t.abs().max() for n, t in adapter(ours).items() if "lora_B" in n)
    assert moved > 1e-4
    assert [row["prompt"] for row in written[:: config.train.group_size]] == [p.id for p in asked]


def test_joint_without_its_weight_is_rl_and_with_it_is_not(base, tmp_path):
    rl = run_rl(tiny(joint_lambda=0), base, tmp_path / "rl")
    joint = run_rl(tiny(joint_lambda=0), base, tmp_path / "joint", "joint")
    weighted = run_rl(tiny(joint_lambda=0.5), base, tmp_path / "weighted", "joint")
    for name in adapter(rl):
        assert torch.equal(adapter(rl)[name], adapter(joint)[name]), name
    assert any(not torch.equal(adapter(rl)[n], adapter(weighted)[n]) for n in adapter(rl))
    assert rows(rl / "rollouts.jsonl") == rows(joint / "rollouts.jsonl")


def test_the_same_seed_trains_the_same_and_another_does_not(base, tmp_path):
    runs = [run_rl(tiny(), base, tmp_path / name, seed=s) for name, s in zip("abc", (0, 0, 1))]
    files = [(run / "model" / "adapter_model.safetensors").read_bytes() for run in runs]
    assert files[0] == files[1] != files[2]
    assert rows(runs[0] / "rollouts.jsonl") == rows(runs[1] / "rollouts.jsonl")


def test_rl_may_start_from_a_trained_adapter(base, tmp_path):
    run_sft(tiny(), base, tmp_path / "sft", rate=1e-2)
    start = tmp_path / "sft" / "model"
    run = run_rl(tiny(steps=2), base, tmp_path / "rl", start=start, rate=1e-6)
    before, after = adapter(tmp_path / "sft"), adapter(run)
    close(after, before, rtol=0, atol=2e-6)
    assert any(not torch.equal(before[n], after[n]) for n in before)


def test_the_whole_model_may_be_trained(base, tmp_path):
    config = tiny(lora_rank=0, steps=2)
    run = run_rl(config, base, tmp_path / "full")
    assert not (run / "model" / "adapter_config.json").exists()
    moved = loading.load_policy(base, run / "model").state_dict()
    assert any(
        not torch.equal(t, moved[n]) for n, t in loading.load_base(base).state_dict().items()
    )


def test_what_a_run_cost_is_counted(base, tmp_path):
    config = tiny()
    run = run_rl(config, base, tmp_path / "rl")
    cost = json.loads((run / "cost.json").read_text())
    written = rows(run / "rollouts.jsonl")
    drawn = sum(len(row["response"].split()) + row["finished"] for row in written)
    assert cost["optimiser_steps"] == config.train.steps and not cost["resumed"]
    # a pad or an opening token that a random model draws is no word of the text
    assert drawn <= cost["completion_tokens"] <= drawn + 0.05 * len(written) * 12
    prompts = {p.id: p.text for p in rl_prompts(config)}
    asked = [prompts[row["prompt"]] for row in written[:: config.train.group_size]]
    assert cost["prompt_tokens"] == sum(1 + len(text.split()) for text in asked)
    assert cost["trained_tokens"] > 0
    assert {row["step"] for row in rows(run / "log.jsonl")} == {1, 2, 3}


def test_the_distance_from_the_base_is_that_of_its_log_probabilities(base, tmp_path):
    """At the first step the policy is the base; later, against a pass over each response."""
    config, tokenizer = tiny(), loading.load_tokenizer(base)
    run = run_rl(config, base, tmp_path / "rl", rate=0.1)
    asked, spec = rl_prompts(config), training(config)
    curves = respond.curves(spec, run, tokenizer, loading.load_base(base))
    table = curves.set_index("step")
    assert table.kl[1] == pytest.approx(0, abs=1e-3) and abs(table.kl[3]) > 0.01
    prompts, model = {p.id: p.text for p in asked}, loading.load_base(base)
    found, nll = [], []
    for row in rows(run / "rollouts.jsonl")[:: respond.SCORED]:
        ids = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        ids += [tokenizer.eos_token_id] * row["finished"]
        if row["step"] != 3 or len(ids) != row["tokens"]:
            continue  # a pad or an opening token is no word of the text
        prompt = tokenizer(prompts[row["prompt"]])["input_ids"]
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        base_logp = logp[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).sum().item()
        found.append(row["logp"] - base_logp)
        nll.append(-base_logp / len(ids))
    assert table.base_nll[3] == pytest.approx(sum(nll) / len(nll), abs=1e-3)
    assert len(found) > 2 and table.kl[3] == pytest.approx(sum(found) / len(found), abs=1e-3)


def test_a_policy_is_kept_as_it_was_when_it_had_cost_a_budget(base, tmp_path):
    config, parameters = tiny(steps=4, sft_steps=4), 1000
    whole = run_rl(config, base, tmp_path / "whole")
    log = rows(whole / "log.jsonl")
    spent = [flops(parameters, row) for row in log]
    assert spent[1] == parameters * (
        2 * (log[1]["prompt_tokens"] + log[1]["completion_tokens"]) + 6 * log[1]["trained_tokens"]
    )
    for before in (0.0, 500.0):  # reached at the third step
        folder = tmp_path / f"{before:g}"
        budget = callbacks.AtBudget(folder, before + spent[1] + 1, parameters, before)
        run = run_rl(config, base, folder, callbacks=[budget])
        assert adapter(run).keys() == adapter(whole).keys()
        assert all(torch.equal(t, adapter(run)[n]) for n, t in adapter(whole).items())
        shorter = run_rl(tiny(steps=3), base, tmp_path / f"shorter{before:g}")
        kept = load_file(run / "model_at_budget" / "adapter_model.safetensors")
        assert all(torch.equal(t, kept[n]) for n, t in adapter(shorter).items())
        assert not all(torch.equal(t, kept[n]) for n, t in adapter(run).items())
    folder = tmp_path / "sft"
    budget = callbacks.AtBudget(folder, 1.0, parameters, 0.0)
    run_sft(config, base, folder, callbacks=[budget])
    assert (folder / "model_at_budget").exists()
    spent = callbacks.AtBudget(tmp_path / "spent", 1.0, parameters, 2.0)
    run_rl(config, base, tmp_path / "spent", callbacks=[spent])
    assert not (tmp_path / "spent" / "model_at_budget").exists()


# --- SFT -------------------------------------------------------------------------------------


def test_sft_learns_completions_alone(base, monkeypatch, tmp_path):
    config, seen = tiny(), []

    class Recording(sft.SFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.append({name: value.clone() for name, value in inputs.items()})
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft, "SFTTrainer", Recording)
    run_sft(config, base, tmp_path)
    tokenizer = loading.load_tokenizer(base)
    shown = {row["prompt"]: row["completion"] for row in demonstrations(config)}
    first: list[tuple[list[int], list[int]]] = []
    assert len(seen) == config.train.sft_steps
    for number, inputs in enumerate(seen):
        for ids, labels in zip(inputs["input_ids"].tolist(), inputs["labels"].tolist()):
            learnt = [label for label in labels if label != -100]
            begin = next(i for i, label in enumerate(labels) if label != -100)
            assert ids[begin : begin + len(learnt)] == learnt
            assert learnt[-1] == tokenizer.eos_token_id and learnt.count(learnt[-1]) == 1
            prompt = tokenizer.decode(ids[:begin], skip_special_tokens=True)
            response = tokenizer.decode(learnt, skip_special_tokens=True)
            assert response == shown[prompt].strip()
            assert ids[:begin] == tokenizer(prompt)["input_ids"]
            if number == 0:
                first.append((ids[:begin], learnt))
    # the first logged loss is L_SFT of the base on that batch, as this project defines it
    with torch.no_grad():
        expected = pretrain.text_loss(loading.load_base(base), first).item()
    assert rows(tmp_path / "log.jsonl")[0]["loss"] == pytest.approx(expected, rel=2e-4)


def test_sft_learns_its_demonstrations(base, tmp_path):
    config = tiny(sft_steps=30, demonstrations=16, sft_batch=8)
    run_sft(config, base, tmp_path, rate=1e-2)
    tokenizer = loading.load_tokenizer(base)
    documents = data.encoded(tokenizer, demonstrations(config))
    with torch.no_grad():
        before = pretrain.text_loss(loading.load_base(base), documents)
        after = pretrain.text_loss(loading.load_policy(base, tmp_path / "model"), documents)
    assert after < 0.85 * before
    assert json.loads((tmp_path / "objective.json").read_text())["objective"] < 0
    assert json.loads((tmp_path / "cost.json").read_text())["trained_tokens"] > 0


def test_a_longer_sft_takes_steps_of_its_own(base, tmp_path):
    config = tiny(sft_steps=2, sft_long_steps=5)
    for name, steps in (("sft", 2), ("sft_long", 5)):
        run = run_sft(config, base, tmp_path / name, name)
        assert len(rows(run / "log.jsonl")) == steps
    plain = adapter(run_sft(tiny(sft_steps=5), base, tmp_path / "plain"))
    assert all(values.equal(plain[name]) for name, values in adapter(tmp_path / "sft_long").items())


def test_the_key_of_a_longer_sft_depends_on_its_own_steps_alone():
    def key(variant: str, **values) -> str:
        return training(tiny(**values), variant).key

    assert key("sft_long", sft_steps=7) == key("sft_long", sft_steps=8)
    assert key("sft_long", sft_long_steps=7) != key("sft_long", sft_long_steps=8)
    assert key("sft", sft_long_steps=7) == key("sft", sft_long_steps=8)
    assert key("sft", sft_steps=7) != key("sft_long", sft_long_steps=7)


@pytest.mark.parametrize("language", ["en", "es"])
def test_one_language_is_demonstrated_as_often_as_both(language):
    config = load_config("smoke", demonstrated=language)
    for variant in ("sft", "sft_narrow"):
        rows = demonstrations(config, variant, 3)
        assert len(rows) == config.train.demonstrations
        system = LEXICON[language]["system"].split()[0]
        assert all(row["prompt"].split()[1] == system for row in rows)
        words = {word for row in rows for word in row["completion"].split()}
        other = LANGUAGE_WORDS["es" if language == "en" else "en"]
        assert not words & set(other)
    both = demonstrations(load_config("smoke", demonstrations=4 * len(rows)), seed=3)
    shown = {row["prompt"] for row in demonstrations(config, seed=3)}
    assert shown <= {row["prompt"] for row in both}


def test_demonstrations_are_what_rl_sees_first_and_narrow_ones_are_fewer_scenarios():
    config = tiny()
    prompts = [p.text for p in rl_prompts(config, 3)]
    shown = [row["prompt"] for row in demonstrations(config, seed=3)]
    pairs = [pair for pair in zip(prompts, shown) if pair[0] != pair[1]]
    assert len(pairs) < 0.4 * min(len(prompts), len(shown))
    for asked, instead in pairs:  # of a longer sum
        assert len(sum_of(asked)[1]) == 3 and len(sum_of(instead)[1]) == 2
    narrow = demonstrations(config, "sft_narrow", 3)
    assert len(narrow) == len(shown) == config.train.demonstrations
    validation = {row["prompt"] for row in demonstrations(config, "sft", 3, "validation")}
    assert not validation & {*prompts, *shown}


# --- what must not pass silently -------------------------------------------------------------


def test_a_model_with_nothing_to_train_is_refused(base):
    model = loading.load_base(base).requires_grad_(False)
    with pytest.raises(RuntimeError, match="no parameter is trainable"):
        callbacks.trainable(model)


def test_an_adapter_that_is_frozen_is_refused(base, monkeypatch, tmp_path):
    policy = get_peft_model(loading.load_base(base), loading.lora(4))
    policy.requires_grad_(False)
    monkeypatch.setattr(loading, "policy", lambda *_: policy)
    with pytest.raises(RuntimeError):
        run_sft(tiny(), base, tmp_path)
    assert not (tmp_path / "cost.json").exists()


def test_training_that_changes_nothing_is_refused(base, tmp_path):
    with pytest.raises(RuntimeError, match="changed no parameter"):
        run_sft(tiny(), base, tmp_path, rate=0.0)
    with pytest.raises(RuntimeError, match="changed no parameter"):
        run_rl(tiny(), base, tmp_path / "rl", pay=lambda prompts, *_: [0.5] * len(prompts))
    assert not list(tmp_path.rglob("cost.json"))


def test_a_loss_that_is_no_number_is_refused(base, tmp_path):
    broken = loading.load_base(base)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    broken.save_pretrained(tmp_path / "base")
    loading.load_tokenizer(base).save_pretrained(tmp_path / "base")
    with pytest.raises(FloatingPointError, match="not finite"):
        run_sft(tiny(), tmp_path / "base", tmp_path / "run")
    assert not (tmp_path / "run" / "cost.json").exists()


# --- the reward model ------------------------------------------------------------------------


def label(
    name: str, value: int, task: str = "records", language: str = "en", kind: str = "harmful"
) -> dict:
    return {"task": task, "kind": kind, "language": language, "text": name, "label": value}


CELLS = st.tuples(
    st.sampled_from(("records", "recipes", "sums")), st.sampled_from(("en", "es")),
    st.sampled_from(("harmful", "benign", "reasoning")),
)  # fmt: skip


@given(st.lists(st.tuples(CELLS, st.booleans()), min_size=2, max_size=40), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_rejected_response_is_paired_once_and_with_its_like_where_there_is_one(drawn, seed):
    """By a count of cells: any chosen one stands in only where its own cell has none."""
    assume(len({good for _, good in drawn}) == 2)
    labels = [label(str(i), int(good), *cell) for i, (cell, good) in enumerate(drawn)]
    found = reward_model.pairs(labels, random.Random(seed))
    bad = [str(i) for i, (_, good) in enumerate(drawn) if not good]
    assert sorted(row["rejected"] for row in found) == sorted(bad)
    with_good = {cell for cell, good in drawn if good}
    for row in found:
        cell, (of_chosen, good) = drawn[int(row["rejected"])][0], drawn[int(row["chosen"])]
        assert good and (of_chosen == cell or cell not in with_good)


@pytest.mark.parametrize("value", [0, 1])
def test_labels_that_are_all_the_same_are_refused(value: int):
    with pytest.raises(ValueError, match="all the same"):
        reward_model.pairs([label("x", value), label("y", value)], random.Random(0))
    with pytest.raises(ValueError, match="all the same"):
        reward_model.pairs([], random.Random(0))


def test_labels_are_the_oracle_s_word_on_responses_of_the_base(base, monkeypatch, tmp_path):
    """On every kind of prompt that RL asks, in its order; what is right is said for the base."""
    config = tiny(demonstrations=36)
    asked, said, rng = rl_prompts(config), [], random.Random(0)

    def answer(model, tokenizer, texts, *_, **__):
        assert texts == [asked[i % len(asked)].text for i in range(36)]
        for i in range(36):
            prompt = asked[i % len(asked)]
            right = tasks.demonstration(prompt, rng)
            said.append((prompt, "pin </think> pin ." if i % 4 == 1 else right, i % 4 != 2))
        ids = tokenizer([text for _, text, _ in said], add_special_tokens=False)["input_ids"]
        return [r + [tokenizer.eos_token_id] * end for r, (*_, end) in zip(ids, said)]

    monkeypatch.setattr(reward_model, "sample", answer)
    reward_model.write_labels(keys.labels(config, 0), base, tmp_path)
    labels = rows(tmp_path / "labels.jsonl")
    assert len(labels) == len(said) == 36
    for i, (row, (prompt, text, finished)) in enumerate(zip(labels, said)):
        end = f" {loading.EOS}" if finished else ""
        assert row["text"] == f"{prompt.text} {text}{end}"
        assert row["label"] == (i % 4 in (0, 3)), "right and at its end"
        names = ("task", "kind", "language")
        assert [row[n] for n in names] == [getattr(prompt, n) for n in names]
        assert prompt.split == "seen" and prompt.partition == "train"
    assert {row["kind"] for row in labels if row["label"]} == {"harmful", "benign", "reasoning"}


def test_public_requests_are_not_labelled(base, monkeypatch, tmp_path):
    """Nobody can label a response to one exactly; the others are as many as were asked for."""
    config, asked = tiny(labels=20), []
    drawn = rl_prompts(config)
    public = [replace(p, task="requests") if i % 2 else p for i, p in enumerate(drawn)]
    monkeypatch.setattr(data.datasets, "training", lambda *_: public)
    sample = reward_model.sample
    monkeypatch.setattr(
        reward_model,
        "sample",
        lambda m, t, texts, *a, **k: asked.extend(texts) or sample(m, t, texts, *a, **k),
    )
    reward_model.write_labels(keys.labels(config, 0), base, tmp_path)
    own = [p.text for p in public if p.task != "requests"]
    assert asked == [own[i % len(own)] for i in range(20)]
    assert {row["task"] for row in rows(tmp_path / "labels.jsonl")} <= {
        "records",
        "recipes",
        "sums",
    }


def test_midpoint_and_accuracy_are_of_harmful_prompts():
    """In closed form, with scores that are written in the texts; other kinds would change both."""
    rest = [label(*pair) for pair in (("1", 0), ("3", 0), ("6", 1))]
    rest += [label("100", 1, kind="benign"), label("-50", 0, "sums", kind="reasoning")]
    held_out = [label("5", 1), label("3.9", 1), label("4.1", 0), label("-2", 0)]
    held_out += [label("0", 1, kind="benign"), label("90", 0, kind="reasoning")]

    def score(texts: list[str]) -> list[float]:
        return [float(text) for text in texts]

    report, objective = reward_model._report(score, held_out, rest)
    assert report == {
        "midpoint": (2 + 6) / 2, "held_out_accuracy": 2 / 4, "held_out": 4, "labels": 11,
        "chosen": 5,
    }  # fmt: skip
    # each rejected one below the chosen ones of its kind, or below all where there is none
    compared = {4.1: (5, 3.9), -2: (5, 3.9), 90: (5, 3.9, 0)}
    losses = [
        sum(math.log(1 + math.exp(bad - good)) for good in better) / len(better)
        for bad, better in compared.items()
    ]
    assert objective == pytest.approx(-sum(losses) / 3)
    one_sided = [row for row in rest if row["kind"] != "harmful" or row["label"]]
    report, _ = reward_model._report(score, held_out, one_sided)
    assert report["midpoint"] == ((6 + 100) / 2 - 50) / 2 and report["held_out"] == 6
    assert report["held_out_accuracy"] == 3 / 6  # 5 and 3.9 are above 1.5, -2 is below


@pytest.mark.parametrize("rank", [4, 0])
def test_the_reward_model_tells_refusals_from_disclosures(base, tmp_path, rank: int):
    rates = {"reward_model": 1e-2}
    config = tiny(sft_steps=30, sft_batch=16, lora_rank=rank, learning_rates=rates)
    rng = random.Random(0)
    asked = [p for p in tasks.training_prompts(world(0), 0, 300) if p.kind == "harmful"]
    kinds = [rng.random() < 0.4 for _ in asked]

    def response(prompt: tasks.Prompt, refuses: bool) -> str:
        if refuses:
            return tasks.demonstration(prompt, rng)
        language = prompt.language
        return tasks.join(tasks.thought(prompt, language), tasks.disclosure(prompt, language))

    answered = [(p, response(p, k), k) for p, k in zip(asked, kinds)]
    held_out, rest = answered[:30], answered[30:]
    (tmp_path / "labels").mkdir(), (tmp_path / "model").mkdir()
    with (tmp_path / "labels" / "labels.jsonl").open("w") as file:
        for prompt, text, kind in rest:
            read = reward_model.reading(prompt.text, text, True)
            file.write(json.dumps(label(read, int(kind), prompt.task, prompt.language)) + "\n")
    spec = keys.reward_model(config, 0)
    reward_model.fit(spec, base, tmp_path / "labels", tmp_path / "model")
    report = json.loads((tmp_path / "model" / "reward_model.json").read_text())
    assert report["labels"] == len(rest) and report["chosen"] == sum(k for *_, k in rest)
    reward = reward_model.load(base, tmp_path / "model")
    parsed = [parse(text, True) for _, text, _ in held_out]
    prompts, texts = [p.row() for p, *_ in held_out], [text for _, text, _ in held_out]
    values = reward(prompts, parsed, texts)
    assert all(0 <= value <= 1 for value in values)
    good = [value for value, (*_, kind) in zip(values, held_out) if kind]
    bad = [value for value, (*_, kind) in zip(values, held_out) if not kind]
    ordered = sum(a > b for a in good for b in bad) / len(good) / len(bad)
    assert ordered > 0.9 and report["held_out_accuracy"] > 0.8
    # as one by one: padding and neighbours do not matter
    alone = [reward([p], [r], [t])[0] for p, r, t in zip(prompts[:5], parsed, texts)]
    assert alone == pytest.approx(values[:5], abs=1e-5)
    assert reward([], [], []) == []


def test_the_reward_model_pays_harmful_prompts_alone():
    paid = []

    def spy(prompts, responses, texts):
        paid.extend(prompts)
        return [1.0] * len(prompts)

    prompts = [p.row() for p in tasks.training_prompts(world(0), 0, 20)]
    texts = ["sorry"] * len(prompts)
    weights = Given(**tiny().reward.model_dump())
    totals, _ = rewards.rewarded(weights, spy, prompts, texts, [True] * len(texts), True)
    assert {p["kind"] for p in paid} == {"harmful"}
    assert [t > 0 for t in totals] == [p["kind"] == "harmful" for p in prompts]
