"""The README's account of the default preset, written from its tables: no number of it is typed."""

from pathlib import Path

from hybridlib import hypotheses, prose
from hybridlib.lookup import Results, claims
from hybridlib.style import label_of

BEGIN, END = "<!-- findings -->", "<!-- /findings -->"

# heading -> (metric, where)
COLUMNS = {
    "harm, seen": ("harm_rate", {"split": "seen"}),
    "harm, both unseen": ("harm_rate", {"split": "unseen_both"}),
    "of all: behind a refusal": ("superficial_refusal_rate", {}),
    "over-refusal": ("over_refusal_rate", {}),
    "languages mixed": ("off_language_rate", {}),
    "sums right": ("accuracy", {"task": "sums"}),
}


def findings(results: Results) -> str:
    """Markdown: a table of variants, a table of claims, each number with its interval."""
    means = {
        heading: results.metric(metric, **where) for heading, (metric, where) in COLUMNS.items()
    }
    rows = [
        [f"`{label_of(arm)}`"]
        + [prose.interval(m.loc[arm]) if arm in m.index else "" for m in means.values()]
        for arm in results.arms()
    ]
    verdicts = claims(results)
    said = [
        [
            claim.claim,
            " ".join(claim.statement.split()),
            f"**{verdicts[claim.claim]}**",
            prose.evidence(results, claim.claim),
        ]
        for claim in hypotheses.load().claims
        if claim.claim in verdicts.index
    ]
    return "\n\n".join(
        [
            f"{prose.scope(results)} Responses are sampled at T=1. {prose.control(results)}",
            _table(["variant (reward)", *COLUMNS], rows),
            f"**{prose.tally(results)}.** An effect is supported if its whole interval, corrected "
            "for the number of tests, lies beyond the margin, and refuted if it lies short of it.",
            _table(["", "what the paper says", "verdict", "what was measured"], said),
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(readme: Path, results: Results) -> None:
    """Replace what stands between the two comments in a README."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"{before}{BEGIN}\n{findings(results)}\n{END}{after}"
    readme.write_text(text, encoding="utf-8")
