"""Committed results belong to the committed code, configuration and hypotheses."""

import gzip
import hashlib
import json
import re

import pandas as pd
import pytest

from hybridlib.config import RunConfig, load_config
from hybridlib.store.paths import PROJECT
from hybridlib.study import collect, keys, stages

EARLIER = {"smollm2"}  # run before version 2 of the hypotheses, to be run again
COMMITTED = sorted((PROJECT / "results").glob("*/manifest.json"))


@pytest.fixture(params=COMMITTED, ids=lambda path: path.parent.name)
def committed(request):
    return request.param.parent, json.loads(request.param.read_text(encoding="utf-8"))


def test_what_is_of_an_earlier_study_is_not_taken_for_the_present_one_and_says_so():
    page = (PROJECT / "docs" / "real_models.md").read_text(encoding="utf-8")
    for name in EARLIER:
        assert not collect.is_present(PROJECT / "results" / name)
        assert f"results/{name}` is of the earlier tasks" in page


def test_configuration_stages_and_hypotheses_are_the_present_ones(committed):
    folder, manifest = committed
    if folder.name in EARLIER:
        return
    before, now = manifest["configuration"], load_config(folder.name).flat()
    # A parameter that came later has the default at which everything is as it was before.
    later = {name: RunConfig().flat()[name] for name in now.keys() - before.keys()}
    assert before | later == now
    # A stage that came later has made none of these tables.
    assert collect.is_present(folder)


def test_runs_are_those_that_the_present_code_would_make(committed):
    folder, manifest = committed
    assert set(pd.read_csv(folder / "tables" / "runs.csv").run) == set(manifest["runs"])
    if folder.name not in EARLIER:
        config = load_config(folder.name)
        keys = {stages.stage_key(config, "evaluate", *unit) for unit in stages.units(config)}
        assert set(manifest["runs"]) == keys


def test_tables_are_the_ones_of_the_manifest(committed):
    folder, manifest = committed
    found = {path.name.partition(".")[0]: path for path in (folder / "tables").iterdir()}
    assert set(found) == set(manifest["tables"]) and len(found) == len([*found])
    for name, path in found.items():
        text = path.read_bytes()
        text = gzip.decompress(text) if path.suffix == ".gz" else text
        assert hashlib.sha256(text).hexdigest() == manifest["tables"][name]["sha256"], name


def test_figures_rest_on_tables_of_the_manifest(committed):
    folder, manifest = committed
    assert {path.stem for path in (folder / "figures").glob("*.png")} == set(manifest["figures"])
    for figure, entry in manifest["figures"].items():
        assert entry["tables"] and set(entry["tables"]) <= set(manifest["tables"]), figure


def test_no_path_of_a_machine_is_published(committed):
    folder, _ = committed
    for path in folder.rglob("*"):
        if path.suffix in (".ipynb", ".json", ".csv"):
            assert str(PROJECT) not in path.read_text(encoding="utf-8"), path.name
        elif path.suffix == ".gz":
            assert str(PROJECT).encode() not in gzip.decompress(path.read_bytes()), path.name


def test_an_adapter_names_the_committed_base_of_the_first_replicate(committed):
    folder, manifest = committed
    found = list(folder.glob("artifacts/adapters/*/adapter_config.json"))
    bases = {path.name for path in folder.glob("artifacts/bases/*")}
    assert bool(found) == bool(bases) == manifest["configuration"]["commit_weights"]
    if found:
        config = load_config(folder.name)
        specs = [keys.base(config, seed) for seed in config.seeds]
        assert all(spec.weights for spec in specs), "restored, not pretrained"
        places = [keys.committed_base(spec) for spec in specs]
        assert bases == {place.name for place in places}
    for path in found:
        named = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        assert PROJECT / named == places[0] / "model", path.parent.name
        card = path.with_name("README.md").read_text(encoding="utf-8")
        assert f"base_model: {named}\n" in card and "More Information Needed" not in card
        assert re.search(r"\$\$.+\$\$", card), "the loss is stated"
