"""Log-probabilities of completions; each prompt is computed once for its group.

The longest completion of a group is computed together with its prompt. The others are computed
alone and attend to the keys and values of that prompt, so the numbers are those of separate rows
(Prefix Grouper, arXiv 2506.05433). Only positions that predict a token of a completion go through
the LM head; the last token of a completion predicts none and is left out.

P: prompt, C: completion, each a list of token ids. G: groups, R: rows, L: length, D: width,
N: scored tokens, V: vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from hybridlib.engine import architecture

ROOM = 4096  # padded tokens that go through the model at once
HEAD_ROOM = 1 << 24  # logits that are held at once
HEAD_BLOCK = 1 << 19  # logits that become probabilities at once: they stay in the processor's cache


def score_completions(
    model: PreTrainedModel, prompts: list[list[int]], completions: list[list[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """log pi(c_t | p, c_<t) and the entropy of pi at each t, one tensor (C,) a completion.

    Completions of the same prompt share it, in any order; equal ones are computed once.

    Raises TypeError: the model is of another architecture (see `architecture`).
    """
    architecture.check(model)
    groups: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for row, (prompt, completion) in enumerate(zip(prompts, completions)):
        groups.setdefault(tuple(prompt), {}).setdefault(tuple(completion), []).append(row)
    packed = [(p, sorted(rows_of, key=len, reverse=True)) for p, rows_of in groups.items()]
    logps, entropies = [None] * len(prompts), [None] * len(prompts)
    for chosen in _batches([len(p) + len(cs[0]) for p, cs in packed]):
        batch = [packed[i] for i in chosen]
        each_logp, each_entropy = _score(model, batch)
        equal = [groups[prompt][completion] for prompt, cs in batch for completion in cs]
        for rows, logp, entropy in zip(equal, each_logp, each_entropy):
            for row in rows:
                logps[row], entropies[row] = logp, entropy
    return logps, entropies


def _batches(lengths: list[int]) -> list[list[int]]:
    """Indices of rows of similar length, as many at once as there is room for."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= ROOM:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


class _Shared(DynamicLayer):
    """Keys and values of the prompts before those of the rows; nothing is kept."""

    def __init__(self, prompts: DynamicLayer, longest: int, group_R: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(prompts.keys, prompts.values)
        self.keys, self.values = (
            x[:, :, :longest].index_select(0, group_R) for x in (prompts.keys, prompts.values)
        )

    def update(self, keys, values, *args, **kwargs):
        return torch.cat([self.keys, keys], -2), torch.cat([self.values, values], -2)


def _score(model, groups) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Log-probabilities and entropies of each completion of each group, in their order."""
    device, length_G = model.device, torch.tensor([len(prompt) for prompt, _ in groups])
    left = DynamicCache()
    # Padding is on the right, where causal attention makes a mask unnecessary.
    out_GLD = model.get_decoder()(
        input_ids=_padded([p + cs[0][:-1] for p, cs in groups]).to(device),
        past_key_values=left,
        use_cache=True,
    ).last_hidden_state
    hidden, size = [out_GLD.flatten(0, 1)], out_GLD[..., 0].numel()
    # Rows of `hidden` that predict the first token of a completion, where its prompt ends, and
    # its second; the others follow.
    first = [g * out_GLD.shape[1] + len(prompt) - 1 for g, (prompt, _) in enumerate(groups)]
    second = {(g, cs[0]): first[g] + 1 for g, (_, cs) in enumerate(groups)}
    alone = [(g, c) for g, (_, cs) in enumerate(groups) for c in cs[1:] if len(c) > 1]
    for chosen in _batches([len(c) - 1 for _, c in alone]):
        rows = [alone[i] for i in chosen]
        out_RLD = _behind_prompts(model, left, length_G, rows)
        second |= {row: size + r * out_RLD.shape[1] for r, row in enumerate(rows)}
        size += out_RLD[..., 0].numel()
        hidden.append(out_RLD.flatten(0, 1))
    every = [(g, c) for g, (_, cs) in enumerate(groups) for c in cs]
    where, targets = [], []
    for g, completion in every:
        begin = second.get((g, completion), 0)
        where += [first[g], *range(begin, begin + len(completion) - 1)]
        targets += completion
    hidden_ND = torch.cat(hidden).index_select(0, torch.tensor(where, device=device))
    logp_N, entropy_N = _head(model, hidden_ND, torch.tensor(targets, device=device))
    sizes = [len(completion) for _, completion in every]
    return logp_N.split(sizes), entropy_N.split(sizes)


def _behind_prompts(model, left: DynamicCache, length_G, rows) -> torch.Tensor:
    """Hidden states (R, L, D) of completions, given the keys and values of their prompts.

    Parameters
    ----------
    rows : (index of the group, completion) of each.
    """
    device, longest = model.device, int(length_G.max())
    group_R = torch.tensor([g for g, _ in rows])
    ids_RL = _padded([completion[:-1] for _, completion in rows])
    length = ids_RL.shape[1]
    own_RLL = torch.ones(length, length, dtype=torch.bool).tril().expand(len(rows), -1, -1)
    prompt_RLL = torch.arange(longest) < length_G[group_R][:, None, None].expand(-1, length, -1)
    hidden_RLL = ~torch.cat([prompt_RLL, own_RLL], -1)
    bias_RLL = torch.zeros(hidden_RLL.shape, dtype=model.dtype).masked_fill_(hidden_RLL, -torch.inf)
    shared = [_Shared(layer, longest, group_R.to(device)) for layer in left.layers]
    return model.get_decoder()(
        input_ids=ids_RL.to(device),
        position_ids=(length_G[group_R][:, None] + torch.arange(length)).to(device),
        attention_mask=bias_RLL[:, None].to(device),
        past_key_values=Cache(layers=shared),
        use_cache=True,
    ).last_hidden_state


def _padded(rows) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _head(model, hidden_ND, target_N) -> tuple[torch.Tensor, torch.Tensor]:
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and not head.weight.requires_grad and head.bias is None:
        return _FrozenHead.apply(hidden_ND, head.weight, target_N)
    logp_NV = head(hidden_ND).float().log_softmax(-1)
    entropy_N = -(logp_NV.detach().exp() * logp_NV.detach()).sum(-1)
    return logp_NV.gather(1, target_N[:, None])[:, 0], entropy_N


class _FrozenHead(torch.autograd.Function):
    """log softmax(W h)[target] and the entropy of the softmax.

    The gradient in h is (W[target] - softmax(W h) W) times that of the result. It is computed with
    the result, so that logits of a large vocabulary are neither kept nor computed again.
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, target_N):
        vocabulary = weight_VD.shape[0]
        size, block = (max(1, room // vocabulary) for room in (HEAD_ROOM, HEAD_BLOCK))
        logps, entropies, slopes = [], [], []
        for hidden, target in zip(hidden_ND.split(size), target_N.split(size)):
            logit_NV = F.linear(hidden, weight_VD)
            for logit, chosen in zip(logit_NV.split(block), target.split(block)):
                logp = logit.float().log_softmax(-1)
                logps.append(logp.gather(1, chosen[:, None])[:, 0])
                share = logp.exp()
                logit.copy_(share)
                entropies.append(-logp.mul_(share).sum(-1))
            if ctx.needs_input_grad[0]:
                slopes.append(weight_VD[target] - logit_NV @ weight_VD)
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        entropy_N = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logps), entropy_N

    @staticmethod
    def backward(ctx, grad_N, _):
        (slope_ND,) = ctx.saved_tensors
        return (grad_N[:, None] * slope_ND).to(slope_ND.dtype), None, None
