"""The figures of 07_verdicts on what a variant costs, and what it buys."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from hybridlib.figures.panels import SHORT_NUMBERS, cost_bars, paths
from hybridlib.figures.registry import figure
from hybridlib.figures.results import Results


@figure(claims="C8", tables="snapshots")
def cost_of_safety(results: Results) -> Figure:
    """How much compute does it take to become harmless?

    A panel a variant: harm rate on test prompts against the FLOPs of training so far, on a log
    axis, a thin line a replicate and a bold one for their mean; the harm to be reached as a line,
    and the means of rl and sft in grey in every panel.
    """
    fig = paths(results, "flops", "FLOPs so far (log)")
    for ax in fig.axes:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(SHORT_NUMBERS)
    return fig


@figure(claims="C8", tables="cost")
def cost(results: Results) -> Figure:
    """What does each variant cost to train?

    Bars, a row a variant: floating-point operations, tokens sampled and tokens trained on, with
    intervals over replicates; all phases of a variant together.
    """
    names = {"flops": "FLOPs", "completion_tokens": "tokens sampled"}
    return cost_bars(results, names | {"trained_tokens": "tokens trained on"})
