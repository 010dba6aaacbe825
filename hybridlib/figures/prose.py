"""What figures, tables and pages share in words: labels, numbers as text, tables as HTML."""

from collections.abc import Iterable, Sequence
from numbers import Number

import pandas as pd
from IPython.display import HTML, Markdown, display

from hybridlib.figures import markdown
from hybridlib.figures.results import Results
from hybridlib.figures.style import label_of

CLAIMS = {
    "C1": "reward hacking",
    "C2": "explicit control",
    "C3": "language mixing",
    "C4": "cold start",
    "C5": "generalization",
    "C6": "diverse SFT",
    "C7": "hybrid",
    "C8": "cost",
}
REWARDS = {
    "keyword": "refusal-keyword reward",
    "model": "reward model",
    "gold": "oracle (positive control)",
}
METRICS = {  # where the name in the tables is not the field's
    "off_language_rate": "language-mixing rate",
    "lookalike_refusal_rate": "refusal of benign near-misses",
    "genuine_refusal_rate": "genuine refusals",
    "superficial_refusal_rate": "superficial refusals",
    "accuracy": "accuracy, arithmetic problems",
    "log_flops": "log FLOPs",
}


def effect(row) -> str:
    """The effect of a row of verdicts.csv: 'harm rate, rl - sft (model)'."""
    metric = METRICS.get(row.metric, row.metric.replace("_", " "))
    return f"{metric}, {label_of(f'{row.contrast}/{row.reward}')}"


def percent(value: float) -> str:
    """0.183 -> '18%'; near 0 and 1 a decimal, so that rare is not written as never."""
    digits = 1 if 0 < value < 0.01 or 0.99 < value < 1 else 0
    return f"{100 * value:.{digits}f}%"


def interval(row: pd.Series) -> str:
    """'18% [12, 26]': a rate with its 95% interval."""
    return f"{percent(row.estimate)} [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def amount(row: pd.Series) -> str:
    """'1.06 [0.87, 1.25]': what is no share, with its 95% interval."""
    return f"{row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}]"


def signed(value: float, digits: int = 0) -> str:
    """'+12', '-3', '0': never '-0'."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def difference(row: pd.Series, digits: int = 2) -> str:
    """'+0.12 [+0.05, +0.19]': a difference with its interval, if it has one; nothing of none."""
    if pd.isna(row.estimate):
        return ""
    estimate, low, high = (signed(x, digits) for x in (row.estimate, row.low, row.high))
    return estimate if pd.isna(row.low) else f"{estimate} [{low}, {high}]"


def points(row: pd.Series) -> str:
    """'+12 [+5, +19] points': a difference of rates."""
    return f"{difference(100 * row[['estimate', 'low', 'high']], 0)} points"


def short(value: float) -> str:
    """8.7e12 -> '8.7e12', 236000 -> '236k', 52.3 -> '52', 0.0003 -> '3e-4'."""
    if value >= 1e9 or 0 < value < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e3 else f"{value:.0f}"


def join(words: Iterable[str]) -> str:
    """'', 'a', 'a and b', 'a, b and c'."""
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def scope(results: Results) -> str:
    """What the results rest on: arms, seeds, runs."""
    seeds = results.table("metrics").seeds.max()
    runs = len(results.table("runs").drop_duplicates(["arm", "seed"]))
    counted, over = (f"{seeds} seeds", "") if seeds > 1 else ("1 seed", " over prompts alone")
    return (
        f"Results of `{results.preset}`: {len(results.arms())} arms (a variant and its reward), "
        f"{counted}, {runs} runs. Brackets are 95% intervals{over}."
    )


def say(*sentences: str) -> None:
    """Display the sentences that are not empty as one paragraph of markdown, if there are any."""
    if text := " ".join(sentence for sentence in sentences if sentence):
        display(Markdown(text))


def tabulate(rows: Iterable, columns: Sequence[str] | None = None) -> None:
    """Display a table without its index: text on the left, numbers on the right, nothing cut; a
    line where there is none."""
    frame = pd.DataFrame(rows, columns=columns, dtype=object)  # its strings may hold anything
    if frame.empty:
        return say("*Nothing of this was measured.*")
    numbers = frame.map(lambda cell: isinstance(cell, Number) or pd.isna(cell)).all()
    aligned = ["right" if number else "left" for number in numbers]

    def line(cells: Iterable[object], tag: str) -> str:
        cells = ("" if pd.isna(c) else f"{c:.3g}" if isinstance(c, float) else c for c in cells)
        texts = (markdown.escaped(cell) for cell in cells)
        return "".join(
            f'<{tag} style="text-align: {side}">{text}</{tag}>'
            for side, text in zip(aligned, texts, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in frame.itertuples(index=False))
    display(HTML(f"<table><tr>{line(frame, 'th')}</tr>{body}</table>"))
