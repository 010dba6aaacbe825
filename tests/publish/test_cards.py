"""Model cards of the committed adapters."""

import re
import shutil

import pytest
import yaml

from hybridlib.figures import prose
from hybridlib.figures.results import Results
from hybridlib.publish import cards
from hybridlib.store.paths import PROJECT

FOLDER = PROJECT / "results" / "organism"
CARDS = sorted((FOLDER / "artifacts" / "adapters").glob("*/README.md"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_a_committed_card_is_that_of_the_committed_tables(path):
    results = Results(FOLDER)
    variant, _, reward = path.parent.name.partition("-")
    arm = f"{variant}/{reward or 'none'}"
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "results/organism/artifacts/base"
    assert body.strip() == cards.card(results, arm).strip()
    assert "More Information Needed" not in body
    harm = results.value("harm_rate", arm, split="seen")
    assert f"| harm, seen | {prose.interval(harm)} |" in body
    assert re.search(r"\$\$.+\$\$", body), "the loss is stated"


def test_writing_a_card_again_changes_nothing_but_the_card(tmp_path):
    place = tmp_path / "artifacts" / "adapters" / "sft"
    shutil.copytree(CARDS[0].parent.with_name("sft"), place)
    shutil.copytree(FOLDER / "tables", tmp_path / "tables")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    (place / "README.md").write_text(
        before["README.md"].decode().partition("\n# ")[0] + "\n# Model Card for Model ID\n",
        encoding="utf-8",
    )
    cards.write(Results(tmp_path))
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
