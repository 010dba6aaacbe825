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

from hybridlib.store.environment import cores, environment
from hybridlib.study import keys


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
