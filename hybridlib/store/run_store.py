"""The run store: a folder a key, made once, verified whenever it is handed out.

    <root>/<stage>/<key>/             finished: manifest.json holds size and sha256 of every file
    <root>/<stage>/.<key>.partial/    being made, or left by a try that was killed
    <root>/<stage>/.<key>.damaged/    set aside because it did not verify
    <root>/<stage>/.<key>.lock        held by the one process that makes it

The key is a hash of all that the result depends on (stage.py), so a folder that verifies is never
stale. Nothing here unpickles.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hybridlib.store.environment import environment
from hybridlib.store.paths import PROJECT
from hybridlib.store.stage import digest

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
#: Nanoseconds within which two writes may leave the same time on a file, on any file system.
TICK = 2_000_000_000

log = logging.getLogger(__name__)


class Store:
    """Finished stages under `root` (default: $HYBRIDLIB_STORE, else results/local/store)."""

    def __init__(self, root: Path | str | None = None) -> None:
        root = root or os.environ.get("HYBRIDLIB_STORE") or PROJECT / "results" / "local" / "store"
        self.root = Path(root).resolve()

    def path(self, stage: str, key: str) -> Path:
        """The place of the finished folder of `key`, which need not exist."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the folder is finished and every file in it is as it was written."""
        return damage(self.path(stage, key), stage, key) is None

    def get(
        self, stage: str, key: str, make: Callable[[Path], object], inputs: Mapping[str, Any]
    ) -> Path:
        """The finished folder of `key`; if there is none that verifies, it is made.

        make : called with a folder to write files in. If it is killed or raises (and so does
            this), the next call finds every file again, which it overwrites or appends to. The
            subfolder checkpoints/ is removed when it is done.
        inputs : what was hashed into `key`, as JSON types; the manifest holds it for readers.
        """
        final = self.path(stage, key)
        if damage(final, stage, key) is None:
            return final
        inputs = json.loads(json.dumps(inputs, allow_nan=False))  # an error now, not after the work
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final.with_name(f".{key}.lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            log.info("%s/%s: another process is making it, waiting", stage, key)
            lock.acquire()
        try:
            reason = damage(final, stage, key)
            if reason is None:
                return final
            if final.exists():
                log.warning("%s/%s: %s; set aside and made again", stage, key, reason)
                aside = final.with_name(f".{key}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                final.rename(aside)
            partial = final.with_name(f".{key}.partial")
            partial.mkdir(exist_ok=True)
            # If it verifies, its process was killed between manifest and rename: the work is done.
            if damage(partial, stage, key):
                (partial / MANIFEST).unlink(missing_ok=True)
                make(partial)
                write_manifest(partial, stage, key, inputs)
            shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)
            partial.replace(final)
            _sync(final.parent)
        finally:
            lock.release()
        return final


def write_manifest(folder: Path, stage: str, key: str, inputs: dict[str, Any]) -> None:
    """Write folder/manifest.json about every file outside checkpoints/; force all to disk."""
    files = _files(folder)
    for path in files.values():
        _sync(path)
    body = {
        "stage": stage,
        "key": key,
        "inputs": inputs,
        "environment": environment(),
        "files": {name: [path.stat().st_size, sha256(path)] for name, path in files.items()},
    }
    manifest = folder / MANIFEST
    text = json.dumps(body | {"sha256": digest(body)}, indent=1, ensure_ascii=False)
    manifest.write_text(text + "\n", encoding="utf-8")
    _sync(manifest)
    for inner in {folder, *(path.parent for path in files.values())}:
        _sync(inner)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


#: (folder, stage, key) -> (size, times, inode) of its files when this process verified them.
_verified: dict[tuple[Path, str, str], dict[str, tuple[int, ...]]] = {}


def damage(folder: Path, stage: str, key: str) -> str | None:
    """Why `folder` is not the finished folder of `key`; None if it is.

    A folder is hashed once a process, and again if the size, a time or the inode of a file differs
    from when it was.
    """
    stats = {name: path.stat() for name, path in _files(folder).items()}
    seen = {n: (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for n, s in stats.items()}
    if seen and _verified.get((folder, stage, key)) == seen:
        return None
    if reason := _damage(folder, stage, key):
        return reason
    if time.time_ns() - max(stat.st_ctime_ns for stat in stats.values()) > TICK:
        _verified[folder, stage, key] = seen
    return None


def _damage(folder: Path, stage: str, key: str) -> str | None:
    try:
        manifest = read_manifest(folder)
        body = {name: value for name, value in manifest.items() if name != "sha256"}
        if manifest["sha256"] != digest(body) or (body["stage"], body["key"]) != (stage, key):
            return "its manifest was altered"
        recorded = body["files"]
    except FileNotFoundError:
        return "it has no manifest"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    present = _files(folder)
    present.pop(MANIFEST)
    if names := sorted(present.keys() ^ recorded.keys()):
        return f"{names[0]} is {'extra' if names[0] in present else 'missing'}"
    for name, path in present.items():
        size, whole = recorded[name]
        if path.stat().st_size != size or sha256(path) != whole:
            return f"{name} was altered"
    return None


def sha256(path: Path) -> str:
    """The sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Relative POSIX name -> path of every file under `folder` but checkpoints, sorted."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
    return {n: p for n, p in sorted(files.items()) if not n.startswith(f"{CHECKPOINTS}/")}


def _sync(path: Path) -> None:
    """Force the content of a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
