"""The real notebooks, from base to verdicts, at preset smoke in a copy of the project."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from standin import notebook

ROOT = Path(__file__).resolve().parents[2]
NAMES = {f"0{i}" for i in range(8)}  # 08 is for presets that compare hybrids
TIMEOUT = 420


def copy(folder: Path) -> Path:
    """A project of its own, since results go beside the package: the sources, without results."""
    for name in ("hybridlib", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


# One reward, the one that needs every stage, and a variant of each kind of start.
FEW = ("-p", "rewards", "model", "-p", "variants", "base, rl, rl_gold, sft, two_stage")


@dataclass(frozen=True)
class Run:
    said: str
    tables: dict[str, bytes]
    trained: dict[str, int]  # folder of the store -> when its manifest was written
    measured: dict[str, bytes]  # what the evaluations wrote: all that the tables rest on


def study(project: Path, store: Path, *arguments: str) -> Run:
    environment = os.environ | {"HYBRIDLIB_STORE": str(store), "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "-m", "hybridlib", "study", "smoke", *arguments],
        cwd=project, env=environment, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = project / "results" / "local" / "smoke"
    return Run(
        done.stdout,
        {path.name: path.read_bytes() for path in (results / "tables").iterdir()},
        {
            path.parent.relative_to(store).as_posix(): path.stat().st_mtime_ns
            for path in store.glob("*/[!.]*/manifest.json")
        },
        {
            path.relative_to(store).as_posix(): path.read_bytes()
            for path in store.glob("evaluate/[!.]*/[rt]*.*")
        },
    )


@dataclass(frozen=True)
class Studies:
    project: Path
    first: Run
    again: Run


@pytest.fixture(scope="session")
def studies(tmp_path_factory) -> Studies:
    project = copy(tmp_path_factory.mktemp("project"))
    store = tmp_path_factory.mktemp("store")
    return Studies(project, *(study(project, store, *FEW) for _ in range(2)))


def test_every_stage_leaves_its_folder(studies: Studies):
    stages = {name.split("/")[0] for name in studies.first.trained}
    assert stages == {"base", "labels", "reward_model", "train", "evaluate", "prefill"}
    results = studies.project / "results" / "local" / "smoke"
    executed = {path.stem.split("-")[0] for path in (results / "notebooks").glob("*.ipynb")}
    assert {name[:2] for name in executed} == NAMES
    assert list((results / "figures").glob("*.png"))
    for name in ("metrics.csv", "verdicts.csv", "cost.csv"):
        assert studies.first.tables[name].count(b"\n") > 1 or name == "verdicts.csv"


def test_one_seed_gives_no_verdict(studies: Studies):
    rows = csv.DictReader(studies.first.tables["verdicts.csv"].decode().splitlines())
    assert {row["verdict"] for row in rows} <= {"descriptive"}


def test_a_second_run_trains_nothing_and_changes_no_table(studies: Studies):
    assert studies.again.trained == studies.first.trained
    assert studies.again.tables.keys() == studies.first.tables.keys()
    for name, text in studies.first.tables.items():  # cost.csv too: nothing was measured again
        assert studies.again.tables[name] == text, name


def running(project: Path) -> list[str]:
    """The processes that were started with this project on their path."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if f"PYTHONPATH={project}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_ctrl_c_ends_all_of_a_study_in_a_line(tmp_path: Path):
    project, begun = copy(tmp_path), tmp_path / "begun"
    endless = f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(300)"
    base = project / "hybridlib" / "notebooks" / "01_base.ipynb"
    nbformat.write(notebook("preset = ''", endless), base)
    environment = os.environ | {"HYBRIDLIB_STORE": str(tmp_path / "store")}
    process = subprocess.Popen(
        [sys.executable, "-m", "hybridlib", "study", "smoke"], cwd=project, text=True,
        env=environment | {"PYTHONPATH": str(project)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background jobs, and what they start, are born deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        end = time.monotonic() + TIMEOUT
        while not begun.exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.1)
        assert len(running(project)) == 4  # two notebooks, each with a kernel
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all that run in its foreground
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "\nstopped; the same command goes on from here\n" and "Traceback" not in out
    end = time.monotonic() + 20
    while left := running(project):
        assert time.monotonic() < end, left
        time.sleep(0.1)


@pytest.mark.slow
def test_the_same_seed_in_an_empty_store_gives_the_same_bytes(studies: Studies, tmp_path: Path):
    few = ("-p", "rewards", "model", "-p", "variants", "base, rl, sft")
    (tmp_path / "other").mkdir()
    measured = study(copy(tmp_path / "other"), tmp_path / "empty", *few).measured
    assert len([name for name in measured if name.endswith("responses.parquet")]) == 3
    assert len([name for name in measured if name.endswith("training.csv")]) == 2
    for name, content in measured.items():
        assert studies.first.measured[name] == content, name
