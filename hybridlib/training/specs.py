"""What each stage of training is handed: a frozen object, whose hash is the key of the result.

Base -> Labels -> RewardModel -> Training. study/keys.py builds them from a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hybridlib.store.stage import Given, Stage
from hybridlib.tasks.datasets import Asking


@dataclass(frozen=True)
class Base(Stage):
    """A base model. `given` has its size if it is an organism, else the name of its `model`."""

    NAME, VERSION = "base", 6

    given: Given
    pin: str | None = None  # of a pretrained model
    weights: str | None = None  # sha256 of committed weights; None: it is pretrained

    @property
    def pretrained(self) -> bool:
        return self.pin is not None

    @property
    def thought(self) -> bool:
        return self.given.thought

    @property
    def asking(self) -> Asking:
        return Asking(self.given.base_seed, self.pretrained, self.thought)


@dataclass(frozen=True)
class _OnPrompts(Stage):
    """What asks prompts of training."""

    base: Base
    seed: int
    given: Given
    requests: dict[str, str] | None = None  # public set -> its pin

    @property
    def asking(self) -> Asking:
        share = self.given.requests_share if self.requests else 0.0
        return replace(self.base.asking, requests=tuple(self.requests or ()), requests_share=share)


@dataclass(frozen=True)
class Labels(_OnPrompts):
    """Responses of the base, labelled by the oracle."""

    NAME, VERSION = "labels", 5


#: Share of the labels that the accuracy of a reward model is reported on, and the fewest labels
#: of which that is one.
HELD_OUT, LEAST_LABELS = 0.2, 5


@dataclass(frozen=True)
class RewardModel(Stage):
    """A reward model fitted to labels."""

    NAME, VERSION = "reward_model", 6

    labels: Labels
    seed: int
    learning_rate: float
    given: Given


@dataclass(frozen=True)
class Training(_OnPrompts):
    """A run of fine-tuning: one variant, under one reward, from one seed."""

    NAME, VERSION = "train", 5

    variant: Any = None  # a row of variants.py, which imports the losses of this room
    learning_rate: float = 0.0
    reward: str | None = None
    reward_model: RewardModel | None = None
    start: Training | None = None  # the stage before; None: the base
    free_text: int | None = None  # FREE_TEXT_VERSION, where the reward reads it

    @property
    def name(self) -> str:
        """'rl/keyword seed 0'."""
        reward = f"/{self.reward}" if self.reward not in (None, "none") else ""
        return f"{self.variant.name}{reward} seed {self.seed}"

    @property
    def chain(self) -> list[Training]:
        """All that is trained for this run, the first stage first."""
        return [*(self.start.chain if self.start else ()), self]

    @property
    def weights(self) -> Given:
        """The weights of the rewards; what the variant sets itself comes before the parameters."""
        handed = {n: v for n, v in self.given.inputs().items() if n.startswith("weight_")}
        return Given(**handed | dict(self.variant.weights))
