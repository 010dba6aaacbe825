"""The run store: kills, damage, races."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hybridlib.store import run_store
from hybridlib.store.run_store import Store, read_manifest

KEY = "0123456789abcdef"
TIMEOUT = 30


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def write(text: str = "weights"):
    def make(folder: Path) -> None:
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "inner" / "model.bin").write_text(text)
        (folder / "log.csv").write_text("step\n1\n")

    return make


def never(folder: Path) -> None:
    raise AssertionError("made again")


def wait_for(condition) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_made_once_and_found_again(store: Store):
    assert not store.has("train", KEY)
    folder = store.get("train", KEY, write(), {"steps": 3, "rates": (1e-4, 0.1)})
    assert folder == store.path("train", KEY) == store.root / "train" / KEY
    assert store.has("train", KEY)
    assert store.get("train", KEY, never, {"steps": 3}) == folder
    assert Store(store.root).get("train", KEY, never, {}) == folder


def test_manifest_tells_what_is_there(store: Store):
    manifest = read_manifest(store.get("train", KEY, write("abc"), {"rates": (0.1, 2)}))
    assert (manifest["stage"], manifest["key"]) == ("train", KEY)
    assert manifest["inputs"] == {"rates": [0.1, 2]}
    # sha256 of "abc" as FIPS 180-2 prints it
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["files"]["inner/model.bin"] == [3, digest]
    assert set(manifest["files"]) == {"inner/model.bin", "log.csv"}
    assert manifest["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_root_is_independent_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("HYBRIDLIB_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Store().root == Path(__file__).resolve().parents[2] / "results" / "local" / "store"
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "elsewhere"))
    assert Store().root == tmp_path / "elsewhere"


def edit(folder: Path) -> None:
    (folder / "inner" / "model.bin").write_text("Weights")  # the same size


def truncate(folder: Path) -> None:
    (folder / "log.csv").write_text("")


def remove(folder: Path) -> None:
    (folder / "log.csv").unlink()


def add(folder: Path) -> None:
    (folder / "inner" / "extra.txt").write_text("")


def rename(folder: Path) -> None:
    (folder / "log.csv").rename(folder / "log2.csv")


def edit_inputs(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inputs"]["steps"] = 4
    (folder / "manifest.json").write_text(json.dumps(manifest))


def tear_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def hollow_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    "spoil",
    [edit, truncate, remove, add, rename, edit_inputs, tear_manifest, hollow_manifest, no_manifest],
)
def test_a_damaged_folder_is_set_aside_and_redone(store: Store, caplog, spoil):
    folder = store.get("train", KEY, write(), {"steps": 3})
    spoil(folder)
    assert not store.has("train", KEY)
    assert not caplog.records
    assert store.get("train", KEY, write(), {"steps": 3}) == folder
    assert len(caplog.records) == 1
    assert "set aside" in caplog.text
    assert store.has("train", KEY)
    assert (folder / "inner" / "model.bin").read_text() == "weights"
    assert folder.with_name(f".{KEY}.damaged").is_dir()


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that are hashed, as they are."""
    names, sha256 = [], run_store.sha256
    monkeypatch.setattr(run_store, "sha256", lambda path: names.append(path.name) or sha256(path))
    return names


def test_a_folder_is_hashed_once_a_process(store: Store, hashed, monkeypatch):
    monkeypatch.setattr(run_store, "TICK", -1)
    folder = store.get("train", KEY, write(), {})
    hashed.clear()
    for _ in range(3):
        assert store.has("train", KEY)
        assert store.get("train", KEY, never, {}) == folder
    assert sorted(hashed) == ["log.csv", "model.bin"]
    assert not store.has("evaluate", KEY) and not store.has("train", "f" * 16)


@pytest.mark.parametrize("spoil", [edit, truncate, remove, add, rename, edit_inputs, no_manifest])
def test_a_folder_that_changes_after_it_was_verified_is_not_trusted(
    store: Store, monkeypatch, spoil
):
    """Nor one whose file has the size and the time that it had before."""
    monkeypatch.setattr(run_store, "TICK", -1)
    folder = store.get("train", KEY, write(), {"steps": 3})
    assert store.has("train", KEY)
    before = (folder / "inner" / "model.bin").stat()
    time.sleep(0.05)  # the clock of a file system ticks some hundred times a second
    spoil(folder)
    os.utime(folder / "inner" / "model.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not store.has("train", KEY)


def test_a_folder_written_just_now_is_hashed_each_time(store: Store, hashed):
    """Its files could change again without a later time."""
    store.get("train", KEY, write(), {})
    hashed.clear()
    assert store.has("train", KEY) and store.has("train", KEY)
    assert len(hashed) == 4


def test_another_keys_folder_is_not_taken_for_this_one(store: Store):
    folder = store.get("train", KEY, write(), {})
    folder.rename(folder.with_name("f" * 16))
    assert not store.has("train", "f" * 16)


def test_an_exception_leaves_the_folder_for_the_next_try(store: Store):
    def fail(folder: Path) -> None:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step-1").write_text("1")
        raise ValueError("no memory")

    def resume(folder: Path) -> None:
        assert (folder / "checkpoints" / "step-1").read_text() == "1"
        write()(folder)

    with pytest.raises(ValueError, match="no memory"):
        store.get("train", KEY, fail, {})
    assert not store.has("train", KEY)
    folder = store.get("train", KEY, resume, {})
    assert not (folder / "checkpoints").exists()
    assert store.has("train", KEY)


def test_inputs_that_cannot_be_written_fail_before_the_work(store: Store):
    with pytest.raises(TypeError):
        store.get("train", KEY, never, {"path": Path()})
    with pytest.raises(ValueError):
        store.get("train", KEY, never, {"rate": float("nan")})


def test_a_try_killed_between_manifest_and_rename_is_not_repeated(store: Store, monkeypatch):
    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        store.get("train", KEY, write(), {})
    assert not store.has("train", KEY)
    store.get("train", KEY, never, {})
    assert store.has("train", KEY)


SLOW = """
    import sys, time
    from pathlib import Path
    from hybridlib.store.run_store import Store

    root, key, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

    def make(folder):
        with (root / "calls").open("a") as calls:
            calls.write(f"{key}\\n")
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "step").write_text("1")
        (folder / "half").write_text("begun")
        time.sleep(seconds)
        (folder / "half").write_text("whole")

    Store(root).get("train", key, make, {})
"""


def start(root: Path, key: str, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(SLOW), str(root), key, str(seconds)]
    return subprocess.Popen(command)


def calls(root: Path) -> list[str]:
    return (root / "calls").read_text().split() if (root / "calls").exists() else []


def test_sigkill_in_the_middle_then_resume(store: Store):
    process = start(store.root, KEY, 60)
    half = store.root / "train" / f".{KEY}.partial" / "half"
    wait_for(half.exists)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(TIMEOUT)
    assert not store.path("train", KEY).exists()

    def resume(folder: Path) -> None:
        assert (folder / "checkpoints" / "step").read_text() == "1"
        (folder / "half").write_text("whole")

    begun = time.monotonic()
    folder = store.get("train", KEY, resume, {})
    assert time.monotonic() - begun < 5, "the dead owner's lock was waited for"
    assert (folder / "half").read_text() == "whole"
    assert store.has("train", KEY)


def test_two_processes_make_it_once(store: Store):
    processes = [start(store.root, KEY, 1.0) for _ in range(2)]
    assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    assert calls(store.root) == [KEY]
    assert store.has("train", KEY)


def test_different_keys_do_not_wait_for_each_other(store: Store):
    slow = start(store.root, KEY, 60)
    try:
        wait_for(lambda: KEY in calls(store.root))
        store.get("train", "f" * 16, write(), {})
        assert slow.poll() is None
    finally:
        slow.kill()
        slow.wait()
