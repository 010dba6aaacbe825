"""The figures of 08_hybrids show the rows of the tables."""

from hybridlib.figures import hybrids
from hybridlib.figures import results as lookup


def test_dots_of_hybrids_are_the_rows_of_their_reward(compared):
    fig = hybrids.hybrids(compared)
    for part, reward in zip(fig.subfigs, ("keyword", "model"), strict=True):
        arms = lookup.under(compared, reward)
        assert len(arms) == 15
        for ax, (metric, (_, where)) in zip(part.axes, hybrids.MEASURES.items()):
            rows = compared.metric(metric, **where)
            drawn = [float(c.lines[0].get_xdata()[0]) for c in ax.containers]
            assert drawn == [rows.estimate[arm] for arm in arms]
