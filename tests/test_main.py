"""The command line: what it prints, what it returns, what it leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest
from standin import Project

from hybridlib.__main__ import main


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    project.install(monkeypatch)
    return project


def test_study_shows_what_the_driver_prints(project: Project, capfd):
    project.source("00_study", "print('preset', preset, 'seeds', seeds)")
    (project.root / "more.yaml").write_text("seeds: 2")
    arguments = ["study", "organism", "-f", str(project.root / "more.yaml"), "-p", "seeds", "3"]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert out == "preset organism seeds 3\n"
    assert err == ""
    assert (project.root / "results/local/organism/notebooks/00_study.ipynb").exists()


def test_a_driver_that_fails_is_one_line_and_a_place_to_look(project: Project, capfd):
    project.source("00_study", "raise ValueError('no such thing')")
    assert main(["study"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "ValueError: no such thing"
    assert lines[1].endswith("00_study.ipynb)")
    assert len(lines) == 2


def test_a_dry_run_tells_the_plan_and_executes_nothing(project: Project, capfd):
    assert main(["study", "-p", "dry_run", "True"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1] == "train: 0 of 10 done, 10 to run" and lines[-1].startswith("in all: ")
    assert not list(project.root.rglob("results/**/*.ipynb"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "sedes", "3"], "ParameterError: there is no parameter 'sedes'"),
        (["-f", "nowhere.yaml"], "ParameterError: nowhere.yaml is no file of parameters: No such"),
    ],
)
def test_a_bad_parameter_is_one_line_and_writes_nothing(project: Project, capfd, arguments, said):
    before = sorted(project.root.rglob("*"))
    assert main(["study", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert sorted(project.root.rglob("*")) == before


def test_a_wrong_parameter_is_answered_before_anything_slow_is_imported():
    code = """
import sys
from hybridlib.__main__ import main
status = main(["study", "-p", "stepz", "3"])
slow = {"papermill", "nbformat", "torch", "IPython", "matplotlib"}
print(status, sorted(slow & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 []\n"
    said = "ParameterError: there is no parameter 'stepz'; did you mean 'steps'?\n"
    assert done.stderr == said


def test_params_lists_the_values_of_a_preset(capsys):
    assert main(["params", "smoke"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("preset smoke: ") and "optimiser steps of RL" in out
    assert main(["params", "smock"]) == 2
    assert "did you mean 'smoke'?" in capsys.readouterr().err


def test_where_bench_is_not_installed_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr("hybridlib.__main__.find_spec", lambda name: None)
    assert main(["bench"]) == 1
    assert capsys.readouterr().err == (
        "OneLineError: bench/ is not part of the package: run this in a clone of the project\n"
    )


@pytest.mark.parametrize("command", ["figures", "compare", "publish"])
def test_results_that_are_not_there_are_one_line(project: Project, capfd, command: str):
    assert main([command]) == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_a_figure_that_cannot_be_drawn_says_what_there_is(project: Project, monkeypatch, capfd):
    assert main(["figures", "organism", "--only", "cost"]) == 2
    said = capfd.readouterr().err
    assert "no committed figures of organism: run `make study PRESET=organism`" in said
    place = project.root / "results" / "organism" / "figures"
    place.mkdir(parents=True)
    (place / "seconds.png").touch()
    assert main(["figures", "organism", "--only", "cost"]) == 2
    assert "organism has no figure 'cost', but seconds" in capfd.readouterr().err
    assert [path.name for path in place.iterdir()] == ["seconds.png"]
