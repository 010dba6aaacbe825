"""Notebooks as HTML that needs no network: images inside, equations drawn by the browser."""

from typing import Any

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode


class _Equations(IPythonRenderer):
    """Markdown whose equations become MathML."""

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")


class _Page(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return MarkdownWithMath(renderer=_Equations(escape=False)).render(source)


def html(node: NotebookNode) -> str:
    """Return a notebook as one HTML page."""
    return _Page(mathjax_url="", require_js_url="").from_notebook_node(node)[0]
