"""Batched sampling, fast on a CPU.

Each prompt is prefilled once for its group, finished rows are dropped, LoRA adapters are folded
into a separate inference copy, and a token is drawn by inverting the cumulative distribution at one
uniform number a row and step. The uniforms are drawn beforehand, so a row's tokens depend neither
on the other rows nor on when they finish.
"""

import copy

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

BATCH = 256  # rows decoded at once


class InferenceCopy:
    """A copy of a policy with its adapters folded in: W0 + (alpha / r) B A, computed from W0 each
    time, since merging into and out of one set of weights drifts. A policy without adapters is used
    as it is."""

    def __init__(self, policy: PreTrainedModel) -> None:
        self.policy = policy
        self.model = policy
        if isinstance(policy, PeftModel):
            with torch.no_grad():
                plain = copy.deepcopy(policy).merge_and_unload()
            self.model = plain.requires_grad_(False).eval()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> PreTrainedModel:
        """Bring the copy up to date with the policy and return it."""
        if self.model is self.policy:
            return self.model
        targets = dict(self.model.named_modules())
        for name, module in self.policy.base_model.model.named_modules():
            for adapter in (
                getattr(module, "active_adapters", ()) if hasattr(module, "lora_A") else ()
            ):
                delta = module.get_delta_weight(adapter)
                targets[name].weight.copy_(module.base_layer.weight + delta)
        return self.model


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_tokens: int,
    group: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Token ids of `group` completions a prompt, group after group, each with its closing token.

    Parameters
    ----------
    temperature : 0 decodes greedily.
    generator : source of the uniforms; its state alone decides what is drawn.
    """
    was_training = model.training
    model.eval()
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    uniforms = torch.rand(len(prompts) * group, max_tokens, generator=generator)
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    completions: list[list[int]] = [[] for _ in range(len(prompts) * group)]
    size = max(1, BATCH // group)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        rows = [i * group + g for i in chosen for g in range(group)]
        drawn = _decode(
            model, [ids[i] for i in chosen], uniforms[rows], group, temperature,
            tokenizer.pad_token_id, tokenizer.eos_token_id,
        )  # fmt: skip
        for row, tokens in zip(rows, drawn):
            completions[row] = tokens
    model.train(was_training)
    return completions


def _decode(model, ids, uniforms_RT, group, temperature, pad, eos) -> list[list[int]]:
    """Prefill each prompt once, then decode all rows (R) at most T tokens."""
    device, longest = model.device, max(map(len, ids))
    input_PL = torch.tensor([[pad] * (longest - len(i)) + i for i in ids], device=device)
    lengths = torch.tensor([len(i) for i in ids], device=device)
    mask_PL = (torch.arange(longest, device=device) >= longest - lengths[:, None]).long()
    position_PL = (mask_PL.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=input_PL, attention_mask=mask_PL, position_ids=position_PL,
        past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    cache = out.past_key_values
    cache.batch_repeat_interleave(group)
    logits_RV = out.logits[:, -1].repeat_interleave(group, 0)
    mask_RL = mask_PL.repeat_interleave(group, 0)
    position_R = lengths.repeat_interleave(group)
    alive = torch.arange(len(ids) * group)
    drawn: list[list[int]] = [[] for _ in alive]
    for step in range(uniforms_RT.shape[1]):
        token_R = draw(logits_RV, uniforms_RT[alive, step].to(device), temperature)
        for row, token in zip(alive.tolist(), token_R.tolist()):
            drawn[row].append(token)
        going = (token_R != eos).nonzero().flatten()
        if len(going) == 0 or step + 1 == uniforms_RT.shape[1]:
            break
        if len(going) < len(alive):
            cache.batch_select_indices(going)
            alive, token_R = alive[going.cpu()], token_R[going]
            mask_RL, position_R = mask_RL[going], position_R[going]
        mask_RL = torch.cat([mask_RL, mask_RL.new_ones(len(mask_RL), 1)], 1)
        logits_RV = model(
            input_ids=token_R[:, None], attention_mask=mask_RL, position_ids=position_R[:, None],
            past_key_values=cache, use_cache=True,
        ).logits[:, -1]  # fmt: skip
        position_R = position_R + 1
    return drawn


def draw(logits_RV: torch.Tensor, uniform_R: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token a row by inverse-CDF sampling; the most likely one at temperature 0."""
    if temperature == 0:
        return logits_RV.argmax(-1)
    cumulative_RV = torch.softmax(logits_RV.float() / temperature, -1).cumsum(-1)
    # Against the last sum, which rounding leaves off 1, so that no draw falls behind the end.
    threshold_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]
    return (
        torch.searchsorted(cumulative_RV, threshold_R1, right=True)
        .squeeze(1)
        .clamp(max=logits_RV.shape[1] - 1)
    )
