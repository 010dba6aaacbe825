"""What is demonstrated, and what is asked in training."""

import random
from itertools import cycle, islice

from hybridlib.tasks import datasets
from hybridlib.tasks.prompts import Prompt, as_demonstrated
from hybridlib.training.specs import Labels, Training

VALIDATION_PROMPTS = 128


def demonstrations(spec: Training, partition: str = "train") -> list[dict]:
    """Rows {prompt, completion} in the language of the prompt, seen categories and attacks only.

    They are as many where one language alone is demonstrated.
    """
    few = spec.given.narrow_categories if spec.variant.narrow else None
    count = spec.given.demonstrations if partition == "train" else VALIDATION_PROMPTS
    language = spec.given.demonstrated if "demonstrated" in spec.given else "all"
    rng, drawn, asked = random.Random(f"demonstrations {spec.seed}"), 0, []
    while len(asked) < count:
        drawn += count
        found = datasets.training(spec.asking, spec.seed, drawn, few, partition)
        asked = [as_demonstrated(p) for p in found if language in ("all", p.language)]
    return [
        {
            "prompt": prompt.text,
            "completion": f" {datasets.demonstration(prompt, rng, spec.base.thought)}",
        }
        for prompt in asked[:count]
    ]


def encoded(tokenizer, rows: list[dict]) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion with its closing token) of demonstrations as token ids."""
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    texts = tokenizer([row["completion"] for row in rows], add_special_tokens=False)["input_ids"]
    return [(p, [*t, tokenizer.eos_token_id]) for p, t in zip(prompts, texts)]


def decoded(tokenizer, completions: list[list[int]]) -> tuple[list[str], list[bool]]:
    """Completions as texts, and whether each came to its end."""
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    return texts, [ids[-1] == tokenizer.eos_token_id for ids in completions]


def rl_prompts(spec: Training | Labels) -> list[Prompt]:
    """The prompts of one epoch of RL; those of the demonstrations come first among them, but for
    the longer sums."""
    count = spec.given.steps * spec.given.prompts_per_step
    return datasets.training(spec.asking, spec.seed, count)


def steps_of(spec: Training) -> range:
    """The steps of RL that a variant takes: all of them, or those of its part of a chain."""
    return range(*(round(spec.given.steps * share) for share in spec.variant.part))


def asked(spec: Training) -> list[Prompt]:
    """The prompts that a run of RL asks: those of its steps, or what is demonstrated of them, again
    and again."""
    steps, size = steps_of(spec), spec.given.prompts_per_step
    prompts = rl_prompts(spec)[steps.start * size : steps.stop * size]
    if not spec.variant.demonstrated_only:
        return prompts
    shown = {row["prompt"] for row in demonstrations(spec)}
    those = (prompt for prompt in map(as_demonstrated, prompts) if prompt.text in shown)
    return list(islice(cycle(those), len(prompts)))


def in_view(prompt: list[int], demonstration: list[int]) -> list[int]:
    """The privileged context: the prompt answered as one would wish, then the prompt again."""
    return [*prompt, *demonstration, *prompt]
