"""The one rule for learning rates: a common grid, the same trials for each, own objective.

The objective is the run's own training objective on validation prompts (the mean reward; minus
L_SFT; minus the Bradley-Terry loss of the reward model) on development seeds that no comparison
uses. No gold measure is looked at. What others are built on is chosen first.
"""

import json
from itertools import product

import pandas as pd

from hybridlib.config import LEARNING_RATES, RunConfig, chosen_rates, load_config
from hybridlib.evaluation import tables
from hybridlib.study import jobs, stages
from hybridlib.variants import arm_name

GRID = (3e-4, 1e-3, 3e-3)
SEEDS = (100,)
FIRST = (("reward_model", "none"), ("sft", "none"))


def tune(preset: str) -> pd.DataFrame:
    """Run the grid for the arms that learning_rates.csv lacks; add them, the chosen rate marked.

    What stands there stays as it is: take an arm's rows out to choose its rate again.
    """
    config = load_config(preset)
    columns = ["variant", "reward", "seed", "learning_rate", "objective", "chosen"]
    empty = pd.DataFrame(columns=columns)
    there = pd.read_csv(LEARNING_RATES) if LEARNING_RATES.exists() else empty
    have = set(zip(there.variant, there.reward))
    lacking = [arm for arm in (*FIRST, *config.arms) if arm[0] != "base" and arm not in have]
    lacking = list(dict.fromkeys(lacking))
    if not lacking:
        return there
    stages.base(config)
    grid, chosen = [], chosen_rates() | config.train.learning_rates
    for arms in ([arm for arm in lacking if (arm in FIRST) == first] for first in (True, False)):
        trials = list(product(arms, GRID, SEEDS))
        with jobs.processes() as pool:
            values = list(pool.map(_trial, *zip(*((preset, chosen, *trial) for trial in trials))))
        for ((variant, reward), rate, seed), value in zip(trials, values):
            grid.append((variant, reward, seed, rate, value))
        for arm in arms:
            mean = {r: _mean(grid, arm, r) for r in GRID}
            chosen[arm_name(*arm)] = max(mean, key=mean.get)
    table = pd.DataFrame(grid, columns=columns[:-1])
    best = [chosen[arm_name(v, r)] for v, r in zip(table.variant, table.reward)]
    table["chosen"] = table.learning_rate == best
    table = pd.concat([there, table]) if len(there) else table
    tables.write(table, LEARNING_RATES)
    return table


def _mean(grid: list[tuple], arm: tuple[str, str], rate: float) -> float:
    values = [row[4] for row in grid if row[:2] == arm and row[3] == rate]
    return sum(values) / len(values)


def _trial(preset: str, chosen: dict, arm: tuple[str, str], rate: float, seed: int) -> float:
    """The objective of one run; a run that diverges is the worst."""
    config: RunConfig = load_config(preset, learning_rates={**chosen, arm_name(*arm): rate})
    try:
        folder = (
            stages.reward_model(config, seed)
            if arm[0] == "reward_model"
            else stages.train(config, *arm, seed)
        )
    except FloatingPointError:
        return float("-inf")
    value = json.loads((folder / "objective.json").read_text())["objective"]
    print(f"{arm_name(*arm)} at {rate:g}: {value:.4f}", flush=True)
    return value
