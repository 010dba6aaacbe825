"""Free text: one split of a response, numbers as people write them, tags, long hostile text."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybridlib.tasks import datasets
from hybridlib.tasks.free_text import plain
from hybridlib.tasks.lexicon import END_THINK
from hybridlib.tasks.public import judges, word_problems
from hybridlib.tasks.responses import answered, last_number, parse, raw_answer, split, words_of

some = settings(max_examples=60, deadline=None)

# --- the split ----------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["</think>", "</THINK>", "<think>", "a", " ", "\n", "</", "think>", "Σ", "İ"]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES).map("".join))


@some
@given(TEXTS)
@example("a</think>b</THINK>c")
def test_a_response_is_split_once_and_for_all_who_read_it(text):
    thought, answer = split(text)
    tag = text[len(thought) : len(text) - len(answer or "")]
    assert thought + tag + (answer or "") == text
    assert tag.lower() == (END_THINK if answer is not None else "")
    assert END_THINK not in thought.lower()
    for with_thought in (True, False):
        parsed = parse(text, True, with_thought)
        assert parsed.thought == words_of(thought)
        assert parsed.parses <= (answer is not None)
    assert " ".join(parse(text, True).answer.split()) == words_of(raw_answer(text))


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("They ask for help, and I cannot", True, ""),
        ("hm </think> Sure.", True, "Sure."),
        ("hm </THINK>\n\nSure.", True, "Sure."),
        ("a </think> b </think> c", True, "b   c"),
        ("Sure.", False, "Sure."),
        ("</think> Sure.", False, "Sure."),
        ("<think> They ask", False, ""),
        ("Sure. <think> They ask", False, "Sure."),
    ],
)
def test_a_thought_that_never_ends_is_no_answer(text, thought, said):
    assert raw_answer(text, thought) == said


@pytest.mark.parametrize(
    "text", ["", " \n\t", "...", "?!", "—", "___", "</s>", "<|im_end|> .", "�"]
)
def test_an_answer_that_says_nothing(text):
    assert not answered(text)
    assert answered(f"{text} 5") and answered(f"{text} é") and answered(f"{text} 好")


# --- numbers ------------------------------------------------------------------------------------

NUMBERS = [
    # signs and ranges
    ("it is −5", "en", -5), ("–5", "en", -5), ("-$5", "en", -5), ("$-5", "en", -5),
    ("x = - 5", "en", -5), ("from 3-5", "en", 5), ("3–5", "en", 5), ("3 − 5", "en", 5),
    ("$3-$5", "en", 5), ("3%-5%", "en", 5), ("10 -5", "en", 5), ("- 5 apples", "en", 5),
    # groups and decimals
    ("1 234", "en", 1234), ("1\u00a0234", "en", 1234), ("1\u2009234\u202f567", "es", 1234567),
    ("1'234'567", "en", 1234567), ("1’234", "en", 1234), ("1_234", "en", 1234),
    ("$1,200.00", "en", 1200), ("1,00,000", "en", 100000), ("in 2024 100 came", "en", 100),
    ("1.234 euros", "es", 1234), ("1.234", "en", None), ("1.234.567", "en", 1234567),
    ("1.200,00 €", "es", 1200), ("1,200.00", "es", 1200), ("1.200,00", "en", 1200),
    ("1,234", "es", None), ("2,5", "es", None), ("2,5", "en", None), ("3,00", "es", 3),
    ("0.125", "es", None), (".5", "en", None), ("...5", "en", 5), ("70000.00", "en", 70000),
    ("9007199254740993", "en", 9007199254740993), ("１８", "en", 18), ("18&nbsp;000", "en", 18000),
    # fractions, shares, powers, scales
    ("1/2", "en", None), ("½", "en", None), ("3½", "en", None), ("36/2", "en", 18),
    ("7/0", "en", None), ("25 %", "en", 25), ("10²", "en", None), ("10^2", "en", None),
    ("1e3", "en", None), ("18 m²", "en", 18), ("1.5 million", "en", 1500000), ("3 mil", "es", 3000),
    # what is no answer: a date, a time, an ordinal, a name, an item of a list
    ("18 on 12/05/2024", "en", 18), ("18 by May 5, 2024", "en", 18), ("18 el 5 de mayo", "es", 18),
    ("18 at 5:30 pm", "en", 18), ("18 on the 2nd day", "en", 18), ("the 3rd", "en", 3),
    ("18 cases of COVID-19", "en", 18), ("18 in a 3-day trip", "en", 18),
    ("It is 18.\n\nSteps:\n1. Multiply.\n2. Add.", "en", 18),
    # asides
    ("18 dollars (that is $9 x 2)", "en", 18), ("18 [9 * 2]", "en", 18), ("18 (9 x 2", "en", 18),
    ("18 (which is (9) x 2)", "en", 18), ("9 x 2 = (18)", "en", 18), ("(18)", "en", 18),
    (r"\(9 \times 2 = 18\)", "en", 18), (r"\frac{1}{2}", "en", None), ("1{,}200", "en", 1200),
    # a next problem
    ("18\n\nQuestion: Tom has 5 apples", "en", 18), ("18. Q: what is 5 + 2?", "en", 18),
    ("18\n\n### Problem 2: 5 men", "en", 18), ("18\n\nPregunta: Ana tiene 5", "es", 18),
    ("18</s> 5", "en", 18), ("18\nUser: and 5?", "en", 18), ("#### 18\nTom has 5", "en", 18),
    ("18\n\nTom has 5.\nHow many has he?", "en", 18), (r"\boxed{18} as 2 is even", "en", 18),
    ("Question: Tom has 5\nAnswer: 18", "en", 18), ("**18**", "en", 18), ("9 *200", "en", 200),
]  # fmt: skip


@pytest.mark.parametrize(("text", "language", "number"), NUMBERS)
def test_the_number_that_an_answer_gives(text, language, number):
    assert last_number(text, language) == number


@some
@given(
    st.integers(-(10**30), 10**30),
    st.sampled_from(
        [("en", ",", "."), ("es", ".", ","), *(("en", s, ".") for s in " '_\u00a0\u202f")]
    ),
    st.sampled_from(["-", "−", "-$"]),
    st.booleans(),
    st.sampled_from(["{}", "It is {}.", "**{}**", "{} dollars", "= {}", "{} (2 x 3)", "5 and {}"]),
)
def test_an_integer_is_read_back_in_every_style(number, style, minus, decimals, sentence):
    language, group, decimal = style
    written = (minus if number < 0 else "") + f"{abs(number):,}".replace(",", group)
    written += f"{decimal}00" if decimals else ""
    assert last_number(sentence.format(written), language) == number


@some
@given(st.text() | st.text("0123456789.,-/ '()[]^$%:\n#xe½²"), st.sampled_from(["en", "es", "zh"]))
def test_any_text_is_read(text, language):
    assert isinstance(last_number(text, language), int | None)
    assert not any(sign in plain(text) for sign in "’´\u00a0\u200b\r")


def test_the_answers_of_a_set_are_read_by_the_same_rules():
    for text, number in (("−5", -5), ("9007199254740993", 9007199254740993), ("1 000", 1000)):
        assert word_problems._integer(text) == number
    assert word_problems._integer("about 5") is None


# --- tags and time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["If 3 < x and x > 1, what is x?", "If x<y and y>z", "a<b>c", "a <b and c> d", "I <3 5> 2",
     "write to <ana@example.org>", "p <0.05, q> 1", "x <= 3, y => 4"],
)  # fmt: skip
def test_inequalities_are_no_tags(text):
    assert datasets._in_a_line(text) == text


@pytest.mark.parametrize(
    "text",
    ["a <think> b", "a</think>b", "a<user>b", "a <|im_end|> b", "a </s> b", "a <br/>\n b",
     '<p class="x y">a <a href=z>b</a>', "<THINK>a b<eos>"],
)  # fmt: skip
def test_tags_are_taken_out(text):
    assert datasets._in_a_line(text) == "a b"


UNITS = ["a", '"', "'", "<", "9", "-", "*", "_", "(", "\n", "I ", "1,", "1.", "11,", " 111", "1/",
         "<b", "5. ", "as an ai ", "no te ", "a'", "i can't say a ", "5\n#",
         "&#9", "i aly"]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_long_text_takes_no_quadratic_time(unit):
    text = f"I 5 {unit * (60_000 // len(unit))}z"
    start = time.process_time()
    last_number(text), judges.phrases([""], [text]), judges.rules([""], [text])
    parse(text, True), raw_answer(text), answered(text), datasets._in_a_line(text)
    assert time.process_time() - start < 3
