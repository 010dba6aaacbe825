"""What a study writes: its tables, and the manifests of committed results."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invented import stages_in, write_tables
from tiny import tiny

from hybridlib import config as configuration
from hybridlib.evaluation import hypotheses
from hybridlib.figures.results import ResultsError
from hybridlib.store import paths
from hybridlib.store.paths import local
from hybridlib.study import collect, keys, stages

RATES = dict.fromkeys(("sft", "rl/keyword", "gated/keyword"), 1e-3)


def study(**values):
    usual = {"variants": "base, sft", "rewards": "keyword", "learning_rates": RATES}
    return tiny(**usual | values)


def test_which_tables_there_are_follows_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)

    def written(**values) -> set[str]:
        write_tables(study(**values), tmp_path / "tables", tmp_path / "store")
        return {path.stem for path in (tmp_path / "tables").glob("*")}

    usual = written()
    assert "prefill" in usual and not usual & {"hybrids", "at_budget", "usage", "reward_models"}
    compared = written(variants="base, sft, gated", flops_budget=1e9)
    assert compared - usual == {"hybrids", "at_budget"}
    assert usual - written(thought=False) == {"prefill"}, "no response has a thought to begin"
    assert written() == usual, "what another study left is gone"


def test_the_files_of_replicates_lie_beside_the_tables_and_no_other_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    monkeypatch.setattr(stages, "folder_of", stages_in(tmp_path / "store"))
    for seeds in ([0, 2], [2, 1]):
        config = study(seeds=seeds)
        collect.write_tables(config, local(config.preset) / "tables")
        there = {path.name for path in (local(config.preset) / "replicates").iterdir()}
        assert there == {f"{seed}.zip" for seed in seeds}
        recipes = pd.read_csv(local(config.preset) / "tables" / "recipes.csv")
        assert list(recipes.seed) == sorted(seeds) and recipes.competent.all()


def test_warnings_of_logs_are_said(tmp_path, monkeypatch, capsys):
    folder_of = stages_in(tmp_path / "store")
    config = study(seeds=[4])
    log = [{"name": "entropy", "step": 2, "says": "it says the same to everything"}]
    trained = folder_of(keys.train(config, "sft", "none", 4))
    (trained / "warnings.json").write_text(json.dumps(log))
    write_tables(config, tmp_path / "tables", tmp_path / "store")
    said = capsys.readouterr().out
    assert said == "sft seed 4: warning entropy: it says the same to everything\n"


def test_the_grid_is_that_of_what_the_study_trains(tmp_path, monkeypatch):
    arms = [("base", "none"), ("sft", "none"), ("rl", "keyword"), ("rl", "model"),
            ("gated", "keyword"), ("reward_model", "none")]  # fmt: skip
    frame = pd.DataFrame(arms, columns=["variant", "reward"]).assign(learning_rate=1e-3)
    frame.to_csv(tmp_path / "rates.csv", index=False)

    def kept(config) -> set[str]:
        found = collect._grid(config, tmp_path / "rates.csv")
        return set(found.variant + "/" + found.reward)

    assert kept(study()) == {"base/none", "sft/none"}
    assert kept(study(variants="rl")) == {"base/none", "rl/keyword"}
    both = study(variants="rl, gated", rewards="keyword, model")
    assert kept(both) == {"base/none", "rl/keyword", "rl/model", "gated/keyword",
                          "reward_model/none"}  # fmt: skip
    real = configuration.load_config("smollm2")
    assert not kept(real), "the grid was run on the organism"


# --- manifests ----------------------------------------------------------------------------------

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
