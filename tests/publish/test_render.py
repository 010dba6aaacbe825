"""Notebooks as HTML: equations are drawn without a script, code keeps its dollars."""

import re

import nbformat

from hybridlib.publish import render


def page_of(*cells: nbformat.NotebookNode) -> str:
    return render.html(nbformat.v4.new_notebook(cells=list(cells)))


def test_equations_become_mathml_in_text_and_in_what_a_cell_displays():
    shown = nbformat.v4.new_output("display_data", {"text/markdown": "It is $\\beta_2$."})
    page = page_of(
        nbformat.v4.new_markdown_cell("Of $a < b$:\n\n$$\\frac{a}{b}$$"),
        nbformat.v4.new_code_cell("show()", outputs=[shown]),
    )
    assert page.count("<math") == 3
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in page
    assert "<mi>a</mi><mo>&lt;</mo><mi>b</mi>" in page
    assert "<msub><mi>β</mi><mn>2</mn></msub>" in page
    assert re.findall(r'display="(\w+)"', page) == ["inline", "block", "inline"]


def test_dollars_of_code_are_no_equation():
    text = "Costs `$5` and `$x$`.\n\n```\n$y$\n```"
    assert "<math" not in page_of(nbformat.v4.new_markdown_cell(text))


def test_a_page_asks_no_other_place_for_anything():
    page = page_of(nbformat.v4.new_markdown_cell("$a$"))
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]*)"', page)
