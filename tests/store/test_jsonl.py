"""JSON lines: any text comes back, a kill costs half a line at most, damage has a number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlib.store import jsonl
from hybridlib.store.errors import OneLineError
from hybridlib.store.paths import PROJECT

ODD = "\n \r \r\n \x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029 \0 \ufeff \ud800 \udfff ñ 我 😀"


def _paired(text: str) -> str:
    """Two halves of a sign as that sign: JSON has one spelling for both."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


anything = st.text(st.characters(exclude_categories=())).map(_paired)
values = st.one_of(
    anything, st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.booleans(), st.none()
)
nested = st.recursive(values, lambda v: st.lists(v) | st.dictionaries(anything, v), max_leaves=5)
records = st.lists(st.dictionaries(anything, nested, max_size=4), max_size=6)
many = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lines") / "x.jsonl"


@given(records, records)
@many
def test_what_is_written_or_added_comes_back(path: Path, first: list, second: list):
    jsonl.write(path, first)
    assert list(jsonl.read(path)) == first
    jsonl.append(path, second)
    assert list(jsonl.read(path)) == first + second
    # As any other reader splits it.
    assert list(map(json.loads, path.read_text(encoding="ascii").splitlines())) == first + second


@given(records, records, st.data())
@many
def test_a_file_that_is_cut_anywhere_holds_its_whole_records(path, first, second, data):
    jsonl.write(path, first)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    kept = first[: sum(end <= cut for end in ends)]  # the newline itself may be lacking
    assert list(jsonl.read(path)) == kept
    jsonl.append(path, second)
    assert list(jsonl.read(path)) == kept + second


def test_lines_of_others_are_read(path: Path):
    rows = [{"a": ODD}, {"a": "second"}]
    text = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in rows]
    for start, end, last in (
        (b"", b"\n", b"\n"),
        (b"\xef\xbb\xbf", b"\r\n", b""),
        (b"\n", b"\n \n", b"\n\n"),
    ):
        path.write_bytes(start + end.join(text) + last)
        assert list(jsonl.read(path)) == rows


@pytest.mark.parametrize(
    "line", ['{"a": 1', "nonsense", "12", "null", "[]", '{"a": 1} {"b": 2}', "\0\0", "[" * 9999]
)
def test_a_damaged_line_has_its_number(path: Path, line: str):
    path.write_text(f'{{"a": 1}}\n\n{line}\n{{"a": 2}}\n', encoding="utf-8")
    found = jsonl.read(path)
    assert next(found) == {"a": 1}, "the file is iterated"
    with pytest.raises(jsonl.DamagedRecord, match=r"^line 3 of .*x\.jsonl ") as caught:
        next(found)
    assert isinstance(caught.value, OneLineError) and "\n" not in str(caught.value)


def test_what_cannot_be_written_leaves_the_file_as_it_was(path: Path):
    jsonl.write(path, [{"a": 1}])
    for change in (jsonl.write, jsonl.append):
        with pytest.raises(TypeError):
            change(path, [{"a": 2}, {"a": object()}])
        assert list(jsonl.read(path)) == [{"a": 1}]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_no_locale_changes_it(path: Path):
    code = """if True:
        import sys
        from pathlib import Path
        from hybridlib.store import jsonl
        path, other = map(Path, sys.argv[1:])
        jsonl.write(other, jsonl.read(path))
        jsonl.append(other, jsonl.read(path))
    """
    rows, other = [{"ñ": ODD}], path.with_name("other.jsonl")
    path.write_bytes(json.dumps(rows[0], ensure_ascii=False).encode("utf-8", "surrogatepass"))
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | plain | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code, path, other]
    subprocess.run(command, env=environment, check=True, cwd=PROJECT)
    assert list(jsonl.read(other)) == rows * 2
