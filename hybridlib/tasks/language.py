"""The language of free text, word by word: R_lang, off-language and switches of real models.

`oracle.language_measures` knows every word of the organism; this module does the same for an open
vocabulary. A word with a letter that is not Latin is OTHER at sight. eldc (a compiled table of
n-grams) scores each Latin word for the study's languages and for every other one that it knows. The
best path over the words of a segment pays a cost for every switch, so that one odd word makes none,
and a further one to enter a language that is not the study's: those are OTHER, too.
`identifier_error` measures the error on languages.csv.

Not told: languages that eldc does not know (Galician may be read as Spanish), a switch of one or
two Latin words inside a segment, and words that are written as names.
"""

import math
import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import regex
from statsmodels.stats.proportion import proportion_confint

from hybridlib.store.errors import ParameterError
from hybridlib.tasks.lexicon import LANGUAGES, languages_of

LABELLED = Path(__file__).with_name("languages.csv")
OTHER = "other"  # any language but those of the study
FEWEST_WORDS = 3  # of a segment; one with fewer is read with its neighbour
# A word's scores are in [0, 1]. Both costs were chosen on other lines than LABELLED (those of
# tests/tasks/languages_chosen_on.csv). A switch may cost 1 to 1.5 there without a difference. A
# lower cost of entry takes short Spanish for Portuguese or Catalan, a higher one the reverse.
SWITCH_COST, ENTRY_COST = 1.25, 0.5
#: Languages that eldc knows in Latin letters.
LATIN = (
    "az ca cs da de en es et eu fi fr hr hu is it ku lt lv ms nl no pl pt ro sk sl sq sv tl tr vi "
    "yo"
).split()

#: Letters of scripts that put no blanks between words (in Korean: not always); each is a word.
_ALONE = (
    r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    r"&&\p{L}]"
)
_JOINED = rf"[\w--{_ALONE}]++"
# None of these takes quadratic time: what is scanned for an end stops at the next beginning.
_ENVIRONMENT = regex.compile(
    r"\\begin\{(\w+\*?)\}[^\\]*+(?:\\(?!begin\{|end\{)[^\\]*+)*+\\end\{\1\}"
)
_NESTED = 4  # environments in environments
_NO_PROSE = regex.compile(
    rf"""```.*?(?:```|\Z) | `[^`\n]*+`                                 # code
    | \$\$.*?\$\$ | \$(?!\s)[^$\n]*(?<!\s)\$(?!\d)                    # LaTeX, and no prices
    | \\\([^\\]*+(?:\\(?![()])[^\\]*+)*+\\\) | \\\[[^\\]*+(?:\\(?![\[\]])[^\\]*+)*+\\\]
    | \\[a-zA-Z]++(?:\{{[^{{}}]*+\}})*+
    | </?[^\W\d][^<>]*+> | (?<![a-zA-Z0-9])[a-zA-Z0-9]++://[\S--{_ALONE}]*+  # tags, addresses
    | (?<![a-zA-Z0-9._%+-])[a-zA-Z0-9._%+-]++@[a-zA-Z0-9.-]+
    """,
    regex.VERBOSE | regex.DOTALL | regex.V1,
)
_STACKED = regex.compile(r"(?<=\p{M}{8})\p{M}++")  # normalizing takes quadratic time on these
# Invisible characters, and marks that belong to no letter or to none that has a form with them.
_NO_LETTER = regex.compile(
    r"[\p{Cf}\p{Default_Ignorable_Code_Point}]|(?<![[\p{L}\p{M}]--\p{Latin}])\p{M}++", regex.V1
)
_SEGMENT = regex.compile(r"(?<=[.!?;:…])\s++|\n++")
_SENTENCE = re.compile(r"[.?!\n]")  # as the tasks write them
_TOKEN = regex.compile(rf"{_ALONE}\p{{M}}*+|{_JOINED}(?:['’‘ʼ]{_JOINED})*+", regex.V1)
_GRAM = regex.compile(rf"{_ALONE}\p{{M}}*+|{_JOINED}", regex.V1)
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}'’‘ʼ]*+")
_FOREIGN = regex.compile(rf"[\p{{L}}--[\p{{Latin}}\p{{Common}}]]|{_ALONE}", regex.V1)
_MUTE = regex.compile(r"[b-df-hj-np-tv-xz]++")
_SYMBOL = regex.compile(r"\p{Greek}\p{Latin}?|\p{Latin}\p{Greek}")  # of mathematics: θ, Δt, μm

Segment = list[tuple[str, bool]]  # words, and whether each is a name


def word_languages(text: str, languages: tuple[str, ...] = LANGUAGES) -> list[tuple[str, str]]:
    """The words of the prose in `text`, each with its language or OTHER; '' where it has none.

    Digits, code, LaTeX, tags and symbols are not words. Names (a capital inside a segment) have no
    language, nor do words that look like none, nor a text with fewer than FEWEST_WORDS besides
    names and what may be a unit. Raises ParameterError if the identifier does not know a language.
    """
    for _ in range(_NESTED):
        text = _ENVIRONMENT.sub(" ", text)
    segments: list[Segment] = [[]]
    for piece in _SEGMENT.split(_letters(_NO_PROSE.sub(" ", text))):
        if _tells(segments[-1]):
            segments.append([])
        segments[-1] += _words(piece)
    if len(segments) > 1 and not _tells(segments[-1]):
        last = segments.pop()
        segments[-1] += last
    return [pair for segment in segments for pair in _segment_languages(segment, languages)]


def bare(text: str) -> str:
    """The letters of a text alone, in lower case.

    In it nothing passes for code, LaTeX, a tag, a name or the end of a segment: what is rewarded is
    read so, since whatever does not count could hide words of another language.
    """
    return " ".join(_WORD.findall(_letters(text))).lower()


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

    A letter of a script without blanks counts as a word, so Chinese weighs more than its words do.
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
        "repetition": repetition(_GRAM.findall(text.lower())),
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
        switches from one to the other), then the words of each language and of all lines.
    """
    lines, words = [], []
    for line in pd.read_csv(path, keep_default_na=False).itertuples():
        parts = line.text.split(" | ")
        labels = [name if name in LANGUAGES else OTHER for name in line.language.split()]
        found = [name for _, name in word_languages(" ".join(parts))]
        truth = [label for part, label in zip(parts, labels) for _ in word_languages(part)]
        runs = [name for name, _ in groupby(filter(None, found))]
        lines.append((line.kind, line.language, runs == labels if runs else None))
        words += [("word", b, a == b if a else None) for a, b in zip(found, truth)]
    words += [("word", "all", right) for _, _, right in words]
    frame = pd.DataFrame(lines + words, columns=["kind", "language", "right"])
    frame["right"] = frame.right.astype("boolean")
    groups = frame.groupby(["kind", "language"], sort=False).right
    table = groups.agg(n="count", right="sum", ignored=lambda x: x.isna().sum()).astype(int)
    table["accuracy"] = table.right / table.n
    table["low"], table["high"] = proportion_confint(table.right, table.n, method="wilson")
    columns = ["n", "right", "accuracy", "low", "high", "ignored"]
    return table[columns].reset_index()


def _letters(text: str) -> str:
    """A text in composed letters of usual width, without what cannot be seen."""
    return _NO_LETTER.sub("", unicodedata.normalize("NFKC", _STACKED.sub("", text)))


def _words(piece: str) -> Segment:
    words = [word for token in _TOKEN.findall(piece) if (word := _word(token))]
    found = [(word, word[0].isupper() and word[1:2].islower()) for word in words]
    if words and _tells(sentence := [(words[0], False), *found[1:]]):
        return sentence  # its capital is no name's
    return found


def _tells(segment: Segment) -> bool:
    """Whether a segment is long enough to tell its language."""
    return sum(not named and not _mute(word) for word, named in segment) >= FEWEST_WORDS


def _segment_languages(segment: Segment, languages: tuple[str, ...]) -> list[tuple[str, str]]:
    if not _tells(segment):
        return [(word, "") for word, _ in segment]
    states = _states(languages)
    nothing = np.zeros(len(states))
    scores = [nothing if named else _scores(word, states) for word, named in segment]
    path = _best_path(np.array([nothing if s is None else s for s in scores]), len(languages))
    names = [*languages, *[OTHER] * (len(states) - len(languages))]
    return [
        (word, OTHER if score is None else names[state] if score.any() else "")
        for (word, _), state, score in zip(segment, path, scores)
    ]


def _best_path(scores: np.ndarray, own: int) -> list[int]:
    """The states with the highest summed score minus the costs (Viterbi); the first `own` are the
    study's languages."""
    entry = np.full(scores.shape[1], ENTRY_COST)
    entry[:own] = 0
    one = scores.sum(0) - entry
    if one.max() >= scores.max(1).sum() - SWITCH_COST:  # as no path with a switch can be better
        return [int(one.argmax())] * len(scores)
    best, came_from = scores[0] - entry, []
    for score in scores[1:]:
        top = best.argmax()
        move = best[top] - SWITCH_COST - entry
        came_from.append((best >= move, top))
        best = np.maximum(best, move) + score
    path = [int(best.argmax())]
    for stays, top in reversed(came_from):
        path.append(path[-1] if stays[path[-1]] else int(top))
    return path[::-1]


@lru_cache(1 << 16)
def _word(token: str) -> str:
    """The word that a token is; '' if it is a number, a name in code or a symbol."""
    word = token.strip("_")
    return word if _WORD.fullmatch(word) and not _SYMBOL.fullmatch(word) else ""


@lru_cache(1 << 16)
def _mute(word: str) -> bool:
    """Whether a word is as good as any in every language: without a vowel (x, kg)."""
    return bool(_MUTE.fullmatch(word.lower()))


@lru_cache(1 << 16)
def _scores(word: str, states: tuple[str, ...]) -> np.ndarray | None:
    """How much a word looks like each language; None if it is in none of Latin letters."""
    if _FOREIGN.search(word):
        return None
    if _mute(word):
        return np.ones(len(states))
    found = _identifier().detect_details(word.lower()).scores
    return np.array([found.get(name, 0.0) for name in states])


@cache
def _states(languages: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := set(languages) - set(LATIN):
        known = ", ".join(LATIN)
        raise ParameterError(
            f"language {min(unknown)!r} is not known to eldc in Latin letters; use one of {known}"
        )
    return (*languages, *(name for name in LATIN if name not in languages))


@cache
def _identifier():
    import eldc

    eldc.init()
    identifier = eldc.instance()
    identifier.set_languages(LATIN)
    identifier.set_scores(eldc.MAX_SCORES)
    return identifier
