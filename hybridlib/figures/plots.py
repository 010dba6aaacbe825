"""One function a figure: tables of a preset -> a Figure whose title states what was found.

Figures read only tables/*.csv and never train; every estimate has its 95% interval. Those that
compare hybrids stand in hybrid_figures.py, those of the verdicts in verdict_figures.py.
"""

import base64
import html
from collections.abc import Callable

import numpy as np
from IPython.display import HTML, display
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hybridlib.figures import prose
from hybridlib.figures.hybrids import (  # noqa: F401  a file of their own, found here like the rest
    hybrid_mechanism,
    hybrid_sweeps,
    hybrids,
    hybrids_along_compute,
    hybrids_at_budget,
    hybrids_by_compute,
)
from hybridlib.figures.panels import (
    arm_rows,
    cost_bars,
    dot_panels,
    percent_axis,
    same_limits,
    training_curves,
    whiskers,
)
from hybridlib.figures.prose import FORMS, join, percent, signed, versus
from hybridlib.figures.results import (
    MAIN,
    RL,
    SPLITS,
    Results,
    advised,
    change,
    extreme,
    prefilled,
    select,
    trained_by_rl,
)
from hybridlib.figures.style import (
    BENIGN_CLASSES,
    HARMFUL_CLASSES,
    finding,
    label_of,
    marker_of,
    save,
    styled,
    title,
)
from hybridlib.figures.verdicts import (  # noqa: F401
    learning_rates,
    sensitivity,
    side_by_side,
    verdict_page,
)

BEGUN = {  # as in prefill.py
    "nothing": "nothing begun",
    "true_thought": "true thought",
    "true_answer": "true thought,\nanswer begun",
    "false_thought": "false thought",
    "false_answer": "false thought,\nanswer begun",
}
LANGUAGES = {"en": "English", "es": "Spanish"}


def show(draw: Callable[[Results], Figure], results: Results, alt: str) -> None:
    """Draw a figure, save it under the function's name, display it with `alt` + its finding."""
    fig = draw(results)
    _, png = save(fig, results.folder / "figures", draw.__name__)
    data = base64.b64encode(png.read_bytes()).decode()
    text = html.escape(" ".join(f"{alt} {finding(fig)}".split()))
    source = f"data:image/png;base64,{data}"
    display(HTML(f'<img alt="{text}" style="max-width:100%" src="{source}">'))


@styled()
def response_classes(results: Results) -> Figure:
    """Stacked shares of the response classes by variant and split, harmful and benign apart."""
    table = results.table("classes")
    table = table[table.task.eq("all") & table.language.eq("all") & table.decoding.eq("sample")]
    panels = [("harmful", split, name, "harm_rate") for split, name in SPLITS.items()]
    panels += [("benign", "all", "all", "over_refusal_rate")]
    orders = {"harmful": HARMFUL_CLASSES, "benign": BENIGN_CLASSES}
    arms = results.arms("classes")
    fig = Figure(figsize=(15, 4.2 + 0.4 * len(arms)))
    axes = fig.subplots(1, len(panels))
    for n, (ax, (kind, split, name, metric)) in enumerate(zip(axes, panels, strict=True)):
        arm_rows(ax, arms, labels=n == 0)
        shares = table[table.kind.eq(kind) & table.split.eq(split)]
        shares = shares.pivot(index="arm", columns="response_class", values="share")
        shares = shares.reindex(index=arms, columns=list(orders[kind])).fillna(0)
        starts = shares.cumsum(axis=1) - shares
        for word, (_, colour, hatch) in orders[kind].items():
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            ax.barh(range(len(arms)), shares[word], left=starts[word], height=0.74, **look)
        rates = results.metric(metric, split=split)
        for y, arm in enumerate(arms):
            if arm in rates.index:
                look = {"color": "black", "marker": "o", "markeredgecolor": "white", "capsize": 3.5}
                ax.errorbar(rates.estimate[arm], y, xerr=whiskers(rates.loc[arm]), **look)
        ax.set_title(f"{kind},\n{name}")
        percent_axis(ax.xaxis, whole=True)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
    axes[2].set_xlabel("share of responses, T=1 (solid blue, on the right, is as wished)")
    dot = Line2D([], [], color="black", marker="o")
    for kind, place, rate in (("harmful", "left", "harm"), ("benign", "right", "over-refusal")):
        names, colours, hatches = zip(*orders[kind].values(), strict=True)
        keys = [Patch(fc=c, hatch=h, ec="white") for c, h in zip(colours, hatches, strict=True)]
        look = {"alignment": "left", "title_fontproperties": {"weight": "bold"}, "ncol": 2}
        fig.legend(
            [*keys, dot],
            [*names, f"{rate} rate, 95% interval"],
            title=f"{kind} requests",
            loc=f"outside lower {place}",
            **look,
        )
    finding = versus(results, "harm_rate", "harm", RL, "sft/none", split="unseen_both")
    base = prose.rates(results, "harm_rate", ["base/none"], split="unseen_both")
    title(fig, prose.sentence(f"unseen categories and attacks: {finding}" if finding else "", base))
    return fig


@styled()
def harm_vs_over_refusal(results: Results) -> Figure:
    """Harm against refusals of benign prompts, and of look-alikes: as wished is the lower left."""
    harm = results.metric("harm_rate")
    over = results.metric("over_refusal_rate")
    panels = {
        "benign prompts refused": over,
        "benign look-alikes refused": results.metric("lookalike_refusal_rate"),
    }
    fig = Figure(figsize=(13, 6.2))
    axes = fig.subplots(1, 2, sharey=True)
    for ax, (name, rows) in zip(axes, panels.items(), strict=True):
        for arm in rows.index:
            x, y = rows.loc[arm], harm.loc[arm]
            bars = {"xerr": whiskers(x), "yerr": whiskers(y), "elinewidth": 1.5, "capsize": 3}
            ax.errorbar(x.estimate, y.estimate, **bars, **marker_of(arm))
        right = max(rows.high.max(), 0.01)
        ax.set(xlim=(-0.05 * right, 1.08 * right), xlabel=f"{name}, T=1 (lower is better)")
        percent_axis(ax.xaxis)
        # square roots spread out what is crowded near no harm at all
        ax.set_yscale("function", functions=(lambda y: np.sqrt(np.clip(y, 0, None)), np.square))
        ax.set_ylim(0, 1)
        percent_axis(ax.yaxis)
        ax.set_yticks((0, 0.01, 0.05, 0.2, 0.5, 1))
        ax.grid(axis="y", color="0.92")
    axes[0].set_ylabel("harm rate, T=1 (lower is safer; square-root scale)")
    keys = [Line2D([], [], linestyle="", label=label_of(a), **marker_of(a)) for a in harm.index]
    axes[1].legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1))
    named = {
        "least harm: ": extreme(results, "harm_rate"),
        "most over-refusal: ": extreme(results, "over_refusal_rate", lowest=False),
        "": "base/none",
    }
    title(
        fig,
        prose.sentence(
            *(
                f"{words}{label_of(arm)}, {percent(harm.estimate[arm])} harm "
                f"at {percent(over.estimate[arm])} over-refusal"
                for words, arm in named.items()
                if arm in harm.index
            )
        ),
    )
    return fig


@styled()
def prefill_depth(results: Results) -> Figure:
    """Harm that a policy adds to a response which was begun for it, shallow beginnings first."""
    found = {start: prefilled(results, start) for start in BEGUN}
    panels = [(name, "", found[start]) for start, name in BEGUN.items()]
    label = "harm in what the policy added, T=1 (lower is safer); dashed: the base's own"
    fig, axes = dot_panels(results, panels, label)
    for ax in axes:
        percent_axis(ax.xaxis, whole=True)
    first, last = found["nothing"].estimate, found["false_answer"].estimate
    arms = [arm for arm in MAIN if arm in first.index]
    steps = join(f"{label_of(a)} {percent(first[a])} to {percent(last[a])}" for a in arms)
    title(fig, f"Harm, from nothing begun to a false thought with the answer begun: {steps}.")
    return fig


@styled()
def public_requests(results: Results) -> Figure:
    """Public requests not refused, by split, and benign ones refused, as the judge has it."""
    panels = [
        (f"harmful,\n{name}", "not refused, T=1", results.metric("non_refusal_rate", split=split))
        for split, name in SPLITS.items()
    ]
    benign = results.metric("request_refusal_rate")
    fig, axes = dot_panels(results, [*panels, ("benign,\nall", "refused, T=1", benign)])
    for ax in axes:
        percent_axis(ax.xaxis, whole=True)
    arms = [arm for arm in results.arms() if arm not in ("base/none", "rl_gold/gold")]
    text = versus(results, "non_refusal_rate", "non-refusal of harmful requests", arms, "base/none")
    title(fig, prose.sentence(text))
    return fig


@styled()
def proxy_vs_gold(results: Results) -> Figure:
    """The reward that RL is paid, and the gold that only the control is paid, along training."""
    labels = {
        "proxy": "reward paid (proxy)\n(higher is paid more)",
        "gold": "gold, harmful prompts\n(higher is safer)",
    }
    fig, axes = training_curves(results, labels)
    percent_axis(axes[1, 0].yaxis)
    moves: dict[str, list[str]] = {}
    for arm in trained_by_rl(results):
        if arm in (*RL, "rl_gold/gold"):
            paid, gold = (change(results, column, arm) for column in ("proxy", "gold"))
            numbers = f"{signed(100 * gold[0])} points, reward {signed(paid[0], 2)}"
            moves.setdefault(prose.moved(*gold), []).append(f"{label_of(arm)} ({numbers})")
    title(fig, prose.sentence(*(f"gold {word} under {join(arms)}" for word, arms in moves.items())))
    return fig


@styled()
def proxy_and_gold_by_distance(results: Results) -> Figure:
    """The same against the distance from the base: is gold lost while the proxy still rises?"""
    labels = {
        "proxy": "reward paid (proxy)\n(higher is paid more)",
        "gold": "gold, harmful prompts\n(higher is safer)",
    }
    fig, axes = training_curves(results, labels, "distance", "distance from the base, $d$")
    percent_axis(axes[1, 0].yaxis)
    title(fig, prose.sentence(prose.over_optimised(results)))
    return fig


@styled()
def language_share(results: Results) -> Figure:
    """Target-language share and off-language rate of whole responses after training."""
    labels = {
        "target_language_share": "target-language words, T=1\n(higher is better)",
        "off_language_rate": "off-language responses, T=1\n(lower is better)",
    }
    fig, axes = dot_panels(
        results,
        [
            (name, label, results.metric(metric, language=code))
            for metric, label in labels.items()
            for code, name in LANGUAGES.items()
        ],
    )
    same_limits(axes[:2])
    same_limits(axes[2:])
    arms, noun = [*RL, "sft/none"], "off-language text"
    found = {
        name: versus(results, "off_language_rate", noun, arms, "base/none", language=code)
        for code, name in LANGUAGES.items()
    }
    title(fig, " ".join(f"In {name}, {text}." for name, text in found.items() if text))
    return fig


@styled()
def language_training(results: Results) -> Figure:
    """Share of training completions with off-language words, step by step."""
    columns = {f"off_language_{code}": name for code, name in LANGUAGES.items()}
    labels = {key: f"off-language, {name}\n(lower is better)" for key, name in columns.items()}
    fig, axes = training_curves(results, labels)
    for ax in axes[:, 0]:
        percent_axis(ax.yaxis)
        ax.set_ylim(bottom=0)
    clauses = []
    for arm in trained_by_rl(results):
        if arm in RL:
            moves = {name: change(results, key, arm)[0] for key, name in columns.items()}
            found = join(f"{signed(100 * by)} points in {name}" for name, by in moves.items())
            clauses.append(f"{label_of(arm)} {found}")
    what = "off-language completions, end of RL against its start: "
    title(fig, prose.sentence(what + "; ".join(clauses)))
    return fig


@styled()
def usage_advice(results: Results) -> Figure:
    """What a form of asking changes: a row a form, in it a line an arm, a panel a metric."""
    panels = {
        ("accuracy", "all"): "sums right\n(higher is better)",
        ("harm_rate", "all"): "harm\n(lower is safer)",
        ("over_refusal_rate", "all"): "over-refusal\n(lower is better)",
        ("off_language_rate", "es"): "off-language, Spanish\n(lower is better)",
        ("well_formedness", "all"): "well-formed\n(higher is better)",
    }
    table, arms = advised(results), results.arms("usage")
    forms = [form for form in FORMS if form in set(table.form)]
    fig = Figure(figsize=(15, 2.4 + 0.2 * len(arms) * len(forms)))
    axes = fig.subplots(1, len(panels), sharey=True)
    for ax, ((metric, language), name) in zip(axes, panels.items(), strict=True):
        for row in select(table, metric=metric, language=language).itertuples():
            y = forms.index(row.form) + 0.8 * ((arms.index(row.arm) + 0.5) / len(arms) - 0.5)
            look = marker_of(row.arm) | {"markersize": 9 if row.variant == "rl_gold" else 6}
            ax.errorbar(row.estimate, y, xerr=whiskers(row), capsize=2, **look)
        for nth in range(0, len(forms), 2):
            ax.axhspan(nth - 0.5, nth + 0.5, color="0.95", zorder=0)
        ax.axvline(0, color="0.4", linewidth=1)
        ax.set_title(name)
        percent_axis(ax.xaxis)
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(forms) - 0.5, -0.5)
    axes[0].set_yticks(range(len(forms)), [FORMS[form] for form in forms])
    axes[2].set_xlabel("difference from the same prompts as asked, T=1")
    keys = [Line2D([], [], linestyle="", label=label_of(arm), **marker_of(arm)) for arm in arms]
    fig.legend(handles=keys, loc="outside lower center", ncol=min(6, len(keys)))
    title(fig, prose.sentence(prose.advised(results)))
    return fig


@styled()
def generalization(results: Results) -> Figure:
    """Harm on seen and unseen categories and attacks, next to the base's own."""
    rows = {split: results.metric("harm_rate", split=split) for split in SPLITS}
    panels = [(name, "", rows[split]) for split, name in SPLITS.items()]
    label = "harm rate, T=1 (lower is safer); dashed: the base's own"
    fig, axes = dot_panels(results, panels, label)
    for ax in axes:
        percent_axis(ax.xaxis, whole=True)
    seen, unseen = rows["seen"].estimate, rows["unseen_both"].estimate
    arms = [arm for arm in MAIN if arm in seen.index]
    steps = join(f"{label_of(a)} {percent(seen[a])} to {percent(unseen[a])}" for a in arms)
    title(fig, f"Harm, from all seen to both unseen: {steps}.")
    return fig


@styled()
def generalization_by_language(results: Results) -> Figure:
    """Harm in each language, on all seen and on both unseen."""
    panels = [
        (f"{name},\n{SPLITS[split]}", "", results.metric("harm_rate", split=split, language=code))
        for code, name in LANGUAGES.items()
        for split in ("seen", "unseen_both")
    ]
    label = "harm rate, T=1 (lower is safer); dashed: the base's own"
    fig, axes = dot_panels(results, panels, label)
    for ax in axes:
        percent_axis(ax.xaxis, whole=True)
    both = {
        name: results.metric("harm_rate", split="unseen_both", language=code).estimate
        for code, name in LANGUAGES.items()
    }
    arms = [arm for arm in MAIN if all(arm in rows.index for rows in both.values())]
    found = join(
        f"{label_of(a)} " + " and ".join(percent(rows[a]) for rows in both.values()) for a in arms
    )
    title(fig, f"Harm where both are unseen, in {' and in '.join(both)}: {found}.")
    return fig


@styled()
def generalization_gaps(results: Results) -> Figure:
    """Harm on unseen minus harm on seen, within each variant."""
    panels = [
        (name, "", results.metric("generalization_gap", split=split))
        for split, name in SPLITS.items()
        if split != "seen"
    ]
    label = "harm on unseen minus on seen, T=1 (lower generalizes better); dashed: the base's own"
    fig, axes = dot_panels(results, panels, label)
    for ax in axes:
        ax.axvline(0, color="0.4", linewidth=1)
    same_limits(axes)
    arms, noun = [*RL, "sft_narrow/none"], "generalization gap"
    text = versus(results, "generalization_gap", noun, arms, "sft/none", split="unseen_both")
    title(fig, prose.sentence(f"both unseen: {text}" if text else ""))
    return fig


@styled()
def reasoning(results: Results) -> Figure:
    """Sums right, and knowledge still given when asked legitimately, by language."""
    measures = {
        "accuracy": ("sums", "sums right, T=1\n(higher is better)"),
        "recall": ("all", "benign right, T=1\n(higher is better)"),
    }
    fig, axes = dot_panels(
        results,
        [
            (name, label, results.metric(metric, language=code, task=task))
            for metric, (task, label) in measures.items()
            for code, name in LANGUAGES.items()
        ],
    )
    for ax in axes:
        percent_axis(ax.xaxis, whole=True)
    noun, where = "accuracy on sums", {"task": "sums"}
    alone = versus(results, "accuracy", noun, RL, "base/none", **where)
    both = versus(results, "accuracy", noun, ["two_stage/model"], "rl/model", **where)
    title(fig, prose.sentence(alone, both))
    return fig


@styled()
def cost(results: Results) -> Figure:
    """What training took, all phases of a variant together: counted, so it repeats exactly."""
    fig = cost_bars(
        results,
        {
            "flops": "FLOPs",
            "completion_tokens": "tokens sampled",
            "trained_tokens": "tokens trained on",
        },
    )
    title(fig, f"FLOPs of training, {prose.times(results, 'flops')}.")
    return fig


@styled()
def seconds(results: Results) -> Figure:
    """Seconds of training: a figure of its own, since it belongs to one machine and churns."""
    fig = cost_bars(results, {"seconds": "seconds of training on the machine of this run"})
    title(fig, f"Seconds of training on this run's machine, {prose.times(results, 'seconds')}.")
    return fig
