"""Numbers in the sentences of README and docs are those of the committed tables.

Tables between markers are generated (test_docs.py). The sentences around them are written by hand:
here each of their numbers is looked up again and put into the sentence, which must then stand in a
page. After new results this says which sentence to mend, and how.
"""

import itertools
import json
import re
from functools import cache

import pandas as pd
import pytest
import yaml

from hybridlib.evaluation import hypotheses
from hybridlib.figures.prose import interval, percent, signed
from hybridlib.figures.results import EFFECT, POOLED, Results, calibration, select
from hybridlib.store.paths import PROJECT
from hybridlib.variants import REWARDS, hybrid_variants

PAGES = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
TEXT = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
SAID = " ".join(" ".join(text.split()) for text in TEXT.values())
LINK = re.compile(r"\]\(((?!http)[^)\s]+)\)")
SEEN, UNSEEN = {"split": "seen"}, {"split": "unseen_both"}


@cache
def committed(preset: str) -> Results:
    return Results(PROJECT / "results" / preset)


def row(preset: str, arm: str, metric: str = "harm_rate", **where: str) -> pd.Series:
    metrics = committed(preset).table("metrics")
    (found,) = select(metrics, metric=metric, arm=arm, **(POOLED | where)).iloc
    return found


def contrast(preset: str, metric: str, a: str, b: str) -> pd.Series:
    where = {name: value for name, value in POOLED.items() if name != "part"}
    table = committed(preset).table("contrasts")
    (found,) = select(table, metric=metric, a=a, b=b, **where).iloc
    return found


def share(*of: str, **where: str) -> str:
    return percent(row(*of, **where).estimate)


def ranged(*of: str, **where: str) -> str:
    return interval(row(*of, **where))


def effect(preset: str, *named: str, table: str = "verdicts") -> pd.Series:
    """The first row of a test, named by claim, metric, contrast and reward."""
    return select(committed(preset).table(table), **dict(zip(EFFECT, named))).iloc[0]


def points(size: pd.Series) -> str:
    """'+12 points [+5, +19]': a difference with its sign."""
    by, low, high = (signed(100 * value) for value in (size.estimate, size.low, size.high))
    return f"{by} points [{low}, {high}]"


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
    changed = ["hidden_size", "base_seed", "minority_share", "code_switching_share"]
    both = table.parameter.isin(["genuine_refusal_share", "superficial_refusal_share"])
    both &= table.value.eq("0.2")
    return table[(table.parameter.isin(changed) | both) & ~table.default.astype(bool)]


def at(parameter: str, value: str, *named: str, preset: str = "confirmatory") -> pd.Series:
    table = select(changed_points(preset), **dict(zip(EFFECT, named)))
    return table[table.parameter.eq(parameter) & table.value.eq(value)].iloc[0]


def on_other_cores(cores: str) -> pd.DataFrame:
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
C2_HARM = ("C2", "harm_rate", "rl - sft", "keyword")
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


# ---- README.md


def the_answer():
    """The first page; where it is said again in docs/findings.md, both are held."""
    harm, mixed, sums = (
        {arm: row("confirmatory", arm, *of) for arm in ("base/none", "rl/model", "two_stage/model")}
        for of in ((), ("off_language_rate",), ("accuracy",))
    )
    keyword = row("confirmatory", "rl/keyword")
    yield f"it does the harm in {interval(keyword)} of responses to harmful requests"
    assert row("confirmatory", "rl/keyword", "superficial_refusal_rate").low > keyword.estimate / 2
    yield f"The harm rate of RL is then {interval(harm['rl/model'])}, with hardly a superficial"
    assert row("confirmatory", "rl/model", "superficial_refusal_rate").estimate < 0.005
    yield f"in {interval(mixed['rl/model'])} of its responses, the base in "
    yield f"the base in {percent(mixed['base/none'].estimate)}."
    both = interval(harm["two_stage/model"]), interval(sums["two_stage/model"])
    yield "a harm rate of {} and {} accuracy".format(*both)
    assert mixed["two_stage/model"].low > mixed["base/none"].high
    joint = contrast("confirmatory", "off_language_rate", "joint/model", "base/none")
    assert joint.low < 0 < joint.high, "joint does not mix languages"
    gold, base = row("confirmatory", "rl_gold/gold"), row("confirmatory", "base/none")
    assert gold.high < base.low, "the positive control learns"
    begun = prefilled("confirmatory", "true_answer")
    yield f"all are as harmful as the base ({percent(begun.estimate['base/none'])})"
    cold = json.loads((PROJECT / "results/bench/bench.json").read_text())["study"]["cold_s"]
    yield f"the default study: {cold / 60:.0f} minutes on two CPU cores"


def the_verdicts():
    """The table of the first page, and how many effects have the same verdict in a replication."""
    claims = committed("confirmatory").table("claims").set_index(["claim", "reward"]).verdict
    first, again = (committed(p).table("verdicts") for p in ("confirmatory", "replication"))
    both = again.merge(first, on=EFFECT, suffixes=("", "_first"))
    both["same"] = both.verdict.eq(both.verdict_first)
    for claim, rows in both.groupby("claim"):
        told = [claims.get((claim, r), claims.get((claim, "none"), "-")) for r in REWARDS]
        if claim == "C7":
            told[0] = "-"  # decided under the reward model alone
        told = [word.replace("inconclusive", "undecided") for word in told]
        counted = f"{rows.same.sum()} of {len(rows)}"
        effects = " effects" * (claim == "C1")
        line = next(line for line in TEXT["README.md"].splitlines() if f"| {claim} " in line)
        assert line.endswith(f"| {' | '.join(told)} | {counted}{effects} |"), line
        yield f"| {claim} "


def what_is_wrong():
    harm, mixed, sums = (
        [row(preset, "sft/none", *of) for preset in ("confirmatory", "sft_rate")]
        for of in ((), ("off_language_rate",), ("accuracy",))
    )
    (before, after) = ([percent(pair[n].estimate) for pair in (harm, mixed, sums)] for n in (0, 1))
    yield f"its harm rate falls from {before[0]} to {after[0]}, its language-mixing rate from "
    yield f"its language-mixing rate from {before[1]} to {after[1]}, and its accuracy rises from "
    yield f"its accuracy rises from {before[2]} to {after[2]}; C6 becomes supported"
    yield f"its harm rate is {interval(harm[1])} instead of {interval(harm[0])}, its "
    yield f"its language-mixing rate is {after[1]} instead of {before[1]}, and its accuracy is "
    yield f"and its accuracy is {after[2]} instead of {before[2]}. C4 and C6 become supported"
    two_stage = row("confirmatory", "two_stage/model", "off_language_rate")
    yield f"language-mixing rate fall from {percent(two_stage.estimate)} to 9%"
    yield f"stops mixing languages ({percent(two_stage.estimate)} to 9%, measured by a reviewer"
    there, here = (
        select(committed(p).table("claims"), reward="all").set_index("claim").verdict
        for p in ("sft_rate", "confirmatory")
    )
    moved = there[there.ne(here.reindex(there.index))]
    assert dict(moved) == {"C4": "supported", "C5": "inconclusive", "C6": "supported"}
    yield "They change C4, C5 and C6"
    grid = pd.read_csv(PROJECT / "hybridlib" / "learning_rates.csv")
    sft = grid[grid.variant.eq("sft")].set_index("learning_rate").objective
    assert list(sft.index) == [3e-4, 1e-3, 3e-3] and sft.idxmax() == 3e-4, "the edge of the grid"
    assert sft.max() - sft.min() < 0.001
    yield "The common rule chose 3e-4, an edge of it, by less than 0.001 nats"


def one_base():
    """Every base of the recipe for which C1 is in a committed table."""
    here = effect("confirmatory", *C1, "keyword")
    yield f"lie outside its interval for C1 under the keyword reward, which is {points(here)}"
    seeds = [at("base_seed", seed, *C1, "keyword").estimate for seed in ("1", "2")]
    presets = {p: effect(p, *C1, "keyword") for p in ("replication", "organism", "hybrids")}
    amx = at("scope", "whole", *C1, "keyword", preset=AMX).estimate
    again, first = presets["replication"].estimate, presets["organism"].estimate
    assert presets["hybrids"].estimate == first
    others = [*seeds, again, first, amx]
    assert len(others) == 5 and not any(here.low < other < here.high for other in others)
    one, two, again, first, amx = (signed(100 * other) for other in others)
    yield f"They give {one} and {two} (other pretraining seeds), {again} (`replication`), {first} ("
    yield f"{first} (`organism` and `hybrids`) and {amx} points (a machine with AMX)"
    few = effect("hybrids_few", *C1, "keyword").estimate
    assert here.low < few < here.high
    yield f"that of `hybrids_few`, gives {signed(100 * few)} points and lies just inside"
    gates = [committed(p).table("gate") for p in ("replication", "organism")]
    assert gates[0].equals(gates[1])


def one_prompt():
    """Prompt and responses of the first page are committed ones, of the first seed."""
    said = {"base": "base", "rl-rule": "`rl`, keyword reward", "rl-model": "`rl`, reward model",
            "sft": "`sft`"}  # fmt: skip
    lines = TEXT["README.md"].splitlines()
    (prompt,) = (line.removeprefix("> ") for line in lines if line.startswith("> "))
    card, _, question = prompt.partition(" . tell")
    for name, label in said.items():
        folder = PROJECT / "results" / "organism" / "artifacts" / "responses" / name
        rows = pd.read_parquet(next(folder.glob("*.parquet")))
        rows = rows[rows.prompt.str.contains(card, regex=False) & rows.decoding.eq("sample")]
        (asked,) = rows[rows.prompt.str.contains(f"tell{question}", regex=False)].iloc
        assert asked.attack == "none" and asked.kind == "harmful"
        yield f"| {label.replace('base', '`base`')} | *{asked.thought}* {asked.answer} |"


# ---- docs


def what_rl_is_rewarded_for():
    yield f"{share('confirmatory', 'rl/keyword')} of its responses to harmful requests remain harmful"
    yield f"reads the whole response, RL has a harm rate of {share('confirmatory', 'rl/model')}"
    rewards = committed("confirmatory").table("claims").set_index(["claim", "reward"]).verdict
    assert {rewards[c, "keyword"] for c in ("C1", "C2")} == {"supported"}
    assert {rewards[c, "model"] for c in ("C1", "C2")} == {"refuted"}


def replication():
    first, again = (committed(p).table("verdicts") for p in ("confirmatory", "replication"))
    both = again.merge(first, on=EFFECT, suffixes=("", "_first"))
    beside = select(committed("replication").table("beside"), preset="confirmatory")
    yield f"All {beside.same_side.sum()} effects lie on the same side of their margins, "
    yield f"keeps all {beside.same_side.sum()} effects on their side of the margin"
    assert beside.same_side.all() and len(beside) == len(both) == len(first)
    same = both.verdict.eq(both.verdict_first)
    yield f"{same.sum()} have the same verdict, and none goes from supported to refuted or back"
    changed = both[~same]
    assert (changed.verdict.eq("inconclusive") | changed.verdict_first.eq("inconclusive")).all()
    now, then = (effect(p, *C1, "keyword") for p in ("replication", "confirmatory"))
    instead = points(then).replace(" points", "")
    yield f"C1 under the keyword reward is {points(now)} instead of {instead}"
    assert now.verdict == then.verdict == "supported"
    harm = ranged("replication", "rl/keyword")
    yield f"has a harm rate of {harm} instead of {share('confirmatory', 'rl/keyword')}; under the"
    model = [share(p, "rl/model") for p in ("replication", "confirmatory")]
    yield "under the reward model it is {} instead of {}".format(*model)
    rule = C5[:-1] + ("keyword",)
    now, then = (effect(p, *rule) for p in ("replication", "confirmatory"))
    yield f"under the keyword reward it is {points(now)} instead of {signed(100 * then.estimate)}"
    assert effect("replication", *C5).verdict == "refuted" and now.verdict == "inconclusive"
    counter = ("C5", "generalization_gap", "sft - rl")
    for reward in ("keyword", "model"):
        found = effect("replication", *counter, reward, table="exploratory")
        assert found.verdict == "inconclusive"
    gap = row("replication", "sft/none", "generalization_gap", **UNSEEN)
    less = by(effect("replication", *C5), sign=-1).replace(" points", "")
    yield f"In the replication these are {by(gap)} and {less} less"
    mixed = select(committed("replication").table("metrics"), metric="language_entropy")
    pooled = select(mixed, task="all", split="all", part="whole", decoding="sample")
    assert pooled.high.max() < 0.01
    yield "the entropy of languages stays under 0.01 of its range for every variant"


def other_bases():
    rule, model = bases(*C1, "keyword"), bases(*C1, "model")
    low, high = least_and_most(rule.estimate)
    here = signed(100 * at("hidden_size", "192", *C1, "keyword").estimate)
    supported, refuted = rule.verdict.eq("supported"), model.verdict.eq("refuted")
    yield f"{in_words(len(rule)).capitalize()} other bases were pretrained with another seed"
    yield f"C1 under the keyword reward lies between {low} and {high} points and is supported on "
    yield f"supported on {in_words(supported.sum())}; on the base of the verdicts it is {here} with"
    harm = bases(*C2_HARM)
    as_much = harm[harm.estimate < 0.05]
    assert set(as_much.verdict) == {"inconclusive"}, "none of that is decided"
    low, high = (f"{100 * abs(e):.0f}" for e in (as_much.estimate.min(), as_much.estimate.max()))
    yield f"On {in_words(len(as_much))} of the {in_words(len(harm))}, RL under the keyword reward"
    yield f"from {low} points less to {high} more"
    yield f"C1 is refuted on {in_words(refuted.sum())} of the {in_words(len(model))}"
    yield f"it is undecided, {points(at('hidden_size', '256', *C1, 'model'))}"


def bases_pretrained_again():
    rows = on_other_cores(NO_BFLOAT16)
    yield f"Of their {len(rows)} effects {rows.same_side.sum()} lay on the same side"
    yield f"{rows.same.sum()} had the same verdict, and none went from supported to refuted"
    assert not turned_over(rows) and len(rows.groupby(POINT)) == 4
    again = [("minority_share", "0.15"), ("minority_share", "0.45"), ("hidden_size", "128")]
    then_and_now = (NO_BFLOAT16, "confirmatory")
    (less, less_now), (more, more_now), (narrow, narrow_now) = (
        [signed(100 * at(*point, *C1, "keyword", preset=p).estimate) for p in then_and_now]
        for point in again
    )
    yield f"was {less} points with less Spanish and is {less_now} now, {more} with more and is "
    yield f"with more and is {more_now}, {narrow} at width 128 and is {narrow_now}."


def the_third_base():
    rows = on_other_cores(AMX)
    unchanged = rows[rows.default & rows.parameter.eq("scope")]
    changed = rows[~rows.default]
    assert unchanged.same_side.all() and not turned_over(rows)
    yield f"each of the {len(unchanged)} effects lies on its side and {unchanged.same.sum()} have"
    there, here = (at("scope", "whole", *C1, "keyword", preset=p) for p in (AMX, "confirmatory"))
    yield f"is {points(there)} instead of {signed(100 * here.estimate)}, undecided"
    assert there.verdict == "inconclusive"
    yield f"At the {in_words(len(changed.groupby(POINT)))} points {changed.same_side.sum()} of "
    yield f"of {len(changed)} effects lie on the side they have here, {changed.same.sum()} have"
    narrow = [at("narrow_categories", n, *C6, preset=AMX) for n in "1235"]
    assert {row.verdict for row in narrow} == {"inconclusive"}
    sizes = [signed(100 * row.estimate) for row in narrow]
    yield "(on the third base {}, {}, {} and {}, all undecided)".format(*sizes)
    rewarded = at("weight_language", "1.0", *C1, "keyword", preset=AMX)
    yield f"on the third base it is {points(rewarded).replace(' points', '')}, undecided"
    assert rewarded.verdict == "inconclusive"


def learning_rate_of_sft():
    gap = row("confirmatory", "sft/none", "generalization_gap", **UNSEEN)
    less = by(effect("confirmatory", *C5), sign=-1).replace(" points", "")
    yield f"the harm rate of `sft` rises by {by(gap)}; that of `rl`"
    yield f"that of `rl` under the reward model rises by {less} less"
    gap = row("sft_rate", "sft/none", "generalization_gap", **UNSEEN)
    yield f"the harm rate of `sft` rises by {by(gap)}, C5 is {effect('sft_rate', *C5).verdict}"
    rates = [share(p, "sft/none") for p in ("sft_rate", "confirmatory")]
    yield "The harm rate of `sft` is then {} instead of {}, which cannot".format(*rates)
    yield f"from the {share('sft_rate', 'rl/model')} of `rl` (difference "
    rl = contrast("sft_rate", "harm_rate", "rl/model", "sft/none")
    difference = pd.Series({"estimate": -rl.estimate, "low": -rl.high, "high": -rl.low})
    yield f"(difference {points(difference)})"


def the_hybrid():
    arms = ("two_stage/model", "sft/none")
    yield "lower harm rate than `sft` ({} and {})".format(*(share("confirmatory", a) for a in arms))
    again = [share("replication", arm) for arm in arms]
    yield "It is supported in the replication, too ({} and {})".format(*again)
    yield f"At 1e-3, however, `sft` alone has {share('sft_rate', 'sft/none')}, too"
    yield f"At 1e-3, `sft` alone has {share('sft_rate', 'sft/none')}, too"
    mixed = [share("confirmatory", a, "off_language_rate") for a in ("base/none", "sft/none")]
    yield "(base {}, `sft` {}). RL and SFT in one loss".format(*mixed)
    ends = [row("confirmatory", a, "off_language_rate").estimate for a in ("rl/model", arms[0])]
    assert all(0.19 < rate < 0.26 for rate in ends), "a fifth to a quarter"


def prefilled(preset: str, start: str) -> pd.DataFrame:
    rows = select(committed(preset).table("prefill"), start=start, split="all")
    return rows.set_index("arm")


def safety_is_shallow():
    organism = prefilled("confirmatory", "true_answer").estimate
    assert organism.max() - organism.min() < 0.01, "as harmful as the base"
    yield f"every variant is as harmful as the base: {percent(organism.iloc[0])}"
    assert prefilled("smollm2", "true_answer").estimate.min() > 0.96
    yield "every variant does the harm in more than 96% of cases"


def below(preset: str, metric: str, reward: str, than: str) -> set[str]:
    """Hybrids with less of a metric than an arm, corrected for all pairs."""
    rows = select(committed(preset).table("hybrids"), metric=metric, reward=reward, split="all")
    rows = rows[rows.b.eq(than) & (rows.high < 0)]
    return set(rows.a.str.split("/").str[0]) & set(hybrid_variants())


def which_hybrid():
    mixed = ("hybrids", "off_language_rate")
    assert below(*mixed, "keyword", "rl/keyword") == {"joint", "chord_mu", "multi_stage"}
    yield "Under the keyword reward `joint`, `chord_mu` and `multi_stage` mix less than `rl`"
    assert below(*mixed, "model", "rl/model") == {"multi_stage"}
    assert below(*mixed, "model", "two_stage/model") == {"multi_stage", "joint"}
    yield "`multi_stage` mixes less than `rl`, and it and `joint` less than `two_stage`"


def few_demonstrations():
    harm = ("hybrids_few", "harm_rate")
    both = below(*harm, "keyword", "rl/keyword") & below(*harm, "keyword", "sft/none")
    assert both == {"two_stage", "joint", "chord_mu"}
    yield "`two_stage`, `joint` and `chord_mu` do so, corrected for all pairs"
    assert not below(*harm, "model", "rl/model")
    yield "no hybrid does clearly less harm than `rl`"
    rows = committed("hybrids_few").table("verdicts")
    hybrid, wider = rows[rows.claim.eq("C7")], rows[rows.claim.eq("C5")]
    assert set(hybrid.verdict) == {"supported"} and set(wider.verdict) == {"refuted"}
    beyond = [(hybrid.low - hybrid.margin).min(), (wider.margin - wider.high).min()]
    assert all(0 < by < 0.02 for by in beyond)
    yield "each by less than two points beyond its margin"


def one_language():
    en, es = {"language": "en"}, {"language": "es"}
    sft = ("one_language", "sft/none")
    yield f"`sft` has a harm rate of {ranged(*sft, **SEEN, **en)} on seen English prompts and"
    yield f"and {ranged(*sft, **SEEN, **es)} on seen Spanish ones"
    unseen = [ranged(*sft, **UNSEEN, **language) for language in (en, es)]
    yield "categories and attacks are unseen, {} and {}".format(*unseen)
    arms = ("two_stage/keyword", "two_stage/model")
    assert all(row("one_language", arm, **SEEN).estimate < 0.01 for arm in arms), "under 1%"
    rates = [share("one_language", arm, **UNSEEN, **lang) for arm in arms for lang in (en, es)]
    yield "{} and {} under the keyword reward, {} and {} under the reward model".format(*rates)


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
    rewarded = tests[tests.claim.isin(["C3", "C4"]) & tests.reward.isin(REWARDS)]
    assert set(rewarded.verdict) == {"refuted"} == {effect("language_reward", *C1, "keyword").verdict}
    sums = [ranged("language_reward", f"rl/{r}", "accuracy") for r in REWARDS]
    sums += [share("replication", f"rl/{r}", "accuracy") for r in REWARDS]
    yield "The accuracy of `rl` is {} and {}, without it {} and {}".format(*sums)
    phrase = ("rl/keyword", "superficial_refusal_rate")
    yield f"Under the keyword reward {ranged('language_reward', *phrase)} of its responses to"
    yield f"are superficial refusals instead of {share('replication', *phrase)}"
    there = at("weight_language", "1.0", *C1, "keyword")
    assert there.verdict == "supported"
    yield f"C1 stays supported with the language reward, {points(there)}"


def the_reasoning_trace():
    arms = ("rl/model", "rl_gold/gold", "sft/none")
    harm = [ranged("no_thought", arm, **UNSEEN) for arm in arms]
    yield "has a harm rate of {}, the positive control {}, `sft` {}".format(*harm)
    yield "with a trace {}, {} and {}".format(
        *(share("confirmatory", arm, **UNSEEN) for arm in arms)
    )
    gone = effect("no_thought", *C5)
    yield f"is gone: {points(gone)} under the reward model, undecided"
    assert gone.verdict == "inconclusive"


def five_seeds_and_ten():
    beside = select(committed("confirmatory").table("beside"), preset="organism")
    assert beside.same_side.all()
    yield f"All {len(beside)} effects lie on the same side of their margins on the ten fresh seeds"
    claims = select(committed("organism").table("claims"), reward="all")
    yield f"and {in_words(claims.verdict.eq('inconclusive').sum())} claims ended inconclusive"
    power = select(calibration(), check="power, true difference 0.3", seeds=10).iloc[0]
    yield f"find a true difference of 30 points in only {percent(power.measured)} of the simulated"


def limits():
    none = "superficial_refusal_share", "0.0"
    under = {reward: at(*none, *C1, reward) for reward in ("keyword", "model")}
    assert set(pd.DataFrame(under).T.verdict) == {"inconclusive"}
    rule, model = (signed(100 * under[reward].estimate) for reward in under)
    yield f"what RL adds to them is {rule} points and undecided, as under the reward model ("
    yield f"as under the reward model ({model})."
    rises = (at("genuine_refusal_share", "0.0", *C1, reward).estimate for reward in under)
    yield "superficial ones rise by {:.0f} and {:.0f} points".format(*(100 * r for r in rises))
    narrow = [signed(100 * at("narrow_categories", n, *C6).estimate) for n in "1235"]
    yield f"With one category the effect is {narrow[0]} points and supported"
    yield "with two, three and five it is {}, {} and {} and undecided".format(*narrow[1:])
    half = signed(100 * at("minority_share", "0.15", *C6).estimate)
    yield f"With half the Spanish in the text it is {half}."
    yield f"is right: {interval(swept(0.0)).replace('%', '% harm')}. From a gate of one on "
    higher = [swept(gate).estimate for gate in (1.0, 2.0, 4.0)]
    yield f"From a gate of one on it is {100 * min(higher):.0f} to {percent(max(higher))}"
    right = {
        percent(float(said.split()[-1]))
        for said in (at(*point, *C1, "keyword").why for point in NO_BASE)
    }
    assert right == {"20%", "74%", "98%"}
    yield "fails the competence check at arithmetic (20% right)"
    yield "74% right at a share of 0.5, 98% at 0"


def the_real_model():
    """Numbers of the first run and of the second."""
    (one, two), es = (FIRST_SMOLLM2, "smollm2"), {"language": "es"}
    rl, gold, sft, two_stage = "rl/keyword", "rl_gold/gold", "sft/none", "two_stage/keyword"
    mixed = {
        (p, arm): ranged(p, arm, "off_language_rate", **es)
        for p in (one, two) for arm in (rl, gold)
    }  # fmt: skip
    yield f"the harm rate was {ranged(one, rl)} the first time, hardly a refusal was superficial"
    assert row(one, rl, "superficial_refusal_rate").estimate < 0.02
    yield f"and it mixed English into {mixed[one, rl]} of its answers to Spanish prompts"
    phrase = ranged(two, rl, "superficial_refusal_rate")
    yield f"The second time the harm rate was {ranged(two, rl)}, it hid {phrase} behind a refusal"
    yield f"and it mixed English into {mixed[two, rl]}."
    harm = [ranged(p, gold) for p in (one, two)]
    yield "The harm rate of the positive control was {}, then {}.".format(*harm)
    yield f"It lost its Spanish the second time: {mixed[one, gold]}, then {mixed[two, gold]}."
    yield f"`sft` had {share(one, sft)} and {share(two, sft)}, "
    yield f"`two_stage` {share(one, two_stage)} and {share(two, two_stage)}, and neither mixed"
    joint = [share(p, "joint/keyword") for p in (one, two)]
    yield "whose losses are mixed, had {} and {}.".format(*joint)
    for preset, arm in itertools.product((one, two), (sft, two_stage)):
        assert row(preset, arm, "off_language_rate", **es).estimate < 0.04
    first, again = (
        select(committed(p).table("beside"), preset="organism").same_side.sum() for p in (one, two)
    )
    yield f"The first time {in_words(first)} of eight effects lay on the organism's side of their "
    yield f"the organism's side of their margin, the second time {in_words(again)}"


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
    the_answer,
    the_verdicts,
    what_is_wrong,
    one_base,
    one_prompt,
    what_rl_is_rewarded_for,
    replication,
    other_bases,
    bases_pretrained_again,
    the_third_base,
    learning_rate_of_sft,
    the_hybrid,
    safety_is_shallow,
    which_hybrid,
    few_demonstrations,
    one_language,
    language_reward,
    the_reasoning_trace,
    five_seeds_and_ten,
    limits,
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
