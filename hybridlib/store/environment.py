"""On what a result was computed: versions, processor and threads, for the manifests.

Sums are rounded by the instruction set, the number of threads and the library of matrix products,
so two machines need not agree to the last bit. None of it is part of any key.
"""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "trl", "peft", "tokenizers", "numpy", "pandas", "scipy")
#: Instructions that choose between ways to multiply matrices, in Linux's names for them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


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


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> tuple[str, set[str]]:
    """The name of the processor and, on Linux, its flags."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
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
