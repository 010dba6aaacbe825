"""A step of RL as a loss sees it (hybrids.py): its rows, and what can be computed of them."""

import random
from dataclasses import dataclass, replace
from typing import Any

import torch

from hybridlib.engine.scoring import score_completions
from hybridlib.store.stage import Given
from hybridlib.tasks.prompts import Prompt

Tokens = list[int]
Document = tuple[Tokens, Tokens]  # a prompt and what is behind it


@dataclass(frozen=True)
class RolloutRequest:
    """A prompt that is about to be answered."""

    prompt: Prompt
    demonstration: Tokens  # empty if there is none
    progress: float
    rng: random.Random
    given: Given
    thought: bool
    tokenizer: object

    def encode(self, words: str) -> Tokens:
        return self.tokenizer(f" {words}", add_special_tokens=False)["input_ids"]


@dataclass(frozen=True)
class Row:
    """A completion of the step, as it was sampled and rewarded."""

    prompt: Tokens
    completion: Tokens
    group: int
    demonstration: Tokens = ()  # to this prompt; empty if there is none
    forced: int = 0  # first tokens that the policy did not draw
    logp: float = 0.0  # log pi of those that it drew
    shown: bool = False  # it is the demonstration
    reward: float | None = None  # None where the variant reads no reward
    right: bool = False  # at least half of the reward for what the prompt asks
    advantage: float = 0.0

    @property
    def drawn(self) -> int:
        """How many of its tokens the policy drew."""
        return 0 if self.shown else len(self.completion) - self.forced

    @property
    def document(self) -> Document:
        return self.prompt, self.completion

    @property
    def prefilled(self) -> Document:
        return self.prompt, self.completion[: self.forced]

    @property
    def demonstrated(self) -> Document:
        return self.prompt, self.demonstration


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations of a run."""

    documents: list[Document]  # in the order in which batches of `sft_batch` take them
    to: dict[str, Tokens]  # text of a prompt -> the demonstration to it


class Step:
    """One step of training as a loss sees it (see hybrids.py)."""

    def __init__(self, trainer: Any, model, inputs: dict) -> None:
        self._trainer, self._model, self._inputs = trainer, model, inputs
        pairs = zip(inputs["row"], inputs["advantages"].tolist())
        self.rows = [replace(row, advantage=a) for row, a in pairs]
        self.entropy = float("nan")
        self._accumulated = trainer.current_gradient_accumulation_steps
        # TRL's normaliser of L_RL: the step's own tokens, over all parts that are accumulated.
        count = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
        self.tokens = count * self._accumulated / trainer.args.steps_per_generation

    @property
    def given(self) -> Given:
        return self._trainer.spec.given

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
        shown, size = self._trainer.demonstrations.documents, self.given.sft_batch
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
    def score_by_teacher(self, documents: list[Document]) -> list[torch.Tensor]:
        """log-probabilities of the same under the frozen teacher."""
        self._trainer.tokens["scored_tokens"] += _length(documents)
        return score_completions(self._trainer.teacher, *zip(*documents))[0]

    def note(self, name: str, value: float) -> None:
        """Write a number of this step into the log."""
        self._trainer._metrics["train"][name].append(value)


def _length(documents: list[Document]) -> int:
    return sum(len(prompt) + len(behind) for prompt, behind in documents)
