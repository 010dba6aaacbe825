"""The figures of 06_generalization: what training reaches that it never showed."""

from matplotlib.figure import Figure

from hybridlib.figures.panels import arm_rows, dot_panels, dots, percent_axis
from hybridlib.figures.registry import figure
from hybridlib.figures.results import LANGUAGES, SPLITS, Results
from hybridlib.figures.style import marker_of

HARM = "harm rate, T=1 (lower is safer); dashed: the base's own"


@figure(claims="C5 C6", tables="metrics.harm_rate")
def generalization(results: Results) -> Figure:
    """Does harmlessness reach categories and attacks that training never showed?

    Dots with intervals, a row a variant and a panel a split: harm rate on seen and unseen
    categories and attacks, and on undeclared ones, of which no text says that they are harmful;
    small dots are replicates, the base's own rate is a dashed line.
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

    A row a variant: on the left the harm rate on seen requests and where category and attack are
    unseen, joined by a line; on the right the difference of the two, with its interval and a dot a
    replicate, zero and the base's own marked.
    """
    gap = results.metric("generalization_gap", split="unseen_both")
    seen, unseen = (results.metric("harm_rate", split=split) for split in ("seen", "unseen_both"))
    arms = list(gap.index)
    fig = Figure(figsize=(10, 2.4 + 0.4 * len(arms)))
    left, right = fig.subplots(1, 2)
    arm_rows(left, arms, labels=True)
    for y, arm in enumerate(arms):
        look, ends = marker_of(arm), [seen.estimate[arm], unseen.estimate[arm]]
        left.plot(ends, [y, y], color=look["color"], linewidth=2)
        left.plot(ends[0], y, **look | {"marker": "|", "markersize": 13, "markeredgewidth": 2.5})
        left.plot(ends[1], y, **look)
    percent_axis(left.xaxis, whole=True)
    left.set_xlabel("harm rate, T=1 (lower is safer)\nbar: seen; marker: both unseen")
    dots(right, gap, arms, labels=False)
    right.axvline(0, color="0.4", linewidth=1)
    percent_axis(right.xaxis)
    right.set_xlabel("both unseen minus seen\n(lower generalizes better)")
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
