"""The trainer of every variant with RL: TRL's GRPO, whose loss a formulation (hybrids.py) states.

Sampling is ours (generate.py), through TRL's `rollout_func`; advantages, the GRPO loss, optimiser,
schedule and checkpoints are TRL's.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental

import torch
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from hybridlib.config import RunConfig, TrainConfig
from hybridlib.engine.sampling import InferenceCopy, sample_with_logp
from hybridlib.engine.scoring import score_completions
from hybridlib.tasks.prompts import Prompt
from hybridlib.training.callbacks import arguments
from hybridlib.training.hybrids import Formulation

Tokens = list[int]
Document = tuple[Tokens, Tokens]  # a prompt and what is behind it


@dataclass(frozen=True)
class Ask:
    """A prompt that is about to be answered."""

    prompt: Prompt
    demonstration: Tokens
    progress: float
    rng: random.Random
    config: RunConfig
    encode: Callable[[str], Tokens]


@dataclass(frozen=True)
class Row:
    """A completion of the step."""

    prompt: Tokens
    completion: Tokens
    group: int
    demonstration: Tokens = ()  # to this prompt; empty if there is none
    forced: int = 0  # first tokens that the policy did not draw
    logp: float = 0.0  # log pi of those that it drew
    shown: bool = False  # it is the demonstration
    right: bool = False  # paid at least half for what the prompt asks
    advantage: float = 0.0

    @property
    def document(self) -> Document:
        return self.prompt, self.completion

    @property
    def begun(self) -> Document:
        return self.prompt, self.completion[: self.forced]

    @property
    def taught(self) -> Document:
        return self.prompt, self.demonstration


@dataclass
class Lessons:
    """What a formulation has besides the rollouts: demonstrations, and a teacher.

    Parameters
    ----------
    documents : the demonstrations in the order in which batches of `batch` take them.
    of : text of a prompt -> the prompt, and its demonstration (empty if there is none).
    """

    config: RunConfig
    seed: int
    documents: list[Document]
    of: dict[str, tuple[Prompt, Tokens]]
    teacher: PreTrainedModel | None = None


class Step:
    """One step of training as a formulation sees it (see hybrids.py)."""

    def __init__(self, trainer: "PolicyTrainer", model, inputs: dict) -> None:
        self._trainer, self._model, self._inputs = trainer, model, inputs
        pairs = zip(inputs["row"].tolist(), inputs["advantages"].tolist())
        self.rows = [replace(trainer.rows[i], advantage=a) for i, a in pairs]
        self.entropy = float("nan")
        self._accumulated = trainer.current_gradient_accumulation_steps
        # TRL's normaliser of L_RL: the step's own tokens, over all parts that are accumulated.
        count = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
        self.tokens = count * self._accumulated / trainer.args.steps_per_generation

    @property
    def config(self) -> TrainConfig:
        return self._trainer.lessons.config.train

    @property
    def progress(self) -> float:
        """Share of the run's steps that are done."""
        return self._trainer.progress

    def rl(self, keep: list[bool] | None = None) -> torch.Tensor:
        """L_RL on the rows that are kept (default: all), over the tokens of all."""
        inputs = self._inputs
        if keep is not None:
            kept = torch.tensor(keep, device=inputs["advantages"].device)
            inputs = inputs | {"advantages": inputs["advantages"] * kept}
        return self._trainer.grpo_loss(self._model, inputs)

    def nll(self, documents: list[Document]) -> torch.Tensor | float:
        """L_SFT: mean negative log-likelihood of all tokens behind the prompts; 0 of none."""
        if not documents:
            return 0.0
        return -torch.cat(self.score(documents)).mean() / self._accumulated

    def batch(self) -> list[Document]:
        """The step's `sft_batch` demonstrations, those of the whole set taking turns."""
        shown, size = self._trainer.lessons.documents, self.config.sft_batch
        first = self._trainer.state.global_step * size
        return [shown[(first + i) % len(shown)] for i in range(size)]

    def score(self, documents: list[Document]) -> list[torch.Tensor]:
        """log pi of each token behind the prompts, one tensor a document; sets `entropy`."""
        if not documents:
            return []
        self._trainer.tokens["trained_tokens"] += _length(documents)
        model = self._trainer.accelerator.unwrap_model(self._model)
        logps, entropies = score_completions(model, *zip(*documents))
        self.entropy = torch.cat(entropies).mean().item()
        return logps

    @torch.no_grad()
    def teach(self, documents: list[Document]) -> list[torch.Tensor]:
        """log-probabilities of the same under the frozen teacher."""
        self._trainer.tokens["scored_tokens"] += _length(documents)
        return score_completions(self._trainer.lessons.teacher, *zip(*documents))[0]

    def note(self, name: str, value: float) -> None:
        """Write a number of this step into the log."""
        self._trainer.note(name, value)


def _length(documents: list[Document]) -> int:
    return sum(len(prompt) + len(behind) for prompt, behind in documents)


class PolicyTrainer(GRPOTrainer):
    """TRL's GRPO with three additions.

    Rows of zero advantage are left out of forward and backward: with the token-normalised loss and
    no KL or entropy term they add nothing, so the gradient is exactly the same. A prompt is
    computed once for its group (scoring.py). And a formulation says what is minimised.
    """

    formulation = Formulation()
    lessons: Lessons | None = None

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.rows: list[Row] = []  # of the step, in the order in which they were drawn
        names = ("prompt_tokens", "completion_tokens", "scored_tokens", "trained_tokens")
        self.tokens = dict.fromkeys(names, 0)

    @property
    def progress(self) -> float:
        return self.state.global_step / self.state.max_steps

    def note(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def log(self, logs: dict, start_time: float | None = None) -> None:
        if not self.formulation.paid:
            for name in [name for name in self._metrics["train"] if "reward" in name]:
                del self._metrics["train"][name]  # of a reward that TRL must have and nobody reads
        super().log(logs | self.tokens, start_time)

    def _generate_and_score_completions(self, inputs):
        found = super()._generate_and_score_completions(inputs)
        # TRL shuffles the rows; this says which is which.
        return found | {"row": torch.arange(len(found["advantages"]))}

    def _compute_loss(self, model, inputs):
        if not model.training:
            return self.grpo_loss(model, inputs)
        return self.formulation.loss(Step(self, model, inputs))

    def grpo_loss(self, model, inputs) -> torch.Tensor:
        return super()._compute_loss(model, self._paid_rows(inputs))

    def _paid_rows(self, inputs: dict) -> dict:
        """The rows whose advantage is not zero (one at least)."""
        if self.beta or self.loss_type != "dapo":
            return inputs
        keep = inputs["advantages"] != 0
        if not keep.any():
            keep[0] = True
        rows = len(keep)
        kept = {
            name: value[keep] if torch.is_tensor(value) and value.shape[:1] == (rows,) else value
            for name, value in inputs.items()
        }
        # Counted as separate rows: what the engine saves by sharing is no part of a method's cost.
        self.tokens["trained_tokens"] += int(
            kept["prompt_mask"].sum() + kept["completion_mask"].sum()
        )
        return kept

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *_, **__
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(rows, logits_to_keep), as TRL pads them, each prompt computed once for its group."""
        prompt_ids, completion_ids = input_ids.tensor_split([-logits_to_keep], 1)
        prompt_mask, mask = attention_mask.bool().tensor_split([-logits_to_keep], 1)
        logps, entropies = score_completions(
            self.accelerator.unwrap_model(model),
            [ids[kept].tolist() for ids, kept in zip(prompt_ids, prompt_mask)],
            [ids[kept].tolist() for ids, kept in zip(completion_ids, mask)],
        )
        padded = torch.zeros(mask.shape, device=mask.device)
        return (
            padded.masked_scatter(mask, torch.cat(logps)),
            padded.masked_scatter(mask, torch.cat(entropies)),
            None,
        )


def rollouts(inference: InferenceCopy, tokenizer, group: int, tokens: int, seed: int) -> Callable:
    """TRL's `rollout_func`: `group` completions of at most `tokens` tokens a prompt."""
    uniforms = torch.Generator()

    def roll_out(texts: list[str], trainer: PolicyTrainer) -> dict:
        """TRL gives each prompt G times; it is prefilled once."""
        # Seeded by the step, so that a resumed run draws what an uninterrupted one would have.
        uniforms.manual_seed(1_000_003 * seed + trainer.state.global_step)
        asked = texts[::group]
        prompts = tokenizer(asked)["input_ids"]
        begun = [_begin(trainer, tokenizer, text)[: tokens - 1] for text in asked]
        drawn, logps = sample_with_logp(
            inference.refresh(), tokenizer, [p + b for p, b in zip(prompts, begun)], tokens, group,
            generator=uniforms,
        )  # fmt: skip
        lessons = trainer.lessons.of if trainer.lessons else {}
        trainer.rows = rows = []
        for i, (own, logp) in enumerate(zip(drawn, logps)):
            g = i // group
            demonstration = lessons[asked[g]][1] if lessons else []
            completion = (begun[g] + own)[:tokens]
            row = Row(prompts[g], completion, g, demonstration, len(begun[g]), logp)
            if trainer.formulation.shows and demonstration and i % group == group - 1:
                row = replace(row, completion=demonstration, shown=True)
            rows.append(row)
        own = [0 if row.shown else len(row.completion) - row.forced for row in rows]
        trainer.tokens["prompt_tokens"] += sum(map(len, prompts)) + sum(map(len, begun))
        trainer.tokens["completion_tokens"] += sum(own)
        found = {
            "prompt_ids": [row.prompt for row in rows],
            "completion_ids": [row.completion for row in rows],
            "logprobs": None,
        }
        if any(begun):  # what the policy did not draw carries no loss
            masks = [[0] * row.forced + [1] * (len(row.completion) - row.forced) for row in rows]
            found["env_mask"] = masks
        return found

    return roll_out


def _begin(trainer: PolicyTrainer, tokenizer, text: str) -> Tokens:
    begin, lessons = trainer.formulation.begin, trainer.lessons
    if begin is None:
        return []
    rng = random.Random(f"{lessons.seed} {trainer.state.global_step} {text}")
    encode = lambda start: tokenizer(f" {start}", add_special_tokens=False)["input_ids"]  # noqa: E731
    return begin(Ask(*lessons.of[text], trainer.progress, rng, lessons.config, encode))


def grpo_arguments(
    folder: Path, seed: int, rate: float, steps: int, prompts: int, group: int, tokens: int, **more
) -> GRPOConfig:
    """One optimiser step a batch of `prompts` x `group` completions, always on-policy."""
    return GRPOConfig(
        **arguments(folder, seed, rate, steps) | more,
        per_device_train_batch_size=prompts * group,
        num_generations=group,
        steps_per_generation=1,
        max_completion_length=tokens,
        shuffle_dataset=False,
    )
