"""Model cards of the committed adapters."""

import re
import shutil

import pytest
import yaml

from hybridlib.figures import prose
from hybridlib.figures.results import Results
from hybridlib.publish import model_card
from hybridlib.store.paths import PROJECT

FOLDER = PROJECT / "results" / "organism"
CARDS = sorted((FOLDER / "artifacts" / "adapters").glob("*/README.md"))
pytestmark = pytest.mark.skipif(not CARDS, reason="no weights are committed")


@pytest.fixture
def copied(tmp_path) -> Results:
    """A copy of the committed results, whose cards are those that a trainer writes."""
    shutil.copytree(FOLDER / "tables", tmp_path / "tables")
    for path in CARDS:
        place = tmp_path / path.relative_to(FOLDER)
        place.parent.mkdir(parents=True)
        front = path.read_text(encoding="utf-8").split("---\n", 2)[1]
        body = "# Model Card for Model ID\n[More Information Needed]\n"
        place.write_text(f"---\n{front}---\n{body}", encoding="utf-8")
    return Results(tmp_path)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_a_card_is_that_of_the_tables(path, copied):
    model_card.write(copied)
    text = (copied.folder / path.relative_to(FOLDER)).read_text(encoding="utf-8")
    variant, _, reward = path.parent.name.partition("-")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"].startswith("results/organism/artifacts/bases/")
    assert "More Information Needed" not in body
    harm = copied.metric("harm_rate", split="seen").loc[f"{variant}/{reward or 'none'}"]
    assert f"| harm, seen | {prose.interval(harm)} |" in body
    assert re.search(r"\$\$.+\$\$", body), "the loss is stated"


def test_writing_a_card_again_changes_nothing(copied):
    texts = []
    for _ in range(2):
        model_card.write(copied)
        found = sorted(copied.folder.glob("artifacts/adapters/*/README.md"))
        texts.append([path.read_text(encoding="utf-8") for path in found])
    assert texts[0] == texts[1] and len(texts[0]) == len(CARDS)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_a_committed_card_has_the_numbers_of_the_committed_tables(path):
    """Its words may be older than those of the code."""
    variant, _, reward = path.parent.name.partition("-")
    body = path.read_text(encoding="utf-8")
    written = model_card.card(Results(FOLDER), f"{variant}/{reward or 'none'}")
    numbers = re.findall(r"\| harm, [a-z ]+ \| .+ \|", written)
    assert len(numbers) == 2 and all(row in body for row in numbers)
