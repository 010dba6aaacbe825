"""From a configuration to the stages of its study, each with exactly what it depends on.

    base -> labels -> reward_model -> train -> evaluate, prefill, usage

So a changed parameter redoes only what depends on it.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from hybridlib.config import RunConfig
from hybridlib.evaluation.specs import Evaluation, Prefilled, Prompted
from hybridlib.store import assets
from hybridlib.store.paths import committed
from hybridlib.store.stage import Given, Stage
from hybridlib.tasks.responses import FREE_TEXT_VERSION
from hybridlib.training.specs import Base, Labels, RewardModel, Training
from hybridlib.variants import VARIANTS, Variant, before

#: The stages by name.
STAGES = {s.NAME: s for s in (Base, Labels, RewardModel, Training, Evaluation, Prefilled, Prompted)}
VERSIONS = {name: stage.VERSION for name, stage in STAGES.items()}
#: Parameters of training that each method depends on.
SFT = ("demonstrations", "sft_batch", "lora_rank")
RL = ("steps", "prompts_per_step", "group_size", "max_completion", "lora_rank", "kl")
LABELS = ("demonstrations", "max_completion", "steps", "prompts_per_step")
PRETRAINING = ("thought", "base_steps", "base_batch", "base_learning_rate", "max_completion")
WIDTHS = 32  # a width is a multiple of it: that of a head
POINTS = 2**20  # of the sequence of recipes


def recipe(config: RunConfig, seed: int) -> dict[str, float]:
    """What the base of a replicate is made of: the shares of its text and its width.

    Those parameters that are `drawn` are the coordinates of a point of a scrambled Sobol sequence
    (scipy), one point a seed, so that few replicates fill the ranges evenly. A width is the nearest
    that can be, so those at the ends are as likely as others if the range goes half a step beyond.
    """
    found = config.shares.model_dump() | {"hidden_size": config.base.hidden_size}
    if not config.base.drawn:
        return found
    ranges = np.array(list(config.base.drawn.values()))
    points = qmc.Sobol(len(ranges), rng=0)
    if seed % POINTS:
        points.fast_forward(seed % POINTS)
    (point,) = qmc.scale(points.random(1), *ranges.T)
    found |= {name: round(float(x), 4) for name, x in zip(config.base.drawn, point)}
    return found | {"hidden_size": WIDTHS * math.floor(found["hidden_size"] / WIDTHS + 0.5)}


def base(config: RunConfig, seed: int) -> Base:
    """The base of a replicate. An organism has a size, a pretrained model a pin."""
    seed = seed if config.base.base_seed == "own" else config.base.base_seed
    more = recipe(config, seed) | {"base_seed": seed}
    if config.base.pretrained:
        del more["hidden_size"]
        given = _given(config, *PRETRAINING, "model", **more)
        return Base(given, assets.pin(config.base.model))
    found = Base(_given(config, *PRETRAINING, "layers", **more))
    weights = committed_base(found) / "model" / "model.safetensors"
    if config.base.fresh_bases or not weights.exists():
        return found
    return replace(found, weights=_sha256(weights, weights.stat().st_mtime_ns))


def committed_base(spec: Base) -> Path:
    """Where a base of this recipe lies, if it is among the committed results."""
    key = replace(spec, weights=None).key
    return committed("organism") / "artifacts" / "bases" / key


@cache
def _sha256(path: Path, changed: int) -> str:
    """The hash of a file; `changed`, its time, is there so that it is read once."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def labels(config: RunConfig, seed: int) -> Labels:
    own = ("labels",) if config.train.labels else ()
    requests, share = _trained_on(config)
    return Labels(base(config, seed), seed, _given(config, *LABELS, *own, **share), requests)


def reward_model(config: RunConfig, seed: int) -> RewardModel:
    rate = config.learning_rate("reward_model")
    return RewardModel(labels(config, seed), seed, rate, _given(config, *SFT, "sft_steps"))


def train(config: RunConfig, variant: str, reward: str, seed: int) -> Training:
    """Raises ParameterError if there is no learning rate for this variant and reward."""
    row = VARIANTS[variant]
    rewarded = row.rewards != "none" or (row.method == "rl" and row.rewarded)
    requests, share = _trained_on(config)
    names = _parameters(config, row)
    weights: dict[str, Any] = {}
    if rewarded:
        # The keyword alone is looked for in a part; a weight that the variant sets itself is no
        # parameter of it.
        unread = {name for name, _ in row.weights} | (set() if reward == "keyword" else {"scope"})
        weights = config.reward.model_dump(exclude=unread)
    return Training(
        base(config, seed),
        seed,
        _given(config, *names, **share, **weights),
        requests,
        row,
        config.learning_rate(variant, reward),
        reward if rewarded else None,
        reward_model(config, seed) if reward == "model" else None,
        None if row.before == "base" else train(config, *before(variant, reward), seed),
        _free_text(config) if rewarded else None,
    )


def _parameters(config: RunConfig, row: Variant) -> list[str]:
    """The parameters of training that a variant reads."""
    names = [*((*SFT, row.steps) if row.method == "sft" else RL), *row.needs]
    demonstrates = row.method == "sft" and not row.responses_of
    if config.train.flops_budget:
        names.append("flops_budget")
    if config.train.demonstrated != "all" and (demonstrates or "demonstrations" in row.needs):
        names.append("demonstrated")
    if row.narrow:
        names.append("narrow_categories")
    if row.responses_of:
        names += ["group_size", "max_completion"]
    return names


def evaluate(config: RunConfig, variant: str, reward: str, seed: int) -> Evaluation:
    public, names, more = config.public, [], {}
    if public.requests:
        names.append("requests_per_cell")
        more["judges"] = list(public.judges)
    if public.problems:
        names.append("problems_per_language")
    requests, problems = (_pins(names) for names in (public.requests, public.problems))
    measured = _measured(config, variant, reward, seed, *names, **more)
    return Evaluation(*measured, requests, problems, _free_text(config))


def of(config: RunConfig, stage: str, variant: str, reward: str, seed: int) -> Stage:
    """The stage of this name; `variant`, `reward` and `seed` count where it depends on them."""
    if stage == "base":
        return base(config, seed)
    if stage in ("labels", "reward_model"):
        return {"labels": labels, "reward_model": reward_model}[stage](config, seed)
    if stage in ("train", "evaluate"):
        return {"train": train, "evaluate": evaluate}[stage](config, variant, reward, seed)
    return STAGES[stage](*_measured(config, variant, reward, seed))


def _measured(
    config: RunConfig, variant: str, reward: str, seed: int, *names: str, **more: Any
) -> tuple[Base | Training, int, Given]:
    run = base(config, seed) if variant == "base" else train(config, variant, reward, seed)
    given = _given(config, "per_cell", "max_completion", *names, **more)
    return run, seed, given


def _trained_on(config: RunConfig) -> tuple[dict[str, str] | None, dict[str, float]]:
    """Pins of the public requests among the prompts of training, and their share, if any."""
    public = config.public
    if not public.requests or not public.requests_share:
        return None, {}
    return _pins(public.requests), {"requests_share": public.requests_share}


def _free_text(config: RunConfig) -> int | None:
    """The version of how free text is read; None if nobody writes any: the organism does not."""
    return FREE_TEXT_VERSION if config.base.pretrained else None


def _pins(names: Iterable[str]) -> dict[str, str] | None:
    return {name: assets.pin(name) for name in names} or None


def _given(config: RunConfig, *names: str, **more: Any) -> Given:
    flat = config.flat()
    return Given(**{name: flat[name] for name in names}, **more)
