"""The language of free text, word by word: R_lang, off-language and switches of real models.

`oracle.language_measures` knows every word of the organism; this module does the same for an open
vocabulary. eldc (a compiled table of n-grams) scores each word for the study's languages. The best
path over the words of a segment pays a cost for every switch, so that one odd word makes none.
`identifier_error` measures the error on languages.csv.
"""

import math
import re
import unicodedata
from collections import Counter
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from hybridlib.store.errors import ParameterError
from hybridlib.tasks.lexicon import LANGUAGES, languages_of

LABELLED = Path(__file__).with_name("languages.csv")
FEWEST_WORDS = 3  # of a segment; fewer are ignored
# A word's scores are in [0, 1]. Chosen on other lines than LABELLED: there every cost from 1 to 1.5
# found all switches and no false one.
SWITCH_COST = 1.25

_NO_PROSE = re.compile(
    r"""```.*?(?:```|\Z) | `[^`\n]*`                                  # code
    | \$\$.*?\$\$ | \$(?!\s)[^$\n]*(?<!\s)\$(?!\d)                    # LaTeX, and no prices
    | \\\(.*?\\\) | \\\[.*?\\\] | \\begin\{(\w+)\}.*?\\end\{\1\} | \\[a-zA-Z]+(?:\{[^{}]*\})*
    | </?[^\W\d][^<>]*> | \w+://\S+ | \S+@\S+                         # tags, addresses
    """,
    re.VERBOSE | re.DOTALL,
)
_SEGMENT = re.compile(r"(?<=[.!?;:…])\s+|\n+")
_SENTENCE = re.compile(r"[.?!\n]")  # as the tasks write them
_WORD = re.compile(r"(?<!\w)[^\W\d_]+(?:['’][^\W\d_]+)*(?!\w)")


def word_languages(text: str, languages: tuple[str, ...] = LANGUAGES) -> list[tuple[str, str]]:
    """The words of the prose in `text`, each with its language; '' where it has none.

    Digits, code, LaTeX and tags are not words. Names (a capital inside a segment) have no language,
    nor do the words of a segment with fewer than FEWEST_WORDS besides names. Raises ParameterError
    if the identifier does not know a language.
    """
    prose = _NO_PROSE.sub(" ", unicodedata.normalize("NFC", text))
    return [
        pair
        for segment in _SEGMENT.split(prose)
        for pair in _segment_languages(_WORD.findall(segment), languages)
    ]


def language_measures(
    text: str, language: str, languages: tuple[str, ...] = LANGUAGES
) -> dict[str, float]:
    """Language and readability of a text that should be in `language`.

    Returns
    -------
    target_language_share : R_lang of DeepSeek-R1 (arXiv 2501.12948), the share of words in the
        target language among the words in any.
    off_language : 1 if any word is in another language, else 0.
    switches_per_100_words, repetition (share of repeated 4-grams, arXiv 1908.04319).

    All but `repetition` are NaN where the text is too short to identify.
    """
    if language not in languages:
        raise ParameterError(f"language {language!r} is not one of {', '.join(languages)}")
    words = word_languages(text, languages)
    spoken = [name for _, name in words if name]
    return measures_of(spoken, language, len(words) if spoken else 0, text)


def measures_of(spoken: list[str], language: str, words: int, text: str) -> dict[str, float]:
    """The measures of a text of so many words, of which some are spoken in a language."""
    switches = sum(a != b for a, b in pairwise(spoken))
    return {
        "target_language_share": spoken.count(language) / len(spoken) if spoken else math.nan,
        "off_language": float(spoken.count(language) < len(spoken)) if words else math.nan,
        "switches_per_100_words": 100 * switches / words if words else math.nan,
        "repetition": repetition(re.findall(r"\w+", text.lower())),
    }


@cache
def line_entropy(text: str) -> float:
    """The language-mixing entropy of a response (arXiv 2505.14815), by the words of the lexicon.

    The entropy of a sentence's languages, from 0 (one language) to 1 (equal shares), averaged over
    sentences; NaN where no word has a language.
    """
    found = []
    for line in _SENTENCE.split(text.lower()):
        if spoken := languages_of(re.findall(r"\w+", line)):
            shares = [count / len(spoken) for count in Counter(spoken).values()]
            found.append(-sum(p * math.log(p, len(LANGUAGES)) for p in shares))
    return sum(found) / len(found) if found else math.nan


def repetition(tokens: list[str]) -> float:
    """The share of 4-grams that occurred before in the text; 0 if it has none."""
    grams = list(zip(*(tokens[i:] for i in range(4))))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def identifier_error(path: Path = LABELLED) -> pd.DataFrame:
    """How often the identifier is right on labelled lines, with 95% Wilson intervals.

    A line is right if the languages found are exactly those of its parts, in order, so a false
    switch is an error, too. Lines that are too short are counted in `ignored`, not in `n`.

    Returns
    -------
    kind, language, n, right, accuracy, low, high, ignored : one row a kind and language ('en es'
        switches from one to the other), then one for the words of all lines.
    """
    lines, words = [], []
    for line in pd.read_csv(path, keep_default_na=False).itertuples():
        parts, labels = line.text.split(" | "), line.language.split()
        found = [name for _, name in word_languages(" ".join(parts))]
        truth = [label for part, label in zip(parts, labels) for _ in word_languages(part)]
        runs = [name for name, _ in groupby(filter(None, found))]
        lines.append((line.kind, line.language, runs == labels if runs else None))
        words += [("word", "all", a == b if a else None) for a, b in zip(found, truth)]
    frame = pd.DataFrame(lines + words, columns=["kind", "language", "right"])
    frame["right"] = frame.right.astype("boolean")
    groups = frame.groupby(["kind", "language"], sort=False).right
    table = groups.agg(n="count", right="sum", ignored=lambda x: x.isna().sum()).astype(int)
    table["accuracy"] = table.right / table.n
    table["low"], table["high"] = proportion_confint(table.right, table.n, method="wilson")
    columns = ["n", "right", "accuracy", "low", "high", "ignored"]
    return table[columns].reset_index()


def _segment_languages(words: list[str], languages: tuple[str, ...]) -> list[tuple[str, str]]:
    named = [i > 0 and word[0].isupper() and word[1:2].islower() for i, word in enumerate(words)]
    if len(words) - sum(named) < FEWEST_WORDS:
        return [(word, "") for word in words]
    scores = [
        dict.fromkeys(languages, 0.0) if name else _scores(word.lower(), languages)
        for word, name in zip(words, named)
    ]
    path = _best_path(scores, languages)
    return [(word, "" if name else found) for word, name, found in zip(words, named, path)]


def _best_path(scores: list[dict[str, float]], languages: tuple[str, ...]) -> list[str]:
    """The languages with the highest summed score minus SWITCH_COST a switch (Viterbi)."""
    best = scores[0]
    came_from: list[dict[str, str]] = []
    for score in scores[1:]:
        top = max(languages, key=best.get)
        move = best[top] - SWITCH_COST
        came_from.append({name: name if best[name] >= move else top for name in languages})
        best = {name: max(best[name], move) + score[name] for name in languages}
    path = [max(languages, key=best.get)]
    for step in reversed(came_from):
        path.append(step[path[-1]])
    return path[::-1]


@cache
def _scores(word: str, languages: tuple[str, ...]) -> dict[str, float]:
    found = _identifier(languages).detect_details(word).scores
    return {name: found.get(name, 0.0) for name in languages}


@cache
def _identifier(languages: tuple[str, ...]):
    import eldc

    eldc.init()
    identifier = eldc.instance()
    if unknown := set(languages) - set(eldc.LANGUAGES):
        known = ", ".join(eldc.LANGUAGES)
        raise ParameterError(f"language {min(unknown)!r} is not known to eldc; use one of {known}")
    identifier.set_languages(list(languages))
    identifier.set_scores(len(languages))
    return identifier
