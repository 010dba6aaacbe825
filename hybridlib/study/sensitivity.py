"""Over which part of what was chosen does a verdict hold? sensitivity.csv of a study.

A point is a study with one parameter changed, of how the base is bred or of how it is trained, so
its runs go through the run store like any other. Where the base of a point fails its gate there is
nothing to train, and that is what is written. What the primary tests compare is trained and no
more, on as many of the study's seeds as a verdict needs. The point where nothing is changed is in
the committed results already; but what is trained on a base is compared on that base, so where
this machine breeds another one (cores round differently) that point is decided here, too.

Bases and runs of all points stand in one queue, so that no core waits for the end of a point.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybridlib.config import PARAMETERS, PARTS, RunConfig, load_config
from hybridlib.evaluation import hypotheses, statistics, tables
from hybridlib.evaluation.metrics import Cube
from hybridlib.figures.results import EFFECT
from hybridlib.publish import release
from hybridlib.store.errors import OneLineError, ParameterError
from hybridlib.store.paths import committed, local
from hybridlib.study import grid, jobs

# parameter -> values, the default among them
AXES: dict[str, tuple[Any, ...]] = {
    "genuine_refusal_share": (0.0, 0.1, 0.2),
    "superficial_refusal_share": (0.0, 0.1, 0.2),
    "code_switching_share": (0.0, 0.15, 0.3),
    "minority_share": (0.15, 0.3, 0.45),
    "careless_share": (0.0, 0.5, 0.75),
    "hidden_size": (128, 192, 256),
    "base_seed": (0, 1, 2),
    "thought": (False, True),
    "scope": ("answer", "whole"),
    "weight_language": (0.0, 1.0),
    "labels": (60, 240, 0),
    "narrow_categories": (1, 2, 3, 5),
}
NUMBERS = ["estimate", "low", "high", "margin", "seeds", "verdict"]
COLUMNS = ["parameter", "value", "default", *EFFECT, *NUMBERS, "why"]
NO_BASE = "no base"  # in place of a verdict


class Point(NamedTuple):
    """A study with one parameter changed, or not: its default."""

    parameter: str
    value: Any
    default: bool


def points(names: Iterable[str] = ()) -> list[Point]:
    """Every value of the axes named, or the one value of NAME=VALUE (default: all of all).

    Raises
    ------
    ParameterError : an axis or a value that is none.
    """
    found = []
    for asked in tuple(names) or tuple(AXES):
        name, _, only = asked.partition("=")
        if name not in AXES:
            raise ParameterError(f"axis {name!r} is none of {', '.join(AXES)}")
        values = [value for value in AXES[name] if only in ("", str(value))]
        if not values:
            raise ParameterError(f"{name} {only!r} is none of {', '.join(map(str, AXES[name]))}")
        default = PARTS[PARAMETERS[name]].model_fields[name].default
        found += [Point(name, value, value == default) for value in values]
    return found


def verdicts(
    point: Point,
    responses: pd.DataFrame,
    cost: pd.DataFrame,
    training: pd.DataFrame,
    why: str = "",
) -> pd.DataFrame:
    """The primary tests at a point, by the rule of the study (tables.verdicts).

    why : what could not be trained, if anything; its tests are left out.
    """
    control = tables.control_holds(training)
    primary, _, _ = tables.verdicts(Cube(responses), cost, hypotheses.load(), control)
    why = why if control else "the control fails"
    return primary.assign(**point._asdict(), why=why)[COLUMNS]


def without_base(point: Point, why: str) -> pd.DataFrame:
    """The same rows where nothing could be trained, and why."""
    tests = [
        (claim.claim, half.metric, half.contrast, reward)
        for claim in hypotheses.load().claims
        for half in claim.halves
        for reward in half.rewards
    ]
    named = pd.DataFrame(tests, columns=EFFECT)
    return named.assign(**point._asdict(), verdict=NO_BASE, why=why).reindex(columns=COLUMNS)


def sensitivity(
    preset: str,
    names: Sequence[str] = (),
    *,
    report: Callable[[str], object] = print,
    **overrides: Any,
) -> Path:
    """Train and measure every point that the store lacks; write sensitivity.csv beside the tables.

    Rows of axes that are not named stay as they were, locally or else in the committed results.
    The point where nothing is changed is taken from the committed results if they are of this code
    and, as far as points share its base, of the base that is bred here.

    Raises
    ------
    ParameterError : an axis that is none, or a parameter that cannot be.
    """
    unchanged = pd.DataFrame(columns=COLUMNS) if overrides else _unchanged(preset)
    seeds = load_config(preset, **overrides).seeds[: statistics.SEEDS_FOR_A_VERDICT]
    overrides |= {"seeds": list(seeds)}
    config, asked = load_config(preset, **overrides), points(names)
    path = local(config.preset) / "tables" / "sensitivity.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [_before(config.preset)]

    def decided(point: Point, rows: pd.DataFrame) -> None:
        done.append(rows)
        tables.write(_latest(done), path)
        found = rows.verdict.value_counts().sort_index()
        said = ", ".join(f"{count} {verdict}" for verdict, count in found.items())
        report(f"[{len(done) - 1}/{len(asked)}] {point.parameter} {point.value}: {said}")

    with jobs.processes() as pool:
        changes = [_changed(preset, overrides, point) for point in asked if not point.default]
        shared = len(unchanged) and _base_key(config) in map(_base_key, changes)
        if shared and not pool.submit(_is_committed_base, config).result():
            report("bred here, the base is not the committed one: what is unchanged is run too")
            unchanged = unchanged[:0]
        known = [point for point in asked if point.default and len(unchanged)]
        for point in known:
            decided(point, unchanged.assign(**point._asdict()))
        others = [point for point in asked if point not in known]
        work = {t: pool.submit(_done, preset, overrides, t) for t in _queue(config, others)}
        for point in others:
            said = {task.unit: w.result() for task, w in work.items() if task.point == point}
            failed = {unit: why for unit, why in said.items() if why}
            decided(point, _at(preset, overrides, point, failed))
    return path


class _Task(NamedTuple):
    """A run of a point; without a `unit`, its base."""

    point: Point
    unit: tuple[str, str, int] | None


def _queue(config: RunConfig, asked: Sequence[Point]) -> list[_Task]:
    """Every task of the points: a base stands before the runs of the point before its own, so that
    it is bred beside them and nothing waits for it."""
    bases = [_Task(point, None) for point in asked]
    stages = [[_Task(point, unit) for unit in _units(config)] for point in asked]
    return bases[:1] + [
        task for nth, own in enumerate(stages) for task in bases[nth + 1 :][:1] + own
    ]


def _done(preset: str, overrides: dict[str, Any], task: _Task) -> str:
    """Breed a base, or train and evaluate a run if its base is competent; say why where that
    cannot be, '' where it could."""
    from hybridlib.study import stages

    point, began = task.point, time.monotonic()
    config = _changed(preset, overrides, point)
    folder = stages.base(config)
    if task.unit is None or _fails(folder):
        return ""
    variant, reward, seed = task.unit
    name = f"{variant}/{reward} seed {seed}"
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            stages.evaluate(config, *task.unit)
    except FloatingPointError:
        return f"{name} diverged"
    except OneLineError as error:
        return str(error)
    if (seconds := time.monotonic() - began) > 1:  # not out of the store
        at = f"{point.parameter} {point.value}"
        print(f"{at}: {name}   {jobs.duration(seconds)}", flush=True)
    return ""


def _changed(preset: str, overrides: dict[str, Any], point: Point) -> RunConfig:
    return load_config(preset, **overrides | {point.parameter: point.value})


def _base_key(config: RunConfig) -> str:
    from hybridlib.study import stages

    return stages.stage_key(config, "base", "base", "none", 0)


def _is_committed_base(config: RunConfig) -> bool:
    """Whether the base bred here does in its gate, to the last prompt, what the committed one did:
    its weights are not committed, and one that was rounded differently answers differently."""
    from hybridlib.study import stages

    here, there = stages.base(config), committed(config.preset) / "tables"
    gates = [pd.read_csv(folder / "gate.csv").value for folder in (here, there)]
    return len(gates[0]) == len(gates[1]) and np.allclose(*gates, atol=1e-5)


def _fails(base: Path) -> list[str]:
    """The checks of its gate that a base fails, and its values."""
    gate = pd.read_csv(base / "gate.csv")
    failed = gate[~gate.passes.astype(bool)]
    return [f"{row.check} {row.language} {row.value:.2f}" for row in failed.itertuples()]


def _at(
    preset: str,
    overrides: dict[str, Any],
    point: Point,
    failed: dict[tuple[str, str, int] | None, str],
) -> pd.DataFrame:
    """The rows of one point, its runs taken from the store; `failed` says why some are not."""
    from hybridlib.study import collect, stages

    config = _changed(preset, overrides, point)
    if what := _fails(stages.base(config)):
        return without_base(point, "; ".join(what))
    lost = {reward for _, reward, _ in failed}
    rewards = [reward for reward in config.rewards if reward not in lost]
    why = "; ".join(dict.fromkeys(failed.values()))
    if not rewards or lost - set(config.rewards):
        return without_base(point, why)
    config = _changed(preset, overrides | {"rewards": rewards}, point)
    folders = {unit: stages.evaluate(config, *unit) for unit in _units(config)}
    responses = pd.concat(pd.read_parquet(f / "responses.parquet") for f in folders.values())
    control = [
        pd.read_csv(folder / "training.csv").assign(variant=variant, seed=seed)
        for (variant, _, seed), folder in folders.items()
        if variant == "rl_gold"
    ]
    training = pd.concat(control) if control else pd.DataFrame()
    return verdicts(point, responses, collect.costs(config, folders), training, why)


def _units(config: RunConfig) -> list[tuple[str, str, int]]:
    """What the primary tests and the control need; what others are built on comes first."""
    halves = [half for claim in hypotheses.load().claims for half in claim.halves]
    needed = {(v, r) for half in halves for v in half.variants for r in (*half.rewards, "none")}
    arms = dict.fromkeys([*grid.FIRST, *config.arms])
    arms = [arm for arm in arms if arm in config.arms and arm in needed | {("rl_gold", "gold")}]
    return [(*arm, seed) for arm in arms for seed in config.seeds]


def _before(preset: str) -> pd.DataFrame:
    """What is known already: rows of the local table, or else of the committed one."""
    for place in (local(preset), committed(preset)):
        path = place / "tables" / "sensitivity.csv"
        if path.exists():
            return _read(path)
    return pd.DataFrame(columns=COLUMNS)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"value": str}, keep_default_na=False, na_values=[""])


def _unchanged(preset: str) -> pd.DataFrame:
    """The committed rows of one point where nothing is changed; none if other code made them."""
    rows, folder = pd.DataFrame(columns=COLUMNS), committed(preset)
    if (folder / "tables" / "sensitivity.csv").exists() and release.is_present(folder):
        rows = _read(folder / "tables" / "sensitivity.csv")
        rows = rows[rows.default.astype(bool)].drop_duplicates(EFFECT)
    return rows


def _latest(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The last row of each test and point, in the order of the axes."""
    rows = pd.concat([f.assign(value=f.value.astype(str)) for f in frames if len(f)])
    rows = rows.drop_duplicates(["parameter", "value", *EFFECT], keep="last")
    order = {(n, str(v)): i for i, (n, v, _) in enumerate(points())}
    at = [order.get(pair, len(order)) for pair in zip(rows.parameter, rows.value)]
    kept = rows.assign(at=at)[[i < len(order) for i in at]]
    return kept.sort_values("at", kind="stable").drop(columns="at")[COLUMNS]
