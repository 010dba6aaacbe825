"""The figures of 07_verdicts that show effects: what was decided, and what it depends on."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hybridlib.evaluation.verdicts import EFFECT
from hybridlib.figures import prose
from hybridlib.figures.panels import left_labels, percent_axis, whiskers
from hybridlib.figures.registry import figure
from hybridlib.figures.results import Results, select
from hybridlib.figures.style import VERDICT_STYLES

STUDY_LOOKS = (
    {"color": "#0072b2", "marker": "o", "linestyle": ""},
    {"color": "#d55e00", "marker": "s", "linestyle": "", "markerfacecolor": "white"},
)
MARGIN = Line2D([], [], color="black", marker="|", linestyle="", markersize=14, label="margin")
TEST = [name for name in EFFECT if name != "reward"]  # what a claim says, under either reward
LINE, HEADING = 0.38, 0.46  # inches
DOTS = {"keyword": "0.45", "model": "white"}  # what fills the dot of a replicate; else light grey
MOST = 3  # panels of a claim


@dataclass(frozen=True)
class _Row:
    """An effect under one reward; its row, and the heading of its claim, in inches from the top."""

    y: float
    heading: float
    row: pd.Series


@figure(tables="verdicts replicates", optional="claims")
def verdict_page(results: Results) -> Figure:
    """What does each claim of the paper come to?

    A row a test under one reward, grouped by claim: the effect, positive as claimed, of every
    replicate as a dot, its Holm-adjusted interval as a thick line and the prediction interval of a
    new replicate as a thin one, the margins as a grey band, the verdict in a tile, the share of
    replicates on the claimed side, and a mark where the verdict is fragile.
    """
    rows = results.table("verdicts")
    each = dict(list(results.table("replicates").groupby(EFFECT)))
    together = select(results.table("claims"), reward="all").set_index("claim").verdict
    ratio = rows.metric.map(prose.is_ratio)
    groups = [group for group in (rows[~ratio], rows[ratio]) if len(group)]
    pages = [list(_placed(group)) for group in groups]
    heights = [page[-1].y + LINE for page in pages]
    fig = Figure(figsize=(10, 1.6 + 0.7 * len(groups) + sum(heights)))
    fig.get_layout_engine().set(wspace=0, w_pad=0.02)
    grid = fig.subplots(
        len(groups), 3, squeeze=False, sharey="row", height_ratios=heights,
        width_ratios=[3.5, 3.7, 2.8],
    )  # fmt: skip
    for (names, plot, words), page, height in zip(grid, pages, heights, strict=True):
        for ax in (names, words):
            ax.set(xlim=(0, 1))
            ax.set_axis_off()
        plot.set(ylim=(height, 0), yticks=[])
        plot.spines["left"].set_visible(False)
        plot.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
        for claim, placed in _by(page, ["claim"]):
            at = placed[0].heading
            for ax in (names, plot, words):
                ax.axhline(at - HEADING / 2, color="0.6", linewidth=1)
            names.text(0, at, f"{claim} {prose.CLAIMS[claim]}", va="center", weight="bold")
            if claim in together:
                _tile(words, at, together[claim], note="both rewards" if _both(placed) else "")
        for _, placed in _by(page, TEST):
            middle = (placed[0].y + placed[-1].y) / 2
            said = _wrapped(prose.effect(placed[0].row))
            names.text(0, middle, said, va="center", fontsize=11, linespacing=1.05)
            for found in placed:
                row, reward = found.row, prose.under(found.row.reward)
                names.text(0.98, found.y, reward, va="center", ha="right", fontsize=10, color="0.3")
                _effect(plot, found.y, row, each.get(tuple(row[EFFECT])))
                note = f"{row.share_on_side * row.replicates:.0f} of {row.replicates}"
                _tile(words, found.y, row.verdict, note, fragile=row.fragile == True)  # noqa: E712
        _effect_axis(plot, page[0].row.metric)
    top = grid[0, 2]
    top.text(0.2, -0.12, "verdict", ha="center", fontsize=11, color="0.3")
    top.text(0.6, -0.12, "on the\nclaimed side", ha="center", fontsize=11, color="0.3")
    keys = [
        Line2D([], [], color="0.5", marker="o", markersize=5, linestyle="", label="a replicate"),
        Line2D([], [], color="black", linewidth=4, label="mean, Holm-adjusted interval"),
        Line2D([], [], color="black", linewidth=1, label="interval of a new replicate"),
        Line2D([], [], color="black", marker="|", linestyle="", markersize=14, markeredgewidth=2,
               label="to be exceeded"),
        Patch(color="0.88", label="too small to matter"),
    ]  # fmt: skip
    fig.legend(loc="outside lower center", ncol=3, handles=keys, fontsize=11)
    return fig


@figure(tables="moderators replicates recipes verdicts")
def moderators(results: Results) -> Figure:
    """What of the recipe does each effect depend on?

    A row a claim: its effects in every replicate, positive as claimed, against the parameters of
    the recipe whose slope has an interval that excludes zero, at most three, the clearest ones;
    with a least-squares line, the margin and the slope over the whole range.
    """
    table = results.table("moderators").merge(results.table("verdicts")[[*EFFECT, "margin"]])
    clear = table[(table.low > 0) | (table.high < 0)]
    how_clear = (clear.slope / (clear.high - clear.low)).abs()
    clear = clear.loc[how_clear.sort_values(ascending=False, kind="stable").index]
    shown = {
        claim: clear[clear.claim.eq(claim)].head(MOST) for claim in sorted(table.claim.unique())
    }
    heights = [2.7 if len(found) else 0.45 for found in shown.values()]
    fig = Figure(figsize=(10, 1 + sum(heights)))
    parts = fig.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (claim, found) in zip(parts, shown.items(), strict=True):
        name = f"{claim} {prose.CLAIMS[claim]}" + (": none of what was drawn" * found.empty)
        part.suptitle(name, x=0.01, ha="left", fontsize=12, weight="bold")
        axes = part.subplots(1, MOST) if len(found) else []
        for ax in axes[len(found) :]:
            ax.set_axis_off()
        for ax, row in zip(axes, found.itertuples(), strict=False):
            _depends(ax, row, results)
    return fig


@figure(tables="beside")
def side_by_side(results: Results) -> Figure:
    """Do the effects of this study repeat in another one?

    A row an effect with two markers, one a study: effect, positive as claimed, with its interval,
    and the margin as a black line; rows are shaded where the two are on different sides of it.
    """
    rows = results.table("beside")
    looks = dict(zip(rows.preset.unique(), STUDY_LOOKS))
    ratio = rows.metric.map(prose.is_ratio)
    groups = [group for group in (rows[~ratio], rows[ratio]) if len(group)]
    effects = [group.drop_duplicates(EFFECT) for group in groups]
    heights = [len(group) + 1 for group in effects]
    fig = Figure(figsize=(12, 2.2 + 0.3 * sum(heights)))
    axes = fig.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, group, own in zip(axes, groups, effects, strict=True):
        ax.axvline(0, color="0.6", linewidth=1, linestyle=":")
        places = {tuple(row): y for y, row in enumerate(own[EFFECT].itertuples(index=False))}
        for row in group.itertuples():
            y = places[tuple(getattr(row, name) for name in EFFECT)]
            at = y + 0.36 * list(looks).index(row.preset) - 0.18
            ax.errorbar(row.estimate, at, xerr=whiskers(row), capsize=3, **looks[row.preset])
            ax.plot([row.margin] * 2, [y - 0.4, y + 0.4], color="black", linewidth=2)
            if not row.same_side:
                ax.axhspan(y - 0.46, y + 0.46, color="0.9", zorder=0)
        ax.set_ylim(len(own) - 0.4, -0.6)
        names = [
            f"{row.claim} {prose.effect(row)}, {prose.under(row.reward)}".rstrip(", ")
            for row in own.itertuples()
        ]
        left_labels(ax, names, 6 * max(map(len, names)), fontsize=11)
        _effect_axis(ax, own.metric.iloc[0])
    keys = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    keys += [MARGIN, Patch(color="0.9", label="on two sides of the margin")]
    fig.legend(loc="outside lower right", ncol=len(keys), handles=keys)
    return fig


def _placed(rows: pd.DataFrame) -> Iterator[_Row]:
    """The rows of effects from top to bottom: below a heading a claim, as high as their names."""
    y = 0.0
    for _, of_claim in rows.groupby("claim", sort=False):
        heading, y = y + HEADING / 2, y + HEADING
        for _, test in of_claim.groupby(TEST, sort=False):
            lines = _wrapped(prose.effect(test.iloc[0])).count("\n") + 1
            step = max(LINE, (0.19 * lines + 0.1) / len(test))
            for nth, (_, row) in enumerate(test.iterrows()):
                yield _Row(y + (nth + 0.5) * step, heading, row)
            y += step * len(test) + 0.06


def _by(page: Iterable[_Row], names: list[str]) -> list[tuple[str, list[_Row]]]:
    """Rows that have these columns in common."""
    found: dict[tuple, list[_Row]] = {}
    for placed in page:
        found.setdefault(tuple(placed.row[names]), []).append(placed)
    return [(key[0], rows) for key, rows in found.items()]


def _both(placed: list[_Row]) -> bool:
    return {"keyword", "model"} <= {found.row.reward for found in placed}


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 27))


def _effect(ax: Axes, y: float, row: pd.Series, each: pd.DataFrame | None) -> None:
    """The margins, the replicates, the interval and the prediction interval of an effect."""
    if row.margin > 0:
        ax.add_patch(Rectangle((-row.margin, y - LINE / 2), 2 * row.margin, LINE, color="0.88"))
    ax.plot([row.margin] * 2, [y - LINE / 2, y + LINE / 2], color="black", linewidth=2)
    if each is not None:
        # Spread by the golden ratio, so that neighbours in value are hardly ever at one height.
        across = (np.argsort(np.argsort(each.estimate)) * 0.618) % 1 - 0.5
        look = {"markerfacecolor": DOTS.get(row.reward, "0.75"), "markeredgecolor": "0.35"}
        ax.plot(each.estimate, y + 0.06 + 0.16 * across, "o", markersize=4, mew=0.6, **look)
    line = {"color": "black", "solid_capstyle": "butt"}
    ax.plot([row.predicted_low, row.predicted_high], [y - 0.1] * 2, linewidth=1, **line)
    ax.plot([row.low, row.high], [y - 0.1] * 2, linewidth=4, **line)
    ax.plot(row.estimate, y - 0.1, "D", markersize=6, color="black", markeredgecolor="white")


def _tile(ax: Axes, y: float, word: str, note: str = "", fragile: bool = False) -> None:
    """A verdict in a tile, as large as any other, and what is said beside it."""
    fill, letters = VERDICT_STYLES[word]
    box = Rectangle((0, y - 0.12), 0.4, 0.24, facecolor=fill, edgecolor="0.3", linewidth=0.8)
    ax.add_patch(box)
    look = {"va": "center", "ha": "center", "fontsize": 10.5}
    ax.text(0.2, y, word, color=letters, weight="bold", **look)
    ax.text(0.6, y, note, **look)
    if fragile:
        ax.text(0.9, y, "fragile", style="italic", weight="bold", **look)


def _effect_axis(ax: Axes, metric: str) -> None:
    """The scale of effects: points, or ratios, with the claimed side on the right."""
    ax.set_xlabel("percentage points\n(right: as claimed)")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: prose.signed(100 * value)))
    if prose.is_ratio(metric):
        ax.set_xlabel("ratio\n(right: as claimed)")
        low, high = ax.get_xlim()
        powers = np.arange(np.floor(low / np.log(4)), np.ceil(high / np.log(4)) + 1)
        shown = [f"{4**p:g}" if p >= 0 else f"1/{4**-p:g}" for p in powers]
        ax.set_xticks(np.log(4) * powers, shown)
        ax.set_xlim(low, high)


def _depends(ax: Axes, row, results: Results) -> None:
    """An effect in every replicate against a parameter of the recipe."""
    named = {name: getattr(row, name) for name in EFFECT}
    each = select(results.table("replicates"), **named)
    each = each.merge(results.table("recipes")[["seed", row.parameter]])
    x, y = each[row.parameter], each.estimate
    ax.axhline(row.margin, color="black", linewidth=1)
    ax.plot(x, y, "o", markersize=5, mew=0.6, mfc=DOTS.get(row.reward, "0.75"), mec="0.35")
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color="#d55e00", linewidth=2)
    under = f" ({reward})" if (reward := prose.under(row.reward)) else ""
    ax.set_title("\n".join(textwrap.wrap(prose.effect(row) + under, 32)), fontsize=10.5, loc="left")
    slope = {"estimate": row.slope, "low": row.low, "high": row.high}
    told = prose.times if prose.is_ratio(row.metric) else prose.points
    ax.set_xlabel(f"{row.parameter.replace('_', ' ')}\n{told(pd.Series(slope))}", fontsize=10.5)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(labelsize=10.5)
    if not prose.is_ratio(row.metric):
        percent_axis(ax.yaxis)
