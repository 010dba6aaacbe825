"""A tiny configuration and a base of random weights, for tests of what trains and samples."""

from pathlib import Path

import torch

from hybridlib.config import RunConfig, load_config
from hybridlib.training import loading

TINY = {
    "gate": False,
    "hidden_size": 32,
    "layers": 1,
    "base_steps": 4,
    "base_batch": 4,
    "demonstrations": 24,
    "steps": 3,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_completion": 12,
    "sft_steps": 3,
    "sft_batch": 4,
    "lora_rank": 4,
    "per_cell": 1,
}


def tiny(**overrides) -> RunConfig:
    return load_config("smoke", **TINY | overrides)


def save_random(folder: Path, config: RunConfig, scale: float = 5.0) -> Path:
    """A base of random weights, spread enough that its next word is not uniform."""
    tokenizer = loading.organism_tokenizer()
    model = loading.organism(config.base, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
