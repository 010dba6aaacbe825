"""Jobs, most of them notebooks: each in its own process, several at a time, in order of need.

The process that runs them holds no model. A kernel lives as long as its notebook, so its memory is
surely freed. The run store keeps what was computed before; this module only saves the start of
kernels that would find everything there.
"""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import fmean
from typing import Literal

from hybridlib.store import paths
from hybridlib.store.environment import cores, has_gpu, memory
from hybridlib.store.errors import OneLineError
from hybridlib.study import notebook as nb

HEARTBEAT = 30.0  # seconds without a finished job until the running ones are shown
MEMORY_A_JOB = 3 << 30  # bytes: torch, a model, its optimiser and a batch of rollouts


@dataclass(frozen=True)
class Job:
    """One notebook, or one `call` in this process, and the jobs that it needs."""

    name: str
    notebook: Path | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    output: Path | None = None
    needs: tuple[str, ...] = ()
    done: Callable[[], bool] = lambda: False  # is everything that it computes in the store?
    key: str = ""  # of the results that the executed notebook shows
    call: Callable[[], object] | None = None

    @property
    def kind(self) -> str:
        """What the job does, in a word: base, train, evaluate, tables, figures."""
        return self.name.split()[0]

    def stamp(self) -> str:
        """A hash that changes when the executed notebook would show something else.

        Paths count as they are within the project, which may lie anywhere. Of the file of the
        study's parameters the name does not count, since the key tells of those that matter.
        """
        project = json.dumps(f"{paths.PROJECT}/")[1:-1]
        shown = json.dumps([dict(self.parameters), self.key], sort_keys=True).replace(project, "")
        shown = re.sub(r"/configs/[0-9a-f]{16}\.yaml", "/config.yaml", shown)
        return hashlib.sha256(self.notebook.read_bytes() + shown.encode()).hexdigest()[:16]

    def unchanged(self) -> bool:
        """Whether the work is in the store and the executed notebook shows it."""
        if self.call:
            return False
        return nb.metadata_of(self.output).get("stamp") == self.stamp() and self.done()

    def retry(self) -> str:
        """The command that runs this job alone, from any folder."""
        if self.call:
            return "(run the study again)"
        files = (str(path.absolute()) for path in (self.notebook, self.output))
        given = json.dumps(dict(self.parameters), ensure_ascii=False)  # YAML has no surrogates
        parameters = ["-y", given] if self.parameters else []
        return shlex.join([sys.executable, "-m", "papermill", *files, *parameters])


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `error`: one line, empty unless it failed or was skipped."""

    job: Job
    status: Literal["finished", "unchanged", "failed", "skipped"]
    seconds: float = 0.0
    error: str = ""


class StudyError(OneLineError, RuntimeError):
    """Some jobs of a study failed."""


def run(
    jobs: Sequence[Job],
    workers: int | None = None,
    *,
    report: Callable[[str], object] = print,
    heartbeat: float = HEARTBEAT,
) -> list[Outcome]:
    """Run `jobs`, `workers` at a time: next is the first in the list whose needs are met.

    Returns one outcome a job, in the order in which they ended. Raises StudyError if a job failed;
    every job that can run has run, and `report` has told which failed, why, and the command that
    retries each.
    """
    _check_order(jobs)
    workers = workers or default_workers()
    waiting, progress = list(jobs), _Progress(jobs, workers, report)
    outcomes, running = progress.outcomes, {}
    with futures.ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or running:
                for job in list(waiting):
                    if any(name not in outcomes for name in job.needs):
                        continue
                    lost = [name for name in job.needs if outcomes[name].error]
                    if lost:
                        progress.ended(Outcome(job, "skipped", error=f"needs {lost[0]}"))
                    elif len(running) == workers:
                        break
                    elif job.unchanged():
                        progress.ended(Outcome(job, "unchanged"))
                    else:
                        # The number of threads may not depend on what else is running: it changes
                        # the rounding of sums, and a study must repeat to the last bit.
                        work = Work(job, max(1, cores() // workers))
                        running[pool.submit(work.run)] = work
                    waiting.remove(job)
                finished, _ = futures.wait(running, heartbeat, futures.FIRST_COMPLETED)
                if running and not finished:
                    progress.beat(running.values())
                for future in finished:
                    del running[future]
                    progress.ended(future.result())
        except BaseException:
            for work in running.values():
                work.stop()
            raise
    progress.tell_unchanged()
    _raise_for(outcomes.values(), report)
    return list(outcomes.values())


def default_workers() -> int:
    """How many notebooks run at once: one on a GPU, else one a core as memory allows."""
    return 1 if has_gpu() else max(1, min(cores(), memory() // MEMORY_A_JOB))


@contextmanager
def processes() -> Iterator[futures.ProcessPoolExecutor]:
    """A pool of processes that train, each on its share of the cores, as in the study.

    If the body raises, they end at once; the store goes on from their checkpoints.
    """
    workers = default_workers()
    threads = max(1, cores() // workers)
    begin = get_context("spawn"), _begin, (os.getpid(), threads)
    with futures.ProcessPoolExecutor(workers, *begin) as pool:
        # Ctrl-C is for this process alone, which ends them: one that is born while it is blocked
        # never sees it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        for _ in range(workers):
            pool.submit(int)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            yield pool
        except BaseException:
            # The thread of the pool complains of what was cancelled in the meantime.
            threading.excepthook = lambda _: None
            # Else the pool would still do what it has taken out of its queue.
            for child in active_children():
                child.terminate()
            raise


def _begin(parent: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=nb.end_with, args=(parent,), daemon=True).start()


def duration(seconds: float) -> str:
    """Seconds as text: 41 s, 9 min, 1 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Work:
    """A job that a thread of the pool is running; its kernel uses this number of `threads`."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads = job, threads
        self.begun, self.last_line = time.monotonic(), ""
        self._child: subprocess.Popen[str] | None = None
        self._stopped, self._lock = False, threading.Lock()

    def run(self) -> Outcome:
        error = ""
        try:
            if self.job.call:
                self.job.call()
            else:
                error = self.execute()
        except Exception as exception:
            error = nb.one_line(f"{type(exception).__name__}: {exception}")
        seconds = time.monotonic() - self.begun
        return Outcome(self.job, "failed" if error else "finished", seconds, error)

    def execute(self) -> str:
        """Execute the notebook in a child process; return "" or why it failed."""
        job, stamp = self.job, self.job.stamp()  # now: the source may be edited while it runs
        killed_before = nb.killed_for_memory()
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if not job.output.is_dir():
            job.output.unlink(missing_ok=True)
        command = [sys.executable, "-m", "hybridlib.study.notebook", job.notebook, job.output]
        with self._lock:
            if self._stopped:
                return "stopped"
            self._child = subprocess.Popen(
                [*command, json.dumps(job.parameters)],
                env=os.environ | nb.kernel_variables(self.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        with self._child as child:
            for line in filter(None, map(nb.one_line, child.stdout)):
                self.last_line = line
        if child.returncode:
            error = nb.error_in(job.output) or self.last_line or "it ended without a message"
            if killed := nb.why_killed(child.returncode, killed_before):
                error = f"Process died{killed}"
            return nb.hinted(error)
        nb.write_stamp(job.output, stamp)
        return ""

    def stop(self) -> None:
        """End the child process, if any; its kernel follows within a second or two."""
        with self._lock:
            self._stopped = True
            if self._child:
                self._child.terminate()


class _Progress:
    """How the jobs ended: reports a line for each, with an estimate of the time left."""

    def __init__(self, jobs: Sequence[Job], workers: int, report: Callable[[str], object]) -> None:
        self.jobs, self.workers, self.report = jobs, workers, report
        self.outcomes: dict[str, Outcome] = {}
        self.unchanged = 0

    def ended(self, outcome: Outcome) -> None:
        name, status = outcome.job.name, outcome.status
        if status in ("finished", "failed"):
            self.tell_unchanged()
        self.outcomes[name] = outcome
        if status == "unchanged":
            self.unchanged += 1
        elif status == "failed":
            self._tell(f"{name}   FAILED: {outcome.error}")
        elif status == "finished":
            self._tell(f"{name}   {duration(outcome.seconds)}{self._time_left()}")

    def beat(self, running: Iterable[Work]) -> None:
        for work in running:
            took = duration(time.monotonic() - work.begun)
            self.report(f"        {work.job.name}   {took} so far   {work.last_line}".rstrip())

    def tell_unchanged(self) -> None:
        if self.unchanged:
            self._tell(f"{self.unchanged} unchanged since an earlier run")
            self.unchanged = 0

    def _tell(self, text: str) -> None:
        self.report(f"[{len(self.outcomes)}/{len(self.jobs)}] {text}")

    def _time_left(self) -> str:
        timed: dict[str, list[float]] = {}
        for outcome in self.outcomes.values():
            if outcome.status == "finished" and outcome.job.notebook:
                timed.setdefault(outcome.job.kind, []).append(outcome.seconds)
        if not timed:
            return ""
        anything = fmean(seconds for kind in timed.values() for seconds in kind)
        each = {kind: fmean(seconds) for kind, seconds in timed.items()}
        # Jobs without a key only draw figures, in seconds, which count once one of them has run.
        jobs = [job for job in self.jobs if job.name not in self.outcomes]
        left = sum(each.get(job.kind, anything if job.key else 0) for job in jobs)
        return f"   about {duration(left / self.workers)} left" if left else ""


def _check_order(jobs: Sequence[Job]) -> None:
    known: set[str] = set()
    for job in jobs:
        if unknown := set(job.needs) - known:
            raise ValueError(f"{job.name} needs {min(unknown)}, which does not come before it")
        if job.name in known:
            raise ValueError(f"two jobs are called {job.name}")
        known.add(job.name)


def _raise_for(outcomes: Sequence[Outcome], report: Callable[[str], object]) -> None:
    """Report what failed, and raise StudyError if anything did."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if not failed:
        return
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    report("")
    for outcome in failed:
        report(f"failed: {outcome.job.name}   {outcome.error}")
        report(f"        retry: {outcome.job.retry()}")
    one = failed[0]
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    rest = f"; {skipped} that need them were skipped" if skipped else ""
    raise StudyError(f"{one.job.name} failed{others}: {one.error}{rest}")
