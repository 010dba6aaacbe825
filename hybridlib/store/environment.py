"""On what a result was computed: versions, processor and threads, for the manifests; and how many
cores and how much memory there are to compute with.

Sums are rounded by the instruction set, the number of threads and the library of matrix products,
so two machines need not agree to the last bit. None of it is part of any key.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

PACKAGES = ("torch", "transformers", "trl", "peft", "tokenizers", "numpy", "pandas", "scipy")
#: Instructions that choose between ways to multiply matrices, in Linux's names for them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
#: The devices, in /dev, of drivers of GPUs: NVIDIA's, those of its small boards, AMD's, Windows'.
DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "kfd", "dxg")


def environment() -> dict[str, str]:
    """What a result may depend on besides its inputs. Imports nothing of what it names.

    `threads` and `blas` are those of the packages that this process has imported; `blas` is "not
    loaded" where it has imported none.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else os.environ.get("OMP_NUM_THREADS") or cores()
    processor, flags = _processor()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "instructions": " ".join(name for name in INSTRUCTIONS if name in flags) or "unknown",
        "threads": str(threads),
        "blas": _blas(),
        **{name: _version(name) for name in PACKAGES},
    }


def cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use, at least 1: in a container, its share.

    root : the folder in which proc/ is, and the places that it names.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for group in _cgroups("cpu", root):
        old = [n for name in ("quota", "period") for n in _numbers(group / f"cpu.cfs_{name}_us")]
        if len(limit := _numbers(group / "cpu.max") or old) == 2:
            found = min(found, limit[0] // limit[1])
    return max(1, found)


def memory(root: Path = Path("/")) -> int:
    """The bytes of memory that this process may use: in a container, its limit.

    root : the folder in which proc/ is, and the places that it names.
    """
    import resource  # here: not every system has it

    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(soft)
    for group in _cgroups("memory", root):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            found += _numbers(group / name)
    return min(found)


def has_gpu() -> bool:
    """Whether torch finds a GPU to compute on.

    Where this process has not imported torch, another one is asked, which takes seconds; but none
    where the system has no driver's device, without which torch finds nothing.
    """
    if torch := sys.modules.get("torch"):
        return torch.cuda.is_available()
    if not any(path for name in DRIVERS for path in Path("/dev").glob(name)):
        return False
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return not subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """The groups that limit this process, of version 1 and 2: its own and all that hold it."""
    try:
        own = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
        for mount in _lines(root / "proc/self/mountinfo"):
            (_, _, _, top, place, *_), (kind, *_, options) = map(str.split, mount.split(" - "))
            used = {"cgroup": controller, "cgroup2": ""}.get(kind)
            if used is None or used not in ["", *options.split(",")]:
                continue
            for _, names, path in own:
                if used not in names.split(","):
                    continue
                # A container may see its group as the top of the mount, under its name outside.
                group = root / place.lstrip("/")
                yield group
                inside = PurePosixPath(path)
                for part in inside.relative_to(top if inside.is_relative_to(top) else "/").parts:
                    group /= part
                    yield group
    except ValueError:  # lines of another shape: nothing is known of limits
        return


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _numbers(path: Path) -> list[int]:
    """The numbers in a file of limits; none if it has no limit, or is not there."""
    try:
        numbers = [int(word) for line in _lines(path) for word in line.split()]
    except ValueError:  # max
        return []
    return numbers if min(numbers, default=0) > 0 else []


def _processor() -> tuple[str, set[str]]:
    """The name of the processor and, on Linux, its flags."""
    lines = _lines(Path("/proc/cpuinfo"))
    values = dict(line.replace("\t", "").split(":", 1) for line in reversed(lines) if ":" in line)
    name = values.get("model name", platform.processor() or platform.machine()).strip()
    return name, set(values.get("flags", values.get("Features", "")).split())


def _blas() -> str:
    found = []
    if torch := sys.modules.get("torch"):
        built = torch.__config__.show()
        found += re.findall(r"BLAS_INFO=(\w+)", built)
        found += re.findall(r"Math Kernel Library Version [\d.]+|MKL-DNN v[\d.]+", built)
    if numpy := sys.modules.get("numpy"):
        blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found.append(f"{blas['name']} {blas['version']} of numpy")
    return ", ".join(found) or "not loaded"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
