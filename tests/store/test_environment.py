"""The record of what a result was computed on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny

from hybridlib.store import environment as machine
from hybridlib.store.environment import cores, environment, has_gpu, memory
from hybridlib.study import jobs, keys


def test_it_imports_nothing_heavy():
    code = """
import sys
from hybridlib.store.environment import environment
found = environment()
print(found["threads"], found["blas"], sorted({"torch", "numpy"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", code]
    for threads, said in (("3", "3"), ("", str(cores()))):
        variables = os.environ | {"OMP_NUM_THREADS": threads}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"{said} not loaded []"


def test_threads_and_libraries_are_those_that_are_loaded():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert environment()["threads"] == str(before + 1)
    finally:
        torch.set_num_threads(before)
    blas = environment()["blas"]
    assert np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"] in blas
    assert re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())[1] in blas


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux alone names its flags there")
def test_the_instruction_set_is_what_torch_finds():
    found = environment()["instructions"].split()
    capability = torch.backends.cpu.get_cpu_capability()
    expected = {"AVX2": "avx2", "AVX512": "avx512f"}.get(capability)
    assert expected is None or expected in found
    assert ("amx_bf16" in found) == torch.cpu._is_amx_tile_supported()


def test_versions_are_those_of_the_packages():
    assert environment()["torch"] == torch.__version__
    assert environment()["trl"][0].isdigit()


def test_no_key_depends_on_it(monkeypatch):
    unit = ("train", "sft", "none", 0)
    before = keys.of(tiny(), *unit).key
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores() + 1))
    assert keys.of(tiny(), *unit).key == before
    assert not environment().keys() & keys.of(tiny(), *unit).inputs().keys()


#: Lines of /proc/self/mountinfo, from Linux's proc(5): one hierarchy; one of each controller.
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "".join(
    f"3{n} 31 0:3{n} {{top}} /sys/fs/cgroup/{names} ro master:{n} - cgroup cgroup rw,{names}\n"
    for n, names in enumerate(("cpu,cpuacct", "cpuset", "memory"))
)
BOTH = V1.format(top="/") + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
DOCKER = "".join(f"{n}:/docker/c0\n" for n in ("4:memory", "3:cpuset", "2:cpu,cpuacct", "1:name=x"))
NONE = 9223372036854771712  # what version 1 says where it has no limit
GIB = 1 << 30


@pytest.mark.parametrize(
    ("mounts", "own", "files", "expected"),
    [
        # docker run --cpus=1 -m 4g: the container sees its own group as the top.
        (V2, "0::/", {"cpu.max": "100000 100000", "memory.max": f"{4 * GIB}"}, (1, 4 * GIB)),
        (V2, "0::/", {"cpu.max": "50000 100000", "memory.max": "1288490188"}, (1, 1288490188)),
        (V2, "0::/", {"cpu.max": "250000 50000", "memory.max": "max"}, (5, 64 * GIB)),
        (V2, "0::/", {"cpu.max": "max 100000", "memory.max": f"{99 * GIB}"}, (16, 64 * GIB)),
        (V2, "0::/", {"cpu.max": "9900000 100000", "memory.high": f"{3 * GIB}"}, (16, 3 * GIB)),
        # a service within a slice: the outer group has the tighter limit of one, not of the other
        (
            V2,
            "0::/user.slice/run-7.scope",
            {
                "cpu.max": "1000000 100000",
                "user.slice/cpu.max": "300000 100000",
                "user.slice/memory.max": f"{32 * GIB}",
                "user.slice/run-7.scope/cpu.max": "800000 100000",
                "user.slice/run-7.scope/memory.max": f"{8 * GIB}",
                "user.slice/run-8.scope/cpu.max": "100000 100000",
                "elsewhere/memory.max": "1024",
            },
            (3, 8 * GIB),
        ),
        (
            V1.format(top="/docker/c0"),
            DOCKER,
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "150000",
                "cpu,cpuacct/cpu.cfs_period_us": "50000",
                "memory/memory.limit_in_bytes": f"{4 * GIB}",
            },
            (3, 4 * GIB),
        ),
        (
            V1.format(top="/docker/c0"),
            DOCKER.replace("memory:/docker/c0", "memory:/docker/c0/inner"),
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": f"{NONE}",
                "memory/inner/memory.limit_in_bytes": f"{2 * GIB}",
            },
            (16, 2 * GIB),
        ),
        # both versions at once; the group of the host
        (
            BOTH,
            DOCKER + "0::/docker/c0\n",
            {
                "cpu,cpuacct/docker/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
                "memory/docker/c0/memory.limit_in_bytes": f"{GIB}",
                "unified/docker/c0/cpu.max": "max 100000",
            },
            (2, GIB),
        ),
        # outside what its namespace shows; no limits; no groups; odd files
        (V2, "0::/../../other", {"cpu.max": "200000 100000"}, (2, 64 * GIB)),
        (V2, "0::/", {}, (16, 64 * GIB)),
        ("", "", {"cpu.max": "100000 100000"}, (16, 64 * GIB)),
        (V2, "0::/", {"cpu.max": "", "memory.max": "many"}, (16, 64 * GIB)),
        (V2, "0::/", {"cpu.max": "100000 0", "memory.max": "\udcff"}, (16, 64 * GIB)),
        ("who knows\n" + V2, "0::/", {"cpu.max": "100000 100000"}, (16, 64 * GIB)),
    ],
)
def test_limits_of_groups_are_kept(tmp_path: Path, monkeypatch, mounts, own, files, expected):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(own)
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8", errors="surrogateescape")
    assert (cores(tmp_path), memory(tmp_path)) == expected


def test_without_proc_the_machine_counts(tmp_path: Path):
    assert cores(tmp_path) == len(os.sched_getaffinity(0))
    assert memory(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("share", "held", "workers"), [(1, 4, 1), (1, 1.2, 1), (16, 4, 1), (16, 12, 4), (3, 64, 3)]
)
def test_workers_fit_into_the_container(monkeypatch, share, held, workers):
    monkeypatch.setattr(jobs, "cores", lambda: share)
    monkeypatch.setattr(jobs, "memory", lambda: int(held * GIB))
    assert jobs.default_workers() == workers


def test_memory_is_at_most_what_the_process_may_map():
    code = "from hybridlib.store.environment import memory; print(memory())"
    limited = f"ulimit -v 2000000; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2_000_000 * 1024


def test_the_makefile_counts_cores_alike():
    one = min(os.sched_getaffinity(0))
    told = {"input": "include Makefile\ntold: ; @echo $(CORES)", "cwd": Path(__file__).parents[2]}
    told["preexec_fn"] = lambda: os.sched_setaffinity(0, {one})
    asked = ["make", "--silent", "--file=-", "told"]
    done = subprocess.run(asked, **told, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_a_program_called_nvidia_smi_is_no_gpu(tmp_path: Path, monkeypatch):
    """Neither for a process that has imported torch nor for one that has not."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    expected = max(1, min(cores(), memory() // jobs.MEMORY_A_JOB))
    code = "import sys; from hybridlib.study import jobs; print(jobs.default_workers())"
    code += "; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == jobs.default_workers() == expected


@pytest.mark.parametrize("found", [True, False])
def test_torch_is_asked_for_a_gpu(monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setattr(machine, "DRIVERS", ())  # whatever the system seems to have
    assert has_gpu() == found
    if found:
        assert jobs.default_workers() == 1


@pytest.mark.parametrize(("devices", "status", "found"), [("null", 0, True), ("null", 1, False)])
def test_another_process_is_asked_where_there_is_a_driver(
    tmp_path: Path, monkeypatch, devices, status, found
):
    """An interpreter that answers in place of one with torch; without a device it is not asked."""
    asked = tmp_path / "python"
    asked.write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/said\nexit {status}\n')
    asked.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(asked))
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(machine, "DRIVERS", (devices,))
    assert has_gpu() == found
    assert "torch.cuda.is_available()" in (tmp_path / "said").read_text()
    monkeypatch.setattr(machine, "DRIVERS", ("no such device*",))
    (tmp_path / "said").unlink()
    assert not has_gpu() and not (tmp_path / "said").exists()
