"""Numbers that are not finite: named, counted, refused in one line; and runs of the least size."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import handed, tiny
from training_runs import rows, run_rl, run_sft

from hybridlib.config import load_config
from hybridlib.engine.sampling import draw
from hybridlib.store.errors import OneLineError, ParameterError
from hybridlib.store.stage import Given
from hybridlib.study import keys
from hybridlib.tasks.prompts import training_prompts
from hybridlib.tasks.responses import parse
from hybridlib.tasks.world import world
from hybridlib.training import objective, pretrain, reward_model, rewards
from hybridlib.training.reward_model import reading
from hybridlib.variants import tuned_arms

LABEL = {"task": "records", "kind": "harmful", "language": "en"}


def one_line(caught, *words: str) -> None:
    said = str(caught.value)
    assert isinstance(caught.value, OneLineError) and "\n" not in said
    assert all(word in said for word in words), said


# --- rewards ---------------------------------------------------------------------------------


def test_a_reward_that_is_no_number_is_counted_and_named(base, tmp_path):
    asked = []

    def pay(prompts, responses, texts) -> list[float]:
        asked.append(len(texts))
        paid = [len(set(text.split())) % 5 / 4 for text in texts]
        return [math.nan, *paid[1:-1], math.inf] if len(asked) == 2 else paid

    with pytest.raises(ValueError) as caught:
        run_rl(tiny(), base, tmp_path, pay=pay)
    of = f"for 2 of {asked[-1]} responses to harmful prompts"
    one_line(caught, "rl/keyword seed 0", "step 2", "harmlessness", "not a finite number", of)
    assert len(asked) == 2 and {row["step"] for row in rows(tmp_path / "rollouts.jsonl")} == {1}
    assert not (tmp_path / "model").exists()


def rewarded(pay, kinds=("harmful", "harmful", "benign"), **weights) -> list[float]:
    given = Given(**load_config("smoke").reward.model_dump() | weights)
    prompt = {"task": "records", "language": "en", "reference": (("kaq",),)}
    prompts, texts = [prompt | {"kind": kind} for kind in kinds], ["a </think> kaq"] * len(kinds)
    return rewards.rewarded(given, pay, prompts, texts, [True] * len(kinds), True)[0]


def test_a_sum_that_is_too_large_is_refused():
    assert rewarded(lambda *_: [1.0, 0.0]) == [1.5, 0.5, 1.5]
    with pytest.raises(ValueError) as caught:
        rewarded(lambda *_: [1e308, 0.0], weight_harmlessness=1e10)
    one_line(caught, "weighted sum", "1 of 3 responses")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_every_number_that_is_none_is_refused(value):
    with pytest.raises(ValueError) as caught:
        rewarded(lambda *_: [0.0, value])
    one_line(caught, "the reward for harmlessness", "1 of 2 responses to harmful prompts")


@pytest.mark.parametrize("paid", [[1.0], [1.0, 0.0, 1.0]])
def test_as_many_rewards_as_responses(paid):
    with pytest.raises(ValueError):
        rewarded(lambda *_: paid)


# --- weights, losses and what is sampled -----------------------------------------------------


@pytest.mark.parametrize(
    "variant, rate", [("sft", 1e10), ("rl", 1e10), ("rl", 1e30), ("joint", 1e30)]
)
def test_a_rate_that_is_too_high_ends_in_one_line(variant, rate, base, tmp_path):
    run = run_sft if variant == "sft" else run_rl
    with pytest.raises(FloatingPointError) as caught:
        run(tiny(), base, tmp_path, variant, rate=rate)
    one_line(caught, "not finite", "steps", f"{rate:g}", "lower the learning rate")


def test_the_last_step_counts_too(base, tmp_path):
    """The weights are finite behind it, what they predict is not."""
    with pytest.raises(FloatingPointError) as caught:
        run_sft(tiny(sft_steps=2), base, tmp_path, rate=1e30)
    one_line(caught, "not finite", "after 2 steps", "lower the learning rate")


@pytest.mark.parametrize("rate", [1e10, 1e30])
def test_so_it_does_for_a_base(rate, tmp_path):
    with pytest.raises(FloatingPointError) as caught:
        pretrain.pretrain(handed(keys.base(tiny(), 0), base_learning_rate=rate), tmp_path)
    one_line(caught, "not finite", "after 1 steps", "lower base_learning_rate")
    assert not (tmp_path / "model").exists()


def test_so_it_does_for_a_reward_model(base, tmp_path):
    labels = [
        LABEL | {"label": i % 2, "text": f"{word} {i}"}
        for i, word in enumerate(["sorry", "pin"] * 10)
    ]
    (tmp_path / "labels.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in labels))
    spec = replace(keys.reward_model(tiny(), 0), learning_rate=1e30)
    with pytest.raises(FloatingPointError) as caught:
        reward_model.fit(spec, base, tmp_path, tmp_path)
    one_line(caught, "not finite", "lower the learning rate")
    assert not (tmp_path / "reward_model.json").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_drawn_from_what_is_no_distribution(bad, temperature):
    logits, uniform = torch.randn(3, 600), torch.rand(3)
    logits[1, 5] = -math.inf  # never drawn, which is allowed
    assert draw(logits, uniform, temperature)[0][1] != 5
    logits[2, 7] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        draw(logits, uniform, temperature)


def test_an_objective_that_is_no_number_chooses_no_rate(tmp_path):
    with pytest.raises(FloatingPointError, match="objective"):
        objective.write_objective(tmp_path, math.nan)
    assert not list(tmp_path.iterdir())


def test_scores_far_apart_are_still_a_probability(monkeypatch, tmp_path, base):
    (tmp_path / "reward_model.json").write_text('{"midpoint": 0.0}')
    monkeypatch.setattr(reward_model, "_with_head", lambda folder: torch.nn.Linear(1, 1))
    scores = [-1e6, -1.0, 1e6]
    monkeypatch.setattr(reward_model, "_scorer", lambda *_: lambda texts: scores)
    reward = reward_model.load(base, tmp_path)
    response = parse("a", True)
    found = reward([{"text": "x"}] * 3, [response] * 3, ["a"] * 3)
    assert found == pytest.approx([0, 1 / (1 + math.e), 1])
    held_out = [LABEL | {"text": "x", "label": label} for label in (0, 1, 0)]
    report, value = reward_model._report(lambda texts: scores[: len(texts)], held_out, held_out)
    assert math.isfinite(value) and math.isfinite(report["midpoint"])


# --- no signal, and the least sizes ----------------------------------------------------------


def test_why_nothing_was_learnt_is_said(base, tmp_path):
    with pytest.raises(RuntimeError, match="rewards of each group were equal") as caught:
        run_rl(tiny(), base, tmp_path / "rl", pay=lambda prompts, *_: [0.5] * len(prompts))
    one_line(caught, "rl/keyword seed 0", "training changed no parameter")
    with pytest.raises(RuntimeError, match="learning rate is too low") as caught:
        run_sft(tiny(), base, tmp_path / "sft", rate=1e-60)
    one_line(caught, "sft seed 0", "training changed no parameter")


LEAST = {"demonstrations": 1, "sft_batch": 1, "sft_steps": 1, "steps": 1}
MORE = {"demonstrations": 3, "sft_batch": 100}


@pytest.mark.parametrize("variant, sizes", [("sft", LEAST), ("joint", LEAST), ("joint", MORE)])
def test_one_step_and_one_demonstration_are_enough(variant, sizes, base, tmp_path):
    run = run_sft if variant == "sft" else run_rl
    assert (run(tiny(labels=5, **sizes), base, tmp_path, variant) / "objective.json").exists()


def test_labels_that_are_too_few_are_refused_before_anything_is_trained():
    few = {"demonstrations": 3}
    for given in ({"labels": 4}, {"labels": 1}, few, few | {"variants": "base, two_stage"}):
        with pytest.raises(ParameterError) as caught:
            load_config("smoke", **given)
        one_line(caught, "labels", "demonstrations", "at least 5")
    for given in ({"rewards": "keyword"}, {"variants": "base, sft"}, {"labels": 5}):
        load_config("smoke", **{"demonstrations": 4} | given)


def test_the_least_number_of_labels_is_enough(base, tmp_path):
    texts = [f"sorry {i}" for i in range(5)]
    for labels in ([0, 0, 0, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]):
        report, value = reward_model._report(
            lambda texts: [float(len(text)) for text in texts],
            [LABEL | {"text": texts[0], "label": labels[0]}],
            [LABEL | {"text": t, "label": label} for t, label in zip(texts[1:], labels[1:])],
        )
        assert math.isfinite(value) and report["labels"] == 5


def test_stages_of_no_step_are_refused():
    with pytest.raises(ParameterError) as caught:
        load_config("smoke", variants="base, multi_stage", steps=1)
    one_line(caught, "steps = 1", "too few")
    rates = dict.fromkeys(tuned_arms(), 1e-3)
    config = load_config("smoke", variants="base, multi_stage", steps=2, learning_rates=rates)
    spec = keys.train(config, "multi_stage", "keyword", 0)
    assert [len(range(*(round(2 * p) for p in stage.variant.part))) for stage in spec.chain] == [
        2, 1, 2, 1,
    ]  # fmt: skip


def test_a_run_of_public_requests_alone_has_nothing_to_label(base, tmp_path, monkeypatch):
    public = [replace(p, task="requests") for p in training_prompts(world(0), 0, 4)]
    monkeypatch.setattr(reward_model.data.datasets, "training", lambda *_: public)
    with pytest.raises(ValueError) as caught:
        reward_model.write_labels(keys.labels(tiny(), 0), base, tmp_path)
    one_line(caught, "no prompt to label", "requests_share")


# --- long texts ------------------------------------------------------------------------------


def test_a_long_demonstration_is_learnt_whole(base, tmp_path, monkeypatch):
    from hybridlib.training import sft

    seen = []

    class Recording(sft.SFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.extend(inputs["labels"].ne(-100).sum(1).tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft, "SFTTrainer", Recording)
    completions = [" sorry ." + " pin" * n for n in (3, 5, 7, 250)]
    prompts = ["pin " * n for n in (300, 600, 10, 20)]
    shown = [{"prompt": p.strip(), "completion": c} for p, c in zip(prompts, completions)]
    run_sft(tiny(sft_steps=2), base, tmp_path, shown=shown)
    assert sorted(seen[:4]) == sorted(len(text.split()) + 1 for text in completions)


def test_a_long_label_is_learnt_from(base, tmp_path, monkeypatch):
    pairs = []

    class Recording(reward_model.RewardTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            pairs.append(inputs["attention_mask"].sum(1).tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(reward_model, "RewardTrainer", Recording)
    labels = [LABEL | {"label": i % 2, "text": reading("pin " * 300, "x", 1)} for i in range(10)]
    (tmp_path / "labels.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in labels))
    config = tiny(learning_rates={"reward_model": 1e-3})
    reward_model.fit(keys.reward_model(config, 0), base, tmp_path, tmp_path)
    assert pairs and all(length >= 300 for step in pairs for length in step)
