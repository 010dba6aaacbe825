"""The README's account: its numbers are those of the tables; the rest of the page stays."""

import re

import pytest
from test_plots import write

from hybridlib import findings, prose
from hybridlib.style import label_of


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("results"))


def test_a_row_of_the_table_holds_the_rates_of_its_arm(results):
    text = findings.findings(results)
    for arm in results.arms():
        (line,) = [row for row in text.splitlines() if row.startswith(f"| `{label_of(arm)}` |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
        for cell, (metric, where) in zip(cells, findings.COLUMNS.values(), strict=True):
            row = results.value(metric, arm, **where)
            interval = f"[{100 * row.low:.0f}, {100 * row.high:.0f}]"
            assert cell == f"{prose.percent(row.estimate)} {interval}"


def test_a_verdict_is_told_by_reward_where_rewards_disagree(results):
    text, claims = findings.findings(results), results.table("claims")
    for claim, rows in claims.groupby("claim"):
        (line,) = [row for row in text.splitlines() if row.startswith(f"| {claim} |")]
        verdict = dict(zip(rows.reward, rows.verdict))
        assert f"**{verdict.pop('all')}**" in line
        names = {"rule": "under the rule", "model": "under the reward model"}
        told = {r for r, name in names.items() if f"{verdict.get(r)} {name}" in line}
        assert told == (set(verdict) if len(set(verdict.values())) > 1 else set())


def test_the_page_around_it_is_left_alone(results, tmp_path):
    page = tmp_path / "README.md"
    before = f"# Title\n\n{findings.BEGIN}\nold\n{findings.END}\n\nafter\n"
    page.write_text(before, encoding="utf-8")
    for _ in range(2):
        findings.write(page, results)
        found = page.read_text(encoding="utf-8")
        assert re.fullmatch(
            rf"# Title\n\n{findings.BEGIN}\n.+\n{findings.END}\n\nafter\n", found, re.DOTALL
        )
        assert "\nold\n" not in found and found.count(findings.BEGIN) == 1
