"""A tiny configuration, its stages, and a base of random weights, for what trains and samples."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from hybridlib.config import RunConfig, load_config
from hybridlib.store.stage import Given
from hybridlib.study import keys
from hybridlib.training import loading, pretrain
from hybridlib.training.specs import Training
from hybridlib.variants import VARIANTS, Variant, arm_name

TINY = {
    "gate": False,
    "hidden_size": 32,
    "layers": 1,
    "base_steps": 4,
    "base_batch": 4,
    "demonstrations": 24,
    "steps": 3,
    "prompts_per_step": 6,
    "group_size": 4,
    "max_completion": 12,
    "sft_steps": 3,
    "sft_batch": 4,
    "lora_rank": 4,
    "per_cell": 1,
}
RATE = 1e-3


def tiny(**overrides) -> RunConfig:
    return load_config("smoke", **TINY | overrides)


def training(
    config: RunConfig, variant: str | Variant = "rl", *, seed: int = 0, rate: float = RATE
) -> Training:
    """A variant by its name, or a row of its own, under the rule and from the base."""
    row = VARIANTS[variant] if isinstance(variant, str) else variant
    reward = {"chosen": "keyword", "gold": "gold", "none": "none"}[row.rewards]
    rates = dict.fromkeys((arm_name(row.name, reward), row.rate, "rl/keyword", "sft"), rate)
    rated = config.train.model_copy(update={"learning_rates": rates})
    with mock.patch.dict(VARIANTS, {row.name: row}):
        spec = keys.train(config.model_copy(update={"train": rated}), row.name, reward, seed)
    return replace(spec, start=None)


def handed(spec: Training, **values) -> Training:
    """The same stage with other parameters."""
    return replace(spec, given=Given(**spec.given.inputs() | values))


def save_random(folder: Path, config: RunConfig, scale: float = 5.0) -> Path:
    """A base of random weights, spread enough that its next word is not uniform."""
    tokenizer = loading.organism_tokenizer()
    model = pretrain.organism(keys.base(config, 0).given, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
