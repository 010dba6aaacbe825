"""Public word problems for real models: a question, its integer answer, its language."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hybridlib.store import assets
from hybridlib.store.errors import ParameterError
from hybridlib.tasks.prompts import partition_of
from hybridlib.tasks.responses import last_number


@dataclass(frozen=True)
class Problem:
    """One word problem with an integer answer. `partition`: see `problems`."""

    question: str
    answer: int
    language: str
    source: str
    partition: str


def _integer(text: str) -> int | None:
    """The integer that a text is, such as 1,200 or 1200.00; None if it is none.

    The sets write the answers of every language as English does.
    """
    return last_number(text) if re.fullmatch(r"\W*\d[\d\W]*", text) else None


def _gsm8k(folder: Path) -> Iterable[tuple[str, str, str, str]]:
    for path in sorted(folder.rglob("*.parquet")):
        for row in pd.read_parquet(path).to_dict("records"):
            question = row["question"].strip()
            part = "test"
            if path.name.startswith("train"):
                part = "validation" if partition_of(question) == "validation" else "train"
            yield question, row["answer"].rpartition("####")[2], "en", part


def _mgsm(folder: Path) -> Iterable[tuple[str, str, str, str]]:
    for path in sorted(folder.rglob("mgsm_*.tsv")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                question, _, answer = line.rpartition("\t")
                yield question.strip(), answer, path.stem.removeprefix("mgsm_"), "test"


SETS = {"gsm8k": _gsm8k, "mgsm": _mgsm}


def problems(name: str, languages: Iterable[str] = ("en",)) -> tuple[Problem, ...]:
    """The word problems of gsm8k or mgsm in these languages that have an integer answer.

    A fifth of gsm8k's training part is `validation`. mgsm translates problems of gsm8k's test part,
    so all of it is `test`. Raises ParameterError if there is no such set, AssetError if it cannot
    be downloaded.
    """
    if name not in SETS:
        raise ParameterError(f"there is no set of problems {name!r}, only {', '.join(SETS)}")
    chosen = set(languages)
    return tuple(
        Problem(question, number, language, name, partition)
        for question, answer, language, partition in SETS[name](assets.folder(name))
        if language in chosen and (number := _integer(answer)) is not None
    )
