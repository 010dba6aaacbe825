"""The claims under test, from hypotheses.yaml; that file says how a verdict is reached."""

import hashlib
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: A metric of a run's snapshots, not of its responses.
REACHED = "log_flops_to_harm"
FILE = Path(__file__).with_name("hypotheses.yaml")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Half(_Part):
    """One contrast of a metric that must exceed its margin for the claim to hold."""

    metric: str
    contrast: str = Field(pattern=r"^\w+( - \w+)?$")
    rewards: tuple[str, ...] = ("none",)
    task: str = "all"
    split: str = "all"
    language: str = "all"
    margin: float
    level: float | None = None  # the harm rate that is to be reached, of REACHED alone
    asks: str = ""

    @model_validator(mode="after")
    def _level_to_reach(self) -> "Half":
        if (self.metric == REACHED) != (self.level is not None):
            raise ValueError(f"{REACHED} needs a level, and no other metric has one")
        return self

    @property
    def variants(self) -> tuple[str, ...]:
        """(a, b) of the contrast a - b, or (a,) of a alone."""
        return tuple(self.contrast.split(" - "))


class Claim(_Part):
    """A claim of the paper, its reading here, and the contrasts that decide it."""

    claim: str = Field(pattern=r"^C\d+$")
    statement: str
    reading: str
    halves: tuple[Half, ...] = Field(min_length=1)
    figure: str
    why: str
    exploratory: tuple[Half, ...] = ()

    @field_validator("halves")
    @classmethod
    def _same_rewards(cls, halves: tuple[Half, ...]) -> tuple[Half, ...]:
        if len({half.rewards for half in halves} - {("none",)}) > 1:
            raise ValueError("the halves of a claim are decided under the same rewards")
        return halves


class Hypotheses(_Part):
    claims: tuple[Claim, ...]
    deviations: tuple[str, ...]

    def all_tests(self) -> list[tuple[str, Half, str]]:
        """The primary tests and the exploratory ones."""
        return self.tests() + self.tests("exploratory")

    def tests(self, part: str = "halves") -> list[tuple[str, Half, str]]:
        """(claim, half, reward) of every primary test, or of every `exploratory` one."""
        found = [(claim.claim, half) for claim in self.claims for half in getattr(claim, part)]
        return [(claim, half, reward) for claim, half in found for reward in half.rewards]


def load(path: Path = FILE) -> Hypotheses:
    """The hypotheses in a file; pydantic's ValidationError names what is wrong in it."""
    return Hypotheses.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def digest(path: Path = FILE) -> str:
    """The sha256 of the file, for the manifest: it shows a change after the runs."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
