"""Every figure that is declared: the same bytes from the same tables, readable, told truly."""

import functools
import itertools
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from hybridlib.evaluation import hypotheses
from hybridlib.figures import style
from hybridlib.figures.registry import NOTEBOOKS, figures
from hybridlib.figures.results import Results

DECLARED = figures()
AS_SVG = ("response_classes", "verdict_page", "generalization", "cost")  # drawn on request alone
DRAWN = {"moderators"}  # where recipes are drawn
OTHERS = {name: declared for name, declared in DECLARED.items() if name not in DRAWN}
figure = pytest.mark.parametrize("name", DECLARED)


class Watched(Results):
    """Results that note which of their tables were asked for."""

    asked: set[str]

    def table(self, name: str):
        self.__dict__.setdefault("asked", set()).add(name)
        return super().table(name)


@pytest.fixture
def shown(name, request) -> Results:
    """The results that a figure is about."""
    compares = DECLARED[name].notebook == "08_hybrids"
    drawn = "moderators" in DECLARED[name].tables
    needed = "compared" if compares else "population" if drawn else "results"
    return request.getfixturevalue(needed)


@functools.cache
def drawn(name: str, folder: Path) -> tuple[Figure, set[str]]:
    """A figure of these tables, drawn once for all tests, and the tables that it has read."""
    results = Watched(folder)
    with style.styled():
        fig = DECLARED[name]._draw(results)
        read = set(results.asked)
        style.title(fig, DECLARED[name].headline(results))
    return fig, read


@figure
def test_bytes_repeat_whatever_the_user_has_set(name, shown, tmp_path):
    def saved(fig: Figure, folder: str) -> list[bytes]:
        kinds = ("png", "svg") if name in AS_SVG else ("png",)
        paths = [style.save(fig, tmp_path / folder, name, kind) for kind in kinds]
        assert [path.name for path in paths] == [f"{name}.{kind}" for kind in kinds]
        return [path.read_bytes() for path in paths]

    first = saved(drawn(name, shown.folder)[0], "first")
    ours = {"font.size": 30, "svg.hashsalt": "mine", "savefig.dpi": 33, "axes.grid": True}
    with matplotlib.rc_context(ours):
        assert saved(DECLARED[name].draw(Results(shown.folder)), "second") == first
    assert not any(b"<dc:date>" in data for data in first)


@figure
def test_nothing_is_clipped_and_no_texts_overlap(name, shown):
    found = []
    with style.styled(), mock.patch.object(Text, "draw", lambda text, _: found.append(text)):
        fig, _ = drawn(name, shown.folder)
        canvas = FigureCanvasAgg(fig)
        fig.draw_without_rendering()  # settles the layout
        found.clear()
        fig.draw_without_rendering()
        width, height = fig.bbox.size
        texts = [
            (text.get_text(), text.get_window_extent(canvas.get_renderer()))
            for text in found
            if text.get_visible() and text.get_text().strip()
        ]
    assert len(texts) > 10
    for what, box in texts:
        assert box.x0 >= -1 and box.x1 <= width + 1, f"{what} is clipped"
        assert box.y0 >= -1 and box.y1 <= height + 1, f"{what} is clipped"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 2 or along < 4, f"{one!r} lies on {other!r}"


@figure
def test_a_title_is_one_short_sentence_without_numbers(name):
    title = DECLARED[name].title
    assert len(title.split()) <= 14
    assert re.fullmatch(r"[A-Z][^.?!\d]+[.?]", title)
    assert len(DECLARED[name].alt) > 60


@figure
def test_the_tables_that_a_figure_reads_are_the_ones_it_declares(name, shown):
    declared, (_, read) = DECLARED[name], drawn(name, shown.folder)
    needed = {need.partition(".")[0] for need in declared.tables}
    only_there = {"hybrids", "judges"}  # says that something was measured which metrics.csv holds
    assert needed - only_there <= read <= needed | set(declared.optional)
    assert read <= set(declared.read(shown))
    assert declared.applies(shown)


def test_a_figure_applies_where_its_tables_are_and_have_rows(
    results, compared, population, tmp_path
):
    alone = {name for name, declared in DECLARED.items() if declared.applies(results)}
    hybrids = {name for name, f in DECLARED.items() if f.notebook == "08_hybrids"}
    assert alone == set(DECLARED) - hybrids - DRAWN
    assert all(declared.applies(compared) for name, declared in OTHERS.items())
    assert DECLARED["moderators"].applies(population)
    assert DECLARED["moderators"].lacks(results) == "moderators.csv has no row"
    assert not any(declared.applies(Results(tmp_path)) for declared in DECLARED.values())
    (tmp_path / "tables").mkdir()
    for name in ("training", "snapshots", "learning_rates", "response_curves"):
        (tmp_path / "tables" / f"{name}.csv").touch()
    rates = results.table("learning_rates")
    empty = Results(
        tmp_path,
        {
            "training": results.table("training"),
            "snapshots": results.table("snapshots").drop(columns="kl"),
            "learning_rates": rates[rates.reward.ne("model")],
            "response_curves": results.table("response_curves"),
        },
    )
    assert DECLARED["proxy_vs_gold"].applies(empty) and DECLARED["response_curves"].applies(empty)
    assert DECLARED["harm_by_distance"].lacks(empty) == "snapshots.csv has no kl"
    assert DECLARED["response_curves_model"].lacks(empty) == "learning_rates.csv has no model"


def test_every_claim_has_the_figure_that_its_verdict_rests_on():
    for claim in hypotheses.load().claims:
        notebook, _, name = claim.figure.partition("/")
        assert DECLARED[name].notebook == notebook and claim.claim in DECLARED[name].claims
    bears_on = {claim for declared in DECLARED.values() for claim in declared.claims}
    assert bears_on == {claim.claim for claim in hypotheses.load().claims}
    assert {declared.notebook for declared in DECLARED.values()} == set(NOTEBOOKS)


def test_few_runs_draw_too(few):
    made = {name for name, f in DECLARED.items() if f.applies(few) and f.draw(few)}
    hybrids = {name for name, f in DECLARED.items() if f.notebook == "08_hybrids"}
    assert made == set(DECLARED) - hybrids - DRAWN - {"response_curves_model"}


def test_without_rl_its_curves_do_not_apply(one_seed, of_arms):
    alone = of_arms(one_seed, {"base/none", "sft/none"})
    lost = {"proxy_vs_gold", "language_training", "response_curves_model"} | DRAWN
    made = {f.name for f in DECLARED.values() if f.applies(alone) and f.draw(alone)}
    assert made == {f.name for f in DECLARED.values() if f.notebook != "08_hybrids"} - lost


def test_few_hybrids_draw_too(compared, of_arms):
    few = of_arms(compared, {"base/none", "rl/keyword", "gated/keyword", "self_distill/none"})
    for declared in DECLARED.values():
        if declared.notebook == "08_hybrids":
            assert declared.applies(few)
            declared.draw(few)


def test_figures_need_no_torch():
    code = "import sys; from hybridlib.figures import registry; registry.figures(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_order_is_that_of_the_notebooks_whatever_was_imported_first():
    code = "from hybridlib.figures import {}registry; print(*registry.figures())"
    orders = {
        subprocess.run(
            [sys.executable, "-c", code.format(first)], capture_output=True, text=True, check=True
        ).stdout
        for first in ("", "hybrids, ", "verdicts, harmlessness, ")
    }
    assert len(orders) == 1
