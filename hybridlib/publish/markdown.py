"""Pieces of Markdown that are written from numbers: tables, and blocks of a page."""

from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; a bar inside a cell would end it, so it is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace what stands between the comments NAME and /NAME of a page.

    Raises ValueError if the page has no such block.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page.name} has no block {begin.strip()} ... {end}")
    page.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")
