"""Notebooks as programs: run one in its own process, say why it failed, clean its output."""

import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridlib.store import replace
from hybridlib.store.errors import OneLineError
from hybridlib.store.run_store import set_aside

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: A kernel warns of local TCP, of an interrupt, and of what it had not done when it was stopped.
QUIET = [
    "--log-level=CRITICAL",
    "--IPKernelApp.exec_lines=__import__('logging').getLogger('asyncio').setLevel(50)",
]
START = 300  # seconds that a kernel may take to start on a busy machine
# Progress writes a duration after three spaces: "train sft seed 0   41 s   about 9 min left".
DURATION = re.compile(r"   (about )?(\d+ h )?\d+(\.\d+)? (ms|s|min)( left| so far)?(?![^\s])")
STILL_RUNNING = re.compile(r"^ {8}(?>.*?   ).*? so far.*\n?", re.MULTILINE)
# Tried once a word, which ends at a quote or a backslash, too: else long paths take quadratic time.
CELL_FILE = re.compile(r"(?<![^\s\"'\\])([^/\s\"'\\]*)/[^\s\"'\\]*/ipykernel_\d+/\d+\.py")
OUT_OF_MEMORY = re.compile(r"MemoryError|memory ran out|out of memory|allocate memory")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class KernelError(OneLineError, RuntimeError):
    """A kernel did not start, or ended before its notebook did. One line."""


def execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> None:
    """Execute a notebook and print its output as it comes; a kernel that dies before it answers is
    started once more.

    Raises papermill.PapermillExecutionError if a cell did; `error_in(output)` is the line to show.
    Raises KernelError if the kernel died.
    """
    _check_loopback()
    # nbformat imports jsonschema, which builds a grammar of URIs for most of a second if it can.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class OwnKernel(AsyncKernelManager):
        """The kernel of this interpreter, whatever else may be installed under its name. It is kept
        for its process's exit status: papermill only tells that it ended."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            started.append(self)

        @default("kernel_spec_manager")
        def _none_but_the_native(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])

    if output.is_dir():
        set_aside(output)
    for name in ("papermill", "traitlets", "asyncio"):  # what is an error is raised, too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    started: list[OwnKernel] = []
    killed_before = killed_for_memory()
    for may_again in (True, False):
        try:
            papermill.execute_notebook(
                notebook,
                output,
                dict(parameters),
                kernel_name=NATIVE_KERNEL_NAME,
                language="python",
                kernel_manager_class=OwnKernel,
                progress_bar=False,
                stdout_file=sys.stdout,
                start_timeout=START,
                extra_arguments=QUIET,
            )
            return
        except RuntimeError as error:
            # Two kernels that start at once may have been given the same port.
            if may_again and "died before replying" in str(error):
                continue
            process = started and getattr(started[-1].provisioner, "process", None)
            status = process.returncode if process else 0
            raise KernelError(f"{error}{why_killed(status, killed_before)}") from None


def _check_loopback() -> None:
    """Raises KernelError if no kernel could be talked to, which else takes minutes to find out."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise KernelError(
            f"notebooks talk to their kernels over 127.0.0.1, where nothing answers ({error}): "
            "turn the loopback interface on (ip link set lo up)"
        ) from None


def killed_for_memory() -> int:
    """How many processes this machine has killed for want of memory; 0 if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
        counts = dict(line.split() for line in lines)
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))


def why_killed(status: int, before: int) -> str:
    """Words about a process that ended with `status`, if it was killed; `before`: what
    killed_for_memory() was when it began."""
    if status != -signal.SIGKILL:
        return ""
    sure = killed_for_memory() > before
    return f": it was killed, {'as' if sure else 'most likely because'} memory ran out"


def hinted(error: str) -> str:
    """An error with what to do about it, if memory ran out."""
    less = "; fewer notebooks at once need less: -p workers 1"
    return error + less if OUT_OF_MEMORY.search(error) else error


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
        "PYTHONUTF8": "1",
    }


def one_line(text: str) -> str:
    """The first line of `text` that is not empty, without terminal colours."""
    lines = (line.strip() for line in ANSI.sub("", text).splitlines())
    return next(filter(None, lines), "")


class NotebookError(OneLineError, ValueError):
    """A file is no executed notebook: one line that names it."""


def _read(executed: Path) -> dict[str, Any]:
    """An executed notebook as JSON. Raises NotebookError if the file, if there is one, is none."""
    import nbformat  # here: it takes a while, which kernels need not spend

    try:
        node = json.loads(executed.read_text(encoding="utf-8"))
        nbformat.validate(node, version=4)
    except Exception as error:  # of some shapes nbformat raises what it happens to meet
        said = one_line(f"{type(error).__name__}: {error}")
        raise NotebookError(f"{executed.name} is no executed notebook ({said}): run it") from None
    return node


def error_in(executed: Path) -> str:
    """`name: message` of the error that ended an executed notebook; "" if there was none, or if it
    is no notebook."""
    try:
        cells = _read(executed)["cells"]
    except NotebookError:
        return ""
    for cell in cells:
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                return one_line(f"{output['ename']}: {output['evalue']}")
    return ""


def metadata_of(executed: Path) -> dict[str, Any]:
    """What a finished execution left in its metadata: `stamp` and, of papermill, `duration`.

    Empty if the notebook is missing, failed, has no stamp or is none.
    """
    try:
        metadata = _read(executed)["metadata"]
        found = {**metadata.get("papermill", {}), **metadata["hybridlib"]}
    except (NotebookError, KeyError, TypeError):
        return {}
    stamp, took = found.get("stamp"), found.get("duration")
    if not isinstance(stamp, str):
        return {}
    timed = isinstance(took, int | float) and 0 < took < 1e9  # seconds
    return {"stamp": stamp} | ({"duration": took} if timed else {})


def write_stamp(executed: Path, value: str) -> None:
    """Mark an executed notebook, atomically. Raises NotebookError if it is none."""
    node = _read(executed)
    node["metadata"]["hybridlib"] = {"stamp": value}
    text = json.dumps(node, indent=1, ensure_ascii=False) + "\n"
    replace.write(executed, text.encode(errors="backslashreplace"))  # half a letter, as in JSON


def cleaned(executed: Path, places: Mapping[str, str]) -> "NotebookNode":
    """An executed notebook without what differs from run to run and machine to machine.

    places : absolute path -> what is written instead.

    Raises NotebookError if it is none.
    """
    _read(executed)
    import nbformat  # here: they take seconds, which kernels need not spend
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    node = nbformat.read(executed, as_version=4)
    # The number of outputs of one stream depends on timing.
    node, _ = CoalesceStreamsPreprocessor().preprocess(node, {})
    node.metadata = {k: node.metadata[k] for k in ("kernelspec",) if k in node.metadata}
    for cell in node.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"  # papermill's is random
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = DURATION.sub("", STILL_RUNNING.sub("", output.text))
    escaped = {json.dumps(path)[1:-1]: name for path, name in places.items()}
    text = renamed(CELL_FILE.sub(r"\1cell", json.dumps(node)), escaped)
    return nbformat.reads(text, as_version=4)


def renamed(text: str, places: Mapping[str, str]) -> str:
    """`text` with each path of `places` replaced, the longest first."""
    for path in sorted(places, key=len, reverse=True):
        text = text.replace(path, places[path])
    return text


def end_with(parent: int) -> None:
    """End this process when `parent` has ended, even by SIGKILL; its kernel then ends, too."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    try:
        execute(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    except BaseException as error:  # the last line of what is printed tells why it ended
        sys.exit(f"{type(error).__name__}: {error}")
