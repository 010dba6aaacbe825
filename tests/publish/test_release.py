"""Committed results: comparing a rerun with them, and replacing them."""

import gzip
import hashlib
import json
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import synthetic
from failing import at_change, full, interrupted
from safetensors.numpy import load_file, save_file
from standin import Config, Project
from tiny import tiny

from hybridlib import config as configuration
from hybridlib.evaluation import hypotheses
from hybridlib.figures.results import ResultsError
from hybridlib.publish import docs, release
from hybridlib.publish.release import PublishError
from hybridlib.store.errors import OneLineError
from hybridlib.store.lock import BusyError, only_here
from hybridlib.store.paths import committed, local
from hybridlib.store.run_store import sha256
from hybridlib.study import collect, grid, keys
from hybridlib.study import notebook as nb
from hybridlib.study.jobs import StudyError
from hybridlib.study.keys import VERSIONS
from hybridlib.training import loading, pretrain

LOAD = configuration.load_config  # before a stand-in takes its place
PROGRESS = "[1/2] train sft seed 0   41 s   about 9 min left\n        base   12 s so far   loss 1\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path, Config(arms=(("base", "none"), ("sft", "none"))))
    project.install(monkeypatch)
    return project


@pytest.fixture
def finished(project: Project) -> Project:
    """A project whose study has run: executed notebooks, tables, figures, one artifact."""
    here = local("organism")
    for job in grid.plan(project.config):
        if job.notebook:
            execute(job.output, project.root)
            nb.write_stamp(job.output, job.stamp())
    execute(here / "notebooks" / "00_study.ipynb", project.root)
    for variant in ("base", "sft"):
        for seed in project.config.seeds:
            stages = ("train", "evaluate", "prefill")
            project.done |= {(stage, variant, "none", seed) for stage in stages}
    project.done |= {("base", "base", "none", seed) for seed in project.config.seeds}
    for folder in ("tables", "figures"):
        (here / folder).mkdir()
    synthetic.cost(2).to_csv(here / "tables" / "cost.csv", index=False)
    synthetic.runs(2).to_csv(here / "tables" / "runs.csv", index=False)
    synthetic.training(2).to_csv(here / "tables" / "training.csv", index=False)
    (here / "replicates").mkdir()
    (here / "replicates" / "0.zip").write_bytes(b"zip")
    (here / "figures" / "cost.svg").write_text("<svg/>")  # drawn for papers, not published
    (here / "figures" / "cost.png").write_bytes(b"png")
    base, adapter = (project.root / "store" / name for name in ("base", "adapter"))
    for folder in (base, adapter):
        folder.mkdir(parents=True)
        save_file({"weight": np.ones(3, "float32")}, folder / "model.safetensors")
    named = {"base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(named))
    project.artifacts = {"bases/00ff/model": base, "adapters/sft": adapter}
    return project


def execute(path: Path, root: Path) -> None:
    """Write what papermill would have: an injected cell, timings, absolute paths."""
    v4 = nbformat.v4
    injected = v4.new_code_cell(
        f'# Parameters\npreset = "{root}/results/local/organism/config.yaml"',
        metadata={"tags": ["injected-parameters"], "papermill": {"duration": 0.123}},
    )
    text = PROGRESS + f"/tmp/ipykernel_71/12.py:1: a warning\nread {root}/notebooks/x\n"
    shown = v4.new_code_cell(
        "1", id="shown", metadata={"execution": {"iopub.execute_input": "2026-01-01"}}
    )
    half = len(text) // 2  # papermill keeps the parts that a stream came in
    parts = (text[:half], text[half:])
    shown.outputs = [v4.new_output("stream", name="stdout", text=part) for part in parts]
    node = v4.new_notebook(cells=[injected, shown])
    node.metadata.update(
        {
            "papermill": {
                "end_time": "2026-01-01T00:00",
                "output_path": str(path),
                "parameters": {"preset": "organism"},
            },
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, path)


def published(project: Project) -> Path:
    return release.publish("organism", report=lambda line: None)


def test_publish_commits_everything_that_a_reader_needs(finished: Project):
    target = published(finished)
    assert target == finished.root / "results" / "organism"
    files = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    notebooks = {
        "01_base-seed0",
        "02_train-sft-seed0",
        "03_evaluate-base",
        "00_study",
        *grid.FIGURES,
    }
    assert files == {
        *(f"notebooks/{name}.ipynb" for name in notebooks),
        "tables/cost.csv",
        "tables/runs.csv",
        "tables/training.csv.gz",
        "figures/cost.png",
        "replicates/0.zip",
        "artifacts/bases/00ff/model/model.safetensors",
        "artifacts/adapters/sft/model.safetensors",
        "artifacts/adapters/sft/adapter_config.json",
        "manifest.json",
    }
    for path in target.glob("artifacts/**/*.safetensors"):
        assert {str(value.dtype) for value in load_file(path).values()} == {"float16"}
    adapter = json.loads((target / "artifacts/adapters/sft/adapter_config.json").read_text())
    named = adapter["base_model_name_or_path"]
    assert named == "results/organism/artifacts/bases/00ff/model"
    assert (finished.root / named).is_dir()


def test_a_base_that_is_committed_stays_whatever_is_published_later(finished: Project):
    """Runs are keyed by its weights; one of another recipe comes beside it or in its place."""
    place = published(finished) / "artifacts" / "bases"
    before = digests(place)
    base, other = finished.artifacts["bases/00ff/model"], finished.root / "store" / "other"
    save_file({"weight": np.zeros(3, "float32")}, base / "model.safetensors")
    shutil.copytree(base, other)
    finished.artifacts["bases/11ee/model"] = other
    published(finished)
    after = digests(place)
    assert before.items() < after.items()
    del finished.artifacts["bases/00ff/model"]
    published(finished)
    assert digests(place).keys() == after.keys() - before.keys()


def test_a_restored_base_is_the_pretrained_one_and_published_again_has_the_same_bytes(tmp_path):
    spec, first, again = keys.base(tiny(), 0), tmp_path / "first", tmp_path / "again"
    first.mkdir()
    pretrain.pretrain(spec, first)
    places, nowhere = [], tmp_path / "nowhere"
    for folder in (first, again):
        if folder is again:
            loading.restore(places[0] / "bases" / spec.key, again)
        files = {f"bases/{spec.key}/{name}": folder / name for name in ("model", "loss.csv")}
        places.append(tmp_path / f"published {folder.name}")
        release._copy(files, places[-1], nowhere)
    assert digests(first / "model") == digests(again / "model")
    assert digests(places[0]) == digests(places[1]) != {}
    halves = load_file(places[0] / "bases" / spec.key / "model" / "model.safetensors")
    for name, value in load_file(first / "model" / "model.safetensors").items():
        assert value.dtype == "float32" and (value == halves[name]).all()


def test_notebooks_of_single_runs_come_with_the_weights_alone(finished: Project):
    finished.artifacts = {}
    shown = {path.stem for path in (published(finished) / "notebooks").iterdir()}
    assert shown == {"00_study", "01_base-seed0", *grid.FIGURES}


def test_a_wide_table_is_kept_as_gzip_of_the_very_csv(finished: Project):
    path = published(finished) / "tables" / "training.csv.gz"
    text = (local("organism") / "tables" / "training.csv").read_bytes()
    assert gzip.decompress(path.read_bytes()) == text
    # no flags, so no file name, and no time of writing: the same table gives the same bytes
    assert path.read_bytes()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
    manifest = json.loads((path.parents[1] / "manifest.json").read_text())
    assert manifest["tables"]["training"]["sha256"] == hashlib.sha256(text).hexdigest()


def test_published_notebooks_hold_no_path_and_no_timing(finished: Project):
    for path in (published(finished) / "notebooks").iterdir():
        text = path.read_text()
        for trace in (str(finished.root), "41 s", "so far", "9 min", "2026-01-01", "ipykernel_"):
            assert trace not in text, (path.name, trace)
        assert "train sft seed 0" in text
        assert "results/local/organism/config.yaml" in text
        assert "papermill" not in text


def test_publishing_twice_changes_no_byte(finished: Project):
    first = digests(published(finished))
    for path in local("organism").glob("notebooks/*.ipynb"):
        stamp = nb.metadata_of(path).get("stamp", "")
        execute(path, finished.root)  # papermill's cell ids are random
        nb.write_stamp(path, stamp)
    second = digests(published(finished))
    assert {path for path in first if first[path] != second[path]} == set()


def test_manifest_leads_from_a_figure_to_runs_and_code(finished: Project):
    target = published(finished)
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["figures"] == {"cost": {"tables": ["cost"]}}
    assert manifest["tables"]["cost"]["sha256"] == sha256(target / "tables" / "cost.csv")
    keys = manifest["tables"]["cost"]["runs"]
    cost = pd.read_csv(target / "tables" / "cost.csv", keep_default_na=False)
    named = {tuple(manifest["runs"][key][c] for c in ("variant", "reward", "seed")) for key in keys}
    assert named == set(cost[["variant", "reward", "seed"]].itertuples(index=False, name=None))
    assert set(manifest["tables"]["runs"]["runs"]) == set(manifest["runs"])
    assert manifest["configuration"] == finished.config.flat()
    assert manifest["code"] == {"commit": "none", "stages": VERSIONS}
    (asset,) = manifest["assets"]
    assert (asset["name"], asset["licence"]) == ("smollm2", "Apache-2.0") and asset["sha256"]
    assert manifest["environment"]["python"] == sys.version.split()[0]
    assert manifest["hypotheses_sha256"] == sha256(hypotheses.FILE)


def test_nothing_is_published_or_drawn_while_another_command_writes(finished: Project):
    before = digests(published(finished))
    with only_here(local("organism")):
        for command in (release.publish, release.redraw):
            with pytest.raises(BusyError):
                command("organism", report=str)
    assert digests(committed("organism")) == before


@pytest.mark.parametrize("fault", ["no results", "outdated", "no driver", "failed", "too large"])
def test_unfit_results_are_refused_and_the_committed_ones_kept(
    finished: Project, monkeypatch, fault: str
):
    published(finished)
    before = sorted((p, sha256(p)) for p in committed("organism").rglob("*") if p.is_file())
    here = local("organism")
    driver = here / "notebooks" / "00_study.ipynb"
    if fault == "no results":
        shutil.rmtree(here)
    elif fault == "outdated":
        finished.version = 2
    elif fault == "no driver":
        driver.unlink()
    elif fault == "failed":
        node = nbformat.read(driver, 4)
        error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
        node.cells[1].outputs.append(error)
        nbformat.write(node, driver)
    else:
        (finished.artifacts["adapters/sft"] / "big").write_bytes(b"0" * (release.LIMIT + 1))
    with pytest.raises(PublishError) as error:
        published(finished)
    assert "\n" not in str(error.value)
    after = sorted((p, sha256(p)) for p in committed("organism").rglob("*") if p.is_file())
    assert before == after
    assert [p.name for p in (finished.root / "results").glob(".*")] == []


# ---- all or nothing


def changed(project: Project) -> None:
    """Let the next publishing write other bytes."""
    (local("organism") / "figures" / "cost.png").write_bytes(b"another png")


@pytest.mark.parametrize("act", [full, interrupted])
def test_results_and_pages_are_those_before_or_the_new_ones_whatever_fails(
    finished: Project, monkeypatch, act
):
    """Each call that renames or removes anything fails once."""
    old = digests(published(finished))
    page = finished.root / "docs" / "page.md"
    page.parent.mkdir()
    shown = committed("organism") / "figures" / "cost.png"
    monkeypatch.setattr(docs, "WRITERS", {"shown": shown.read_text})
    kept = shutil.copytree(finished.root / "results", finished.root / "kept")
    outcomes: list[str] = []
    while outcomes[-1:] != ["done"]:
        shutil.rmtree(finished.root / "results")
        shutil.copytree(kept, finished.root / "results")
        changed(finished)
        page.write_text("<!-- shown -->\nold\n<!-- / -->\n")
        try:
            with at_change(len(outcomes), act, of=("os.rename", "shutil.rmtree")) as seen:
                published(finished)
        except (PublishError, KeyboardInterrupt) as error:
            assert "\n" not in str(error)
        now = digests(committed("organism"))
        assert now.keys() == old.keys()
        assert ("another png" in page.read_text()) == (now != old), seen
        assert (now["figures/cost.png"] == old["figures/cost.png"]) == (now == old), seen
        outcomes.append([*seen, *["done"] * 99][len(outcomes)])
        published(finished)  # what was left over does not matter
        assert [p.name for p in (finished.root / "results").glob(".*")] == []
    assert set(outcomes) == {"os.rename", "shutil.rmtree", "done"}


def test_what_a_killed_process_left_is_put_right_by_the_next_command(
    finished: Project, monkeypatch
):
    target = published(finished)
    old = digests(target)
    target.rename(target.with_name(".organism.before"))  # killed between two renames
    target.with_name(".organism.draft").mkdir()
    with pytest.raises(PublishError, match=r"there is no .*metrics"):
        release.compare("organism")
    assert digests(target) == old
    target.rename(target.with_name(".organism.before"))
    with monkeypatch.context() as patch:
        patch.setattr(release, "_drawn", lambda draft, *_: draft / 1)  # it fails at once
        with pytest.raises(TypeError):
            release.redraw("organism")
    assert digests(target) == old
    target.with_name(".organism.before").mkdir()
    shutil.copytree(target, target.with_name(".organism.before"), dirs_exist_ok=True)
    (target / "manifest.json").write_text("{}")  # killed before the pages in docs/ were written
    finished.version = 2
    with pytest.raises(PublishError, match="is not up to date"):
        published(finished)
    assert digests(target) == old
    assert [p.name for p in (finished.root / "results").glob(".*")] == []


def test_a_page_that_cannot_be_written_leaves_results_and_pages(finished: Project, monkeypatch):
    old = digests(published(finished))
    (finished.root / "docs").mkdir()
    page = finished.root / "docs" / "page.md"
    page.write_text("<!-- lost -->\n<!-- / -->\n")
    monkeypatch.setattr(docs, "WRITERS", {"lost": lambda: Path("/lost").read_text()})
    changed(finished)
    with pytest.raises(PublishError, match=r"results/organism is as it was: .*No such file"):
        published(finished)
    assert digests(committed("organism")) == old
    assert page.read_text() == "<!-- lost -->\n<!-- / -->\n"


# ---- what is refused


def refused(project: Project, match: str) -> None:
    """Publishing ends in one line, and nothing is written."""
    before = digests(project.root / "results")
    with pytest.raises(PublishError, match=match) as error:
        published(project)
    assert "\n" not in str(error.value)
    assert digests(project.root / "results") == before


def asked_for(parameters: dict[str, object]) -> None:
    """Let the driver of the local study tell that it was run with these parameters."""
    driver = local("organism") / "notebooks" / "00_study.ipynb"
    node = nbformat.read(driver, 4)
    node.metadata.papermill["parameters"] = {"preset": "organism"} | parameters
    nbformat.write(node, driver)


@pytest.mark.parametrize(
    "parameters",
    [
        {"seeds": 1},
        {"variants": "base, sft"},
        {"rewards": ["keyword"]},
        {"kl": 0.05},
        {"workers": 1},
    ],
)
def test_a_run_of_other_parameters_than_the_preset_s_is_refused(
    finished: Project, monkeypatch, parameters: dict
):
    """The parameters are those of the real presets; the run is invented."""
    monkeypatch.setattr(configuration, "load_config", LOAD)
    asked_for(parameters)
    (name,) = parameters
    refused(finished, f"^{name} = .* in the preset: run `make study PRESET=organism`")


def test_a_run_of_a_file_of_parameters_is_refused(finished: Project, monkeypatch):
    monkeypatch.setattr(configuration, "load_config", LOAD)
    mine = finished.root / "mine.yaml"
    mine.write_text("steps: 3\n")
    asked_for({"preset": str(mine)})
    refused(finished, "^preset = 'mine', and 'organism' in the preset")


@pytest.mark.parametrize("name", ["mine", "../organism", "/tmp/x", "local", "", ".", "a\nb"])
def test_only_a_committed_preset_is_published(finished: Project, name: str):
    before = digests(finished.root / "results")
    with pytest.raises(OneLineError) as error:
        release.publish(name, report=str)
    assert "\n" not in str(error.value)
    assert digests(finished.root / "results") == before


@pytest.fixture
def stored(finished: Project, monkeypatch) -> Path:
    """What the runs in the store give: the tables of the finished study, in a folder."""
    tables = shutil.copytree(local("organism") / "tables", finished.root / "given")
    monkeypatch.setattr(collect, "write_tables", lambda c, place: shutil.copytree(tables, place))
    return tables


@pytest.mark.parametrize("name", ["runs", "training", "cost"])
def test_tables_that_the_runs_do_not_give_are_refused(finished: Project, stored: Path, name: str):
    published(finished)
    table = local("organism") / "tables" / f"{name}.csv"
    whole = table.read_bytes()
    table.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # of fewer runs
    refused(finished, f"^tables/{name}.csv is not what the runs of the study give: run `make study")
    table.unlink()
    refused(finished, f"^tables/{name}.csv is missing: run `make study")
    table.write_bytes(whole)
    (table.parent / "older.csv").write_bytes(whole)
    refused(finished, "^tables/older.csv is not what the runs of the study give")


def test_a_figure_whose_table_is_missing_is_refused(finished: Project):
    (local("organism") / "tables" / "cost.csv").unlink()
    refused(finished, "^figures/cost.png shows tables/cost.csv, which is missing$")


ODD = ["", "[]", "{}", '{"cells": 1}', '{"cells": [1], "metadata": {}}', "null", "\x00", '"a"']


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("name", ["00_study", "05_readability"])
def test_an_executed_notebook_of_an_odd_shape_is_refused(finished: Project, name: str, text: str):
    (local("organism") / "notebooks" / f"{name}.ipynb").write_text(text)
    refused(finished, f"^{name}.ipynb (is missing or failed|was not executed by `make study`)")


ODD_MANIFESTS = ["", "[]", "{}", "null", '{"tables": [], "runs": {}}', '{"tables": {"a": 1}}',
                 '{"tables": {}, "runs": {"a": []}}', "a folder"]  # fmt: skip


@pytest.mark.parametrize("text", ODD_MANIFESTS)
def test_a_manifest_of_an_odd_shape_is_one_line_and_a_whole_study_mends_it(
    finished: Project, text: str
):
    target = published(finished)
    (target / "manifest.json").unlink()
    if text == "a folder":
        (target / "manifest.json").mkdir()
    else:
        (target / "manifest.json").write_text(text)
    before = digests(target)
    with pytest.raises(ResultsError, match=r"manifest\.json cannot be read") as error:
        release.redraw("organism", report=str)
    assert "\n" not in str(error.value)
    assert digests(target) == before
    assert json.loads((published(finished) / "manifest.json").read_text())["preset"] == "organism"


@pytest.mark.parametrize("fault", ["altered", "missing", "extra", "no gzip"])
def test_figures_are_not_drawn_of_tables_that_are_not_those_of_the_manifest(
    finished: Project, fault: str
):
    target = published(finished)
    table, wide = target / "tables" / "cost.csv", target / "tables" / "training.csv.gz"
    if fault == "altered":
        table.write_text(table.read_text().replace("1", "2"))
    elif fault == "missing":
        table.unlink()
    elif fault == "extra":
        shutil.copy(table, table.with_name("more.csv"))
    else:
        wide.write_bytes(wide.read_bytes()[:100])
    before = digests(target)
    with pytest.raises(OneLineError, match=r"cannot be read|is not that of the manifest") as error:
        release.redraw("organism", report=str)
    assert "\n" not in str(error.value)
    assert digests(target) == before


DRAWS = """
from pathlib import Path
Path(results, "figures").mkdir(exist_ok=True)
Path(results, "figures", "cost.png").write_text("drawn again")
print("drawn from", results)
"""


@pytest.fixture
def drawing(finished: Project) -> Project:
    """A project with committed results, and a notebook of figures that draws one of them anew."""
    (local("organism") / "figures" / "language_training.png").write_bytes(b"png")
    (published(finished) / "notebooks" / "of_an_older_version.html").touch()
    finished.source("05_readability", DRAWS)
    return finished


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder, those aside that hold it while a command writes there."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", ".holder"))
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def test_figures_and_their_notebooks_are_drawn_again_from_committed_tables(drawing: Project):
    target = committed("organism")
    before = digests(target)
    release.redraw("organism", report=str)
    after = digests(target)
    gone = {"figures/language_training.png", "notebooks/of_an_older_version.html"}
    assert set(before) - set(after) == gone  # nothing draws it any more
    shown = {f"notebooks/{name}.ipynb" for name in grid.FIGURES}
    changed = {path for path in after if before.get(path) != after[path]}
    assert "figures/cost.png" in changed
    assert changed <= {"figures/cost.png", "manifest.json", *shown}
    seen = (target / "notebooks" / "05_readability.ipynb").read_text()
    assert "drawn from results/organism" in seen and ".draft" not in seen
    assert json.loads((target / "manifest.json").read_text())["figures"] == {
        "cost": {"tables": ["cost"]}
    }


def test_a_figure_that_cannot_be_drawn_leaves_the_committed_ones(drawing: Project):
    before = digests(committed("organism"))
    drawing.source("07_verdicts", "raise ValueError('no')")
    with pytest.raises(StudyError):
        release.redraw("organism", report=str)
    assert digests(committed("organism")) == before
    assert [p.name for p in (drawing.root / "results").glob(".*")] == []


@pytest.fixture
def swept(drawing: Project) -> Project:
    """The same with a table of a later command and nothing else local."""
    here = local("organism")
    for name in ("cost", "runs", "training"):
        (here / "tables" / f"{name}.csv").unlink()
    synthetic.cost(1).to_csv(here / "tables" / "sweep.csv", index=False)
    return drawing


def test_a_table_of_a_later_command_is_added_and_all_is_drawn_again(swept: Project):
    target = committed("organism")
    before = digests(target)
    published(swept)
    after = digests(target)
    assert set(after) - set(before) == {"tables/sweep.csv"}
    kept = {path for path in before if path.startswith(("tables/", "artifacts/"))}
    assert kept and all(before[path] == after[path] for path in kept)
    assert before["figures/cost.png"] != after["figures/cost.png"]
    manifest = json.loads((target / "manifest.json").read_text())
    entry = manifest["tables"]["sweep"]
    assert entry["sha256"] == after["tables/sweep.csv"]
    assert entry["commit"] == "none" and entry["runs"]
    assert "commit" not in manifest["tables"]["cost"]


def test_a_table_of_runs_that_the_results_do_not_hold_is_not_added(swept: Project):
    path = local("organism") / "tables" / "sweep.csv"
    path.write_text(path.read_text().replace("base,", "bass,").replace("sft,", "soft,"))
    refused(swept, "^tables/sweep.csv names ")


def test_a_table_is_not_added_to_results_of_other_stages(swept: Project, monkeypatch):
    monkeypatch.setitem(VERSIONS, "train", VERSIONS["train"] + 1)
    with pytest.raises(PublishError, match="is of other stages or hypotheses: run `make study"):
        published(swept)
    assert not (committed("organism") / "tables" / "sweep.csv").exists()


# ---- compare

ROWS = 100


def write_results(folder: Path, shift: dict[int, float], verdict: str = "supported") -> None:
    """Write 100 rows estimated at 0.5 within 0.1, those in `shift` moved, and one verdict."""
    (folder / "tables").mkdir(parents=True)
    estimate = pd.Series([0.5 + shift.get(n, 0.0) for n in range(ROWS)])
    arms = {"variant": ["rl"] * ROWS, "reward": "none", "metric": [f"m{n}" for n in range(ROWS)]}
    values = {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "replicates": 5}
    pd.DataFrame(arms | values).to_csv(folder / "tables" / "metrics.csv", index=False)
    claim = {"claim": ["C1"], "reward": "keyword", "estimate": 0.2, "verdict": verdict}
    pd.DataFrame(claim).to_csv(folder / "tables" / "verdicts.csv", index=False)


def compared(shift: dict[int, float], verdict: str = "supported") -> tuple[int, str]:
    lines: list[str] = []
    write_results(committed("organism"), {})
    write_results(local("organism"), shift, verdict)
    return release.compare("organism", report=lines.append), "\n".join(lines)


@pytest.mark.parametrize(
    ("shift", "status"),
    [
        ({}, 0),
        (dict.fromkeys(range(ROWS), 0.19), 0),  # every interval overlaps
        (dict.fromkeys(range(5), 0.21), 0),
        (dict.fromkeys(range(6), -0.21), 1),
        ({3: float("nan")}, 0),
    ],
)
def test_compare_counts_intervals_that_do_not_overlap(project: Project, shift, status: int):
    assert compared(shift)[0] == status


def test_compare_shows_the_worst_rows_first(project: Project):
    _, text = compared({7: 0.3, 8: 0.4})
    worst = [line for line in text.splitlines() if line.startswith("  rl")]
    assert [line.split(":")[0] for line in worst] == ["  rl none m8", "  rl none m7"]
    assert "0.5 [0.4, 0.6] committed, 0.9 [0.8, 1] now" in worst[0]


def test_compare_ends_with_what_follows(project: Project):
    status, text = compared({})
    assert status == 0
    assert text.splitlines()[-1].startswith("Your run reproduces the committed results")


def test_compare_fails_when_a_verdict_changes(project: Project):
    status, text = compared({}, "reversed")
    assert status == 1
    assert "C1 keyword: supported committed, reversed now" in text
    assert text.splitlines()[-1].startswith("Your run does not reproduce the committed results.")


def test_rows_that_only_one_side_has_are_counted_and_not_judged(project: Project):
    lines: list[str] = []
    write_results(committed("organism"), {})
    write_results(local("organism"), {})
    path = local("organism") / "tables" / "metrics.csv"
    fewer = pd.read_csv(path).iloc[:90]
    new = fewer.iloc[:3].assign(metric=["new1", "new2", "new3"])
    pd.concat([fewer, new]).to_csv(path, index=False)
    assert release.compare("organism", report=lines.append) == 0
    assert lines[:2] == [
        "10 rows of metrics are only committed: not judged",
        "3 rows of metrics are only new: not judged",
    ]
    assert lines[2].startswith("90 rows of metrics: 0.0% outside")


def test_a_column_that_only_one_side_has_is_not_judged(project: Project):
    write_results(committed("organism"), {})
    write_results(local("organism"), {})
    path = local("organism") / "tables" / "metrics.csv"
    pd.read_csv(path).assign(depth="all").to_csv(path, index=False)
    lines: list[str] = []
    assert release.compare("organism", report=lines.append) == 0
    assert lines[0].startswith("100 rows of metrics: 0.0% outside")


def test_compare_reads_what_is_committed_as_gzip(project: Project):
    write_results(committed("organism"), {})
    write_results(local("organism"), {})
    release.compress(committed("organism"))
    assert not (committed("organism") / "tables" / "metrics.csv").exists()
    assert release.compare("organism", report=str) == 0


def test_compare_without_committed_results_is_one_line(project: Project):
    with pytest.raises(PublishError, match=r"no results.organism.tables.metrics\.csv"):
        release.compare("organism")
