"""Fine-tuning on TRL's trainers: `sft`, and `rl` with all that lies between the two (hybrids.py).

    L_SFT = - mean over demonstrated tokens of log pi(y_t | x, y_<t)
    L_RL  = GRPO (arXiv 2402.03300), token-normalised as in DAPO (arXiv 2503.14476), TRL's default

Every rollout is written down as it comes, for the oracle to look at later.
"""

import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from hybridlib.config import RewardConfig, RunConfig, Variant
from hybridlib.engine.fused import fuse
from hybridlib.engine.sampling import InferenceCopy, sample
from hybridlib.engine.scoring import score_completions
from hybridlib.store.errors import OneLineError
from hybridlib.tasks import datasets
from hybridlib.tasks.prompts import Prompt
from hybridlib.tasks.responses import parse
from hybridlib.training import loading, rewards
from hybridlib.training.callbacks import Progress, arguments, finish
from hybridlib.training.grpo import Lessons, PolicyTrainer, grpo_arguments, rollouts
from hybridlib.training.hybrids import FORMULATIONS, in_view

VALIDATION_PROMPTS = 128
RIGHT = 0.5  # of the pay for what a prompt asks: at least so much is right


class NothingRight(OneLineError, RuntimeError):
    """Rejection sampling rejected everything."""


# --- what is shown and asked -----------------------------------------------------------------


def demonstrations(
    config: RunConfig, seed: int, narrow: bool, partition: str = "train"
) -> list[dict]:
    """Rows {prompt, completion} in the language of the prompt, seen categories and attacks only.

    They are as many where one language alone is demonstrated.
    """
    few = config.train.narrow_categories if narrow else None
    count = config.train.demonstrations if partition == "train" else VALIDATION_PROMPTS
    rng = random.Random(f"demonstrations {seed}")
    drawn = count
    while len(asked := _in_language(config, seed, drawn, few, partition)) < count:
        drawn += count
    return [
        {
            "prompt": prompt.text,
            "completion": f" {datasets.demonstration(config, prompt, rng)}",
        }
        for prompt in asked[:count]
    ]


def _in_language(config: RunConfig, *drawn) -> list[Prompt]:
    """Prompts of training in the language that is demonstrated."""
    language = config.train.demonstrated
    return [p for p in datasets.training(config, *drawn) if language in ("all", p.language)]


def encoded(tokenizer, rows: list[dict]) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion with its closing token) of demonstrations as token ids."""
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    texts = tokenizer([row["completion"] for row in rows], add_special_tokens=False)["input_ids"]
    return [(p, [*t, tokenizer.eos_token_id]) for p, t in zip(prompts, texts)]


def rl_prompts(config: RunConfig, seed: int) -> list[Prompt]:
    """The prompts of one epoch of RL; those of the demonstrations come first among them."""
    count = config.train.steps * config.train.prompts_per_step
    return datasets.training(config, seed, count)


def steps_of(config: RunConfig, kind: Variant) -> range:
    """The steps of `rl` that a variant takes: all of them, or those of its part of a chain."""
    return range(*(round(config.train.steps * share) for share in kind.part))


def paid(
    config: RunConfig,
    weights: RewardConfig,
    harmlessness: rewards.Harmlessness,
    rows: list[dict],
    texts: list[str],
    finished: Iterable[bool],
) -> tuple[list[float], list[float]]:
    """What each response earns in all, and for what its prompt asks alone (0..1, unweighted)."""
    parsed = [parse(t, end, config.base.thought) for t, end in zip(texts, finished)]
    of_task = rewards.task_rewards(harmlessness, rows, parsed, texts)
    return rewards.weighted(weights, rows, parsed, of_task), of_task


# --- the stages ------------------------------------------------------------------------------


def adapted(model, rank: int, task_type: str = "CAUSAL_LM"):
    """The model with fresh adapters that compute in one step; as it is at rank 0."""
    adapters = loading.lora(rank, task_type)
    return fuse(get_peft_model(model, adapters)) if adapters else model


def _policy(config: RunConfig, base: Path, start: Path | None):
    """The model to train: the base with fresh LoRA, or a trained adapter to go on from."""
    if start is not None:
        return fuse(loading.load_policy(base, start, trainable=True))
    return adapted(loading.load_base(base), config.train.lora_rank)


def sft(
    config: RunConfig,
    base: Path,
    folder: Path,
    seed: int,
    rate: float,
    name: str,
    callbacks: Sequence[TrainerCallback] = (),
    narrow: bool = False,
    shown: list[dict] | None = None,
    **spent: float,
) -> None:
    """Supervised fine-tuning from the base; the loss is on completions alone.

    Parameters
    ----------
    callbacks : of the trainer, besides its progress.
    shown : rows {prompt, completion} to learn from, by default the demonstrations.
    spent : what it took to get them (see `finish`).
    """
    torch.manual_seed(seed)
    policy, tokenizer = _policy(config, base, None), loading.load_tokenizer(base)
    trainer = SFTTrainer(
        model=policy,
        args=SFTConfig(
            **arguments(folder, seed, rate, config.train.sft_steps, bf16=loading.is_bf16(policy)),
            per_device_train_batch_size=config.train.sft_batch,
            completion_only_loss=True,
            max_length=256,
        ),
        train_dataset=Dataset.from_list(shown or demonstrations(config, seed, narrow)),
        processing_class=tokenizer,
        callbacks=[Progress(name, folder), *callbacks],
    )
    finish(trainer, folder, **spent)
    write_objective(folder, -demonstration_nll(config, trainer.model, tokenizer, seed, narrow))


def resampled(
    config: RunConfig,
    base: Path,
    source: Path,
    seed: int,
    harmlessness: rewards.Harmlessness,
) -> tuple[list[dict], dict[str, float]]:
    """Rejection sampling (arXiv 2501.12948): right responses of a trained policy, one a prompt.

    It answers the prompts of the demonstrations `group_size` times each. The first response that
    the run's own reward pays at least half for what is asked is kept; a prompt without one is left
    out.

    Returns
    -------
    (rows {prompt, completion}, what it took)

    Raises
    ------
    NothingRight : no response was right.
    """
    began, tokenizer, group = (
        time.monotonic(),
        loading.load_tokenizer(base),
        config.train.group_size,
    )
    model = InferenceCopy(loading.load_policy(base, source)).model
    asked = datasets.training(config, seed, config.train.demonstrations)
    completions = sample(
        model, tokenizer, [prompt.text for prompt in asked], config.train.max_completion, group,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    finished = [ids[-1] == tokenizer.eos_token_id for ids in completions]
    each = [prompt for prompt in asked for _ in range(group)]
    rows = [prompt.row() for prompt in each]
    _, of_task = paid(config, config.reward, harmlessness, rows, texts, finished)
    kept: dict[int, dict] = {}
    for i, (prompt, text, end, value) in enumerate(zip(each, texts, finished, of_task)):
        if end and value >= RIGHT:
            kept.setdefault(i // group, {"prompt": prompt.text, "completion": f" {text}"})
    if not kept:
        raise NothingRight(
            "no response of the stage before is right: raise steps or max_completion"
        )
    return list(kept.values()), {
        "prompt_tokens": sum(len(tokenizer(prompt.text)["input_ids"]) for prompt in asked),
        "completion_tokens": sum(map(len, completions)),
        "seconds": time.monotonic() - began,
    }


def rl(
    config: RunConfig,
    base: Path,
    folder: Path,
    seed: int,
    rate: float,
    name: str,
    callbacks: Sequence[TrainerCallback],
    kind: Variant,
    harmlessness: rewards.Harmlessness,
    start: Path | None = None,
) -> None:
    """GRPO on seen prompts as the variant's formulation has it, from the base or from `start`.

    Parameters
    ----------
    harmlessness : the pay for harmful prompts: rule, reward model, or (rl_gold alone) the oracle.
    start : folder of a trained adapter to go on from.
    """
    torch.manual_seed(seed)
    training, formulation = config.train, FORMULATIONS[kind.hybrid]
    group, tokens = training.group_size, training.max_completion
    policy, tokenizer = _policy(config, base, start), loading.load_tokenizer(base)
    shown = demonstrations(config, seed, narrow=False)
    part, size = steps_of(config, kind), training.prompts_per_step
    prompts = rl_prompts(config, seed)[part.start * size : part.stop * size]
    if formulation.demonstrated:
        prompts = list(islice(cycle(prompts[: len(shown)]), len(prompts)))
    rows = [prompt.row() for prompt in prompts]
    weights = config.reward.model_copy(update=dict(kind.weights))
    inference, record_file = InferenceCopy(policy), folder / "rollouts.jsonl"

    def reward(completions, completion_ids, index, trainer_state, **_) -> list[float]:
        asked = [rows[i] for i in index]
        finished = [ids[-1] == tokenizer.eos_token_id for ids in completion_ids]
        if formulation.paid:
            earned, of_task = paid(config, weights, harmlessness, asked, completions, finished)
        else:
            earned, of_task = [None] * len(asked), [0.0] * len(asked)
        trainer.rows = [replace(r, right=x >= RIGHT) for r, x in zip(trainer.rows, of_task)]
        with record_file.open("a") as file:
            columns = zip(asked, completions, finished, earned, trainer.rows)
            for row, text, end, value, made in columns:
                record = {
                    "step": trainer_state.global_step + 1,
                    "prompt": row["prompt_id"],
                    "response": text,
                    "finished": bool(end),
                    "reward": value if value is None else round(value, 6),
                    "tokens": len(made.completion),
                    "logp": round(made.logp, 4),
                }
                # Said only where it is so: most responses are the policy's own from the beginning.
                record |= {"forced": made.forced} if made.forced else {}
                record |= {"demonstration": True} if made.shown else {}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return [value or 0.0 for value in earned]

    trainer = PolicyTrainer(
        model=policy,
        reward_funcs=reward,
        rollout_func=rollouts(inference, tokenizer, group, tokens, seed),
        args=grpo_arguments(
            *(folder, seed, rate, len(part), size, group, tokens),
            beta=training.kl,
            bf16=loading.is_bf16(policy),
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": prompt.text, "index": i} for i, prompt in enumerate(prompts)]
        ),
        processing_class=tokenizer,
        callbacks=[Progress(name, folder), *callbacks],
    )
    trainer.formulation = formulation
    trainer.lessons = lessons(config, tokenizer, seed, prompts, shown)
    teacher = None if formulation.paid else loading.load_base(base).requires_grad_(False).eval()
    trainer.lessons.teacher = teacher
    finish(trainer, folder)
    ended = Ended(config, tokenizer, seed, trainer.model, inference, weights, harmlessness, teacher)
    write_objective(folder, formulation.objective(ended))


def lessons(
    config: RunConfig, tokenizer, seed: int, prompts: list[Prompt], shown: list[dict]
) -> Lessons:
    """The demonstrations as batches take them, and by the text of the prompts that they are to."""
    documents = encoded(tokenizer, shown)
    responses = {row["prompt"]: response for row, (_, response) in zip(shown, documents)}
    of = {prompt.text: (prompt, responses.get(prompt.text, [])) for prompt in prompts}
    return Lessons(config, seed, documents, of)


# --- the rule by which learning rates are chosen ---------------------------------------------


def write_objective(folder: Path, value: float) -> None:
    """objective.json: the run's own training objective on validation prompts; higher is better."""
    (folder / "objective.json").write_text(json.dumps({"objective": value}) + "\n")


@torch.no_grad()
def demonstration_nll(config: RunConfig, model, tokenizer, seed: int, narrow: bool) -> float:
    """L_SFT on demonstrations to validation prompts."""
    model.eval()
    rows = demonstrations(config, seed, narrow, "validation")
    logps, _ = score_completions(model, *zip(*encoded(tokenizer, rows)))
    return -torch.cat(logps).mean().item()


@dataclass
class Ended:
    """A run of RL that has ended, and the terms of its objective on validation prompts."""

    config: RunConfig
    tokenizer: object
    seed: int
    model: object
    inference: InferenceCopy
    weights: RewardConfig
    harmlessness: rewards.Harmlessness
    teacher: object = None

    @cached_property
    def prompts(self) -> list[Prompt]:
        return datasets.training(self.config, self.seed, VALIDATION_PROMPTS, partition="validation")

    @cached_property
    def responses(self) -> list[list[int]]:
        """One at T=1 to each validation prompt."""
        return sample(
            self.inference.refresh(), self.tokenizer, [p.text for p in self.prompts],
            self.config.train.max_completion,
            generator=torch.Generator().manual_seed(self.seed),
        )  # fmt: skip

    def reward(self) -> float:
        """The mean pay of a response."""
        texts = self.tokenizer.batch_decode(self.responses, skip_special_tokens=True)
        finished = [ids[-1] == self.tokenizer.eos_token_id for ids in self.responses]
        rows = [prompt.row() for prompt in self.prompts]
        earned, _ = paid(self.config, self.weights, self.harmlessness, rows, texts, finished)
        return sum(earned) / len(earned)

    def nll(self) -> float:
        """L_SFT."""
        return demonstration_nll(self.config, self.model, self.tokenizer, self.seed, False)

    @torch.no_grad()
    def kl(self) -> float:
        """KL(pi || teacher) a token, estimated on the policy's own responses."""
        shown = demonstrations(self.config, self.seed, False, "validation")
        taught = encoded(self.tokenizer, shown)
        own, _ = score_completions(
            self.inference.model, [prompt for prompt, _ in taught], self.responses
        )
        theirs, _ = score_completions(
            self.teacher, [in_view(*document) for document in taught], self.responses
        )
        return (torch.cat(own) - torch.cat(theirs)).mean().item()
