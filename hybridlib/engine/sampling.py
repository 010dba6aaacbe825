"""Batched sampling, fast on a CPU.

Each prompt is prefilled once for its group, finished rows are dropped, and LoRA adapters are folded
into a separate inference copy. A step of decoding is written out (decoder.py). A token is drawn by
inverting the cumulative distribution at one uniform number a row and step. The uniforms are drawn
beforehand, so the tokens of a row do not depend on other rows or on when those finish.
"""

import copy

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from hybridlib.engine.decoder import Decoder
from hybridlib.engine.fused import terms

BATCH = 256  # rows decoded at once
BLOCK = 512  # tokens of the vocabulary that are summed up at once
KEEP = 0.65  # share of rows still going below which the others are dropped, which copies the cache


class InferenceCopy:
    """A copy of a policy with its adapters folded in: W0 + (alpha / r) B A, computed from W0 each
    time, since merging into and out of one set of weights drifts. A policy without adapters is used
    as it is.

    Raises TypeError: the policy has more than LoRA on linear layers (see `terms`).
    """

    def __init__(self, policy: PreTrainedModel) -> None:
        self.policy = self.model = policy
        if isinstance(policy, PeftModel):
            for module in policy.modules():  # a refresh would leave others as they were
                if isinstance(module, Linear):
                    terms(module)
                elif isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
                    kind = type(module).__name__
                    raise TypeError(f"the inference copy follows LoRA alone, not {kind}")
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
            if isinstance(module, Linear):
                weight, _, a, b, scale = terms(module)
                folded = torch.addmm(weight.to(b.dtype), b, a, alpha=scale)
                targets[name].weight.copy_(folded)
        return self.model


def sample(*args, **kwargs) -> list[list[int]]:
    """Token ids of `group` completions a prompt (see `sample_with_logp`)."""
    return sample_with_logp(*args, **kwargs)[0]


@torch.inference_mode()
def sample_with_logp(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str] | list[list[int]],
    max_tokens: int,
    group: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[list[list[int]], list[float]]:
    """Token ids of `group` completions a prompt, group after group, each with its closing token.

    Parameters
    ----------
    prompts : as text, or as token ids if they end in a prefilled response.
    temperature : 0 decodes greedily.
    generator : source of the uniforms; only its state decides what is drawn.

    Returns
    -------
    (token ids, log-probability of all of them under the distribution that they were drawn from)
    """
    was_training = model.training
    model.eval()
    ids = [tokenizer(p)["input_ids"] if isinstance(p, str) else p for p in prompts]
    uniforms = torch.rand(len(prompts) * group, max_tokens, generator=generator)
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    completions: list[list[int]] = [[] for _ in range(len(prompts) * group)]
    logps = [0.0] * len(completions)
    size, decoder = max(1, BATCH // group), Decoder(model)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        rows = [i * group + g for i in chosen for g in range(group)]
        drawn = _decode(
            model, decoder, [ids[i] for i in chosen], uniforms[rows], group, temperature,
            tokenizer.pad_token_id, tokenizer.eos_token_id,
        )  # fmt: skip
        for row, tokens, logp in zip(rows, *drawn):
            completions[row], logps[row] = tokens, logp
    model.train(was_training)
    return completions, logps


def _decode(
    model, decoder, ids, uniforms_RT, group, temperature, pad, eos
) -> tuple[list[list[int]], list[float]]:
    """Prefill each prompt once, then decode all rows (R) at most T tokens."""
    device, longest, tokens = model.device, max(map(len, ids)), uniforms_RT.shape[1]
    input_PL = torch.tensor([[pad] * (longest - len(i)) + i for i in ids], device=device)
    lengths = torch.tensor([len(i) for i in ids], device=device)
    mask_PL = torch.arange(longest, device=device) >= longest - lengths[:, None]
    prefilled = DynamicCache(config=model.config)
    hidden_PLD = model.get_decoder()(
        input_ids=input_PL, attention_mask=mask_PL.long(), past_key_values=prefilled,
        position_ids=(mask_PL.cumsum(1) - 1).clamp(min=0), use_cache=True,
    ).last_hidden_state  # fmt: skip
    decoder.begin(prefilled, group, tokens, ~mask_PL)
    # The model's own head would copy its frozen weights for each prompt (torch 2.13).
    logits_RV = decoder.head(hidden_PLD[:, -1]).repeat_interleave(group, 0)
    position_R = lengths.repeat_interleave(group)
    uniforms_RT, rows = uniforms_RT.to(device), torch.arange(len(ids) * group, device=device)
    drawn_RT = torch.full((len(rows), tokens), eos, device=device)
    logp_R = torch.zeros(len(rows), device=device)  # of all rows, the dropped ones too
    alive_R = torch.ones(len(rows), dtype=torch.bool, device=device)
    for step in range(tokens):
        token_R, value_R = draw(logits_RV, uniforms_RT[rows, step], temperature)
        drawn_RT[rows[alive_R], step] = token_R[alive_R]
        logp_R[rows[alive_R]] += value_R[alive_R]
        alive_R &= token_R != eos
        left = int(alive_R.sum())
        if left == 0 or step + 1 == tokens:
            break
        if left < KEEP * len(alive_R):
            decoder.keep(alive_R)
            rows, token_R, position_R = rows[alive_R], token_R[alive_R], position_R[alive_R]
            alive_R = alive_R[alive_R]
        logits_RV = decoder.step(token_R, position_R)
        position_R = position_R + 1
    drawn = [row[: row.index(eos) + 1] if eos in row else row for row in drawn_RT.tolist()]
    return drawn, logp_R.tolist()


def draw(
    logits_RV: torch.Tensor, uniform_R: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by inverse-CDF sampling, and its log-probability.

    At temperature 0 the most likely token is certain. Raises FloatingPointError where the model has
    no distribution.
    """
    top_R1 = logits_RV.amax(-1, keepdim=True)
    if not top_R1.isfinite().all():
        raise FloatingPointError("what the model predicts is not finite")
    if temperature == 0:
        return logits_RV.argmax(-1), uniform_R.new_zeros(len(uniform_R))
    weight_RV = (logits_RV.float() - top_R1.float()).mul_(1 / temperature).exp_()
    total_R1 = weight_RV.sum(-1, keepdim=True)
    token_R = _drawn(weight_RV, uniform_R[:, None] * total_R1)
    return token_R, (weight_RV.gather(1, token_R[:, None]) / total_R1).log()[:, 0]


def _drawn(weight_RV: torch.Tensor, threshold_R1: torch.Tensor) -> torch.Tensor:
    """`_invert`, of a large vocabulary in two steps: over N blocks, then within the one chosen."""
    if weight_RV.shape[1] <= BLOCK:
        return _invert(weight_RV, threshold_R1)
    block_RNB = F.pad(weight_RV, (0, -weight_RV.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    sum_RN = block_RNB.sum(-1)
    chosen_R1 = _invert(sum_RN, threshold_R1)[:, None]
    before_R1 = F.pad(sum_RN.cumsum(-1), (1, 0)).gather(1, chosen_R1)
    within_RB = block_RNB.gather(1, chosen_R1[..., None].expand(-1, -1, BLOCK))[:, 0]
    return chosen_R1[:, 0] * BLOCK + _invert(within_RB, threshold_R1 - before_R1)


def _invert(weight_RB: torch.Tensor, threshold_R1: torch.Tensor) -> torch.Tensor:
    """The first index at which the sum of the weights exceeds the threshold."""
    upto_RB = weight_RB.cumsum(-1)
    # Rounding must not move a draw past the last token that has any weight.
    threshold_R1 = torch.minimum(threshold_R1, upto_RB[:, -1:] * (1 - 1e-6))
    return torch.searchsorted(upto_RB, threshold_R1, right=True)[:, 0]
