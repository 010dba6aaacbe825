"""Every figure is declared once, by `@figure`: what it asks, who shows it, what it reads.

A figure is a function from the tables of a preset to a matplotlib Figure. It never trains, and each
estimate in it has its 95% interval.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from hybridlib.figures import findings
from hybridlib.figures.prose import CLAIMS
from hybridlib.figures.results import Results
from hybridlib.figures.style import styled, title

# Module of figures -> the notebook that shows them.
MODULES = {
    "harmlessness": "04_harmlessness",
    "readability": "05_readability",
    "generalization": "06_generalization",
    "verdicts": "07_verdicts",
    "rates": "07_verdicts",
    "compute": "07_verdicts",
    "hybrids": "08_hybrids",
}
NOTEBOOKS = list(dict.fromkeys(MODULES.values()))
_DECLARED: dict[str, "Declared"] = {}


@dataclass(frozen=True)
class Declared:
    """A figure and what is known of it without drawing it.

    `title` asks what the figure answers and holds on all tables; `alt` says what is drawn. A preset
    must have all of `tables` ('training.kl': with values in that column; 'metrics.recall': with
    rows of that metric; 'learning_rates.model': of that reward), and may have `optional`.
    """

    name: str
    module: str
    title: str
    alt: str
    claims: tuple[str, ...]
    tables: tuple[str, ...]
    optional: tuple[str, ...]
    _draw: Callable[[Results], Figure]

    def lacks(self, results: Results) -> str:
        """What the figure needs and the preset has not, in words; empty where it applies."""
        for need in self.tables:
            name, _, of = need.partition(".")
            if not results.has(name):
                return f"the study has no {name}.csv"
            frame = results.table(name)
            if of in frame:
                frame = frame[frame[of].notna()]
            elif of:
                named = frame.columns.intersection(["metric", "reward"])
                frame = frame[frame[named].eq(of).any(axis=1)]
            if frame.empty:
                return f"{name}.csv has no {of or 'row'}"
        return ""

    @property
    def notebook(self) -> str:
        """The notebook that shows it."""
        return MODULES[self.module]

    def applies(self, results: Results) -> bool:
        """Whether the preset has rows of every table that the figure needs."""
        return not self.lacks(results)

    def read(self, results: Results) -> list[str]:
        """The tables of a preset that the figure reads."""
        needed = {need.partition(".")[0] for need in self.tables}
        return sorted(needed | set(filter(results.has, self.optional)))

    def headline(self, results: Results) -> str:
        """The first sentence of the first finding that holds, else the title."""
        found = [f for f in findings.of(results, self.notebook) if f.figure == self.name]
        return found[0].says if found else self.title

    def draw(self, results: Results) -> Figure:
        """The figure under its headline.

        Raises FileNotFoundError where the preset lacks a table.
        """
        with styled():
            fig = self._draw(results)
            title(fig, self.headline(results))
        return fig


def figure(*, tables: str, claims: str = " ".join(CLAIMS), optional: str = "") -> Callable:
    """Declare a figure: the claims on which it bears, the tables that it reads, by spaces.

    The function's docstring holds the title and, below it, the alternative text.
    """

    def declare(function: Callable[[Results], Figure]) -> Callable[[Results], Figure]:
        module = function.__module__.rpartition(".")[2]
        name, (asks, _, drawn) = function.__name__, inspect.getdoc(function).partition("\n\n")
        # whoever looks up a metric gets the values of its replicates, too
        values = " values" if "metrics" in tables else ""
        lists = (tuple(names.split()) for names in (claims, tables, optional + values))
        found = Declared(name, module, asks, " ".join(drawn.split()), *lists, function)
        _DECLARED[name] = found
        return found.draw

    return declare


def figures() -> Mapping[str, Declared]:
    """All figures by name, as the notebooks go, whichever module was imported first."""
    for module in MODULES:
        importlib.import_module(f"hybridlib.figures.{module}")
    order = list(MODULES)
    return dict(sorted(_DECLARED.items(), key=lambda found: order.index(found[1].module)))
