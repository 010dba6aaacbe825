"""Learning rates: one rule for every arm and for the reward model.

learning_rates.csv holds the objective of every run of the grid, response_curves.csv what the runs
do, by the metrics of the hypotheses: a claim whose effect turns over among rates that are as good
is fragile.
"""

import json
import os
from collections.abc import Iterable
from concurrent import futures
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd

from hybridlib import config as configuration
from hybridlib.config import RunConfig, load_config
from hybridlib.evaluation import hypotheses, tables
from hybridlib.evaluation.metrics import measured
from hybridlib.store.errors import ParameterError
from hybridlib.store.lock import only_here
from hybridlib.store.paths import local
from hybridlib.study import jobs, keys, stages
from hybridlib.variants import VARIANTS, arm_name, chain

#: Half a decade apart. A grid is extended by the next rate while its best one is at an edge.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
WIDER = (1e-5, 3e-5, *RATES, 3e-2, 1e-1)
DEVELOPMENT = (100, 101, 102)  # replicates that no verdict rests on
PER_CELL = 8  # prompts a cell of the evaluation of a development run
REWARD_MODEL, BASE = ("reward_model", "none"), ("base", "none")
#: What a response curve shows; replicates of it are measured for the hypotheses, too.
SHOWN = ("harm_rate", "genuine_refusal_rate", "over_refusal_rate", "off_language_rate", "accuracy")
ARM = ["variant", "reward"]
GRID = [*ARM, "seed", "learning_rate", "objective", "plateau", "chosen"]
CURVE = [*ARM, "learning_rate", "seed", "metric", "task", "split", "value"]

Arm = tuple[str, str]


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one arm with the columns `plateau` and `chosen`.

    The best rate has the highest mean objective over the replicates. The plateau is all rates next
    to one another, the best among them, whose mean is within one standard error of the best one's.
    Chosen is the rate of the grid that is nearest to the geometric middle of the plateau.

    Parameters
    ----------
    runs : columns learning_rate, seed, objective: -inf for a run that has diverged.
    """
    by_rate = runs.groupby("learning_rate").objective
    means, rates = by_rate.mean(), by_rate.mean().index.to_numpy()
    best = int(np.argmax(means))
    values = runs[runs.learning_rate.eq(rates[best])].objective
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    within = (means >= means.iloc[best] - error).to_numpy()
    first = last = best
    while first > 0 and within[first - 1]:
        first -= 1
    while last + 1 < len(rates) and within[last + 1]:
        last += 1
    plateau = rates[first : last + 1]
    middle = np.log(plateau[[0, -1]]).mean()
    # Of two that are as near the smaller one.
    nearest = plateau[np.argmin(np.abs(np.log(plateau) - middle).round(9))]
    return runs.assign(
        plateau=runs.learning_rate.isin(plateau), chosen=runs.learning_rate.eq(nearest)
    )


def next_rate(runs: pd.DataFrame) -> float | None:
    """The rate that a grid lacks whose best one is at its edge; None if it lacks none.

    Raises ParameterError if there is no further one.
    """
    means = runs.groupby("learning_rate").objective.mean()
    at = {0: -1, len(means) - 1: 1}.get(int(np.argmax(means)))
    if at is None:
        return None
    place = WIDER.index(means.index[0 if at < 0 else -1]) + at
    if not 0 <= place < len(WIDER):
        raise ParameterError("the best learning rate is at the edge of all that are tried")
    return WIDER[place]


def needs(arm: Arm) -> set[str]:
    """The arms whose rates must be known before this one is trained."""
    if arm == REWARD_MODEL:
        return set()
    named = {VARIANTS[v].rate or arm_name(v, r) for v, r in chain(*arm)} - {arm_name(*arm)}
    return named | ({"reward_model"} if arm[1] == "model" else set())


def tune(preset: str) -> pd.DataFrame:
    """Choose the learning rates that learning_rates.csv lacks, and add their grid to it.

    Chosen by the run's own training objective on validation prompts (the mean reward; minus L_SFT;
    minus the Bradley-Terry loss of the reward model). No measure of the oracle is read. What is
    finished is written at once. To choose a rate again, delete its rows.
    """
    config, path = load_config(preset), configuration.LEARNING_RATES
    there, known = _read(path, GRID), configuration.chosen_rates() | config.train.learning_rates
    have = {*map(tuple, there[ARM].to_numpy()), BASE}
    lacking = [arm for arm in dict.fromkeys((REWARD_MODEL, *config.arms)) if arm not in have]
    if not lacking:
        return there
    with only_here(local(config.preset).parent), jobs.processes() as pool:  # rates of all presets
        bases = [pool.submit(stages.base, config, seed) for seed in DEVELOPMENT]
        running: dict[futures.Future, tuple[Arm, float, int]] = {}
        runs: dict[Arm, list[tuple]] = {}

        def begin(arm: Arm, rates: Iterable[float]) -> None:
            for seed in DEVELOPMENT:  # those of a base that is not there yet come last
                for rate in rates:
                    task = pool.submit(_run, preset, known | {arm_name(*arm): rate}, arm, seed)
                    running[task] = arm, rate, seed

        waiting = list(lacking)
        while waiting or running:
            for arm in [arm for arm in waiting if needs(arm) <= set(known)]:
                waiting.remove(arm)
                begin(arm, RATES)
            if not running:
                names = ", ".join(arm_name(*arm) for arm in waiting)
                raise ParameterError(f"{names}: what they start from has no learning rate")
            for task in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                arm, rate, seed = running.pop(task)
                objective, curve = task.result()
                runs.setdefault(arm, []).append((*arm, seed, rate, objective, curve))
                print(f"{arm_name(*arm)} at {rate:g}, seed {seed}: {objective:.4f}", flush=True)
                if any(other == arm for other, *_ in running.values()):
                    continue
                table = pd.DataFrame(runs[arm], columns=[*GRID[:-2], "curve"])
                if (more := next_rate(table)) is not None:
                    begin(arm, [more])
                    continue
                table = chosen(table.sort_values(["learning_rate", "seed"]))
                known[arm_name(*arm)] = table[table.chosen].learning_rate.iloc[0]
                _add(path, table[GRID])
                pairs = zip(table.curve, table.learning_rate)
                curves = [curve.assign(learning_rate=rate) for curve, rate in pairs]
                _add(configuration.RESPONSE_CURVES, pd.concat(curves).reindex(columns=CURVE))
        for base in bases:
            base.result()
        if not _read(configuration.RESPONSE_CURVES, CURVE).variant.eq("base").any():
            work = [pool.submit(_curve, _asked(preset, {}), BASE, seed) for seed in DEVELOPMENT]
            curves = [task.result().assign(learning_rate=None) for task in work]
            _add(configuration.RESPONSE_CURVES, pd.concat(curves).reindex(columns=CURVE))
    return _read(path, GRID)


def _run(preset: str, rates: dict[str, float], arm: Arm, seed: int) -> tuple[float, pd.DataFrame]:
    """The objective of one run, that of a run that diverges is the worst; and what it does."""
    config = _asked(preset, rates)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            if arm == REWARD_MODEL:
                folder = stages.folder_of(keys.reward_model(config, seed))
                curve = pd.DataFrame(columns=CURVE)
            else:
                folder = stages.train(config, *arm, seed)
                curve = _curve(config, arm, seed)
    except FloatingPointError:
        return float("-inf"), pd.DataFrame(columns=CURVE)
    return json.loads((folder / "objective.json").read_text(encoding="utf-8"))["objective"], curve


def _asked(preset: str, rates: dict[str, float]) -> RunConfig:
    return load_config(preset, learning_rates=rates, per_cell=PER_CELL)


def _curve(config: RunConfig, arm: Arm, seed: int) -> pd.DataFrame:
    """What a run does, by the metrics that are shown or that a hypothesis names."""
    found = measured(pd.read_parquet(stages.evaluate(config, *arm, seed) / "responses.parquet"))
    tests = hypotheses.load().tests() + hypotheses.load().tests("exploratory")
    asked = {(half.metric, half.task, half.split) for _, half, _ in tests}
    asked |= {(metric, "all", "all") for metric in SHOWN}
    found = found[found.decoding.eq("sample") & found.part.eq("whole") & found.language.eq("all")]
    named = pd.MultiIndex.from_frame(found[["metric", "task", "split"]])
    return found[named.isin(asked)].assign(variant=arm[0], reward=arm[1])


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def _add(path: Path, rows: pd.DataFrame) -> None:
    """Add rows to a table."""
    there = _read(path, list(rows))
    tables.write(pd.concat([there, rows]) if len(there) else rows, path)
