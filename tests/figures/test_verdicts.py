"""The verdict page: every verdict is equally large, every replicate is there."""

import itertools

import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from hybridlib.figures import style, verdicts
from hybridlib.figures.results import Results

EFFECT = ["claim", "metric", "contrast", "task", "split", "language", "reward"]
WORDS = ("supported", "reversed", "negligible", "undecided", "descriptive")


def lines(fig, marker: str) -> list:
    return [line for ax in fig.axes for line in ax.lines if line.get_marker() == marker]


def test_every_verdict_is_as_large_as_supported(results):
    tables = {name: results.table(name).copy() for name in ("verdicts", "claims")}
    for frame in tables.values():
        frame["verdict"] = [word for word, _ in zip(itertools.cycle(WORDS), range(len(frame)))]
    fig = verdicts.verdict_page(Results(results.folder, results._read | tables))
    said = [text for text in fig.findobj(Text) if text.get_text() in WORDS]
    assert {text.get_text() for text in said} == set(WORDS) == set(style.VERDICT_STYLES)
    assert len({(text.get_fontsize(), text.get_fontweight()) for text in said}) == 1
    tiles = [box for box in fig.axes[2].patches if isinstance(box, Rectangle)]
    assert len({(round(box.get_width(), 6), round(box.get_height(), 6)) for box in tiles}) == 1


def test_every_replicate_of_every_test_is_a_dot(population):
    fig = verdicts.verdict_page(population)
    drawn = [tuple(sorted(line.get_xdata())) for line in lines(fig, "o")]
    each = population.table("replicates")
    primary = population.table("verdicts")
    expected = [
        tuple(sorted(each.merge(primary.iloc[[n]][EFFECT]).estimate)) for n in range(len(primary))
    ]
    assert sorted(drawn) == sorted(expected)
    assert {len(found) for found in drawn} == {8}


def test_the_page_says_what_the_tables_say(population):
    fig, rows = verdicts.verdict_page(population), population.table("verdicts")
    said = [text.get_text() for text in fig.findobj(Text)]
    claims = population.table("claims").query("reward == 'all'")
    for word in WORDS:
        told = rows.verdict.eq(word).sum() + claims.verdict.eq(word).sum()
        assert said.count(word) == told
    assert said.count("fragile") == rows.fragile.eq(True).sum()
    for row in rows.itertuples():
        assert f"{round(row.share_on_side * row.replicates)} of {row.replicates}" in said
    ends = {
        (round(line.get_xdata()[0], 6), round(line.get_xdata()[1], 6))
        for ax in fig.axes
        for line in ax.lines
        if len(line.get_xdata()) == 2
    }
    for row in rows.itertuples():
        assert (round(row.low, 6), round(row.high, 6)) in ends
        assert (round(row.predicted_low, 6), round(row.predicted_high, 6)) in ends
    bands = [
        (box.get_x(), box.get_x() + box.get_width())
        for ax in fig.axes[1::3]
        for box in ax.patches
    ]  # fmt: skip
    margins = sorted(rows.margin[rows.margin > 0])
    assert sorted(high for _, high in bands) == pytest.approx(margins)
    assert all(low == pytest.approx(-high) for low, high in bands)


def test_a_claim_shows_what_it_depends_on_and_no_more_than_three(population):
    table = population.table("moderators").merge(population.table("verdicts")[EFFECT])
    clear = table[(table.low > 0) | (table.high < 0)]
    counts = clear.groupby("claim").size().clip(upper=3)
    fig = verdicts.moderators(population)
    shown = {part.get_suptitle(): [ax for ax in part.axes if ax.axison] for part in fig.subfigs}
    assert [name[:2] for name in shown] == sorted(set(table.claim))
    for name, axes in shown.items():
        assert len(axes) == counts.get(name[:2], 0)
        assert ("none of what was drawn" in name) == (not axes)
    recipes = population.table("recipes").set_index("seed")
    each = population.table("replicates").merge(clear[[*EFFECT, "parameter"]])
    points = {
        (tuple(rows.seed.map(recipes[parameter])), tuple(rows.estimate))
        for (*_, parameter), rows in each.groupby([*EFFECT, "parameter"])
    }
    for line in lines(fig, "o"):
        assert (tuple(line.get_xdata()), tuple(line.get_ydata())) in points


def test_more_than_three_slopes_give_the_three_clearest(population):
    table = population.table("moderators").copy()
    mine = table.claim.eq("C2")
    table.loc[mine, ["slope", "low", "high"]] = [0.2, 0.1, 0.3]
    clearest = table[mine].index[3:6]
    table.loc[clearest, ["low", "high"]] = [0.19, 0.21]
    fig = verdicts.moderators(Results(population.folder, population._read | {"moderators": table}))
    (part,) = (part for part in fig.subfigs if part.get_suptitle().startswith("C2"))
    labels = [ax.get_xlabel() for ax in part.axes if ax.axison]
    expected = table.loc[clearest].parameter.str.replace("_", " ")
    assert [label.splitlines()[0] for label in labels] == list(expected)


def test_studies_beside_one_another_are_shaded_where_they_disagree(results):
    fig, rows = verdicts.side_by_side(results), results.table("beside")
    shaded = sum(len(ax.patches) for ax in fig.axes)
    assert shaded == len(rows[~rows.same_side]) > 0
    drawn = sorted(
        float(container.lines[0].get_xdata()[0]) for ax in fig.axes for container in ax.containers
    )
    assert drawn == pytest.approx(sorted(rows.estimate))
    assert pd.Series(drawn).notna().all()
