"""The figures of 06_generalization show the rows of the tables."""

import pandas as pd
import pytest

from hybridlib.figures import generalization
from hybridlib.figures.results import SPLITS


def test_whiskers_are_the_intervals_of_the_table(results):
    fig = generalization.generalization(results)
    raw = pd.read_csv(results.folder / "tables" / "metrics.csv", keep_default_na=False)
    raw = raw[raw.metric.eq("harm_rate") & raw.task.eq("all") & raw.language.eq("all")]
    raw = raw[raw.part.eq("whole") & raw.decoding.eq("sample")]
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert list(SPLITS) == [
        "seen", "unseen_category", "unseen_attack", "unseen_both", "undeclared"
    ]  # fmt: skip
    for ax, split in zip(fig.axes, SPLITS, strict=True):
        drawn = ax.containers
        assert len(drawn) == len(names) == 11
        for name, container in zip(names, drawn, strict=True):
            variant, _, reward = name.rstrip(")").partition(" (")
            row = raw[raw.split.eq(split) & raw.variant.eq(variant)]
            row = row[row.reward.eq(reward)] if reward else row
            (segment,) = container.lines[2][0].get_segments()
            ends = [float(row.low.iloc[0]), float(row.high.iloc[0])]
            assert segment[:, 0] == pytest.approx(ends, abs=1e-9)
