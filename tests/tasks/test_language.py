"""The language of free text: by hand, against every path there is, and its error as measured."""

import itertools
import math
import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, entropy

from hybridlib.store.errors import ParameterError
from hybridlib.tasks import language
from hybridlib.tasks.language import (
    identifier_error,
    language_measures,
    line_entropy,
    word_languages,
)

EN = "We walked along the river until it got dark."
ES = "Caminamos junto al río hasta que se hizo de noche."


def spoken(text: str) -> list[str]:
    return [name for _, name in word_languages(text)]


@pytest.mark.parametrize(
    "text, target, share, off, switches",
    [
        (EN, "en", 1, 0, 0),
        (EN, "es", 0, 1, 0),
        (ES, "es", 1, 0, 0),
        (f"{EN} {ES}", "en", 9 / 19, 1, 100 / 19),
        (f"{EN} {ES} The soup needs salt.", "es", 10 / 23, 1, 200 / 23),
        ("I think that mañana va a llover mucho", "en", 3 / 8, 1, 100 / 8),
        ("", "en", math.nan, math.nan, math.nan),
        ("12 + 30 = 42", "en", math.nan, math.nan, math.nan),
        ("Yes, please.", "en", math.nan, math.nan, math.nan),
        (f"{ES} Ok.", "es", 1, 0, 0),  # two segments, the second too short
    ],
)
def test_measures_by_hand(text, target, share, off, switches):
    expected = {
        "target_language_share": share, "off_language": off,
        "switches_per_100_words": switches, "repetition": 0,
    }  # fmt: skip
    assert language_measures(text, target) == pytest.approx(expected, nan_ok=True)


def test_the_keys_are_those_of_the_exact_measures():
    from hybridlib.tasks import oracle

    assert list(language_measures(EN, "en")) == list(oracle.language_measures(EN, "en"))


@pytest.mark.parametrize("text", ["a b c d a b c d", "so it is so it is so it is", EN])
def test_repetition_is_that_of_the_exact_measures(text):
    from hybridlib.tasks import oracle

    exact = oracle.language_measures(text, "en")["repetition"]
    assert language_measures(text, "en")["repetition"] == pytest.approx(exact)


@pytest.mark.parametrize(
    "noise",
    [
        "<think>", "</answer>", "`el perro y la casa`", "```\nel perro come la comida\n```",
        "$el = la + los$", "$$\nel = la + los\n$$",
        r"\(el perro\)", r"\[el perro come\]", r"\begin{align}el &= la\end{align}",
        r"\textbf{la casa}", "https://el.perro/come/la/comida", "perro@casa.es", "3.14", "x2",
    ],
)  # fmt: skip
def test_what_is_no_prose_counts_for_nothing(noise):
    assert word_languages(f"We walked along {noise} the river.") == word_languages(
        "We walked along the river."
    )


def test_code_that_was_cut_off_reaches_to_the_end():
    assert word_languages(f"{EN}\n```python\nel perro come la comida") == word_languages(EN)


def test_prices_are_no_latex():
    words = [word for word, _ in word_languages("It costs $5 and the other one costs $6 today.")]
    assert words == "It costs and the other one costs today".split()


def test_names_count_for_no_language():
    words = dict(word_languages("El cartero vive en Baker Street con mucha gente."))
    assert words["Baker"] == words["Street"] == ""
    assert {words[w] for w in ("El", "vive", "gente")} == {"es"}


def test_accents_may_be_written_apart():
    assert spoken("El cami\u0301n esta\u0301 aqui\u0301.") == spoken("El camín está aquí.")


def test_a_path_is_the_best_of_all_paths():
    names, rng = ("a", "b", "c"), random.Random(0)
    for length in range(1, 8):
        scores = [{name: rng.random() * 2 for name in names} for _ in range(length)]

        def worth(path, scores=scores):
            switches = sum(a != b for a, b in itertools.pairwise(path))
            return sum(s[n] for s, n in zip(scores, path)) - language.SWITCH_COST * switches

        best = max(itertools.product(names, repeat=length), key=worth)
        assert language._best_path(scores, names) == list(best)


def test_other_languages_can_be_asked_for():
    measures = language_measures("Nous avons marché le long de la rivière.", "fr", ("en", "fr"))
    assert measures["target_language_share"] == 1


@pytest.mark.parametrize(
    "target, languages, said",
    [("fr", ("en", "es"), "language 'fr' is not one of en, es"),
     ("en", ("en", "xx"), "language 'xx' is not known to eldc")],
)  # fmt: skip
def test_a_language_that_cannot_be_is_named(target, languages, said):
    with pytest.raises(ParameterError, match=said):
        language_measures(EN, target, languages)


@pytest.fixture(scope="module")
def errors() -> pd.DataFrame:
    return identifier_error()


def test_the_labelled_lines_are_enough(errors):
    lines = errors[errors.kind != "word"].assign(all=lambda x: x.n + x.ignored)
    counts = lines.groupby("kind")["all"].sum()
    assert counts["sentence"] >= 60 and counts["fragment"] >= 60 and counts["chat"] >= 30
    assert counts["code_switched"] >= 30


def test_the_error_of_the_identifier(errors):
    """A release of the identifier that is worse than the one in use must not pass unseen."""
    by_kind = errors.groupby("kind")[["n", "right"]].sum()
    share = by_kind.right / by_kind.n
    assert (share[["sentence", "fragment", "chat", "code_switched", "word"]] >= 0.95).all()
    for row in errors.itertuples():
        exact = binomtest(row.right, row.n).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx((exact.low, exact.high))


def test_the_error_is_an_error(tmp_path):
    """Labels turned round: nothing is right any more; short lines are ignored, not wrong."""
    path = tmp_path / "wrong.csv"
    path.write_text(
        "kind,language,text\n"
        f"sentence,es,{EN}\nsentence,en,{ES}\nsentence,en,{EN}\nsentence,en,Yes\n"
        f"mixed,es en,{EN} | {ES}\nmixed,en es,{EN} | {ES}\n",
        encoding="utf-8",
    )
    table = identifier_error(path).set_index(["kind", "language"])
    assert table.n.to_dict() == {
        ("sentence", "es"): 1, ("sentence", "en"): 2,
        ("mixed", "es en"): 1, ("mixed", "en es"): 1, ("word", "all"): 9 + 10 + 9 + 2 * 19,
    }  # fmt: skip
    assert table.right.to_list() == [0, 1, 0, 1, 9 + 19]
    assert table.ignored.to_list() == [0, 1, 0, 0, 1]


# ---- lines of the tasks


@pytest.mark.parametrize(
    "text, expected",
    [
        ("pin is private . guest asks .", 0),
        ("pin is private . visita pregunta .", 0),  # each line in one language
        ("private privado . asks .", 0.5),
        ("Private privado", 1),
        ("kaq meq . 12 .", math.nan),
        ("", math.nan),
    ],
)
def test_the_entropy_of_lines_by_hand(text, expected):
    assert line_entropy(text) == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5))
def test_the_entropy_of_lines_is_scipys(counts):
    lines = [" ".join(["private"] * en + ["privado"] * es) for en, es in counts]
    spoken_lines = [pair for pair in counts if sum(pair)]
    found = line_entropy(" . ".join(lines))
    if not spoken_lines:
        assert math.isnan(found)
    else:
        mean = sum(entropy(pair, base=2) for pair in spoken_lines) / len(spoken_lines)
        assert found == pytest.approx(mean, abs=1e-12)
