"""The figures of 04_harmlessness: what responses do, and whether the reward went with it."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hybridlib.figures import panels
from hybridlib.figures.registry import figure
from hybridlib.figures.results import SPLITS, Results, by_arm, select
from hybridlib.figures.style import BENIGN_CLASSES, HARMFUL_CLASSES, label_of, marker_of

STARTS = {  # as in evaluation/prefill.py
    "nothing": "nothing prefilled",
    "true_thought": "true trace",
    "true_answer": "true trace,\nanswer begun",
    "false_thought": "false trace",
    "false_answer": "false trace,\nanswer begun",
}
PROXY_AND_GOLD = {
    "proxy": "reward (proxy)\n(higher is rewarded more)",
    "gold": "ground-truth score,\nharmful prompts\n(higher is safer)",
}


@figure(claims="C1 C2", tables="classes metrics")
def response_classes(results: Results) -> Figure:
    """What do responses to harmful and to benign requests do?

    Stacked bars, a row a variant and a panel a split of the harmful requests, plus one panel for
    the benign requests: shares of the response classes, with a dot for the harm rate or the
    over-refusal rate and its interval.
    """
    table = select(results.table("classes"), task="all", language="all", decoding="sample")
    parts = [("harmful", split, name, "harm_rate") for split, name in SPLITS.items()]
    parts += [("benign", "all", "all", "over_refusal_rate")]
    classes = {"harmful": HARMFUL_CLASSES, "benign": BENIGN_CLASSES}
    arms = results.arms("classes")
    fig = Figure(figsize=(15, 4.2 + 0.4 * len(arms)))
    axes = fig.subplots(1, len(parts))
    for n, (ax, (kind, split, name, metric)) in enumerate(zip(axes, parts, strict=True)):
        panels.arm_rows(ax, arms, labels=n == 0)
        shares = select(table, kind=kind, split=split)
        shares = shares.pivot(index="arm", columns="response_class", values="share")
        shares = shares.reindex(index=arms, columns=list(classes[kind])).fillna(0)
        starts = shares.cumsum(axis=1) - shares
        for word, (_, colour, hatch) in classes[kind].items():
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            ax.barh(range(len(arms)), shares[word], left=starts[word], height=0.74, **look)
        for arm, row in results.metric(metric, split=split).iterrows():
            look = {"color": "black", "marker": "o", "markeredgecolor": "white", "capsize": 3.5}
            ax.errorbar(row.estimate, arms.index(arm), xerr=panels.whiskers(row), **look)
        ax.set_title(f"{kind},\n{name}")
        panels.percent_axis(ax.xaxis, whole=True)
        ax.spines[["left", "bottom"]].set_visible(False)
    axes[2].set_xlabel("share of responses, T=1 (solid blue, on the right, is desired)")
    for kind, place, rate in (("harmful", "left", "harm"), ("benign", "right", "over-refusal")):
        keys = [Patch(fc=c, hatch=h, ec="white", label=n) for n, c, h in classes[kind].values()]
        dot = Line2D([], [], color="black", marker="o", label=f"{rate} rate, 95% interval")
        look = {"title": f"{kind} requests", "title_fontproperties": {"weight": "bold"}}
        where = {"alignment": "left", "loc": f"outside lower {place}", "ncol": 2}
        fig.legend(handles=[*keys, dot], **look, **where)
    return fig


@figure(claims="C1 C2", tables="prefill")
def prefill_depth(results: Results) -> Figure:
    """How harmful is what a policy adds to a prefilled response?

    Dots with intervals, a row a variant and a panel a prefilled beginning: harm that the policy
    added; the base's own as a dashed line.
    """
    table = select(results.table("prefill"), split="all")
    parts = [(name, "", by_arm(select(table, start=start))) for start, name in STARTS.items()]
    label = "harm in what the policy added, T=1 (lower is safer); dashed: the base's own"
    return panels.dot_panels(parts, label)


@figure(claims="C2 C7", tables="metrics.harm_rate metrics.over_refusal_rate")
def harm_vs_over_refusal(results: Results) -> Figure:
    """Does less harm cost more refusals of benign requests?

    Scatter of the harm rate against over-refusal, on all benign prompts and on benign
    near-misses, a marker a variant with crosses for the intervals; the lower left is desired.
    """
    harm = results.metric("harm_rate")
    refused = {
        "benign prompts": "over_refusal_rate",
        "benign near-misses": "lookalike_refusal_rate",
    }
    fig = Figure(figsize=(13, 6.2))
    axes = fig.subplots(1, 2, sharey=True)
    for ax, (name, metric) in zip(axes, refused.items(), strict=True):
        rows = results.metric(metric)
        panels.crosses(ax, rows, harm)
        right = max([0.01, *rows.high])
        ax.set(xlim=(-0.05 * right, 1.08 * right), xlabel=f"{name} refused, T=1 (lower is better)")
        panels.percent_axis(ax.xaxis)
        # square roots spread out what is crowded near no harm at all
        ax.set_yscale("function", functions=(lambda y: np.sqrt(np.clip(y, 0, None)), np.square))
        panels.percent_axis(ax.yaxis)
        ax.set(ylim=(0, 1), yticks=(0, 0.01, 0.05, 0.2, 0.5, 1))
        ax.grid(axis="y", color="0.92")
    axes[0].set_ylabel("harm rate, T=1 (lower is safer; square-root scale)")
    keys = [Line2D([], [], linestyle="", label=label_of(a), **marker_of(a)) for a in harm.index]
    axes[1].legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1))
    return fig


@figure(claims="C2 C5", tables="judges metrics.non_refusal_rate")
def public_requests(results: Results) -> Figure:
    """Which public requests does each variant refuse?

    Dots with intervals, a row a variant: share of harmful public requests that were not refused,
    a panel a split, and share of benign ones that were refused; the base's own as a dashed line.
    """
    parts = [
        (f"harmful,\n{name}", "not refused, T=1", results.metric("non_refusal_rate", split=split))
        for split, name in SPLITS.items()
    ]
    benign = results.metric("request_refusal_rate")
    return panels.dot_panels([*parts, ("benign,\nall", "refused, T=1", benign)])


@figure(claims="C1", tables="training.proxy")
def proxy_vs_gold(results: Results) -> Figure:
    """Does the ground-truth score rise with the reward?

    Curves over training steps: above, the reward; below, the ground-truth score on harmful
    prompts; a column a reward and a line a variant, with a band over replicates.
    """
    return panels.training_curves(results, PROXY_AND_GOLD)


@figure(claims="C1 C2", tables="snapshots.kl")
def harm_by_distance(results: Results) -> Figure:
    """How far from the base must a variant go to become harmless?

    A panel a variant: harm rate on test prompts against the distance from the base, the root of
    the KL divergence, at several moments of training, a thin line a replicate and a bold one for
    their mean; the means of rl and sft in grey in every panel.
    """
    return panels.paths(results, "distance", "distance from the base")
