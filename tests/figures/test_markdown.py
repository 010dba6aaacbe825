"""Text of any kind is shown as text: in HTML, in tables, in notebooks."""

import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.display import HTML
from markdown_it import MarkdownIt

from hybridlib.figures import markdown, prose, show
from hybridlib.store.paths import PROJECT
from hybridlib.study import explore

HOSTILE = (
    "<script>alert('x')</script> <img src=x onerror=y> </td></table> <!-- a --> &lt;b&gt; &amp; "
    "**bold** _it_ `code` [link](http://x.y) # head | bar ~~gone~~ $a$ $$b$$ \\(c\\) \\[d\\] "
    "\\begin{equation} e \\end{equation} \x1b[31mred\x1b[0m \x1b]0;title\x07 \u2028 \u2029 \x85 "
    "\ud800 \udfff \u202eback\u202c \u200fright \u2066in\u2069 \ufeff \x00 \x08 "
    "na\u00efve 你好 مرحبا 👩\u200d💻"
)  # fmt: skip


class Page(HTMLParser):
    """The tags of a page, and its texts, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def seen(text: str) -> str:
    """A text with what is not seen spelt out, by the properties of its characters."""

    def spelt(c: str) -> str:
        control = unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\t\n"
        turns = unicodedata.bidirectional(c) in TURNS or c in "\u200e\u200f\u061c\ufeff"
        return c.encode("unicode_escape").decode() if control or turns else c

    return "".join(map(spelt, text))


def test_what_is_said_is_shown_letter_by_letter():
    page = Page(markdown.escaped(HOSTILE))
    assert page.text == seen(HOSTILE) and set(page.tags) == {"span"}
    # MathJax typesets what stands between two such signs in one text
    assert not [t for t in page.texts if re.search(r"[$\\]", t) and len(t) > 1]
    markdown.escaped(HOSTILE).encode("utf-8")  # no half of a pair is left


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None, categories=None)))
def test_any_text_is_shown_and_can_be_written(text: str):
    page = Page(markdown.escaped(text))
    assert page.text == seen(text).replace("\n", "") and set(page.tags) <= {"span", "br"}
    page.text.encode("utf-8")


@pytest.mark.parametrize("said", [HOSTILE, "a\nb", "\n| --- |\n"])
def test_a_cell_of_a_table_in_markdown_holds_a_line_without_tags(said: str):
    text = markdown.table(["a", "b"], [[said, 1]])
    assert len(text.splitlines()) == 3
    page = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert page.tags.count("td") == 2 and not {"script", "img", "comment"} & set(page.tags)


def test_markdown_and_signs_that_are_no_tags_stay_in_a_cell():
    text = markdown.table(["a"], [["**b** [c](d)"], ["< 0.352"]])
    assert text.splitlines()[2:] == ["| **b** [c](d) |", "| < 0.352 |"]


def shown_by(monkeypatch, call, *arguments) -> str:
    shown: list[HTML] = []
    monkeypatch.setattr(prose, "display", shown.append)
    call(*arguments)
    return shown[0].data


def test_a_response_in_a_notebook_is_text(monkeypatch):
    page = Page(shown_by(monkeypatch, show.table, [{"response": HOSTILE, "share": 0.5}]))
    assert set(page.tags) == {"table", "tr", "th", "td", "span"}
    assert seen(HOSTILE) in page.text
    json.dumps(page.text, ensure_ascii=False).encode("utf-8")


def test_a_response_that_is_explored_is_text():
    page = Page(explore.marked(HOSTILE, None, "en"))
    assert set(page.tags) == {"span"}
    assert page.text.split() == seen(HOSTILE).split()
    marked = explore.marked("i can not help with that . <b>", None, "en")
    assert marked.count("refusal phrase") == 3 and marked.endswith("&lt;b&gt;")


def test_one_function_escapes_all_that_is_shown():
    """What a notebook shows and does not write by itself goes through it."""
    for path in [*PROJECT.glob("notebooks/*.ipynb"), *PROJECT.glob("hybridlib/**/*.py")]:
        if path.name not in ("markdown.py", "show.py"):  # alternative texts of figures are ours
            assert "html.escape" not in path.read_text(encoding="utf-8"), path
