"""Manifests of committed results."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridlib.evaluation import hypotheses
from hybridlib.figures.results import ResultsError
from hybridlib.study import collect, keys

WHOLE = {
    "code": {"stages": dict(keys.VERSIONS), "commit": "c0ffee"},
    "hypotheses_sha256": hypotheses.digest(),
    "runs": {"00ff": {"variant": "base"}},
    "tables": {"metrics": {"sha256": "00", "runs": ["00ff"]}},
}


def results(folder: Path, made: object) -> Path:
    (folder / "manifest.json").write_text(json.dumps(made))
    return folder


def test_a_whole_manifest_is_read(tmp_path: Path):
    assert collect.manifest(results(tmp_path, WHOLE)) == WHOLE
    assert collect.is_present(tmp_path)
    other = WHOLE | {"hypotheses_sha256": "0" * 64}
    assert not collect.is_present(results(tmp_path, other))
    stages = {"code": {"stages": dict.fromkeys(keys.VERSIONS, 0)}}
    assert not collect.is_present(results(tmp_path, WHOLE | stages))


ODD = [
    b"",
    b"[]",
    b"7",
    b"null",
    b"\xff",
    b"{" * 20_000,
    json.dumps(WHOLE)[:-9].encode(),
    *(
        json.dumps(WHOLE | change).encode()
        for change in (
            {"code": []},
            {"code": {"stages": ["base"]}},
            {"code": {"stages": {"base": [1]}}},
            {"code": {}},
            {"hypotheses_sha256": 7},
            {"runs": ["00ff"]},
            {"runs": {"00ff": "base"}},
            {"runs": {"00ff": {}}},
            {"tables": {"metrics": {}}},
            {"tables": None},
        )
    ),
]


@pytest.mark.parametrize("content", [*ODD, None, Path.mkdir, Path("manifest.json").symlink_to])
def test_an_odd_manifest_is_one_line_and_of_no_present_results(tmp_path: Path, content):
    if isinstance(content, bytes):
        (tmp_path / "manifest.json").write_bytes(content)
    elif content is Path.mkdir:
        (tmp_path / "manifest.json").mkdir()
    elif content:
        (tmp_path / "manifest.json").symlink_to(tmp_path / "manifest.json")
    assert not collect.is_present(tmp_path)
    with pytest.raises(ResultsError, match=r"manifest\.json cannot be read") as caught:
        collect.manifest(tmp_path)
    assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from(sorted(WHOLE)), VALUES, min_size=1))
def test_no_value_raises_another_error(tmp_path: Path, change):
    results(tmp_path, WHOLE | change)
    assert collect.is_present(tmp_path) in (True, False)
    try:
        assert collect.manifest(tmp_path)
    except ResultsError:
        assert not collect.is_present(tmp_path)
