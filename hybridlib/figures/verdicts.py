"""The figures of 07_verdicts, one function each: what was decided, and how far it reaches.

As in plots.py, a figure reads tables only and its title states what was found.
"""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hybridlib.figures import prose
from hybridlib.figures.panels import percent_axis, whiskers
from hybridlib.figures.prose import CLAIMS, join
from hybridlib.figures.results import EFFECT, Results, claims, same_side, select
from hybridlib.figures.style import VERDICT_STYLES, label_of, marker_of, styled, suffix_of, title

PRESET_LOOKS = (
    {"color": "#0072b2", "marker": "o", "linestyle": ""},
    {"color": "#d55e00", "marker": "s", "linestyle": "", "markerfacecolor": "white"},
)


@styled()
def verdict_page(results: Results) -> Figure:
    """C1 to C8 at a glance: effect with Holm interval, margin, and the verdict in a word."""
    rows, together = results.table("verdicts"), claims(results)
    reach = same_side(results) if results.has("sensitivity") else None
    ratio = rows.metric.eq("log_flops")  # not a difference of rates: an axis of its own below
    groups = [group for group in (rows[~ratio], rows[ratio]) if len(group)] or [rows]
    fig = Figure(figsize=(14, 2.6 + 0.5 * len(rows)))
    heights = [len(group) + 1 for group in groups]
    axes = fig.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, group in zip(axes, groups, strict=True):
        beside = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        beside |= {"va": "center", "fontweight": "bold"}
        names, last = [], None
        for y, row in enumerate(group.itertuples()):
            colour, marker = VERDICT_STYLES[row.verdict]
            look = {"color": colour, "marker": marker, "markersize": 10, "elinewidth": 2.5}
            ax.errorbar(row.estimate, y, xerr=whiskers(row), capsize=4, **look)
            ax.plot([row.margin] * 2, [y - 0.4, y + 0.4], color="black", linewidth=2)
            effect = tuple(getattr(row, column) for column in EFFECT)
            reaches = reach is not None and effect in reach.index
            high = 7 if reaches else 0
            ax.annotate(row.verdict.upper(), (1, y), xytext=(14, high), color=colour, **beside)
            if reaches:
                same, points = reach.loc[effect]
                told = f"same side at {same} of {points}"
                small = beside | {"fontweight": "normal", "fontsize": 11}
                ax.annotate(told, (1, y), xytext=(14, -8), color="0.35", **small)
            if row.claim != last:
                last, name = row.claim, f"{row.claim} {CLAIMS[row.claim]}"
                ax.annotate(name, (0, y), xytext=(-320, 8), **beside)
                if last in together:
                    colour, _ = VERDICT_STYLES[together[last]]
                    ax.annotate(together[last], (0, y), xytext=(-320, -10), color=colour, **beside)
                ax.axhline(y - 0.5, color="0.8", linewidth=1)
            names.append(f"{row.metric.replace('_', ' ')}\n{row.contrast}{suffix_of(row.reward)}")
        ax.axvline(0, color="0.6", linewidth=1, linestyle=":")
        ax.set_ylim(len(group) - 0.4, -0.6)
        ax.set_yticks(range(len(group)), names)
        ax.tick_params(axis="y", length=0, labelsize=11)
        ax.set_xlabel("log ratio, signed as claimed (further right: more as claimed)")
        ax.xaxis.set_major_locator(MaxNLocator(5))
    if not ratio.all():
        percent_axis(axes[0].xaxis)
        axes[0].set_xlabel("difference, signed as claimed (further right: more as claimed)")
    keys = [
        Line2D([], [], color="0.3", marker="o", label="effect, Holm-adjusted interval"),
        Line2D([], [], color="black", marker="|", linestyle="", markersize=14, label="margin"),
    ]
    if reach is not None:
        side = "same side: of the margin, where a changed parameter touches it"
        keys.append(Line2D([], [], linestyle="", label=side))
    fig.legend(loc="outside lower right", ncol=len(keys), handles=keys)
    title(fig, f"{prose.tally(results)}.")
    return fig


@styled()
def sensitivity(results: Results) -> Figure:
    """Each effect with one parameter changed: a row a test, a column a parameter."""
    table = results.table("sensitivity")
    tests = table.drop_duplicates(EFFECT)
    axes_of = list(dict.fromkeys(table.parameter))
    values = {name: list(dict.fromkeys(table[table.parameter.eq(name)].value)) for name in axes_of}
    points = sum(map(len, values.values()))
    fig = Figure(figsize=(max(13, 4 + 0.6 * points), 2 + 1.25 * len(tests)))
    grid = fig.subplots(
        len(tests), len(axes_of), sharex="col", sharey="row", squeeze=False,
        width_ratios=[len(values[name]) for name in axes_of],
    )  # fmt: skip
    for line, test in zip(grid, tests.itertuples(), strict=True):
        rows = select(table, **{name: getattr(test, name) for name in EFFECT})
        for ax, name in zip(line, axes_of, strict=True):
            for row in rows[rows.parameter.eq(name)].itertuples():
                x = values[name].index(row.value)
                if row.verdict not in VERDICT_STYLES:  # nothing could be trained there
                    ax.axvspan(x - 0.4, x + 0.4, color="0.9", hatch="//", linewidth=0)
                    continue
                colour, marker = VERDICT_STYLES[row.verdict]
                ax.errorbar(x, row.estimate, yerr=whiskers(row), color=colour, marker=marker)
                ax.plot([x - 0.4, x + 0.4], [row.margin] * 2, color="black", linewidth=1.5)
            ax.set_xlim(-0.6, len(values[name]) - 0.4)
            ax.set_xticks(range(len(values[name])), values[name])
            ax.yaxis.set_major_locator(MaxNLocator(3))
        line[0].set_ylabel(
            f"{test.claim} {test.metric.replace('_', ' ')}\n{test.contrast}"
            f"{suffix_of(test.reward)}",
            rotation=0, ha="right", va="center", fontsize=11,
        )  # fmt: skip
    for ax, name in zip(grid[-1], axes_of, strict=True):
        ax.set_xlabel(name.replace("_", "\n"), fontsize=11)
        ax.tick_params(axis="x", labelsize=9)
    keys = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=word)
        for word, (colour, marker) in VERDICT_STYLES.items()
        if word in set(table.verdict)
    ]
    keys.append(Line2D([], [], color="black", label="margin"))
    if not set(table.verdict) <= set(VERDICT_STYLES):
        keys.append(Patch(color="0.9", hatch="//", label="base fails its gate"))
    fig.legend(handles=keys, loc="outside lower center", ncol=len(keys))
    title(fig, prose.sensitivity(results))
    return fig


@styled()
def side_by_side(results: Results) -> Figure:
    """The same effects in this study and in the one beside it, each with its interval."""
    rows = results.table("beside")
    presets = list(dict.fromkeys(rows.preset))
    ratio = rows.metric.eq("log_flops")  # an axis of its own, as on the verdict page
    groups = [group for group in (rows[~ratio], rows[ratio]) if len(group)]
    fig = Figure(figsize=(14, 2.6 + 0.45 * len(rows)))
    heights = [len(group) + 1 for group in groups]
    axes = fig.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, group in zip(axes, groups, strict=True):
        effects = group.drop_duplicates(EFFECT)
        for y, effect in enumerate(effects.itertuples()):
            for row in select(group, **{n: getattr(effect, n) for n in EFFECT}).itertuples():
                nth = presets.index(row.preset)
                ax.errorbar(
                    row.estimate, y + 0.36 * nth - 0.18, xerr=whiskers(row), capsize=3,
                    **PRESET_LOOKS[nth],
                )  # fmt: skip
            ax.plot([effect.margin] * 2, [y - 0.4, y + 0.4], color="black", linewidth=2)
            if not effect.same_side:
                ax.axhspan(y - 0.46, y + 0.46, color="0.9", zorder=0)
        names = [
            f"{e.claim} {e.metric.replace('_', ' ')}\n{e.contrast}{suffix_of(e.reward)}"
            for e in effects.itertuples()
        ]
        ax.axvline(0, color="0.6", linewidth=1, linestyle=":")
        ax.set_ylim(len(effects) - 0.4, -0.6)
        ax.set_yticks(range(len(effects)), names)
        ax.tick_params(axis="y", length=0, labelsize=11)
        ax.set_xlabel("log ratio, signed as claimed")
    if not ratio.all():
        percent_axis(axes[0].xaxis)
        axes[0].set_xlabel("difference, signed as claimed (further right: more as claimed)")
    keys = [Line2D([], [], label=name, **look) for name, look in zip(presets, PRESET_LOOKS)]
    keys += [Line2D([], [], color="black", marker="|", linestyle="", markersize=14, label="margin")]
    keys += [Patch(color="0.9", label="on two sides of the margin")]
    fig.legend(loc="outside lower right", ncol=len(keys), handles=keys)
    title(fig, prose.agreement(results))
    return fig


@styled()
def learning_rates(results: Results) -> Figure:
    """The whole grid on development seeds: own objective, a dot a seed, the chosen rate ringed."""
    frame, arms = results.table("learning_rates"), results.arms("learning_rates")
    columns = max(1, min(5, len(arms)))
    lines = max(1, -(-len(arms) // columns))
    fig = Figure(figsize=(13, 1.6 + 2.4 * lines))
    axes = fig.subplots(lines, columns, squeeze=False)
    for ax in axes.flat[len(arms) :]:
        ax.set_axis_off()
    ends = frame.learning_rate.min(), frame.learning_rate.max()
    for ax, arm in zip(axes.flat, arms, strict=False):
        rows, look = frame[frame.arm.eq(arm)], marker_of(arm)
        dot = {"color": look["color"], "alpha": 0.6, "markersize": 5}
        ax.plot(rows.learning_rate, rows.objective, "o", **dot)
        mean = rows.groupby("learning_rate").objective.mean()
        ax.plot(mean.index, mean, linewidth=1.8, **look)
        ring = {"markersize": 20, "markerfacecolor": "none", "markeredgecolor": "black"}
        chosen = rows[rows.chosen].learning_rate.unique()
        ax.plot(chosen, mean[chosen], "o", **ring)
        ax.set(title=label_of(arm), xscale="log", xlim=(ends[0] / 2, ends[1] * 2))
        ax.margins(y=0.25)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.minorticks_off()
        ax.set_xticks(mean.index, [prose.short(rate) for rate in mean.index])
    fig.supxlabel("learning rate (log scale); small dots: seeds; ringed: chosen", fontsize=13)
    fig.supylabel("own validation objective", fontsize=13)
    chosen = frame[frame.chosen].groupby("arm").learning_rate.first()
    counts = chosen.value_counts().sort_index().items()
    found = join(f"{prose.short(rate)} for {count}" for rate, count in counts)
    at_end = chosen.isin(ends).sum()
    title(fig, f"Learning rates chosen: {found} of {len(chosen)}; {at_end} at an end of the grid.")
    return fig
