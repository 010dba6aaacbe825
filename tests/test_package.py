"""The package as pip installs it, apart from the checkout: data files, metadata, command."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hybridlib.store.paths import PROJECT

FROM_ELSEWHERE = """
import hybridlib.__main__, hybridlib.config, hybridlib.evaluation.hypotheses, hybridlib.store.paths
assert hybridlib.config.load_config("smoke").preset == "smoke"
assert hybridlib.evaluation.hypotheses.load().claims
print(hybridlib.store.paths.PROJECT)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", PROJECT.as_uri(), source], check=True)
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place)
    subprocess.run([*command, source], check=True)
    return zipfile.ZipFile(next(place.glob("*.whl")))


@pytest.mark.network  # pip fetches the build system
def test_a_wheel_holds_what_the_library_reads(wheel, tmp_path):
    held = set(wheel.namelist())
    files = subprocess.run(
        ["git", "-C", PROJECT, "ls-files", "hybridlib", "notebooks"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    kinds = (".csv", ".yaml", ".ipynb", ".css", ".py")
    data = [path for path in map(Path, files) if path.suffix in kinds]
    inside = (p if p.parts[0] == "hybridlib" else "hybridlib" / p for p in data)
    assert {path.as_posix() for path in inside} <= held
    (entry,) = (wheel.read(name).decode() for name in held if name.endswith("entry_points.txt"))
    assert "hybridlib = hybridlib.__main__:main" in entry
    (metadata,) = (wheel.read(name).decode() for name in held if name.endswith("METADATA"))
    assert "License-Expression: Apache-2.0" in metadata and "# Does RL alone" in metadata
    wheel.extractall(tmp_path / "installed")
    said = subprocess.run(
        [sys.executable, "-c", FROM_ELSEWHERE],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert Path(said.strip()) == tmp_path, "results go to the working directory"
