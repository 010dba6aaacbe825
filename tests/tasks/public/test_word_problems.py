"""Word problems: small files in the form that the hub has them in."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from hybridlib.store import assets
from hybridlib.store.errors import ParameterError
from hybridlib.tasks.public import word_problems
from hybridlib.tasks.public.word_problems import problems


def gsm8k(folder: Path) -> None:
    for part, count in (("train", 60), ("test", 3)):
        rows = [
            {"question": f"{part} {i}: 1000 and {i}?", "answer": f"so <<1000+{i}>>\n#### 1,{i:03}"}
            for i in range(count)
        ]
        rows.append({"question": f"{part}: half of 1?", "answer": "a half\n#### 0.5"})
        pd.DataFrame(rows).to_parquet(folder / f"{part}-00000-of-00001.parquet")


def mgsm(folder: Path) -> None:
    for language in ("en", "es", "zh"):
        lines = "".join(f"{language} {i}?\t1,00{i}\n" for i in range(4))
        (folder / f"mgsm_{language}.tsv").write_text(lines, encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path, monkeypatch) -> None:
    for write in (gsm8k, mgsm):
        (tmp_path / write.__name__).mkdir()
        write(tmp_path / write.__name__)
    monkeypatch.setattr(assets, "folder", lambda name: tmp_path / name)


def test_gsm8k_gives_integers_and_keeps_its_own_test_part(files):
    found = problems("gsm8k")
    assert Counter(p.partition for p in found if p.question.startswith("test")) == {"test": 3}
    ours = Counter(p.partition for p in found if p.question.startswith("train"))
    assert ours.keys() == {"train", "validation"} and ours.total() == 60
    assert ours["train"] > ours["validation"]
    assert {p.question: p.answer for p in found}["train 7: 1000 and 7?"] == 1007
    assert {p.language for p in found} == {"en"}


def test_mgsm_is_read_by_language(files):
    found = problems("mgsm", ("es", "en"))
    assert Counter(p.language for p in found) == {"en": 4, "es": 4}
    assert [p.answer for p in found if p.language == "es"] == [1000, 1001, 1002, 1003]
    assert {p.partition for p in found} == {"test"}


def test_every_set_is_an_asset_and_another_name_is_one_line():
    assert word_problems.SETS.keys() <= assets.ASSETS.keys()
    with pytest.raises(ParameterError, match="no set of problems 'math', only gsm8k, mgsm"):
        problems("math")


@pytest.mark.parametrize(
    ("text", "number"),
    [("18", 18), (" 1,200 ", 1200), ("-3", -3), ("70000.00", 70000), ("0.5", None), ("", None)],
)
def test_only_integers_are_answers(text, number):
    assert word_problems._integer(text) == number
