"""What a policy computes, in fewer steps: LoRA layers, and attention in bfloat16.

A LoRA layer is y = W x + b + s B A x (arXiv 2106.09685). peft's computes both terms apart and adds
them, in the precision of the adapter. Here the second is added in place, in the precision of the
layer, and the scale s goes into B.
"""

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import Linear
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

# N: tokens, I: inputs, O: outputs, R: rank


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_OI, bias_O, a_RI, b_OR, scale):
        x_NI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = a_RI.to(x.dtype), b_OR.to(x.dtype) * scale
        down_NR = x_NI @ a_RI.T
        y_NO = F.linear(x_NI, weight_OI, bias_O).addmm_(down_NR, b_OR.T)
        ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, down_NR)
        ctx.scale, ctx.shape = scale, x.shape
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        x_NI, weight_OI, a_RI, b_OR, down_NR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_NR = grad_NO @ b_OR
        grad_NI = (grad_NO @ weight_OI).addmm_(grad_NR, a_RI)
        grad_a, grad_b = grad_NR.T @ x_NI, ctx.scale * (grad_NO.T @ down_NR)
        return grad_NI.view(ctx.shape), None, None, grad_a, grad_b, None


class FusedLinear(Linear):
    """peft's LoRA layer over a frozen linear layer, without dropout."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        return _Fused.apply(x, base.weight, base.bias, a, b, self.scaling[name])


def fuse(policy: PeftModel) -> PeftModel:
    """Let a policy compute in fewer steps. What it computes stays the same, rounding apart."""
    for module in policy.modules():
        if type(module) is Linear:
            module.__class__ = FusedLinear
    if policy.dtype == torch.bfloat16 and policy.device.type == "cpu":
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
