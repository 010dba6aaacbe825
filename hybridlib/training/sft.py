"""Supervised fine-tuning on TRL's trainer, and rejection sampling for what it learns from.

L_SFT = - mean over demonstrated tokens of log pi(y_t | x, y_<t)
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from hybridlib.engine.sampling import InferenceCopy, sample
from hybridlib.store.errors import OneLineError
from hybridlib.tasks import datasets
from hybridlib.training import data, loading
from hybridlib.training.callbacks import Progress, arguments, finish, finite
from hybridlib.training.objective import demonstration_nll, write_objective
from hybridlib.training.rewards import RIGHT, Harmlessness, rewarded
from hybridlib.training.specs import Training


class NothingRight(OneLineError, RuntimeError):
    """Rejection sampling rejected everything."""


def sft(
    spec: Training,
    base: Path,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    shown: list[dict] | None = None,
    **spent: float,
) -> None:
    """Supervised fine-tuning from the base; the loss is on completions alone.

    Parameters
    ----------
    base : folder of the base model.
    folder : gets model/, log.jsonl, cost.json, warnings.json, objective.json.
    shown : rows {prompt, completion} to learn from, by default the demonstrations.
    spent : what it took to get them (see `finish`).

    Raises Diverged, NothingLearnt.
    """
    torch.manual_seed(spec.seed)
    given, steps = spec.given, getattr(spec.given, spec.variant.steps)
    policy, tokenizer = loading.policy(base, None, given.lora_rank), loading.load_tokenizer(base)
    bf16 = loading.is_bf16(policy)
    trainer = SFTTrainer(
        model=policy,
        args=SFTConfig(
            **arguments(folder, spec.seed, spec.learning_rate, steps, bf16),
            per_device_train_batch_size=given.sft_batch,
            completion_only_loss=True,
            max_length=None,  # a demonstration is learnt whole, however long its prompt
        ),
        train_dataset=Dataset.from_list(shown or data.demonstrations(spec)),
        processing_class=tokenizer,
        callbacks=[Progress(spec.name, folder), *callbacks],
    )
    finish(trainer, folder, **spent)
    with finite(trainer):
        write_objective(folder, -demonstration_nll(spec, trainer.model, tokenizer))


def resampled(
    spec: Training, base: Path, source: Path, harmlessness: Harmlessness
) -> tuple[list[dict], dict[str, float]]:
    """Rejection sampling (arXiv 2501.12948): right responses of a trained policy, one a prompt.

    It answers the prompts of the demonstrations `group_size` times each. The first response with at
    least half of the run's own reward for what is asked is kept; a prompt without one is left out.

    Returns rows {prompt, completion}, and what it took. Raises NothingRight if no response was.
    """
    began, tokenizer, given = time.monotonic(), loading.load_tokenizer(base), spec.given
    model = InferenceCopy(loading.load_policy(base, source)).model
    asked = datasets.training(spec.asking, spec.seed, given.demonstrations)
    prompts, generator = [p.text for p in asked], torch.Generator().manual_seed(spec.seed)
    length, group = given.max_completion, given.group_size
    completions = sample(model, tokenizer, prompts, length, group, generator=generator)
    texts, finished = data.decoded(tokenizer, completions)
    rows = [prompt.row() for prompt in asked for _ in range(group)]
    thought = spec.base.thought
    _, of_task = rewarded(spec.weights, harmlessness, rows, texts, finished, thought)
    kept: dict[int, dict] = {}
    for i, (row, text, end, value) in enumerate(zip(rows, texts, finished, of_task)):
        if end and value >= RIGHT:
            shown = {"prompt": row["text"], "completion": f" {text}"}
            kept.setdefault(i // group, shown)
    if not kept:
        raise NothingRight(
            "no response of the stage before is right: raise steps or max_completion"
        )
    return list(kept.values()), {
        "prompt_tokens": sum(map(len, tokenizer(prompts)["input_ids"])),
        "completion_tokens": sum(map(len, completions)),
        "seconds": time.monotonic() - began,
    }
