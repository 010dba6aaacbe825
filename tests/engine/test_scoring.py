"""Log-probabilities of packed groups against one row at a time; fused LoRA against peft's."""

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from tiny import save_random, tiny
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hybridlib.engine import scoring
from hybridlib.engine.fused import (
    FusedLinear,
    FusedMLP,
    FusedNorm,
    _Fused,
    _Norm,
    fuse,
    grouped_attention,
)
from hybridlib.engine.scoring import _FrozenHead, score_completions
from hybridlib.training import loading

WORDS = 40
SMALL = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24}
SMALL |= {"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("base"), tiny(layers=2), scale=6.0)


@pytest.fixture(scope="module")
def model(folder: Path):
    return loading.load_base(folder).double()


def one_by_one(model, prompts, completions):
    """A plain loop: one row, one forward pass, no padding, no sharing."""
    for prompt, completion in zip(prompts, completions):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0].double()
        logp_LV = logits[len(prompt) - 1 : -1].log_softmax(-1)
        picked = logp_LV[torch.arange(len(completion)), torch.tensor(completion)]
        yield picked, -(logp_LV.exp() * logp_LV).sum(-1)


tokens = st.integers(4, WORDS)
rollouts = st.lists(
    st.tuples(
        st.lists(tokens, min_size=1, max_size=9),
        st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(groups=rollouts, room=st.sampled_from([1, 24, 4096]), seed=st.integers(0, 9))
def test_packed_groups_are_as_separate_rows(model, groups, room, seed):
    """Any lengths, one token included, equal prompts and completions, in any order."""
    rows = [(p, c) for p, cs in groups for c in cs]
    random.Random(seed).shuffle(rows)
    prompts, completions = map(list, zip(*rows))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(scoring, "ROOM", room)
        patch.setattr(scoring, "HEAD_ROOM", 7 * model.config.vocab_size)
        logps, entropies = score_completions(model, prompts, completions)
        expected = one_by_one(model, prompts, completions)
        for logp, entropy, (picked, spread) in zip(logps, entropies, expected):
            torch.testing.assert_close(logp.double(), picked, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(entropy.double(), spread, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_separate_rows(model):
    rng = random.Random(0)
    rows = [([4, 5, 6], [rng.randrange(4, WORDS) for _ in range(n)]) for n in (5, 3, 5, 1)]
    rows += [([7, 8], rows[0][1]), rows[0]]  # another prompt, and an equal row
    prompts, completions = map(list, zip(*rows))
    weights = [1.0, -2.0, 0.5, 3.0, -1.0, 0.25]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(logps):
        return torch.autograd.grad(sum(w * x.sum() for w, x in zip(weights, logps)), parameters)

    ours = gradients(score_completions(model, prompts, completions)[0])
    theirs = gradients([logp for logp, _ in one_by_one(model, prompts, completions)])
    for a, b in zip(ours, theirs):  # the head works in float32
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_a_prompt_and_an_equal_completion_cost_once(model):
    given_tokens = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: given_tokens.append(kwargs["input_ids"].numel()),
        with_kwargs=True,
    )
    prompt = list(range(4, 14))
    with hook, torch.no_grad():
        score_completions(model, [prompt], [[5, 6, 7]])
        score_completions(model, [prompt] * 4, [[5, 6, 7], [8], [5, 6, 7], [9, 9]])
    # The longest goes behind the prompt, the others apart; a last token is never put in.
    assert given_tokens == [10 + 2, 10 + 2, 1]


def test_a_frozen_head_is_as_a_trained_one(model):
    """Its gradient is computed with its result; the other's by autograd."""
    torch.manual_seed(0)
    hidden = torch.randn(9, model.config.hidden_size, dtype=torch.double, requires_grad=True)
    targets = torch.randint(4, WORDS, (9,))
    head = model.get_output_embeddings()
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "HEAD_ROOM", 4 * model.config.vocab_size)
        patch.setattr(scoring, "HEAD_BLOCK", 2 * model.config.vocab_size)
        for frozen in (False, True):
            head.weight.requires_grad_(not frozen)
            logp, entropy = scoring._head(model, hidden, targets)
            (grad,) = torch.autograd.grad((logp * torch.arange(9)).sum(), hidden)
            found.append((logp.double(), entropy.double(), grad))
    head.weight.requires_grad_(True)
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_frozen_head_is_the_finite_difference():
    torch.manual_seed(0)
    hidden = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    weight, targets = torch.randn(7, 4, dtype=torch.double), torch.tensor([1, 6, 0])
    (grad,) = torch.autograd.grad(_FrozenHead.apply(hidden, weight, targets)[0].sum(), hidden)
    for at in range(hidden.numel()):
        step = torch.zeros_like(hidden).flatten()
        step[at] = 1e-3
        up, down = ((hidden.detach() + sign * step.view_as(hidden)) @ weight.T for sign in (1, -1))
        slope = (up.log_softmax(-1) - down.log_softmax(-1))[range(3), targets].sum() / 2e-3
        assert float(grad.flatten()[at]) == pytest.approx(float(slope), rel=1e-4, abs=1e-6)


# --- attention -------------------------------------------------------------------------------


@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_attention_by_key_heads_is_torchs_own(key_heads):
    torch.manual_seed(0)
    query = torch.randn(3, 6, 5, 8, dtype=torch.double, requires_grad=True)
    key, value = (
        torch.randn(3, key_heads, 7, 8, dtype=torch.double, requires_grad=True) for _ in range(2)
    )
    mask = torch.zeros(3, 1, 5, 7, dtype=torch.double)
    mask[1, :, :, :3] = -torch.inf
    ours, _ = grouped_attention(None, query, key, value, mask, scaling=0.3)
    repeated = (x.repeat_interleave(6 // key_heads, 1) for x in (key, value))
    theirs = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(ours, theirs.transpose(1, 2))
    inputs = (query, key, value)
    for a, b in zip(
        torch.autograd.grad(ours.sin().sum(), inputs),
        torch.autograd.grad(theirs.sin().sum(), inputs),
    ):
        torch.testing.assert_close(a, b)


def test_a_policy_in_bfloat16_scores_as_one_in_float32(folder: Path):
    """Through the attention, norms and gated layers of its own that it has on a CPU."""
    prompts, completions = [[5, 6, 7]] * 3 + [[8, 9]], [[4, 5, 6], [7], [9, 9, 8, 7], [5, 5]]
    scores = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        policy = fuse(get_peft_model(loading.load_base(folder).to(dtype), loading.lora(4)))
        logps, _ = score_completions(policy, prompts, completions)
        scores[dtype] = torch.cat(logps).float()
    assert policy.config._attn_implementation == "grouped"
    for kind, expected in ((FusedMLP, 2), (FusedNorm, 5)):  # of two layers and their end
        assert sum(isinstance(module, kind) for module in policy.modules()) == expected
    torch.testing.assert_close(*scores.values(), rtol=0.05, atol=0.1)


# --- norms and gated layers ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_that_of_transformers(dtype):
    torch.manual_seed(0)
    norm = LlamaRMSNorm(16, 1e-5).to(dtype).requires_grad_(False)
    norm.weight.copy_(torch.randn(16))
    x = (3 * torch.randn(4, 5, 16)).to(dtype).requires_grad_()
    ours, theirs = _Norm.apply(x, norm.weight, norm.variance_epsilon), norm(x)
    assert torch.equal(ours, theirs)
    grads = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_a_gated_layer_is_silu_times_up_and_its_gradient_the_finite_difference():
    torch.manual_seed(0)
    gate, up = (torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True) for _ in range(2))
    a, b = (torch.randn(*size, dtype=torch.double, requires_grad=True) for size in ((2, 5), (4, 2)))
    weight, bias = torch.randn(4, 5, dtype=torch.double), torch.randn(4, dtype=torch.double)

    def run(gate, up, a, b):
        return _Fused.apply(gate, up, weight, bias, a, b, 1.5)

    expected = F.linear(gate * gate.sigmoid() * up, weight + 1.5 * b @ a, bias)
    torch.testing.assert_close(run(gate, up, a, b), expected)
    assert torch.autograd.gradcheck(run, (gate, up, a, b))


# --- LoRA ------------------------------------------------------------------------------------


@pytest.fixture
def policy(folder: Path):
    """peft's own layers, adapters of random numbers."""
    torch.manual_seed(0)
    policy = get_peft_model(loading.load_base(folder).double(), loading.lora(4)).double()
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return policy


def outputs(policy, ids):
    policy.zero_grad()
    logits = policy(input_ids=ids).logits
    logits.sin().sum().backward()
    grads = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    return logits.detach(), grads


def test_a_fused_adapter_computes_what_peft_computes(policy):
    ids = torch.randint(4, WORDS, (3, 7))
    logits, grads = outputs(policy, ids)
    assert any("lora_A" in name for name in grads)
    assert not any(isinstance(module, FusedLinear) for module in policy.modules())
    fused_logits, fused = outputs(fuse(policy), ids)
    assert sum(isinstance(module, FusedLinear) for module in policy.modules()) > 4
    torch.testing.assert_close(fused_logits, logits)
    assert fused.keys() == grads.keys()
    for name in grads:
        torch.testing.assert_close(fused[name], grads[name])


def test_a_fused_adapter_can_be_switched_off(policy):
    ids = torch.randint(4, WORDS, (2, 5))
    with policy.disable_adapter(), torch.no_grad():
        expected = policy(input_ids=ids).logits
    with fuse(policy).disable_adapter(), torch.no_grad():
        torch.testing.assert_close(policy(input_ids=ids).logits, expected)


REFUSED = {
    "dropout": {"lora_dropout": 0.1},
    "a variant such as DoRA": {"use_dora": True},
    "a bias": {"lora_bias": True},
    "base weights that are trained": {"bias": "lora_only"},
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_a_fused_adapter_would_leave_out_is_refused(fault: str):
    """Each would be computed as plain LoRA, silently: the fused layer reads W, b, A, B and s."""
    model = LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True))
    names = ["q_proj", "down_proj"]
    policy = get_peft_model(model, LoraConfig(target_modules=names, r=2, **REFUSED[fault]))
    with pytest.raises(TypeError, match=f"^LoRA is not computed with .*{fault}"):
        fuse(policy)
    assert not any(isinstance(module, FusedLinear) for module in policy.modules())


def test_adapters_that_come_later_are_refused_too(policy):
    ids = torch.randint(4, WORDS, (2, 5))
    fused = fuse(policy)
    fused.add_adapter("second", loading.lora(2))
    fused.base_model.set_adapter(["default", "second"])
    with pytest.raises(TypeError, match=r"^LoRA is computed with one active adapter, not 2$"):
        fused(input_ids=ids)


def test_merged_adapters_are_added_once(policy):
    ids = torch.randint(4, WORDS, (2, 5))
    with torch.no_grad():
        expected = policy(input_ids=ids).logits
        fused = fuse(policy)
        fused.merge_adapter()
        torch.testing.assert_close(fused(input_ids=ids).logits, expected)


def test_dropout_of_attention_is_refused_where_attention_is_written_anew():
    model = LlamaForCausalLM(LlamaConfig(**SMALL, attention_dropout=0.1)).bfloat16()
    with pytest.raises(TypeError, match="not computed with dropout"):
        fuse(get_peft_model(model, loading.lora(2)))


def test_without_adapters_nothing_is_fused():
    """A norm of frozen weight would keep trained weights from learning."""
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).bfloat16()
    kinds = [type(module) for module in model.modules()]
    assert [type(module) for module in fuse(model).modules()] == kinds


def test_an_adapter_on_the_head_counts():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).double()
    policy = get_peft_model(model, LoraConfig(target_modules=["lm_head"], r=2)).double()
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    prompts, completions = [[4, 5], [6, 7, 8]], [[9, 4], [5]]
    found, _ = score_completions(policy, prompts, completions)
    for logp, (expected, _) in zip(found, one_by_one(policy, prompts, completions)):
        torch.testing.assert_close(logp.double(), expected, rtol=1e-4, atol=1e-4)


def test_its_gradient_is_the_finite_difference():
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 3, dtype=torch.double).requires_grad_(False)
    wrapped = Linear(layer, "default", loading.lora(2), r=2, lora_alpha=3).double()
    wrapped.__class__ = FusedLinear
    torch.nn.init.normal_(wrapped.lora_B["default"].weight)
    a, b = wrapped.lora_A["default"].weight, wrapped.lora_B["default"].weight
    x = torch.randn(2, 4, 5, dtype=torch.double, requires_grad=True)

    def run(x, a, b):
        return _Fused.apply(x, None, layer.weight, layer.bias, a, b, wrapped.scaling["default"])

    torch.testing.assert_close(wrapped(x), run(x, a, b))
    inputs = (x, *(p.detach().clone().requires_grad_() for p in (a, b)))
    assert torch.autograd.gradcheck(run, inputs)
