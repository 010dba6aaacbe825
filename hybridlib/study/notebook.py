"""Notebooks as programs: run one in its own process, say why it failed, clean its output."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hybridlib.store import paths

if TYPE_CHECKING:
    from nbformat import NotebookNode

START = 300  # seconds that a kernel may take to start on a busy machine
# Progress writes a duration after three spaces: "train sft seed 0   41 s   about 9 min left".
DURATION = re.compile(r"   (about )?(\d+ h )?\d+(\.\d+)? (ms|s|min)( left| so far)?(?![^\s])")
STILL_RUNNING = re.compile(r"^ {8}.*   .* so far.*\n?", re.MULTILINE)
CELL_FILE = re.compile(r"(/[^/\s\"'\\]+)+/ipykernel_\d+/\d+\.py")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> None:
    """Execute a notebook and print its output as it comes; a kernel that dies before it answers is
    started once more.

    Raises
    ------
    papermill.PapermillExecutionError : a cell raised; `error_in(output)` is the line to show.
    """
    # nbformat imports jsonschema, which builds a grammar of URIs for most of a second if it can.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    run = partial(
        papermill.execute_notebook,
        notebook,
        output,
        dict(parameters),
        progress_bar=False,
        stdout_file=sys.stdout,
        start_timeout=START,
        extra_arguments=["--log-level=CRITICAL"],  # it warns of local TCP, and of an interrupt
    )
    try:
        run()
    except RuntimeError as error:
        # Two kernels that start at once may have been given the same port.
        if "died before replying" not in str(error):
            raise
        run()


class Execution:
    """A notebook that is executed in a child process, so that its memory is surely freed.

    Parameters
    ----------
    threads : of OpenMP and the like in the kernel.
    """

    def __init__(
        self, notebook: Path, output: Path, parameters: Mapping[str, object], threads: int
    ) -> None:
        self.notebook, self.output, self.parameters = notebook, output, parameters
        self.threads = threads
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, on_line: Callable[[str], object]) -> str:
        """Execute it and pass each line that it prints to `on_line`; return "" or why it failed."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.unlink(missing_ok=True)
        command = [sys.executable, "-m", "hybridlib.study.notebook"]
        with self._lock:
            if self._stopped:
                return "stopped"
            self._child = subprocess.Popen(
                [*command, self.notebook, self.output, json.dumps(self.parameters)],
                env=os.environ | kernel_variables(self.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        lines = deque(["it ended without a message"], maxlen=1)
        with self._child as child:
            for line in map(one_line, child.stdout):
                if line:
                    lines.append(line)
                    on_line(line)
        return "" if child.returncode == 0 else error_in(self.output) or lines[-1]

    def stop(self) -> None:
        """End the child process; its kernel follows within a second or two."""
        with self._lock:
            self._stopped = True
            if self._child:
                self._child.terminate()


def kernel_variables(threads: int) -> dict[str, str]:
    """Environment variables of a kernel: its threads, how it keeps memory, no warnings."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
    return {f"{name}_NUM_THREADS": str(threads) for name in names} | {
        # By default glibc returns large blocks at once and faults them in at the next step.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # larger pages, if the system has any
        "TOKENIZERS_PARALLELISM": "false",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONUNBUFFERED": "1",
    }


def one_line(text: str) -> str:
    """The first line of `text` that is not empty, without terminal colours."""
    lines = (line.strip() for line in ANSI.sub("", text).splitlines())
    return next(filter(None, lines), "")


def error_in(executed: Path) -> str:
    """`name: message` of the error that ended an executed notebook; "" if there was none."""
    if not executed.exists():
        return ""
    for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                return one_line(f"{output['ename']}: {output['evalue']}")
    return ""


def stamp(notebook: Path, parameters: Mapping[str, object], key: str) -> str:
    """Hash what an execution shows: its source, its parameters, the `key` of its results.

    Paths count as they are within the project, which may lie anywhere.
    """
    project = json.dumps(f"{paths.PROJECT}/")[1:-1]
    shown = json.dumps([dict(parameters), key], sort_keys=True).replace(project, "")
    return hashlib.sha256(notebook.read_bytes() + shown.encode()).hexdigest()[:16]


def read_stamp(executed: Path) -> str:
    """The stamp of an executed notebook; "" if it is missing, failed or has no stamp."""
    if not executed.exists():
        return ""
    try:
        metadata = json.loads(executed.read_text(encoding="utf-8"))["metadata"]
        return metadata.get("hybridlib", {}).get("stamp", "")
    except (ValueError, KeyError):
        return ""


def seconds_of(executed: Path) -> float | None:
    """The seconds that an execution took, from papermill; None if there was none."""
    if not read_stamp(executed):
        return None
    metadata = json.loads(executed.read_text(encoding="utf-8"))["metadata"]
    return metadata.get("papermill", {}).get("duration")


def write_stamp(executed: Path, value: str) -> None:
    """Mark an executed notebook, atomically."""
    node = json.loads(executed.read_text(encoding="utf-8"))
    node["metadata"]["hybridlib"] = {"stamp": value}
    draft = executed.with_suffix(".new")
    draft.write_text(json.dumps(node, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(executed)


def cleaned(node: "NotebookNode", places: Mapping[str, str]) -> "NotebookNode":
    """An executed notebook without what differs from run to run and machine to machine.

    Parameters
    ----------
    places : absolute path -> what is written instead.
    """
    import nbformat  # here: it takes a second, which kernels need not spend

    node = json.loads(json.dumps(node))
    node["metadata"] = {k: node["metadata"][k] for k in ("kernelspec",) if k in node["metadata"]}
    for cell in node["cells"]:
        tags = cell["metadata"].get("tags", [])
        cell["metadata"] = {"tags": tags} if tags else {}
        if "injected-parameters" in tags:
            cell["id"] = "injected-parameters"  # papermill's is random
        for output in _coalesced(cell):
            text = STILL_RUNNING.sub("", "".join(output["text"]))
            output["text"] = DURATION.sub("", text)
    text = CELL_FILE.sub("cell", json.dumps(node))
    for path in sorted(places, key=len, reverse=True):
        text = text.replace(json.dumps(path)[1:-1], places[path])
    return nbformat.from_dict(json.loads(text))


def _coalesced(cell: dict) -> list[dict]:
    """Join neighbouring outputs of one stream in a cell, whose number depends on timing."""
    joined: list[dict] = []
    for output in cell.get("outputs", ()):
        before = joined[-1] if joined else {}
        if output["output_type"] == "stream" and before.get("name") == output["name"]:
            before["text"] += output["text"]
        else:
            joined.append(output)
    if "outputs" in cell:
        cell["outputs"] = joined
    return [output for output in joined if output["output_type"] == "stream"]


def end_with(parent: int) -> None:
    """End this process when `parent` has ended, even by SIGKILL; its kernel then ends, too."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    execute(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
