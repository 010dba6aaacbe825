"""Findings: sentences that a person wrote, each with the conditions that the tables must meet.

findings.yaml lists them by notebook. `numbers` names cells of tables, `when` compares them, `says`
is the sentence above the figure, and `detail` the one into which they are injected.
A finding whose conditions fail is not shown.

A number is a row of a table: the one that its keys select, the one with the `least` or `most` of a
column among them, or with `count: true` their number `n`.
"""

import operator
import re
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field

from hybridlib.figures import prose
from hybridlib.figures.results import POOLED, Results, select

CONDITION = r"(\w+)\.(\w+) ([<>]|==) (?:([a-z]\w*)\.(\w+)|(\S+))"  # a.low > b.high, a.low > 0.05
NUMBER = r"{(\w+):(\w+)}"  # {harm:percent}, or {rate:learning_rate}: a column as it is
OPERATORS = {"<": operator.lt, ">": operator.gt, "==": operator.eq}
FORMATS = {
    "percent": lambda row: prose.percent(row.estimate),
    "interval": prose.interval,
    "points": prose.points,
    "times": prose.times,
}


class Finding(BaseModel):
    """Two sentences, the figure that they stand under, and when they may be said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    notebook: str
    name: str
    figure: str
    presets: tuple[str, ...] = Field(min_length=1)
    says: str
    detail: str
    numbers: dict[str, dict[str, Any]] = Field(min_length=1)
    when: tuple[str, ...] = Field(min_length=1)

    def holds(self, results: Results) -> bool:
        """Whether the tables have every number and meet every condition."""
        try:
            cells = self._cells(results)
        except (FileNotFoundError, KeyError):
            return False
        return all(_met(condition, cells) for condition in self.when)

    def text(self, results: Results) -> str:
        """Both sentences, with the numbers of these tables.

        Raises ValueError where they do not hold.
        """
        if not self.holds(results):
            raise ValueError(f"finding {self.name!r} does not hold on {results.folder.name}")
        cells = self._cells(results)

        def number(found: re.Match[str]) -> str:
            row, spec = cells[found[1]], found[2]
            return FORMATS[spec](row) if spec in FORMATS else str(row[spec])

        return f"{self.says} {re.sub(NUMBER, number, self.detail)}"

    def _cells(self, results: Results) -> dict[str, pd.Series]:
        return {name: _row(results, **where) for name, where in self.numbers.items()}


@cache
def load() -> tuple[Finding, ...]:
    """All findings of findings.yaml; pydantic's ValidationError names what is wrong in it."""
    notebooks = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return tuple(
        Finding(notebook=n, **found) for n, listed in notebooks.items() for found in listed
    )


def of(results: Results, notebook: str) -> list[Finding]:
    """The findings of a notebook that are about this preset and hold on its tables."""
    mine = [f for f in load() if f.notebook == notebook and results.preset in f.presets]
    return [finding for finding in mine if finding.holds(results)]


def _row(
    results: Results, table: str = "metrics", least: str = "", most: str = "", count: bool = False,
    **where: Any,
) -> pd.Series:  # fmt: skip
    """The row that a value names. KeyError if there is none, ValueError if there are several."""
    rows = select(results.table(table), **((POOLED if table == "metrics" else {}) | where))
    if count:
        return pd.Series({"n": len(rows)})
    if rows.empty:
        raise KeyError(f"no row of {table} has {where}")
    if least or most:
        return rows.loc[rows[least].idxmin() if least else rows[most].idxmax()]
    if len(rows) > 1:
        raise ValueError(f"{len(rows)} rows of {table} have {where}")
    return rows.iloc[0]


def _met(condition: str, cells: dict[str, pd.Series]) -> bool:
    """Whether a comparison is true of the cells. ValueError if it is none."""
    if not (found := re.fullmatch(CONDITION, condition)):
        raise ValueError(f"{condition!r} is no comparison of values")
    name, column, sign, other, its, constant = found.groups()
    right = cells[other][its] if other else float(constant)
    return bool(OPERATORS[sign](cells[name][column], right))
