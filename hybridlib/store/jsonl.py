"""JSON lines: the one reader and the one writer of logs, rollouts, labels and public sets.

A record is a JSON object on a line of its own. Only a newline ends a line: what a model says may
hold any other separator. What is written is ASCII, so no locale and no other reader splits it.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hybridlib.store import replace
from hybridlib.store.errors import OneLineError

Record = dict[str, Any]


class DamagedRecord(OneLineError, ValueError):
    """A line of a file of records is none."""


def read(path: Path) -> Iterator[Record]:
    """The records of a file; empty lines and what a kill has left of a last line are none.

    Raises DamagedRecord at any other line that is no JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)  # from bytes: UTF-8, with or without a mark
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield record
            elif line.endswith(b"\n") and line.strip():
                fix = "restore the file, or delete its folder and run again"
                raise DamagedRecord(f"line {number} of {path} is no JSON object: {fix}")


def write(path: Path, records: Iterable[Record]) -> None:
    """Replace the file by one of these records, or leave it as it is if anything goes wrong."""
    replace.write(path, _lines(records))


def append(path: Path, records: Iterable[Record]) -> None:
    """Add records to the file, which need not exist; never behind a part of a line."""
    lines = _lines(records)
    if path.exists() and not _ends_in_newline(path):
        write(path, read(path))
    with path.open("ab") as file:
        file.write(lines)


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(f"{json.dumps(record)}\n".encode("ascii") for record in records)


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read(1) in (b"", b"\n")
