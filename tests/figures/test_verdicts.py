"""The verdict page: every verdict is equally large."""

import itertools

import pandas as pd
from matplotlib.text import Text

from hybridlib.figures import style, verdicts
from hybridlib.figures.results import Results, sides


def test_refuted_is_as_large_as_supported(results, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    results.table("metrics").to_csv(folder / "metrics.csv", index=False)
    for name in ("verdicts", "claims"):
        frame = pd.read_csv(results.folder / "tables" / f"{name}.csv", keep_default_na=False)
        words = itertools.cycle(style.VERDICT_STYLES)
        frame["verdict"] = [next(words) for _ in range(len(frame))]
        frame.to_csv(folder / f"{name}.csv", index=False)
    drawn = verdicts.verdict_page(Results(tmp_path))
    sizes = {
        text.get_text(): (text.get_fontsize(), text.get_fontweight())
        for text in drawn.findobj(Text)
        if text.get_text().lower() in style.VERDICT_STYLES and text.get_text().isupper()
    }
    assert set(sizes) == {word.upper() for word in style.VERDICT_STYLES}
    assert len(set(sizes.values())) == 1


def test_every_changed_point_of_an_effect_is_a_marker(results):
    fig, points = verdicts.sensitivity(results), sides(results)
    drawn = [
        line for ax in fig.axes for line in ax.lines
        if line.get_alpha() == 0.75 and len(line.get_xdata()) == 1
    ]  # fmt: skip
    assert sorted(float(line.get_xdata()[0]) for line in drawn) == sorted(points.estimate)
