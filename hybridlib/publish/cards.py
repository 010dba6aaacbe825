"""Model cards: how each committed adapter was made, what it does, and what it is not for."""

from hybridlib.figures import prose
from hybridlib.figures.prose import PAID_BY
from hybridlib.figures.results import Results
from hybridlib.publish import markdown
from hybridlib.publish.findings import COLUMNS
from hybridlib.training import equations

SMALL = (
    "An adapter of an organism: a model of some two million parameters, bred from generated text "
    "of invented words to show what training does to harmlessness. It is for looking at, in "
    "`notebooks/explore.ipynb` for example, and for nothing else: it knows no natural language, "
    "and what it does says little about the size of any effect in a large model."
)


def card(results: Results, arm: str) -> str:
    """Markdown below the front matter: the variant, its pay, its measures, its limits."""
    variant, _, reward = arm.partition("/")
    rows = [
        [name, prose.interval(results.value(metric, arm, **where))]
        for name, (metric, where) in COLUMNS.items()
    ]
    pay = f"It is {PAID_BY[reward]}." if reward in PAID_BY else "No reward is read."
    return "\n\n".join(
        [
            f"# {prose.label_of(arm)}",
            f"{equations.stated(variant)}\n\n{pay}",
            "## What it does",
            f"{prose.scope(results)} Responses are sampled at T=1; the weights here are those of "
            "the first seed, in half precision, the numbers those of all.",
            markdown.table(["", "share"], rows),
            "## What it is for",
            SMALL,
        ]
    )


def write(results: Results) -> None:
    """Put a card below the front matter of each adapter that is committed with the results."""
    for path in sorted((results.folder / "artifacts" / "adapters").glob("*/README.md")):
        name, _, reward = path.parent.name.partition("-")
        text = path.read_text(encoding="utf-8")
        front = text[: text.index("---\n", 4) + len("---\n")]
        body = card(results, f"{name}/{reward or 'none'}")
        path.write_text(f"{front}\n{body}\n", encoding="utf-8")
