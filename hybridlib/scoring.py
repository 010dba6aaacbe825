"""Log-probabilities of completions, each prompt put through the model once for its group.

A group of GRPO is packed into one row: the prompt, then its completions one after the other. Each
completion stands at the positions that follow the prompt and sees the prompt and itself alone, so
the numbers are those of separate rows (Prefix Grouper, arXiv 2506.05433). Only what predicts a
token of a completion goes through the LM head; the last token of a completion predicts none and is
left out.

P: prompt, C: completion, each a list of token ids. N: scored tokens, V: vocabulary.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

ROOM = 1024  # padded tokens that go through the model at once
HEAD_ROOM = 1 << 25  # logits that are held at once


def score_completions(
    model: PreTrainedModel, prompts: list[list[int]], completions: list[list[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """log pi(c_t | p, c_<t) and the entropy of pi at each t, one tensor (C,) a completion.

    Completions of the same prompt share it, in whatever order they come, and equal ones are put
    through the model once.
    """
    groups: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for row, (prompt, completion) in enumerate(zip(prompts, completions)):
        groups.setdefault(tuple(prompt), {}).setdefault(tuple(completion), []).append(row)
    packed = [(p, list(rows_of)) for p, rows_of in groups.items()]
    rows = [list(rows_of.values()) for rows_of in groups.values()]
    lengths = [len(p) + sum(len(c) - 1 for c in cs) for p, cs in packed]
    logps, entropies = [None] * len(prompts), [None] * len(prompts)
    for chosen in _batches(lengths):
        logp_N, entropy_N = _score(model, [packed[i] for i in chosen])
        sizes = [len(c) for i in chosen for c in packed[i][1]]
        equal = [same for i in chosen for same in rows[i]]
        for same, logp, entropy in zip(equal, logp_N.split(sizes), entropy_N.split(sizes)):
            for row in same:
                logps[row], entropies[row] = logp, entropy
    return logps, entropies


def _batches(lengths: list[int]) -> list[list[int]]:
    """Indices of groups of like length, as many at once as there is room for."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= ROOM:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _score(model, groups) -> tuple[torch.Tensor, torch.Tensor]:
    ids, positions, parts, predicting, targets = [], [], [], [], []
    for row, (prompt, completions) in enumerate(groups):
        tokens, position, part = list(prompt), list(range(len(prompt))), [0] * len(prompt)
        for number, completion in enumerate(completions, 1):
            begin = len(tokens)
            predicting += [(row, len(prompt) - 1)]
            predicting += [(row, begin + t) for t in range(len(completion) - 1)]
            tokens += completion[:-1]
            position += range(len(prompt), len(prompt) + len(completion) - 1)
            part += [number] * (len(completion) - 1)
            targets += completion
        ids.append(torch.tensor(tokens))
        positions.append(torch.tensor(position))
        parts.append(torch.tensor(part))
    device = model.device
    part_GL = pad_sequence(parts, batch_first=True, padding_value=-1)
    own_GLL = part_GL[:, :, None] == part_GL[:, None, :]
    seen_GLL = (own_GLL | (part_GL == 0)[:, None, :]).tril()
    mask_GLL = torch.zeros(seen_GLL.shape, dtype=model.dtype).masked_fill(~seen_GLL, -torch.inf)
    head = model.get_output_embeddings()
    decoder = model.get_decoder()
    hidden_GLD = decoder(
        input_ids=pad_sequence(ids, batch_first=True).to(device),
        position_ids=pad_sequence(positions, batch_first=True).to(device),
        attention_mask=mask_GLL[:, None].to(device),
        use_cache=False,
    ).last_hidden_state
    row_N, position_N = torch.tensor(predicting, device=device).T
    hidden_ND = hidden_GLD[row_N, position_N]
    target_N = torch.tensor(targets, device=device)
    size = max(1, HEAD_ROOM // head.weight.shape[0])
    scored = [
        # The logits of a large vocabulary are computed again in the backward pass, not kept.
        checkpoint(_head, head, h, t, use_reentrant=False, preserve_rng_state=False)
        for h, t in zip(hidden_ND.split(size), target_N.split(size))
    ]
    logps, entropies = zip(*scored)
    return torch.cat(logps), torch.cat(entropies)


def _head(head, hidden_ND, target_N) -> tuple[torch.Tensor, torch.Tensor]:
    logp_NV = head(hidden_ND).float().log_softmax(-1)
    with torch.no_grad():
        entropy_N = -torch.einsum("nv,nv->n", logp_NV.exp(), logp_NV)
    return logp_NV.gather(1, target_N[:, None])[:, 0], entropy_N
