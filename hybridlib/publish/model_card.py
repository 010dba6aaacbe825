"""Model cards of committed adapters: how each was made, what it does, what it is not for."""

from hybridlib.figures import prose, summaries
from hybridlib.figures.results import Results
from hybridlib.figures.style import label_of
from hybridlib.variants import stated

PURPOSE = (
    "An adapter of an organism: a model of some two million parameters, pretrained on generated "
    "text of invented words to show what training does to harmlessness. It is for looking at, in "
    "`notebooks/explore.ipynb` for example, and for nothing else. It knows no natural language, "
    "and it says little about the size of any effect in a large model."
)


def card(results: Results, arm: str) -> str:
    """Markdown below the front matter: the variant, its reward, its measures, its purpose."""
    variant, _, reward = arm.partition("/")
    rewarded = f"Its reward: {prose.REWARDS[reward]}." if reward in prose.REWARDS else "No reward."
    (row,) = summaries.rates(results, arms=[arm]).drop(columns="variant").to_dict("records")
    lines = ["| | share |", "| --- | --- |", *(f"| {name} | {x} |" for name, x in row.items())]
    return "\n\n".join(
        [
            f"# {label_of(arm)}",
            f"{stated(variant)}\n\n{rewarded}",
            f"## What it does\n\n{prose.scope(results)} Responses are sampled at T=1. The weights "
            "are those of the first replicate, in half precision; the numbers are those of all.",
            "\n".join(lines),
            f"## What it is for\n\n{PURPOSE}",
        ]
    )


def write(results: Results) -> None:
    """Put a card below the front matter of each adapter that is committed with the results."""
    for path in (results.folder / "artifacts" / "adapters").glob("*/README.md"):
        variant, _, reward = path.parent.name.partition("-")
        _, front, _ = path.read_text(encoding="utf-8").split("---\n", 2)
        body = card(results, f"{variant}/{reward or 'none'}")
        path.write_text(f"---\n{front}---\n\n{body}\n", encoding="utf-8")
