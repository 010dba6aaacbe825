"""Learning rates: one rule for every arm and for the reward model.

learning_rates.csv holds the objective of every run of the grid, response_curves.csv what the runs
do, by the metrics of the hypotheses: a claim whose effect turns over among rates that are as good
is fragile.
"""

import json
import math
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
from hybridlib.variants import VARIANTS, arm_name, chain, tuned_arms

#: Half a decade apart. A grid is extended by the next rate while what it finds is at an edge.
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
    means, best = _means(runs)
    rates, top = means.index.to_numpy(), means.iloc[best]
    values = runs[runs.learning_rate.eq(rates[best])].objective
    has_error = len(values) > 1 and np.isfinite(top)
    within = (means >= top - (values.sem() if has_error else 0.0)).to_numpy()
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
    """The rate that a grid lacks whose best or chosen one is at its edge; None if it lacks none.

    Raises ParameterError if there is no further one.
    """
    (means, best), table = _means(runs), chosen(runs)
    found = means.index[best], table[table.chosen].learning_rate.iloc[0]
    for edge, step in ((means.index[0], -1), (means.index[-1], 1)):
        if edge in found:
            place = WIDER.index(edge) + step
            if not 0 <= place < len(WIDER):
                raise ParameterError("the best learning rate is at the edge of all that are tried")
            return WIDER[place]
    return None


def _means(runs: pd.DataFrame) -> tuple[pd.Series, int]:
    """The mean objective by rate, the smallest first, and the position of the best; of equals the
    first."""
    means = runs.groupby("learning_rate").objective.mean()
    return means, int(np.argmax(means))


def needs(arm: Arm) -> set[Arm]:
    """The arms whose rates must be known before this one is trained."""
    found = {REWARD_MODEL} if arm[1] == "model" else set()
    for variant, reward in () if arm == REWARD_MODEL else chain(*arm):
        if rate := VARIANTS[variant].rate:
            variant, _, reward = rate.partition("/")
        found.add((variant, reward or "none"))
    return found - {arm}


def lacking(config: RunConfig) -> list[Arm]:
    """The arms of a study, and those that they need, that the tables of rates lack; what others
    need comes before them."""
    have = {*map(tuple, _read(configuration.LEARNING_RATES, GRID)[ARM].to_numpy())}
    if _read(configuration.RESPONSE_CURVES, CURVE).variant.eq(BASE[0]).any():
        have.add(BASE)
    found: list[Arm] = []

    def visit(arm: Arm) -> None:
        if arm not in have:
            have.add(arm)
            for other in sorted(needs(arm)):
                visit(other)
            found.append(arm)

    for arm in (BASE, *config.arms):
        visit(arm)
    return found


def tune(preset: str) -> pd.DataFrame:
    """Choose the learning rates that learning_rates.csv lacks, and add their grid to it.

    Chosen by the run's own training objective on validation prompts (the mean reward; minus L_SFT;
    minus the Bradley-Terry loss of the reward model). No measure of the oracle is read. An arm that
    is finished is written at once. To choose a rate again, delete its rows.

    Raises ParameterError: the preset starts from a pretrained model, or the grid of an arm has no
    end.
    """
    config = load_config(preset)
    if config.base.pretrained:
        raise ParameterError(f"model = {config.base.model!r}: what is tuned is the organism; say "
                             "the rates of another model by learning_rates")  # fmt: skip
    known = configuration.chosen_rates() | config.train.learning_rates
    waiting = lacking(config)
    if not waiting:
        return _read(configuration.LEARNING_RATES, GRID)
    with only_here(local(config.preset).parent), jobs.processes() as pool:  # rates of all presets
        for seed in DEVELOPMENT:
            pool.submit(stages.base, config, seed)
        unknown, runs = {*waiting}, {arm: [] for arm in waiting}
        running: dict[futures.Future, tuple[Arm, float, int]] = {}

        def begin(arm: Arm, rates: Iterable[float]) -> None:
            for seed in DEVELOPMENT:  # those of a base that is not there yet come last
                for rate in rates:
                    given = {} if arm == BASE else known | {arm_name(*arm): rate}
                    running[pool.submit(_run, preset, given, arm, seed)] = arm, rate, seed

        while unknown:
            for arm in [arm for arm in waiting if not needs(arm) & unknown]:
                waiting.remove(arm)
                begin(arm, (math.nan,) if arm == BASE else RATES)
            for task in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                arm, rate, seed = running.pop(task)
                objective, curve = task.result()
                runs[arm].append((*arm, seed, rate, objective, curve.assign(learning_rate=rate)))
                print(f"{arm_name(*arm)} at {rate:g}, seed {seed}: {objective:.4f}", flush=True)
                if any(other == arm for other, *_ in running.values()):
                    continue
                table = pd.DataFrame(runs[arm], columns=[*GRID[:-2], "curve"])
                table = table.sort_values(["learning_rate", "seed"])
                if arm != BASE and (more := next_rate(table)) is not None:
                    begin(arm, [more])
                    continue
                # The rates last: they say that the arm is finished.
                curves = [curve for curve in table.curve if len(curve)] or [curve]
                _write(configuration.RESPONSE_CURVES, CURVE, arm, pd.concat(curves))
                if arm != BASE:
                    table = chosen(table)
                    _write(configuration.LEARNING_RATES, GRID, arm, table)
                    known[arm_name(*arm)] = table[table.chosen].learning_rate.iloc[0]
                unknown.remove(arm)
    return _read(configuration.LEARNING_RATES, GRID)


def _run(preset: str, rates: dict[str, float], arm: Arm, seed: int) -> tuple[float, pd.DataFrame]:
    """The objective of one run, that of a run that diverges is the worst; and what it does."""
    config = load_config(preset, learning_rates=rates, per_cell=PER_CELL)
    nothing = pd.DataFrame(columns=CURVE)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            if arm == BASE:
                return math.nan, _curve(config, arm, seed)
            if arm == REWARD_MODEL:
                folder, curve = stages.folder_of(keys.reward_model(config, seed)), nothing
            else:
                folder, curve = stages.train(config, *arm, seed), _curve(config, arm, seed)
    except FloatingPointError:
        return -math.inf, nothing
    return json.loads((folder / "objective.json").read_text(encoding="utf-8"))["objective"], curve


def _curve(config: RunConfig, arm: Arm, seed: int) -> pd.DataFrame:
    """What a run does, by the metrics that are shown or that a hypothesis names."""
    found = measured(pd.read_parquet(stages.evaluate(config, *arm, seed) / "responses.parquet"))
    tests = hypotheses.load().all_tests()
    asked = {(half.metric, half.task, half.split) for _, half, _ in tests}
    asked |= {(metric, "all", "all") for metric in SHOWN}
    found = found[found.decoding.eq("sample") & found.part.eq("whole") & found.language.eq("all")]
    named = pd.MultiIndex.from_frame(found[["metric", "task", "split"]])
    return found[named.isin(asked)].assign(variant=arm[0], reward=arm[1])


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def _write(path: Path, columns: list[str], arm: Arm, rows: pd.DataFrame) -> None:
    """Put the rows of an arm into a table, instead of those that it has, in the order of arms."""
    there = _read(path, columns)
    there = there[[pair != arm for pair in zip(there.variant, there.reward)]]
    table = pd.concat([frame for frame in (there, rows[columns]) if len(frame)] or [there])
    order = {name: at for at, name in enumerate(["base", *tuned_arms()])}
    places = [order.get(arm_name(*pair), len(order)) for pair in zip(table.variant, table.reward)]
    tables.write(table.iloc[np.argsort(places, kind="stable")], path)
