"""Text in Markdown and in HTML: tables, and what a model or a person has said."""

import html
import re
from collections.abc import Sequence

# Control characters, separators of lines, marks that turn the direction of writing, and halves of
# pairs, which no file can hold. A tab and the end of a line are blanks.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: object) -> str:
    """A text in which what is not seen, or changes how the rest is shown, is written out."""
    return _UNSEEN.sub(lambda m: m[0].encode("unicode_escape").decode(), str(text))


def escaped(text: object) -> str:
    """Text of any kind as HTML that shows it: no tag, no formula, nothing unseen."""
    shown = html.escape(visible(text)).replace("\n", "<br>")
    # Browsers of notebooks typeset what stands between such signs, unless tags do.
    return re.sub(r"[$\\]", lambda m: f"<span>&#{ord(m[0])};</span>", shown)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose cells are Markdown without HTML; a bar or a line's end would end a cell."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([_cell(cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(cell: object) -> str:
    text = " ".join(visible(cell).split()).replace("|", r"\|")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
