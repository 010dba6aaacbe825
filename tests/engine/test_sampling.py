"""Sampling, held against a loop over the full model without a cache, and against transformers."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from tiny import save_random, tiny
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from hybridlib.engine import sampling
from hybridlib.engine.decoder import Decoder
from hybridlib.engine.sampling import InferenceCopy, draw, sample, sample_with_logp
from hybridlib.engine.scoring import score_completions
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.world import world
from hybridlib.training import loading

LENGTH = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("base"), tiny(layers=2), scale=8.0)


@pytest.fixture(scope="module")
def model(folder: Path):
    return loading.load_base(folder).double()


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Prompts of many lengths, longest and shortest mixed, one of a single word among them."""
    texts = [prompt.text for prompt in tasks.training_prompts(world(0), 0, 9)]
    assert len({len(text.split()) for text in texts}) >= 5
    return [texts[0], texts[1].split()[0], *texts[1:]]


@pytest.fixture(scope="module")
def tokenizer(folder: Path, model, prompts):
    """Its closing token is a frequent word, so that rows end early and at different times."""
    tokenizer = loading.load_tokenizer(folder)
    drawn = sample(model, tokenizer, prompts, LENGTH, 3, generator=seeded())
    counts = np.bincount([token for row in drawn for token in row], minlength=len(tokenizer))
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(counts.argmax()))
    return tokenizer


@pytest.fixture
def policy(folder: Path):
    torch.manual_seed(1)
    policy = get_peft_model(loading.load_base(folder), loading.lora(4))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return policy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def reference(model, tokenizer, prompts, max_tokens, group, temperature=1.0, seed=0):
    """One row after the other, one full forward a token, the cumulative sums by numpy."""
    uniforms = torch.rand(len(prompts) * group, max_tokens, generator=seeded(seed)).numpy()
    rows = []
    for i, prompt in enumerate(prompts):
        start = tokenizer(prompt)["input_ids"]
        for g in range(group):
            row: list[int] = []
            for u in uniforms[i * group + g]:
                logits = model(input_ids=torch.tensor([start + row])).logits[0, -1].double().numpy()
                if temperature == 0:
                    token = int(logits.argmax())
                else:
                    weights = np.exp((logits - logits.max()) / temperature)
                    cumulative = np.cumsum(weights / weights.sum())
                    token = int((cumulative <= np.float64(u)).sum())
                row.append(token)
                if token == tokenizer.eos_token_id:
                    break
            rows.append(row)
    return rows


@pytest.mark.parametrize(("group", "temperature"), [(1, 1.0), (3, 1.0), (2, 0.6), (2, 0)])
def test_draws_what_a_plain_loop_draws(model, tokenizer, prompts, group, temperature):
    expected = reference(model, tokenizer, prompts, LENGTH, group, temperature)
    found = sample(model, tokenizer, prompts, LENGTH, group, temperature, seeded())
    assert found == expected
    if group == 3:
        ends = {len(row) for row in found if row[-1] == tokenizer.eos_token_id}
        assert len(ends) >= 3, "some rows must end early for this to show anything"
        assert any(len(row) == LENGTH and row[-1] != tokenizer.eos_token_id for row in found)


def test_several_batches_are_as_one(model, tokenizer, prompts, monkeypatch):
    expected = sample(model, tokenizer, prompts, LENGTH, 2, generator=seeded())
    for size in (1, 4, 5):
        monkeypatch.setattr(sampling, "BATCH", size)
        assert sample(model, tokenizer, prompts, LENGTH, 2, generator=seeded()) == expected


def test_a_row_depends_on_its_uniforms_alone(model, tokenizer, prompts):
    together = sample(model, tokenizer, prompts, LENGTH, 2, generator=seeded())
    # The same first rows of uniforms, other and fewer neighbours.
    alone = sample(model, tokenizer, prompts[:1], LENGTH, 2, generator=seeded())
    assert together[:2] == alone
    others = [prompts[0], *reversed(prompts[1:])]
    assert sample(model, tokenizer, others, LENGTH, 2, generator=seeded())[:2] == alone
    assert sample(model, tokenizer, prompts, LENGTH, 2, generator=seeded(1)) != together


def test_one_token_at_most(model, tokenizer, prompts):
    found = sample(model, tokenizer, prompts, 1, 2, generator=seeded())
    assert found == reference(model, tokenizer, prompts, 1, 2)
    assert all(len(row) == 1 for row in found)


def test_all_rows_may_end_at_once(model, tokenizer, prompts):
    first = sample(model, tokenizer, prompts[:1], 1, temperature=0)[0][0]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
    assert sample(model, tokenizer, prompts[:1] * 3, LENGTH, 2, temperature=0) == [[first]] * 6


def test_greedy_is_what_transformers_generates(model, tokenizer, prompts):
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    assert tokenizer.padding_side == "left"
    out = model.generate(
        **batch.to(model.device), do_sample=False, max_new_tokens=LENGTH,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    theirs = out[:, batch["input_ids"].shape[1] :].tolist()
    ours = sample(model, tokenizer, prompts, LENGTH, temperature=0)
    for mine, other in zip(ours, theirs):
        assert mine == other[: len(mine)]
        assert len(mine) == LENGTH or mine[-1] == tokenizer.eos_token_id
        assert set(other[len(mine) :]) <= {tokenizer.pad_token_id}


def test_the_model_is_left_in_its_mode(model, tokenizer, prompts):
    for training in (True, False):
        model.train(training)
        sample(model, tokenizer, prompts[:2], 2, generator=seeded())
        assert model.training is training


# --- one step of decoding --------------------------------------------------------------------

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
STRETCHED = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0}
STRETCHED |= {"original_max_position_embeddings": 8}


@pytest.mark.parametrize(
    ("make", "dtype", "near"),
    [
        (LlamaConfig, torch.float32, 1e-4),
        (Qwen2Config, torch.float32, 1e-4),
        (Qwen3Config, torch.float32, 1e-4),
        (partial(LlamaConfig, rope_parameters=STRETCHED), torch.float32, 1e-4),
        (LlamaConfig, torch.float64, 1e-4),
        (LlamaConfig, torch.bfloat16, 0.05),
    ],
)
@torch.inference_mode()
def test_a_step_is_the_models_own_forward_pass(make, dtype, near):
    """Prompts of two lengths, three rows each, rows given up on the way."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make(**SIZES)).to(dtype).eval()
    for parameter in model.parameters():  # biases and norms too
        parameter.add_(torch.randn_like(parameter) * 0.1)
    prompts, group, steps = [[0, 0, 5, 6], [7, 8, 9, 10]], 3, 5
    lengths = torch.tensor([2, 4])
    mask = torch.arange(4) >= 4 - lengths[:, None]
    prefilled = DynamicCache(config=model.config)
    model(
        input_ids=torch.tensor(prompts), attention_mask=mask.long(), past_key_values=prefilled,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=True,
    )  # fmt: skip
    decoder = Decoder(model)
    decoder.begin(prefilled, group, steps, ~mask)
    texts = [[t for t, kept in zip(p, m) if kept] for p, m in zip(prompts, mask)]
    texts = [list(text) for text in texts for _ in range(group)]
    for step in range(steps):
        if step == 2:
            alive = torch.tensor([True, False, True, False, True, True])
            decoder.keep(alive)
            texts = [text for text, kept in zip(texts, alive) if kept]
        tokens = torch.randint(0, 90, (len(texts),))
        logits = decoder.step(tokens, torch.tensor([len(text) for text in texts]))
        for text, token, row in zip(texts, tokens, logits):
            text.append(int(token))
            expected = model(input_ids=torch.tensor([text])).logits[0, -1]
            torch.testing.assert_close(row, expected, rtol=near, atol=near)


def test_a_model_of_another_architecture_is_refused_in_one_line():
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=20))
    for compute in (Decoder, lambda model: score_completions(model, [[1]], [[2]])):
        with pytest.raises(TypeError, match=r"^the engine knows .* not GPT2LMHeadModel \(gpt2\)$"):
            compute(model)


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LlamaConfig(**SIZES, rope_parameters=DYNAMIC), "rotary positions of type 'dynamic'"),
        (Qwen2Config(**SIZES, **WINDOW), "attends to a sliding window"),
    ],
)
def test_what_a_step_would_compute_otherwise_is_refused(config, said):
    """Both give other logits once a text is long enough, and were taken without a word."""
    with pytest.raises(TypeError, match=said):
        Decoder(AutoModelForCausalLM.from_config(config))


def test_a_policy_whose_adapters_are_not_folded_in_is_refused(policy):
    """peft's layers name the base's weights as theirs: the adapters would be left out."""
    with pytest.raises(TypeError, match=r"not peft.*Linear; adapters: use InferenceCopy$"):
        Decoder(policy)


@torch.no_grad()
def test_the_log_probability_is_that_of_a_pass_over_the_whole_completion(model, tokenizer, prompts):
    """Rows end at different times and are dropped meanwhile."""
    drawn, logps = sample_with_logp(model, tokenizer, prompts, LENGTH, 3, generator=seeded())
    assert len({len(ids) for ids in drawn}) > 3
    for i, (ids, logp) in enumerate(zip(drawn, logps)):
        prompt = tokenizer(prompts[i // 3])["input_ids"]
        all_logp = model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        expected = all_logp[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).sum()
        assert logp == pytest.approx(expected.item(), abs=1e-4)


# --- one draw --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_softmax(temperature: float):
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1, -3.0, 0.9])
    count = 60_000
    uniforms = torch.rand(count, generator=seeded(5))
    drawn, logps = draw(logits.expand(count, -1), uniforms, temperature)
    weights = np.exp(logits.double().numpy() / temperature)
    observed = np.bincount(drawn.numpy(), minlength=len(logits))
    expected = count * weights / weights.sum()
    np.testing.assert_allclose(logps.exp(), (weights / weights.sum())[drawn], rtol=1e-5)
    assert stats.chisquare(observed, expected).pvalue > 0.001
    # the test has the power to tell another temperature
    other = np.exp(logits.double().numpy() / (temperature * 1.1))
    assert stats.chisquare(observed, count * other / other.sum()).pvalue < 1e-6


@pytest.mark.parametrize("size", [5, 300, 50_000])
def test_the_ends_of_the_unit_interval_draw_what_can_be_drawn(size: int):
    never = float("-inf")
    logits = torch.randn(4, size, generator=seeded(2))
    logits[:, 0], logits[:, -2:] = never, never
    last = torch.full((4,), 1 - 2.0**-24)  # the largest that torch.rand returns
    assert last[0] < 1
    assert draw(logits, torch.zeros(4), 1.0)[0].tolist() == [1] * 4
    top, _ = draw(logits, last, 1.0)
    assert (top < size - 2).all() and logits.gather(1, top[:, None]).isfinite().all()
    many = torch.rand(256, generator=seeded(3))
    drawn, _ = draw(logits[:1].expand(256, -1), many, 1.0)
    assert logits[0, drawn].isfinite().all()


def test_a_certain_token_is_always_drawn():
    logits = torch.full((3, 10), float("-inf"))
    logits[:, 4] = 0.0
    uniforms = torch.tensor([0.0, 0.5, 1 - 2.0**-24])
    for temperature in (1.0, 0):
        drawn, logps = draw(logits, uniforms, temperature)
        assert drawn.tolist() == [4, 4, 4] and logps.tolist() == [0, 0, 0]


# --- the inference copy ----------------------------------------------------------------------


IDS = torch.randint(3, 100, (4, 12), generator=seeded(4))


def test_the_copy_is_the_adapted_policy_and_not_the_base(policy, folder: Path):
    found = InferenceCopy(policy).model(input_ids=IDS).logits
    torch.testing.assert_close(found, policy(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    plain = loading.load_base(folder)(input_ids=IDS).logits
    assert (found - plain).abs().max() > 0.1


def test_the_copy_follows_the_policy_when_asked(policy):
    copy = InferenceCopy(policy)
    before = copy.model(input_ids=IDS).logits
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.01)
    policy(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    expected = policy(input_ids=IDS).logits
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(copy.model(input_ids=IDS).logits, before)
    torch.testing.assert_close(copy.refresh()(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in copy.model.parameters())


def test_the_copy_does_not_drift_and_leaves_the_policy_alone(policy):
    state = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    trainable = [name for name, p in policy.named_parameters() if p.requires_grad]
    copy = InferenceCopy(policy)
    first = {name: tensor.clone() for name, tensor in copy.model.state_dict().items()}
    lora = [p for p in policy.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in lora]
    with torch.no_grad():
        for i in range(30):  # away and back again
            for p, value in zip(lora, kept):
                p.copy_(value * (i % 3))
            copy.refresh()
        for p, value in zip(lora, kept):
            p.copy_(value)
    copy.refresh()
    for name, tensor in copy.model.state_dict().items():
        assert torch.equal(tensor, first[name]), name
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert [name for name, p in policy.named_parameters() if p.requires_grad] == trainable


def test_a_policy_without_adapters_is_used_as_it_is(folder: Path):
    model = loading.load_base(folder)
    copy = InferenceCopy(model)
    assert copy.model is model and copy.refresh() is model
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("also", [{"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}])
def test_a_copy_that_could_not_follow_its_policy_is_refused(folder, also):
    """Both train weights that a refresh would leave as they were."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, attention_bias=True))
    policy = get_peft_model(model, LoraConfig(target_modules="all-linear", **also))
    with pytest.raises(TypeError, match=r"ModulesToSaveWrapper|base weights that are trained"):
        InferenceCopy(policy)


def test_a_copy_of_merged_weights_is_refused(policy):
    """The adapters would be added to weights that hold them already."""
    copy = InferenceCopy(policy)
    policy.merge_adapter()
    for make in (copy.refresh, lambda: InferenceCopy(policy)):
        with pytest.raises(TypeError, match="merged weights"):
            make()


def most_memory(run) -> int:
    """Bytes of the largest allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    return max(event.self_cpu_memory_usage for event in found.events())


def test_frozen_weights_are_not_copied_for_each_prompt(folder, prompts):
    """transformers' own call does it to the LM head of a frozen model in bfloat16 (torch 2.13)."""
    tokenizer, many = loading.load_tokenizer(folder), prompts * 40
    frozen = loading.load_base(folder).bfloat16().requires_grad_(False)
    copies = frozen.get_output_embeddings().weight.nbytes * len(many)
    assert most_memory(lambda: sample(frozen, tokenizer, many, 2, generator=seeded())) < copies / 2
