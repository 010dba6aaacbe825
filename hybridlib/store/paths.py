"""The places of the project's files: notebooks, committed results, results of this machine."""

import re
from pathlib import Path

from hybridlib.store.errors import ParameterError
from hybridlib.store.values import shown

_ABOVE = Path(__file__).resolve().parents[2]
# The checkout; where the package was installed without one, the working directory.
PROJECT = _ABOVE if (_ABOVE / "pyproject.toml").exists() else Path.cwd()
NOTEBOOKS = (Path(__file__).parents[1] / "notebooks").resolve()  # a link, so that wheels hold them


_RESERVED = (
    "bench|local|site|store|"  # other folders of results/
    "aux|con|nul|prn|(com|lpt)[0-9]|"  # no folder has such a name on every system
    "false|inf|infinity|na|nan|none|null|true|"  # tables read a value
    "[0-9]{1,60}(e[-+]?[0-9]{1,60})?"
)
_NAME = re.compile(rf"(?!({_RESERVED})\Z)[a-z0-9][a-z0-9_-]{{,59}}\Z", re.IGNORECASE)


def study_name(name: object) -> str:
    """The name, if a study can have it: it names folders. Raises ParameterError if none can."""
    if not isinstance(name, str) or not _NAME.match(name) or not name.isascii():
        raise ParameterError(
            f"preset {shown(name)} is no name of a study: that has letters (a to z), digits, _ "
            "and -, at most 60, and is no number and no word such as store or null"
        )
    return name


def committed(preset: str) -> Path:
    """The folder of the committed results of a preset. Raises ParameterError for no name."""
    return PROJECT / "results" / study_name(preset)


def local(preset: str) -> Path:
    """The folder of the results that this machine computed; git ignores it. Raises as above."""
    return PROJECT / "results" / "local" / study_name(preset)
