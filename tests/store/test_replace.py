"""Replacing whole files and folders, whatever fails at whichever call to the file system."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from failing import at_change, full, interrupted, killed

from hybridlib.store import replace


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.txt")}


OLD, NEW = {"a.txt": "old", "b/c.txt": "old"}, {"a.txt": "new", "d/e.txt": "new"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def put(target: Path) -> None:
    with replace.drafted(target) as draft:
        write(draft, NEW)
        with replace.placed(target):
            assert tree(target) == NEW


@pytest.fixture
def target(tmp_path: Path) -> Path:
    write(tmp_path / "results", OLD)
    return tmp_path / "results"


def changes(target: Path) -> int:
    """How many changes to the file system one replacement makes."""
    with at_change(-1, full) as seen:
        put(target)
    return len(seen)


def again(target: Path) -> None:
    shutil.rmtree(target.parent)
    write(target, OLD)


@pytest.mark.parametrize("act", [full, interrupted])
@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
def test_the_old_or_the_new_one_is_there_whichever_change_fails(target: Path, act, on: bool):
    seen = []
    for nth in range(changes(target)):
        again(target)
        try:
            with at_change(nth, act, on):
                put(target)
        except (OSError, KeyboardInterrupt):
            pass
        if on:  # nothing could be put right then
            replace.recover_all(target.parent)
        seen.append(tree(target))
        assert seen[-1] in (OLD, NEW), nth
        put(target)  # what is left over does not matter
        assert tree(target) == NEW and [p.name for p in target.parent.iterdir()] == ["results"]
    assert OLD in seen


def test_the_old_or_the_new_one_is_there_after_a_kill_at_any_change(target: Path):
    seen = []
    for nth in range(changes(target)):
        again(target)
        if not (child := os.fork()):
            with at_change(nth, killed):
                put(target)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, nth
        replace.recover_all(target.parent)
        seen.append(tree(target))
        assert seen[-1] in (OLD, NEW), nth
        put(target)
        assert tree(target) == NEW and [p.name for p in target.parent.iterdir()] == ["results"]
    assert OLD in seen and NEW in seen


def test_what_fails_with_the_new_one_in_place_brings_the_old_one_back(target: Path):
    for place, before in ((target, OLD), (target.with_name("first"), {})):
        with pytest.raises(ValueError), replace.drafted(place) as draft:
            write(draft, NEW)
            with replace.placed(place):
                raise ValueError
        assert tree(place) == before and place.exists() == bool(before)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_bytes(b"old")
    for nth in range(3):
        try:
            with at_change(nth, full):
                replace.write(page, b"new")
        except OSError:
            pass
        assert page.read_bytes() in (b"old", b"new")
        replace.write(page, b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    written = page.stat()
    replace.write(page, b"old")
    assert page.stat().st_ino == written.st_ino  # nothing changed, so nothing was written
