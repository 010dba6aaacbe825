"""The run store: a folder a key, made once, verified whenever it is handed out.

    <root>/<stage>/<key>/             finished: manifest.json holds size and sha256 of every file
    <root>/<stage>/.<key>.partial/    being made, or left by a try that was killed
    <root>/<stage>/.<key>.damaged/    set aside because it did not verify
    <root>/<stage>/.<key>.lock        held by the one process that makes it

The key is a hash of all that the result depends on (stage.py), so a folder that verifies is never
stale. Nothing here unpickles.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hybridlib.store.environment import environment
from hybridlib.store.errors import OneLineError, ParameterError, disk_is_full
from hybridlib.store.paths import PROJECT
from hybridlib.store.stage import digest

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
#: Nanoseconds within which two writes may leave the same time on a file, on any file system.
TICK = 2_000_000_000
#: Bytes without which a disk counts as full.
ROOM = 1 << 16
#: Of a file system on which nothing can be locked.
LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


class StoreError(OneLineError, RuntimeError):
    """The store cannot be used where it is: one line that says why and what to do."""


class Store:
    """Finished stages under `root` (default: $HYBRIDLIB_STORE, else results/local/store).

    Raises ParameterError if $HYBRIDLIB_STORE is no place.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root).resolve() if root else _default()

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

        Raises StoreError if nothing can be written there; what was written stays.
        """
        final = self.path(stage, key)
        if damage(final, stage, key) is None:
            return final
        inputs = json.loads(json.dumps(inputs, allow_nan=False))  # an error now, not after the work
        with _one_line(self.root):
            final.parent.mkdir(parents=True, exist_ok=True)
            with _locked(final.with_name(f".{key}.lock"), f"{stage}/{key}"):
                if reason := damage(final, stage, key):
                    if os.path.lexists(final):
                        log.warning("%s/%s: %s; set aside and made again", stage, key, reason)
                        set_aside(final)
                    _fill(final, stage, key, make, inputs)
        return final


def _default() -> Path:
    named = os.environ.get("HYBRIDLIB_STORE")
    if not named:
        return (PROJECT / "results" / "local" / "store").resolve()
    try:
        root = Path(named).expanduser()
        if root.is_absolute():
            return root.resolve()
    except (OSError, RuntimeError):  # no such user, a circle of links
        pass
    raise ParameterError(
        f"HYBRIDLIB_STORE is {named!r}, which is no place of its own: set it to an absolute path, "
        "or to nothing for results/local/store"
    )


@contextmanager
def _one_line(root: Path) -> Iterator[None]:
    """Raise StoreError for what the file system of `root` refuses."""
    try:
        yield
    except OneLineError:
        raise
    except Exception as error:
        # torch only says that it could not write, by numbers of its own.
        left = shutil.disk_usage(root).free if root.is_dir() else ROOM
        if left < ROOM or disk_is_full(error):
            raise StoreError(
                f"the disk of the store {root} is full: free some space and run this again, "
                "it goes on from there"
            ) from error
        if isinstance(error, OSError) and _is_of(root, error):
            raise StoreError(
                f"the store {root} cannot be used ({error.strerror}: {error.filename}): "
                "mend that, or set HYBRIDLIB_STORE to a folder that can be written"
            ) from error
        raise


def _is_of(root: Path, error: OSError) -> bool:
    """Whether an error is about the place of the store, not about the work that was done in it."""
    if error.errno in LOCKLESS or not os.access(root, os.W_OK):
        return True
    return error.errno != errno.ENOENT and Path(str(error.filename)).is_relative_to(root)


@contextmanager
def _locked(place: Path, name: str) -> Iterator[None]:
    """Hold the lock of a folder; wait for it if another process does."""
    if os.path.lexists(place) and not place.is_file():
        set_aside(place)
    lock = FileLock(place)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("%s: another process is making it, waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fill(
    final: Path, stage: str, key: str, make: Callable[[Path], object], inputs: dict[str, Any]
) -> None:
    """Make a folder that is not there, from what an earlier try has left."""
    partial = final.with_name(f".{key}.partial")
    if os.path.lexists(partial) and not partial.is_dir():
        set_aside(partial)
    partial.mkdir(exist_ok=True)
    # If it verifies, its process was killed between manifest and rename: the work is done.
    if damage(partial, stage, key):
        _remove(partial / MANIFEST)
        for path in _files(partial).values():
            if path == partial / CHECKPOINTS or not path.is_file():
                _remove(path)
        make(partial)
        write_manifest(partial, stage, key, inputs)
    _remove(partial / CHECKPOINTS)
    partial.replace(final)
    _sync(final.parent)


def set_aside(path: Path) -> None:
    """Rename to .NAME.damaged what lies at `path`. What has that name is removed, if it can be."""
    for number in count():
        aside = path.with_name(f".{path.name.lstrip('.')}.damaged{number or ''}")
        _remove(aside)
        if not os.path.lexists(aside):
            path.rename(aside)
            return


def _remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is possible."""
    with suppress(OSError):
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


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
    text = json.dumps(body | {"sha256": digest(body)}, indent=1)
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
    try:
        stats = {name: path.stat() for name, path in _files(folder).items()}
        seen = {n: (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for n, s in stats.items()}
        if seen and _verified.get((folder, stage, key)) == seen:
            return None
        if odd := [name for name, found in stats.items() if not stat.S_ISREG(found.st_mode)]:
            return f"{odd[0]!r} is no file"
        if reason := _damage(folder, stage, key):
            return reason
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if time.time_ns() - max(found.st_ctime_ns for found in stats.values()) > TICK:
        _verified[folder, stage, key] = seen
    return None


def _damage(folder: Path, stage: str, key: str) -> str | None:
    present = _files(folder)
    if not present.pop(MANIFEST, None):
        return "it has no manifest"
    try:
        manifest = read_manifest(folder)
        body = {name: value for name, value in manifest.items() if name != "sha256"}
        if manifest["sha256"] != digest(body) or (body["stage"], body["key"]) != (stage, key):
            return "its manifest was altered"
        recorded = {name: (size, whole) for name, (size, whole) in body["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "its manifest cannot be read"
    if names := sorted(present.keys() ^ recorded.keys()):
        return f"{names[0]!r} is {'extra' if names[0] in present else 'missing'}"
    for name, path in present.items():
        if (path.stat().st_size, sha256(path)) != recorded[name]:
            return f"{name!r} was altered"
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
    except OSError:
        if not path.is_dir():  # which not every file system can force
            raise
    finally:
        os.close(descriptor)
