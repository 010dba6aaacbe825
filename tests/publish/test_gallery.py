"""The gallery: every figure with its finding, an image and a notebook that are there."""

import re

import pytest

from hybridlib.__main__ import HEADLINE
from hybridlib.evaluation import hypotheses
from hybridlib.figures import plots
from hybridlib.figures.plots import verdict_page
from hybridlib.figures.results import Results
from hybridlib.publish import gallery
from hybridlib.store.paths import PROJECT

RESULTS = PROJECT / "results"


@pytest.fixture(scope="module")
def page() -> str:
    return gallery.gallery(RESULTS, HEADLINE)


def test_the_committed_gallery_is_that_of_the_committed_tables(page):
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == page


def test_every_committed_figure_is_shown_and_every_link_leads_somewhere(page):
    shown = re.findall(r"!\[.{20,}\]\((\S+\.png)\)", page)
    there = [path.relative_to(RESULTS).as_posix() for path in RESULTS.glob("*/figures/*.png")]
    assert sorted(shown) == sorted(path for path in there if not path.startswith("local/"))
    linked = re.findall(r"\[\w+\]\(([^#)]\S*)\)", page)
    assert len(linked) == len(shown)
    assert all((RESULTS / path).is_file() for path in linked)


def test_the_headline_preset_comes_first_and_its_verdicts_first_of_all(page):
    assert page.index(f"## {HEADLINE}") < min(
        page.index(f"## {path.parent.name}\n")
        for path in RESULTS.glob("*/manifest.json")
        if path.parent.name != HEADLINE
    )
    finding = verdict_page(Results(RESULTS / HEADLINE)).get_suptitle()
    assert re.search(r"\*\*(.+)\*\*", page)[1] == " ".join(finding.split())


def test_every_figure_says_to_which_claims_it_speaks_and_every_claim_has_the_one_it_rests_on():
    drawn = {path.stem for path in RESULTS.glob("*/figures/*.svg")}
    assert drawn <= set(gallery.SPEAKS_TO) and all(hasattr(plots, n) for n in gallery.SPEAKS_TO)
    for claim in hypotheses.load().claims:
        assert claim.claim in gallery.SPEAKS_TO[claim.figure.partition("/")[2]]


def test_a_figure_leads_to_the_notebook_that_shows_it():
    found = gallery.notebooks(RESULTS / HEADLINE)
    assert found["verdict_page"] == "07_verdicts"
    assert found["response_classes"] == "04_harmlessness"
