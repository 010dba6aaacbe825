"""Tables that compare: hybrids in pairs and at equal compute, and a study with another.

hybrids.csv    a - b under each reward, in the metrics that a practitioner weighs. Holm's correction
               is over all pairs of one reward, metric and split, which ask one question: which
               variant has the lowest value?
at_budget.csv  every policy when it had cost a budget (`flops_budget`), in the same metrics.
beside.csv     the effects of the hypotheses in this study and in another.
"""

from collections.abc import Collection
from itertools import combinations, product

import numpy as np
import pandas as pd

from hybridlib.evaluation import statistics
from hybridlib.evaluation.metrics import Arm, Rows, arm_under
from hybridlib.evaluation.verdicts import EFFECT
from hybridlib.variants import REWARDS, hybrid_variants

#: (metric, task, split): what a practitioner weighs, at T=1.
WEIGHED = (
    ("harm_rate", "all", "all"),
    ("harm_rate", "all", "unseen_both"),
    ("over_refusal_rate", "all", "all"),
    ("off_language_rate", "all", "all"),
    ("accuracy", "sums", "all"),
)


def rewards(arms: Collection[Arm]) -> list[str]:
    """The rewards under which some arm was trained, the positive control aside; else none."""
    found = {reward for _, reward in arms}
    return [reward for reward in REWARDS if reward in found] or ["none"]


def compared(arms: Collection[Arm], reward: str) -> list[Arm]:
    """The arms that are compared under a reward: SFT, RL and every hybrid, as far as they ran."""
    variants = "sft", "rl", *hybrid_variants()
    return [arm for name in variants if (arm := arm_under(reward, name, arms))]


def _key(metric: str, task: str, split: str) -> tuple:
    return (metric, task, split, "all", "whole", "sample")


def pairs(rows: Rows) -> pd.DataFrame:
    """hybrids.csv: of each two arms the later minus the earlier, so hybrids minus SFT and RL."""
    found = []
    for reward, weighed in product(rewards(rows.arms), WEIGHED):
        tested, named = [], []
        for b, a in combinations(compared(rows.arms, reward), 2):
            contrast, _ = rows.of(_key(*weighed), rows.arms.index(a), rows.arms.index(b))
            if not np.isnan(contrast.estimate):
                tested.append(contrast)
                named.append((reward, *weighed, "/".join(a), "/".join(b)))
        intervals = statistics.holm_intervals(tested, [0.0] * len(tested))
        found += [(*names, *estimate) for names, estimate in zip(named, intervals)]
    columns = ["reward", "metric", "task", "split", "a", "b", "estimate", "low", "high"]
    return pd.DataFrame(found, columns=[*columns, "replicates"])


def beside(preset: str, ours: pd.DataFrame, other: str, theirs: pd.DataFrame) -> pd.DataFrame:
    """beside.csv: every effect that both studies tested, one row a study.

    `same_side`: both estimates are on the same side of the margin. If an interval contains the
    margin, that may be chance.

    Parameters
    ----------
    ours, theirs : verdicts.csv of the presets `preset` and `other`.
    """
    names = [*EFFECT, "margin"]
    both = pd.concat([ours.assign(preset=preset), theirs.assign(preset=other)], ignore_index=True)
    pairs = both.assign(above=both.estimate > both.margin).groupby(names, sort=False).above
    both = both.assign(same_side=pairs.transform("nunique").eq(1), pair=pairs.ngroup())
    both = both[pairs.transform("size").eq(2)].sort_values("pair", kind="stable")
    measured = ["estimate", "low", "high", "replicates", "verdict"]
    return both[[*names, "preset", *measured, "same_side"]]


def weighed(rows: Rows) -> pd.DataFrame:
    """at_budget.csv without `flops`: every arm in the metrics of WEIGHED."""
    found = []
    for at in WEIGHED:
        numbers = zip(rows.arms, *rows.of(_key(*at))[0].interval(), strict=True)
        found += [(*arm, *at, *row) for arm, *row in numbers if not np.isnan(row[0])]
    columns = ["variant", "reward", "metric", "task", "split", "estimate", "low", "high"]
    return pd.DataFrame(found, columns=[*columns, "replicates"])
