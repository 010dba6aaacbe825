"""A policy in fewer operations, with less kept for the backward pass.

A LoRA layer is y = W x + b + s B A x (arXiv 2106.09685). peft computes both terms apart and adds
them, in the precision of the adapter. Here the second is added in place, in the precision of the
layer, and the scale s goes into B. In bfloat16 on a CPU, where memory is short, attention, norms
and gated layers are written anew as well. Whatever else peft or a model can do is refused.
"""

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import eager_mask

from hybridlib.engine import architecture

SILU = type(ACT2FN["silu"])

# N: tokens, I: inputs, O: outputs, R: rank


class _Fused(torch.autograd.Function):
    """A LoRA layer of x, or of silu(x) * up, which is recomputed instead of kept."""

    @staticmethod
    def forward(ctx, x, up, weight_OI, bias_O, a_RI, b_OR, scale):
        given = x if up is None else F.silu(x).mul_(up)
        given_NI = given.reshape(-1, given.shape[-1])
        a_RI, b_OR = a_RI.to(x.dtype), b_OR.to(x.dtype) * scale
        down_NR = given_NI @ a_RI.T
        y_NO = F.linear(given_NI, weight_OI, bias_O).addmm_(down_NR, b_OR.T)
        ctx.save_for_backward(x, up, weight_OI, a_RI, b_OR, down_NR)
        ctx.scale = scale
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        x, up, weight_OI, a_RI, b_OR, down_NR = ctx.saved_tensors
        silu = None if up is None else F.silu(x)
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_NR = grad_NO @ b_OR
        slope = (grad_NO @ weight_OI).addmm_(grad_NR, a_RI).view(x.shape)
        grad_a = grad_NR.T @ (x if up is None else silu * up).reshape(-1, x.shape[-1])
        grad_b = ctx.scale * (grad_NO.T @ down_NR)
        grad_x, grad_up = slope, None
        if up is not None:
            grad_x = torch.ops.aten.silu_backward(slope * up, x)
            grad_up = slope.mul_(silu)
        return grad_x, grad_up, None, None, grad_a, grad_b, None


class _Norm(torch.autograd.Function):
    """x w / sqrt(mean x^2 + epsilon) in float32; only x is kept, in its own precision.

    The gradient is s (g - x' mean(g x')) with s = 1 / sqrt(...), x' = s x and g that of x'.
    """

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        wide, slope = x.float() * scale, (grad * weight).float()
        along = (slope * wide).mean(-1, keepdim=True)
        return slope.sub_(wide.mul_(along)).mul_(scale).to(x.dtype), None, None


def terms(layer: Linear) -> tuple:
    """W, b, A, B and s of a layer with one adapter.

    Raises TypeError: the layer is not y = W x + b + s B A x with W and b frozen.
    """
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1:
        raise TypeError(f"LoRA is computed with one active adapter, not {len(names)}")
    (name,), base = names, layer.get_base_layer()
    faults = {
        "dropout": getattr(layer.lora_dropout[name], "p", 0) > 0,
        "a variant such as DoRA": name in layer.lora_variant,
        "a bias": layer.lora_bias.get(name, False),
        "merged weights": layer.merged,
        "adapters switched off": layer.disable_adapters,
        "layers that are not torch.nn.Linear": type(base) is not nn.Linear,
        "base weights that are trained": any(p.requires_grad for p in base.parameters()),
    }
    if found := [fault for fault, there in faults.items() if there]:
        raise TypeError(f"LoRA is not computed with {' or '.join(found)}")
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return base.weight, base.bias, a, b, layer.scaling[name]


class FusedLinear(Linear):
    """peft's LoRA layer over a frozen linear layer."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        return _Fused.apply(x, None, *terms(self))


class FusedMLP(nn.Module):
    """The gated layers of Llama and Qwen: down(silu(gate(x)) * up(x))."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up, down = self.gate_proj(x), self.up_proj(x), self.down_proj
        if isinstance(down, FusedLinear) and not (down.disable_adapters or down.merged):
            return _Fused.apply(gate, up, *terms(down))
        return down(F.silu(gate) * up)


class FusedNorm(nn.Module):
    """RMSNorm with a frozen weight (arXiv 1910.07467)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Norm.apply(x, self.weight, self.variance_epsilon)


def fuse(policy: PreTrainedModel) -> PreTrainedModel:
    """Let a policy compute in fewer steps. What it computes stays the same, rounding apart.

    A policy without adapters stays as it is.

    Raises TypeError: another architecture (see `architecture`), or more than LoRA (see `terms`).
    """
    if not isinstance(policy, PeftModel):
        return policy
    architecture.check(policy.get_base_model())
    sparing = policy.dtype == torch.bfloat16 and policy.device.type == "cpu"
    if sparing and policy.config.attention_dropout:
        raise TypeError("attention in bfloat16 on a CPU is not computed with dropout")
    for module in policy.modules():
        if type(module) is Linear:
            terms(module)
            module.__class__ = FusedLinear
        elif sparing and isinstance(getattr(module, "act_fn", None), SILU):
            module.__class__ = FusedMLP
        elif sparing and hasattr(module, "variance_epsilon") and not module.weight.requires_grad:
            module.__class__ = FusedNorm
    if sparing:
        policy.get_base_model().set_attn_implementation("grouped")
    return policy


def grouped_attention(
    module, query, key, value, attention_mask, scaling: float, **_
) -> tuple[torch.Tensor, None]:
    """Attention as two matrix products, query heads that share a key head side by side.

    In bfloat16 on a CPU the backward pass of torch's fused kernel takes several times as long.
    """
    rows, heads, length, size = query.shape
    query = (query * scaling).reshape(rows * key.shape[1], -1, size)
    score = (query @ key.flatten(0, 1).mT).view(rows, heads, length, -1)
    share = (score + attention_mask).softmax(-1).view(len(query), -1, key.shape[2])
    return (share @ value.flatten(0, 1)).view(rows, heads, length, size).transpose(1, 2), None


AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", eager_mask)
