"""Pieces that several figures share: rows of dots, training curves, bars of costs."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hybridlib.evaluation import hypotheses
from hybridlib.figures import prose
from hybridlib.figures import results as lookup
from hybridlib.figures.prose import REWARDS
from hybridlib.figures.results import Results, select
from hybridlib.figures.style import bar_of, label_of, line_of, looks, marker_of, order_of

GREY = {"color": "0.55", "linewidth": 1.6, "linestyle": ":"}  # rl, where it is the reference
SHORT_NUMBERS = FuncFormatter(lambda value, _: prose.short(value))
PARENTS = {"rl": "-", "sft": "--"}
#: The harm rate that is to be reached.
LEVEL = next(half.level for _, half, _ in hypotheses.load().tests() if half.level)
BOUNDS = {"proxy": (None, None), "entropy": (0, None)}  # of training columns that are no shares


def percent_axis(axis: Axis, whole: bool = False) -> None:
    """Few ticks, in percent; `whole` fixes the range to 0..100%."""
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if whole:
        name = axis.axis_name
        axis.axes.set(**{f"{name}lim": (-0.04, 1.04), f"{name}ticks": (0, 0.5, 1)})
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def whiskers(found: pd.Series | pd.DataFrame) -> np.ndarray:
    """(2, n) distances from n estimates, or from one, to the ends of their intervals."""
    ends = np.array([found.estimate - found.low, found.high - found.estimate])
    return ends.reshape(2, -1).clip(min=0)


def left_labels(ax: Axes, names: Sequence[str], width: float, **font: object) -> None:
    """Name the rows of an axis in a column of text, left-aligned and `width` points wide."""
    ax.set_yticks(range(len(names)), names, ha="left", **font)
    ax.tick_params(axis="y", length=0, pad=width)


def crosses(ax: Axes, across: pd.DataFrame, up: pd.DataFrame) -> None:
    """A marker an arm at two measures, with both intervals."""
    for arm, x in across[across.index.isin(up.index)].iterrows():
        bars = {"xerr": whiskers(x), "yerr": whiskers(up.loc[arm]), "elinewidth": 1.5, "capsize": 3}
        ax.errorbar(x.estimate, up.estimate[arm], alpha=0.9, **bars, **marker_of(arm))


def arm_rows(ax: Axes, arms: Sequence[str], labels: bool) -> None:
    """One row an arm, the first on top."""
    ax.set_ylim(len(arms) - 0.5, -0.5)
    ax.set_yticks([])
    if labels:
        names = [label_of(arm) for arm in arms]
        width = 4 + 7.3 * max(map(len, names))
        left_labels(ax, names, width, fontfamily="monospace", fontsize=12)


def dots(ax: Axes, rows: pd.DataFrame, arms: Sequence[str], labels: bool) -> None:
    """Estimates with intervals, a row an arm; the base's own as a line and band through all."""
    arm_rows(ax, arms, labels)
    if "base/none" in rows.index:
        base, colour = rows.loc["base/none"], looks()["base"].colour
        ax.axvline(base.estimate, color=colour, linestyle="--", linewidth=1.2, zorder=1)
        ax.axvspan(base.low, base.high, color="0.9", zorder=0)
    for y, arm in enumerate(arms):
        if arm in rows.index:
            row, look = rows.loc[arm], marker_of(arm)
            if "each" in rows:  # the replicates, below
                small = {"markersize": 3, "alpha": 0.45, "markeredgewidth": 0}
                ax.plot(row.each, [y + 0.3] * len(row.each), "o", color=look["color"], **small)
            ax.errorbar(row.estimate, y, xerr=whiskers(row), capsize=4, elinewidth=2, **look)


def dot_panels(
    panels: list[tuple[str, str, pd.DataFrame]], xlabel: str = "", whole: bool = True
) -> Figure:
    """Panels (title, x label, rows of metrics) side by side, the same arms in each.

    `whole`: the axes go from 0 to 100%.
    """
    arms = sorted({arm for _, _, rows in panels for arm in rows.index}, key=order_of)
    fig = Figure(figsize=(11, 2.2 + 0.4 * len(arms)))
    for ax, (name, label, rows) in zip(fig.subplots(1, len(panels)), panels, strict=True):
        dots(ax, rows, arms, labels=ax is fig.axes[0])
        ax.set(xlabel=label)
        ax.set_title(name, fontsize=13)
        percent_axis(ax.xaxis, whole)
    if xlabel:
        fig.supxlabel(xlabel, fontsize=13)
    return fig


def same_limits(axes: Sequence[Axes]) -> None:
    """One x range for panels that are to be compared."""
    lows, highs = zip(*(ax.get_xlim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_xlim(min(lows), max(highs))


def _curve(
    ax: Axes, run: pd.DataFrame, column: str, x: str, look: dict[str, object], phase: float = 0
) -> None:
    """Mean over replicates with a 95% t band; each is first smoothed over a tenth of its steps.

    `x` is averaged over replicates; `phase`, from 0 to 1, staggers the markers.
    """
    rows = run.dropna(subset=[column, x])
    if rows.empty:
        return
    by_seed = rows.pivot(index="step", columns="seed", values=column)
    band = lookup.over_replicates(lookup.smoothed(by_seed))
    at = rows.groupby("step")[x].mean()
    every = max(1, len(band) // 5)  # few markers, staggered so that curves in one place show
    ax.plot(at, band.estimate, markevery=(int(phase * every), every), **look)
    if band.low.notna().all():
        low, high = (band[end].clip(*BOUNDS.get(column, (0, 1))) for end in ("low", "high"))
        ax.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)


def training_curves(
    results: Results, labels: dict[str, str], x: str = "step", xlabel: str = "training step"
) -> Figure:
    """A row of panels for each column of training.csv (-> label), a column of panels a reward."""
    arms = lookup.trained_by_rl(results)
    groups = {name: [arm for arm in arms if arm.endswith(f"/{r}")] for r, name in REWARDS.items()}
    groups = {name: group for name, group in groups.items() if group}
    fig = Figure(figsize=(13, 2 + 2.8 * len(labels)))
    rows = [(column, label, "") for column, label in labels.items()]
    for ax, column in zip(curve_grid(fig, results, rows, groups, x, xlabel), labels, strict=True):
        if column not in BOUNDS:
            percent_axis(ax.yaxis)
    keys = [Line2D([], [], label=label_of(arm), **line_of(arm)) for arm in arms]
    fig.legend(handles=keys, loc="outside lower center", ncol=min(4, len(arms)), handlelength=3.5)
    return fig


def curve_grid(
    fig: Figure, results: Results, rows: Sequence[tuple[str, str, str]],
    groups: Mapping[str, Sequence[str]], x: str, xlabel: str,
) -> list[Axes]:  # fmt: skip
    """Curves of training.csv: a row of panels a (column, label, reward), a column a group of arms.

    Where a row names a reward, it has the arms under that reward alone, and `rl` in grey. Returns
    the first panel of each row.
    """
    runs = dict(list(lookup.training(results).groupby("arm")))
    axes = fig.subplots(len(rows), len(groups), sharex=True, sharey="row", squeeze=False)
    for line, (column, label, reward) in zip(axes, rows, strict=True):
        line[0].set_ylabel(label)
        for ax, group in zip(line, groups.values(), strict=True):
            ax.yaxis.set_major_locator(MaxNLocator(3))
            ax.xaxis.set_major_locator(MaxNLocator(4))
            if reward:
                if f"rl/{reward}" in runs:
                    _curve(ax, runs[f"rl/{reward}"], column, x, GREY)
                group = [arm for arm in group if arm.endswith((f"/{reward}", "/none"))]
            for n, arm in enumerate(group):
                _curve(ax, runs[arm], column, x, line_of(arm), n / len(group))
    for top, bottom, name in zip(axes[0], axes[-1], groups, strict=True):
        top.set_title(name)
        bottom.set_xlabel(xlabel)
    return list(axes[:, 0])


def paths(results: Results, x: str, xlabel: str) -> Figure:
    """Small multiples of snapshots.csv, a panel an arm: harm against a column of it, a thin line a
    replicate and a bold one for the mean at each step; the means of rl and sft in grey."""
    table, arms = lookup.snapshots(results), results.arms("snapshots")
    columns = min(4, len(arms))
    means = {arm: select(table, arm=arm).groupby("step")[[x, "harm"]].mean() for arm in arms}
    lines = -(-len(arms) // columns)
    fig = Figure(figsize=(10, 1.7 + 2.1 * lines))
    axes = fig.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(arms) :]:
        ax.set_axis_off()
    for ax, arm in zip(axes.flat, arms, strict=False):
        for parent, style in PARENTS.items():
            for other in (f"{parent}/{arm.partition('/')[2]}", f"{parent}/none"):
                if other in means and other != arm:
                    ax.plot(means[other][x], means[other].harm, color="0.6", linestyle=style)
        look = line_of(arm) | {"markersize": 6, "markeredgewidth": 1.2}
        for _, run in select(table, arm=arm).groupby("seed"):
            ax.plot(run[x], run.harm, color=look["color"], linewidth=0.7, alpha=0.45)
        ax.plot(means[arm][x], means[arm].harm, **look)
        ax.axhline(LEVEL, color="black", linewidth=0.8, linestyle=":")
        ax.set_title(label_of(arm), fontsize=12)
        percent_axis(ax.yaxis, whole=True)
        ax.tick_params(labelsize=11, labelbottom=True)
    for column in axes.T:
        [ax for ax in column if ax.axison][-1].set_xlabel(xlabel, fontsize=11)
    fig.supylabel("harm rate, T=1 (lower is safer)", fontsize=12)
    keys = [
        Line2D([], [], color="0.3", linewidth=0.7, label="a replicate"),
        Line2D([], [], color="0.3", linewidth=2.2, label="mean"),
        *(
            Line2D([], [], color="0.6", linestyle=style, label=f"{parent}, mean")
            for parent, style in PARENTS.items()
        ),
        Line2D([], [], color="black", linewidth=0.8, linestyle=":", label=f"{LEVEL:.0%} harm"),
    ]
    fig.legend(handles=keys, loc="outside lower center", ncol=5, fontsize=11)
    return fig


def cost_bars(results: Results, columns: dict[str, str]) -> Figure:
    """Bars from zero, a row an arm: the mean over replicates, written next to its interval."""
    arms = results.arms("cost")
    fig = Figure(figsize=(13, 2.2 + 0.4 * len(arms)))
    axes = fig.subplots(1, len(columns), squeeze=False)[0]
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        arm_rows(ax, arms, labels=ax is axes[0])
        totals = lookup.totals(results, column)
        for y, (arm, row) in enumerate(totals.loc[arms].iterrows()):
            ax.barh(y, row.estimate, height=0.68, **bar_of(arm))
            ax.errorbar(row.estimate, y, xerr=whiskers(row), color="black", capsize=3.5)
            beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(prose.short(row.estimate), (row.high, y), fontsize=12, **beside)
        ax.set_xlim(0, 1.25 * totals.high.max() or 1)
        ax.set_xlabel(f"{label}\n(lower is cheaper)")
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.xaxis.set_major_formatter(SHORT_NUMBERS)
    return fig
