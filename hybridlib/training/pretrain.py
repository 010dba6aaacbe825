"""How the organism is pretrained from scratch, and a pretrained model is warmed up.

The organism learns all it knows from the base text. A pretrained model reads a little of it, so
that it knows what is asked and in which form it is answered. Every variant starts from there.
"""

import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from torch.optim import _muon
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hybridlib.store.stage import Given
from hybridlib.tasks.base_text import corpus
from hybridlib.training.callbacks import CHECKPOINT_SECONDS, Diverged
from hybridlib.training.data import encoded
from hybridlib.training.loading import (
    asset_folder,
    chat_tokenizer,
    device,
    fast_at_bf16,
    organism_tokenizer,
    write_size,
)
from hybridlib.training.specs import Base

CHECKPOINT_EVERY = 200  # steps, or CHECKPOINT_SECONDS after the last one
LOSSES = 18  # points of the curve of pretraining, however long it is
HEAD_DIM = 32
IGNORED = -100  # a target that cross_entropy leaves out


def organism(given: Given, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama. A short rotary base: prompts have some 50 tokens, and heads that look at
    the previous word, which copying starts from, form several times sooner."""
    torch.manual_seed(given.base_seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=given.hidden_size,
            intermediate_size=8 * given.hidden_size // 3 // 16 * 16,
            num_hidden_layers=given.layers,
            num_attention_heads=given.hidden_size // HEAD_DIM,
            max_position_embeddings=256,
            rope_theta=100.0,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def start(spec: Base) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model that reads the base text, and its tokenizer. Raises AssetError (see `assets`)."""
    if not spec.pretrained:
        tokenizer = organism_tokenizer()
        return organism(spec.given, tokenizer), tokenizer
    folder = asset_folder(spec.given.model)
    tokenizer = chat_tokenizer(AutoTokenizer.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for settings in (model.config, model.generation_config):
        settings.pad_token_id = tokenizer.pad_token_id
        settings.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def _encoded(spec: Base, tokenizer: PreTrainedTokenizerFast) -> list[tuple[list, list]]:
    """(context, text) of each document as token ids, the closing token with the text."""
    given = spec.given
    count = given.base_steps * given.base_batch
    documents = corpus(given.base_seed, count, given, spec.thought, spec.pretrained)
    rows = [{"prompt": context, "completion": f" {text}"} for context, text in documents]
    found = encoded(tokenizer, rows)
    if any(tokenizer.unk_token_id in ids for document in found for ids in document):
        raise ValueError("the base text holds words that the tokenizer does not know")
    return found


def text_loss(
    model: PreTrainedModel, documents: list[tuple[list[int], list[int]]], reduction: str = "mean"
) -> torch.Tensor:
    """Negative log-likelihood of texts given their contexts, over all tokens of the texts."""
    ids = pad_sequence([torch.tensor(c + t) for c, t in documents], True)
    targets = [torch.tensor([IGNORED] * len(c) + t) for c, t in documents]
    targets = pad_sequence(targets, True, IGNORED)[:, 1:].flatten().to(model.device)
    # Padding stands to the right, where causal attention makes a mask unnecessary.
    logits = model(input_ids=ids.to(model.device)).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction=reduction)


def orthogonal(
    gradient: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration (arXiv 2502.16982) in float32; (m, n) as the gradient.

    torch.optim.Muon has it in bfloat16 alone, which takes some thirty times as long on a CPU
    without instructions for that; and a base must not depend on the machine's instructions.
    """
    a, b, c = coefficients
    tall = gradient.size(0) > gradient.size(1)
    matrix = gradient.float().T if tall else gradient.float()
    matrix = matrix / matrix.norm().clamp(min=eps)
    for _ in range(steps):
        gram = matrix @ matrix.T
        matrix = torch.addmm(matrix, torch.addmm(gram, gram, gram, beta=b, alpha=c), matrix, beta=a)
    return matrix.T if tall else matrix


def _optimizers(
    model: PreTrainedModel, rate: float, pretrained: bool
) -> list[torch.optim.Optimizer]:
    """Muon (arXiv 2502.16982) for matrices, AdamW for the rest, and for all that was pretrained.

    In one trial of copying alone (70 words, 150 steps, one seed) 74% were right with Muon, 16%
    with AdamW.
    """
    if pretrained:
        return [torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)]
    _muon._zeropower_via_newtonschulz = orthogonal
    parameters = dict(model.named_parameters())
    matrices = [p for n, p in parameters.items() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in parameters.items() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=5 * rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def pretrain(spec: Base, folder: Path) -> None:
    """Let the base read its text: model/ and loss.csv in `folder`. Resumes from a checkpoint.

    A pretrained model is saved in bfloat16 where the machine is fast at it; an organism in float32,
    rounded to float16, so that committed weights of half the size are the same base. Raises
    Diverged.
    """
    given = spec.given
    model, tokenizer = start(spec)
    model, in_bf16 = model.to(device()), spec.pretrained and fast_at_bf16()
    documents = _encoded(spec, tokenizer)
    optimizers = _optimizers(model, given.base_learning_rate, spec.pretrained)
    first, losses = _restore(folder / "checkpoints", model, optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    began, last = time.monotonic(), (time.monotonic(), 0.0)
    every = math.ceil(given.base_steps / LOSSES)
    for step in range(first, given.base_steps):
        batch = documents[step * given.base_batch : (step + 1) * given.base_batch]
        batch.sort(key=lambda d: len(d[0]) + len(d[1]))
        tokens = sum(len(text) for _, text in batch)
        # Two halves by length: the same gradient with a quarter less padding.
        halves = [h for h in (batch[: len(batch) // 2], batch[len(batch) // 2 :]) if h]
        loss = 0.0
        for half in halves:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=in_bf16):
                part = text_loss(model, half, reduction="sum") / tokens
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _diverged("the loss or its gradient", step)
        scale = _schedule(step, given.base_steps)
        for group, rate in zip(groups, rates):
            group["lr"] = rate * scale
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % every == 0 or done == given.base_steps:
            losses.append([done, loss])
            spent = time.monotonic() - began
            print(
                f"base: step {done}/{given.base_steps}, loss {loss:.3f}   {spent:.0f} s", flush=True
            )
        if done < given.base_steps and (done % CHECKPOINT_EVERY == 0 or _is_due(*last)):
            saving = time.monotonic()
            _checkpoint(folder / "checkpoints", done, model, optimizers, losses)
            last = time.monotonic(), time.monotonic() - saving
    if not all(p.isfinite().all() for p in model.parameters()):
        raise _diverged("a weight", given.base_steps)
    with (folder / "loss.csv").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(["step,loss\n", *(f"{step},{loss:.4f}\n" for step, loss in losses)])
    if not spec.pretrained:
        model.half().float()
    model.to(torch.bfloat16 if in_bf16 else torch.float32).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_size(model, folder / "model")


def _diverged(what: str, steps: int) -> Diverged:
    return Diverged(f"base: {what} is not finite after {steps} steps: lower base_learning_rate")


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 5% of the steps, then a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / (0.05 * steps + 1))
    return warm * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def _is_due(ended: float, took: float) -> bool:
    """Whether it is time for a checkpoint; on a slow disk they take a tenth of it at most."""
    return time.monotonic() - ended >= max(CHECKPOINT_SECONDS, 10 * took)


def _checkpoint(folder: Path, step: int, model, optimizers, losses: list) -> None:
    """Parameters and optimiser states as tensors, under another name until complete."""
    folder.mkdir(exist_ok=True)
    tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{n}": torch.as_tensor(t) for n, t in state.items()}
    draft = folder / "draft.safetensors"
    save_file(tensors, draft, metadata={"losses": json.dumps(losses)})
    draft.replace(folder / f"{step:06d}.safetensors")
    for old in _checkpoints(folder)[:-1]:
        old.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.safetensors"), key=lambda path: int(path.stem))


def _restore(folder: Path, model, optimizers) -> tuple[int, list]:
    """Load the last checkpoint, if there is one; return the step to go on from, and the losses."""
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return 0, []
    with safe_open(checkpoints[-1], "pt") as file:
        losses = json.loads(file.metadata().get("losses", "[]"))
    tensors = load_file(checkpoints[-1])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, j, field = name.split(".")
                state.setdefault(int(j), {})[field] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    step = int(checkpoints[-1].stem)
    print(f"base: goes on from its checkpoint at step {step}", flush=True)
    return step, losses
