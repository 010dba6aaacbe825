"""The figures that compare hybrids, one function each: drawn where a study holds them all.

As in plots.py, a figure reads tables only and its title states what was found.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hybridlib.figures import prose
from hybridlib.figures import results as lookup
from hybridlib.figures.panels import curve, dots, percent_axis, same_limits, whiskers
from hybridlib.figures.prose import PAID_BY, join, percent, short
from hybridlib.figures.results import Results, select
from hybridlib.figures.style import VARIANT_STYLES, label_of, line_of, marker_of, styled, title
from hybridlib.variants import REWARDS, families, hybrid_variants

MEASURES = {  # metric -> (what it is, where)
    "harm_rate": ("harm\n(lower is safer)", {}),
    "over_refusal_rate": ("over-refusal\n(lower is better)", {}),
    "off_language_rate": ("off-language\n(lower is better)", {}),
    "accuracy": ("sums right\n(higher is better)", {"task": "sums"}),
}
FAMILY_OF = {variant: name for name, members in families().items() for variant in members}
GREY = {"color": "0.55", "linewidth": 1.6, "linestyle": ":"}  # rl, where it is the reference


@styled()
def hybrids(results: Results) -> Figure:
    """Harm, over-refusal, off-language and accuracy of every variant, at equal optimiser steps."""
    rates = {metric: results.metric(metric, **where) for metric, (_, where) in MEASURES.items()}
    fig = _every_variant(results, rates)
    title(fig, f"Clearly less harm, corrected for all pairs: {prose.less_harm(results)}.")
    return fig


@styled()
def hybrids_at_budget(results: Results) -> Figure:
    """The same of the policies as they were when each had cost the same FLOPs."""
    table, rates = results.table("at_budget"), {}
    for metric, (_, where) in MEASURES.items():
        untrained = results.metric(metric, **where).query("arm == 'base/none'")
        found = select(table, metric=metric, split="all").set_index("arm")
        rates[metric] = pd.concat([untrained, found])
    fig = _every_variant(results, rates)
    harm, said = rates["harm_rate"].estimate, []
    for reward in lookup.rewards(results):
        own = harm[[arm for arm in harm.index if arm.endswith(f"/{reward}")]]
        if len(own):
            ends = own.idxmin(), own.idxmax()
            said.append(join(f"{label_of(arm)} {percent(own[arm])}" for arm in ends))
    at = short(table.flops.iloc[0])
    title(fig, f"Least and most harm with {at} FLOPs each: {'; '.join(said)}.")
    return fig


@styled()
def hybrids_by_compute(results: Results) -> Figure:
    """The same four measures against the FLOPs of training, all phases together."""
    fig, rows = _rows_of_rewards(results, 3.4)
    flops = lookup.totals(results, "flops")
    for n, (reward, axes) in enumerate(rows):
        for (metric, (name, where)), ax in zip(MEASURES.items(), axes, strict=True):
            found = results.metric(metric, **where)
            if "base/none" in found.index:
                ax.axhline(found.estimate["base/none"], color="0.4", linestyle="--", linewidth=1)
            for arm in lookup.under(results, reward):
                if arm in flops.index:
                    y, x = found.loc[arm], flops.loc[arm]
                    bars = {"xerr": whiskers(x), "yerr": whiskers(y), "elinewidth": 1.2}
                    ax.errorbar(x.estimate, y.estimate, alpha=0.85, **bars, **marker_of(arm))
            _log_flops(ax, flops.estimate.min(), flops.estimate.max())
            percent_axis(ax.yaxis)
            ax.set_ylabel(name)
            if n == len(rows) - 1:
                ax.set_xlabel("FLOPs of training (log)")
    _legend(fig, results.arms("cost"))
    cheap, dear = flops.estimate.idxmin(), flops.estimate.idxmax()
    harm = results.metric("harm_rate").estimate
    ends = (f"{label_of(a)} {short(flops.estimate[a])}, {percent(harm[a])}" for a in (cheap, dear))
    title(fig, f"FLOPs and the harm that is left, from least to most compute: {' to '.join(ends)}.")
    return fig


@styled()
def hybrids_along_compute(results: Results) -> Figure:
    """Gold and pay of the rollouts of training against FLOPs so far, all phases together."""
    labels = {"gold": "gold, harmful prompts\n(higher is safer)", "proxy": "reward paid\n(proxy)"}
    fig = _family_curves(results, labels, "flops", "FLOPs so far")
    said = _ends(results, "gold")
    title(fig, f"Gold of the rollouts at the end, least and most: {said}.")
    return fig


@styled()
def hybrid_mechanism(results: Results) -> Figure:
    """What RL has left to learn from, along training: groups without spread, and entropy."""
    labels = {
        "zero_variance_groups": "groups without spread\nof reward (share)",
        "entropy": "entropy of rows with\nan advantage (nats)",
    }
    fig = _family_curves(results, labels, "step", "training step")
    said = _ends(results, "zero_variance_groups")
    title(fig, f"Groups without spread of reward at the end, least and most: {said}.")
    return fig


def _ends(results: Results, column: str) -> str:
    """Which variant has least and most of a measure over the last tenth of its steps."""
    said = []
    for reward in lookup.rewards(results):
        frame = select(results.table("training"), reward=reward).dropna(subset=column)
        last = frame[frame.step.gt(0.9 * frame.groupby("arm").step.transform("max"))]
        mean = last.groupby("arm")[column].mean()
        if len(mean):
            ends = mean.idxmin(), mean.idxmax()
            said.append(join(f"{label_of(arm)} {percent(mean[arm])}" for arm in ends))
    return "; ".join(said)


@styled()
def hybrid_sweeps(results: Results) -> Figure:
    """The one number that matters in each method, over all its values; the default is ringed."""
    table = results.table("sweep")
    variants = [variant for variant in hybrid_variants() if variant in set(table.variant)]
    ring = {"markersize": 15, "markerfacecolor": "none", "markeredgecolor": "black"}
    fig = Figure(figsize=(16, 10.4))
    grid = fig.subplots(len(MEASURES), len(variants), sharex="col", sharey="row", squeeze=False)
    for column, variant in zip(grid.T, variants, strict=True):
        rows = select(table, variant=variant)
        values = sorted(rows.value.unique())
        for ax, metric in zip(column, MEASURES, strict=True):
            for n, (arm, line) in enumerate(select(rows, metric=metric).groupby("arm")):
                x = np.array([values.index(value) for value in line.value]) + 0.12 * (2 * n - 1)
                order = np.argsort(x)
                bars = np.stack([line.estimate - line.low, line.high - line.estimate]).clip(min=0)
                ax.errorbar(
                    x[order],
                    line.estimate.iloc[order],
                    yerr=bars[:, order],
                    capsize=2,
                    **line_of(arm) | {"linewidth": 1.4, "markersize": 6},
                )
                default = line.published.to_numpy()
                ax.plot(x[default], line.estimate[default], "o", **ring)
            percent_axis(ax.yaxis)
            ax.margins(x=0.15)
        column[0].set_title(f"{variant}\n{rows.parameter.iloc[0]}", fontsize=12)
        column[-1].set_xticks(range(len(values)), map("{:g}".format, values), fontsize=9)
    for ax, (name, _) in zip(grid[:, 0], MEASURES.values(), strict=True):
        ax.set_ylabel(name)
    keys = [
        Line2D([], [], label=PAID_BY[reward], **line_of(f"base/{reward}"))
        for reward in REWARDS
        if reward in set(table.reward)
    ]
    keys.append(Line2D([], [], linestyle="", marker="o", label="the default", **ring))
    fig.legend(handles=keys, loc="outside lower center", ncol=3, handlelength=3)
    ranges = lookup.sweep_ranges(results)
    ends = (ranges.high - ranges.low).agg(["idxmax", "idxmin"])
    most, least = (
        f"{name} ({percent(ranges.low[name])} to {percent(ranges.high[name])})" for name in ends
    )
    title(fig, f"Over the values swept, harm moves most with {most} and least with {least}.")
    return fig


def _every_variant(results: Results, rates: dict[str, pd.DataFrame]) -> Figure:
    """A row of dots a variant and a panel a measure, under each reward; base, rl, sft as lines."""
    most = max(len(lookup.under(results, reward)) for reward in lookup.rewards(results))
    fig, rows = _rows_of_rewards(results, 1.6 + 0.33 * most)
    lines = {"base": "--", "rl": "-", "sft": ":"}
    for n, (reward, axes) in enumerate(rows):
        arms = lookup.under(results, reward)
        for (metric, (name, _)), ax in zip(MEASURES.items(), axes, strict=True):
            found = rates[metric]
            dots(ax, found, arms, labels=ax is axes[0])
            for arm in (f"rl/{reward}", "sft/none"):
                if arm in found.index:
                    look = {"color": marker_of(arm)["color"], "linewidth": 1.2, "zorder": 1}
                    line = lines[arm.partition("/")[0]]
                    ax.axvline(found.estimate[arm], linestyle=line, **look)
            for y, (above, below) in enumerate(pairwise(arms)):
                if _family(above) != _family(below):
                    ax.axhline(y + 0.5, color="0.8", linewidth=0.8)
            percent_axis(ax.xaxis)
            ax.set_title(name if n == 0 else "")
    for column in zip(*(axes for _, axes in rows), strict=True):
        same_limits(list(column))
    keys = [
        Line2D([], [], color=VARIANT_STYLES[name].colour, linestyle=line, label=name)
        for name, line in lines.items()
    ]
    fig.legend(handles=keys, loc="outside lower center", ncol=3)
    return fig


def _family(arm: str) -> str:
    return FAMILY_OF.get(arm.partition("/")[0], "")


def _rows_of_rewards(
    results: Results, height: float
) -> tuple[Figure, list[tuple[str, list[Axes]]]]:
    """A figure with a row of four panels a reward, its name above it."""
    rewards = lookup.rewards(results)
    fig = Figure(figsize=(15, 1.6 + height * len(rewards)))
    parts = fig.subfigures(len(rewards), 1, squeeze=False)[:, 0]
    rows = []
    for part, reward in zip(parts, rewards, strict=True):
        part.suptitle(f"{PAID_BY[reward]}, T=1", x=0.01, ha="left", fontsize=14)
        rows.append((reward, list(part.subplots(1, len(MEASURES)))))
    return fig, rows


def _legend(fig: Figure, arms: list[str], *more: Line2D) -> None:
    """One key a variant: the rows of the figure tell the rewards."""
    variants = dict.fromkeys(arm.partition("/")[0] for arm in arms)
    keys = [Line2D([], [], label=v, **line_of(f"{v}/none")) for v in variants]
    fig.legend(handles=[*keys, *more], loc="outside lower center", ncol=7, handlelength=3)


def _log_flops(ax: Axes, low: float, high: float) -> None:
    """A log axis with a few labelled ticks, also where it spans less than a decade."""
    ax.set(xscale="log", xlim=(0.7 * low, 1.4 * high))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=4))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _family_curves(results: Results, labels: dict[str, str], x: str, xlabel: str) -> Figure:
    """Rows: columns of training.csv under each reward; columns: families, each beside RL alone."""
    frame, rewards = results.table("training"), lookup.rewards(results)
    groups: dict[str, list[str]] = {}
    for arm in results.arms("training"):
        if arm.partition("/")[0] in hybrid_variants():
            groups.setdefault(_family(arm), []).append(arm)
    fig = Figure(figsize=(15, 2.4 + 2.1 * len(labels) * len(rewards)))
    grid = fig.subplots(
        len(labels) * len(rewards), len(groups), sharex=True, sharey="row", squeeze=False
    )
    lines: Iterator[np.ndarray] = iter(grid)
    for column, label in labels.items():
        for reward in rewards:
            axes = next(lines)
            axes[0].set_ylabel(f"{label}\n{reward}", fontsize=11)
            axes[0].yaxis.set_major_locator(MaxNLocator(3))
            for ax, group in zip(axes, groups.values(), strict=True):
                arms = [arm for arm in group if arm.endswith((f"/{reward}", "/none"))]
                curve(ax, frame, column, f"rl/{reward}", x=x, look=GREY)
                for n, arm in enumerate(arms):
                    curve(ax, frame, column, arm, n / len(arms), x)
    for ax, name in zip(grid[0], groups, strict=True):
        ax.set_title(name)
    for ax in grid[-1]:
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_xlabel(xlabel)
        if x == "flops":
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    arms = [arm for group in groups.values() for arm in group]
    _legend(fig, arms, Line2D([], [], label="rl, same reward", **GREY))
    return fig
