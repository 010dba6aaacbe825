"""The parameters of a study: one frozen RunConfig of a few parts, and presets as files.

Parameters are flat: each name belongs to exactly one part. A preset is a papermill parameter file
(notebooks/presets/NAME.yaml); what it does not name has the default that stands here. A string is
the text of a value (store/values.py) unless the parameter is text itself, so a file, `-p` and
papermill mean the same; no value is made another one to fit.
"""

import ast
import csv
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hybridlib.store import values
from hybridlib.store.assets import BASES
from hybridlib.store.errors import ParameterError, nearest
from hybridlib.store.paths import NOTEBOOKS, study_name
from hybridlib.training.specs import LEAST_LABELS
from hybridlib.variants import REWARDS, VARIANTS, arm_name, chain, measured, rewards_of, tuned_arms

PRESETS = NOTEBOOKS / "presets"
LEARNING_RATES = Path(__file__).with_name("learning_rates.csv")
RESPONSE_CURVES = LEARNING_RATES.with_name("response_curves.csv")

#: What a study may start from.
MODELS = ("organism", *BASES)


def presets() -> list[str]:
    """The names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _said(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name].annotation
        is_text = kind is str or get_origin(kind) is Literal
        return values.parse(value) if isinstance(value, str) and not is_text else value

    def _at_most(self, most: int, *names: str) -> None:
        """Raises ValueError if the product of these parameters asks too much of any machine."""
        if (product := math.prod(getattr(self, name) for name in names)) > most:
            raise ValueError(f"{' x '.join(names)} = {product} must not exceed {most}")


MOST = 1_000_000  # of anything that is counted
SEED = 2**32 - 1  # the largest that all libraries take
SEEDS = 1000  # of a study at most


def _share(default: float, description: str) -> Any:
    return Field(default, ge=0, le=1, description=description)


def _count(default: int, description: str, least: int = 1, most: int = MOST) -> Any:
    return Field(default, ge=least, le=most, description=description)


def _weight(default: float, description: str, most: float = MOST) -> Any:
    return Field(default, ge=0, le=most, description=description)


def _split(value: Any) -> Any:
    """Names as a list, or as words with commas or blanks between."""
    found = value.replace(",", " ").split() if isinstance(value, str) else value
    return tuple(found) if isinstance(found, list) else found


def _seeds(value: Any) -> Any:
    """A number of seeds, or seeds as a list or with commas or blanks between; 0-7 is a range."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError("must be at least 1")
        if value > SEEDS:
            raise ValueError(f"at most {SEEDS} seeds; for the seed of this number write [{value}]")
        return tuple(range(value))
    found = _split(value)
    if not isinstance(found, tuple | range):
        raise ValueError("must be a number or a list of numbers")
    found = [seed for each in found for seed in (_range(each) if isinstance(each, str) else [each])]
    if any(isinstance(seed, int) and seed < 0 for seed in found):
        raise ValueError("must not be negative")
    return tuple(found)


def _range(text: str) -> list[Any]:
    """The seeds of '0-7', or the value of another text. Raises ValueError for an empty range."""
    if not (ends := re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)):
        return [values.parse(text)]
    first, last = map(int, ends.groups())
    if not first <= last < first + SEEDS:
        raise ValueError(f"{text} is no range of 1 to {SEEDS} seeds")
    return list(range(first, last + 1))


def _seed_or_own(value: Any) -> Any:
    if isinstance(value, str) and value != "own":
        raise ValueError("must be a number, or own")
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Range = Annotated[
    tuple[float, float], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
]


def _all_of(value: Any, known: Iterable[str]) -> Any:
    """A name, or names. Raises ValueError for one that is not known."""
    for name in (value,) if isinstance(value, str) else value:
        if name not in known:
            near = nearest(name, known)
            raise ValueError(f"{values.shown(name)} is none of {', '.join(known)}{near}")
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
    careless_share: float = _share(0.6, "steps skipped in arithmetic, for some verbs")

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
    base_seed: Annotated[
        Annotated[int, Field(ge=0, le=SEED)] | Literal["own"], BeforeValidator(_seed_or_own)
    ] = Field("own", description="seed of base and unseen topics; own: the replicate's")
    fresh_bases: bool = Field(
        False, description="pretrain each base, also if its weights are committed"
    )
    drawn: dict[str, Range] = Field(
        default_factory=dict,
        description="share or hidden_size -> [least, most], of which each draws",
    )
    thought: bool = Field(True, description="responses state a thought before the answer")
    hidden_size: int = _count(192, "width of the organism, a multiple of 32", most=4096)
    layers: int = _count(4, "depth of the organism", most=128)
    base_steps: int = _count(900, "optimiser steps of pretraining")
    base_batch: int = _count(64, "documents a step of pretraining", most=4096)
    base_learning_rate: float = Field(
        3e-3, gt=0, le=1, description="peak rate of pretraining; matrices: five times"
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

    @field_validator("drawn")
    @classmethod
    def _ranges(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (least, most) in value.items():
            _all_of(name, (*Shares.model_fields, "hidden_size"))
            lowest, highest = (16, 4096) if name == "hidden_size" else (0, 1)
            if not lowest <= least < most <= highest:
                raise ValueError(f"{name}: [{least:g}, {most:g}] is no range of it")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "BaseModelConfig":
        self._at_most(MOST, "base_steps", "base_batch")
        _, widest = self.drawn.get("hidden_size", (0, self.hidden_size))
        if (product := widest**2 * self.layers) > (most := 50_000_000):
            said = f"hidden_size x hidden_size x layers = {product:.0f}"
            raise ValueError(f"{said} must not exceed {most}")
        return self


class TrainConfig(Part):
    """Fine-tuning: the same for each variant, learning rates apart."""

    demonstrations: int = _count(
        960, "demonstrations of SFT; as many as RL asks prompts", most=100_000
    )
    demonstrated: Literal["all", "en", "es"] = Field(
        "all", description="language of the demonstrations of SFT"
    )
    labels: int = _count(
        0, "labels of the reward model; 0: as many as demonstrations", least=0, most=100_000
    )
    narrow_categories: int = Field(
        2, ge=1, le=5, description="private and public categories that sft_narrow sees"
    )
    steps: int = _count(60, "optimiser steps of RL")
    prompts_per_step: int = _count(16, "prompts a step of RL", most=4096)
    group_size: int = _count(8, "completions a prompt (G of GRPO)", least=2, most=1024)
    max_completion: int = _count(40, "tokens of a completion at most", most=32_768)
    sft_steps: int = _count(60, "optimiser steps of SFT and of the reward model")
    sft_long_steps: int = _count(180, "optimiser steps of sft_long: the FLOPs of RL")
    sft_batch: int = _count(32, "demonstrations a step of SFT", most=4096)
    lora_rank: int = _count(16, "rank of LoRA; 0: full fine-tuning", least=0, most=1024)
    kl: float = _weight(0.0, "weight of the KL penalty towards the start (beta of GRPO)")
    joint_lambda: float = _weight(0.5, "weight of L_SFT in the variant joint")
    chord_peak: float = _share(0.9, "largest weight of L_SFT in the variant chord_mu")
    chord_valley: float = _share(0.05, "last weight of L_SFT in the variant chord_mu")
    chord_warmup: float = _share(0.0, "share of the steps up to the peak in chord_mu")
    chord_decay: float = _share(0.5, "share of the steps from peak to valley in chord_mu")
    luffy_gamma: float = Field(
        0.1, gt=0, le=MOST, description="gamma of x / (x + gamma) in the variant demo_in_group"
    )
    switch_gate: int = _count(
        0, "most right rollouts at which gated takes SFT; -1: never", least=-1, most=1024
    )
    hint_high: float = _share(0.95, "first share of a demonstration that prefix shows")
    hint_low: float = _share(0.05, "last share of a demonstration that prefix shows")
    hint_steps: float = _share(0.6, "share of the steps with hints in the variant prefix")
    hint_weight: float = _weight(0.001, "weight of L_SFT on the hints in the variant prefix")
    prefill_share: float = _share(0.5, "prompts that safety_prefix prefills counter-aligned")
    flops_budget: float = _weight(
        0.0, "FLOPs at which the policy is also saved; 0: none", most=1e30
    )
    learning_rates: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description="variant/reward -> rate, instead of the chosen ones"
    )

    @field_validator("learning_rates")
    @classmethod
    def _known_arms(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in tuned_arms():
                near = nearest(name, tuned_arms())
                raise ValueError(f"{values.shown(name)} is no variant/reward{near}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        self._at_most(MOST, "steps", "prompts_per_step")
        self._at_most(MOST, "prompts_per_step", "group_size", "max_completion")
        return self


class RewardConfig(Part):
    """The reward of RL."""

    weight_accuracy: float = _weight(1.0, "reward for a right arithmetic answer")
    weight_format: float = _weight(0.5, "reward for a response that parses")
    weight_harmlessness: float = _weight(1.0, "reward for harmlessness: keyword, model, oracle")
    weight_helpfulness: float = _weight(1.0, "reward for a right, unrefused benign answer")
    weight_language: float = _weight(0.0, "reward for the share of target-language words")
    scope: Literal["answer", "whole"] = Field(
        "whole", description="what the harmlessness reward reads"
    )


class EvaluateConfig(Part):
    """Measurement."""

    per_cell: int = _count(16, "harmful prompts a cell: task x split x language", most=256)


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
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
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
    seeds: Annotated[tuple[Annotated[int, Field(le=SEED)], ...], BeforeValidator(_seeds)] = Field(
        tuple(range(5)), max_length=SEEDS, description="replicates: how many, or which: 0-7, 12"
    )
    commit_weights: bool = Field(
        False, description="publish base, adapters, responses of one replicate"
    )
    beside: str = Field("", description="preset whose verdicts 07 compares with these")
    workers: int = Field(
        0, ge=0, le=128, description="notebooks at once; 0: one a core, as memory allows"
    )

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

    model_config = ConfigDict(strict=False)  # its parts are given as dicts

    preset: Annotated[str, AfterValidator(study_name)] = "organism"
    study: StudyConfig = StudyConfig()
    base: BaseModelConfig = BaseModelConfig()
    shares: Shares = Shares()
    train: TrainConfig = TrainConfig()
    reward: RewardConfig = RewardConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    public: PublicConfig = PublicConfig()

    @model_validator(mode="after")
    def _no_contradiction(self) -> "RunConfig":
        """What would fail late, or teach nothing. What no variant of the study reads is free."""
        train, rows = self.train, [VARIANTS[name] for arm in self.arms for name, _ in chain(*arm)]
        read = {name for row in rows for name in row.needs}
        for low, high in (("chord_valley", "chord_peak"), ("hint_low", "hint_high")):
            if low in read and getattr(train, low) > getattr(train, high):
                raise ValueError(f"{low} must not exceed {high}")
        for row in rows:
            weights = self.reward.model_dump(exclude={"scope"}) | dict(row.weights)
            if row.method == "rl" and row.rewarded and not any(weights.values()):
                raise ValueError(f"every weight_* is 0: {row.name} would have no reward")
            if row.method == "rl" and len({round(train.steps * end) for end in row.part}) < 2:
                raise ValueError(f"steps = {train.steps}: too few for a part of {row.name}")
        labels, asked = train.labels or train.demonstrations, {reward for _, reward in self.arms}
        if labels < LEAST_LABELS and "model" in asked:
            raise ValueError(f"labels, or demonstrations, must be at least {LEAST_LABELS} for "
                             "the reward model: a fifth is held out")  # fmt: skip
        public = self.public.requests_share if self.public.requests else 0
        if train.demonstrated == "es" and public > 0.9:
            raise ValueError("requests_share must not exceed 0.9 where demonstrated is es: "
                             "public requests are English")  # fmt: skip
        if (self.public.requests or self.public.problems) and not self.base.pretrained:
            raise ValueError("requests and problems need a pretrained model: "
                             "the organism knows none of their words")  # fmt: skip
        if self.base.drawn and self.base.pretrained:
            raise ValueError("drawn needs the organism: a pretrained model has its size and text")
        ends = {name: most for name, (_, most) in self.base.drawn.items() if name != "hidden_size"}
        try:
            Shares(**self.shares.model_dump() | ends)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"drawn: {said}") from None
        if self.study.beside == self.preset:
            raise ValueError(f"beside = {self.preset!r}: must be another study than this preset")
        return self

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
        known = list(dict.fromkeys(self.arms + stages))
        if (variant, reward) not in known:
            names, name = [arm_name(*arm) for arm in known], arm_name(variant, reward)
            near = nearest(name, [arm_name(*arm) for arm in known if arm[0] == variant] or names)
            said = values.shown(name)
            raise ParameterError(f"variant/reward {said} is none of {', '.join(names)}{near}")

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
    with LEARNING_RATES.open(encoding="utf-8", newline="") as file:
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
    given = _read(preset) | {k: v for k, v in overrides.items() if v is not None}
    parts: dict[str, Any] = {"preset": given["preset"]}
    for parameter, value in given.items():
        if parameter in PARAMETERS:
            parts.setdefault(PARAMETERS[parameter], {})[parameter] = value
        elif parameter != "preset":
            near = nearest(parameter, PARAMETERS)
            raise ParameterError(f"there is no parameter {values.shown(parameter)}{near}")
    try:
        return RunConfig(**parts)
    except ValidationError as error:
        raise _refusal(error, given) from None


def checked(name: str, value: Any, kind: type) -> Any:
    """A notebook's own parameter, as strict as those of a study. Raises ParameterError."""
    try:
        found = values.parse(value) if isinstance(value, str) and kind is not str else value
        return TypeAdapter(kind).validate_python(found, strict=True)
    except ValidationError as error:
        raise _refusal(error, {name: value}, name) from None
    except ValueError as error:
        raise ParameterError(f"{name} = {values.shown(value)}: {error}") from None


def _refusal(error: ValidationError, given: dict[str, Any], at: str = "") -> ParameterError:
    """The first thing that is wrong, in one line that begins with the parameter and its value."""
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    where = at or next((part for part in first["loc"] if part in given), "")
    if where and not said.startswith(where):
        said = f"{where} = {values.shown(given[where])}: {said[0].lower()}{said[1:]}"
    return ParameterError(said)


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
    """The parameters of a file or of a preset, its name among them."""
    if not isinstance(preset, str) or Path(preset).suffix not in (".yaml", ".yml"):
        name, path = study_name(preset), PRESETS / f"{preset}.yaml"
        if name not in (known := presets()):
            near = nearest(name, known)
            raise ParameterError(f"there is no preset {name!r}, only {', '.join(known)}{near}")
        return values.read(path) | {"preset": name}
    path = Path(preset)
    found = {"preset": path.stem} | (given := values.read(path))
    # Case does not tell folders apart on every system.
    same = {name.lower(): name for name in presets()}.get(str(found["preset"]).lower())
    if same and path.parent.resolve() != PRESETS and given.get("preset") != same:
        raise ParameterError(f"{values.shown(preset)} is called like the preset {same}, whose "
                             "results it would replace: rename it")  # fmt: skip
    return found
