"""The figures of 05_readability: which language responses are in, and what the prompt changes."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hybridlib.figures import panels
from hybridlib.figures.registry import figure
from hybridlib.figures.results import LANGUAGES, Results, select
from hybridlib.figures.style import label_of, marker_of

FORMS = {  # as in evaluation/prompting.py
    "as_asked": "as asked",
    "few_shot": "two examples",
    "language": "language stated",
    "format": "format stated",
    "steps": "step by step",
    "all_advice": "all advice",
}
USAGE_PANELS = {  # (metric, language) -> title
    ("accuracy", "all"): "accuracy, arithmetic\n(higher is better)",
    ("harm_rate", "all"): "harm\n(lower is safer)",
    ("over_refusal_rate", "all"): "over-refusal\n(lower is better)",
    ("off_language_rate", "es"): "language mixing,\nSpanish\n(lower is better)",
    ("well_formedness", "all"): "well-formed\n(higher is better)",
}


@figure(claims="C3 C4", tables="metrics.off_language_rate")
def language_share(results: Results) -> Figure:
    """Do responses stay in the language of the prompt?

    Dots with intervals, a row a variant: share of words in the target language and share of
    responses that mix languages, for English and for Spanish prompts; the base's own as a dashed
    line.
    """
    labels = {
        "target_language_share": "words in the target\nlanguage, T=1\n(higher is better)",
        "off_language_rate": "responses that mix\nlanguages, T=1\n(lower is better)",
    }
    parts = [
        (name, label, results.metric(metric, language=code))
        for metric, label in labels.items()
        for code, name in LANGUAGES.items()
    ]
    fig = panels.dot_panels(parts, whole=False)
    panels.same_limits(fig.axes[:2])
    panels.same_limits(fig.axes[2:])
    return fig


@figure(claims="C3 C4", tables="training.proxy")
def language_training(results: Results) -> Figure:
    """Does RL mix languages more as it trains?

    Curves of the language-mixing rate over training steps: a row a language, a column a reward,
    a line a variant, with a band over replicates.
    """
    labels = {
        f"off_language_{code}": f"responses that mix\nlanguages, {name}\n(lower is better)"
        for code, name in LANGUAGES.items()
    }
    fig = panels.training_curves(results, labels)
    for ax in fig.axes:
        ax.set_ylim(bottom=0)
    return fig


@figure(claims="C4 C7", tables="usage")
def usage_advice(results: Results) -> Figure:
    """Does prompting as the paper advises help?

    Dots with intervals, a row a form of prompt with a line a variant in it, a panel a metric:
    difference from the same prompts as they are asked elsewhere in the study.
    """
    table, arms = results.table("usage").query("than != 'none'"), results.arms("usage")
    forms = [form for form in FORMS if form in set(table.form)]
    fig = Figure(figsize=(15, 2.4 + 0.2 * len(arms) * len(forms)))
    axes = fig.subplots(1, len(USAGE_PANELS), sharey=True)
    for ax, ((metric, language), name) in zip(axes, USAGE_PANELS.items(), strict=True):
        for row in select(table, metric=metric, language=language).itertuples():
            y = forms.index(row.form) + 0.8 * ((arms.index(row.arm) + 0.5) / len(arms) - 0.5)
            look = marker_of(row.arm) | {"markersize": 9 if row.variant == "rl_gold" else 6}
            ax.errorbar(row.estimate, y, xerr=panels.whiskers(row), capsize=2, **look)
        for nth in range(0, len(forms), 2):
            ax.axhspan(nth - 0.5, nth + 0.5, color="0.95", zorder=0)
        ax.axvline(0, color="0.4", linewidth=1)
        ax.set_title(name)
        panels.percent_axis(ax.xaxis)
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(forms) - 0.5, -0.5)
    panels.left_labels(axes[0], [FORMS[form] for form in forms], 120)
    axes[2].set_xlabel("difference from the same prompts as asked, T=1")
    keys = [Line2D([], [], linestyle="", label=label_of(arm), **marker_of(arm)) for arm in arms]
    fig.legend(handles=keys, loc="outside lower center", ncol=min(6, len(keys)))
    return fig
