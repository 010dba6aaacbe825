"""The rule by which learning rates are chosen: a run's own objective on validation prompts."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hybridlib.engine.sampling import InferenceCopy, sample
from hybridlib.engine.scoring import score_completions
from hybridlib.store.stage import Given
from hybridlib.tasks import datasets
from hybridlib.tasks.prompts import Prompt, as_demonstrated
from hybridlib.training import data
from hybridlib.training.data import in_view
from hybridlib.training.rewards import Harmlessness, rewarded
from hybridlib.training.specs import Training


def write_objective(folder: Path, value: float) -> None:
    """objective.json: the run's own training objective on validation prompts; higher is better.

    Raises FloatingPointError if it is not finite.
    """
    if not math.isfinite(value):
        raise FloatingPointError("the objective on validation prompts is not finite")
    path = folder / "objective.json"
    path.write_text(json.dumps({"objective": value}) + "\n", encoding="utf-8")


@torch.no_grad()
def demonstration_nll(spec: Training, model, tokenizer) -> float:
    """L_SFT on demonstrations to validation prompts, in nats a token."""
    model.eval()
    rows = data.demonstrations(spec, "validation")
    logps, _ = score_completions(model, *zip(*data.encoded(tokenizer, rows)))
    return -torch.cat(logps).mean().item()


@dataclass
class Validation:
    """A run of RL that has ended, and the terms of its objective on validation prompts."""

    spec: Training
    tokenizer: object
    model: object
    inference: InferenceCopy
    harmlessness: Harmlessness
    teacher: PreTrainedModel | None = None

    @property
    def given(self) -> Given:
        return self.spec.given

    @cached_property
    def prompts(self) -> list[Prompt]:
        spec, count = self.spec, data.VALIDATION_PROMPTS
        asked = datasets.training(spec.asking, spec.seed, count, partition="validation")
        # What is compared with a demonstration in view must have one.
        return [as_demonstrated(p) for p in asked] if spec.variant.demonstrated_only else asked

    @cached_property
    def responses(self) -> list[list[int]]:
        """One at T=1 to each validation prompt."""
        texts, length = [prompt.text for prompt in self.prompts], self.given.max_completion
        generator = torch.Generator().manual_seed(self.spec.seed)
        model = self.inference.refresh()
        return sample(model, self.tokenizer, texts, length, generator=generator)

    def reward(self) -> float:
        """The mean reward of a response."""
        texts, finished = data.decoded(self.tokenizer, self.responses)
        rows, thought = [prompt.row() for prompt in self.prompts], self.spec.base.thought
        totals, _ = rewarded(self.spec.weights, self.harmlessness, rows, texts, finished, thought)
        return sum(totals) / len(totals)

    def nll(self) -> float:
        """L_SFT."""
        return demonstration_nll(self.spec, self.model, self.tokenizer)

    @torch.no_grad()
    def kl(self) -> float:
        """KL(pi || teacher) a token, estimated on the policy's own responses."""
        shown = data.encoded(self.tokenizer, data.demonstrations(self.spec, "validation"))
        asked, in_context = [prompt for prompt, _ in shown], [in_view(*pair) for pair in shown]
        own, _ = score_completions(self.inference.model, asked, self.responses)
        theirs, _ = score_completions(self.teacher, in_context, self.responses)
        return (torch.cat(own) - torch.cat(theirs)).mean().item()
