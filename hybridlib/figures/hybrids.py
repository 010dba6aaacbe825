"""The figures of 08_hybrids, drawn where a study compares the hybrids with each other."""

from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from hybridlib.figures import panels
from hybridlib.figures import results as lookup
from hybridlib.figures.prose import REWARDS
from hybridlib.figures.registry import figure
from hybridlib.figures.results import Results, by_arm, select
from hybridlib.figures.style import line_of, marker_of
from hybridlib.variants import VARIANTS, hybrid_variants

MEASURES = {  # metric -> (what it is, where)
    "harm_rate": ("harm\n(lower is safer)", {}),
    "over_refusal_rate": ("over-refusal\n(lower is better)", {}),
    "off_language_rate": ("language mixing\n(lower is better)", {}),
    "accuracy": ("accuracy, arithmetic\n(higher is better)", {"task": "sums"}),
}
SHORT = {"keyword": "keyword reward", "model": "reward model", "none": "no reward"}


@figure(claims="C7", tables="hybrids metrics.harm_rate")
def hybrids(results: Results) -> Figure:
    """Which hybrid is safer than its parents, and at what cost?

    Four columns of dots with intervals, a row a variant: harm, over-refusal, language mixing and
    accuracy on arithmetic problems, under each reward; base, rl and sft as lines.
    """
    rates = {metric: results.metric(metric, **where) for metric, (_, where) in MEASURES.items()}
    return _every_variant(results, rates)


@figure(claims="C7", tables="hybrids at_budget metrics")
def hybrids_at_budget(results: Results) -> Figure:
    """Which hybrid is safest when each has cost the same?

    Four columns of dots with intervals, a row a variant, all at the same FLOPs: harm,
    over-refusal, language mixing and accuracy, under each reward; base, rl and sft as lines.
    """
    table, rates = results.table("at_budget"), {}
    for metric, (_, where) in MEASURES.items():
        untrained = results.metric(metric, **where).query("arm == 'base/none'").drop(columns="each")
        rates[metric] = pd.concat([untrained, by_arm(select(table, metric=metric, split="all"))])
    return _every_variant(results, rates)


@figure(claims="C7 C8", tables="hybrids metrics.harm_rate cost")
def hybrids_by_compute(results: Results) -> Figure:
    """Does more compute buy less harm?

    Harm, over-refusal, language mixing and accuracy against the FLOPs of training, all phases
    together, on a log axis: a marker a variant with intervals, a row a reward.
    """
    (fig, parts), flops = _panels(results, 3.4), lookup.totals(results, "flops")
    for reward, metric, ax in parts:
        name, where = MEASURES[metric]
        found = results.metric(metric, **where)
        if "base/none" in found.index:
            ax.axhline(found.estimate["base/none"], color="0.4", linestyle="--", linewidth=1)
        arms = [arm for arm in lookup.under(results, reward) if arm in flops.index]
        panels.crosses(ax, flops.loc[arms], found)
        # a few labelled ticks, also where the axis spans less than a decade
        ax.set(xscale="log", xlim=(0.7 * flops.estimate.min(), 1.4 * flops.estimate.max()))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=4))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(panels.SHORT_NUMBERS)
        panels.percent_axis(ax.yaxis)
        ax.set_ylabel(name)
        if ax.figure is fig.subfigs[-1]:
            ax.set_xlabel("FLOPs of training (log)")
    _legend(fig, results.arms("cost"))
    return fig


@figure(claims="C7 C8", tables="hybrids training.flops metrics")
def hybrids_along_compute(results: Results) -> Figure:
    """What does each FLOP of training bring?

    Ground-truth score and reward of training rollouts against the FLOPs so far, a column of
    panels a family of hybrids, rl dotted in each, with bands over replicates.
    """
    labels = {"gold": "ground-truth\nscore", "proxy": "reward\n(proxy)"}
    fig = _family_curves(results, labels, "flops", "FLOPs so far")
    for ax in fig.axes:
        ax.xaxis.set_major_formatter(panels.SHORT_NUMBERS)
    return fig


@figure(claims="C7", tables="hybrids training metrics")
def hybrid_mechanism(results: Results) -> Figure:
    """How much is left for RL to learn from?

    Share of zero-variance groups and entropy against the training step, a column of panels a
    family of hybrids, rl dotted in each, with bands over replicates.
    """
    labels = {
        "zero_variance_groups": "zero-variance\ngroups (share)",
        "entropy": "entropy, rows with an\nadvantage (nats)",
    }
    return _family_curves(results, labels, "step", "training step")


@figure(claims="C7", tables="sweep")
def hybrid_sweeps(results: Results) -> Figure:
    """How much does each hybrid depend on its one constant?

    Harm, over-refusal, language mixing and accuracy over the values of one parameter a method,
    evenly spaced, with intervals; the default value is ringed.
    """
    table = results.table("sweep")
    variants = [variant for variant in hybrid_variants() if variant in set(table.variant)]
    ring = {"markersize": 15, "markerfacecolor": "none", "markeredgecolor": "black"}
    fig = Figure(figsize=(16, 10.4))
    grid = fig.subplots(len(MEASURES), len(variants), sharex="col", sharey="row", squeeze=False)
    for column, variant in zip(grid.T, variants, strict=True):
        rows = select(table, variant=variant)
        values = sorted(rows.value.unique())
        for ax, metric in zip(column, MEASURES, strict=True):
            measured = select(rows, metric=metric).sort_values("value")
            for n, (arm, line) in enumerate(measured.groupby("arm")):
                x = line.value.map(values.index) + 0.12 * (2 * n - 1)
                look = line_of(arm) | {"linewidth": 1.4, "markersize": 6, "capsize": 2}
                ax.errorbar(x, line.estimate, yerr=panels.whiskers(line), **look)
                ax.plot(x[line.published], line.estimate[line.published], "o", **ring)
            panels.percent_axis(ax.yaxis)
            ax.margins(x=0.15)
        column[0].set_title(f"{variant}\n{rows.parameter.iloc[0]}", fontsize=12)
        column[-1].set_xticks(range(len(values)), map("{:g}".format, values), fontsize=9)
    for ax, (name, _) in zip(grid[:, 0], MEASURES.values(), strict=True):
        ax.set_ylabel(name)
    used = [reward for reward in REWARDS if reward in set(table.reward)]
    keys = [Line2D([], [], label=REWARDS[r], **line_of(f"base/{r}")) for r in used]
    keys.append(Line2D([], [], linestyle="", marker="o", label="the default", **ring))
    fig.legend(handles=keys, loc="outside lower center", ncol=3, handlelength=3)
    return fig


def _every_variant(results: Results, rates: dict[str, pd.DataFrame]) -> Figure:
    """A row of dots a variant and a panel a measure, under each reward; base, rl, sft as lines."""
    most = max(len(lookup.under(results, reward)) for reward in lookup.rewards(results))
    fig, parts = _panels(results, 1.6 + 0.33 * most)
    for reward, metric, ax in parts:
        arms, found = lookup.under(results, reward), rates[metric]
        panels.dots(ax, found, arms, labels=ax is ax.figure.axes[0])
        for arm, line in ((f"rl/{reward}", "-"), ("sft/none", ":")):
            if arm in found.index:
                look = {"color": marker_of(arm)["color"], "linewidth": 1.2, "zorder": 1}
                ax.axvline(found.estimate[arm], linestyle=line, **look)
        for y, (above, below) in enumerate(pairwise(arms)):
            if _family(above) != _family(below):
                ax.axhline(y + 0.5, color="0.8", linewidth=0.8)
        panels.percent_axis(ax.xaxis)
        if ax.figure is fig.subfigs[0]:
            ax.set_title(MEASURES[metric][0])
    for column in zip(*(part.axes for part in fig.subfigs), strict=True):
        panels.same_limits(column)
    keys = [
        Line2D([], [], color=VARIANTS[name].look.colour, linestyle=line, label=name)
        for name, line in {"base": "--", "rl": "-", "sft": ":"}.items()
    ]
    fig.legend(handles=keys, loc="outside lower center", ncol=3)
    return fig


def _family(arm: str) -> str:
    return VARIANTS[arm.partition("/")[0]].family


def _panels(results: Results, height: float) -> tuple[Figure, list[tuple[str, str, Axes]]]:
    """A figure with a row of panels a reward, its name above it: (reward, metric, axes) of each."""
    rewards, found = lookup.rewards(results), []
    fig = Figure(figsize=(15, 1.6 + height * len(rewards)))
    for part, reward in zip(fig.subfigures(len(rewards), 1, squeeze=False).flat, rewards):
        part.suptitle(f"{REWARDS.get(reward, SHORT[reward])}, T=1", x=0.01, ha="left", fontsize=14)
        axes = part.subplots(1, len(MEASURES))
        found += [(reward, metric, ax) for metric, ax in zip(MEASURES, axes)]
    return fig, found


def _legend(fig: Figure, arms: list[str], *more: Line2D) -> None:
    """One key a variant: the rows of the figure tell the rewards."""
    variants = dict.fromkeys(arm.partition("/")[0] for arm in arms)
    keys = [Line2D([], [], label=v, **line_of(f"{v}/none")) for v in variants]
    fig.legend(handles=[*keys, *more], loc="outside lower center", ncol=7, handlelength=3)


def _family_curves(results: Results, labels: dict[str, str], x: str, xlabel: str) -> Figure:
    """Rows: columns of training.csv under each reward; columns: families, each with RL alone."""
    arms = [a for a in results.arms("training") if a.partition("/")[0] in hybrid_variants()]
    groups = {name: [arm for arm in arms if _family(arm) == name] for name in map(_family, arms)}
    rows = [
        (column, f"{label}\n{SHORT[reward]}", reward)
        for column, label in labels.items()
        for reward in lookup.rewards(results)
    ]
    fig = Figure(figsize=(15, 2.4 + 2.1 * len(rows)))
    panels.curve_grid(fig, results, rows, groups, x, xlabel)
    _legend(fig, arms, Line2D([], [], label="rl, same reward", **panels.GREY))
    return fig
