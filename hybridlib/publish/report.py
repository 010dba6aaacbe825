"""One page to send around: the account of a preset and every figure of it, in a single HTML file.

It is a notebook of text alone, exported as the executed ones are, with its images inside: nothing
else is needed to read it, no network either.
"""

import base64
from pathlib import Path

import nbformat

from hybridlib.figures.results import Results
from hybridlib.publish import findings, gallery, render


def report(results: Results) -> str:
    """HTML: what was found, then each figure under its finding, with what explains and draws it."""
    preset = results.table("metrics").preset.iloc[0]
    cells = [f"# Does RL alone make a model harmless? Results of `{preset}`"]
    cells += [findings.findings(results)]
    for figure in gallery.figures(results.folder):
        png = results.folder / "figures" / f"{figure.name}.png"
        data = base64.b64encode(png.read_bytes()).decode()
        cells.append(
            f"### {figure.finding}\n\n![{figure.finding}](data:image/png;base64,{data})\n\n"
            f"Figure `{figure.name}` speaks to {gallery.spoken_to(figure.claims)}, explained in "
            f"`{figure.notebook}`; drawn again by `{figure.command}`."
        )
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in cells])
    page.metadata["title"] = f"Results of {preset}"
    return render.html(page)


def write(results: Results, path: Path) -> Path:
    """Write the page; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(results), encoding="utf-8")
    return path
