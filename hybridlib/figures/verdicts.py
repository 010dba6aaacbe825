"""The figures of 07_verdicts: what was decided, how far it reaches, and what it took."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hybridlib.figures import prose
from hybridlib.figures.panels import cost_bars, left_labels, percent_axis, whiskers
from hybridlib.figures.registry import figure
from hybridlib.figures.results import EFFECT, Results, select, sides
from hybridlib.figures.style import VERDICT_STYLES, label_of, marker_of

STUDY_LOOKS = (
    {"color": "#0072b2", "marker": "o", "linestyle": ""},
    {"color": "#d55e00", "marker": "s", "linestyle": "", "markerfacecolor": "white"},
)
MARGIN = Line2D([], [], color="black", marker="|", linestyle="", markersize=14, label="margin")
NAMES_WIDTH = 215  # points, of the column that names effects


@figure(tables="verdicts", optional="claims sensitivity")
def verdict_page(results: Results) -> Figure:
    """What does each claim of the paper come to?

    A row a hypothesis, grouped by claim: effect, positive as claimed, with its Holm-adjusted
    interval, the margin as a black line, and the verdict in a word.
    """
    rows, reach = results.table("verdicts"), pd.DataFrame()
    together = select(results.table("claims"), reward="all").set_index("claim").verdict
    if results.has("sensitivity"):
        reach = sides(results).groupby(EFFECT).same.agg(["sum", "size"])
    fig, places = _rows_of_effects(rows, 0.5)
    last = None
    for effect, (ax, y, row) in places.items():
        colour, marker = VERDICT_STYLES[row.verdict]
        look = {"color": colour, "marker": marker, "markersize": 10, "elinewidth": 2.5}
        ax.errorbar(row.estimate, y, xerr=whiskers(row), capsize=4, **look)
        reaches = effect in reach.index
        _write(ax, row.verdict.upper(), 1, y, (14, 7 if reaches else 0), color=colour)
        if reaches:
            told = "same side at {} of {}".format(*reach.loc[effect])
            small = {"fontweight": "normal", "fontsize": 11, "color": "0.35"}
            _write(ax, told, 1, y, (14, -8), **small)
        if (ax, row.claim) != last:
            last = ax, row.claim
            _write(ax, f"{row.claim} {prose.CLAIMS[row.claim]}", 0, y, (-NAMES_WIDTH - 155, 8))
            if row.claim in together:
                word = together[row.claim]
                colour, _ = VERDICT_STYLES[word]
                _write(ax, word, 0, y, (-NAMES_WIDTH - 155, -10), color=colour)
            ax.axhline(y - 0.5, color="0.8", linewidth=1)
    keys = [Line2D([], [], color="0.3", marker="o", label="effect, Holm-adjusted interval"), MARGIN]
    if len(reach):
        side = "same side: of the margin, where a changed parameter touches the effect"
        keys.append(Line2D([], [], linestyle="", label=side))
    fig.legend(loc="outside lower right", ncol=len(keys), handles=keys)
    return fig


@figure(tables="beside")
def side_by_side(results: Results) -> Figure:
    """Do the effects of this study repeat in another one?

    A row an effect with two markers, one a study: effect, positive as claimed, with its interval,
    and the margin as a black line; rows are shaded where the two are on different sides of it.
    """
    rows = results.table("beside")
    looks = dict(zip(rows.preset.unique(), STUDY_LOOKS))
    fig, places = _rows_of_effects(rows, 0.28, with_claim=True)
    for row in rows.set_index(EFFECT).itertuples():
        ax, y, _ = places[row.Index]
        at = y + 0.36 * list(looks).index(row.preset) - 0.18
        ax.errorbar(row.estimate, at, xerr=whiskers(row), capsize=3, **looks[row.preset])
    for ax, y, row in places.values():
        if not row.same_side:
            ax.axhspan(y - 0.46, y + 0.46, color="0.9", zorder=0)
    keys = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    keys += [MARGIN, Patch(color="0.9", label="on two sides of the margin")]
    fig.legend(loc="outside lower right", ncol=len(keys), handles=keys)
    return fig


@figure(tables="sensitivity verdicts")
def sensitivity(results: Results) -> Figure:
    """Which effects survive a changed parameter?

    A row an effect with a marker for each changed parameter that touches it: effect, positive as
    claimed, the verdict there by colour and marker, the margin as a black line and the effect of
    the unchanged study, with its interval, in black above.
    """
    fig, places = _rows_of_effects(results.table("verdicts"), 0.55, with_claim=True)
    for ax, y, effect in places.values():
        look = {"color": "black", "marker": "|", "markersize": 9, "capsize": 3}
        ax.errorbar(effect.estimate, y - 0.25, xerr=whiskers(effect), **look)
    moved = sides(results)
    moved["nth"] = moved.groupby(EFFECT).cumcount()
    for row in moved.itertuples():
        ax, y, _ = places[row.Index]
        colour, marker = VERDICT_STYLES[row.verdict]
        look = {"color": colour, "markersize": 8, "alpha": 0.75, "markeredgewidth": 0}
        ax.plot(row.estimate, y + 0.1 + 0.12 * (row.nth % 3), marker, **look)
    keys = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=f"{word} there")
        for word, (colour, marker) in VERDICT_STYLES.items()
        if word in set(moved.verdict)
    ]
    keys += [Line2D([], [], color="black", marker="|", label="unchanged study"), MARGIN]
    fig.legend(handles=keys, loc="outside lower right", ncol=len(keys))
    return fig


@figure(tables="learning_rates")
def learning_rates(results: Results) -> Figure:
    """Was each learning rate chosen inside its grid?

    A panel a variant: its own validation objective against the learning rate, a dot a
    development seed, the chosen rate ringed.
    """
    frame, arms = results.table("learning_rates"), results.arms("learning_rates")
    columns = min(5, len(arms))
    lines = -(-len(arms) // columns)
    fig = Figure(figsize=(13, 1.6 + 2.4 * lines))
    axes = fig.subplots(lines, columns, squeeze=False)
    for ax in axes.flat[len(arms) :]:
        ax.set_axis_off()
    ends = frame.learning_rate.min() / 2, frame.learning_rate.max() * 2
    ring = {"markersize": 20, "markerfacecolor": "none", "markeredgecolor": "black"}
    for ax, arm in zip(axes.flat, arms, strict=False):
        rows, look = select(frame, arm=arm), marker_of(arm)
        ax.plot(rows.learning_rate, rows.objective, "o", c=look["color"], alpha=0.6, markersize=5)
        mean = rows.groupby("learning_rate").objective.mean()
        ax.plot(mean.index, mean, linewidth=1.8, **look)
        chosen = rows[rows.chosen].learning_rate.unique()
        ax.plot(chosen, mean[chosen], "o", **ring)
        ax.set(title=label_of(arm), xscale="log", xlim=ends)
        ax.margins(y=0.25)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.minorticks_off()
        ax.set_xticks(mean.index, [prose.short(rate) for rate in mean.index])
    fig.supxlabel("learning rate (log scale); small dots: seeds; ringed: chosen", fontsize=13)
    fig.supylabel("own validation objective", fontsize=13)
    return fig


@figure(claims="C8", tables="cost")
def cost(results: Results) -> Figure:
    """What does each variant cost to train?

    Bars, a row a variant: floating-point operations, tokens sampled and tokens trained on, with
    intervals over seeds; all phases of a variant together.
    """
    names = {"flops": "FLOPs", "completion_tokens": "tokens sampled"}
    return cost_bars(results, names | {"trained_tokens": "tokens trained on"})


@figure(claims="C8", tables="cost")
def seconds(results: Results) -> Figure:
    """How long does each variant train on one machine?

    Bars, a row a variant: seconds of training, with intervals over seeds.
    """
    return cost_bars(results, {"seconds": "seconds of training on the machine of this run"})


def _rows_of_effects(
    rows: pd.DataFrame, height: float, with_claim: bool = False
) -> tuple[Figure, dict[tuple, tuple[Axes, int, tuple]]]:
    """A row an effect, with its name on the left and its margin as a black line: effect -> (axis,
    height, row). Differences of rates share an axis; log ratios have one below."""
    ratio = rows.metric.eq("log_flops")
    groups = [group for group in (rows[~ratio], rows[ratio]) if len(group)]
    fig, places = Figure(figsize=(14, 2.6 + height * len(rows))), {}
    heights = [len(group) + 1 for group in groups]
    axes = fig.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, group in zip(axes, groups, strict=True):
        ax.axvline(0, color="0.6", linewidth=1, linestyle=":")
        ax.set_xlabel("log ratio (positive: as claimed)")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        if group.metric.iloc[0] != "log_flops":
            ax.set_xlabel("difference (positive: as claimed)")
            percent_axis(ax.xaxis)
        names = []
        effects = group.drop_duplicates(EFFECT).set_index(EFFECT, drop=False)
        for y, row in enumerate(effects.itertuples()):
            ax.plot([row.margin] * 2, [y - 0.4, y + 0.4], color="black", linewidth=2)
            name = "\n".join(prose.effect(row).rsplit(", ", 1))
            names.append(f"{row.claim} {name}" if with_claim else name)
            places[row.Index] = ax, y, row
        ax.set_ylim(len(effects) - 0.4, -0.6)
        left_labels(ax, names, NAMES_WIDTH, fontsize=11)
    return fig, places


def _write(ax: Axes, text: str, x: int, y: int, offset: tuple[int, int], **look: object) -> None:
    """Bold text beside row `y`: right of the axes at x = 1, left of them at x = 0."""
    look = {"va": "center", "fontweight": "bold"} | look
    where = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    ax.annotate(text, (x, y), xytext=offset, **where, **look)
