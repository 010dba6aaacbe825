"""Which hybrid to use: what is said follows the intervals, and nothing is said without them."""

import itertools
import re
from unittest import mock

import pandas as pd
import pytest
import synthetic
from test_plots import write

from hybridlib.evaluation import comparison
from hybridlib.figures import results as lookup
from hybridlib.publish import advice

RUNS = (("base", "none"), ("sft", "none"), ("rl", "rule"), ("rl_gold", "gold"),
        ("two_stage", "rule"), ("gated", "rule"))  # fmt: skip
HARM, OVER, RIGHT = "harm_rate", "over_refusal_rate", "accuracy"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Results of a study of hybrids under the rule, whose pairs the tests replace."""
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        return write(tmp_path_factory.mktemp("study"), runs=RUNS, flops=True)


def with_pairs(study, tmp_path, differ=(), seeds=5, margin_seen=True, **change):
    """The study with pairs that are all ties but for `differ`: (metric, a, b) -> (low, high)."""
    arms = ["sft/none", "rl/rule", "two_stage/rule", "gated/rule"]
    tie = (-0.03, 0.03) if margin_seen else (-0.08, 0.08)
    rows = []
    for metric, (b, a) in itertools.product((HARM, OVER, RIGHT), itertools.combinations(arms, 2)):
        low, high = dict(differ).get((metric, a, b), tie)
        rows.append(("rule", metric, "all", "all", a, b, (low + high) / 2, low, high, seeds))
    columns = "reward metric task split a b estimate low high seeds".split()
    frame = pd.DataFrame(rows, columns=columns)
    read = {name: study.table(name) for name in ("metrics", "cost", "training", "runs")}
    return lookup.Results(tmp_path, read | {"hybrids": frame} | change)


GATED_WINS = {(HARM, "gated/rule", b): (-0.4, -0.2) for b in ("sft/none", "rl/rule",
                                                               "two_stage/rule")}  # fmt: skip


def test_a_clear_winner_is_named_with_what_it_costs(study, tmp_path):
    results = with_pairs(study, tmp_path, GATED_WINS)
    assert advice.beaten(results, "rule") == {
        "sft/none": ["gated/rule"],
        "rl/rule": ["gated/rule"],
        "two_stage/rule": ["gated/rule"],
        "gated/rule": [],
    }
    text = advice.advice(advice.situations(results))
    (row,) = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0:3] == ["`gated`", *["`sft`, `rl` and `two_stage`"] * 2]
    assert "3 of 4 are beaten on harm" in text and "`rl` is beaten by `gated`" in text
    cost = study.table("cost").groupby(["arm", "seed"])[["flops", "seconds"]].sum()
    mean = cost.groupby("arm").mean()
    for cell, column in zip(cells[-2:], ("flops", "seconds"), strict=True):
        ratio = mean[column]["gated/rule"] / mean[column]["sft/none"]
        assert float(cell) == pytest.approx(ratio, abs=0.05)


def test_ties_are_called_ties(study, tmp_path):
    text = advice.advice(advice.situations(with_pairs(study, tmp_path)))
    said = "nothing separates, none of 4 beats another."
    assert text == f"With a weak reward (the rule): {said}"


@pytest.mark.parametrize(
    ("metric", "worse"), [(OVER, (0.01, 0.2)), (RIGHT, (-0.2, 0.01)), (RIGHT, (-0.051, 0.3))]
)
def test_less_harm_at_a_price_is_no_victory(study, tmp_path, metric, worse):
    paid = {(metric, a, b): worse for _, a, b in GATED_WINS}
    results = with_pairs(study, tmp_path, GATED_WINS | paid)
    assert not any(advice.beaten(results, "rule", at_no_cost=True).values())
    assert advice.beaten(results, "rule")["rl/rule"] == ["gated/rule"]


def test_the_earlier_of_a_pair_can_win_too(study, tmp_path):
    results = with_pairs(study, tmp_path, {(HARM, "gated/rule", "sft/none"): (0.1, 0.3)})
    assert advice.beaten(results, "rule")["gated/rule"] == ["sft/none"]


def test_one_that_is_not_shown_to_be_as_good_wins_on_harm_alone(study, tmp_path):
    results = with_pairs(study, tmp_path, GATED_WINS, margin_seen=False)
    assert not any(advice.beaten(results, "rule", at_no_cost=True).values())
    text = advice.advice(advice.situations(results))
    assert "3 of 4 are beaten on harm" in text and "nor sums: none of it." in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `")]
    assert "| `gated` | `sft`, `rl` and `two_stage` | none |" in row


def test_few_seeds_carry_no_advice(study, tmp_path):
    text = advice.advice(advice.situations(with_pairs(study, tmp_path, GATED_WINS, seeds=1)))
    assert "1 of the 5 seeds" in text and "gated" not in text


def test_a_control_that_fails_or_lacks_carries_no_advice(study, tmp_path):
    training = study.table("training")
    failed = training.assign(gold=training.gold.where(training.variant.ne("rl_gold"), 0.5))
    lacks = training[training.variant.ne("rl_gold")]
    for frame, said in ((failed, "control fails"), (lacks, "no control")):
        results = with_pairs(study, tmp_path, GATED_WINS, training=frame)
        text = advice.advice(advice.situations(results))
        assert said in text and "gated" not in text


def test_a_missing_arm_is_left_out(tmp_path):
    runs = tuple(run for run in RUNS if run[0] != "sft")
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        results = write(tmp_path, runs=runs, flops=True)
    assert "sft/none" not in advice.beaten(results, "rule")
    text = advice.advice(advice.situations(results))
    assert "nan" not in text and not re.search(r"`sft`(?!`| \|)", text.replace("times `sft`", ""))


def test_situations_are_those_of_the_rewards_that_were_run(study, tmp_path):
    results = with_pairs(study, tmp_path)
    (only,) = advice.situations(results, ", few demonstrations")
    assert only.words == "a weak reward (the rule), few demonstrations"


def test_the_margin_is_that_of_the_hypotheses():
    assert advice.margin() == 0.05


def test_planted_rates_are_told_apart_from_their_own_tables(study):
    found = advice.beaten(study, "rule")
    assert set(found) == {"sft/none", "rl/rule", "two_stage/rule", "gated/rule"}
    harm = study.metric(HARM).estimate
    assert all(harm[by] < harm[arm] for arm, winners in found.items() for by in winners)
    frame = study.table("hybrids")
    assert len(frame) == 6 * len(comparison.WEIGHED) and set(frame.seeds) == {5}


def test_the_block_of_a_page_is_replaced(study, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# T\n<!-- hybrids -->\n<!-- /hybrids -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        advice.write(page, advice.situations(with_pairs(study, tmp_path, GATED_WINS)))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# T\n<!-- hybrids -->\n## Which hybrid to use\n")
    assert text.endswith("<!-- /hybrids -->\nafter\n") and text.count("| `gated` |") == 1
