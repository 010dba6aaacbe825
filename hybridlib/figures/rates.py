"""The figures of 07_verdicts that show how each learning rate was chosen, and what others do."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from hybridlib.figures import prose
from hybridlib.figures.panels import percent_axis
from hybridlib.figures.registry import figure
from hybridlib.figures.results import Results, select
from hybridlib.figures.style import label_of, marker_of

MEASURES = {  # of response_curves.csv -> its name
    "harm_rate": "harm",
    "genuine_refusal_rate": "genuine\nrefusals",
    "over_refusal_rate": "over-refusal",
    "off_language_rate": "language\nmixing",
}
RING = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": "black", "linestyle": ""}


@figure(tables="learning_rates response_curves")
def response_curves(results: Results) -> Figure:
    """What would each variant be at another learning rate?

    A row a variant under the refusal-keyword reward, the oracle or no reward: its own objective,
    harm, genuine refusals, over-refusal and language mixing against the learning rate; thin lines
    are development replicates, the bold one their mean, the plateau is shaded, the chosen rate is
    ringed.
    """
    arms = results.arms("learning_rates")
    return _curves(results, [arm for arm in arms if not arm.endswith("/model")])


@figure(tables="learning_rates.model response_curves.model")
def response_curves_model(results: Results) -> Figure:
    """What would each variant under the reward model be at another learning rate?

    A row a variant under the reward model: its own objective, harm, genuine refusals, over-refusal
    and language mixing against the learning rate; thin lines are development replicates, the bold
    one their mean, the plateau is shaded, the chosen rate is ringed.
    """
    arms = results.arms("learning_rates")
    return _curves(results, [arm for arm in arms if arm.endswith("/model")])


def _curves(results: Results, arms: Sequence[str]) -> Figure:
    grid, curves = results.table("learning_rates"), results.table("response_curves")
    curves = select(curves, task="all", split="all")
    ends = grid.learning_rate.min() / 1.6, grid.learning_rate.max() * 1.6
    fig = Figure(figsize=(10, 2 + 1.25 * len(arms)))
    axes = fig.subplots(len(arms), 1 + len(MEASURES), sharex=True, squeeze=False)
    for line, arm in zip(axes, arms, strict=True):
        rates = select(grid, arm=arm)
        # that of a run that diverged is -inf
        found = {"objective": rates[rates.objective.abs().lt(float("inf"))]}
        for metric in MEASURES:
            rows = select(curves, arm=arm, metric=metric)
            found[metric] = rows.rename(columns={"value": metric})
        plateau = rates[rates.plateau].learning_rate
        for ax, (measure, rows) in zip(line, found.items(), strict=True):
            if not len(rows):
                ax.set_axis_off()
                continue
            ax.axvspan(plateau.min() / 1.3, plateau.max() * 1.3, color="0.88", zorder=0)
            for _, one in rows.groupby("seed"):
                ax.plot(one.learning_rate, one[measure], color="0.5", linewidth=0.8)
            mean = rows.groupby("learning_rate")[measure].mean()
            look = marker_of(arm) | {"markersize": 5, "markeredgewidth": 1.2}
            ax.plot(mean.index, mean, linewidth=2, **look)
            chosen = rates[rates.chosen].learning_rate.unique()
            ax.plot(chosen, mean.reindex(chosen), "o", **RING)
            ax.set(xscale="log", xlim=ends)
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_locator(MaxNLocator(2))
            ax.tick_params(labelsize=10)
            ax.margins(y=0.2)
            if measure != "objective":
                percent_axis(ax.yaxis, whole=True)
                ax.tick_params(labelleft=measure == "harm_rate")
        line[0].set_ylabel(label_of(arm).replace(" (", "\n("), fontsize=11)
    for ax, name in zip(axes[0], ("own objective\n(higher is better)", *MEASURES.values())):
        ax.set_title(name, fontsize=11)
    for column in axes.T:
        last = [ax for ax in column if ax.axison][-1]
        last.set_xticks([1e-4, 1e-3, 1e-2], [prose.short(x) for x in (1e-4, 1e-3, 1e-2)])
        last.tick_params(labelbottom=True)
        last.set_xlabel("learning rate (log)", fontsize=11)
    keys = [
        Line2D([], [], color="0.5", linewidth=0.8, label="a development replicate"),
        Line2D([], [], color="black", linewidth=2, label="mean"),
        Patch(color="0.88", label="plateau: as good as the best"),
        Line2D([], [], marker="o", label="chosen", **RING),
    ]
    fig.legend(handles=keys, loc="outside lower center", ncol=4, fontsize=11)
    return fig
