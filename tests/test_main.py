"""The command line: what it prints, what it returns, what it leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from standin import Project

from hybridlib.__main__ import main
from hybridlib.store.lock import only_here


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


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_a_dry_run_tells_the_plan_and_writes_nothing(project: Project, capfd):
    before = listing(project.root)
    assert main(["study", "-p", "dry_run", "True"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1] == "train: 0 of 10 done, 10 to run" and lines[-1].startswith("in all: ")
    assert listing(project.root) == before


def test_a_second_study_of_a_preset_is_one_line_and_leaves_the_first_alone(project, capfd):
    here = project.root / "results" / "local" / "organism"
    executed = here / "notebooks" / "00_study.ipynb"
    executed.parent.mkdir(parents=True)
    executed.write_text("of the first")
    with only_here(here):
        before = listing(project.root)
        assert main(["study", "-p", "seeds", "3"]) == 1
        assert main(["study", "-p", "seeds", "3", "-p", "dry_run", "True"]) == 0
        assert listing(project.root) == before
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"BusyError: process {os.getpid()} on ") and "wait" in line
    assert executed.read_text() == "of the first"


@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_where_results_cannot_be_written_it_is_one_line(project: Project, capfd, fault: str):
    results = project.root / "results"
    if fault == "no folder":
        results.write_text("a file")
    else:
        folder = results / "local" / "organism" / "notebooks"
        folder.mkdir(parents=True)
        (folder / "00_study.ipynb").symlink_to("/dev/full")
    assert main(["study"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    reason = {"no folder": "Not a directory", "full disk": "No space left on device"}[fault]
    assert reason in line and line.endswith("the same command goes on from here")


@pytest.mark.parametrize(
    ("closed", "status"), [("", 0), ("<&- >&-", 0), (">&- 2>&-", 0), (">/dev/full", 1)]
)
def test_output_that_goes_nowhere_is_no_traceback(closed: str, status: int):
    command = f"{sys.executable} -m hybridlib params smoke {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == status
    lines = done.stderr.splitlines()
    assert len(lines) == status and all("No space left on device" in line for line in lines)


def test_a_reader_that_has_gone_is_one_line():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "hybridlib", "params", "smoke"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    (line,) = done.stderr.splitlines()
    assert line.startswith("stopped, as nobody reads the output")


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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with the real parameters."""
    monkeypatch.setattr("hybridlib.store.paths.PROJECT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["study", "-p", "variants", "[rl, sft"], "variants = '[rl, sft': "),
        (["study", "-p", "scope", "a: b: c"], "scope = 'a: b: c': "),
        (["study", "-p", "preset", "123"], "preset '123' is no name"),
        (["study", "-p", "preset", "[organism]"], "preset '[organism]' is no name"),
        (["study", "-p", "", "x"], "there is no parameter ''"),
        (["study", "-p", "a\nb", "x"], r"there is no parameter 'a\nb'"),
        (["study", "-p", "seeds", ""], "seeds = '': "),
        (["study", "-p", "seeds", "20261013"], "seeds = '20261013': at most 1000 seeds; for the"),
        (["study", "-p", "seeds", "7-0"], "seeds = '7-0': 7-0 is no range of 1 to 1000 seeds"),
        (["study", "-p", "seeds", "0-1000"], "seeds = '0-1000': 0-1000 is no range of 1 to 1000"),
        (
            ["study", "-p", "drawn", "{minority_share: [1, 0]}"],
            "drawn = '{minority_share: [1, 0]}'",
        ),
        (["study", "-p", "drawn", "minority_share"], "drawn = 'minority_share': "),
        (["study", "-p", "kl", "1e400"], "kl = '1e400': "),
        (["study", "-p", "steps", "010"], "steps = '010': "),
        (["study", "-p", "kl", "0", "-p", "kl", "x"], "kl = 'x': "),
        (["study", "-p", "dry_run", "maybe"], "dry_run = 'maybe': "),
        (["study", "-p", "dry_run", ""], "dry_run = '': "),
        (["study", "../organism"], "preset '../organism' is no name"),
        (["study", "mine.yaml"], "preset '../organism' is no name"),
        (["study", "-f", "mine.yaml"], "preset '../organism' is no name"),
        (["study", "-f", "twice.yaml"], "twice.yaml is no file of parameters: line 1: 'kl' is"),
        (["study", "-f", "."], ". is no file of parameters: it is no regular file"),
        (["sweep", "hybrids", "-p", "report", "3"], "there is no parameter 'report'"),
        (["sweep", "hybrids", "-p", "preset", ".."], "preset '..' is no name"),
        (["sweep", "hybrids", "-p", "chord_valley", "0.2"], "chord_valley must not exceed"),
        (["params", "<script>"], "preset '<script>' is no name"),
        (["tune", "/etc/x"], "preset '/etc/x' is no name"),
        (["compare", "../x"], "preset '../x' is no name"),
        (["publish", "store"], "preset 'store' is no name"),
        (["publish", ""], "preset '' is no name"),
        (["figures", "bench"], "preset 'bench' is no name"),
        (["figures", "..", "--only", "cost"], "preset '..' is no name"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(place: Path, capfd, arguments, named):
    (place / "mine.yaml").write_text("preset: ../organism\n")
    (place / "twice.yaml").write_text("kl: 0\nkl: 1\n")
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"ParameterError: {named}")
    assert err.count("\n") == 1
    assert {path.name for path in place.rglob("*")} == {"mine.yaml", "twice.yaml"}


@pytest.mark.parametrize(
    "seeds, bases", [("0-7", 8), ("0-3, 8, 10-11", 7), ("[4-5, 9]", 3), ("8-15", 8), ("3", 3)]
)
@pytest.mark.parametrize("in_file", [False, True])
def test_seeds_are_said_as_ranges(place: Path, capfd, seeds, bases, in_file):
    (place / "mine.yaml").write_text(f"seeds: {seeds}\n")
    said = ["-f", "mine.yaml"] if in_file else ["-p", "seeds", seeds]
    assert main(["study", *said, "-p", "dry_run", "true"]) == 0
    assert capfd.readouterr().out.startswith(f"base: 0 of {bases} done, {bases} to run\n")


def test_the_last_of_a_parameter_counts_and_before_a_file(project: Project, capfd):
    project.source("00_study", "print(seeds)")
    (project.root / "more.yaml").write_text("seeds: 2")
    again = ["-p", "seeds", "3", "-p", "seeds", "4", "-f", str(project.root / "more.yaml")]
    assert main(["study", *again]) == 0
    assert capfd.readouterr().out == "4\n"


@pytest.mark.parametrize("text, planned", [("false", False), ("False", False), ("true", True)])
def test_a_truth_is_read_as_it_is_written(project: Project, capfd, text, planned):
    project.source("00_study", "print('executed')")
    assert main(["study", "-p", "dry_run", text]) == 0
    assert ("executed" in capfd.readouterr().out) is not planned


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
