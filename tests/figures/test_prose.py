"""Numbers and names as text, and tables as HTML."""

import math
import re
import string
from unittest import mock

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlib.evaluation import hypotheses
from hybridlib.figures import prose


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), max_size=6))
def test_join_keeps_every_word(words):
    words = [word for word in words if word != "and"]
    joined = prose.join(words)
    assert re.split(", | and ", joined) == (words or [""])
    assert joined.count(" and ") == (len(words) > 1)


@given(st.floats(-1e3, 1e3), st.integers(0, 3))
def test_signed_has_no_negative_zero(value, digits):
    text = prose.signed(value, digits)
    assert float(text) == pytest.approx(value, abs=0.5 * 10**-digits + 1e-9)
    assert (text[0] in "+-") == (float(text) != 0)


@given(st.floats(1, 1e15))
def test_short_keeps_the_size(value):
    text = prose.short(value).replace("k", "e3").replace("M", "e6")
    assert float(text) == pytest.approx(value, rel=0.06, abs=0.5)


@given(st.floats(0, 1))
def test_percent_never_says_never_of_what_is_rare(value):
    text = prose.percent(value)
    assert float(text[:-1]) == pytest.approx(100 * value, abs=0.5)
    if 0.001 < value < 0.999:
        assert text not in ("0%", "100%")


def test_what_is_no_share_is_told_as_a_number_and_not_in_percent(results):
    row = results.metric("switches_per_100_words", language="es").loc["sft/none"]
    assert prose.amount(row) == f"{row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}]"


def test_a_difference_has_its_interval_and_of_one_seed_none():
    row = pd.Series({"estimate": 0.123, "low": -0.004, "high": 0.25})
    assert prose.points(row) == "+12 [0, +25] points"
    assert prose.difference(row, 3) == "+0.123 [-0.004, +0.250]"
    assert prose.difference(row.where(row.index == "estimate")) == "+0.12"


def test_what_is_undefined_is_not_told_as_a_number():
    nothing = pd.Series({"estimate": math.nan, "low": math.nan, "high": math.nan})
    assert prose.difference(nothing) == ""
    with mock.patch.object(prose, "display") as display:
        prose.tabulate([], ["a", "b"])
    (text,) = display.call_args.args
    assert text.data == "*Nothing of this was measured.*"


def test_scope_says_what_results_rest_on(results, one_seed, population):
    told = prose.scope(results)
    assert "11 arms" in told and "5 replicates, 55 runs" in told and "failed" not in told
    assert "1 replicate, 11 runs. Of one replicate there is no interval." in prose.scope(one_seed)
    # nine were drawn; of the one that is not competent nothing counts
    told = prose.scope(population)
    assert "8 replicates, 40 runs" in told and "Of 9 bases, 1 failed" in told


def row(**values) -> pd.Series:
    given = {"metric": "harm_rate", "contrast": "rl - sft", "task": "all", "split": "all",
             "language": "all", "margin": 0.05}  # fmt: skip
    return pd.Series(given | values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "RL: more harm than SFT"),
        ({"margin": -0.05}, "SFT: no more harm than RL"),
        ({"margin": 0.0}, "RL: more harm than SFT"),
        ({"contrast": "rl", "metric": "generalization_gap", "split": "unseen_both"},
         "RL: rise of harm where all is unseen"),
        ({"task": "records", "split": "unseen", "contrast": "sft_narrow - sft"},
         "narrow SFT: more harm in records on what is unseen than SFT"),
        ({"metric": "off_language_rate", "contrast": "rl - base", "language": "es"},
         "RL: more language mixing in Spanish than the base"),
        ({"metric": "accuracy", "task": "sums", "contrast": "two_stage - gated"},
         "SFT+RL: more arithmetic solved than gated"),
    ],
)  # fmt: skip
def test_an_effect_is_told_as_it_is_claimed(values, said):
    assert prose.effect(row(**values)) == said


def test_no_two_tests_are_told_alike():
    for part in ("halves", "exploratory"):
        tests = hypotheses.load().tests(part)
        told = [(claim, prose.effect(half), half.margin, r) for claim, half, r in tests]
        assert len(set(told)) == len(told)
        assert {half.metric for _, half, _ in tests} <= set(prose.MORE)


def test_a_difference_of_logarithms_is_told_as_a_ratio():
    found = pd.Series({"estimate": math.log(3), "low": math.log(2), "high": math.log(4.5)})
    assert prose.times(found) == "3 [2, 4.5] times"
    found[["low", "high"]] = math.nan
    assert prose.times(found) == "3 times"
    assert prose.is_ratio("log_flops_to_harm") and not prose.is_ratio("harm_rate")


def test_text_is_on_the_left_numbers_are_on_the_right_and_nothing_is_cut():
    long = "a < b " * 50
    with mock.patch.object(prose, "display") as display:
        prose.tabulate(pd.DataFrame({"word": [long], "number": [0.123456]}))
    (page,) = display.call_args.args
    cells = re.findall(r"<t[hd] style=\"text-align: (\w+)\">(.*?)</t[hd]>", page.data)
    assert cells == [
        ("left", "word"),
        ("right", "number"),
        ("left", long.replace("<", "&lt;")),
        ("right", "0.123"),
    ]


@pytest.mark.parametrize(("sentences", "shown"), [(("", "b"), "b"), (("a", "b"), "a b")])
def test_empty_sentences_are_left_out(sentences, shown):
    with mock.patch.object(prose, "display") as display:
        prose.say(*sentences)
        prose.say("", "")
    (text,) = display.call_args.args
    assert text.data == shown and display.call_count == 1
