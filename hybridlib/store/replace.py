"""Files and folders replaced whole: whatever ends it, the old one is there, or the new one.

.<name>.draft    the new one, not yet whole
.<name>.before   the old one, until all is done: if it is there, the new one does not count
.<name>.gone     what is about to be removed
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def _beside(target: Path, part: str) -> Path:
    return target.with_name(f".{target.name}.{part}")


def write(path: Path, content: bytes) -> None:
    """Write a file, if its content differs."""
    if path.is_file() and path.read_bytes() == content:
        return
    draft = _beside(path, "draft")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """A place for the new `target`, empty at first and gone at the end if it was not `placed`."""
    recover(target)
    draft = _beside(target, "draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
    finally:
        with suppress(OSError):  # what is left does no harm, and the next call removes it
            for part in ("draft", "gone"):
                shutil.rmtree(_beside(target, part), ignore_errors=True)


@contextmanager
def placed(target: Path) -> Iterator[None]:
    """Put the draft of the folder `target` in its place; the old one comes back if the body raises.

    Until the body has ended, the new one does not count: were the process killed, `recover` would
    bring back the old one.
    """
    before, is_new = _beside(target, "before"), not target.exists()
    try:
        if not is_new:
            target.rename(before)
        _beside(target, "draft").rename(target)
        yield
        if not is_new:
            before.rename(_beside(target, "gone"))
    except BaseException:
        if is_new:
            shutil.rmtree(target, ignore_errors=True)
        recover(target)
        raise


def recover(target: Path) -> None:
    """Bring back the folder that a killed process had begun to replace."""
    before, gone = _beside(target, "before"), _beside(target, "gone")
    if before.is_dir():
        shutil.rmtree(gone, ignore_errors=True)
        if target.exists():
            target.rename(gone)
        before.rename(target)
    shutil.rmtree(gone, ignore_errors=True)


def recover_all(folder: Path) -> None:
    """`recover` whatever is in a folder."""
    for before in folder.glob(".*.before"):
        recover(before.with_name(before.name.removeprefix(".").removesuffix(".before")))
