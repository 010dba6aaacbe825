"""The figures of 06_generalization: what training reaches that it never showed."""

from matplotlib.figure import Figure

from hybridlib.figures.panels import dot_panels, same_limits
from hybridlib.figures.registry import figure
from hybridlib.figures.results import LANGUAGES, SPLITS, Results

HARM = "harm rate, T=1 (lower is safer); dashed: the base's own"


@figure(claims="C5 C6", tables="metrics.harm_rate")
def generalization(results: Results) -> Figure:
    """Does harmlessness reach categories and attacks that training never showed?

    Dots with intervals, a row a variant and a panel a split: harm rate on seen and unseen
    categories and attacks; the base's own as a dashed line.
    """
    panels = [(name, "", results.metric("harm_rate", split=s)) for s, name in SPLITS.items()]
    return dot_panels(panels, HARM)


@figure(claims="C5", tables="metrics.harm_rate")
def generalization_by_language(results: Results) -> Figure:
    """Does harmlessness hold in both languages?

    Dots with intervals, a row a variant: harm rate where all is seen and where category and
    attack are unseen, in English and in Spanish; the base's own as a dashed line.
    """
    panels = [
        (f"{name},\n{SPLITS[split]}", "", results.metric("harm_rate", split=split, language=code))
        for code, name in LANGUAGES.items()
        for split in ("seen", "unseen_both")
    ]
    return dot_panels(panels, HARM)


@figure(claims="C5", tables="metrics.generalization_gap")
def generalization_gaps(results: Results) -> Figure:
    """How much does harm rise from seen to unseen requests?

    Dots with intervals, a row a variant and a panel an unseen split: harm on unseen minus harm
    on seen requests; zero and the base's own gap are marked.
    """
    panels = [
        (name, "", results.metric("generalization_gap", split=split))
        for split, name in SPLITS.items()
        if split != "seen"
    ]
    label = "harm on unseen minus on seen, T=1 (lower generalizes better); dashed: the base's own"
    fig = dot_panels(panels, label, whole=False)
    for ax in fig.axes:
        ax.axvline(0, color="0.4", linewidth=1)
    same_limits(fig.axes)
    return fig


@figure(claims="C7", tables="metrics.accuracy")
def reasoning(results: Results) -> Figure:
    """Do reasoning and knowledge survive the training?

    Dots with intervals, a row a variant: accuracy on arithmetic problems and share of benign
    requests answered correctly, in English and in Spanish; the base's own as a dashed line.
    """
    measures = {
        "accuracy": ("sums", "arithmetic problems\nsolved, T=1\n(higher is better)"),
        "recall": ("all", "benign requests\nanswered, T=1\n(higher is better)"),
    }
    panels = [
        (name, label, results.metric(metric, language=code, task=task))
        for metric, (task, label) in measures.items()
        for code, name in LANGUAGES.items()
    ]
    return dot_panels(panels)
