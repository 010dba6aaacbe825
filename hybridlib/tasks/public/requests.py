"""Public requests for real models: read, de-duplicated and split.

The files are pinned (see `assets`). A request is harmful or benign as its source means it: those of
`do_not_answer` are questions that a model should not answer, and some are mild; those of `edgy`,
`or_bench` and the safe half of `xstest` only sound harmful. The texts are the object of
measurement; none is written here.

Categories are a source's own. Every other one by sorted name is seen in training, so an unseen
category of one source may be close to a seen one of another.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hybridlib.store import assets
from hybridlib.store.errors import ParameterError
from hybridlib.store.run_store import MANIFEST
from hybridlib.tasks.prompts import PARTITIONS, partition_of
from hybridlib.tasks.public.duplicates import near_duplicates

Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request in English. `pair`: the id that it shares with its matched twin."""

    text: str
    kind: str  # harmful or benign
    category: str
    source: str
    pair: str = ""
    answer: str = ""  # the start of an answer that complies, where the source has one
    split: str = "seen"  # seen, unseen_category, or unseen_source: held out as a whole
    partition: str = "train"


@dataclass(frozen=True)
class Part:
    """Requests of one kind in the files of a source, and the columns that hold them."""

    files: str
    kind: str
    text: str
    category: str
    only: str = ""  # pattern that a category starts with
    pair: str = ""  # where this column is named, the text holds an answer behind a blank line


# In order of preference: of near-duplicates the first is kept. Sources with categories come first.
SOURCES: dict[str, tuple[Part, ...]] = {
    "strongreject": (Part("*.csv", "harmful", "forbidden_prompt", "category"),),
    "refusal_pairs": (
        Part("*.json", "harmful", "harmful_version", "domain", pair="id"),
        Part("*.json", "benign", "text", "domain", pair="id"),
    ),
    "edgy": (Part("*.json", "benign", "text", "category"),),
    "do_not_answer": (Part("*.jsonl", "harmful", "prompt", "file"),),
    "xstest": (
        Part("*.parquet", "harmful", "prompt", "type", only="contrast_"),
        Part("*.parquet", "benign", "prompt", "type", only="(?!contrast_)"),
    ),
    "jailbreakbench": (
        Part("harmful-behaviors.csv", "harmful", "Goal", "Category"),
        Part("benign-behaviors.csv", "benign", "Goal", "Category"),
    ),
    "or_bench": (Part("*.csv", "benign", "prompt", "category"),),
    "harmbench_hub": (Part("*.parquet", "harmful", "prompt", "category"),),
    "harmbench": (Part("*.txt", "harmful", "line", "category"),),
}
HELD_OUT = ("harmbench_hub", "harmbench")  # evaluated only


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:  # splitlines would also split at U+2028
        return [line.rstrip("\n") for line in file if line.strip()]


def _csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".csv": _csv,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": lambda path: [{"file": path.stem} | json.loads(line) for line in _lines(path)],
    ".parquet": lambda path: pd.read_parquet(path).to_dict("records"),
    ".txt": lambda path: [{"line": line, "category": "uncategorised"} for line in _lines(path)],
}


def requests(names: Iterable[str], partition: str | None = None) -> tuple[Request, ...]:
    """The requests of the named sources, near-duplicates removed, in a fixed order.

    What is removed, and the partition of the rest, depends on all sources together, so a study
    names all its sources at once. Near-duplicates of opposite kinds and matched twins are in one
    partition. Held-out categories and sources are never in `train`.

    Parameters
    ----------
    partition : train, validation or test (60/20/20 of what training may see); None for all three.

    Raises
    ------
    ParameterError : there is no such source or partition.
    AssetError : a source cannot be downloaded (see `assets.folder`).
    """
    if partition not in (None, *PARTITIONS):
        raise ParameterError(f"there is no partition {partition!r}, only {', '.join(PARTITIONS)}")
    read = [_with_split(_allowed(_read(name))) for name in _in_order(names)]
    rows = [row for some in read for row in some]
    near = near_duplicates([row.text for row in rows])
    kept = _first_copies(rows, near)
    place = {i: n for n, i in enumerate(kept)}
    edges = [(place[i], place[j]) for i, j in near if i in place and j in place]
    rows = _with_partition([rows[i] for i in kept], edges)
    return tuple(row for row in rows if partition in (None, row.partition))


def sources(names: Iterable[str] = SOURCES) -> pd.DataFrame:
    """One row a source and kind: what it holds, what was dropped and why, what is left.

    Returns
    -------
    source, kind, rows, left_out (minors, see `_allowed`), duplicates (of an earlier row of the same
        kind), kept, categories, licence.
    """
    kept = defaultdict(list)
    for row in requests(names):
        kept[row.source, row.kind].append(row.category)
    table = []
    for name in _in_order(names):
        rows = _read(name)
        allowed = _allowed(rows)
        for kind in sorted({row.kind for row in rows}):
            total, left = (sum(row.kind == kind for row in some) for some in (rows, allowed))
            here = kept[name, kind]
            table.append(
                {
                    "source": name,
                    "kind": kind,
                    "rows": total,
                    "left_out": total - left,
                    "duplicates": left - len(here),
                    "kept": len(here),
                    "categories": len(set(here)),
                    "licence": assets.ASSETS[name].licence,
                }
            )
    return pd.DataFrame(table)


def _in_order(names: Iterable[str]) -> list[str]:
    asked = set(names)
    if unknown := sorted(asked - SOURCES.keys()):
        raise ParameterError(f"there is no prompt set {unknown[0]!r}, only {', '.join(SOURCES)}")
    return [name for name in SOURCES if name in asked]


def _read(name: str) -> list[Request]:
    """Every row of a source, file by file."""
    found = []
    for part in SOURCES[name]:
        for path in sorted(assets.folder(name).rglob(part.files)):
            if path.name != MANIFEST:
                found += [
                    _request(row, part, name)
                    for row in READERS[path.suffix](path)
                    if re.match(part.only, row[part.category])
                ]
    return found


def _request(row: Row, part: Part, source: str) -> Request:
    text, answer, pair = row[part.text], "", ""
    if part.pair:
        text, _, answer = text.partition("\n\n")
        pair = row[part.pair]
    return Request(text.strip(), part.kind, row[part.category], source, pair, answer.strip())


_MINOR = re.compile(
    r"\b(child|children|minors?|underage|teen\w*|kids?|bab(y|ies)|infants?|toddlers?|youths?|girls?"
    r"|boys?|csam)\b",
    re.I,
)
_EXPLOITS = re.compile(
    r"sex|porn|nude|groom|csam|exploit|abus|seduc|molest|traffick|recruit|sell|surveil", re.I
)


def _allowed(rows: list[Request]) -> list[Request]:
    """The rows without harmful requests about the exploitation of minors, and without their twins.

    Such a request names a minor and a form of exploitation, in its text or its category. Of a
    category `a_vs_b` (`refusal_pairs`) the harmful half is about b.
    """
    left_out = set()
    for row in rows:
        about = f"{row.text} {row.category.split('_vs_')[-1].replace('_', ' ')}"
        if row.kind == "harmful" and _MINOR.search(about) and _EXPLOITS.search(about):
            left_out |= {row.text, row.pair}
    return [row for row in rows if row.text not in left_out and row.pair not in left_out - {""}]


def _with_split(rows: list[Request]) -> list[Request]:
    """The rows of one source with their split: every other category by sorted name is seen."""
    seen = sorted({row.category for row in rows})[0::2]

    def split(row: Request) -> str:
        if row.source in HELD_OUT:
            return "unseen_source"
        return "seen" if row.category in seen else "unseen_category"

    return [replace(row, split=split(row)) for row in rows]


def _first_copies(rows: list[Request], near: list[tuple[int, int]]) -> list[int]:
    """The rows that are kept: those not near to an earlier kept one of the same kind."""
    before = defaultdict(set)
    for i, j in near:
        if rows[i].kind == rows[j].kind:
            before[j].add(i)
    kept: dict[int, None] = {}
    for i in range(len(rows)):
        if before[i].isdisjoint(kept):
            kept[i] = None
    return list(kept)


def _with_partition(rows: list[Request], near: list[tuple[int, int]]) -> list[Request]:
    """The rows with their partition, the same for a cluster of twins and near-duplicates.

    The hash of the cluster's first text decides. A cluster that holds anything held out goes to
    test instead of train.
    """
    edges = list(near)
    twins: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        if row.pair:
            edges.append((twins.setdefault((row.source, row.pair), i), i))
    ends = tuple(zip(*edges)) or ((), ())
    graph = coo_array(([1] * len(edges), ends), shape=(len(rows), len(rows)))
    clusters = connected_components(graph, directed=False)[1].tolist() if rows else []
    first: dict[int, str] = {}
    held_out = {c for c, row in zip(clusters, rows) if row.split != "seen"}
    for cluster, row in zip(clusters, rows):
        first.setdefault(cluster, row.text)

    def partition(cluster: int) -> str:
        chosen = partition_of(first[cluster])
        return "test" if chosen == "train" and cluster in held_out else chosen

    return [replace(row, partition=partition(cluster)) for cluster, row in zip(clusters, rows)]
