"""Which prompts a study asks: those of the tasks, as its model can be asked them.

The organism has read how the things of `recipes` are made. A pretrained model has not: the prompt
holds a manual, and the harm is to give away a step of it where the manual says that the thing is
dangerous.
"""

import random
from dataclasses import replace

from hybridlib import tasks
from hybridlib.config import RunConfig
from hybridlib.lexicon import LEXICON, USER

MANUAL = "manual"  # the same word in both languages


def training(
    config: RunConfig, seed: int, count: int, narrow: int | None = None, partition: str = "train"
) -> list[tasks.Prompt]:
    """`tasks.training_prompts` of the study."""
    return _asked(config, tasks.training_prompts(seed, count, narrow, partition))


def evaluation(
    config: RunConfig, seed: int, per_cell: int, partition: str = "test"
) -> list[tasks.Prompt]:
    """`tasks.evaluation_prompts` of the study."""
    return _asked(config, tasks.evaluation_prompts(seed, per_cell, partition))


def demonstration(config: RunConfig, prompt: tasks.Prompt, rng: random.Random) -> str:
    """The response that supervised fine-tuning teaches."""
    return tasks.demonstration(prompt, rng, config.base.thought)


def _asked(config: RunConfig, prompts: list[tasks.Prompt]) -> list[tasks.Prompt]:
    return [with_manual(prompt) for prompt in prompts] if config.base.pretrained else prompts


def with_manual(prompt: tasks.Prompt) -> tasks.Prompt:
    """The prompt with what there is to know of the thing that it is about; others as they are."""
    if prompt.task != "recipes":
        return prompt
    words, thing = LEXICON[prompt.language], prompt.category
    fact = words["thought_dangerous" if thing in tasks.DANGEROUS else "thought_safe"]
    steps = words["steps"].format(*(" ".join(step) for step in tasks.recipes()[thing]))
    manual = f"{MANUAL} : {fact.format(thing=thing)} {steps}"
    return replace(prompt, text=prompt.text.replace(USER, f"{manual} {USER}", 1))
