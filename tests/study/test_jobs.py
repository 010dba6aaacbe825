"""Jobs on local processes, with notebooks made for the purpose."""

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest
from standin import notebook

from hybridlib.study import notebook as nb
from hybridlib.study.jobs import Job, StudyError, cores, duration, run

TIMEOUT = 60


class Bench:
    """Makes notebooks and jobs in one folder; keeps what run() reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def job(self, name: str, source: str, *, done: bool = True, **fields) -> Job:
        path = self.folder / f"{name.replace(' ', '-')}.ipynb"
        nbformat.write(notebook("x = 0  # a number", source), path)
        output = self.folder / "out" / path.name
        return Job(name, path, output=output, done=lambda: done, **fields)

    def run(self, *jobs: Job, workers: int = 2, **options):
        self.lines.clear()
        return run(jobs, workers, report=self.lines.append, **options)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def touch(path: Path) -> str:
    return f"from pathlib import Path; Path({str(path)!r}).open('a').write(f'{{x}} ')"


def statuses(outcomes) -> dict[str, str]:
    return {outcome.job.name: outcome.status for outcome in outcomes}


def test_runs_what_changed_and_nothing_else(bench: Bench, tmp_path: Path):
    trace = tmp_path / "trace"
    one = bench.job("one", touch(trace), parameters={"x": 1})
    two = bench.job("two", touch(trace), parameters={"x": 2}, key="two", needs=("one",))
    called = []
    table = Job("table", call=lambda: called.append(1), needs=("two",))
    assert statuses(bench.run(one, two, table)) == dict.fromkeys(
        ("one", "two", "table"), "finished"
    )
    assert trace.read_text() == "1 2 "
    assert [line.split()[:2] for line in bench.lines] == [
        ["[1/3]", "one"],
        ["[2/3]", "two"],
        ["[3/3]", "table"],
    ]
    assert "left" in bench.lines[0]
    assert "left" not in bench.lines[1], "the table is called here, within seconds"
    assert "left" not in bench.lines[2]

    again = statuses(bench.run(one, two, table))
    assert again == {"one": "unchanged", "two": "unchanged", "table": "finished"}
    assert bench.lines[0] == "[2/3] 2 unchanged since an earlier run"
    assert trace.read_text() == "1 2 "
    assert called == [1, 1]


@pytest.mark.parametrize("change", ["source", "parameters", "key", "output", "store"])
def test_a_job_is_unchanged_only_if_all_it_shows_is(bench: Bench, change: str):
    job = bench.job("one", "x", parameters={"x": 1}, key="a")
    job.output.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(), job.output)
    assert not job.unchanged()
    nb.write_stamp(job.output, job.stamp())
    assert job.unchanged()
    if change == "source":
        job = bench.job("one", "x + 1", parameters={"x": 1}, key="a")
    elif change == "parameters":
        job = bench.job("one", "x", parameters={"x": 2}, key="a")
    elif change == "key":
        job = bench.job("one", "x", parameters={"x": 1}, key="b")
    elif change == "output":
        job.output.unlink()
    else:
        job = bench.job("one", "x", parameters={"x": 1}, key="a", done=False)
    assert not job.unchanged()


def test_a_failure_leaves_the_others_going(bench: Bench, tmp_path: Path):
    trace = tmp_path / "trace"
    bad = bench.job("bad one", "raise ValueError('no such thing\\nsecond line')")
    needy = bench.job("needy", "x", needs=("bad one",))
    needier = bench.job("needier", "x", needs=("needy",))
    good = bench.job("good", touch(trace))
    with pytest.raises(StudyError) as error:
        bench.run(bad, needy, needier, good, workers=1)
    message = str(error.value)
    assert (
        message == ("bad one failed: ValueError: no such thing; 2 that need them were skipped")
        and len(error.value._render_traceback_()) == 1
    )
    assert trace.exists()
    text = "\n".join(bench.lines)
    assert "FAILED: ValueError: no such thing" in text
    assert not bad.unchanged()


def test_the_command_that_retries_works_as_it_is_shown_in_any_folder(tmp_path: Path):
    bench = Bench(tmp_path / "it's a 'folder' \N{GRINNING FACE}")
    bench.folder.mkdir()
    preset = str(bench.folder / "configs" / "a.yaml")
    bad = bench.job("bad one", "raise ValueError('no')", parameters={"x": preset})
    with pytest.raises(StudyError):
        bench.run(bad)
    mended = bench.job("bad one", touch(tmp_path / "trace"))
    retry = next(line for line in bench.lines if "retry" in line).split("retry: ")[1]
    done = subprocess.run(retry, shell=True, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert nb.error_in(mended.output) == ""
    assert (tmp_path / "trace").read_text() == f"{preset} "


def test_a_kernel_that_dies_is_one_line_that_tells_whether_memory_ran_out(bench: Bench):
    killed = bench.job("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    crashed = bench.job("crashed", "import os; os._exit(3)")
    with pytest.raises(StudyError, match="Kernel died"):
        bench.run(killed, crashed)
    said = {line.split()[1]: line for line in bench.lines if line.startswith("failed: ")}
    less = "fewer notebooks at once need less: -p workers 1"
    assert said["killed"].endswith(
        f"Kernel died: it was killed, most likely because memory ran out; {less}"
    )
    assert said["crashed"].endswith("Kernel died")


def test_the_system_is_asked_whether_it_killed_for_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nb, "killed_for_memory", lambda: 4)
    assert nb.why_killed(-signal.SIGKILL, 3) == ": it was killed, as memory ran out"
    assert "most likely" in nb.why_killed(-signal.SIGKILL, 4)
    assert nb.why_killed(-signal.SIGSEGV, 3) == nb.why_killed(1, 3) == nb.why_killed(0, 3) == ""


def test_a_process_that_is_killed_beside_its_kernel_is_one_line(bench: Bench):
    """The system may choose either of the two."""
    source = """
        import os, signal, time
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(300)
    """
    with pytest.raises(StudyError, match=r"^one failed: Process died: .*memory ran out.*s 1$"):
        bench.run(bench.job("one", textwrap.dedent(source)))


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        ("MemoryError: ", True),
        ("_ArrayMemoryError: Unable to allocate 8.00 GiB for an array", True),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", True),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("OSError: [Errno 12] Cannot allocate memory", True),
        ("ValueError: no", False),
        ("the memory of a study", False),
        ("", False),
    ],
)
def test_where_memory_ran_out_it_says_what_to_do(error: str, is_memory: bool):
    assert nb.hinted(error).startswith(error)
    assert nb.hinted(error).endswith("-p workers 1") == is_memory


def test_without_a_loopback_it_says_so_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments, **options):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    job = bench.job("one", "x")
    with pytest.raises(nb.KernelError, match=r"127\.0\.0\.1.*Network is unreachable.*set lo up"):
        nb.execute(job.notebook, job.output, {})


@pytest.mark.parametrize(("deaths", "status"), [(1, "finished"), (2, "failed")])
def test_a_kernel_that_dies_before_it_answers_is_started_once_more(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, status: str
):
    starts, folder = tmp_path / "starts", tmp_path / "first"
    launcher = f"""
        import runpy, sys
        with open({str(starts)!r}, "a+") as file:
            file.write("start ")
            file.seek(0)
            if len(file.read().split()) <= {deaths}:
                sys.exit(1)
        sys.path.remove({str(folder)!r})
        runpy.run_module("ipykernel_launcher", run_name="__main__")
    """
    folder.mkdir()
    (folder / "ipykernel_launcher.py").write_text(textwrap.dedent(launcher))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    job = bench.job("one", touch(tmp_path / "trace"), parameters={"x": 1})
    if status == "finished":
        assert statuses(bench.run(job)) == {"one": status}
        assert (tmp_path / "trace").read_text() == "1 "
    else:
        with pytest.raises(StudyError, match="Kernel died before replying"):
            bench.run(job)
    assert starts.read_text() == "start start "


def test_a_call_that_fails_is_one_line(bench: Bench):
    with pytest.raises(StudyError, match=r"^tables failed: ZeroDivisionError: division by zero$"):
        bench.run(Job("tables", call=lambda: 1 / 0))


def test_threads_depend_on_the_number_of_workers_alone(bench: Bench, tmp_path: Path):
    show = "import os; from pathlib import Path; " + (
        f"Path({str(tmp_path)!r}, str(x)).write_text(os.environ['OMP_NUM_THREADS'])"
    )
    bench.run(
        bench.job("first", show, parameters={"x": 1}),
        bench.job("alone", show, parameters={"x": 2}, needs=("first",)),
        workers=2,
    )
    for each in ("1", "2"):
        assert (tmp_path / each).read_text() == str(max(1, cores() // 2))


def test_long_jobs_show_their_last_line(bench: Bench):
    job = bench.job("long", "import time\nprint('step 7', flush=True)\ntime.sleep(4)")
    bench.run(job, heartbeat=0.5)
    assert any("long" in line and line.endswith("step 7") for line in bench.lines)


def test_two_at_a_time(bench: Bench, tmp_path: Path):
    # Each waits until the other has begun: neither would end if they ran one after the other.
    source = """
        import time
        from pathlib import Path
        (Path({folder!r}) / str(x)).touch()
        end = time.monotonic() + 40
        while not (Path({folder!r}) / str(3 - x)).exists():
            assert time.monotonic() < end
            time.sleep(0.05)
    """
    source = textwrap.dedent(source).format(folder=str(tmp_path))
    jobs = [bench.job(f"job {x}", source, parameters={"x": x}) for x in (1, 2)]
    assert set(statuses(bench.run(*jobs)).values()) == {"finished"}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_study_that_is_stopped_leaves_no_process(bench: Bench, tmp_path: Path, number: int):
    pid = tmp_path / "pid"
    source = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)"
    job = bench.job("endless", source)
    code = f"""
        import signal
        from pathlib import Path
        from hybridlib.study.jobs import Job, run
        # A shell's background jobs, and what they start, are born deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run([Job("endless", Path({str(job.notebook)!r}), output=Path({str(job.output)!r}))], 1)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=-3)
    end = time.monotonic() + TIMEOUT
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(TIMEOUT) != 0
    kernel = int(pid.read_text())
    while alive(kernel):
        assert time.monotonic() < end, "the kernel lives on"
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_stops_beside_a_pool_leaves_no_process(tmp_path: Path, number: int):
    """More work than the pool has processes: none of it goes on, and none of it is begun."""
    trace = tmp_path / "trace"
    module = """
        import os, time
        def work(trace):
            open(trace, "a").write(f"{os.getpid()} ")
            time.sleep(300)
    """
    code = f"""
        import signal, sys
        from endless import work
        from hybridlib.study.jobs import processes
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                with processes() as pool:
                    list(pool.map(work, [{str(trace)!r}] * 20))
            except KeyboardInterrupt:
                sys.exit("stopped")
    """
    (tmp_path / "endless.py").write_text(textwrap.dedent(module))
    (tmp_path / "main.py").write_text(textwrap.dedent(code))
    with (tmp_path / "said").open("w") as said:
        command = [sys.executable, str(tmp_path / "main.py")]
        process = subprocess.Popen(command, stderr=said, start_new_session=True)
    end = time.monotonic() + TIMEOUT
    while not (trace.exists() and trace.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: all that run in its foreground
    else:
        process.send_signal(number)
    assert process.wait(TIMEOUT) != 0
    if number == signal.SIGINT:
        assert (tmp_path / "said").read_text() == "stopped\n"
    while any(alive(int(pid)) for pid in trace.read_text().split()):
        assert time.monotonic() < end, "a process lives on"
        time.sleep(0.1)
    assert len(trace.read_text().split()) <= cores()


@pytest.mark.parametrize(
    "jobs",
    [
        [Job("a", call=print, needs=("b",)), Job("b", call=print)],
        [Job("a", call=print), Job("a", call=print)],
    ],
)
def test_a_plan_out_of_order_is_refused(jobs):
    with pytest.raises(ValueError):
        run(jobs, 1, report=lambda line: None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 00 min"), (3900, "1 h 05 min")],
)
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text
