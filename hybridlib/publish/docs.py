"""What docs/*.md take from committed tables: no number in it is typed.

A page asks for it by a comment, <!-- arms organism -->, and <!-- / --> ends it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from hybridlib.evaluation import hypotheses
from hybridlib.figures import markdown, prose, registry, summaries
from hybridlib.figures.results import Results
from hybridlib.store import assets, replace
from hybridlib.store.paths import PROJECT, committed

# A block ends before the next comment that begins one, so one without an end is left as it is.
BLOCK = re.compile(r"(<!-- (\w+)((?: \w+)*) -->\n)(?:(?!<!-- \w).)*?(<!-- / -->)", re.DOTALL)
REQUESTS: summaries.Columns = {  # what real models have besides
    "public requests not refused": ("non_refusal_rate", {}),
    "benign ones refused": ("request_refusal_rate", {}),
}


def write(docs: Path) -> None:
    """Write everything that the pages of a folder ask for; all pages or none."""
    with kept(docs) as pages:
        texts = {page: BLOCK.sub(_filled, text.decode()) for page, text in pages.items()}
        for page, text in texts.items():
            replace.write(page, text.encode())


@contextmanager
def kept(docs: Path) -> Iterator[dict[Path, bytes]]:
    """The pages of a folder, which are again as they were if the body raises."""
    pages = {page: page.read_bytes() for page in docs.glob("*.md")}
    try:
        yield pages
    except BaseException:
        for page, text in pages.items():
            replace.write(page, text)
        raise


def _filled(block: re.Match[str]) -> str:
    begin, name, of, end = block.groups()
    found = WRITERS[name](*of.split())
    return f"{begin}{found if isinstance(found, str) else table(found)}\n{end}"


def table(frame: pd.DataFrame) -> str:
    """A frame without its index as Markdown."""
    rows = frame.astype(object).to_numpy()
    rows = [[f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    return markdown.table([name.replace("_", " ") for name in frame], rows)


def drawn(folder: Path) -> list[registry.Declared]:
    """The figures of a results folder, the verdicts first, then as the notebooks go."""
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    found = [figure for name, figure in registry.figures().items() if name in names]
    return sorted(found, key=lambda figure: figure.name != "verdict_page")


def gallery(preset: str, root: str = "../results/{}/") -> str:
    """Every figure of a preset: headline, image, claims, notebook, and what draws it again."""
    results, root = Results(committed(preset)), root.format(preset)
    return "\n\n".join(
        f"### {figure.name}\n\n**{figure.headline(results)}** Bears on "
        f"{prose.join(figure.claims)}; explained in "
        f"[{figure.notebook}]({root}notebooks/{figure.notebook}.ipynb); redrawn by "
        f'`make figures PRESET={preset} ARGS="--only {figure.name}"`.\n\n'
        f"![{figure.alt}]({root}figures/{figure.name}.png)"
        for figure in drawn(results.folder)
    )


def arms(preset: str) -> pd.DataFrame:
    """A row an arm, a column a metric: rates with their intervals."""
    results = Results(committed(preset))
    more = REQUESTS if results.has("requests") else {}
    return summaries.rates(results, {**summaries.MAIN, **more})


def claims(preset: str) -> pd.DataFrame:
    """A row a claim: its verdict, that under each reward, and the figure that it rests on."""
    frame = Results(committed(preset)).table("claims")
    frame = frame.pivot(index="claim", columns="reward", values="verdict")
    frame = frame.reindex(columns=["all", "keyword", "model"], fill_value="").fillna("")
    frame.columns = ["verdict", "keyword", "model"]
    said = {claim.claim: claim for claim in hypotheses.load().claims}
    names = [said[name].figure.partition("/")[2] for name in frame.index]
    frame.insert(0, "the paper says", [said[name].statement for name in frame.index])
    links = [f"[{name}](../results/{preset}/figures/{name}.png)" for name in names]
    return frame.assign(**{"rests on": links}).reset_index()


def pinned() -> pd.DataFrame:
    """A row an asset: where it comes from, and its licence."""
    frame = pd.DataFrame(assets.provenance(assets.ASSETS))
    return frame[["name", "source", "version", "licence"]].assign(version=frame.version.str[:12])


WRITERS = {  # what a comment can ask for
    "gallery": gallery,
    "arms": arms,
    "claims": claims,
    "effects": lambda preset, name: summaries.effects(Results(committed(preset)), name),
    "hybrids": lambda preset, reward: summaries.choices(Results(committed(preset)), reward),
    "table": lambda preset, name: Results(committed(preset)).table(name),
    "bench": lambda name: pd.read_csv(PROJECT / "results" / "bench" / f"{name}.csv"),
    "assets": pinned,
}
