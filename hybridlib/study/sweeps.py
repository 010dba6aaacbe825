"""The one number that matters in each hybrid, over its values: sweep.csv of a study.

A point of a sweep is a study with one parameter changed, so its runs go through the run store like
any other: what the study itself has trained (the default value) is taken from there.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hybridlib.config import PARAMETERS, PARTS, RunConfig, load_config
from hybridlib.evaluation import comparison, tables
from hybridlib.evaluation.metrics import Cube
from hybridlib.store.errors import ParameterError
from hybridlib.store.paths import local
from hybridlib.study import jobs

# variant -> (parameter, values); the default of the parameter, which is one of them, is published
SWEEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "two_stage": ("steps", (15, 30, 60, 120)),
    "joint": ("joint_lambda", (0.1, 0.25, 0.5, 1.0, 2.0)),
    "chord_mu": ("chord_peak", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "gated": ("switch_gate", (0, 1, 2, 4)),
    "demo_in_group": ("luffy_gamma", (0.01, 0.03, 0.1, 0.3, 1.0)),
    "prefix": ("hint_steps", (0.2, 0.4, 0.6, 0.8, 1.0)),
    "safety_prefix": ("prefill_share", (0.25, 0.5, 0.75, 1.0)),
}
COLUMNS = ["variant", "reward", "parameter", "value", "published", "metric", "estimate", "low",
           "high", "seeds"]  # fmt: skip


class Point(NamedTuple):
    """An arm of a study at one value of one parameter."""

    variant: str
    reward: str
    parameter: str
    value: float
    published: bool


def points(config: RunConfig) -> list[Point]:
    """Every point of the arms of a study."""
    found = []
    for variant, reward in config.arms:
        parameter, values = SWEEPS.get(variant, ("", ()))
        for value in values:
            default = PARTS[PARAMETERS[parameter]].model_fields[parameter].default
            found.append(Point(variant, reward, parameter, value, value == default))
    return found


def table(swept: Sequence[tuple[Point, pd.DataFrame]]) -> pd.DataFrame:
    """sweep.csv: what a practitioner weighs, over all splits, at each point (T=1).

    Parameters
    ----------
    swept : points, each with the responses of all its seeds.
    """
    frames = []
    for point, responses in swept:
        found = comparison.weighed(Cube(responses))
        frames.append(found[found.split.eq("all")].assign(**point._asdict())[COLUMNS])
    return pd.concat(frames)


def sweep(preset: str, *, report: Callable[[str], object] = print, **overrides: Any) -> Path:
    """Train and measure every point that the store lacks; write sweep.csv beside the tables.

    `overrides` are parameters of all points, such as fewer seeds than the study has. Raises
    ParameterError if the preset has no variant that is swept.
    """
    from hybridlib.study import stages

    config = load_config(preset, **overrides)
    units = [(point, seed) for point in points(config) for seed in config.seeds]
    if not units:
        raise ParameterError(f"variants of {preset!r}: none is swept, name {', '.join(SWEEPS)}")
    stages.base(config)
    with jobs.processes() as pool:
        folders = list(pool.map(_measured, *zip(*((preset, overrides, *unit) for unit in units))))
    found: dict[Point, list[pd.DataFrame]] = {}
    for (point, seed), folder in zip(units, folders, strict=True):
        if folder is None:
            report(f"{point.variant} at {point.parameter} {point.value:g} diverged, seed {seed}")
        else:
            responses = pd.read_parquet(folder / "responses.parquet")
            found.setdefault(point, []).append(responses)
    path = local(config.preset) / "tables" / "sweep.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = table([(point, pd.concat(frames)) for point, frames in found.items()])
    tables.write(frame, path)
    report(f"{len(units)} runs at {len(found)} points; drawn by `make study PRESET={preset}`")
    return path


def _measured(preset: str, overrides: dict, point: Point, seed: int) -> Path | None:
    """The evaluated run of a point and seed; None if it diverged."""
    from hybridlib.study import stages

    config = load_config(preset, **overrides | {point.parameter: point.value})
    try:
        return stages.evaluate(config, point.variant, point.reward, seed)
    except FloatingPointError:
        return None
