"""The tables of a preset, and what is looked up in them."""

import gzip

import pandas as pd
import pytest

from hybridlib.figures import results as lookup
from hybridlib.store.errors import ParameterError


def test_a_table_is_read_plain_or_compressed(results, tmp_path):
    (tmp_path / "tables").mkdir()
    frame = pd.read_csv(results.folder / "tables" / "gate.csv")
    frame.to_csv(tmp_path / "tables" / "gate.csv.gz", index=False)
    found = lookup.Results(tmp_path)
    assert found.has("gate") and not found.has("runs")
    pd.testing.assert_frame_equal(found.table("gate"), results.table("gate"))
    with pytest.raises(FileNotFoundError):
        found.table("runs")


def test_without_further_hybrids_the_tables_are_those_of_before(results):
    assert not results.has("hybrids")
    assert results.preset == "organism"


def test_load_prefers_what_is_named_then_local(tmp_path, monkeypatch):
    for name in ("named", "local", "committed"):
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "tables" / "metrics.csv").touch()
    monkeypatch.setattr(lookup, "local", lambda preset: tmp_path / "local")
    monkeypatch.setattr(lookup, "committed", lambda preset: tmp_path / "committed")
    assert lookup.load("organism", str(tmp_path / "named")).folder.name == "named"
    assert lookup.load("organism").folder.name == "local"
    # A sweep writes beside the tables of a study, also where there are none yet.
    (tmp_path / "local" / "tables" / "metrics.csv").rename(tmp_path / "local" / "tables" / "sweep")
    assert lookup.load("organism").folder.name == "committed"
    with pytest.raises(ParameterError, match=r"nowhere'?: there are no tables in this folder"):
        lookup.load("organism", str(tmp_path / "nowhere"))
    (tmp_path / "committed" / "tables" / "metrics.csv").unlink()
    with pytest.raises(ParameterError, match="make study PRESET=organism"):
        lookup.load("organism")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.csv", b""),
        ("metrics.csv", b"\xff\xfe"),
        ("metrics.csv", b'a,b\n"1'),
        ("metrics.csv", None),
        ("metrics.csv.gz", b""),
        ("metrics.csv.gz", b"no gzip"),
        ("metrics.csv.gz", gzip.compress(b"a,b\n" * 99)[:-9]),
        ("metrics.csv.gz", None),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, file, content):
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / file
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(lookup.ResultsError, match=rf"{file} cannot be read \(\w+\): ") as caught:
        lookup.Results(tmp_path).table("metrics")
    assert "\n" not in str(caught.value)
