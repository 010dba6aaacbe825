"""Errors that are for people: one line that names the input and the fix."""


class OneLineError(Exception):
    """Its message says it all: a notebook and the command line show it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
