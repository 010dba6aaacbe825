"""The README's account: its numbers are those of the tables; the rest of the page stays."""

import re

import pytest
from test_plots import write

from hybridlib.evaluation import hypotheses
from hybridlib.figures import prose
from hybridlib.figures.style import label_of
from hybridlib.publish import findings, markdown


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


def test_a_claim_names_the_figure_that_its_verdict_rests_on(results):
    text = findings.findings(results)
    for claim in hypotheses.load().claims:
        row = next(line for line in text.splitlines() if line.startswith(f"| {claim.claim} |"))
        name = claim.figure.partition("/")[2]
        assert row.endswith(f"[{name}](results/{results.folder.name}/figures/{name}.png) |")


def test_the_account_of_the_real_model_names_its_judge_and_what_lies_beside_it(results):
    text, judges = findings.of_real_model(results), results.table("judges")
    for arm in results.arms():
        (line,) = [row for row in text.splitlines() if row.startswith(f"| `{label_of(arm)}` |")]
        last = line.strip("|").split("|")[-1].strip()
        assert last == prose.interval(results.value("request_refusal_rate", arm))
    for row in judges.itertuples():
        assert f"`{row.judge}` has accuracy {prose.percent(row.accuracy)} [" in text
    assert f"Against {judges.n[0]} responses that humans labelled" in text
    assert "77 of 80 (sentence)" in text
    same = results.table("beside").same_side.iloc[::2]
    assert f"{same.sum()} of {len(same)} effects" in text


def test_what_is_no_share_is_told_as_a_number_and_not_in_percent(results):
    spanish = {"language": "es"}
    told = prose.means(results, "switches_per_100_words", **spanish)
    row = results.value("switches_per_100_words", "sft/none", **spanish)
    assert f"sft {row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}] and two_stage (model)" in told


def test_a_preset_without_an_account_leaves_the_page(results, tmp_path):
    findings.write(tmp_path / "none.md", "smoke", results)
    assert not list(tmp_path.iterdir())


def test_the_other_side_has_the_counter_claims_and_the_gap_of_sft(results):
    text = findings.findings(results)
    _, _, told = text.partition("what others say")
    asked = results.table("exploratory")
    counter = asked[asked.asks.str.startswith("the counter-claim")]
    assert set(counter.claim) == {"C1", "C5"}
    for row in counter.itertuples():
        assert f"| {row.claim} | {row.asks.partition(', ')[2]} | {prose.effect(row)} |" in told
    gap = results.value("generalization_gap", "sft/none", split="unseen_both")
    assert "| C6 | the safety gains of SFT generalize poorly | generalization gap" in told
    assert f"sft {prose.points(gap)}" in told


def test_the_range_of_an_effect_is_that_of_the_changed_points_with_a_verdict(results):
    text = findings.findings(results).partition("How far it reaches")[2]
    table = results.table("sensitivity")
    words = ("supported", "refuted", "inconclusive")
    table = table[~table.default.astype(bool) & table.verdict.isin(words)]
    rows = [line for line in text.splitlines() if re.match(r"\| C\d \|", line)]
    assert len(rows) == len(results.table("verdicts"))
    for line, here in zip(rows, results.table("verdicts").itertuples()):
        there = table[
            table.metric.eq(here.metric) & table.contrast.eq(here.contrast)
            & table.reward.eq(here.reward) & table.claim.eq(here.claim)
        ]  # fmt: skip
        ends = re.findall(r"[-+]?\d+\.\d+", line.split("|")[4])
        assert [float(end) for end in ends] == pytest.approx(
            [there.estimate.min(), there.estimate.max()], abs=0.0051
        )
        counted = {word: int(n) for word, n in re.findall(r"(\w+) at (\d+)", line)}
        assert counted == there.verdict.value_counts().to_dict()
        for row in there.itertuples():
            named = re.search(rf"{row.verdict} at \d+ \(([^)]*)\)", line)
            assert bool(named) == (row.verdict != here.verdict)
            if named:
                parameter = row.parameter.replace("_", " ")
                (told,) = [p for p in named[1].split("; ") if p.startswith(parameter)]
                assert str(row.value) in told.removeprefix(parameter).strip().split(", ")


def test_how_deep_it_goes_is_told_of_the_main_arms(results):
    text, rows = findings.findings(results), results.table("prefill")
    row = rows[rows.arm.eq("sft/none") & rows.start.eq("false_answer") & rows.split.eq("all")]
    assert f"sft {prose.interval(row.iloc[0])}" in text.partition("How deep it goes")[2]


def test_a_verdict_is_told_by_reward_where_rewards_disagree(results):
    text, claims = findings.findings(results), results.table("claims")
    text, _, _ = text.partition("The other side")
    for claim, rows in claims.groupby("claim"):
        (line,) = [row for row in text.splitlines() if row.startswith(f"| {claim} |")]
        verdict = dict(zip(rows.reward, rows.verdict))
        assert f"**{verdict.pop('all')}**" in line
        names = {"rule": "under the rule", "model": "under the reward model"}
        told = {r for r, name in names.items() if f"{verdict.get(r)} {name}" in line}
        assert told == (set(verdict) if len(set(verdict.values())) > 1 else set())


def test_the_page_around_it_is_left_alone(results, tmp_path):
    page = tmp_path / "README.md"
    begin, end = "<!-- findings -->", "<!-- /findings -->"
    before = f"# Title\n\n{begin}\nold\n{end}\n\nafter\n"
    page.write_text(before, encoding="utf-8")
    for _ in range(2):
        findings.write(page, "confirmatory", results)
        found = page.read_text(encoding="utf-8")
        assert re.fullmatch(rf"# Title\n\n{begin}\n.+\n{end}\n\nafter\n", found, re.DOTALL)
        assert "\nold\n" not in found and found.count(begin) == 1


def test_a_page_without_the_block_is_refused(results, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# Title\n<!-- findings -->\nnever closed\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md has no block <!-- findings -->"):
        findings.write(page, "confirmatory", results)
    assert "never closed" in page.read_text(encoding="utf-8")


def test_what_a_preset_lacks_leaves_no_empty_line_behind(tmp_path):
    runs = (("base", "none"), ("rl", "rule"), ("sft", "none"))
    text = findings.findings(write(tmp_path / "few", seeds=2, runs=runs))
    bullets = [line for line in text.splitlines() if line.startswith("-")]
    assert len(bullets) == 2, "nothing is compared with rl (model), which was not run"
    assert all(len(line) > 40 for line in bullets)
    alone = findings.findings(write(tmp_path / "alone", seeds=2, runs=runs[:1]))
    assert "in pairs" not in alone and not re.search(r"(?m)^-\s*$", alone)


def test_a_bar_does_not_end_a_cell():
    text = markdown.table(["a", "b"], [["x|y", 1]])
    assert text.splitlines() == ["| a | b |", "| --- | --- |", r"| x\|y | 1 |"]


def test_a_form_of_asking_counts_what_it_betters_and_worsens(results):
    table, text = results.table("usage"), prose.advised(results)
    higher_is_better = ("accuracy", "well_formedness")
    for form in table.form.unique()[1:]:
        better = worse = 0
        for row in table[table.form.eq(form) & table.than.ne("none")].itertuples():
            if row.language == "all" and (row.low > 0 or row.high < 0):
                good = (row.low > 0) == (row.metric in higher_is_better)
                better, worse = better + good, worse + (not good)
        assert f"{prose.FORMS[form]} {better} better, {worse} worse" in text
