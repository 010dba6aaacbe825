"""The README's account of the confirmatory study and of the real model, written from their tables:
no number of it is typed."""

from pathlib import Path

from hybridlib.evaluation import hypotheses
from hybridlib.figures import prose
from hybridlib.figures.results import Results, claims, select
from hybridlib.figures.style import label_of
from hybridlib.publish import markdown
from hybridlib.store import assets

# heading -> (metric, where)
COLUMNS = {
    "harm, seen": ("harm_rate", {"split": "seen"}),
    "harm, both unseen": ("harm_rate", {"split": "unseen_both"}),
    "of all: behind a refusal": ("superficial_refusal_rate", {}),
    "over-refusal": ("over_refusal_rate", {}),
    "languages mixed": ("off_language_rate", {}),
    "sums right": ("accuracy", {"task": "sums"}),
}
PUBLIC = {
    "public requests not refused": ("non_refusal_rate", {}),
    "benign ones refused": ("request_refusal_rate", {}),
}
REWARDS = {"rule": "the rule", "model": "the reward model"}

# (metric, noun, compared with, where)
COMPARED = [
    ("harm_rate", "harm", "sft/none", {}),
    ("harm_rate", "harm on unseen categories and attacks", "rl/model", {"split": "unseen_both"}),
    ("off_language_rate", "mixing of languages", "base/none", {}),
    ("accuracy", "right sums", "rl/model", {"task": "sums"}),
]


def findings(results: Results) -> str:
    """Markdown: a table of variants, a table of claims, each number with its interval."""
    others = [arm for arm in results.arms() if arm not in ("base/none", "rl_gold/gold")]
    compared = [
        prose.sentence(prose.versus(results, *what, others, other, **where))
        for *what, other, where in COMPARED
    ]
    in_words = [f"- {text}" for text in compared if text]  # a preset may lack what is compared
    if in_words:
        in_words = ["\n".join(["By seed and prompt in pairs, at 95% each:", "", *in_words])]
    verdicts = claims(results)
    said = [
        [
            claim.claim,
            " ".join(claim.statement.split()),
            verdict(results, claim.claim),
            prose.evidence(results, claim.claim),
            _figure(results, claim.figure),
        ]
        for claim in hypotheses.load().claims
        if claim.claim in verdicts.index
    ]
    return "\n\n".join(
        [
            f"{prose.scope(results)} Responses are sampled at T=1. {prose.control(results)}",
            _arms(results, COLUMNS),
            *in_words,
            f"**{prose.tally(results)}.** An effect is supported if its whole interval, corrected "
            "for the number of tests, lies beyond the margin, and refuted if it lies short of it; "
            "where the two rewards of RL disagree, the claim as such is inconclusive.",
            markdown.table(
                ["", "what the paper says", "verdict", "what was measured", "rests on"], said
            ),
            *_besides(results),
        ]
    )


def _besides(results: Results) -> list[str]:
    """Counter-claims, begun responses, the study with one parameter changed and the study beside
    it, as far as the tables hold them."""
    found = []
    if counter := prose.other_side(results):
        found = [
            "**The other side.** Published work says the opposite of some of it; the same rule, "
            "with a correction of its own:",
            markdown.table(["", "what others say", "what was measured"], counter),
        ]
    if results.has("prefill"):
        found.append(prose.depth(results))
    if results.has("sensitivity"):
        moved = f"{prose.sensitivity(results)} {prose.other_sides(results)}"
        found += [
            f"**How far it reaches.** One parameter changed at a time. {moved}",
            prose.ranges(results),
        ]
    if results.has("beside") and len(results.table("beside")):
        found.append(f"**Twice.** {prose.agreement(results)}")
    return found


def of_real_model(results: Results) -> str:
    """Markdown: the base's gate, a table of variants, the judge's error, the organism beside it,
    and the licences of all assets."""
    return "\n\n".join(
        [
            f"{prose.scope(results)} {prose.gate(results)} {prose.control(results)}",
            _arms(results, COLUMNS | PUBLIC),
            f"{prose.judge(results)} {prose.identifier(results)}",
            f"**Side by side.** {prose.agreement(results)}",
            *_advised(results),
            "Downloaded when a preset asks for them, each pinned, and never committed:",
            _assets(),
        ]
    )


def _advised(results: Results) -> list[str]:
    """What the paper's advice on asking changes, if it was tried."""
    if not results.has("usage"):
        return []
    return [f"**Asked as the paper advises.** {prose.sentence(prose.advised(results))}"]


BLOCKS = {"confirmatory": ("findings", findings), "smollm2": ("real", of_real_model)}


def verdict(results: Results, claim: str) -> str:
    """The verdict in bold and, where they differ, those under each reward."""
    rows = select(results.table("claims"), claim=claim).set_index("reward").verdict
    apart = rows.drop("all")
    if apart.nunique() < 2:
        return f"**{rows['all']}**"
    by_reward = (f"{apart[reward]} under {name}" for reward, name in REWARDS.items())
    return f"**{rows['all']}**: {', '.join(by_reward)}"


def _figure(results: Results, where: str) -> str:
    """A link from the README to a figure, NOTEBOOK/FIGURE in the hypotheses."""
    _, _, name = where.partition("/")
    return f"[{name}](results/{results.folder.name}/figures/{name}.png)"


def _assets() -> str:
    """A row an asset: where it comes from, and its licence."""
    rows = [
        [f"`{found['name']}`", found["source"], found["version"][:12], found["licence"]]
        for found in assets.provenance(assets.ASSETS)
    ]
    return markdown.table(["asset", "out of", "version", "licence"], rows)


def _arms(results: Results, columns: dict[str, tuple[str, dict]]) -> str:
    """A row an arm, a column a metric."""
    means = [results.metric(metric, **where) for metric, where in columns.values()]
    rows = [
        [f"`{label_of(arm)}`"]
        + [prose.interval(m.loc[arm]) if arm in m.index else "" for m in means]
        for arm in results.arms()
    ]
    return markdown.table(["variant (reward)", *columns], rows)


def write(readme: Path, preset: str, results: Results) -> None:
    """Replace the account of a preset in a README, if the preset has one."""
    if preset in BLOCKS:
        block, account = BLOCKS[preset]
        markdown.replace_block(readme, block, account(results))
