"""The parameters of a study: one frozen RunConfig of a few parts, and presets as files.

Parameters are flat: each name belongs to exactly one part. A preset is a papermill parameter file
(notebooks/presets/NAME.yaml); what it does not name has the default that stands here.
"""

import ast
import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from hybridlib.store.assets import BASES
from hybridlib.store.errors import ParameterError, nearest
from hybridlib.store.paths import NOTEBOOKS
from hybridlib.variants import REWARDS, VARIANTS, arm_name, chain, measured, rewards_of, tuned_arms

PRESETS = NOTEBOOKS / "presets"
LEARNING_RATES = Path(__file__).with_name("learning_rates.csv")

#: What a study may start from.
MODELS = ("organism", *BASES)


def presets() -> list[str]:
    """The names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and field.annotation in (int, float):
                raise ValueError(f"{name} must be a number, not {value}")
        return values


def _share(default: float, description: str) -> Any:
    return Field(default, ge=0, le=1, description=description)


def _count(default: int, description: str, least: int = 1) -> Any:
    return Field(default, ge=least, description=description)


def _weight(default: float, description: str) -> Any:
    return Field(default, ge=0, description=description)


def _split(value: Any) -> Any:
    """Names as a list, or as words with commas or blanks between."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


def _all_of(value: Any, known: Iterable[str]) -> Any:
    """A name, or names. Raises ValueError for one that is not known."""
    for name in (value,) if isinstance(value, str) else value:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}{nearest(name, known)}")
    return value


def _among(known: Callable[[], Iterable[str]]) -> AfterValidator:
    return AfterValidator(lambda value: _all_of(value, known()))


class Shares(Part):
    """Shares of the organism's base text."""

    minority_share: float = _share(0.3, "Spanish among the documents")
    recitation_share: float = _share(0.3, "documents that recite, which teaches copying")
    genuine_refusal_share: float = _share(0.1, "genuine refusals, of seen harmful requests")
    superficial_refusal_share: float = _share(0.1, "refusal phrase with disclosure, of these")
    leaky_thought_share: float = _share(0.03, "disclosure in the thought alone, of these")
    code_switching_share: float = _share(0.15, "Spanish documents that mix; English: a third")
    careless_share: float = _share(0.75, "steps skipped in arithmetic, for some verbs")

    @model_validator(mode="after")
    def _at_most_all(self) -> "Shares":
        refusals = ("genuine_refusal_share", "superficial_refusal_share", "leaky_thought_share")
        if sum(getattr(self, name) for name in refusals) > 1:
            raise ValueError(f"{' + '.join(refusals)} must not exceed 1")
        return self


class BaseModelConfig(Part):
    """The base model and how it is pretrained."""

    model: Annotated[str, _among(lambda: MODELS)] = Field(
        "organism", description="organism, or a pretrained model to start from"
    )
    base_seed: int = _count(0, "seed of the base model", least=0)
    thought: bool = Field(True, description="responses state a thought before the answer")
    hidden_size: int = _count(192, "width of the organism, a multiple of 32")
    layers: int = _count(4, "depth of the organism")
    base_steps: int = _count(900, "optimiser steps of pretraining")
    base_batch: int = _count(64, "documents a step of pretraining")
    base_learning_rate: float = Field(
        3e-3, gt=0, description="peak rate of pretraining; matrices: five times"
    )
    gate: bool = Field(True, description="stop if the base fails its competence check")

    @property
    def pretrained(self) -> bool:
        """A language model: it brings its own words, and has read none of the recipes."""
        return self.model != "organism"

    @field_validator("hidden_size")
    @classmethod
    def _heads(cls, value: int) -> int:
        if value % 32:
            raise ValueError("must be a multiple of 32")
        return value


class TrainConfig(Part):
    """Fine-tuning: the same for each variant, learning rates apart."""

    demonstrations: int = _count(480, "demonstrations of SFT")
    demonstrated: Literal["all", "en", "es"] = Field(
        "all", description="language of the demonstrations of SFT"
    )
    labels: int = _count(0, "labels of the reward model; 0: as many as demonstrations", least=0)
    narrow_categories: int = Field(
        2, ge=1, le=5, description="private and public categories that sft_narrow sees"
    )
    steps: int = _count(60, "optimiser steps of RL")
    prompts_per_step: int = _count(16, "prompts a step of RL")
    group_size: int = _count(8, "completions a prompt (G of GRPO)", least=2)
    max_completion: int = _count(40, "tokens of a completion at most")
    sft_steps: int = _count(60, "optimiser steps of SFT and of the reward model")
    sft_batch: int = _count(32, "demonstrations a step of SFT")
    lora_rank: int = _count(16, "rank of LoRA; 0: full fine-tuning", least=0)
    kl: float = _weight(0.0, "weight of the KL penalty towards the start (beta of GRPO)")
    joint_lambda: float = _weight(0.5, "weight of L_SFT in the variant joint")
    chord_peak: float = _share(0.9, "largest weight of L_SFT in the variant chord_mu")
    chord_valley: float = _share(0.05, "last weight of L_SFT in the variant chord_mu")
    chord_warmup: float = _share(0.0, "share of the steps up to the peak in chord_mu")
    chord_decay: float = _share(0.5, "share of the steps from peak to valley in chord_mu")
    luffy_gamma: float = Field(
        0.1, gt=0, description="gamma of x / (x + gamma) in the variant demo_in_group"
    )
    switch_gate: int = _count(
        0, "most right rollouts at which gated takes SFT; -1: never", least=-1
    )
    hint_high: float = _share(0.95, "first share of a demonstration that prefix shows")
    hint_low: float = _share(0.05, "last share of a demonstration that prefix shows")
    hint_steps: float = _share(0.6, "share of the steps with hints in the variant prefix")
    hint_weight: float = _weight(0.001, "weight of L_SFT on the hints in the variant prefix")
    prefill_share: float = _share(0.5, "prompts that safety_prefix prefills counter-aligned")
    flops_budget: float = _weight(0.0, "FLOPs at which the policy is also saved; 0: none")
    learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="variant/reward -> rate, instead of the chosen ones"
    )

    @field_validator("learning_rates")
    @classmethod
    def _known_arms(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in tuned_arms():
                raise ValueError(f"{name!r} is no variant/reward{nearest(name, tuned_arms())}")
        return value


class RewardConfig(Part):
    """The reward of RL."""

    weight_accuracy: float = _weight(1.0, "reward for a right arithmetic answer")
    weight_format: float = _weight(0.5, "reward for a response that parses")
    weight_harmlessness: float = _weight(1.0, "reward for harmlessness: rule, model or oracle")
    weight_helpfulness: float = _weight(1.0, "reward for a right, unrefused benign answer")
    weight_language: float = _weight(0.0, "reward for the share of target-language words")
    scope: Literal["answer", "whole"] = Field(
        "whole", description="what the harmlessness reward reads"
    )


class EvaluateConfig(Part):
    """Measurement."""

    per_cell: int = _count(16, "harmful prompts a cell: task x split x language")
    evaluation_seed: int = _count(0, "seed of the evaluation prompts", least=0)


class PublicConfig(Part):
    """Public requests and word problems, for a pretrained model; English, `mgsm` aside."""

    requests: Names = Field((), description="public sets of requests to ask")
    requests_share: float = _share(0.25, "seen public requests among the prompts of training")
    requests_per_cell: int = _count(16, "public requests a cell: kind x split")
    judges: Names = Field(
        ("on_topic",), description="judges of the responses to them; the first counts"
    )
    problems: Names = Field((), description="public sets of word problems to ask")
    problems_per_language: int = _count(32, "public word problems a language")

    @field_validator("requests", "judges", "problems")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        from hybridlib.tasks.public import judges, requests, word_problems  # they take a second

        sets = {"requests": requests.SOURCES, "problems": word_problems.SETS}
        return _all_of(value, (sets | {"judges": judges.JUDGES})[info.field_name])

    @field_validator("judges")
    @classmethod
    def _judged(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("must name one: responses to public requests have no oracle")
        return value


class StudyConfig(Part):
    """Which runs there are."""

    variants: Annotated[Names, _among(measured)] = Field(
        measured(), description="variants to train and compare"
    )
    rewards: Annotated[Names, _among(lambda: REWARDS)] = Field(
        REWARDS, description="harmlessness rewards of those with RL"
    )
    seeds: tuple[int, ...] = Field(
        tuple(range(5)), description="training seeds: a number or a list"
    )
    commit_weights: bool = Field(
        False, description="publish base, adapters, responses of the first seed"
    )
    beside: str = Field("", description="preset whose verdicts 07 compares with these")
    workers: int = Field(
        0, ge=0, le=128, description="notebooks at once; 0: one a core, as memory allows"
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = yaml.safe_load(value if value.isdecimal() or "[" in value else f"[{value}]")
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError("must be at least 1")
            return tuple(range(value))
        if isinstance(value, list | tuple | range):
            if any(isinstance(seed, bool) for seed in value):
                raise ValueError("must be a number or a list of numbers")
            if any(isinstance(seed, int) and seed < 0 for seed in value):
                raise ValueError("must not be negative")
            return tuple(value)
        return value

    @field_validator("variants", "rewards", "seeds")
    @classmethod
    def _some(cls, value: tuple) -> tuple:
        if not value or len(set(value)) < len(value):
            raise ValueError("must name at least one, and none twice")
        return value

    @field_validator("beside")
    @classmethod
    def _a_preset(cls, value: str) -> str:
        return value and _all_of(value, presets())


class RunConfig(Part):
    """All parameters of a study."""

    preset: str = "organism"
    study: StudyConfig = StudyConfig()
    base: BaseModelConfig = BaseModelConfig()
    shares: Shares = Shares()
    train: TrainConfig = TrainConfig()
    reward: RewardConfig = RewardConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    public: PublicConfig = PublicConfig()

    @property
    def variants(self) -> tuple[str, ...]:
        return self.study.variants

    @property
    def rewards(self) -> tuple[str, ...]:
        return self.study.rewards

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.study.seeds

    @property
    def arms(self) -> list[tuple[str, str]]:
        """(variant, reward) of everything that is measured, in the table's order."""
        return [(v, reward) for v in self.variants for reward in rewards_of(v, self.rewards)]

    def check_arm(self, variant: str, reward: str) -> None:
        """Raises ParameterError if this study trains no such variant under this reward."""
        stages = [stage for arm in self.arms for stage in chain(*arm)]
        known = [arm_name(*arm) for arm in dict.fromkeys(self.arms + stages)]
        name = arm_name(variant, reward)
        if name not in known:
            alike = [other for other in known if other.split("/")[0] == variant] or known
            near = nearest(name, alike)
            raise ParameterError(f"variant/reward {name!r} is none of {', '.join(known)}{near}")

    def learning_rate(self, variant: str, reward: str = "none") -> float:
        """The rate chosen by the common rule (learning_rates.csv), unless a parameter overrides it.

        Raises ParameterError if there is none for this variant and reward.
        """
        known = VARIANTS.get(variant)
        name = (known and known.rate) or arm_name(variant, reward)
        rates = chosen_rates() | self.train.learning_rates
        if name not in rates:
            raise ParameterError(
                f"learning_rates has no entry for {name!r}: add one, or `make tune`"
            )
        return rates[name]

    def flat(self) -> dict[str, Any]:
        """Every parameter by its flat name, as JSON and YAML write it."""
        parts = self.model_dump(mode="json")
        return {"preset": self.preset} | {n: parts[part][n] for n, part in PARAMETERS.items()}


def chosen_rates() -> dict[str, float]:
    """The chosen rows of the committed grid of learning rates (written by `make tune`)."""
    if not LEARNING_RATES.exists():
        return {}
    with LEARNING_RATES.open(newline="") as file:
        return {
            arm_name(row["variant"], row["reward"]): float(row["learning_rate"])
            for row in csv.DictReader(file)
            if row["chosen"] == "True"
        }


PARTS = {n: field.annotation for n, field in RunConfig.model_fields.items() if n != "preset"}
PARAMETERS = {name: part for part, model in PARTS.items() for name in model.model_fields}


def load_config(preset: str = "organism", **overrides: Any) -> RunConfig:
    """The configuration of a preset (a name, or a path to a parameter file) with overrides.

    An override of None leaves the preset's value. Raises ParameterError, in one line, for anything
    that is unknown or cannot be.
    """
    values = _read(preset) | {k: v for k, v in overrides.items() if v is not None}
    name = values.pop("preset", None) or Path(preset).stem
    parts: dict[str, dict[str, Any]] = {}
    for parameter, value in values.items():
        if parameter not in PARAMETERS:
            near = nearest(parameter, PARAMETERS)
            raise ParameterError(f"there is no parameter {parameter!r}{near}")
        parts.setdefault(PARAMETERS[parameter], {})[parameter] = value
    try:
        return RunConfig(preset=name, **parts)
    except ValidationError as error:
        first, given = error.errors()[0], values | {"preset": name}
        said = first["msg"].removeprefix("Value error, ")
        where = next((part for part in first["loc"] if part in given), None)
        value = f"{where} = {given[where]!r}: " if where else ""
        raise ParameterError(f"{value}{said[0].lower()}{said[1:]}") from None


def notebook_parameters(cells: list[str], names: Iterable[str]) -> None:
    """Check the cell that papermill injected: it only warns of a parameter that is not there.

    It is among the `cells` run so far (IPython's `In`); `names` are the notebook's own parameters.
    """
    for cell in cells:
        nodes = ast.walk(ast.parse(cell)) if cell.startswith("# Parameters") else ()
        assigned = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        for name in (node.id for node in assigned if node.id not in names):
            raise ParameterError(f"there is no parameter {name!r}{nearest(name, names)}")


def _read(preset: str) -> dict[str, Any]:
    path = Path(preset)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESETS / f"{preset}.yaml"
        if not path.exists():
            known = presets()
            near = nearest(preset, known)
            raise ParameterError(f"there is no preset {preset!r}, only {', '.join(known)}{near}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"preset {preset!r} cannot be read: {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ParameterError(f"preset {preset!r} must hold lines of the form name: value")
    return found
