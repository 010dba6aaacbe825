"""The sources of the site, and what Sphinx makes of them; test_browser reads the whole site."""

import csv
import re
from pathlib import Path

import nbformat
import pytest

from hybridlib.__main__ import HEADLINE
from hybridlib.evaluation import hypotheses
from hybridlib.figures import registry
from hybridlib.figures.results import Results
from hybridlib.publish import docs, site
from hybridlib.publish.site import SiteError
from hybridlib.store.paths import PROJECT
from hybridlib.variants import VARIANTS

# MyST-Parser is behind Sphinx; nothing of ours.
pytestmark = pytest.mark.filterwarnings(
    "ignore::PendingDeprecationWarning", "ignore::DeprecationWarning"
)
PRESETS = sorted(path.parent.name for path in PROJECT.glob("results/*/manifest.json"))
FIRST = HEADLINE if HEADLINE in PRESETS else PRESETS[0]  # the study that the landing page tells
LINK = re.compile(r"\[(\w+)\]\((\S+?)\)")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    return site.sources(PROJECT, HEADLINE, tmp_path_factory.mktemp("site") / "pages")


def test_from_each_claim_one_link_leads_to_each_figure_that_speaks_to_it(pages):
    landing, first = (pages / "index.md").read_text(), PROJECT / "results" / FIRST
    with (first / "tables" / "claims.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["reward"] == "all")
    verdicts = {
        row["claim"]: row["verdict"] if row["reward"] == "all" else "one reward only"
        for row in rows
    }
    everywhere = re.search(r"^To every claim: (.+)\.$", landing, re.MULTILINE)[1]
    drawn = [figure.name for figure in docs.drawn(first)]
    assert re.findall(r"^\| (C\d) \|", landing, re.MULTILINE) == sorted(verdicts)
    for claim in (claim for claim in hypotheses.load().claims if claim.claim in verdicts):
        row = re.search(rf"^\| {claim.claim} \|.+$", landing, re.MULTILINE)[0]
        assert f"**{verdicts[claim.claim]}**" in row
        linked = {name for name, _ in LINK.findall(row + everywhere)}
        assert linked == {name for name in drawn if claim.claim in registry.figures()[name].claims}
        assert claim.figure.partition("/")[2] in linked  # the one that its verdict rests on
    for name, place in LINK.findall(landing):
        page, _, anchor = place.partition("#")
        text = (pages / page).read_text()
        assert not anchor or f"### {name}\n" in text


def test_the_links_of_every_page_lead_to_a_page_or_to_a_heading_of_one(pages):
    texts = {path: path.read_text() for path in pages.rglob("*.md")}
    for page, text in texts.items():
        for place in re.findall(r"\]\((?!https?:)([^()\s]+)\)", text):
            file, _, anchor = place.partition("#")
            leads_to = (page.parent / file).resolve() if file else page
            if leads_to.suffix == ".md":
                assert not anchor or _headings(texts[leads_to], anchor), f"{page}: {place}"
            else:
                assert leads_to.exists() and not anchor, f"{page}: {place}"


def _headings(text: str, anchor: str) -> list[str]:
    headings = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return [h for h in headings if re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) == anchor]


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_verdict_rests_on_is_a_click_away(pages, preset):
    account = (pages / "results" / preset / "index.md").read_text()
    rows = re.findall(r"^\| (C\d) \|.+ \| (.+) \|$", account, re.MULTILINE)
    rests = {claim.claim: claim.figure.partition("/")[2] for claim in hypotheses.load().claims}
    assert rows and all(link == f"[{rests[claim]}](#{rests[claim]})" for claim, link in rows)


@pytest.mark.parametrize("preset", PRESETS)
def test_each_figure_stands_with_its_claims_its_notebook_and_its_command(pages, preset):
    text = (pages / "results" / preset / "index.md").read_text()
    results = Results(PROJECT / "results" / preset)
    for figure in docs.drawn(results.folder):
        _, _, rest = text.partition(f"### {figure.name}\n\n**{figure.headline(results)}**")
        part = rest.partition("### ")[0]
        assert f'make figures PRESET={preset} ARGS="--only {figure.name}"' in part
        assert all(claim in part for claim in figure.claims)
        linked = dict(LINK.findall(part))[figure.notebook]
        assert (pages / "results" / preset / linked).is_file()
        assert (pages / "results" / preset / "figures" / f"{figure.name}.png").is_file()
    assert text.splitlines()[2] and not text.splitlines()[2].startswith("Results of")


def test_notebooks_of_one_source_are_told_apart_by_their_titles(pages):
    titles = []
    for path in pages.glob("results/*/notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        titles.append(next(c.source for c in cells if c.cell_type == "markdown").splitlines()[0])
    assert len(titles) == len(set(titles)) > len(PRESETS)
    for preset in PRESETS:
        contents = (pages / "results" / preset / "index.md").read_text()
        for title in (title for title in titles if title.endswith(f" ({preset})")):
            said = title.removeprefix("# ").removesuffix(f" ({preset})")
            assert f"\n{said} <notebooks/" in contents


@pytest.fixture
def project(monkeypatch):
    """The text that the next site is built of, in a single page."""

    def one_page(text: str) -> None:
        def sources(project, headline, pages):
            pages.mkdir()
            (pages / "index.md").write_text(f"# One page\n\n{text}\n")
            return pages

        monkeypatch.setattr(site, "sources", sources)

    return one_page


def test_equations_are_drawn_by_the_browser_and_nothing_is_asked_for_off_the_site(
    project, tmp_path
):
    losses = [variant.equation for variant in VARIANTS.values()]
    project("\n\n".join(f"$${loss}$$" for loss in losses) + "\n\nor $x^2$")
    page = site.build(PROJECT, HEADLINE, tmp_path / "site").read_text()
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML"') == len(losses) + 1
    assert page.count("<msub>") >= len(losses)
    sources = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', page)
    assert sources and not [s for s in sources if s.startswith(("http", "//"))]


def test_a_link_that_leads_nowhere_is_one_line_and_leaves_the_site_as_it_was(project, tmp_path):
    project("as it was")
    site.build(PROJECT, HEADLINE, tmp_path / "site")
    project("[gone](results/gone/index.md)")
    with pytest.raises(SiteError, match=r"^index.md:3: .*results/gone/index\.md") as error:
        site.build(PROJECT, HEADLINE, tmp_path / "site")
    assert "\n" not in str(error.value)
    assert "as it was" in (tmp_path / "site" / "index.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_site_that_cannot_be_put_in_its_place_leaves_the_one_before(
    project, tmp_path, monkeypatch
):
    project("as it was")
    place = site.build(PROJECT, HEADLINE, tmp_path / "site").parent
    rename = Path.rename

    def fails_once(path: Path, target: Path) -> Path:
        if target == place:
            monkeypatch.setattr(Path, "rename", rename)
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    project("new")
    with pytest.raises(SiteError, match=r"the site is as it was: .*No space left") as error:
        site.build(PROJECT, HEADLINE, place)
    assert "\n" not in str(error.value)
    assert "as it was" in (place / "index.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
