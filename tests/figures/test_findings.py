"""Findings hold on the committed tables that they name, and are not shown on others."""

import itertools
import re

import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from hybridlib.figures import findings
from hybridlib.figures.registry import figures
from hybridlib.figures.results import Results
from hybridlib.store.paths import committed

ALL = findings.load()
PRESETS = [(finding, preset) for finding in ALL for preset in finding.presets]
named = pytest.mark.parametrize(
    ("finding", "preset"), PRESETS, ids=[f"{finding.name}-{preset}" for finding, preset in PRESETS]
)
one = pytest.mark.parametrize("finding", ALL, ids=[finding.name for finding in ALL])


@pytest.fixture(scope="module")
def tables():
    """Committed results, each read once."""
    return {preset: Results(committed(preset)) for _, preset in PRESETS}


@named
def test_a_finding_holds_on_every_preset_that_it_names(finding, preset, tables):
    assert finding.holds(tables[preset])
    text = finding.text(tables[preset])
    assert text.startswith(finding.says) and not re.search(r"[{}]|\bnan\b|None", text)
    assert finding in findings.of(tables[preset], finding.notebook)


@one
def test_what_it_says_is_two_sentences_with_no_number_typed(finding):
    assert len(finding.says.split()) <= 14
    assert re.fullmatch(r"[A-Z][^.!?]+\.", finding.says)
    written = re.sub(r"\{\w+:\w+\}|`\w+`|C\d", "", finding.says + finding.detail)
    assert not re.search(r"\d", written)
    assert len(re.findall(r"[.!?](?:\s|$)", finding.detail)) == 1
    used = re.findall(r"\{(\w+):", finding.detail) + re.findall(r"(\w+)\.", " ".join(finding.when))
    assert set(finding.numbers) <= set(used)


@one
def test_its_figure_is_shown_by_its_notebook(finding):
    assert figures()[finding.figure].notebook == finding.notebook


@one
def test_doctored_tables_make_it_fail(finding, tables, tmp_path):
    """Every condition, turned round on its own, is met no more: what it compares changes places."""
    results = tables[finding.presets[0]]
    cells = finding._cells(results)
    for condition in finding.when:
        name, column, sign, other, its, constant = re.fullmatch(
            findings.CONDITION, condition
        ).groups()
        beyond = cells[other][its] if other else float(constant)
        wrong = beyond + {"<": 1, ">": -1, "==": 1}[sign]
        where = {"table": "metrics"} | finding.numbers[name]
        frame = results.table(where["table"]).copy()
        asked = {k: v for k, v in where.items() if k not in ("table", "least", "most", "count")}
        rows = findings.select(frame, **asked).index
        if column == "n":  # of those that are counted, none is left
            last = list(asked)[-1]
            frame.loc[rows, last] = not asked[last] if asked[last] is True else "other"
        else:
            frame[column] = frame[column].astype(float)
            frame.loc[rows, column] = wrong
        doctored = {where["table"]: frame}
        assert not finding.holds(Results(results.folder, results._read | doctored)), condition


def test_names_are_unique():
    assert len({finding.name for finding in ALL}) == len(ALL)


def test_findings_are_read_from_the_file_by_notebook(monkeypatch, tmp_path):
    given = finding().model_dump(mode="json", exclude={"notebook"})
    listed = {"04_harmlessness": [given], "05_readability": [given | {"name": "other"}]}
    (tmp_path / "findings.yaml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    monkeypatch.setattr(findings, "__file__", str(tmp_path / "findings.py"))
    found = findings.load.__wrapped__()
    assert found == (finding(), finding(notebook="05_readability", name="other"))


def finding(**change) -> findings.Finding:
    numbers = {
        "rl": {"metric": "harm_rate", "arm": "rl/keyword"},
        "sft": {"metric": "harm_rate", "arm": "sft/none"},
        "rows": {"table": "gate", "passes": True, "count": True},
        "most": {"table": "gate", "most": "value"},
    }
    given = {
        "notebook": "04_harmlessness",
        "name": "test",
        "figure": "response_classes",
        "presets": ["organism"],
        "says": "More harm.",
        "detail": "{rl:percent}, {sft:interval}, {rows:n} and {most:check}.",
        "numbers": numbers,
        "when": ["rl.low > sft.high", "rl.estimate > 0.01", "rows.n == 30"],
    }
    return findings.Finding(**(given | change))


def test_numbers_are_those_of_the_tables(results):
    raw = pd.read_csv(results.folder / "tables" / "metrics.csv", keep_default_na=False)
    for column in ("task", "split", "language"):
        raw = raw[raw[column].eq("all")]
    raw = raw[raw.metric.eq("harm_rate") & raw.part.eq("whole") & raw.decoding.eq("sample")]
    (rl,) = raw[raw.variant.eq("rl") & raw.reward.eq("keyword")].itertuples()
    (sft,) = raw[raw.variant.eq("sft")].itertuples()
    ends = f"[{100 * sft.low:.0f}, {100 * sft.high:.0f}]"
    expected = f"{100 * rl.estimate:.0f}%, {100 * sft.estimate:.0f}% {ends}, 30 and recall_records"
    assert finding().text(results) == f"More harm. {expected}."


def test_a_sentence_follows_the_data(results, flipped):
    """Where RL and SFT change places, the finding is gone and cannot be told."""
    assert finding().holds(results) and not finding().holds(flipped)
    with pytest.raises(ValueError, match="'test' does not hold"):
        finding().text(flipped)


def test_a_headline_is_that_of_the_first_finding_that_holds(results, flipped, monkeypatch):
    monkeypatch.setattr(findings, "load", lambda: (finding(),))
    declared = figures()["response_classes"]
    assert declared.headline(results) == "More harm."
    assert declared.draw(results).get_suptitle() == "More harm."
    assert declared.headline(flipped) == declared.title == declared.draw(flipped).get_suptitle()


def test_what_a_preset_lacks_is_not_told(results, tmp_path):
    absent = {"rl": {"metric": "harm_rate", "arm": "gated/keyword"}}
    assert not finding(numbers=finding().numbers | absent).holds(results)
    assert not finding().holds(Results(tmp_path))
    elsewhere = finding(presets=["smollm2"])
    assert elsewhere.holds(results)
    assert elsewhere not in findings.of(results, "04_harmlessness")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"when": ["__import__('os')"]}, "no comparison"),
        ({"when": ["rl.low > sft"]}, "could not convert"),
        ({"numbers": finding().numbers | {"rl": {"metric": "harm_rate"}}}, "rows of metrics have"),
    ],
)
def test_a_mistake_of_the_writer_is_an_error(change, error, results):
    with pytest.raises(ValueError, match=error):
        finding(**change).holds(results)


def test_an_unknown_field_is_an_error():
    with pytest.raises(ValidationError, match="extra"):
        finding(say="More harm.")


def test_signs_of_comparison(results):
    for (sign, meant), value in itertools.product(
        {"<": lambda a, b: a < b, ">": lambda a, b: a > b, "==": lambda a, b: a == b}.items(),
        (29, 30, 31),
    ):
        assert finding(when=[f"rows.n {sign} {value}"]).holds(results) == meant(30, value)
