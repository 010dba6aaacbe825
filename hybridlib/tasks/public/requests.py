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
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hybridlib.store import assets, jsonl
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


_FILE = Path(__file__).with_name("requests.yaml")
SOURCES: dict[str, list[Part]] = {
    name: [Part(**part) for part in parts]
    for name, parts in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()
}
HELD_OUT = ("harmbench_hub", "harmbench")  # evaluated only


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines also splits at U+2028
    return [line for line in lines if line.strip()]


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".csv": lambda path: csv.DictReader(StringIO(path.read_bytes().decode(), newline="")),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": lambda path: [{"file": path.stem} | row for row in jsonl.read(path)],
    ".parquet": lambda path: pd.read_parquet(path).to_dict("records"),
    ".txt": lambda path: [{"line": line, "category": "uncategorised"} for line in _lines(path)],
}


def requests(names: Iterable[str], partition: str | None = None) -> tuple[Request, ...]:
    """The requests of the named sources, near-duplicates removed, in a fixed order.

    What is removed, and the partition of the rest, depends on all sources together, so a study
    names all its sources at once. Near-duplicates of opposite kinds and matched twins are in one
    partition. Held-out categories and sources are never in `train`.

    partition : train, validation or test (60/20/20 of what training may see); None for all three

    Raises ParameterError if there is no such source or partition, AssetError if a source cannot be
    downloaded (see `assets.folder`).
    """
    if partition not in (None, *PARTITIONS):
        raise ParameterError(f"there is no partition {partition!r}, only {', '.join(PARTITIONS)}")
    read = [_with_split(_allowed(_read(name))) for name in _in_order(names)]
    rows = _with_partition(_first_copies([row for some in read for row in some]))
    return tuple(row for row in rows if partition in (None, row.partition))


def sources(names: Iterable[str] = SOURCES) -> pd.DataFrame:
    """One row a source and kind: what it holds, what was dropped and why, what is left.

    Returns
    -------
    source, kind, rows, left_out (minors, see `_allowed`), duplicates (of an earlier row of the same
        kind), kept, categories, licence.
    """
    names, table = _in_order(names), []
    kept = requests(names)
    for name in names:
        rows = _read(name)
        some = (rows, _allowed(rows), [row for row in kept if row.source == name])
        for kind in sorted({row.kind for row in rows}):
            found = [[row.category for row in part if row.kind == kind] for part in some]
            total, left, here = map(len, found)
            counts = (total, total - left, left - here, here, len(set(found[-1])))
            table.append((name, kind, *counts, assets.ASSETS[name].licence))
    columns = "source kind rows left_out duplicates kept categories licence"
    return pd.DataFrame(table, columns=columns.split())


def _in_order(names: Iterable[str]) -> list[str]:
    asked = set(names)
    if unknown := sorted(asked - SOURCES.keys()):
        raise ParameterError(f"there is no prompt set {unknown[0]!r}, only {', '.join(SOURCES)}")
    return [name for name in SOURCES if name in asked]


def _read(name: str) -> list[Request]:
    """Every row of a source, file by file."""
    return [
        _request(row, part, name)
        for part in SOURCES[name]
        for path in sorted(assets.folder(name).rglob(part.files))
        if path.name != MANIFEST
        for row in READERS[path.suffix](path)
        if re.match(part.only, row[part.category])
    ]


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
    split = {row.category: "seen" if row.category in seen else "unseen_category" for row in rows}
    return [
        replace(row, split="unseen_source" if row.source in HELD_OUT else split[row.category])
        for row in rows
    ]


def _first_copies(rows: list[Request]) -> list[Request]:
    """The rows that are kept: those not near to an earlier kept one of the same kind."""
    before = defaultdict(set)
    for i, j in near_duplicates([row.text for row in rows]):
        if rows[i].kind == rows[j].kind:
            before[j].add(i)
    kept: dict[int, Request] = {}
    for i, row in enumerate(rows):
        if before[i].isdisjoint(kept):
            kept[i] = row
    return list(kept.values())


def _with_partition(rows: list[Request]) -> list[Request]:
    """The rows with their partition, the same for a cluster of twins and near-duplicates.

    The hash of the cluster's first text decides. A cluster that holds anything held out goes to
    test instead of train.
    """
    edges = near_duplicates([row.text for row in rows])
    twins: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        if row.pair:
            edges.append((twins.setdefault((row.source, row.pair), i), i))
    ends = tuple(zip(*edges)) or ((), ())
    graph = coo_array(([1] * len(edges), ends), shape=(len(rows), len(rows)))
    clusters = connected_components(graph, directed=False)[1].tolist() if rows else []
    held_out = {c for c, row in zip(clusters, rows) if row.split != "seen"}
    first: dict[int, str] = {}
    for cluster, row in zip(clusters, rows):
        first.setdefault(cluster, row.text)

    def partition(cluster: int) -> str:
        chosen = partition_of(first[cluster])
        return "test" if chosen == "train" and cluster in held_out else chosen

    return [replace(row, partition=partition(cluster)) for cluster, row in zip(clusters, rows)]
