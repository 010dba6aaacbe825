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
from hybridlib.figures.results import Results
from hybridlib.figures.style import styled, title

ALL = tuple(f"C{n}" for n in range(1, 9))
NOTEBOOKS = {  # module -> the notebook that shows its figures
    "harmlessness": "04_harmlessness",
    "readability": "05_readability",
    "generalization": "06_generalization",
    "verdicts": "07_verdicts",
    "hybrids": "08_hybrids",
}
_DECLARED: dict[str, "Declared"] = {}


@dataclass(frozen=True)
class Declared:
    """A figure and what is known of it without drawing it.

    `title` asks what the figure answers and holds on all tables; `alt` says what is drawn. A preset
    must have all of `tables` ('training.kl': with values in that column), and may have `optional`.
    """

    name: str
    notebook: str
    title: str
    alt: str
    claims: tuple[str, ...]
    tables: tuple[str, ...]
    optional: tuple[str, ...]
    _draw: Callable[[Results], Figure]

    def applies(self, results: Results) -> bool:
        """Whether the preset has rows of every table that the figure needs."""

        def there(need: str) -> bool:
            name, _, column = need.partition(".")
            frame = results.table(name) if results.has(name) else ()
            return len(frame) > 0 and (
                not column or (column in frame and frame[column].notna().any())
            )

        return all(map(there, self.tables))

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


def figure(*, tables: str, claims: str = " ".join(ALL), optional: str = "") -> Callable:
    """Declare a figure: the claims on which it bears, the tables that it reads, by spaces.

    The function's docstring holds the title and, below it, the alternative text.
    """

    def declare(function: Callable[[Results], Figure]) -> Callable[[Results], Figure]:
        name, notebook = function.__name__, NOTEBOOKS[function.__module__.rpartition(".")[2]]
        asks, _, drawn = inspect.getdoc(function).partition("\n\n")
        lists = (tuple(names.split()) for names in (claims, tables, optional))
        found = Declared(name, notebook, asks, " ".join(drawn.split()), *lists, function)
        _DECLARED[name] = found
        return found.draw

    return declare


def figures() -> Mapping[str, Declared]:
    """All figures by name, as the notebooks go."""
    for module in NOTEBOOKS:
        importlib.import_module(f"hybridlib.figures.{module}")
    return _DECLARED
