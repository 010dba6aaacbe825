"""The places of the project's files: notebooks, committed results, results of this machine."""

from pathlib import Path

_ABOVE = Path(__file__).resolve().parents[2]
# The checkout; where the package was installed without one, the working directory.
PROJECT = _ABOVE if (_ABOVE / "pyproject.toml").exists() else Path.cwd()
NOTEBOOKS = (Path(__file__).parents[1] / "notebooks").resolve()  # a link, so that wheels hold them


def committed(preset: str) -> Path:
    """The folder of the committed results of a preset."""
    return PROJECT / "results" / preset


def local(preset: str) -> Path:
    """The folder of the results that this machine computed; git ignores it."""
    return PROJECT / "results" / "local" / preset
