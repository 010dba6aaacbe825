"""What figures, tables and pages share in words: labels, numbers as text, tables as HTML."""

import math
from collections.abc import Iterable, Sequence
from numbers import Number

import pandas as pd
from IPython.display import HTML, Markdown, display

from hybridlib.figures import markdown
from hybridlib.figures.results import Results

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
MORE = {  # of a metric, where {} is 'more ' or 'no more ', or nothing of a variant alone
    "harm_rate": "{}harm",
    "superficial_refusal_rate": "{}superficial refusals",
    "genuine_refusal_rate": "{}genuine refusals",
    "refusal_gap": "{}refusals in words alone",
    "over_refusal_rate": "{}over-refusal",
    "off_language_rate": "{}language mixing",
    "accuracy": "{}arithmetic solved",
    "generalization_gap": "{}rise of harm",
    "log_flops_to_harm": "{}compute until little harm is left",
}
IN_WORDS = {"base": "the base", "rl": "RL", "sft": "SFT", "sft_narrow": "narrow SFT",
            "sft_long": "long SFT", "two_stage": "SFT+RL", "joint": "joint loss",
            "rl_gold": "RL rewarded by the oracle"}  # fmt: skip
WHERE = {
    "records": "in records",
    "recipes": "in recipes",
    "seen": "on what is seen",
    "unseen": "on what is unseen",
    "unseen_category": "on unseen categories",
    "unseen_attack": "inside unseen attacks",
    "unseen_both": "where all is unseen",
    "undeclared": "on undeclared categories",
    "en": "in English",
    "es": "in Spanish",
}


def effect(row) -> str:
    """The effect of a row of verdicts.csv, as it is claimed: 'RL: more harm in records than SFT'.

    A negative margin claims of the other variant that it is not worse: 'SFT: no more harm than RL'.
    """
    first, _, second = row.contrast.partition(" - ")
    more = "more " if second else ""
    if row.margin < 0:
        first, second, more = second, first, "no more "
    where = [WHERE[x] for x in (row.task, row.split, row.language) if x in WHERE]
    what = MORE.get(row.metric, "{}" + row.metric.replace("_", " ")).format(more)
    than = [f"than {IN_WORDS.get(second, second)}"] if second else []
    return f"{IN_WORDS.get(first, first)}: {' '.join([what, *where, *than])}"


def under(reward: str) -> str:
    """The reward under which a row of verdicts.csv stands: 'keyword', '' of none."""
    return {"none": "", "model": "reward model", "gold": "oracle"}.get(reward, reward)


def percent(value: float) -> str:
    """0.183 -> '18%'; near 0 and 1 a decimal, so that rare is not written as never."""
    digits = 1 if 0 < value < 0.01 or 0.99 < value < 1 else 0
    return f"{100 * value:.{digits}f}%"


def interval(row: pd.Series) -> str:
    """'18% [12, 26]': a rate with its 95% interval, if it has one."""
    told = percent(row.estimate)
    return told if pd.isna(row.low) else f"{told} [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def amount(row: pd.Series) -> str:
    """'1.06 [0.87, 1.25]': what is no share, with its 95% interval, if it has one."""
    told = f"{row.estimate:.2f}"
    return told if pd.isna(row.low) else f"{told} [{row.low:.2f}, {row.high:.2f}]"


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


def times(row: pd.Series) -> str:
    """'3.1 [2, 4.8] times': a difference of logarithms, as the ratio that it is."""
    if pd.isna(row.estimate):
        return ""
    estimate, low, high = (f"{math.exp(x):.2g}" for x in (row.estimate, row.low, row.high))
    return f"{estimate} times" if pd.isna(row.low) else f"{estimate} [{low}, {high}] times"


def is_ratio(metric: str) -> bool:
    """Whether an effect on a metric is a difference of logarithms."""
    return metric.startswith("log_")


def points(row: pd.Series) -> str:
    """'+12 [+5, +19] points': a difference of rates."""
    return f"{difference(100 * row[['estimate', 'low', 'high']], 0)} points"


def short(value: float) -> str:
    """8.7e12 -> '8.7e12', 236000 -> '236k', 52.3 -> '52', 0.0003 -> '3e-4'."""
    if value >= 1e9 or 0 < value < 0.1:
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
    """What the results rest on: arms, replicates, runs; and bases that were not competent."""
    count = results.table("metrics").replicates.max()
    runs = len(results.table("runs").drop_duplicates(["arm", "seed"]))
    counted = "1 replicate" if count == 1 else f"{count} replicates"
    told = "Brackets are 95% intervals." if count > 1 else "Of one replicate there is no interval."
    recipes = results.table("recipes")
    failed = len(recipes) - int(recipes.competent.sum())
    if failed and failed < len(recipes):
        told += f" Of {len(recipes)} bases, {failed} failed the competence check."
    return (
        f"Results of `{results.preset}`: {len(results.arms())} arms (a variant and its reward), "
        f"{counted}, {runs} runs. {told}"
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
