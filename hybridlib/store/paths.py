"""Where the project's files lie: notebooks, committed results, results of this machine."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS = PROJECT / "notebooks"


def committed(preset: str) -> Path:
    """The folder of a preset's committed results."""
    return PROJECT / "results" / preset


def local(preset: str) -> Path:
    """The folder of the results that this machine computed; git ignores it."""
    return PROJECT / "results" / "local" / preset
