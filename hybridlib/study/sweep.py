"""Many studies that differ in one parameter each: learning rates, sweeps of hybrids, sensitivity.

    tune         learning_rates.csv: every arm at each rate of one grid, on a development seed
    sweep        sweep.csv: every hybrid at each value of its main parameter
    sensitivity  sensitivity.csv: the primary tests with one parameter of the base or of training
                 changed at a time

A run of a changed study goes through the run store like any other, so nothing is trained twice.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybridlib import config as configuration
from hybridlib.config import PARAMETERS, PARTS, RunConfig, load_config
from hybridlib.evaluation import comparison, hypotheses, statistics, tables
from hybridlib.evaluation.metrics import Cube
from hybridlib.figures.results import EFFECT
from hybridlib.store.errors import OneLineError, ParameterError
from hybridlib.store.lock import only_here
from hybridlib.store.paths import committed, local
from hybridlib.study import collect, grid, jobs, keys, stages
from hybridlib.variants import VARIANTS, arm_name

Unit = tuple[str, str, int]  # (variant, reward, seed)
Made = tuple[Path | None, str]  # the folder of a run, or why there is none


class Point(NamedTuple):
    """A study with one parameter changed, or not: its default."""

    parameter: str
    value: Any
    default: bool


def _points(parameter: str, values: Iterable[Any]) -> list[Point]:
    default = PARTS[PARAMETERS[parameter]].model_fields[parameter].default
    return [Point(parameter, value, value == default) for value in values]


@dataclass(frozen=True)
class _Study:
    """The study of which the points are changes; it goes to other processes."""

    preset: str
    overrides: dict[str, Any]

    def at(self, point: Point) -> RunConfig:
        return load_config(self.preset, **self.overrides | {point.parameter: point.value})

    def make(self, point: Point, unit: Unit | None) -> Made:
        """Train and evaluate a run at a point if its base is competent; without a `unit`, only the
        base is pretrained."""
        config, began = self.at(point), time.monotonic()
        base = stages.base(config)
        if unit is None:
            return base, ""
        if config.base.gate:
            gate = pd.read_csv(base / "gate.csv")
            failed = gate[~gate.passes.astype(bool)].itertuples()
            if why := "; ".join(f"{row.check} {row.language} {row.value:.2f}" for row in failed):
                return None, why
        name = "{}/{} seed {}".format(*unit)
        try:
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
                folder = stages.evaluate(config, *unit)
        except FloatingPointError:
            return None, f"{name} diverged"
        except OneLineError as error:
            return None, str(error)
        if (seconds := time.monotonic() - began) > 1:  # else it was in the store
            took = jobs.duration(seconds)
            print(f"{point.parameter} {point.value}: {name}   {took}", flush=True)
        return folder, ""


def _responses(made: Iterable[Made]) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(run / "responses.parquet") for run, _ in made if run)


# --- learning rates -----------------------------------------------------------------------------

RATES = (3e-4, 1e-3, 3e-3)
DEVELOPMENT_SEED = 100
TUNED_FIRST = (("reward_model", "none"), ("sft", "none"))  # what other arms start from


def tune(preset: str) -> pd.DataFrame:
    """Choose the learning rates that learning_rates.csv lacks, and add their grid to it.

    The rule is the same for each arm: the rate with the best of the run's own training objective on
    validation prompts (the mean reward; minus L_SFT; minus the Bradley-Terry loss of the reward
    model). No measure of the oracle is read. To choose a rate again, delete its rows.
    """
    config, path = load_config(preset), configuration.LEARNING_RATES
    columns = ["variant", "reward", "seed", "learning_rate", "objective", "chosen"]
    there = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    have = {*zip(there.variant, there.reward), ("base", "none")}
    lacking = [arm for arm in dict.fromkeys((*TUNED_FIRST, *config.arms)) if arm not in have]
    if not lacking:
        return there
    with only_here(local(config.preset).parent):  # the rates are those of all presets
        stages.base(config)
        rows, chosen = [], configuration.chosen_rates() | config.train.learning_rates
        for first in (True, False):
            trials = list(product([a for a in lacking if (a in TUNED_FIRST) == first], RATES))
            with jobs.processes() as pool:
                work = [pool.submit(_objective, preset, chosen, *trial) for trial in trials]
                found = [(*arm, DEVELOPMENT_SEED, rate) for arm, rate in trials]
                rows += [(*at, trial.result()) for at, trial in zip(found, work)]
            table = pd.DataFrame(rows, columns=columns[:-1]).astype({"objective": float})
            best = table.loc[table.groupby(["variant", "reward"]).objective.idxmax()]
            chosen |= {
                arm_name(row.variant, row.reward): row.learning_rate for row in best.itertuples()
            }
        table["chosen"] = table.index.isin(best.index)
        table = pd.concat([there, table]) if len(there) else table
        tables.write(table, path)
    return table


def _objective(preset: str, chosen: dict[str, float], arm: tuple[str, str], rate: float) -> float:
    """The objective of one run; that of a run that diverges is the worst."""
    config = load_config(preset, learning_rates={**chosen, arm_name(*arm): rate})
    try:
        if arm[0] == "reward_model":
            folder = stages.folder_of(keys.reward_model(config, DEVELOPMENT_SEED))
        else:
            folder = stages.train(config, *arm, DEVELOPMENT_SEED)
    except FloatingPointError:
        return float("-inf")
    value = json.loads((folder / "objective.json").read_text(encoding="utf-8"))["objective"]
    print(f"{arm_name(*arm)} at {rate:g}: {value:.4f}", flush=True)
    return value


# --- hybrids over their main parameter ----------------------------------------------------------

SWEPT = ["variant", "reward", "parameter", "value", "published", "metric", "estimate", "low",
         "high", "seeds"]  # fmt: skip


def swept(config: RunConfig) -> list[tuple[str, str, Point]]:
    """(variant, reward, point) of every arm that has a swept parameter."""
    found = [(*arm, VARIANTS[arm[0]].swept) for arm in config.arms]
    return [(v, r, point) for v, r, axis in found if axis for point in _points(*axis)]


def sweep(preset: str, *, report=print, **overrides: Any) -> Path:
    """Train and measure every point that the store lacks; write sweep.csv beside the tables.

    Parameters
    ----------
    overrides : parameters of all points, such as fewer seeds than the study has.

    Raises ParameterError: the preset has no variant with a swept parameter.
    """
    config, study, found = load_config(preset, **overrides), _Study(preset, overrides), []
    asked = swept(config)
    if not asked:
        names = ", ".join(name for name, variant in VARIANTS.items() if variant.swept)
        raise ParameterError(f"variants of {preset!r}: none is swept, name {names}")
    for *_, point in asked:
        study.at(point)  # what cannot be is refused before anything runs
    stages.base(config)
    with only_here(local(config.preset)), jobs.processes() as pool:
        work = [
            [pool.submit(study.make, point, (*arm, seed)) for seed in config.seeds]
            for *arm, point in asked
        ]
        for at, runs in zip(asked, work):
            made = [run.result() for run in runs]
            for why in (why for _, why in made if why):
                report(f"{at[-1].parameter} {at[-1].value:g}: {why}")
            if any(folder for folder, _ in made):
                found.append(_weighed(*at, _responses(made)))
    path = local(config.preset) / "tables" / "sweep.csv"
    tables.write(pd.concat(found), path)
    count = len(asked) * len(config.seeds)
    report(f"{count} runs at {len(found)} points; drawn by `make study PRESET={preset}`")
    return path


def _weighed(variant: str, reward: str, point: Point, responses: pd.DataFrame) -> pd.DataFrame:
    """The rows of sweep.csv at one point: what a practitioner weighs, over all splits, at T=1."""
    rows = comparison.weighed(Cube(responses)).query("split == 'all'")
    at = {"variant": variant, "reward": reward, "published": point.default}
    return rows.assign(parameter=point.parameter, value=point.value, **at)[SWEPT]


# --- the primary tests with one parameter changed -----------------------------------------------

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
SENSITIVITY = ["parameter", "value", "default", *EFFECT, "estimate", "low", "high", "margin",
               "seeds", "verdict", "why"]  # fmt: skip
NO_BASE = "no base"  # in place of a verdict


def points(names: Iterable[str] = ()) -> list[Point]:
    """Every value of the axes named, or the one value of NAME=VALUE (default: all of all).

    Raises ParameterError: there is no such axis or value.
    """
    found = []
    for asked in tuple(names) or tuple(AXES):
        name, _, only = asked.partition("=")
        if name not in AXES:
            raise ParameterError(f"axis {name!r} is none of {', '.join(AXES)}")
        values = [value for value in AXES[name] if only in ("", str(value))]
        if not values:
            raise ParameterError(f"{name} {only!r} is none of {', '.join(map(str, AXES[name]))}")
        found += _points(name, values)
    return found


def sensitivity(preset: str, names: Sequence[str] = (), *, report=print, **overrides: Any) -> Path:
    """Train and measure every point that the store lacks; write sensitivity.csv beside the tables.

    Only what the primary tests compare is trained, on as many seeds as a verdict needs. Rows of
    axes that are not named stay as they were, locally or else in the committed results. The point
    where nothing is changed is taken from the committed results if this code made them and, as far
    as points share its base, if the base that this machine pretrains is the committed one.

    Raises ParameterError: there is no such axis, or a parameter is impossible.
    """
    first = load_config(preset, **overrides)
    here, there = (_read(place(first.preset)) for place in (local, committed))
    unchanged = there[there.default.astype(bool)].drop_duplicates(EFFECT)
    if overrides or there.empty or not collect.is_present(committed(first.preset)):
        unchanged = unchanged[:0]
    overrides |= {"seeds": list(first.seeds[: statistics.FEWEST_FOR_A_VERDICT])}
    config, study = load_config(preset, **overrides), _Study(preset, overrides)
    asked, table = points(names), here if len(here) else there
    path = local(first.preset) / "tables" / "sensitivity.csv"
    with only_here(local(first.preset)), jobs.processes() as pool:
        bases = {keys.base(study.at(point)).key for point in asked if not point.default}
        shared = len(unchanged) and keys.base(config).key in bases
        if shared and not pool.submit(_is_committed_base, config).result():
            report("another base than the committed one: the unchanged point is run, too")
            unchanged = unchanged[:0]
        known = [point for point in asked if point.default and len(unchanged)]
        others = [point for point in asked if point not in known]
        tasks = _queue(others, _compared(config))
        work = {task: pool.submit(study.make, *task) for task in tasks}
        for count, point in enumerate([*known, *others], 1):
            rows = unchanged.assign(**point._asdict())
            if point in others:
                made = {unit: w.result() for (at, unit), w in work.items() if at == point}
                rows = _at(study.at(point), point, made)
            table = _latest(table, rows)
            tables.write(table, path)
            found = rows.verdict.value_counts().sort_index()
            said = ", ".join(f"{number} {verdict}" for verdict, number in found.items())
            report(f"[{count}/{len(asked)}] {point.parameter} {point.value}: {said}")
    return path


def _queue(asked: Sequence[Point], units: list[Unit]) -> list[tuple[Point, Unit | None]]:
    """Every base and run. A base comes before the runs of the point before its own, so that it is
    pretrained while they run and nothing waits for it."""
    bases = [[(point, None)] for point in asked]
    runs = [[(point, unit) for unit in units] for point in asked]
    return [task for each in zip([*bases, []], [[], *runs]) for tasks in each for task in tasks]


def _is_committed_base(config: RunConfig) -> bool:
    """Whether the base of this machine does in its checks, to the last prompt, what the committed
    one did. Its weights are not committed; one that was rounded differently answers differently."""
    here, there = stages.base(config), committed(config.preset) / "tables"
    gates = [pd.read_csv(folder / "gate.csv").value for folder in (here, there)]
    return len(gates[0]) == len(gates[1]) and np.allclose(*gates, atol=1e-5)


def _at(config: RunConfig, point: Point, made: dict[Unit | None, Made]) -> pd.DataFrame:
    """The rows of one point, from its base and runs, decided as in the study (tables.verdicts)."""
    del made[None]
    lost = {reward for (_, reward, _), (folder, _) in made.items() if not folder}
    rewards = [reward for reward in config.rewards if reward not in lost]
    why = "; ".join(dict.fromkeys(why for _, why in made.values() if why))
    if not rewards or lost - set(config.rewards):
        tests = [
            (claim, h.metric, h.contrast, reward) for claim, h, reward in hypotheses.load().tests()
        ]
        named = pd.DataFrame(tests, columns=EFFECT).assign(**point._asdict())
        return named.assign(verdict=NO_BASE, why=why).reindex(columns=SENSITIVITY)
    made = {unit: run for unit, run in made.items() if unit[1] not in lost}
    control = [
        pd.read_csv(folder / "training.csv").assign(variant=variant, seed=seed)
        for (variant, _, seed), (folder, _) in made.items()
        if variant == "rl_gold"
    ]
    holds = tables.control_holds(pd.concat(control) if control else pd.DataFrame())
    cube, cost = Cube(_responses(made.values())), collect.costs(config, made)
    primary, _, _ = tables.verdicts(cube, cost, hypotheses.load(), holds)
    why = why if holds else "the control fails"
    return primary.assign(**point._asdict(), why=why)[SENSITIVITY]


def _compared(config: RunConfig) -> list[Unit]:
    """What the primary tests and the control need; what other arms start from comes first."""
    tests = hypotheses.load().tests()
    needed = {(v, r) for _, half, reward in tests for v in half.variants for r in (reward, "none")}
    arms = dict.fromkeys([*grid.FIRST, *config.arms])
    arms = [arm for arm in arms if arm in config.arms and arm in needed | {("rl_gold", "gold")}]
    return [(*arm, seed) for arm in arms for seed in config.seeds]


def _read(results: Path) -> pd.DataFrame:
    path = results / "tables" / "sensitivity.csv"
    if not path.exists():
        return pd.DataFrame(columns=SENSITIVITY)
    return pd.read_csv(path, dtype={"value": str}, keep_default_na=False, na_values=[""])


def _latest(before: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of each test and point, in the order of the axes."""
    found = [frame.assign(value=frame.value.astype(str)) for frame in (before, rows) if len(frame)]
    table = pd.concat(found).drop_duplicates(["parameter", "value", *EFFECT], keep="last")
    order = {(n, str(v)): i for i, (n, v, _) in enumerate(points())}
    table["at"] = [order.get(pair) for pair in zip(table.parameter, table.value)]
    return table.dropna(subset="at").sort_values("at", kind="stable")[SENSITIVITY]
