"""The study as a static site: verdicts first, then every figure, every notebook, README and docs.

Sphinx renders what is committed, with MyST-NB for the notebooks and Furo for search, navigation,
light, dark and narrow screens. Nothing is executed, and no page asks for anything off the site.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from hybridlib.config import PRESETS
from hybridlib.evaluation import hypotheses
from hybridlib.figures import markdown, prose
from hybridlib.figures.registry import Declared
from hybridlib.figures.results import Results
from hybridlib.publish import docs
from hybridlib.store import replace
from hybridlib.store.errors import OneLineError
from hybridlib.study.notebook import one_line

TITLE = "Does RL alone make a model harmless?"
LEAD = """\
*Challenges in Ensuring AI Safety in DeepSeek-R1 Models* (arXiv 2501.17030) says no, and reports no
experiments. This study runs them: it trains RL-only, SFT-only and hybrid variants of one model,
measures what they do, and gives each claim a verdict. A claim leads to the figures that bear on it,
a figure to its notebook and to the command that redraws it. The [README](README.md) says what is
being run and how to run it.
"""
# A link, not an image.
FIGURE = re.compile(r"(?<!!)(\[[^][]+\])\(((?:\.\./)?results/\w+)/figures/(\w+)\.png\)")
SETTINGS: dict[str, Any] = {
    "project": "hybridlib",
    "html_title": TITLE,
    "html_theme": "furo",
    "extensions": ["myst_nb", "hybridlib.publish.site"],
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
    "nb_render_markdown_format": "myst",
    "html_math_renderer": "mathml",
    "html_static_path": [str(Path(__file__).with_name("site.css"))],
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

    Raises SiteError if something does not render or lead anywhere; the site is left as it was.
    """
    warnings = io.StringIO()
    replace.recover_all(project / "results")
    try:
        site.parent.mkdir(parents=True, exist_ok=True)
        with replace.drafted(site) as html, tempfile.TemporaryDirectory(dir=site.parent) as draft:
            pages, read = sources(project, headline, Path(draft, "pages")), Path(draft, "read")
            Sphinx(pages, None, html, read, "html", SETTINGS, status=None, warning=warnings).build()
            if said := one_line(warnings.getvalue()):
                raise SiteError(said.replace(f"{pages}/", ""))
            with replace.placed(site):
                pass
    except OSError as error:
        raise SiteError(f"the site is as it was: {one_line(str(error))}") from error
    return site / "index.html"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register as a Sphinx extension: equations as MathML, which browsers draw themselves."""
    app.add_html_math_renderer("mathml", (_equation, None), (_equation, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _equation(translator: Any, node: nodes.math | nodes.math_block) -> None:
    drawn = convert(node.astext(), display="inline")
    if isinstance(node, nodes.math_block):
        drawn = f'<div class="math">{convert(node.astext(), display="block")}</div>'
    translator.body.append(drawn)
    raise nodes.SkipNode


def sources(project: Path, headline: str, pages: Path) -> Path:
    """Write what Sphinx reads: Markdown, notebooks and figures, laid out as in the project."""
    folders = [path.parent for path in (project / "results").glob("[!.]*/manifest.json")]
    folders.sort(key=lambda folder: (folder.name != headline, folder.name))
    for folder in folders:
        target = pages / "results" / folder.name
        shutil.copytree(folder / "figures", target / "figures")
        (target / "notebooks").mkdir()
        contents = []
        for path in sorted((folder / "notebooks").glob("*.ipynb")):
            node = nbformat.read(path, as_version=4)
            contents.append(f"{_entitled(node, path.stem, folder.name)} <notebooks/{path.stem}>")
            nbformat.write(node, target / "notebooks" / path.name)
        (target / "index.md").write_text(_preset(folder, contents), encoding="utf-8")
    written = [project / "README.md", *sorted((project / "docs").glob("*.md"))]
    written = [page.relative_to(project) for page in written if page.stem != "figures"]
    for page in written:
        text = _to_sections((project / page).read_text(encoding="utf-8"))
        (pages / page).parent.mkdir(exist_ok=True)
        (pages / page).write_text(text, encoding="utf-8")
        for file in re.findall(r"\]\(([\w./]+\.png|LICENSE|CITATION\.cff)\)", text):
            source, target = (root / page.parent / file for root in (project, pages))
            target.resolve().parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target.resolve())
    landing = _landing(folders, [page.with_suffix("").as_posix() for page in written])
    (pages / "index.md").write_text(landing, encoding="utf-8")
    return pages


def _landing(folders: Sequence[Path], written: Sequence[str]) -> str:
    """The first page: the verdict on each claim of the first preset, and what bears on it."""
    first, *_ = folders
    results, figures = Results(first), docs.drawn(first)
    page = f"results/{first.name}/index.md"

    def links(those: Iterable[Declared]) -> str:
        return ", ".join(f"[{figure.name}]({page}#{figure.name})" for figure in those)

    claims, verdicts = hypotheses.load().claims, docs.claims(first.name).set_index("claim").verdict
    to_all = [figure for figure in figures if len(figure.claims) == len(claims)]
    rows = [
        [claim.claim, claim.statement, f"**{verdicts[claim.claim] or 'one reward only'}**"]
        + [links(f for f in figures if claim.claim in f.claims and f not in to_all)]
        for claim in claims
        if claim.claim in verdicts
    ]
    top, *_ = figures
    others = [f"- [{f.name}](results/{f.name}/index.md): {_about(f.name)}" for f in folders]
    return "\n\n".join(
        [
            f"# {TITLE}",
            LEAD,
            prose.scope(results),
            markdown.table(["", "what the paper says", "verdict", "figures"], rows),
            f"To every claim: {links(to_all)}.",
            f"[![{top.alt}](results/{first.name}/figures/{top.name}.png)]({page}#{top.name})",
            "## Every study",
            "\n".join(others),
            _contents([*written, *(f"results/{folder.name}/index" for folder in folders)]),
        ]
    )


def _about(preset: str) -> str:
    """What a preset is for: the comment at the head of its file."""
    lines = (PRESETS / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in takewhile(lambda x: x.startswith("#"), lines))


def _preset(folder: Path, notebooks: Sequence[str]) -> str:
    """A page a preset: what it is for, its variants and claims, every figure."""
    name = folder.name
    tables = [docs.table(make(name)) for make in (docs.arms, docs.claims)]
    parts = [f"# {name}", _about(name), prose.scope(Results(folder)), *tables, "## Figures"]
    text = _to_sections("\n\n".join([*parts, docs.gallery(name, "")]))
    return "\n\n".join([text.replace(f"../results/{name}/index.md", ""), _contents(notebooks)])


def _to_sections(text: str) -> str:
    """Links (not images) to the file of a figure lead to where the site explains it."""
    text = re.sub(r"\((docs/|)figures\.md\)", lambda m: f"({'' if m[1] else '../'}index.md)", text)
    return FIGURE.sub(r"\1(\2/index.md#\3)", text)


def _contents(pages: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])


def _entitled(node: nbformat.NotebookNode, name: str, preset: str) -> str:
    """The title of a notebook with what it was executed for (02_train-rl-keyword-seed10); on its
    page the preset stands behind it, so that a search tells pages apart."""
    first = next(cell for cell in node.cells if cell.cell_type == "markdown")
    heading, _, rest = first.source.partition("\n")
    _, _, at = name.partition("-")
    title = heading.lstrip("# ") + (f": {at}" if at else "")
    first.source = f"# {title} ({preset})\n{rest}"
    return title
