"""Formulations: what each is at the ends of its parameter, and its gradient by other means."""

import random
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from tiny import tiny, training
from training_runs import (
    Recorder,
    adapter,
    close,
    demonstrations,
    gradients,
    pay,
    rl_prompts,
    rows,
    run_rl,
    run_sft,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from trl import GRPOTrainer, SFTTrainer

from hybridlib.config import load_config
from hybridlib.engine.scoring import score_completions
from hybridlib.evaluation import respond
from hybridlib.store.stage import Given
from hybridlib.tasks import oracle
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.responses import parse, refuses
from hybridlib.tasks.world import world
from hybridlib.training import data, grpo, hybrids, loading, rewards, sft
from hybridlib.training.hybrids import chord_weight
from hybridlib.training.step import RolloutRequest, Row, Step
from hybridlib.variants import VARIANTS, Variant, chain

HYBRID_LOSSES = [n for n, v in VARIANTS.items() if v.is_hybrid_loss and n != "gated"]


@pytest.fixture
def exact(double, monkeypatch):
    """float64 throughout, also where models and losses go down to float32."""

    def norm(self, x):
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def same(one: Path, other: Path) -> bool:
    return all(torch.equal(t, adapter(other)[n]) for n, t in adapter(one).items())


def all_wrong(prompts, responses, texts) -> list[float]:
    return [0.0] * len(texts)


def all_right(prompts, responses, texts) -> list[float]:
    """Everything is right, and not rewarded the same."""
    return [0.5 + 0.5 * x for x in pay(prompts, responses, texts)]


# --- a formulation that is nothing but RL, or nothing but SFT ---------------------------------


@pytest.mark.parametrize(
    "hybrid, values",
    [
        ("chord_mu", {"chord_peak": 0.0, "chord_valley": 0.0}),
        ("gated", {"switch_gate": -1}),
        ("prefix", {"hint_high": 0.0, "hint_low": 0.0}),
        ("prefix", {"hint_steps": 0.0}),
        ("safety_prefix", {"prefill_share": 0.0}),
    ],
)
def test_without_its_part_a_formulation_is_rl(base, tmp_path, hybrid, values):
    rl = run_rl(tiny(), base, tmp_path / "rl")
    hybrid = run_rl(tiny(**values), base, tmp_path / "hybrid", hybrid)
    assert same(rl, hybrid)
    assert rows(rl / "rollouts.jsonl") == rows(hybrid / "rollouts.jsonl")


@pytest.mark.parametrize("hybrid", HYBRID_LOSSES)
def test_with_its_part_a_formulation_is_not_rl(base, tmp_path, hybrid):
    rl = run_rl(tiny(), base, tmp_path / "rl")
    assert not same(rl, run_rl(tiny(hint_weight=1.0), base, tmp_path / "hybrid", hybrid))


def test_a_gate_that_need_not_open_is_rl_and_one_that_has_to_is_not(base, tmp_path, monkeypatch):
    values = {"weight_format": 0.0}
    monkeypatch.setattr(rewards, "task_rewards", lambda h, p, r, t: all_right(p, r, t))
    one, other = (run_rl(tiny(**values), base, tmp_path / h, h) for h in ("rl", "gated"))
    assert same(one, other)
    shown = run_rl(tiny(**values, switch_gate=4), base, tmp_path / "open", "gated")
    assert not same(one, shown)


class InOrder(SFTTrainer):
    """SFT on the demonstrations in the order in which the hybrids take them, not shuffled."""

    def _get_train_sampler(self, *_, **__):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def test_chord_at_its_upper_end_is_sft(base, double, monkeypatch, tmp_path):
    config = tiny(chord_peak=1.0, chord_valley=1.0, steps=4, sft_steps=4)
    chord = run_rl(config, base, tmp_path / "chord", "chord_mu")
    monkeypatch.setattr(sft, "SFTTrainer", InOrder)
    by_sft = run_sft(config, base, tmp_path / "sft")
    close(adapter(chord), adapter(by_sft), rtol=1e-4, atol=1e-6)
    assert max(t.abs().max() for n, t in adapter(by_sft).items() if "lora_B" in n) > 1e-3
    losses = [[row["loss"] for row in rows(run / "log.jsonl")] for run in (chord, by_sft)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_gate_that_is_always_open_is_sft_on_the_prompts_of_each_step(
    base, double, monkeypatch, tmp_path
):
    monkeypatch.setattr(tasks, "ASKED_STEPS", (2,))  # longer sums have no demonstration
    # groups of four: never more are right
    config = tiny(switch_gate=4, steps=3, sft_steps=3, prompts_per_step=4)
    assert config.train.prompts_per_step == config.train.sft_batch
    gated = run_rl(config, base, tmp_path / "gated", "gated")
    monkeypatch.setattr(sft, "SFTTrainer", InOrder)
    by_sft = run_sft(config, base, tmp_path / "sft")
    close(adapter(gated), adapter(by_sft), rtol=1e-4, atol=1e-6)
    assert {row["sft_share"] for row in rows(gated / "log.jsonl")} == {1.0}


# --- gradients ---------------------------------------------------------------------------------


def recorded_with(hybrid: str, base, monkeypatch, tmp_path, **values) -> Recorder:
    """A trainer after three steps in float64, with the inputs of each."""
    monkeypatch.setattr(grpo, "PolicyTrainer", Recorder)
    run_rl(tiny(**values), base, tmp_path / "recorded", hybrid)
    trainer = Recorder.made.pop()
    trainer.model.train()
    return trainer


@pytest.mark.parametrize(
    "hybrid, values",
    [
        ("rl", {}),
        ("joint", {}),
        ("chord_mu", {"chord_peak": 0.6, "chord_valley": 0.6}),
        ("demo_in_group", {"luffy_gamma": 0.3}),
        ("gated", {}),
        ("prefix", {"hint_weight": 0.7}),
        ("safety_prefix", {"prefill_share": 1.0}),
    ],
)
def test_gradients_are_finite_differences(base, exact, monkeypatch, tmp_path, hybrid, values):
    """Of the loss as a function of the parameters, the sampling policy held still."""
    trainer = recorded_with(hybrid, base, monkeypatch, tmp_path, **values)
    inputs = trainer.seen[-1]
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    score = trainer._get_per_token_logps_and_entropies
    with torch.no_grad():  # a ratio is one, and is not that of a policy that moves with it
        inputs["old_per_token_logps"] = score(trainer.model, ids, mask, length)[0]

    def loss() -> torch.Tensor:
        return trainer.spec.variant.loss(Step(trainer, trainer.model, inputs))

    found, rng = gradients(trainer, loss()), random.Random(0)
    parameters = dict(trainer.model.named_parameters())
    checked = 0
    for name in rng.sample(sorted(n for n in found if "lora_B" in n), 4):
        place = int(found[name].abs().argmax())
        parameter, values = parameters[name].data.view(-1), []
        for way in (1, -1):
            parameter[place] += way * 1e-5
            with torch.no_grad():
                values.append(loss().item())
            parameter[place] -= way * 1e-5
        numeric = (values[0] - values[1]) / 2e-5
        assert numeric == pytest.approx(found[name].view(-1)[place].item(), rel=1e-5, abs=1e-9)
        checked += abs(numeric) > 1e-4
    assert checked == 4


def test_the_term_of_a_demonstration_is_shaped_and_its_group_s_advantage(
    base, double, monkeypatch, tmp_path
):
    """A demonstration that the policy said itself changes nothing but its ratio."""
    gamma = 0.2
    trainer = recorded_with("demo_in_group", base, monkeypatch, tmp_path, luffy_gamma=gamma)
    inputs = trainer.seen[-1]
    group = tiny().train.group_size
    of_group = Counter(row.group for row in inputs["row"] if row.shown)
    assert of_group == Counter(range(len(inputs["row"]) // group))
    assert all(row.completion == row.demonstration for row in inputs["row"] if row.shown)
    own = [replace(row, shown=False) for row in inputs["row"]]
    as_rl = gradients(trainer, GRPOTrainer._compute_loss(trainer, trainer.model, dict(inputs)))
    step = Step(trainer, trainer.model, inputs)
    shaped = gradients(trainer, hybrids.demo_in_group(step))
    total = inputs["num_items_in_batch"]
    before, after = 0.0, 0.0  # of the demonstrations: - A log pi and - A f(pi), by autograd
    for row in step.rows:
        if row.shown:
            logits = trainer.model(input_ids=torch.tensor([row.prompt + row.completion])).logits
            behind = logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
            logp = behind.gather(1, torch.tensor(row.completion)[:, None])
            before = before - row.advantage * logp.sum() / total
            after = after - row.advantage * (logp.exp() / (logp.exp() + gamma)).sum() / total
    change = gradients(trainer, after - before)
    expected = {name: as_rl[name] + change[name] for name in as_rl}
    close(shaped, expected, rtol=1e-3, atol=1e-6)
    # where no row is shown it is RL
    step = Step(trainer, trainer.model, inputs | {"row": own})
    close(gradients(trainer, hybrids.demo_in_group(step)), as_rl, rtol=1e-4, atol=1e-7)


def test_the_sampled_token_has_the_gradient_of_the_kl(base, exact):
    """Summed over all words, each as often as the policy says it, against finite differences."""
    model = get_peft_model(loading.load_base(base), loading.lora(4)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    tokenizer, teacher = loading.load_tokenizer(base), loading.load_base(base)
    prompt = tokenizer(tasks.training_prompts(world(0), 0, 1)[0].text)["input_ids"]
    shown, size = [7, 9, 2], len(tokenizer)
    every = [Row(prompt, [word], 0, shown) for word in range(size)]
    full = torch.tensor([prompt])
    context = torch.tensor([hybrids.in_view(prompt, shown)])
    with torch.no_grad():
        theirs = teacher(input_ids=context).logits[0, -1].log_softmax(-1)

    def own() -> torch.Tensor:
        return model(input_ids=full).logits[0, -1].log_softmax(-1)

    def kl() -> float:
        with torch.no_grad():
            return (own().exp() * (own() - theirs)).sum().item()

    total = 0.0
    for row, weight in zip(every, own().exp().detach()):  # one word at a time, as it is drawn
        step = SimpleNamespace(
            rows=[row], entropy=0.0, tokens=1, note=lambda *_: None,
            score=lambda d: [own()[d[0][1]]], score_by_teacher=lambda d: [theirs[d[0][1]]],
        )  # fmt: skip
        total = total + weight * hybrids.self_distill(step)
    assert total.item() == pytest.approx(kl(), rel=1e-6)
    model.zero_grad()
    total.backward()
    checked = 0
    for name, parameter in model.named_parameters():
        if "lora_B" in name and parameter.grad.abs().max() > 1e-4:
            place, flat = int(parameter.grad.abs().argmax()), parameter.data.view(-1)
            flat[place] += 1e-5
            above = kl()
            flat[place] -= 2e-5
            numeric = (above - kl()) / 2e-5
            flat[place] += 1e-5
            assert numeric == pytest.approx(parameter.grad.view(-1)[place].item(), rel=1e-4)
            checked += 1
    assert checked > 3


def test_a_teacher_sees_the_demonstration_and_is_the_base(base, monkeypatch, tmp_path):
    trainer = recorded_with("self_distill", base, monkeypatch, tmp_path)
    row = trainer.seen[-1]["row"][0]
    step = Step(trainer, trainer.model, trainer.seen[-1])
    before = trainer.tokens["scored_tokens"]
    seen = hybrids.in_view(row.prompt, row.demonstration)
    (found,) = step.score_by_teacher([(seen, row.completion)])
    context = [*row.prompt, *row.demonstration, *row.prompt]
    (expected,), _ = score_completions(loading.load_base(base), [context], [row.completion])
    torch.testing.assert_close(found, expected)
    assert trainer.tokens["scored_tokens"] - before == len(context) + len(row.completion)
    log = rows(tmp_path / "recorded" / "log.jsonl")
    assert all(not [name for name in row if "reward" in name] for row in log)
    assert {row["reward"] for row in rows(tmp_path / "recorded" / "rollouts.jsonl")} == {None}


# --- what enters the group -----------------------------------------------------------------------


def test_forced_tokens_are_recorded_and_carry_no_loss(base, monkeypatch, tmp_path):
    trainer = recorded_with(
        "prefix", base, monkeypatch, tmp_path, hint_high=0.8, hint_low=0.8, hint_steps=1.0
    )
    tokenizer, config = trainer.processing_class, tiny()
    written = rows(tmp_path / "recorded" / "rollouts.jsonl")
    shown = {row["prompt"]: row["completion"] for row in demonstrations(config)}
    asked = {prompt.id: prompt.text for prompt in rl_prompts(config)}
    lengths = set()
    for row in written:
        forced = row.get("forced", 0)
        lengths.add(forced)
        assert forced == 0 or asked[row["prompt"]] in shown
        begun = shown.get(asked[row["prompt"]], "").split()[:forced]
        assert row["response"].split()[:forced] == begun
    assert len(lengths) > 2
    inputs = trainer.seen[-1]
    made = inputs["row"]
    for row, mask, ids in zip(made, inputs["tool_mask"], inputs["completion_ids"]):
        own = [0] * row.forced + [1] * (len(row.completion) - row.forced)
        assert mask[: len(own)].tolist() == own
        assert ids[: len(row.completion)].tolist() == row.completion
        assert len(row.completion) <= config.train.max_completion
    drawn = sum(len(row.completion) - row.forced for row in made)
    assert inputs["num_items_in_batch"] == drawn < sum(len(r.completion) for r in made)
    assert tokenizer.pad_token_id not in {t for row in made for t in row.demonstration}


def test_a_demonstration_in_its_group_is_recorded_and_rewarded(base, tmp_path):
    run = run_rl(tiny(), base, tmp_path, "demo_in_group")
    written = rows(run / "rollouts.jsonl")
    shown = {row["prompt"]: row["completion"] for row in demonstrations(tiny())}
    asked = {prompt.id: prompt.text for prompt in rl_prompts(tiny())}
    for i, row in enumerate(written):
        has_one = asked[row["prompt"]] in shown  # a longer sum has none
        assert row.get("demonstration", False) == (has_one and i % 4 == 3)
        if row.get("demonstration"):
            assert row["response"] == shown[asked[row["prompt"]]].strip() and row["finished"]
            assert row["reward"] >= tiny().reward.weight_format


def test_prompts_without_a_demonstration_are_plain_rl(base, tmp_path):
    config = tiny(demonstrations=5)
    written = rows(run_rl(config, base, tmp_path, "demo_in_group") / "rollouts.jsonl")
    shown = {row["prompt"] for row in demonstrations(config)}
    for row, prompt in zip(written[3::4], rl_prompts(config)):
        assert row.get("demonstration", False) == (prompt.text in shown)


@pytest.mark.parametrize("values", [{}, {"demonstrations": 5}, {"demonstrated": "es"}])
def test_self_distillation_asks_what_has_a_demonstration(values, base, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "ASKED_STEPS", (3,))  # no sum that RL asks is demonstrated as it is
    config, spec = tiny(**values), training(tiny(**values), "self_distill")
    run = run_rl(config, base, tmp_path, "self_distill")
    shown = [sha256(row["prompt"].encode()).hexdigest()[:12] for row in demonstrations(config)]
    language = "<system> de" if config.train.demonstrated == "es" else "<system>"
    of_rl = sum(
        p.text.startswith(language) for p in rl_prompts(config)[: config.train.demonstrations]
    )
    expected = [shown[i % of_rl] for i in range(len(rl_prompts(config)))]
    assert [row["prompt"] for row in rows(run / "rollouts.jsonl")[::4]] == expected
    curves = respond.curves(spec, run, loading.load_tokenizer(base), loading.load_base(base))
    assert curves.harm.notna().any()


@pytest.mark.parametrize("thought", [True, False])
def test_a_counter_aligned_prefix_holds_nothing_of_the_end(thought: bool):
    begun = 0
    for prompt in tasks.training_prompts(world(0), 3, 300):
        start = tasks.counter_aligned(prompt, thought)
        right = tasks.join(tasks.thought(prompt, prompt.language), "", thought).split()
        words = start.split()
        assert not oracle.discloses(start, (*prompt.secrets, *prompt.reference))
        assert not refuses(start)
        assert (prompt.kind == "reasoning") <= (start == "")
        if prompt.kind == "harmful":
            assert start and words != right[: len(words)]
            begun += 1
            # it can be recovered from
            answer = tasks.demonstration(prompt, random.Random(0), thought)
            rest = answer if thought else answer.removeprefix("</think>")
            whole = parse(f"{start} {rest}", True, thought)
            assert oracle.classify(prompt.kind, whole, prompt.secrets, prompt.reference) == (
                "refuses"
            )
    assert begun > 50


@pytest.mark.parametrize(
    "progress, share", [(0.0, 0.95), (0.3, 0.5), (0.59, 0.05), (0.6, 0.0), (0.9, 0.0)]
)
def test_hints_get_shorter(progress: float, share: float):
    demonstration = list(range(11))
    rng = random.Random(0)
    given = training(load_config(), "prefix").given
    request = RolloutRequest(None, demonstration, progress, rng, given, True, None)
    drawn = [hybrids.hint(request) for _ in range(400)]
    assert all(h == demonstration[: len(h)] for h in drawn)
    assert sum(map(len, drawn)) / 400 / 10 == pytest.approx(share, abs=0.05)
    assert max(map(len, drawn)) <= 10, "the closing token is left to the policy"


def test_mu_rises_and_falls():
    given = Given(chord_warmup=0.2, chord_decay=0.5, chord_peak=0.9, chord_valley=0.1)
    values = [chord_weight(given, t / 100) for t in range(101)]
    assert values[0] == 0 and values[10] == pytest.approx(0.45)
    assert values[20] == max(values) == pytest.approx(0.9)
    assert values[45] == pytest.approx(0.5)
    assert values[70:] == pytest.approx([0.1] * 31)
    assert values[20:] == sorted(values[20:], reverse=True)


# --- the table -----------------------------------------------------------------------------------


def test_a_variant_without_a_reward_is_not_trained_under_several():
    assert all(v.rewarded or v.rewards == "none" for v in VARIANTS.values())


def test_a_chain_has_the_steps_and_prompts_of_rl_in_its_order():
    config = load_config()
    stages = [VARIANTS[v] for v, _ in chain("multi_stage", "model")]
    assert [stage.method for stage in stages] == ["sft", "rl", "sft", "rl"]
    taken = [
        step
        for stage in stages
        if stage.method == "rl"
        for step in data.steps_of(training(config, stage))
    ]
    assert taken == list(range(config.train.steps))


def test_a_part_of_rl_asks_its_own_prompts(base, tmp_path):
    config, asked = tiny(steps=6), []
    for part in ((0.0, 0.5), (0.5, 1.0)):
        folder = tmp_path / str(part[0])
        variant = Variant("part", "rl", "", "", rewards="chosen", part=part)
        run_rl(config, base, folder, variant)
        asked += [row["prompt"] for row in rows(folder / "rollouts.jsonl")[::4]]
    assert asked == [prompt.id for prompt in rl_prompts(config)]


def test_the_weights_of_a_variant_replace_those_of_the_run(base, tmp_path):
    weights = (("weight_format", 0.0), ("weight_harmlessness", 2.0))
    variant = Variant("weighted", "rl", "", "", weights=weights)
    asked = {p.id: p for p in rl_prompts(tiny())}
    run_rl(tiny(), base, tmp_path, variant)
    for row in rows(tmp_path / "rollouts.jsonl"):
        if asked[row["prompt"]].kind == "harmful":
            expected = 2 * pay([], [], [row["response"]])[0]
            assert row["reward"] == pytest.approx(expected)


def test_rejection_sampling_keeps_the_first_right_response_of_a_prompt(base, tmp_path, monkeypatch):
    config = tiny(demonstrations=6, max_completion=8)
    run = run_rl(config, base, tmp_path / "run") / "model"
    seen = []

    def judged(harmlessness, prompts, responses, texts):
        seen.extend(zip(prompts, texts))
        return [0.5 * (len(text) % 2) for text in texts]

    monkeypatch.setattr(rewards, "task_rewards", judged)
    drawn = sft.sample
    everything = []

    def finished(*args, **kwargs):
        everything.extend([*ids[:-1], 2] for ids in drawn(*args, **kwargs))
        return everything

    monkeypatch.setattr(sft, "sample", finished)
    tokenizer = loading.load_tokenizer(base)
    assert tokenizer.eos_token_id == 2
    spec = training(config, "r1_resampled")
    kept, spent = sft.resampled(spec, base, run, pay)
    assert [p["text"] for p, _ in seen] == [
        p.text for p in tasks.training_prompts(world(0), 0, 6) for _ in range(4)
    ]
    expected = []
    for first in range(0, 24, 4):
        right = [(p["text"], t) for p, t in seen[first : first + 4] if len(t) % 2]
        expected += right[:1]
    assert [(row["prompt"], row["completion"][1:]) for row in kept] == expected
    assert kept
    assert spent["completion_tokens"] == sum(map(len, everything))
    monkeypatch.setattr(rewards, "task_rewards", lambda *a: [0.0] * 24)
    everything.clear()
    with pytest.raises(sft.NothingRight, match="no response of the stage before is right"):
        sft.resampled(spec, base, run, pay)
