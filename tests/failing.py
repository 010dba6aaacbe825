"""Let the nth change to the file system fail, be interrupted or be the last of the process."""

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "open")
_armed: list[Callable[[str], None] | None] = [None]  # called at each change, before it is made


def _audit(event: str, arguments: tuple) -> None:
    if _armed[0] and event in CHANGES and (event != "open" or "w" in str(arguments[1])):
        _armed[0](event)


sys.addaudithook(_audit)  # it cannot be taken away, only disarmed


@contextmanager
def at_change(
    nth: int, act: Callable[[], None], on: bool = False, of: Collection[str] = CHANGES
) -> Iterator[list[str]]:
    """`act` at the nth change of these kinds, and at all that follow if `on`; lists the changes."""
    seen: list[str] = []

    def strike(event: str) -> None:
        if event in of:
            seen.append(event)
            if len(seen) - 1 == nth or (on and len(seen) > nth >= 0):
                act()

    _armed[0] = strike
    try:
        yield seen
    finally:
        _armed[0] = None


def full() -> None:
    raise OSError(28, "No space left on device")


def interrupted() -> None:
    raise KeyboardInterrupt


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
