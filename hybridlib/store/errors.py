"""Errors that are for people: one line that names the input and the fix."""

import difflib
import errno
import os
from collections.abc import Iterable


class OneLineError(Exception):
    """Its message says it all: a notebook and the command line show it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ParameterError(OneLineError, ValueError):
    """A parameter that cannot be: one line that names it and, where there is one, the nearest."""


def disk_is_full(error: object) -> bool:
    """Whether an error, or what a program said, is that a disk, or one's share of it, is full."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", 0) in full or any(os.strerror(n) in str(error) for n in full)


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for the known name that `name` resembles; '' if none does."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
