"""Figures: the same bytes from the same tables, findings that follow the data, readable looks."""

import itertools
import re
import string
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from hybridlib import variants
from hybridlib.evaluation import comparison, tables
from hybridlib.figures import hybrids, plots, prose, style
from hybridlib.figures import results as lookup
from hybridlib.store.errors import ParameterError
from hybridlib.tasks.responses import CLASSES

FIGURES = (
    "response_classes",
    "harm_vs_over_refusal",
    "proxy_vs_gold",
    "language_share",
    "language_training",
    "generalization",
    "generalization_by_language",
    "generalization_gaps",
    "reasoning",
    "cost",
    "seconds",
    "verdict_page",
    "learning_rates",
    "side_by_side",
    "public_requests",
    "usage_advice",
)
OF_HYBRIDS = (
    "hybrids",
    "hybrids_by_compute",
    "hybrids_at_budget",
    "hybrids_along_compute",
    "hybrid_mechanism",
    "hybrid_sweeps",
)
DEFAULT = ("base", "rl", "rl_gold", "sft", "sft_narrow", "two_stage", "joint")


def write(
    folder: Path, seeds: int = 5, runs=tuple(synthetic.RATES), flops: bool = False
) -> lookup.Results:
    """Tables from invented responses of some runs."""

    def of_runs(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[[run in runs for run in zip(frame.variant, frame.reward)]]

    frames = (synthetic.training(seeds, flops=flops), synthetic.cost(seeds))
    training, cost = map(of_runs, frames)
    grid, done = of_runs(synthetic.learning_rates()), of_runs(synthetic.runs(seeds))
    responses = synthetic.responses(seeds, runs=runs)
    responses = pd.concat([responses, synthetic.public(responses)])
    gate = synthetic.gate()
    kept = responses[responses.variant.ne("base")].assign(flops=2e12) if flops else None
    besides = {"prefill": synthetic.begun(seeds, runs), "usage": synthetic.usage(seeds, runs)}
    tables.write_tables(
        folder / "tables", "organism", responses, training, cost, gate, grid, done, kept, besides
    )
    for name in ("judges", "identifier"):
        getattr(synthetic, name)().to_csv(folder / "tables" / f"{name}.csv", index=False)
    found = lookup.Results(folder)
    # Beside itself with every effect turned round: some then lie on the other side of the margin.
    ours = found.table("verdicts")
    turned = ours.assign(estimate=-ours.estimate, low=-ours.high, high=-ours.low)
    beside = comparison.beside("organism", ours, "another", turned)
    beside.to_csv(folder / "tables" / "beside.csv", index=False)
    synthetic.sensitivity(ours).to_csv(folder / "tables" / "sensitivity.csv", index=False)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> lookup.Results:
    return write(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> lookup.Results:
    """Results of every variant, with sweeps."""
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        found = write(tmp_path_factory.mktemp("compared"), runs=tuple(synthetic.RATES), flops=True)
    synthetic.sweep().to_csv(found.folder / "tables" / "sweep.csv", index=False)
    return found


@pytest.fixture
def shown(name, request) -> lookup.Results:
    """The results that a figure is about."""
    return request.getfixturevalue("compared" if name in OF_HYBRIDS else "results")


@pytest.fixture(scope="module")
def flipped(tmp_path_factory) -> lookup.Results:
    """Results in which RL and SFT have changed places."""
    sft = synthetic.RATES["sft", "none"]
    swapped = {
        ("rl", "rule"): sft,
        ("rl", "model"): sft,
        ("sft", "none"): synthetic.RATES["rl", "rule"],
    }
    runs = (("base", "none"), ("two_stage", "model"), *swapped)
    with mock.patch.dict(synthetic.RATES, swapped):
        return write(tmp_path_factory.mktemp("flipped"), runs=runs)


@pytest.mark.parametrize("name", FIGURES + OF_HYBRIDS)
def test_bytes_repeat_whatever_the_user_has_set(name, shown, tmp_path):
    first = style.save(getattr(plots, name)(shown), tmp_path / "first", name)
    fresh = lookup.Results(shown.folder)
    ours = {"font.size": 30, "svg.hashsalt": "mine", "savefig.dpi": 33, "axes.grid": True}
    with matplotlib.rc_context(ours):
        second = style.save(getattr(plots, name)(fresh), tmp_path / "second", name)
    assert [path.name for path in first] == [f"{name}.svg", f"{name}.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[0].read_bytes()


@pytest.mark.parametrize("name", FIGURES + OF_HYBRIDS)
def test_nothing_is_clipped_and_no_texts_overlap(name, shown):
    drawn = []
    with style.styled(), mock.patch.object(Text, "draw", lambda text, _: drawn.append(text)):
        fig = getattr(plots, name)(shown)
        canvas = FigureCanvasAgg(fig)
        fig.draw_without_rendering()  # settles the layout
        drawn.clear()
        canvas.draw()
        width, height = fig.bbox.size
        texts = [
            (text.get_text(), text.get_window_extent(canvas.get_renderer()))
            for text in drawn
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


def test_every_variant_has_a_look_of_its_own():
    looks = style.looks().values()
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    for part in zip(*looks, strict=True):
        assert len(set(part)) == len(part)
    for variant in style.looks():
        rule, model = style.marker_of(f"{variant}/rule"), style.marker_of(f"{variant}/model")
        assert rule["markerfacecolor"] != model["markerfacecolor"]
        assert rule["markeredgecolor"] == model["markeredgecolor"]
        assert style.bar_of(f"{variant}/rule") != style.bar_of(f"{variant}/model")


def test_every_variant_of_the_study_can_be_drawn():
    assert set(variants.measured()) <= set(style.looks())


def test_every_trained_variant_has_one_family_and_stands_beside_it():
    members = [variant for family in variants.families().values() for variant in family]
    trained = [v for v in style.looks() if v not in ("base", "reward_model")]
    assert members == trained


def lab(colour: str, deuteranopia: bool = False) -> np.ndarray:
    """CIELAB under D65; deuteranopia by Machado, Oliveira and Fernandes (2009) at full severity."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if deuteranopia:
        machado = [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
        linear = np.clip(np.array(machado) @ linear, 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deuteranopia", [False, True])
def test_colours_are_told_apart(deuteranopia):
    for one, other in itertools.combinations(style.looks(), 2):
        a, b = (lab(style.looks()[name].colour, deuteranopia) for name in (one, other))
        enough = 15 if {one, other} <= set(DEFAULT) else 8  # a marker of its own does the rest
        assert np.linalg.norm(a - b) > enough, f"{one} looks like {other}"


@pytest.mark.parametrize("classes", [style.HARMFUL_CLASSES, style.BENIGN_CLASSES])
def test_classes_are_told_apart_in_grey(classes):
    assert set(classes) == set(CLASSES[classes_kind(classes)])
    for (_, colour, hatch), (_, other, its) in itertools.combinations(classes.values(), 2):
        assert hatch != its or abs(lab(colour)[0] - lab(other)[0]) > 25


def classes_kind(classes: dict) -> str:
    return "harmful" if classes is style.HARMFUL_CLASSES else "benign"


def test_titles_follow_the_data(results, flipped):
    pairs = {
        "response_classes": ("more harm under rl (rule)", "less harm under rl (rule)"),
        "language_share": ("less under sft", "less under rl (rule)"),
        "harm_vs_over_refusal": ("Least harm: two_stage", "base, 9"),
    }
    for name, (before, after) in pairs.items():
        first, second = finding(plots, name, results), finding(plots, name, flipped)
        assert before in first and after in second
        assert first != second
    assert "more harm" not in finding(plots, "response_classes", flipped)


def finding(module, name: str, results: lookup.Results) -> str:
    return " ".join(getattr(module, name)(results).get_suptitle().split())


def test_refuted_is_as_large_as_supported(results, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    for name in ("verdicts", "claims"):
        frame = pd.read_csv(results.folder / "tables" / f"{name}.csv", keep_default_na=False)
        words = itertools.cycle(style.VERDICT_STYLES)
        frame["verdict"] = [next(words) for _ in range(len(frame))]
        frame.to_csv(folder / f"{name}.csv", index=False)
    drawn = plots.verdict_page(lookup.Results(tmp_path))
    sizes = {
        text.get_text(): (text.get_fontsize(), text.get_fontweight())
        for text in drawn.findobj(Text)
        if text.get_text().lower() in style.VERDICT_STYLES and text.get_text().isupper()
    }
    assert set(sizes) == {word.upper() for word in style.VERDICT_STYLES}
    assert len(set(sizes.values())) == 1
    assert "refuted (" in finding(plots, "verdict_page", lookup.Results(tmp_path))


def test_whiskers_are_the_intervals_of_the_table(results):
    fig = plots.generalization(results)
    raw = pd.read_csv(results.folder / "tables" / "metrics.csv", keep_default_na=False)
    raw = raw[raw.metric.eq("harm_rate") & raw.task.eq("all") & raw.language.eq("all")]
    raw = raw[raw.part.eq("whole") & raw.decoding.eq("sample")]
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    for ax, split in zip(fig.axes, lookup.SPLITS, strict=True):
        drawn = ax.containers
        assert len(drawn) == len(names) == 10
        for name, container in zip(names, drawn, strict=True):
            variant, _, paid = name.rstrip(")").partition(" (")
            row = raw[raw.split.eq(split) & raw.variant.eq(variant)]
            row = row[row.reward.eq(paid)] if paid else row
            (segment,) = container.lines[2][0].get_segments()
            ends = [float(row.low.iloc[0]), float(row.high.iloc[0])]
            assert segment[:, 0] == pytest.approx(ends, abs=1e-9)


def test_few_runs_draw_too(tmp_path):
    few = write(tmp_path, seeds=2, runs=(("base", "none"), ("rl", "rule"), ("sft", "none")))
    for name in FIGURES:
        fig = getattr(plots, name)(few)
        assert "nan" not in fig.get_suptitle()
    assert "not all run" in prose.tally(few)
    assert "descriptive" in prose.evidence(few, "C1")
    assert "no control" in prose.control(few)
    assert prose.versus(few, "harm_rate", "harm", ["joint/rule"], "sft/none") == ""


def test_few_hybrids_draw_too(tmp_path):
    runs = (("base", "none"), ("rl", "rule"), ("gated", "rule"), ("self_distill", "none"))
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        few = write(tmp_path, seeds=1, runs=runs, flops=True)
    assert not few.has("sweep")
    for name in OF_HYBRIDS[:-1]:
        assert "nan" not in getattr(plots, name)(few).get_suptitle()


def test_without_further_hybrids_the_tables_are_those_of_before(results):
    assert not results.has("hybrids")


def test_dots_of_hybrids_are_the_rows_of_their_reward(compared):
    fig = plots.hybrids(compared)
    for part, reward in zip(fig.subfigs, ("rule", "model"), strict=True):
        arms = lookup.under(compared, reward)
        assert len(arms) == 14
        for ax, (metric, (_, where)) in zip(part.axes, hybrids.MEASURES.items()):
            rows = compared.metric(metric, **where)
            drawn = [float(c.lines[0].get_xdata()[0]) for c in ax.containers]
            assert drawn == [rows.estimate[arm] for arm in arms]


def test_the_finding_of_hybrids_follows_the_pairs(compared, tmp_path):
    frame = compared.table("hybrids").copy()
    harm = frame.metric.eq("harm_rate") & frame.split.eq("all")
    frame.loc[harm, ["low", "high"]] = (-0.1, 0.1)
    tables_read = compared._read | {"hybrids": frame}
    assert "none than rl" in prose.less_harm(lookup.Results(tmp_path, tables_read))
    frame.loc[harm & frame.a.eq("gated/rule") & frame.b.eq("rl/rule"), "high"] = -0.01
    said = prose.less_harm(lookup.Results(tmp_path, tables_read))
    assert "paid by the rule, none than sft and gated than rl" in said


def test_contrast_reads_either_way_round(results):
    forth = results.contrast("harm_rate", "rl/rule", "base/none")
    back = results.contrast("harm_rate", "base/none", "rl/rule")
    assert forth.estimate == -back.estimate < 0
    assert (forth.low, forth.high) == (-back.high, -back.low)
    assert results.contrast("harm_rate", "sft_narrow/none", "joint/rule") is None
    assert results.contrast("harm_rate", "rl/rule", "base/none", part="thought") is None
    assert lookup.direction(results, "harm_rate", "base/none", "rl/rule") == 1
    assert lookup.direction(results, "harm_rate", "rl/rule", "base/none") == -1
    # a pair without a contrast: by the intervals alone
    assert lookup.direction(results, "harm_rate", "sft_narrow/none", "joint/rule") == 1


def test_change_is_a_t_interval_over_seeds(results):
    frame = results.table("training")
    frame = frame[frame.arm.eq("rl/model")]
    first = frame[frame.step.le(6)].groupby("seed").gold.mean()
    last = frame[frame.step.gt(54)].groupby("seed").gold.mean()
    test = scipy.stats.ttest_rel(last, first).confidence_interval(0.95)
    mean, low, high = lookup.change(results, "gold", "rl/model")
    assert (low, high) == pytest.approx((test.low, test.high))
    assert mean == pytest.approx((last - first).mean())


def test_control_that_fails_is_said(results, tmp_path):
    (tmp_path / "tables").mkdir()
    frame = results.table("training").copy()
    frame.loc[frame.variant.eq("rl_gold"), "gold"] = 0.5
    frame.to_csv(tmp_path / "tables" / "training.csv", index=False)
    assert "control fails" in prose.control(lookup.Results(tmp_path))
    assert "control holds" in prose.control(results)


def test_of_one_seed_no_interval_is_told(tmp_path):
    one = write(tmp_path, seeds=1)
    told = [prose.scope(one), prose.control(one), prose.movement(one, "rl/rule")]
    assert "1 seed," in told[0] and "over prompts alone" in told[0]
    assert "of one seed" in told[1] and "does not clearly move" in told[2]
    assert not any("nan" in text for text in told)


def test_load_prefers_what_is_named_then_local(tmp_path, monkeypatch):
    for name in ("named", "local", "committed"):
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "tables" / "metrics.csv").touch()
    monkeypatch.setattr(lookup, "local", lambda preset: tmp_path / "local")
    monkeypatch.setattr(lookup, "committed", lambda preset: tmp_path / "committed")
    assert lookup.load("organism", str(tmp_path / "named")).folder.name == "named"
    assert lookup.load("organism").folder.name == "local"
    # A sweep writes beside the tables of a study, also where there are none yet.
    (tmp_path / "local" / "tables" / "metrics.csv").rename(tmp_path / "local" / "tables" / "sweep")
    assert lookup.load("organism").folder.name == "committed"
    with pytest.raises(ParameterError, match="make study PRESET=organism"):
        lookup.load("organism", str(tmp_path / "nowhere"))


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), max_size=6))
def test_join_keeps_every_word(words):
    words = [word for word in words if word != "and"]
    joined = prose.join(words)
    assert re.split(", | and ", joined) == (words or [""])
    assert joined.count(" and ") == (len(words) > 1)


@given(st.floats(-1e3, 1e3), st.integers(0, 3))
def test_signed_has_no_negative_zero(value, digits):
    text = prose.signed(value, digits)
    assert float(text) == pytest.approx(value, abs=0.5 * 10**-digits + 1e-9)
    assert (text[0] in "+-") == (float(text) != 0)


@given(st.floats(1, 1e15))
def test_short_keeps_the_size(value):
    text = prose.short(value).replace("k", "e3").replace("M", "e6")
    assert float(text) == pytest.approx(value, rel=0.06, abs=0.5)


@given(st.floats(0, 1))
def test_percent_never_says_never_of_what_is_rare(value):
    text = prose.percent(value)
    assert float(text[:-1]) == pytest.approx(100 * value, abs=0.5)
    if 0.001 < value < 0.999:
        assert text not in ("0%", "100%")


def test_figures_need_no_torch():
    code = "import sys, hybridlib.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
