"""The run store: kills, damage, races."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridlib.store import run_store
from hybridlib.store.errors import ParameterError
from hybridlib.store.run_store import Store, StoreError, damage, read_manifest
from hybridlib.store.stage import digest

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


def another_manifest(content: bytes):
    def spoil(folder: Path) -> None:
        (folder / "manifest.json").write_bytes(content)

    return spoil


def signed(**changes):
    """A manifest of another shape whose own hash is right; None removes an entry."""

    def spoil(folder: Path) -> None:
        body = json.loads((folder / "manifest.json").read_text()) | changes
        body = {name: value for name, value in body.items() if value is not None}
        del body["sha256"]
        text = json.dumps(body | {"sha256": digest(body)})
        (folder / "manifest.json").write_text(text)

    return spoil


def instead(name: str, make):
    """`make` in the place of a file of the folder, or beside its files."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return spoil


def link_to(target: str):
    return lambda path: path.symlink_to(path.parent / target)


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        os.chdir(path.parent)  # the name of a socket may have about a hundred letters
        end.bind(path.name)


def empty_then_pipe(folder: Path) -> None:
    """A pipe where an empty file was recorded: whoever opens it waits for good."""
    (folder / "log.csv").unlink()
    os.mkfifo(folder / "log.csv")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    signed(files=files | {"log.csv": [0, empty]})(folder)


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def a_lost_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere")


ODD = {
    "a folder": instead("manifest.json", Path.mkdir),
    "a circle of links": instead("manifest.json", link_to("manifest.json")),
    "a lost link": instead("manifest.json", link_to("nowhere")),
    "a pipe": instead("manifest.json", os.mkfifo),
    "zero bytes": another_manifest(b""),
    "a number": another_manifest(b"7"),
    "no utf-8": another_manifest(b'{"stage": "\xff"}'),
    "a string that no utf-8 writes": another_manifest(b'{"stage": "\\ud800", "sha256": "x"}'),
    "ten thousand lists": another_manifest(b"[" * 10_000),
    "a number of many digits": another_manifest(b"[" + b"1" * 10_000 + b"]"),
    "no list of files": signed(files=None),
    "files as a list": signed(files=["log.csv", "inner/model.bin"]),
    "numbers for pairs": signed(files={"log.csv": 7, "inner/model.bin": 8}),
    "a string for a pair": signed(files={"log.csv": "ab", "inner/model.bin": "cd"}),
    "no stage": signed(stage=None),
    "a pipe beside": instead("extra", os.mkfifo),
    "a socket beside": instead("extra", listen),
    "a circle of links beside": instead("extra", link_to("extra")),
    "a lost link for a file": instead("log.csv", link_to("nowhere")),
    "a folder for a file": instead("log.csv", Path.mkdir),
    "a pipe for an empty file": empty_then_pipe,
    "a name that is no utf-8": instead(os.fsdecode(b"\xff"), Path.touch),
    "a file for the folder": a_file,
    "a lost link for the folder": a_lost_link,
}


@pytest.mark.parametrize(
    "spoil",
    [edit, truncate, remove, add, rename, edit_inputs, tear_manifest, hollow_manifest, no_manifest]
    + [pytest.param(spoil, id=name) for name, spoil in ODD.items()],
)
def test_a_damaged_folder_is_set_aside_and_redone(store: Store, caplog, monkeypatch, spoil):
    monkeypatch.chdir(store.root)
    folder = store.get("train", KEY, write(), {"steps": 3})
    spoil(folder)
    assert not store.has("train", KEY)
    assert not caplog.records
    assert store.get("train", KEY, write(), {"steps": 3}) == folder
    assert len(caplog.records) == 1
    assert "set aside" in caplog.text
    assert store.has("train", KEY)
    assert (folder / "inner" / "model.bin").read_text() == "weights"
    assert os.path.lexists(folder.with_name(f".{KEY}.damaged"))
    caplog.text.encode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
FILES = st.fixed_dictionaries({"log.csv": VALUES, "inner/model.bin": VALUES})
ENTRIES = {"stage": VALUES, "key": VALUES, "files": VALUES | FILES}


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.fixed_dictionaries({}, optional=ENTRIES) | VALUES, whole=st.booleans())
def test_no_value_as_manifest_is_taken_or_raises(store: Store, value, whole):
    folder = store.get("train", KEY, write(), {})
    if whole and isinstance(value, dict):
        body = {"stage": "train", "key": KEY} | value
        value = body | {"sha256": digest(body)}
    before = (folder / "manifest.json").read_text()
    try:
        (folder / "manifest.json").write_text(json.dumps(value))
        assert damage(folder, "train", KEY)
    finally:
        (folder / "manifest.json").write_text(before)


def test_a_file_that_cannot_be_read_is_damage(store: Store, monkeypatch):
    folder = store.get("train", KEY, write(), {})

    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(run_store, "sha256", refuse)
    assert damage(folder, "train", KEY) == "it cannot be read (Permission denied)"


@pytest.mark.parametrize("make", [Path.mkdir, link_to("nowhere"), link_to("aside"), os.mkfifo])
@pytest.mark.parametrize("name", ["lock", "partial", "damaged"])
def test_odd_things_under_the_names_of_the_store_do_not_stop_it(store: Store, name, make):
    place = store.path("train", KEY).with_name(f".{KEY}.{name}")
    place.parent.mkdir(parents=True)
    make(place)
    hollow_manifest(store.get("train", KEY, write(), {}))
    folder = store.get("train", KEY, write(), {})
    assert store.has("train", KEY) and not list(folder.glob("**/checkpoints"))


LEFT = [
    (name, make)
    for name in ("manifest.json", "checkpoints", "log.csv", "inner/model.bin")
    for make in (os.mkfifo, link_to("nowhere"), Path.touch)
]


@pytest.mark.parametrize(("name", "make"), [*LEFT, ("manifest.json", Path.mkdir)])
def test_what_an_earlier_try_left_in_an_odd_shape_is_made_again(store: Store, name, make):
    place = store.path("train", KEY).with_name(f".{KEY}.partial") / name
    place.parent.mkdir(parents=True)
    make(place)

    def resume(folder: Path) -> None:
        (folder / "checkpoints").mkdir(exist_ok=True)
        write()(folder)

    folder = store.get("train", KEY, resume, {})
    assert store.has("train", KEY)
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "log.csv", "manifest.json"]


def test_a_damaged_folder_that_cannot_be_removed_stays_beside_the_next(store: Store, monkeypatch):
    def spoil() -> Path:
        folder = store.get("train", KEY, write(), {})
        tear_manifest(folder)
        return folder

    spoil()
    spoil()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as of another user's files
    folder = spoil()
    monkeypatch.undo()
    assert store.get("train", KEY, write(), {}) == folder
    assert store.has("train", KEY)
    there = sorted(path.name for path in folder.parent.glob(f".{KEY}.damaged*"))
    assert there == [f".{KEY}.damaged", f".{KEY}.damaged1"]


def raising(error: Exception):
    def make(folder: Path) -> None:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "step-1").write_text("1")
        raise error

    return make


FULL = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors"),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    RuntimeError("IoError(Os { code: 28, message: 'No space left on device' })"),  # of safetensors
]


@pytest.mark.parametrize("error", FULL, ids=["disk", "quota", "in words"])
def test_a_full_disk_is_one_line_and_the_next_call_goes_on(store: Store, error):
    with pytest.raises(StoreError, match=r"the disk of the store .* is full: free some") as caught:
        store.get("train", KEY, raising(error), {})
    assert "\n" not in str(caught.value)

    def resume(folder: Path) -> None:
        assert (folder / "checkpoints" / "step-1").read_text() == "1"
        write()(folder)

    store.get("train", KEY, resume, {})
    assert store.has("train", KEY)


def test_a_disk_that_is_full_at_the_manifest_is_one_line(store: Store, monkeypatch):
    def refuse(path: Path) -> None:
        raise FULL[0]

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="is full"):
        patch.setattr(run_store, "_sync", refuse)
        store.get("train", KEY, write(), {})
    store.get("train", KEY, write(), {})
    assert store.has("train", KEY)


def test_an_error_on_a_disk_without_room_is_that_it_is_full(store: Store, monkeypatch):
    """torch's writer says: unexpected pos 576 vs 534."""
    left = shutil.disk_usage(store.root)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: left)
    with pytest.raises(StoreError, match="is full"):
        store.get("train", KEY, raising(RuntimeError("unexpected pos 576 vs 534")), {})


def test_other_errors_of_the_work_stay_what_they_are(store: Store, tmp_path: Path):
    for error in (
        FileNotFoundError(errno.ENOENT, "no such file", str(store.root / "a")),
        PermissionError(errno.EACCES, "denied", "/elsewhere"),
        MemoryError(),
    ):
        with pytest.raises(type(error)) as caught:
            store.get("train", KEY, raising(error), {})
        assert caught.value is error


@pytest.mark.parametrize("place", ["file", "file/store", "lost", "loop/store"])
def test_a_store_where_no_folder_can_be_is_one_line(tmp_path: Path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "lost").symlink_to("/proc/nowhere/store")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / place))
    with pytest.raises((StoreError, ParameterError), match="HYBRIDLIB_STORE") as caught:
        Store().get("train", KEY, write(), {})
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_store_that_cannot_be_written_still_hands_out(store: Store, monkeypatch):
    folder = store.get("train", KEY, write(), {})

    def refuse(path: Path, *_, **__) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert store.get("train", KEY, never, {}) == folder
    with pytest.raises(StoreError, match=r"cannot be used \(Read-only file system: .*HYBRIDLIB_ST"):
        store.get("train", "f" * 16, never, {})


def test_a_file_system_without_locks_is_one_line(store: Store, monkeypatch):
    def refuse(*_, **__) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_store.FileLock, "acquire", refuse)
    with pytest.raises(StoreError, match=r"cannot be used \(No locks available"):
        store.get("train", KEY, never, {})


def test_the_place_of_the_store_is_absolute_or_a_home(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    default = Path(__file__).resolve().parents[2] / "results" / "local" / "store"
    for named, root in (("", default), ("~", tmp_path / "home"), ("~/a b", tmp_path / "home/a b")):
        monkeypatch.setenv("HYBRIDLIB_STORE", named)
        assert Store().root == root
    for named in ("store", "./store", "..", " ", "~nobody-of-this-name/store", f" {tmp_path}"):
        monkeypatch.setenv("HYBRIDLIB_STORE", named)
        with pytest.raises(ParameterError, match=r"HYBRIDLIB_STORE is .* an absolute path"):
            Store()
    assert not list(tmp_path.iterdir())


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
