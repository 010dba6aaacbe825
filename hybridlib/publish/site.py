"""The study as a static site: verdicts first, then every figure, every notebook, the README.

Sphinx renders what is committed, with MyST-NB for the notebooks and Furo for search, navigation,
light, dark and narrow screens. Nothing is executed, and no page asks for anything off the site.
"""

import io
import re
import shutil
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import nbformat

from hybridlib.config import PRESETS
from hybridlib.evaluation import hypotheses
from hybridlib.figures import prose
from hybridlib.figures import results as lookup
from hybridlib.figures.results import Results
from hybridlib.publish import findings, gallery, markdown
from hybridlib.publish.gallery import Figure
from hybridlib.store.errors import OneLineError
from hybridlib.study.notebook import one_line

TITLE = "Does RL alone make a model harmless?"
LEAD = """\
*Challenges in Ensuring AI Safety in DeepSeek-R1 Models* (arXiv 2501.17030) says no, and reports no
experiments. This study runs them: RL-only, SFT-only and hybrid variants of one model are trained,
what they do is measured, and each claim gets a verdict. A claim leads to the figures that speak to
it; a figure to what it found, its claims, its notebook, and the command that draws it again.
"""
RERUN = """\
```sh
make study   # trains every variant and draws every figure, on two CPU cores
make test    # passes the tests
```

Everything else (presets, time and memory, parameters, limits) is in the [README](README.md).
"""
STYLE = """\
.content img { background: white; max-width: 100%; }
.cell_output, .math, .table-wrapper { overflow-x: auto; }
.cell_output pre { overflow-x: auto; }
table.dataframe { font-size: 0.85em; }
body[data-theme="dark"] table.dataframe { color: inherit; }
.content h3 { overflow-wrap: anywhere; }
"""
SETTINGS: dict[str, Any] = {
    "project": "hybridlib",
    "html_title": TITLE,
    "html_theme": "furo",
    "extensions": ["myst_nb", "hybridlib.publish.mathml"],
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
    "nb_render_markdown_format": "myst",
    "html_math_renderer": "mathml",
    "html_css_files": ["site.css"],
    "smartquotes": False,
    "html_copy_source": False,
    "html_show_search_summary": False,  # it would fetch pages, which files may not
    "html_show_sourcelink": False,
    "html_show_copyright": False,
    "suppress_warnings": ["misc.highlighting_failure", "app"],
}


class SiteError(OneLineError, RuntimeError):
    """A page could not be rendered as it stands. One line."""


def build(project: Path, headline: str, site: Path) -> Path:
    """Render the committed results below project/results into `site`; return its first page.

    Raises
    ------
    SiteError : something does not render or lead anywhere; the site is left as it was.
    """
    from sphinx.application import Sphinx

    drafts = {name: site.with_name(f".{site.name}.{name}") for name in ("pages", "html", "read")}
    for draft in drafts.values():
        shutil.rmtree(draft, ignore_errors=True)
    warnings = io.StringIO()
    try:
        pages = sources(project, headline, drafts["pages"])
        settings = SETTINGS | {"html_static_path": [str(pages / "_static")]}
        folders = (drafts["html"], drafts["read"])
        Sphinx(pages, None, *folders, "html", settings, status=None, warning=warnings).build()
        if said := one_line(warnings.getvalue()):
            raise SiteError(said.replace(f"{pages}/", ""))
        shutil.rmtree(site, ignore_errors=True)
        drafts["html"].rename(site)
    finally:
        for draft in drafts.values():
            shutil.rmtree(draft, ignore_errors=True)
    return site / "index.html"


def sources(project: Path, headline: str, pages: Path) -> Path:
    """Write what Sphinx reads: Markdown, notebooks and figures, laid out as in the project."""
    folders = gallery.presets(project / "results", headline)
    for folder in folders:
        target = pages / "results" / folder.name
        shutil.copytree(folder / "figures", target / "figures")
        (target / "notebooks").mkdir()
        contents = []
        for path in sorted((folder / "notebooks").glob("*.ipynb")):
            node = nbformat.read(path, as_version=4)
            contents.append(f"{_entitled(node, path.stem, folder.name)} <notebooks/{path.stem}>")
            nbformat.write(node, target / "notebooks" / path.name)
        (target / "index.md").write_text(_preset(Results(folder), contents), encoding="utf-8")
    (pages / "_static").mkdir()
    (pages / "_static" / "site.css").write_text(STYLE, encoding="utf-8")
    (pages / "index.md").write_text(_landing(folders), encoding="utf-8")
    readme = (project / "README.md").read_text(encoding="utf-8")
    readme = _to_sections(readme.replace("](results/README.md)", "](index.md)"))
    (pages / "README.md").write_text(readme, encoding="utf-8")
    for image in re.findall(r"\]\((\S+\.png)\)", readme):
        (pages / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / image, pages / image)
    return pages


def _landing(folders: Sequence[Path]) -> str:
    """The first page: the verdict on each claim of the first preset, and what speaks to it."""
    first, *_ = folders
    results, figures = Results(first), gallery.figures(first)
    page = f"results/{first.name}/index.md"

    def links(those: Iterable[Figure]) -> str:
        return ", ".join(f"[{figure.name}]({page}#{figure.name})" for figure in those)

    rows = [
        [
            claim.claim,
            " ".join(claim.statement.split()),
            findings.verdict(results, claim.claim),
            links(f for f in figures if claim.claim in f.claims and f.claims != gallery.ALL),
        ]
        for claim in hypotheses.load().claims
    ]
    top, *_ = figures
    others = [f"- [{f.name}](results/{f.name}/index.md): {_about(f.name)}" for f in folders]
    return "\n\n".join(
        [
            f"# {TITLE}",
            LEAD,
            f"**{top.finding}** {prose.scope(results)} {prose.control(results)}",
            markdown.table(["", "what the paper says", "verdict", "figures"], rows),
            f"To every claim: {links(f for f in figures if f.claims == gallery.ALL)}.",
            f"[![{top.finding}](results/{first.name}/figures/{top.name}.png)]({page}#{top.name})",
            "## Every study",
            "\n".join(others),
            "## Run it",
            RERUN,
            _contents(["README <README>", *(f"results/{folder.name}/index" for folder in folders)]),
        ]
    )


def _about(preset: str) -> str:
    """What a preset is for: the comment at the head of its file."""
    lines = (PRESETS / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in takewhile(lambda x: x.startswith("#"), lines))


def _preset(results: Results, notebooks: Sequence[str]) -> str:
    """A page a preset: its account, then each figure with its finding, claims and command."""
    name = results.folder.name
    _, account = findings.BLOCKS.get(name, ("", findings.findings))
    figures = gallery.figures(results.folder)
    said = _to_sections(account(results)).replace(f"](results/{name}/index.md#", "](#")
    parts = [f"# {name}", _about(name), said, "## Figures"]
    parts += [_figure(figure, lookup.claims(results)) for figure in figures]
    return "\n\n".join([*parts, _contents(notebooks)])


def _to_sections(text: str) -> str:
    """Links (not images) of the README to a figure's file, led to where the site explains it."""
    link = r"(?<!!)(\[\w+\])\(results/(\w+)/figures/(\w+)\.png\)"
    return re.sub(link, r"\1(results/\2/index.md#\3)", text)


def _figure(figure: Figure, verdicts: Any) -> str:
    claims = [f"{c} ({verdicts[c]})" if c in verdicts else c for c in figure.claims]
    return (
        f"### {figure.name}\n\n**{figure.finding}**\n\n"
        f"![{figure.finding}](figures/{figure.name}.png)\n\n"
        f"Speaks to {prose.join(claims)}. Explained in "
        f"[{figure.notebook}](notebooks/{figure.notebook}.ipynb). Drawn again by\n\n"
        f"```sh\n{figure.command}\n```"
    )


def _contents(pages: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])


def _entitled(node: nbformat.NotebookNode, name: str, preset: str) -> str:
    """The title of a notebook with what it was executed for (02_train-rl-rule-seed10); on its page
    the preset stands behind it, so that a search tells pages apart."""
    first = next(cell for cell in node.cells if cell.cell_type == "markdown")
    heading, _, rest = first.source.partition("\n")
    _, _, at = name.partition("-")
    title = heading.lstrip("# ") + (f": {at}" if at else "")
    first.source = f"# {title} ({preset})\n{rest}"
    return title
