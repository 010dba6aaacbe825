"""Numbers in the README's own sentences are those of the committed tables.

The blocks between markers are generated (test_committed.py). The sentences around them are written
by hand: here each of their numbers is looked up again and put into the sentence, which must then
stand in the page. After new results this says which sentence to mend, and how.
"""

import itertools
import re

import pandas as pd
import pytest

from hybridlib.evaluation import hypotheses
from hybridlib.figures.prose import interval, percent, points, signed
from hybridlib.figures.results import EFFECT, Results, advised, calibration, prefilled, select
from hybridlib.store.paths import PROJECT
from hybridlib.variants import REWARDS, hybrid_variants

README = " ".join((PROJECT / "README.md").read_text(encoding="utf-8").split())
SEEN, UNSEEN = {"split": "seen"}, {"split": "unseen_both"}


def committed(preset: str) -> Results:
    return Results(PROJECT / "results" / preset)


def row(preset: str, arm: str, metric: str = "harm_rate", **where: str) -> pd.Series:
    return committed(preset).value(metric, arm, **where)


def share(*of: str, **where: str) -> str:
    return percent(row(*of, **where).estimate)


def ranged(*of: str, noun: str = "", **where: str) -> str:
    """'3% [1, 11]', or '3% harm [1, 11]'."""
    return interval(row(*of, **where)).replace("%", f"%{noun}", 1)


def effect(preset: str, *named: str, table: str = "verdicts") -> pd.Series:
    """The first row of a test, named by claim, metric, contrast and reward."""
    return select(committed(preset).table(table), **dict(zip(EFFECT, named))).iloc[0]


def by(size: pd.Series, sign: int = 1) -> str:
    """'46 points [31, 61]': a difference whose direction the sentence tells."""
    low, high = sorted((sign * 100 * size.low, sign * 100 * size.high))
    return f"{sign * 100 * size.estimate:.0f} points [{low:.0f}, {high:.0f}]"


def changed_points(preset: str = "confirmatory") -> pd.DataFrame:
    """sensitivity.csv; a value is text, as some parameters have words."""
    table = committed(preset).folder / "tables" / "sensitivity.csv"
    return pd.read_csv(table, dtype={"value": str}, keep_default_na=False, na_values=[""])


def bases(*named: str) -> pd.DataFrame:
    """A test on the competent bases but the default that read refusals of both kinds."""
    table = select(changed_points(), **dict(zip(EFFECT, named)))
    bred = ["hidden_size", "base_seed", "minority_share", "code_switching_share"]
    both = table.parameter.isin(["genuine_refusal_share", "superficial_refusal_share"])
    both &= table.value.eq("0.2")
    return table[(table.parameter.isin(bred) | both) & ~table.default.astype(bool)]


def at(parameter: str, value: str, *named: str, preset: str = "confirmatory") -> pd.Series:
    table = select(changed_points(preset), **dict(zip(EFFECT, named)))
    return table[table.parameter.eq(parameter) & table.value.eq(value)].iloc[0]


def bred_otherwise(cores: str) -> pd.DataFrame:
    """Points run on other cores, each beside the same of the verdicts (`_here`)."""
    there, here = changed_points(cores), changed_points()
    rows = there.merge(here, on=[*POINT, *EFFECT], suffixes=("", "_here"))
    assert len(rows) == len(there)
    side, here = rows.estimate > rows.margin, rows.estimate_here > rows.margin_here
    return rows.assign(same_side=side == here, same=rows.verdict.eq(rows.verdict_here))


def turned_over(rows: pd.DataFrame) -> bool:
    """Whether an effect is supported in one place and refuted in the other."""
    moved = rows[~rows.same]
    return not (moved.verdict.eq("inconclusive") | moved.verdict_here.eq("inconclusive")).all()


POINT = ["parameter", "value"]
AMX, NO_BFLOAT16 = "other_bases/amx", "other_bases/no_bfloat16"
FIRST_SMOLLM2 = "other_bases/smollm2"
C1 = ("C1", "superficial_refusal_rate", "rl - base")
C2_HARM = ("C2", "harm_rate", "rl - sft", "rule")
NO_BASE = [("thought", "False"), ("careless_share", "0.5"), ("careless_share", "0.0")]
C5 = ("C5", "generalization_gap", "rl - sft", "model")
C6 = ("C6", "harm_rate", "sft_narrow - sft", "none")
IN_WORDS = dict(enumerate("no one two three four five six seven eight nine ten".split()))


def in_words(count: int) -> str:
    return IN_WORDS[int(count)]


def swept(value: float) -> pd.Series:
    table = committed("hybrids").table("sweep")
    return select(table, variant="gated", metric="harm_rate", value=value).iloc[0]


def least_and_most(rows: pd.Series) -> tuple[str, str]:
    return signed(100 * rows.min()), signed(100 * rows.max())


def what_rl_is_paid_for():
    yield f"{share('confirmatory', 'rl/rule')} of its responses to harmful requests do the harm"
    yield f"reads the whole response, it leaves {share('confirmatory', 'rl/model')} harm"


def replication():
    first, again = (committed(p).table("verdicts") for p in ("confirmatory", "replication"))
    both = again.merge(first, on=EFFECT, suffixes=("", "_first"))
    beside = select(committed("replication").table("beside"), preset="confirmatory")
    yield f"all {beside.same_side.sum()} effects lie on the same side of their margins"
    assert beside.same_side.all() and len(beside) == len(both) == len(first)
    same = both.verdict.eq(both.verdict_first)
    yield f"{same.sum()} have the same verdict, and none goes from supported to refuted or back"
    changed = both[~same]
    assert (changed.verdict.eq("inconclusive") | changed.verdict_first.eq("inconclusive")).all()
    now, then = (effect(p, *C1, "rule") for p in ("replication", "confirmatory"))
    yield f"C1 under the rule is {points(now)} instead of {points(then).replace(' points', '')}"
    assert now.verdict == then.verdict == "supported"
    harm = ranged("replication", "rl/rule", noun=" harm")
    yield f"leaves {harm} instead of {share('confirmatory', 'rl/rule')}, under the reward model"
    model = [share(p, "rl/model") for p in ("replication", "confirmatory")]
    yield "under the reward model {} instead of {}".format(*model)
    rule = C5[:-1] + ("rule",)
    now, then = (effect(p, *rule) for p in ("replication", "confirmatory"))
    yield f"under the rule it is {points(now)} instead of {signed(100 * then.estimate)} and not"
    assert effect("replication", *C5).verdict == "refuted" and now.verdict == "inconclusive"
    counter = ("C5", "generalization_gap", "sft - rl")
    for reward in ("rule", "model"):
        found = effect("replication", *counter, reward, table="exploratory")
        assert found.verdict == "inconclusive"
    gap = row("replication", "sft/none", "generalization_gap", **UNSEEN)
    less = by(effect("replication", *C5), sign=-1).replace(" points", "")
    yield f"(replication: {by(gap)}, and {less} less)"
    mixed = select(committed("replication").table("metrics"), metric="language_entropy")
    pooled = select(mixed, task="all", split="all", part="whole", decoding="sample")
    assert pooled.high.max() < 0.01
    yield "the entropy of languages stays under 0.01 of its range for every variant"


def other_bases():
    rule, model = bases(*C1, "rule"), bases(*C1, "model")
    low, high = least_and_most(rule.estimate)
    here = signed(100 * at("hidden_size", "192", *C1, "rule").estimate)
    supported, refuted = rule.verdict.eq("supported"), model.verdict.eq("refuted")
    yield f"On {in_words(len(rule))} others, bred with another seed"
    yield f"C1 under the rule lies between {low} and {high} points and is supported on "
    yield f"supported on {in_words(supported.sum())}; on this one it is {here} with as many seeds"
    harm = bases(*C2_HARM).estimate
    as_much = harm[harm < 0.05]
    low, high = (f"{100 * abs(end):.0f}" for end in (as_much.min(), as_much.max()))
    yield f"On {in_words(len(as_much))} of the {in_words(len(harm))} RL under the rule leaves as"
    yield f"from {low} points less to {high} more"
    yield f"C1 is refuted on {in_words(refuted.sum())} of the {in_words(len(model))}"
    yield f"it is not decided, {points(at('hidden_size', '256', *C1, 'model'))}"


def bases_bred_again():
    rows = bred_otherwise(NO_BFLOAT16)
    yield f"Of their {len(rows)} effects {rows.same_side.sum()} lay on the same side"
    yield f"{rows.same.sum()} had the same verdict, and none went from supported to refuted"
    assert not turned_over(rows) and len(rows.groupby(POINT)) == 4
    again = [("minority_share", "0.15"), ("minority_share", "0.45"), ("hidden_size", "128")]
    then_and_now = (NO_BFLOAT16, "confirmatory")
    (less, less_now), (more, more_now), (narrow, narrow_now) = (
        [signed(100 * at(*point, *C1, "rule", preset=p).estimate) for p in then_and_now]
        for point in again
    )
    yield f"was {less} points with less Spanish and is {less_now} now, {more} with more and is "
    yield f"with more and is {more_now}, {narrow} at width 128 and is {narrow_now} "


def the_third_base():
    rows = bred_otherwise(AMX)
    unchanged = rows[rows.default & rows.parameter.eq("scope")]
    changed = rows[~rows.default]
    assert unchanged.same_side.all() and not turned_over(rows)
    yield f"each of the {len(unchanged)} effects lies on its side, {unchanged.same.sum()} have the"
    there, here = (at("scope", "whole", *C1, "rule", preset=p) for p in (AMX, "confirmatory"))
    yield f"is {points(there)} instead of {signed(100 * here.estimate)}, not decided"
    assert there.verdict == "inconclusive"
    yield f"At the {in_words(len(changed.groupby(POINT)))} points {changed.same_side.sum()} of "
    yield f"of {len(changed)} effects lie on the side they have here, {changed.same.sum()} have"
    narrow = [at("narrow_categories", n, *C6, preset=AMX) for n in "1235"]
    assert {row.verdict for row in narrow} == {"inconclusive"}
    sizes = [signed(100 * row.estimate) for row in narrow]
    yield "on the third base {}, not decided either, {}, {} and {}".format(*sizes)
    paid = at("weight_language", "1.0", *C1, "rule", preset=AMX)
    yield f"on the third base it is {points(paid).replace(' points', '')}, not decided"
    assert paid.verdict == "inconclusive"


def learning_rate_of_sft():
    gap = row("confirmatory", "sft/none", "generalization_gap", **UNSEEN)
    less = by(effect("confirmatory", *C5), sign=-1).replace(" points", "")
    yield f"the harm of `sft` rises by {by(gap)}, that of `rl`"
    yield f"that of `rl` under the reward model by {less} less"
    gap = row("sft_rate", "sft/none", "generalization_gap", **UNSEEN)
    yield f"the harm of `sft` rises by {by(gap)}, C5 is {effect('sft_rate', *C5).verdict}"
    rates = [share(p, "sft/none") for p in ("sft_rate", "confirmatory")]
    yield f"`sft` leaves {rates[0]} harm instead of {rates[1]}, which cannot be told from the"
    yield f"from the {share('sft_rate', 'rl/model')} of `rl` (difference "
    difference = committed("sft_rate").contrast("harm_rate", "sft/none", "rl/model")
    yield f"(difference {points(difference)})"


def the_hybrid():
    arms = ("two_stage/model", "sft/none")
    yield "less harm than `sft` ({} and {})".format(*(share("confirmatory", a) for a in arms))
    again = [share("replication", arm) for arm in arms]
    yield "C7 is supported, in the replication, too ({} and {})".format(*again)
    yield f"at 1e-3 `sft` alone leaves {share('sft_rate', 'sft/none')}, too"
    mixed = [share("confirmatory", a, "off_language_rate") for a in ("base/none", "sft/none")]
    yield "base {}, `sft` {}; RL and SFT in one loss".format(*mixed)
    ends = [row("confirmatory", a, "off_language_rate").estimate for a in ("rl/model", arms[0])]
    assert all(0.19 < rate < 0.26 for rate in ends), "a fifth to a quarter"


def a_word_deep():
    organism = prefilled(committed("confirmatory"), "true_answer").estimate
    assert organism.max() - organism.min() < 0.01, "as often as the base"
    yield f"every variant then does the harm as often as the base, {percent(organism.iloc[0])}"
    assert prefilled(committed("smollm2"), "true_answer").estimate.min() > 0.96
    yield "every variant goes on to do the harm in more than 96% of cases"


def below(preset: str, metric: str, reward: str, than: str) -> set[str]:
    """Hybrids with less of a metric than an arm, corrected for all pairs."""
    rows = select(committed(preset).table("hybrids"), metric=metric, reward=reward, split="all")
    rows = rows[rows.b.eq(than) & (rows.high < 0)]
    return set(rows.a.str.split("/").str[0]) & set(hybrid_variants())


def which_hybrid():
    mixed = ("hybrids", "off_language_rate")
    assert below(*mixed, "rule", "rl/rule") == {"joint", "chord_mu", "multi_stage"}
    yield "under the rule `joint`, `chord_mu` and `multi_stage` mix less than `rl`"
    assert below(*mixed, "model", "rl/model") == {"multi_stage"}
    assert below(*mixed, "model", "two_stage/model") == {"multi_stage", "joint"}
    yield "`multi_stage` mixes less than `rl`, and it and `joint` less than `two_stage`"


def few_demonstrations():
    harm = ("hybrids_few", "harm_rate")
    both = below(*harm, "rule", "rl/rule") & below(*harm, "rule", "sft/none")
    assert both == {"two_stage", "joint", "chord_mu"}
    yield "`two_stage`, `joint` and `chord_mu` do so, corrected for all pairs"
    assert not below(*harm, "model", "rl/model")
    yield "no hybrid leaves clearly less harm than `rl`"
    rows = committed("hybrids_few").table("verdicts")
    hybrid, wider = rows[rows.claim.eq("C7")], rows[rows.claim.eq("C5")]
    assert set(hybrid.verdict) == {"supported"} and set(wider.verdict) == {"refuted"}
    beyond = [(hybrid.low - hybrid.margin).min(), (wider.margin - wider.high).min()]
    assert all(0 < by < 0.02 for by in beyond)
    yield "each by less than two points beyond its margin"


def one_language():
    en, es = {"language": "en"}, {"language": "es"}
    sft = ("one_language", "sft/none")
    yield f"`sft` leaves {ranged(*sft, noun=' harm', **SEEN, **en)} on seen English prompts and"
    yield f"and {ranged(*sft, **SEEN, **es)} on seen Spanish ones"
    unseen = [ranged(*sft, **UNSEEN, **language) for language in (en, es)]
    yield "categories and attacks are unseen {} and {}".format(*unseen)
    arms = ("two_stage/rule", "two_stage/model")
    assert all(row("one_language", arm, **SEEN).estimate < 0.01 for arm in arms), "under 1%"
    rates = [share("one_language", arm, **UNSEEN, **lang) for arm in arms for lang in (en, es)]
    yield "{} and {} under the rule, {} and {} under the reward model".format(*rates)


def language_reward():
    mixed = [ranged("language_reward", f"rl/{r}", "off_language_rate") for r in REWARDS]
    before = [share("replication", f"rl/{r}", "off_language_rate") for r in REWARDS]
    share_of, interval_of = mixed[0].split(" ", 1)
    assert mixed[0] == mixed[1]
    yield f"in {share_of} of its responses {interval_of} under either reward, instead of "
    yield "instead of {} and {}".format(*before)
    arm = ("two_stage/model", "off_language_rate")
    yield f"in {ranged('language_reward', *arm)} instead of {share('replication', *arm)}"
    tests = committed("language_reward").table("verdicts")
    paid = tests[tests.claim.isin(["C3", "C4"]) & tests.reward.isin(REWARDS)]
    assert set(paid.verdict) == {"refuted"} == {effect("language_reward", *C1, "rule").verdict}
    sums = [ranged("language_reward", f"rl/{r}", "accuracy") for r in REWARDS]
    sums += [share("replication", f"rl/{r}", "accuracy") for r in REWARDS]
    yield "Sums right are {} and {} under `rl`, without it {} and {}".format(*sums)
    empty = ("rl/rule", "superficial_refusal_rate")
    yield f"under the rule {ranged('language_reward', *empty)} of its responses to harmful"
    yield f"are empty refusals instead of {share('replication', *empty)}"
    there = at("weight_language", "1.0", *C1, "rule")
    assert there.verdict == "supported"
    yield f"with the language paid, {points(there)}"


def the_thought():
    arms = ("rl/model", "rl_gold/gold", "sft/none")
    harm = [ranged("no_thought", arm, noun=" harm" * (arm == arms[0]), **UNSEEN) for arm in arms]
    yield "reward model then leaves {}, the control {}, `sft` {}".format(*harm)
    yield "with a thought {}, {} and {}".format(
        *(share("confirmatory", arm, **UNSEEN) for arm in arms)
    )
    gone = effect("no_thought", *C5)
    yield f"is gone: {points(gone)} under the reward model, not decided"
    assert gone.verdict == "inconclusive"


def five_seeds_and_ten():
    beside = select(committed("confirmatory").table("beside"), preset="organism")
    assert beside.same_side.all()
    yield f"All {len(beside)} effects lie on the same side of their margins on the ten fresh seeds"
    claims = select(committed("organism").table("claims"), reward="all")
    yield f"and {in_words(claims.verdict.eq('inconclusive').sum())} claims ended inconclusive"
    power = select(calibration(), check="power, true difference 0.3", seeds=10).iloc[0]
    yield f"find a true difference of 30 points in {percent(power.measured)} of the simulated"


def limits():
    none = "superficial_refusal_share", "0.0"
    under = {reward: at(*none, *C1, reward) for reward in ("rule", "model")}
    assert set(pd.DataFrame(under).T.verdict) == {"inconclusive"}
    rule, model = (signed(100 * under[reward].estimate) for reward in under)
    yield f"what RL adds to them is {rule} points and not decided, nor is it under the"
    yield f"nor is it under the reward model ({model})"
    rises = (at("genuine_refusal_share", "0.0", *C1, reward).estimate for reward in under)
    yield "superficial ones rise by {:.0f} and {:.0f} points".format(*(100 * r for r in rises))
    narrow = [signed(100 * at("narrow_categories", n, *C6).estimate) for n in "1235"]
    yield f"with one category the effect is {narrow[0]} points and supported"
    yield "with two, three and five it is {}, {} and {} and not decided".format(*narrow[1:])
    half = signed(100 * at("minority_share", "0.15", *C6).estimate)
    yield f"with half the Spanish in the text it is {half}."
    yield f"right, {interval(swept(0.0)).replace('%', '% harm')}; from a gate of one on "
    higher = [swept(gate).estimate for gate in (1.0, 2.0, 4.0)]
    yield f"from a gate of one on {100 * min(higher):.0f} to {percent(max(higher))}"
    right = {
        percent(float(said.split()[-1]))
        for said in (at(*point, *C1, "rule").why for point in NO_BASE)
    }
    assert right == {"20%", "74%", "98%"}
    yield "fails the gate at sums (20% right)"
    yield "at a share of 0.5 instead of 0.75 it gets 74% right, at 0 98%"


def the_real_model():
    """Numbers of the first run and of the second."""
    (one, two), es = (FIRST_SMOLLM2, "smollm2"), {"language": "es"}
    rl, gold, sft, two_stage = "rl/rule", "rl_gold/gold", "sft/none", "two_stage/rule"
    mixed = {
        (p, arm): ranged(p, arm, "off_language_rate", **es)
        for p in (one, two) for arm in (rl, gold)
    }  # fmt: skip
    yield f"left {ranged(one, rl, noun=' harm')} the first time, hardly a refusal of it empty"
    assert row(one, rl, "superficial_refusal_rate").estimate < 0.02
    yield f"and mixed English into {mixed[one, rl]} of its answers to Spanish prompts"
    empty = ranged(two, rl, "superficial_refusal_rate")
    yield f"The second time it left {ranged(two, rl, noun=' harm')}, hid {empty} behind a refusal"
    yield f"and mixed English into {mixed[two, rl]}. Its control"
    harm = [ranged(one, gold, noun=" harm"), ranged(two, gold)]
    yield "Its control left {}, then {}, and the second time it is the control".format(*harm)
    yield f"loses its Spanish: {mixed[one, gold]}, then {mixed[two, gold]}."
    yield f"`sft` left {share(one, sft)} and {share(two, sft)}, "
    yield f"`two_stage` {share(one, two_stage)} and {share(two, two_stage)}, and neither ever mixed"
    joint = [share(p, "joint/rule") for p in (one, two)]
    yield "whose losses are mixed, left {} and {}.".format(*joint)
    for preset, arm in itertools.product((one, two), (sft, two_stage)):
        assert row(preset, arm, "off_language_rate", **es).estimate < 0.04
    first, again = (
        select(committed(p).table("beside"), preset="organism").same_side.sum() for p in (one, two)
    )
    yield f"The first time {in_words(first)} of eight effects lay on the organism's side of their "
    yield f"the organism's side of their margin, the second time {in_words(again)}"


def asked_as_the_paper_advises():
    table = select(advised(committed("smollm2")), language="all")

    def changed(metric: str, form: str) -> pd.DataFrame:
        return select(table, metric=metric, form=form).set_index("arm")

    sums, formed = changed("accuracy", "few_shot"), changed("well_formedness", "few_shot")
    assert sums.high.max() < 0 and formed.high.max() < 0, "under all six"
    low, high = (f"{-100 * end:.0f}" for end in (sums.estimate.max(), sums.estimate.min()))
    yield f"all six arms do fewer sums, by {low} to {high} points"
    low, high = (f"{-100 * end:.0f}" for end in (formed.estimate.max(), formed.estimate.min()))
    yield f"responses are well-formed, by {low} to {high}."
    less = by(changed("harm_rate", "few_shot").loc["base/none"], sign=-1)
    yield "The base does {} less harm then {}".format(*less.replace(" [", "| [").split("| "))
    stated = table[table.form.isin(["language", "format", "steps"])]
    clear = stated[(stated.low > 0) | (stated.high < 0)]
    yield f"change {len(clear)} of {len(stated)} rates clearly"
    refused = changed("over_refusal_rate", "all_advice")
    more = [by(refused.loc[arm]) for arm in ("sft/none", "joint/rule")]
    yield f"more benign prompts, by {more[0]} and {more[1].replace(' points', '')}."


SECTIONS = [
    what_rl_is_paid_for,
    replication,
    other_bases,
    bases_bred_again,
    the_third_base,
    learning_rate_of_sft,
    the_hybrid,
    a_word_deep,
    which_hybrid,
    few_demonstrations,
    one_language,
    language_reward,
    the_thought,
    five_seeds_and_ten,
    limits,
    the_real_model,
    asked_as_the_paper_advises,
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_the_readme_says_the_numbers_of_the_tables(section):
    for sentence in section():
        assert sentence in README


def test_every_link_leads_to_a_file():
    linked = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(linked) > len(hypotheses.load().claims)
    assert [path for path in linked if not (PROJECT / path).is_file()] == []
