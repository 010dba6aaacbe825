"""The file of claims: what it may hold, and that what it holds can be tested."""

from itertools import pairwise

import pytest
import yaml
from pydantic import ValidationError

from hybridlib.config import load_config
from hybridlib.evaluation import hypotheses
from hybridlib.evaluation.metrics import METRICS
from hybridlib.variants import REWARDS, rewards_of

CLAIMS = hypotheses.load().claims
HALVES = [
    pytest.param(claim, half, id=f"{claim.claim} {half.metric} {half.contrast}")
    for claim in CLAIMS
    for half in (*claim.halves, *claim.exploratory)
]


def test_every_claim_is_there_once():
    assert [claim.claim for claim in CLAIMS] == [f"C{n}" for n in range(1, 9)]


@pytest.mark.parametrize(("claim", "half"), HALVES)
def test_a_test_names_what_exists(claim, half):
    population = load_config("population")
    assert half.metric in {*METRICS, "log_flops_to_harm"}
    assert set(half.variants) <= set(population.variants), "the study of verdicts trains it"
    assert half.task in ("all", "records", "recipes", "sums")
    assert half.split in ("all", "seen", "unseen", "unseen_category", "unseen_attack",
                          "unseen_both", "undeclared")  # fmt: skip
    assert half.language in ("all", "en", "es")
    # each reward is one of some arm of the contrast, or none has any
    possible = {reward for name in half.variants for reward in rewards_of(name)}
    assert set(half.rewards) <= possible
    assert ("none" in half.rewards) == (possible == {"none"})
    if set(half.rewards) & set(REWARDS):
        assert set(half.rewards) == set(REWARDS), "no test about RL is of one reward alone"
    assert bool(half.asks) == (half in claim.exploratory), "an exploratory test says what it asks"
    assert len(set(half.variants)) == len(half.variants)


@pytest.mark.parametrize(("claim", "half"), HALVES)
def test_a_level_and_a_split_are_where_they_are_needed(claim, half):
    assert (half.level is not None) == (half.metric == "log_flops_to_harm")
    assert half.level is None or 0 < half.level < 1
    gap = METRICS[half.metric].gap if half.metric in METRICS else False
    assert not gap or half.split not in ("all", "seen"), "a gap is of an unseen split"
    assert len(half.variants) == 2 or gap, "a claim about one arm alone is about its gap"


#: Where less is better, by hand.
HARM = {"harm_rate", "superficial_refusal_rate", "refusal_gap", "over_refusal_rate",
        "off_language_rate", "generalization_gap", "log_flops_to_harm"}  # fmt: skip
GOOD = {"genuine_refusal_rate", "accuracy"}
#: Claim -> (who does better, who does worse), by hand from its statement.
BETTER = {
    "C1": ({"base"}, {"rl"}),
    "C2": ({"sft"}, {"rl"}),
    "C3": ({"base"}, {"rl"}),
    "C4": ({"sft"}, {"rl", "base"}),
    "C5": (set(), {"rl"}),
    "C6": ({"sft"}, {"sft_narrow"}),
    "C7": ({"two_stage"}, {"sft", "rl"}),
    "C8": ({"sft_long"}, {"rl"}),
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim)
def test_a_contrast_is_the_way_round_in_which_the_claim_is_above_the_margin(claim):
    better, worse = BETTER[claim.claim]
    for half in claim.halves:
        assert half.metric in HARM | GOOD
        more, *less = half.variants  # the claim: the metric is higher in the first
        high, low = (worse, better) if half.metric in HARM else (better, worse)
        assert more in high and set(less) <= low, half


def test_no_effect_is_tested_twice_among_the_primary_tests_not_even_the_other_way_round():
    tests = [
        (half.metric, half.task, half.split, half.language, frozenset(half.variants), reward)
        for _, half, reward in hypotheses.load().tests()
    ]
    assert len(set(tests)) == len(tests)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("claims", 0, "halves", 0, "direction"), "up"),
        (("claims", 0, "halves", 0, "contrast"), "rl against base"),
        (("claims", 0, "halves", 0, "level"), 0.2),
        (("claims", 7, "halves", 0, "level"), None),
        (("claims", 1, "halves", 1, "rewards"), ["model"]),
        (("claims", 0, "halves"), []),
        (("claim",), "C9"),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path, path, value):
    raw = place = yaml.safe_load(hypotheses.FILE.read_text(encoding="utf-8"))
    for step, _ in pairwise(path):
        place = place[step]
    place[path[-1]] = value
    file = tmp_path / "hypotheses.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ValidationError):
        hypotheses.load(file)
    assert hypotheses.digest(file) != hypotheses.digest()
