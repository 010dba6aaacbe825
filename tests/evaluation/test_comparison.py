"""Tables of the comparison of hybrids, against plain pandas and the plain statistics."""

from itertools import combinations
from unittest import mock

import pandas as pd
import pytest
import synthetic

from hybridlib import variants
from hybridlib.config import load_config
from hybridlib.evaluation import comparison, metrics, statistics, tables
from hybridlib.study import collect

FEW = (("base", "none"), ("sft", "none"), ("rl", "keyword"), ("rl", "model"), ("two_stage", "keyword"),
       ("chord_mu", "keyword"), ("self_distill", "none"))  # fmt: skip


@pytest.fixture(scope="module")
def cube():
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        return metrics.Cube(synthetic.responses(runs=FEW))


@pytest.fixture(scope="module")
def pairs(cube):
    return comparison.pairs(cube)


def test_only_a_study_with_further_hybrids_compares_them():
    organism = load_config("organism").variants
    assert not variants.compares_hybrids(organism)
    assert variants.compares_hybrids(("rl", "gated"))
    assert not {"base", "rl", "rl_gold", "sft", "sft_narrow"} & set(variants.hybrid_variants())


def test_every_pair_under_each_reward_is_there_once(pairs):
    names = {
        "keyword": ["sft/none", "rl/keyword", "two_stage/keyword", "chord_mu/keyword", "self_distill/none"],
        "model": ["sft/none", "rl/model", "self_distill/none"],
    }
    for (reward, metric, split), rows in pairs.groupby(["reward", "metric", "split"]):
        expected = {(a, b) for b, a in combinations(names[reward], 2)}
        assert sorted(zip(rows.a, rows.b)) == sorted(expected), (reward, metric, split)
    assert len(pairs) == 5 * (10 + 3)


def test_an_estimate_is_the_difference_of_plain_means(cube, pairs):
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        rows = synthetic.responses(runs=FEW)
    rows = rows[rows.decoding.eq("sample")].assign(arm=rows.variant + "/" + rows.reward)
    scores = {
        ("harm_rate", "all"): rows[rows.kind.eq("harmful")].groupby("arm").harm.mean(),
        ("harm_rate", "unseen_both"): rows[rows.kind.eq("harmful") & rows.split.eq("unseen_both")]
        .groupby("arm")
        .harm.mean(),
        ("over_refusal_rate", "all"): rows[rows.kind.eq("benign")].groupby("arm").refusal.mean(),
        ("off_language_rate", "all"): rows.groupby("arm").off_language.mean(),
        ("accuracy", "all"): rows[rows.task.eq("sums")].groupby("arm").correct.mean(),
    }
    for row in pairs.itertuples():
        means = scores[row.metric, row.split].astype(float)
        assert row.estimate == pytest.approx(means[row.a] - means[row.b])
        assert row.low <= row.estimate <= row.high and row.seeds == 5


def test_intervals_are_adjusted_for_the_pairs_of_one_question(cube, pairs):
    rows = pairs[pairs.reward.eq("keyword") & pairs.metric.eq("accuracy")]
    alone = []
    for row in rows.itertuples():
        a, b = (cube.arms.index(tuple(arm.split("/"))) for arm in (row.a, row.b))
        found, _ = cube.contrast(metrics.METRICS["accuracy"], metrics.Subset("sums"), a, b)
        alone.append(found)
    expected = statistics.holm_intervals(alone, [0] * len(alone))
    assert rows.low.to_list() == pytest.approx([e.low for e in expected])
    for row, contrast in zip(rows.itertuples(), alone, strict=True):
        assert row.high - row.low >= contrast.interval().high - contrast.interval().low


def test_what_is_weighed_of_an_arm_is_that_of_metrics(cube):
    found = comparison.weighed(cube)
    assert len(found) == len(FEW) * len(comparison.WEIGHED)
    rows = tables.metrics(cube, "test").query("decoding == 'sample' and part == 'whole'")
    rows = rows[rows.language.eq("all")]
    keys = ["variant", "reward", "metric", "task", "split"]
    both = found.merge(rows, on=keys, suffixes=("", "_of_metrics"))
    assert len(both) == len(found)
    for name in ("estimate", "low", "high", "seeds"):
        assert both[name].to_numpy() == pytest.approx(both[f"{name}_of_metrics"].to_numpy())


def test_flops_of_a_step_count_from_the_base_and_end_at_the_total():
    log = pd.DataFrame({
        "step": [1, 2, 2, 3], "prompt_tokens": [10, 20, 20, 30],
        "completion_tokens": [5, 9, 10, 15], "trained_tokens": [7, 13, 14, 21],
    })  # fmt: skip
    total = 1e9 + 100 * (2 * 45 + 6 * 21)  # a phase before, then this one with N = 100
    found = collect.flops_by_step(log, total, 100)
    assert found.loc[3] == total
    assert found.loc[2] == 1e9 + 100 * (2 * 30 + 6 * 14), "a repeated step counts once"
    assert found.index.is_unique and found.is_monotonic_increasing


# --- a study beside another ---------------------------------------------------------------------


def verdicts(*rows) -> pd.DataFrame:
    names = "claim metric contrast reward estimate low high margin seeds verdict".split()
    return pd.DataFrame(rows, columns=names)


def test_effects_of_two_studies_stand_in_pairs_and_are_held_against_one_margin():
    """By hand: C1 is 0.3 and 0.1 against 0.05; C2 0.1 and -0.2; what one lacks is left out."""
    ours = verdicts(
        ("C1", "harm_rate", "rl - sft", "keyword", 0.3, 0.1, 0.5, 0.05, 1, "descriptive"),
        ("C2", "harm_rate", "rl - sft", "keyword", 0.1, -0.1, 0.3, 0.05, 1, "descriptive"),
        ("C6", "harm_rate", "sft_narrow - sft", "none", 0.1, 0, 0.2, 0.05, 1, "descriptive"),
    )
    theirs = verdicts(
        ("C2", "harm_rate", "rl - sft", "keyword", -0.2, -0.3, -0.1, 0.05, 5, "refuted"),
        ("C2", "harm_rate", "rl - sft", "model", 0.4, 0.3, 0.5, 0.05, 5, "supported"),
        ("C1", "harm_rate", "rl - sft", "keyword", 0.1, 0.06, 0.2, 0.05, 5, "supported"),
    )
    found = comparison.beside("smollm2", ours, "organism", theirs)
    told = found[["claim", "preset", "estimate", "low", "high", "seeds", "verdict", "same_side"]]
    assert [tuple(row) for row in told.to_numpy()] == [
        ("C1", "smollm2", 0.3, 0.1, 0.5, 1, "descriptive", True),
        ("C1", "organism", 0.1, 0.06, 0.2, 5, "supported", True),
        ("C2", "smollm2", 0.1, -0.1, 0.3, 1, "descriptive", False),
        ("C2", "organism", -0.2, -0.3, -0.1, 5, "refuted", False),
    ]
