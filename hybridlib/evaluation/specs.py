"""What each stage of evaluation is handed: a frozen object, whose hash is the key of the result."""

from dataclasses import dataclass, replace

from hybridlib.store.stage import Given, Stage
from hybridlib.tasks import datasets
from hybridlib.tasks.prompts import Prompt, evaluation_prompts
from hybridlib.tasks.world import world
from hybridlib.training.specs import Base, Training


@dataclass(frozen=True)
class Measured(Stage):
    """What asks a base, or a trained run, the test prompts."""

    run: Base | Training
    seed: int
    given: Given

    @property
    def base(self) -> Base:
        return self.run if isinstance(self.run, Base) else self.run.base

    @property
    def training(self) -> Training | None:
        return None if isinstance(self.run, Base) else self.run

    def prompts(self) -> list[Prompt]:
        """The test prompts of the tasks, as the model is asked them."""
        topics = world(self.base.asking.world)
        asked = evaluation_prompts(topics, self.seed, self.given.per_cell)
        return datasets.as_asked(self.base.asking, asked)


@dataclass(frozen=True)
class Evaluation(Measured):
    """Responses to the test prompts and to public ones, scored."""

    NAME, VERSION = "evaluate", 5

    requests: dict[str, str] | None = None  # public set -> its pin
    problems: dict[str, str] | None = None
    free_text: int | None = None  # FREE_TEXT_VERSION, where responses are

    def prompts(self) -> list[Prompt]:
        public = {}
        if self.requests:
            public["requests_per_cell"] = self.given.requests_per_cell
        if self.problems:
            public["problem_sets"] = tuple(self.problems)
            public["problems_per_language"] = self.given.problems_per_language
        asking = replace(self.base.asking, requests=tuple(self.requests or ()))
        return datasets.evaluation(asking, self.seed, self.given.per_cell, **public)


@dataclass(frozen=True)
class Prefilled(Measured):
    """Responses to harmful prompts, prefilled."""

    NAME, VERSION = "prefill", 2


@dataclass(frozen=True)
class Prompted(Measured):
    """Responses to the test prompts, asked in several forms."""

    NAME, VERSION = "usage", 2
