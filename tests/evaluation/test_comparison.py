"""Tables of the comparison of hybrids, against plain pandas and the plain statistics."""

from itertools import combinations
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from hybridlib import variants
from hybridlib.config import load_config
from hybridlib.evaluation import comparison, metrics, tables

FEW = (("base", "none"), ("sft", "none"), ("rl", "keyword"), ("rl", "model"),
       ("two_stage", "keyword"), ("chord_mu", "keyword"), ("self_distill", "none"))  # fmt: skip


@pytest.fixture(scope="module")
def responses():
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        return synthetic.responses(runs=FEW)


@pytest.fixture(scope="module")
def rows(responses):
    return metrics.Rows(metrics.measured(responses))


@pytest.fixture(scope="module")
def pairs(rows):
    return comparison.pairs(rows)


def test_only_a_study_with_further_hybrids_compares_them():
    organism = load_config("organism").variants
    assert not variants.compares_hybrids(organism)
    assert variants.compares_hybrids(("rl", "gated"))
    alone = {"base", "rl", "rl_gold", "sft", "sft_narrow", "sft_long"}
    assert not alone & set(variants.hybrid_variants())


def test_every_pair_under_each_reward_is_there_once(pairs):
    names = {
        "keyword": ["sft/none", "rl/keyword", "two_stage/keyword", "chord_mu/keyword",
                    "self_distill/none"],
        "model": ["sft/none", "rl/model", "self_distill/none"],
    }  # fmt: skip
    for (reward, metric, split), found in pairs.groupby(["reward", "metric", "split"]):
        expected = {(a, b) for b, a in combinations(names[reward], 2)}
        assert sorted(zip(found.a, found.b)) == sorted(expected), (reward, metric, split)
    assert len(pairs) == 5 * (10 + 3)


#: (metric, split) -> the rows that it is about, and their score.
SCORES = {
    ("harm_rate", "all"): ("kind == 'harmful'", "harm"),
    ("harm_rate", "unseen_both"): ("kind == 'harmful' and split == 'unseen_both'", "harm"),
    ("over_refusal_rate", "all"): ("kind == 'benign'", "refusal"),
    ("off_language_rate", "all"): ("kind != ''", "off_language"),
    ("accuracy", "all"): ("task == 'sums'", "correct"),
}


def each(responses, arm: str, metric: str, split: str) -> np.ndarray:
    """The plain mean of an arm in each replicate, at T=1."""
    asked, score = SCORES[metric, split]
    variant, reward = arm.split("/")
    of = f"{asked} and variant == '{variant}' and reward == '{reward}' and decoding == 'sample'"
    return responses.query(of).groupby("seed")[score].mean().astype(float).to_numpy()


def test_pairs_are_paired_differences_adjusted_for_the_pairs_of_one_question(responses, pairs):
    """Holm's intervals, by hand: of m pairs the k-th smallest p below 0.05 / (m - k + 1) is at that
    level, all from the first that is not are at its level."""
    for _, found in pairs.groupby(["reward", "metric", "split"]):
        values = [
            each(responses, row.a, row.metric, row.split)
            - each(responses, row.b, row.metric, row.split)
            for row in found.itertuples()
        ]
        p = np.array([stats.ttest_1samp(value, 0).pvalue for value in values])
        alpha, failed = np.empty(len(p)), None
        for k, i in enumerate(np.argsort(p)):
            step = 0.05 / (len(p) - k)
            failed = failed or (step if p[i] > step else None)
            alpha[i] = failed or step
        for row, value, level in zip(found.itertuples(), values, 1 - alpha):
            assert row.estimate == pytest.approx(value.mean()) and row.replicates == 5
            wanted = stats.ttest_1samp(value, 0).confidence_interval(level)
            assert (row.low, row.high) == pytest.approx(np.clip(wanted, -1, 1))


def test_what_is_weighed_of_an_arm_is_that_of_metrics(rows):
    found = comparison.weighed(rows)
    assert len(found) == len(FEW) * len(comparison.WEIGHED)
    table = tables.metrics(rows, "test").query("decoding == 'sample' and part == 'whole'")
    table = table[table.language.eq("all")]
    keys = ["variant", "reward", "metric", "task", "split"]
    both = found.merge(table, on=keys, suffixes=("", "_of_metrics"))
    assert len(both) == len(found)
    for name in ("estimate", "low", "high", "replicates"):
        assert both[name].to_numpy() == pytest.approx(both[f"{name}_of_metrics"].to_numpy())


# --- a study beside another ---------------------------------------------------------------------


def verdicts(*rows) -> pd.DataFrame:
    names = "claim metric contrast reward estimate low high margin replicates verdict".split()
    return pd.DataFrame(rows, columns=names).assign(task="all", split="all", language="all")


def test_effects_of_two_studies_stand_in_pairs_and_are_held_against_one_margin():
    """By hand: C1 is 0.3 and 0.1 against 0.05; C2 0.1 and -0.2; what one lacks is left out."""
    ours = verdicts(
        ("C1", "harm_rate", "rl - sft", "keyword", 0.3, 0.1, 0.5, 0.05, 1, "descriptive"),
        ("C2", "harm_rate", "rl - sft", "keyword", 0.1, -0.1, 0.3, 0.05, 1, "descriptive"),
        ("C6", "harm_rate", "sft_narrow - sft", "none", 0.1, 0, 0.2, 0.05, 1, "descriptive"),
    )
    theirs = verdicts(
        ("C2", "harm_rate", "rl - sft", "keyword", -0.2, -0.3, -0.1, 0.05, 5, "reversed"),
        ("C2", "harm_rate", "rl - sft", "model", 0.4, 0.3, 0.5, 0.05, 5, "supported"),
        ("C1", "harm_rate", "rl - sft", "keyword", 0.1, 0.06, 0.2, 0.05, 5, "supported"),
    )
    found = comparison.beside("smollm2", ours, "organism", theirs)
    told = found[
        ["claim", "preset", "estimate", "low", "high", "replicates", "verdict", "same_side"]
    ]
    assert [tuple(row) for row in told.to_numpy()] == [
        ("C1", "smollm2", 0.3, 0.1, 0.5, 1, "descriptive", True),
        ("C1", "organism", 0.1, 0.06, 0.2, 5, "supported", True),
        ("C2", "smollm2", 0.1, -0.1, 0.3, 1, "descriptive", False),
        ("C2", "organism", -0.2, -0.3, -0.1, 5, "reversed", False),
    ]


def test_an_effect_on_another_task_or_split_is_another_effect():
    """Two halves of C6 differ in their task alone."""
    row = ("C6", "harm_rate", "sft_narrow - sft", "none", 0.1, 0, 0.2, 0.05, 5, "undecided")
    ours = verdicts(row, row).assign(task=["records", "recipes"])
    theirs = verdicts(row, row).assign(task=["recipes", "records"], estimate=[0.0, 0.2])
    found = comparison.beside("smollm2", ours, "organism", theirs)
    assert list(found.task) == ["records", "records", "recipes", "recipes"]
    assert list(found.estimate) == [0.1, 0.2, 0.1, 0.0]
    assert list(found.same_side) == [True, True, False, False]
