"""What docs/*.md take from the committed tables is what the tables say."""

import csv
import re
import shutil

import pytest

from hybridlib.evaluation import hypotheses
from hybridlib.figures import markdown
from hybridlib.figures.prose import percent
from hybridlib.figures.results import POOLED, Results, select
from hybridlib.figures.style import label_of
from hybridlib.figures.summaries import MAIN
from hybridlib.publish import docs
from hybridlib.store.paths import PROJECT

RESULTS = PROJECT / "results"
PRESETS = sorted(path.parent.name for path in RESULTS.glob("*/manifest.json"))


def rows_of(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_the_committed_pages_are_those_of_the_committed_tables(tmp_path):
    written = shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    docs.write(written)
    for page in (PROJECT / "docs").glob("*.md"):
        assert (written / page.name).read_text() == page.read_text(), page.name


def test_only_what_stands_between_the_comments_is_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- bench tried -->\nold\n<!-- / -->\n\nafter\n")
    for _ in range(2):
        docs.write(tmp_path)
        text = page.read_text()
        assert text.startswith("before\n\n<!-- bench tried -->\n| what |")
        assert text.endswith("|\n<!-- / -->\n\nafter\n") and "old" not in text


def test_a_page_that_asks_for_what_there_is_not_stays_as_it_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- verses organism -->\n<!-- / -->\n")
    with pytest.raises(KeyError, match="verses"):
        docs.write(tmp_path)
    assert page.read_text() == "<!-- verses organism -->\n<!-- / -->\n"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_row_holds_the_rates_of_its_arm(preset):
    """Of real models those on public requests, too."""
    results = Results(RESULTS / preset)
    head, _, *rows = rows_of(docs.table(docs.arms(preset)))
    assert [row[0] for row in rows] == [label_of(arm) for arm in results.arms()]
    assert (list(docs.REQUESTS) == head[-2:]) == results.has("requests")
    for row, arm in zip(rows, results.arms()):
        for name, cell in zip(head[1:], row[1:]):
            metric, where = (docs.REQUESTS | MAIN)[name]
            at = POOLED | where | {"arm": arm, "metric": metric}
            (found,) = select(results.table("metrics"), **at).iloc
            ends = f"[{100 * found.low:.0f}, {100 * found.high:.0f}]"
            assert cell == f"{percent(found.estimate)} {ends}"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_claim_has_its_verdicts_and_the_figure_that_they_rest_on(preset):
    with (RESULTS / preset / "tables" / "claims.csv").open(newline="") as file:
        verdicts = {(row["claim"], row["reward"]): row["verdict"] for row in csv.DictReader(file)}
    rows = {row[0]: row for row in rows_of(docs.table(docs.claims(preset)))[2:]}
    assert set(rows) == {claim for claim, _ in verdicts}
    for claim in (claim for claim in hypotheses.load().claims if claim.claim in rows):
        _, said, *told, figure = rows[claim.claim]
        name = claim.figure.partition("/")[2]
        assert said == claim.statement.strip()
        assert told == [verdicts.get((claim.claim, r), "") for r in ("all", "keyword", "model")]
        assert figure == f"[{name}](../results/{preset}/figures/{name}.png)"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_committed_figure_is_shown_and_every_link_leads_somewhere(preset):
    text = docs.gallery(preset)
    shown = re.findall(r"!\[.{20,}\]\((\S+\.png)\)", text)
    there = {path.name for path in (RESULTS / preset / "figures").glob("*.png")}
    assert len(shown) == len(there) and {path.rpartition("/")[2] for path in shown} == there
    linked = re.findall(r"\]\((\S+)\)", text)
    assert len(linked) == 2 * len(shown)
    assert all((PROJECT / "docs" / path).is_file() for path in linked)
    assert "`verdict_page`" not in text.partition("### ")[0] and text.startswith("### verdict_page")
    assert f"<!-- gallery {preset} -->" in (PROJECT / "docs" / "figures.md").read_text()


def test_every_claim_has_the_figure_that_it_rests_on():
    from hybridlib.figures import registry

    for claim in hypotheses.load().claims:
        notebook, _, name = claim.figure.partition("/")
        figure = registry.figures()[name]
        assert claim.claim in figure.claims and figure.notebook == notebook


def test_everything_that_was_tried_is_told_once():
    page = (PROJECT / "docs" / "log.md").read_text(encoding="utf-8")
    with (RESULTS / "bench" / "tried.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            line = f"| {row['what']} | {row['model']} | {row['measured']} | "
            (found,) = (said for said in page.splitlines() if said.startswith(line))
            before, after, kept = rows_of(found)[0][3:]
            assert float(before) == pytest.approx(float(row["before_s"]), abs=5e-4)
            assert float(after) == pytest.approx(float(row["after_s"]), abs=5e-4)
            assert kept == row["kept"]


def test_a_bar_does_not_end_a_cell():
    text = markdown.table(["a", "b"], [["x|y", 1]])
    assert text.splitlines() == ["| a | b |", "| --- | --- |", r"| x\|y | 1 |"]
