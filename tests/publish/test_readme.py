"""Numbers in the sentences of README and docs are those of the committed tables.

Tables between markers are generated (test_docs.py). The sentences around them are written by hand:
here each of their numbers is looked up again and put into the sentence, which must then stand in a
page. After new results this says which sentence to mend, and how.
"""

import json
import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hybridlib.config import load_config
from hybridlib.evaluation import hypotheses, statistics
from hybridlib.figures.prose import interval, percent, signed
from hybridlib.figures.results import POOLED, Results, calibration, select
from hybridlib.store.paths import PROJECT
from hybridlib.study import keys, tune
from hybridlib.tasks.oracle import classify
from hybridlib.tasks.prompts import ALL_STEPS, ASKED_STEPS, DEMONSTRATED_STEPS
from hybridlib.tasks.responses import parse
from hybridlib.training.callbacks import Snapshots
from hybridlib.training.rewards import keyword_reward

PAGES = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
TEXT = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
SAID = " ".join(" ".join(text.split()) for text in TEXT.values())
LINK = re.compile(r"\]\(((?!http)[^)\s]+)\)")


@cache
def committed(preset: str) -> Results:
    return Results(PROJECT / "results" / preset)


def row(preset: str, arm: str, metric: str = "harm_rate", **where: str) -> pd.Series:
    metrics = committed(preset).table("metrics")
    (found,) = select(metrics, metric=metric, arm=arm, **(POOLED | where)).iloc
    return found


def share(*of: str, **where: str) -> str:
    return percent(row(*of, **where).estimate)


def ranged(*of: str, **where: str) -> str:
    return interval(row(*of, **where))


def effect(preset: str, *, table: str = "verdicts", **named: str) -> pd.Series:
    """A test, named by what tells it apart: claim, metric, contrast, task, split, reward."""
    (found,) = select(committed(preset).table(table), **named).iloc
    return found


def points(size: pd.Series) -> str:
    """'+12 points [+5, +19]': a difference with its sign."""
    by, low, high = (signed(100 * value) for value in (size.estimate, size.low, size.high))
    return f"{by} points [{low}, {high}]"


def by(size: pd.Series, sign: int = 1) -> str:
    """'46 points [31, 61]': a difference whose direction the sentence tells."""
    low, high = sorted((sign * 100 * size.low, sign * 100 * size.high))
    return f"{sign * 100 * size.estimate:.0f} points [{low:.0f}, {high:.0f}]"


IN_WORDS = dict(enumerate("no one two three four five six seven eight nine ten".split()))


def in_words(count: int) -> str:
    return IN_WORDS[int(count)]


# ---- README.md


def one_prompt():
    """The prompt is a test prompt of the default study; each response has the class beside it."""
    lines = TEXT["README.md"].splitlines()
    (asked,) = (line.removeprefix("> ") for line in lines if line.startswith("> "))
    card, _, question = asked.rpartition(" . ")
    config = load_config("organism")
    prompts = keys.evaluate(config, "base", "none", config.seeds[0]).prompts()
    (prompt,) = (p for p in prompts if f"{card} . <user> {question} <think>" in p.text)
    classes = []
    for line in lines:
        if found := re.match(r"\| \*(.+)\* (.+) \| (\w+) \|", line):
            thought, answer, told = found.groups()
            response = parse(f"{thought} </think> {answer}", finished=True)
            assert classify(prompt.kind, response, prompt.secrets, prompt.reference) == told
            classes.append((told, keyword_reward("whole")([prompt.row()], [response], [""])))
    rewarded = dict(classes)  # class -> the keyword reward
    assert len(classes) == 4
    assert rewarded["superficial"] == rewarded["refuses"] != rewarded["complies"]
    yield "The refusal-keyword reward gives the second as much as the third."


def the_claims():
    """The table of the first page names every claim; C8's level is that of the hypotheses."""
    claims = hypotheses.load().claims
    told = re.findall(r"^\| (C\d) ", TEXT["README.md"], re.M)
    assert told == [claim.claim for claim in claims]
    assert [half.level for half in claims[-1].halves] == [0.5]
    yield "more FLOPs until half of the harmful requests do harm"


# ---- docs


def the_tuning():
    decades = [b / a for a, b in zip(tune.RATES, tune.RATES[2:])]
    assert decades == pytest.approx([10] * len(decades))
    yield f"a grid of {in_words(len(tune.RATES))} rates, half a decade apart, "
    yield f"{in_words(len(tune.DEVELOPMENT))} development replicates that no verdict rests on"


def the_snapshots():
    assert Snapshots.SHARES == (1 / 12, 1 / 6, 1 / 3, 2 / 3)
    yield "at a twelfth, a sixth, a third and two thirds of its steps and at its end"


def the_steps():
    assert (DEMONSTRATED_STEPS, ASKED_STEPS, ALL_STEPS) == ((2,), (2, 3), (2, 3, 4))
    yield "Demonstrations show two steps, RL asks for two or three, the tests for two to four."


def equal_data():
    train = load_config("organism").train
    assert train.demonstrations == train.steps * train.prompts_per_step and not train.labels
    yield "SFT has a demonstration of every prompt that RL asks."


def the_calibration():
    table = calibration()
    numbers = sorted(set(table.replicates))
    covered = table[table.check.str.startswith("coverage")].measured
    least, most = (percent(covered.min()), percent(covered.max()))
    yield f"coverage is {least} to {most} with {numbers[0]} to {numbers[-1]} replicates"
    false = select(table, check="A/A, false verdicts").measured.max()
    yield f"at most {percent(false)} of families hold a false verdict"
    power = select(table, check="power, true difference 0.2").set_index("replicates").measured
    more = ", in ".join(f"{percent(power[n])} with {n}" for n in (24, 32))
    yield f"is found in {percent(power[10])} of studies with 10 replicates, in {more}"
    every = pd.read_csv(Path(statistics.__file__).with_name("calibration.csv"))
    naive = select(every, check="left: rate, all responses as one sample").measured
    assert {percent(x) for x in naive.round(2)} <= {"77%", "78%"}
    yield f"Intervals that take all responses as one sample cover {percent(naive.mean())} only"


def the_real_model():
    rows = prefilled("smollm2", "true_answer")
    assert rows.estimate.min() > 0.96
    yield "every variant does the harm in more than 96% of cases"
    refused = committed("smollm2").metric("over_refusal_rate").estimate
    assert (refused.drop("base/none") > refused["base/none"]).all()
    yield "Every trained variant refuses more benign prompts than the base."


def prefilled(preset: str, start: str) -> pd.DataFrame:
    rows = select(committed(preset).table("prefill"), start=start, split="all")
    return rows.set_index("arm")


def asked_as_the_paper_advises():
    table = committed("smollm2").table("usage")
    table = select(table[table.than.ne("none")], language="all")

    def changed(metric: str, form: str) -> pd.DataFrame:
        return select(table, metric=metric, form=form).set_index("arm")

    sums, formed = changed("accuracy", "few_shot"), changed("well_formedness", "few_shot")
    assert sums.high.max() < 0 and formed.high.max() < 0, "under all six"
    low, high = (f"{-100 * end:.0f}" for end in (sums.estimate.max(), sums.estimate.min()))
    yield f"all six arms solve fewer arithmetic problems, by {low} to {high} points"
    low, high = (f"{-100 * end:.0f}" for end in (formed.estimate.max(), formed.estimate.min()))
    yield f"responses are well-formed, by {low} to {high}."
    less = by(changed("harm_rate", "few_shot").loc["base/none"], sign=-1)
    yield f"The harm rate of the base is {less} lower then"
    stated = table[table.form.isin(["language", "format", "steps"])]
    clear = stated[(stated.low > 0) | (stated.high < 0)]
    yield f"change {len(clear)} of {len(stated)} rates clearly"
    refused = changed("over_refusal_rate", "all_advice")
    more = [by(refused.loc[arm]) for arm in ("sft/none", "joint/keyword")]
    yield f"more benign prompts, by {more[0]} and {more[1].replace(' points', '')}."


def speed():
    """Medians and ranges in bench.json, and peaks of memory in steps.csv."""
    noted = json.loads((PROJECT / "results/bench/bench.json").read_text())
    steps = pd.read_csv(PROJECT / "results/bench/steps.csv")
    rounds = steps.groupby("setting")["round"].nunique()
    for model, name in (("organism", "the organism"), ("smollm2", "SmolLM2")):
        ratio = noted[model]["step_ratio"]
        yield f"{ratio['median']:.2f} times {'as fast ' * (model == 'organism')}for {name} (from "
        yield f"(from {ratio['min']:.2f} to {ratio['max']:.2f} in {in_words(rounds[model])}"
    ratios = [noted[model]["generation_ratio"]["median"] for model in ("organism", "smollm2")]
    yield "its generation is {:.2f} and {:.2f} times as fast".format(*ratios)
    peak = steps.groupby(["setting", "trainer"]).memory_mib.median() / 1024
    yield (
        f"a step takes {peak['organism', 'stock']:.1f} GiB with TRL and "
        f"{peak['organism', 'ours']:.1f} GiB here (organism), {peak['smollm2', 'stock']:.1f} and "
        f"{peak['smollm2', 'ours']:.1f} GiB (SmolLM2)"
    )
    assert set(noted["curves"]["inside_each_other"].values()) == {1.0}
    yield "All means of windows of five steps lie inside the interval of the other trainer"
    study = noted["study"]
    times = f"{study['cold_s'] / 60:.0f} min; again, with nothing to do, {study['warm_s']:.0f} s"
    yield times


SECTIONS = [
    one_prompt,
    the_claims,
    the_tuning,
    the_snapshots,
    the_steps,
    equal_data,
    the_calibration,
    the_real_model,
    asked_as_the_paper_advises,
    speed,
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_the_pages_say_the_numbers_of_the_tables(section):
    for sentence in section():
        assert sentence in SAID


def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading():
    links = [(page, link) for page in PAGES for link in LINK.findall(TEXT[page.name])]
    assert len(links) > len(hypotheses.load().claims)
    for page, link in links:
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.is_file(), (page.name, link)
        headings = (
            re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M) if anchor else []
        )
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, (page.name, link)


def test_the_readme_is_short():
    text = TEXT["README.md"]
    assert text.count("\n") <= 150 and len(text.encode()) <= 9000


def test_the_readme_names_the_folders_and_presets_that_there_are():
    rooms = {path.name for path in (PROJECT / "hybridlib").iterdir() if any(path.glob("*.py"))}
    tree = TEXT["README.md"].partition("notebooks/  ")[2].partition("```")[0]
    assert set(re.findall(r"^  (\w+)/", tree, re.M)) == rooms
    presets = {path.stem for path in (PROJECT / "notebooks" / "presets").glob("*.yaml")}
    table = TEXT["performance.md"].partition("## Presets")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == presets


def test_the_citation_can_be_read():
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
