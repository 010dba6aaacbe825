"""One command at a time writes a folder of results."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hybridlib.store.lock import BusyError, only_here

HOLD = """
import subprocess, sys
from pathlib import Path
from hybridlib.store.lock import only_here
with only_here(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
TAKE = "import sys; from pathlib import Path; from hybridlib.store.lock import only_here\n" + (
    "with only_here(Path(sys.argv[1])): pass"
)


def hold(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_is_held_until_its_process_ends_however_that_is(tmp_path: Path, number: int):
    folder = tmp_path / "results" / "organism"
    holder = hold(folder)
    with pytest.raises(BusyError) as error, only_here(folder):
        raise AssertionError("two at once")
    said = str(error.value)
    assert f"process {holder.pid} on {os.uname().nodename}, since 2" in said and "\n" not in said
    with only_here(tmp_path / "results" / "other"):
        pass
    holder.send_signal(number)
    holder.wait()
    with only_here(folder):
        pass


def test_who_was_refused_takes_nothing_from_who_holds(tmp_path: Path):
    """Neither the lock nor the note of whose it is."""
    holder = hold(tmp_path)
    for _ in range(2):
        with pytest.raises(BusyError, match=str(holder.pid)), only_here(tmp_path):
            pass
    holder.communicate()
    with only_here(tmp_path):
        pass


def test_what_a_holder_starts_may_write_there_and_nothing_else(tmp_path: Path):
    def take(folder: Path) -> int:
        command = [sys.executable, "-c", TAKE, str(folder)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode

    other = tmp_path / "other"
    holder = hold(other)
    with only_here(tmp_path):
        assert take(tmp_path) == 0
        assert take(other) == 1
        with pytest.raises(BusyError), only_here(tmp_path):
            pass
        assert take(tmp_path) == 0, "it is still held"
    assert take(tmp_path) == 0
    holder.communicate()
    assert take(other) == 0
