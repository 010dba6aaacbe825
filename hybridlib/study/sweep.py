"""Hybrids over their main parameter: every one at each value, in sweep.csv.

A run of a changed study goes through the run store like any other, so nothing is trained twice.
"""

import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hybridlib.config import PARAMETERS, PARTS, RunConfig, load_config
from hybridlib.evaluation import comparison, respond, tables
from hybridlib.evaluation.metrics import Rows, measured
from hybridlib.store.errors import OneLineError, ParameterError
from hybridlib.store.lock import only_here
from hybridlib.store.paths import local
from hybridlib.study import jobs, stages
from hybridlib.variants import VARIANTS, arm_name

SWEPT = ["variant", "reward", "parameter", "value", "published", "metric", "estimate", "low",
         "high", "replicates"]  # fmt: skip
METRICS = {metric for metric, _, split in comparison.WEIGHED if split == "all"}


class Point(NamedTuple):
    """An arm with one parameter changed, or not: its `published` value."""

    variant: str
    reward: str
    parameter: str
    value: Any
    published: bool


def swept(config: RunConfig) -> list[Point]:
    """Every value of every arm that has a swept parameter."""
    found = []
    for variant, reward in config.arms:
        if axis := VARIANTS[variant].swept:
            parameter, values = axis
            default = PARTS[PARAMETERS[parameter]].model_fields[parameter].default
            found += [Point(variant, reward, parameter, v, v == default) for v in values]
    return found


def sweep(preset: str, *, report=print, **overrides: Any) -> Path:
    """Train and measure every point that the store lacks; write sweep.csv beside the tables.

    Parameters
    ----------
    overrides : parameters of all points, such as fewer seeds than the study has.

    Raises ParameterError: the preset has no variant with a swept parameter; GateError.
    """
    config, found = load_config(preset, **overrides), []
    points = swept(config)
    if not points:
        names = ", ".join(name for name, variant in VARIANTS.items() if variant.swept)
        raise ParameterError(f"variants of {preset!r}: none is swept, name {names}")
    changed = [overrides | {point.parameter: point.value} for point in points]
    for parameters in changed:
        load_config(preset, **parameters)  # what cannot be is refused before anything runs
    with only_here(local(config.preset)), jobs.processes() as pool:
        # No point changes a base.
        bases = [pool.submit(stages.base, config, seed) for seed in config.seeds]
        for folder in (base.result() for base in bases):
            if config.base.gate:
                respond.check_gate(pd.read_csv(folder / "gate.csv"))
        work = [
            [pool.submit(_values, preset, parameters, point, seed) for seed in config.seeds]
            for point, parameters in zip(points, changed)
        ]
        for number, (point, runs) in enumerate(zip(points, work), 1):
            made = [run.result() for run in runs]
            at = f"[{number}/{len(points)}] {arm_name(point.variant, point.reward)}"
            report(f"{at}: {point.parameter} {point.value:g}")
            for why in (each for each in made if isinstance(each, str)):
                report(f"        {why}")
            if there := [each for each in made if not isinstance(each, str)]:
                found.append(_weighed(point, pd.concat(there)))
    if not found:
        raise OneLineError(f"no run of {preset!r} with a parameter changed has ended")
    path = local(config.preset) / "tables" / "sweep.csv"
    tables.write(pd.concat(found), path)
    report(f"drawn by `make study PRESET={preset}`")
    return path


def _values(preset: str, parameters: dict[str, Any], point: Point, seed: int) -> pd.DataFrame | str:
    """The metrics of a run, which is made if it is not there; or why there is none."""
    config, arm = load_config(preset, **parameters), (point.variant, point.reward)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            folder = stages.evaluate(config, *arm, seed)
    except FloatingPointError:
        return f"{arm_name(*arm)} seed {seed} diverged"
    except OneLineError as error:
        return str(error)
    return measured(pd.read_parquet(folder / "responses.parquet"), 1, METRICS)


def _weighed(point: Point, values: pd.DataFrame) -> pd.DataFrame:
    """The rows of sweep.csv at one point: what a practitioner weighs, over all splits, at T=1."""
    rows = comparison.weighed(Rows(values)).query("split == 'all'")
    return rows.assign(**point._asdict())[SWEPT]
