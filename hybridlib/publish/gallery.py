"""results/README.md: every committed figure with its finding, for who reads on a code host."""

import re
from pathlib import Path
from typing import NamedTuple

from hybridlib.figures import plots, prose
from hybridlib.figures.prose import CLAIMS, join
from hybridlib.figures.results import Results
from hybridlib.figures.style import finding

FIRST = "verdict_page"  # what a reader looks for
SHOWN = re.compile(r"plots\.show\(plots\.(\w+)")
ALL = tuple(CLAIMS)
SPEAKS_TO = {  # figure -> the claims that it bears on
    "verdict_page": ALL,
    "sensitivity": ALL,
    "side_by_side": ALL,
    "learning_rates": ALL,
    "response_classes": ("C1", "C2"),
    "prefill_depth": ("C1", "C2"),
    "proxy_vs_gold": ("C1",),
    "proxy_and_gold_by_distance": ("C1",),
    "harm_vs_over_refusal": ("C2", "C7"),
    "public_requests": ("C2", "C5"),
    "language_share": ("C3", "C4"),
    "language_training": ("C3", "C4"),
    "usage_advice": ("C4", "C7"),
    "generalization": ("C5", "C6"),
    "generalization_gaps": ("C5",),
    "generalization_by_language": ("C5",),
    "reasoning": ("C7",),
    "hybrids": ("C7",),
    "hybrids_at_budget": ("C7",),
    "hybrids_by_compute": ("C7", "C8"),
    "hybrids_along_compute": ("C7", "C8"),
    "hybrid_mechanism": ("C7",),
    "hybrid_sweeps": ("C7",),
    "cost": ("C8",),
    "seconds": ("C8",),
}


def gallery(results: Path, default: str) -> str:
    """Markdown of all presets in a folder of committed results, the default one first.

    A figure stands with its finding, which is its alternative text too, the notebook that explains
    it, and the command that draws it again from the committed tables.
    """
    folders = presets(results, default)
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


def presets(results: Path, default: str) -> list[Path]:
    """The folders of committed results, the default preset's first, then by name."""
    folders = [path.parent for path in results.glob("*/manifest.json")]
    return sorted(folders, key=lambda folder: (folder.name != default, folder.name))


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
    """A drawn figure of a preset, what it found, and the executed notebook that explains it."""

    preset: str
    name: str
    finding: str
    notebook: str

    @property
    def claims(self) -> tuple[str, ...]:
        """The claims that it bears on."""
        return SPEAKS_TO[self.name]

    @property
    def command(self) -> str:
        """What draws it again from the committed tables."""
        return f'make figures PRESET={self.preset} ARGS="--only {self.name}"'


def figures(folder: Path) -> list[Figure]:
    """The figures of a results folder, the verdicts first, then as the notebooks go."""
    results, of = Results(folder), notebooks(folder)
    names = [path.stem for path in (folder / "figures").glob("*.png")]
    names.sort(key=lambda name: (name != FIRST, of[name], name))
    preset = results.table("metrics").preset.iloc[0]
    return [Figure(preset, n, finding(getattr(plots, n)(results)), of[n]) for n in names]


def spoken_to(claims: tuple[str, ...]) -> str:
    """`C1 and C2`; `every claim` where it is all of them."""
    return "every claim" if claims == ALL else join(claims)


def _figures(folder: Path) -> list[str]:
    parts = []
    for figure in figures(folder):
        place = f"{folder.name}/notebooks/{figure.notebook}.ipynb"
        parts += [
            f"**{figure.finding}**",
            f"![{figure.finding}]({folder.name}/figures/{figure.name}.png)",
            f"`{figure.name}` speaks to {spoken_to(figure.claims)}, explained in "
            f"[{figure.notebook}]({place}); drawn again by `{figure.command}`.",
        ]
    return parts
