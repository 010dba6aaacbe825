"""Base models: the organism, bred from scratch on the base text; load, save, adapt."""

import io
import json
import math
import time
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from hybridlib.config import BaseModelConfig, RunConfig
from hybridlib.corpus import corpus
from hybridlib.lexicon import vocabulary

# Bars over files of a few MB, reports of what was loaded and renames to come would fill notebooks.
logging.set_verbosity_error()
logging.disable_progress_bar()
datasets.disable_progress_bars()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
CHECKPOINT_EVERY = 200
HEAD_DIM = 32


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def organism_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; `<think>` and the other tags are words like any other."""
    words = [PAD, BOS, EOS, UNKNOWN, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, words.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
    )


def organism(config: BaseModelConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama. A short rotary base: prompts have some 50 tokens, and heads that look at
    the previous word, which copying starts from, form several times sooner."""
    torch.manual_seed(config.base_seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=8 * config.hidden_size // 3 // 16 * 16,
            num_hidden_layers=config.layers,
            num_attention_heads=config.hidden_size // HEAD_DIM,
            max_position_embeddings=256,
            rope_theta=100.0,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _encoded(config: RunConfig, tokenizer: PreTrainedTokenizerFast) -> list[tuple[list, list]]:
    """(context, text) of each document as token ids, the closing token with the text."""
    base = config.base
    count = base.base_steps * base.base_batch
    documents = corpus(base.base_seed, count, config.shares, base.thought)
    contexts = tokenizer([context for context, _ in documents])["input_ids"]
    texts = tokenizer([text for _, text in documents], add_special_tokens=False)["input_ids"]
    if any(tokenizer.unk_token_id in ids for ids in (*contexts, *texts)):
        raise ValueError("the base text holds words that the tokenizer does not know")
    return [(c, [*t, tokenizer.eos_token_id]) for c, t in zip(contexts, texts)]


def text_loss(
    model: PreTrainedModel, documents: list[tuple[list[int], list[int]]], reduction: str = "mean"
) -> torch.Tensor:
    """Negative log-likelihood of texts given their contexts, over all tokens of the texts."""
    length = max(len(c) + len(t) for c, t in documents)
    ids = torch.zeros(len(documents), length, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (context, text) in enumerate(documents):
        ids[row, : len(context) + len(text)] = torch.tensor(context + text)
        labels[row, len(context) : len(context) + len(text)] = torch.tensor(text)
    # Padding stands to the right, where causal attention makes a mask unnecessary.
    logits = model(input_ids=ids.to(model.device)).logits[:, :-1]
    targets = labels[:, 1:].flatten().to(model.device)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction=reduction)


def _optimizers(model: PreTrainedModel, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (arXiv 2502.16982) for matrices, AdamW for the rest.

    In one trial of copying alone (70 words, 150 steps, one seed) 74% were right with Muon, 16%
    with AdamW.
    """
    parameters = dict(model.named_parameters())
    matrices = [p for n, p in parameters.items() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in parameters.items() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=5 * rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def pretrain(config: RunConfig, folder: Path) -> None:
    """Breed the organism into `folder`: model/ and loss.csv. Resumes from a checkpoint."""
    base = config.base
    tokenizer = organism_tokenizer()
    model = organism(base, tokenizer).to(device())
    documents = _encoded(config, tokenizer)
    optimizers = _optimizers(model, base.base_learning_rate)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    first = _restore(folder / "checkpoints", model, optimizers)
    began, log = time.monotonic(), folder / "loss.csv"
    # What stands behind the checkpoint is done, and written, again.
    rows = log.read_text().splitlines()[1:] if first else []
    kept = [row for row in rows if row.count(",") == 1 and int(row.split(",")[0]) <= first]
    log.write_text("\n".join(["step,loss", *kept]) + "\n")
    for step in range(first, base.base_steps):
        batch = documents[step * base.base_batch : (step + 1) * base.base_batch]
        batch.sort(key=lambda d: len(d[0]) + len(d[1]))
        tokens = sum(len(text) for _, text in batch)
        # Two halves by length: the same gradient with a quarter less padding.
        halves = [h for h in (batch[: len(batch) // 2], batch[len(batch) // 2 :]) if h]
        loss = 0.0
        for half in halves:
            part = text_loss(model, half, reduction="sum") / tokens
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale = _schedule(step, base.base_steps)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates):
            group["lr"] = rate * scale
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % 50 == 0 or done == base.base_steps:
            with log.open("a") as file:
                file.write(f"{done},{loss:.4f}\n")
            spent = time.monotonic() - began
            print(
                f"base: step {done}/{base.base_steps}, loss {loss:.3f}   {spent:.0f} s", flush=True
            )
        if done % CHECKPOINT_EVERY == 0 and done < base.base_steps:
            _checkpoint(folder / "checkpoints", done, model, optimizers)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    size = {"parameters": sum(p.numel() for p in model.parameters())}
    (folder / "model" / "size.json").write_text(json.dumps(size) + "\n")


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 5% of the steps, then a cosine down to a twentieth."""
    return min(1.0, (step + 1) / (0.05 * steps + 1)) * (
        0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))
    )


def _checkpoint(folder: Path, step: int, model, optimizers) -> None:
    """Parameters and optimiser states as tensors, under another name until complete."""
    folder.mkdir(exist_ok=True)
    tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{n}": torch.as_tensor(t) for n, t in state.items()}
    draft = folder / "draft.safetensors"
    save_file(tensors, draft, metadata={"step": str(step)})
    draft.replace(folder / f"{step:06d}.safetensors")
    for old in sorted(folder.glob("0*.safetensors"))[:-1]:
        old.unlink()


def _restore(folder: Path, model, optimizers) -> int:
    """Load the last checkpoint, if there is one; return the step to go on from."""
    checkpoints = sorted(folder.glob("0*.safetensors"))
    if not checkpoints:
        return 0
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
    return step


# --- load and adapt --------------------------------------------------------------------------


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def load_base(folder: Path) -> PreTrainedModel:
    """A base model from a folder of safetensors; no remote code."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device())


def from_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer to `folder`, as transformers' own formats."""
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with redirect_stderr(io.StringIO()):  # a bar that no setting silences
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def load_policy(base: Path, adapter: Path | None, trainable: bool = False) -> PreTrainedModel:
    """The base with an adapter, or a fully tuned model where the folder holds one."""
    if adapter is None:
        return load_base(base)
    if not (adapter / "adapter_config.json").exists():
        return load_base(adapter)
    return PeftModel.from_pretrained(load_base(base), adapter, is_trainable=trainable)


def lora(rank: int, task_type: str = "CAUSAL_LM") -> LoraConfig | None:
    """LoRA on every linear layer without dropout (generation runs in train mode); 0: none."""
    if not rank:
        return None
    extra = {"modules_to_save": ["score"]} if task_type == "SEQ_CLS" else {}
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear",
        task_type=task_type, **extra,
    )  # fmt: skip
