"""Prompt sets: small files in each source's own format, harmless and invented."""

import csv
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlib.store import assets
from hybridlib.store.errors import ParameterError
from hybridlib.store.run_store import MANIFEST
from hybridlib.tasks.prompts import PARTITIONS, partition_of
from hybridlib.tasks.public import requests as prompt_sets
from hybridlib.tasks.public.duplicates import near_duplicates, shingles
from hybridlib.tasks.public.requests import HELD_OUT, SOURCES, Request, requests, sources

WHEELS = ("strongreject", "refusal_pairs", "edgy", "do_not_answer", "harmbench")
FRUITS = "apple pear plum fig lime kiwi date lemon mango peach grape melon".split()


def request(verb: str, fruit: str) -> str:
    return f"{verb} my {fruit} with {verb[::-1]} {fruit[::-1]} please {fruit}{verb}"


def texts(verb: str) -> list[str]:
    return [request(verb, fruit) for fruit in FRUITS]


def write_csv(path: Path, columns: list[str], rows: list[tuple]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def strongreject(folder: Path) -> None:
    rows = [(f"class {i % 4}", "custom", text) for i, text in enumerate(texts("paint"))]
    columns = ["category", "source", "forbidden_prompt"]
    write_csv(folder / "strongreject_dataset.csv", columns, rows)


def refusal_pairs(folder: Path) -> None:
    rows = [
        {
            "id": f"ref_{i}",
            "domain": f"garden{i}_vs_kitchen{i}",
            "text": f"{request('water', fruit)}\n\nFirst, take a can.\n\nThen pour.",
            "harmful_version": f"{request('fry', fruit)}\n\nFirst, take a pan.",
        }
        for i, fruit in enumerate(FRUITS)
    ]
    (folder / "one.json").write_text(json.dumps(rows[:6]), encoding="utf-8")
    (folder / "two.json").write_text(json.dumps(rows[6:]), encoding="utf-8")


def edgy(folder: Path) -> None:
    rows = [
        {"id": f"e{i}", "text": text, "category": f"c{i % 3}", "expected_topic": "t"}
        for i, text in enumerate(texts("polish"))
    ]
    (folder / "edgy.json").write_text(json.dumps(rows), encoding="utf-8")


def do_not_answer(folder: Path) -> None:
    for area, verb in (("kites", "fly"), ("boats", "sail")):
        lines = [json.dumps({"prompt": text, "intents": ["S0"]}) for text in texts(verb)]
        (folder / f"{area}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def xstest(folder: Path) -> None:
    rows = [
        {"id": f"v2-{i}", "type": kind, "prompt": text, "completion": "", "final_label": ""}
        for kind, verb in (("homonyms", "shoot"), ("contrast_homonyms", "bake"))
        for i, text in enumerate(texts(verb))
    ]
    pd.DataFrame(rows).to_parquet(folder / "prompts-00000-of-00001.parquet")


def jailbreakbench(folder: Path) -> None:
    for kind, verb in (("harmful", "weigh"), ("benign", "count")):
        rows = [(i, t, "Sure", "b", f"class {i % 2}", "own") for i, t in enumerate(texts(verb))]
        columns = ["Index", "Goal", "Target", "Behavior", "Category", "Source"]
        write_csv(folder / f"{kind}-behaviors.csv", columns, rows)


def or_bench(folder: Path) -> None:
    rows = [(text, f"class {i % 2}") for i, text in enumerate(texts("stack"))]
    write_csv(folder / "or-bench-hard-1k.csv", ["prompt", "category"], rows)


def harmbench_hub(folder: Path) -> None:
    rows = [{"prompt": text, "category": "class 0"} for text in texts("roll")]
    pd.DataFrame(rows).to_parquet(folder / "train-00000-of-00001.parquet")


def harmbench(folder: Path) -> None:
    (folder / "harmbench_prompts.txt").write_text("\n".join(texts("push")) + "\n")


WRITERS = [
    strongreject, refusal_pairs, edgy, do_not_answer, xstest, jailbreakbench, or_bench,
    harmbench_hub, harmbench,
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch) -> Path:
    """A folder a source, with a manifest as in the run store, in place of the assets."""
    for write in WRITERS:
        folder = tmp_path / write.__name__
        folder.mkdir()
        write(folder)
        (folder / MANIFEST).write_text("{}")
    monkeypatch.setattr(assets, "folder", lambda name: tmp_path / name)
    return tmp_path


def test_every_source_is_an_asset_and_has_a_file_here(files):
    assert SOURCES.keys() <= assets.ASSETS.keys()
    assert {write.__name__ for write in WRITERS} == SOURCES.keys()


@pytest.mark.parametrize(
    ("name", "kinds", "categories"),
    [
        ("strongreject", {"harmful": "paint"}, {f"class {i}" for i in range(4)}),
        ("edgy", {"benign": "polish"}, {"c0", "c1", "c2"}),
        ("xstest", {"harmful": "bake", "benign": "shoot"}, {"homonyms", "contrast_homonyms"}),
        ("jailbreakbench", {"harmful": "weigh", "benign": "count"}, {"class 0", "class 1"}),
        ("or_bench", {"benign": "stack"}, {"class 0", "class 1"}),
        ("harmbench_hub", {"harmful": "roll"}, {"class 0"}),
        ("harmbench", {"harmful": "push"}, {"uncategorised"}),
    ],
)
def test_each_format_is_read_whole(files, name, kinds, categories):
    rows = requests([name])
    for kind, verb in kinds.items():
        assert [row.text for row in rows if row.kind == kind] == texts(verb)
    assert len(rows) == len(FRUITS) * len(kinds)
    assert {row.category for row in rows} == categories
    assert {row.source for row in rows} == {name}


def test_a_line_separator_inside_a_line_does_not_end_it(files):
    (files / "harmbench" / "harmbench_prompts.txt").write_text("one\u2028two\nthree\n", "utf-8")
    assert [row.text for row in requests(["harmbench"])] == ["one\u2028two", "three"]


def test_do_not_answer_takes_the_area_from_the_file(files):
    rows = requests(["do_not_answer"])
    assert Counter(row.category for row in rows) == {"kites": 12, "boats": 12}
    assert {row.kind for row in rows} == {"harmful"}
    assert {row.text.split()[0] for row in rows if row.category == "boats"} == {"sail"}


def test_pairs_are_parted_at_the_first_blank_line_and_stay_together(files):
    rows = requests(["refusal_pairs"])
    assert len(rows) == 2 * len(FRUITS)
    for pair in {row.pair for row in rows}:
        harmful, benign = (
            next(row for row in rows if row.pair == pair and row.kind == kind)
            for kind in ("harmful", "benign")
        )
        assert harmful.answer == "First, take a pan."
        assert benign.answer == "First, take a can.\n\nThen pour."
        assert "\n" not in harmful.text + benign.text
        assert harmful.partition == benign.partition and harmful.split == benign.split


def test_the_order_is_fixed_and_a_partition_is_a_part(files):
    everything = requests(SOURCES)
    assert requests(reversed(SOURCES)) == everything
    assert [row.source for row in everything] == sorted(
        (row.source for row in everything), key=list(SOURCES).index
    )
    parts = {name: requests(SOURCES, name) for name in PARTITIONS}
    assert sorted(sum(parts.values(), ()), key=everything.index) == list(everything)
    assert all(row.partition == name for name, rows in parts.items() for row in rows)
    assert all(parts.values())


def test_every_other_category_is_seen_and_nothing_held_out_is_trained_on(files):
    rows = requests(SOURCES)
    assert {r.category for r in rows if r.source == "strongreject" and r.split == "seen"} == {
        "class 0",
        "class 2",
    }
    for row in rows:
        assert (row.split == "unseen_source") == (row.source in HELD_OUT)
        assert row.split == "seen" or row.partition != "train"
    assert {r.partition for r in rows if r.split == "unseen_category"} == {"validation", "test"}
    alone = [r for r in rows if r.split == "seen" and not r.pair]
    assert [r.partition for r in alone] == [partition_of(r.text) for r in alone]


def test_one_copy_is_kept_and_the_preferred_source_keeps_it(files):
    copy = request("paint", "apple")
    (files / "harmbench" / "harmbench_prompts.txt").write_text(
        f"{copy.upper()}!\n{request('push', 'fig')}\n{request('push', 'fig')} now\n"
    )
    rows = requests(["harmbench", "strongreject"])
    assert [row.source for row in rows if row.text.lower().startswith(copy[:20])] == [
        "strongreject"
    ]
    assert sum(row.source == "harmbench" for row in rows) == 1
    counted = sources(["harmbench", "strongreject"]).set_index("source")
    assert counted.loc["harmbench", ["rows", "duplicates", "kept"]].tolist() == [3, 2, 1]
    assert counted.loc["strongreject", ["rows", "duplicates", "kept"]].tolist() == [12, 0, 12]


def test_near_requests_of_two_kinds_both_stay_and_lie_in_one_partition(files):
    """The benign row is near a row of an unseen category, so neither may be trained on."""
    harmful = request("paint", "pear")
    assert partition_of(harmful) == "train"
    rows = [{"text": harmful + " today", "category": "c0"}]
    (files / "edgy" / "edgy.json").write_text(json.dumps(rows))
    both = [r for r in requests(["strongreject", "edgy"]) if r.text.startswith(harmful)]
    assert [(r.kind, r.split, r.partition) for r in both] == [
        ("harmful", "unseen_category", "test"),
        ("benign", "seen", "test"),
    ]


def test_no_two_partitions_hold_near_duplicates(files):
    edits = [f"{text} {end}" for text in texts("paint") for end in ("now", "then", "")]
    (files / "harmbench" / "harmbench_prompts.txt").write_text("\n".join(edits))
    (files / "edgy" / "edgy.json").write_text(
        json.dumps([{"text": text, "category": f"c{i % 2}"} for i, text in enumerate(edits)])
    )
    rows = requests(SOURCES)
    for i, j in near_duplicates([row.text for row in rows]):
        assert rows[i].partition == rows[j].partition
        assert rows[i].kind != rows[j].kind


def test_requests_on_the_exploitation_of_minors_are_left_out_with_their_twins(monkeypatch):
    def row(text, kind="harmful", category="a_vs_b", pair=""):
        return Request(text, kind, category, "refusal_pairs", pair)

    gone = [
        row("about x", category="toys_vs_child_grooming", pair="1"),
        row("about toys", "benign", "toys_vs_child_grooming", pair="1"),
        row("Recruit the minors of the story"),
    ]
    stay = [
        row("about y", category="child_safety_vs_recruitment", pair="2"),
        row("abusive songs"),
        row("a child asks"),
        row("sell toys to a child", "benign"),
    ]
    assert prompt_sets._allowed(gone + stay) == stay


def test_the_table_counts_every_row_once(files):
    table = sources()
    assert (table.rows - table.left_out - table.duplicates == table.kept).all()
    assert table.kept.sum() == len(requests(SOURCES)) == table.rows.sum()
    assert set(zip(table.source, table.kind)) == {(r.source, r.kind) for r in requests(SOURCES)}
    assert table.set_index("source").licence["or_bench"] == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: requests(["strongrject"]), "no prompt set 'strongrject', only strongreject"),
        (lambda: requests(["edgy"], "dev"), "no partition 'dev', only train, validation, test"),
    ],
)
def test_unknown_names_are_one_line(call, said):
    with pytest.raises(ParameterError, match=said):
        call()


def test_no_source_is_no_request(files):
    assert requests([]) == ()


# --- near-duplicates -------------------------------------------------------------------------


def brute_force(some: list[str], threshold: float) -> list[tuple[int, int]]:
    found = []
    for j, b in enumerate(some):
        for i, a in enumerate(some[:j]):
            shared, either = shingles(a) & shingles(b), shingles(a) | shingles(b)
            if shared and len(shared) / len(either) >= threshold:
                found.append((i, j))
    return sorted(found)


sentences = st.lists(st.sampled_from(["a", "B", "c,", "d!"]), max_size=7).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(sentences, max_size=12), st.sampled_from([0.3, 0.5, 0.6, 1.0]))
def test_near_duplicates_are_those_of_a_loop_over_all_pairs(some, threshold):
    assert near_duplicates(some, threshold) == brute_force(some, threshold)


def test_case_and_punctuation_do_not_count_and_one_word_of_nine_is_near():
    base = "one two three four five six seven eight nine"
    changed = base.replace("five", "other")
    assert near_duplicates([base, base.upper() + " ?!", changed]) == [(0, 1), (0, 2), (1, 2)]
    assert near_duplicates([base, changed.replace("two", "more")]) == []


# --- the real files --------------------------------------------------------------------------


@pytest.mark.network
def test_the_real_files_hold_what_is_known_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path))
    table = sources(WHEELS).set_index(["source", "kind"])
    assert table.rows.to_dict() == {
        ("strongreject", "harmful"): 313,
        ("refusal_pairs", "harmful"): 150,
        ("refusal_pairs", "benign"): 150,
        ("edgy", "benign"): 150,
        ("do_not_answer", "harmful"): 939,
        ("harmbench", "harmful"): 200,
    }
    assert table.categories["strongreject", "harmful"] == 6
    assert table.categories["do_not_answer", "harmful"] == 5
    assert table.left_out["refusal_pairs", "harmful"] == 9
    rows = requests(WHEELS)
    assert all(row.text and "\n\n" not in row.text for row in rows if row.pair)
    assert all(row.answer for row in rows if row.pair)
    for i, j in near_duplicates([row.text for row in rows]):
        assert rows[i].partition == rows[j].partition
