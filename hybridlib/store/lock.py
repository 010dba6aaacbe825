"""One command at a time writes the results of a preset."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hybridlib.store.errors import OneLineError

HELD = "HYBRIDLIB_HELD"  # in the environment: the process that holds a folder, and the folder


class BusyError(OneLineError, RuntimeError):
    """Another command writes the same results. One line."""


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Hold a folder of results, so that no other command writes there; the processes that this one
    starts may.

    Raises BusyError if another process holds it. The system frees it when its process ends, even
    by SIGKILL.
    """
    before = os.environ.get(HELD, "")
    holder, _, held = before.partition(" ")
    if held == str(folder) and holder != str(os.getpid()):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(folder / ".lock"), folder / ".holder"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        who = note.read_text(encoding="utf-8") if note.exists() else "another process"
        raise BusyError(
            f"{who} is writing {folder}: wait until it has ended, or stop it (kill -INT and its "
            "number); the same command then goes on from what it has done"
        ) from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        said = f"process {os.getpid()} on {platform.node()}, since {since},"
        note.write_text(said, encoding="utf-8")
        os.environ[HELD] = f"{os.getpid()} {folder}"
        yield
    finally:
        os.environ[HELD] = before
        lock.release()
