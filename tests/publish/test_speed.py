"""The account of speed: the README's is written from results/bench, and its numbers are right."""

import csv
import statistics
from itertools import pairwise

from bench.bench import FOLDER
from hybridlib.publish import speed
from hybridlib.store.paths import PROJECT


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_readme_says_what_was_measured(tmp_path):
    readme = PROJECT / "README.md"
    written = tmp_path / "README.md"
    written.write_text(readme.read_text(encoding="utf-8"), encoding="utf-8")
    speed.write(written)
    assert written.read_text(encoding="utf-8") == readme.read_text(encoding="utf-8")


def test_doublings_are_ratios_of_neighbouring_rows():
    for name in ("steps", "prompts", "seeds"):
        seconds = [float(row["seconds"]) for row in rows("scaling") if row["doubled"] == name]
        first, second = (f"{b / a:.2f}" for a, b in pairwise(seconds))
        assert f"{name} {first} and {second} (" in speed.speed()


def test_memory_is_the_median_of_the_rounds():
    for name in ("organism", "smollm2"):
        peaks = {
            trainer: statistics.median(
                float(row["memory_mib"]) / 1024
                for row in rows("steps")
                if (row["setting"], row["trainer"]) == (name, trainer)
            )
            for trainer in ("stock", "ours")
        }
        assert f"{peaks['stock']:.1f} and {peaks['ours']:.1f} GiB ({name})" in speed.speed()


def test_everything_that_was_tried_is_told_once():
    paid, did_not = speed.speed().split("What did not pay")
    for row in rows("tried"):
        line = f"| {row['what']} | {row['model']} | {row['measured']} | {row['before_s']} |"
        there, elsewhere = (paid, did_not) if row["kept"] == "True" else (did_not, paid)
        assert there.count(line) == 1 and line not in elsewhere
