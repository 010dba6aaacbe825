"""results/README.md: every committed figure with its finding, for who reads on a code host."""

import re
from pathlib import Path
from typing import NamedTuple

from hybridlib import plots, prose
from hybridlib.lookup import Results
from hybridlib.style import finding

FIRST = "verdict_page"  # what a reader looks for
SHOWN = re.compile(r"plots\.show\(plots\.(\w+)")


def gallery(results: Path, default: str) -> str:
    """Markdown of all presets in a folder of committed results, the default one first.

    A figure stands with its finding, which is its alternative text too, the notebook that explains
    it, and the command that draws it again from the committed tables.
    """
    folders = [path.parent for path in results.glob("*/manifest.json")]
    folders.sort(key=lambda folder: (folder.name != default, folder.name))
    contents = " · ".join(f"[{folder.name}](#{folder.name})" for folder in folders)
    parts = [
        "# Every figure, with what was found",
        "Written by `make publish` from the committed tables. A finding is the title of its "
        "figure, and follows the numbers.",
        contents,
    ]
    for folder in folders:
        parts += [f"## {folder.name}", prose.scope(Results(folder)), *_figures(folder)]
    return "\n\n".join(parts) + "\n"


def write(results: Path, default: str) -> None:
    """Write the gallery beside the results that it shows."""
    (results / "README.md").write_text(gallery(results, default), encoding="utf-8")


def notebooks(folder: Path) -> dict[str, str]:
    """Figure -> the executed notebook that shows it, without its ending."""
    found = {}
    for path in sorted((folder / "notebooks").glob("0[4-9]_*.ipynb")):
        for name in SHOWN.findall(path.read_text(encoding="utf-8")):
            found[name] = path.stem
    return found


class Figure(NamedTuple):
    """A drawn figure, what it found, and the executed notebook that explains it."""

    name: str
    finding: str
    notebook: str


def figures(folder: Path) -> list[Figure]:
    """The figures of a results folder, the verdicts first, then as the notebooks go."""
    results, of = Results(folder), notebooks(folder)
    names = [path.stem for path in (folder / "figures").glob("*.png")]
    names.sort(key=lambda name: (name != FIRST, of[name], name))
    return [Figure(name, finding(getattr(plots, name)(results)), of[name]) for name in names]


def _figures(folder: Path) -> list[str]:
    parts = []
    for name, found, notebook in figures(folder):
        place = f"{folder.name}/notebooks/{notebook}.ipynb"
        parts += [
            f"**{found}**",
            f"![{found}]({folder.name}/figures/{name}.png)",
            f"`{name}`, explained in [{notebook}]({place}); drawn again, with the others, by "
            f"`make figures PRESET={folder.name}`.",
        ]
    return parts
