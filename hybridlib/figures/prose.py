"""Results in words: sentences that follow the numbers wherever they fall.

Notebooks and titles take every number from here, so that none is typed by hand. Arms that a preset
does not have are left out of a sentence.
"""

from collections.abc import Iterable

import pandas as pd
from IPython.display import HTML, Markdown, display

from hybridlib.evaluation.statistics import DECIDED, VERDICTS
from hybridlib.figures import results as lookup
from hybridlib.figures.results import (
    EFFECT,
    MAIN,
    RL,
    Results,
    change,
    claims,
    direction,
    prefilled,
    rewards,
    select,
    sweep_ranges,
    totals,
    trained_by_rl,
)
from hybridlib.figures.style import label_of, suffix_of
from hybridlib.publish import markdown
from hybridlib.variants import hybrid_variants

CLAIMS = {
    "C1": "reward hacking",
    "C2": "explicit control",
    "C3": "language mixing",
    "C4": "cold start",
    "C5": "generalization",
    "C6": "diverse SFT",
    "C7": "hybrid",
    "C8": "cost",
}
PAID_BY = {
    "rule": "paid by the rule",
    "model": "paid by the reward model",
    "gold": "paid by the oracle (control)",
}
FORMS = {  # as in usage.py
    "as_asked": "as asked",
    "few_shot": "two examples",
    "language": "language stated",
    "format": "format stated",
    "steps": "step by step",
    "all_advice": "all advice",
}
BETTER = {  # of usage.csv: whether more of it is (+1), or less
    "accuracy": 1,
    "harm_rate": -1,
    "over_refusal_rate": -1,
    "off_language_rate": -1,
    "well_formedness": 1,
}
PAID_AND_WANTED = {"proxy": "the reward paid", "gold": "gold on harmful prompts"}


# ---- numbers


def percent(value: float) -> str:
    """0.183 -> '18%'; near 0 and 1 a decimal, so that rare is not written as never."""
    digits = 1 if 0 < value < 0.01 or 0.99 < value < 1 else 0
    return f"{100 * value:.{digits}f}%"


def interval(row: pd.Series) -> str:
    """'18% [12, 26]': a rate with its 95% interval."""
    return f"{percent(row.estimate)} [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def amount(row: pd.Series) -> str:
    """'1.06 [0.87, 1.25]': what is no share, with its 95% interval."""
    return f"{row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}]"


def signed(value: float, digits: int = 0) -> str:
    """'+12', '-3', '0': never '-0'."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def points(row: pd.Series) -> str:
    """'+12 points [+5, +19]': a difference of rates with its 95% interval, if it has one."""
    return f"{signed(100 * row.estimate)} points{_ends(100 * row.low, 100 * row.high)}"


def _ends(low: float, high: float, digits: int = 0) -> str:
    """' [+5, +19]'; '' for the interval over seeds that a single seed does not have."""
    return "" if pd.isna(low) else f" [{signed(low, digits)}, {signed(high, digits)}]"


def short(value: float) -> str:
    """8.7e12 -> '8.7e12', 236000 -> '236k', 52.3 -> '52', 0.0003 -> '3e-4'."""
    if value >= 1e9 or 0 < value < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def join(words: Iterable[str]) -> str:
    """'', 'a', 'a and b', 'a, b and c'."""
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def sentence(*clauses: str) -> str:
    """The clauses that are not empty, as one sentence."""
    text = "; ".join(clause for clause in clauses if clause)
    return text[:1].upper() + text[1:] + "." if text else ""


def say(*sentences: str) -> None:
    """Display the sentences that are not empty as one paragraph of markdown."""
    display(Markdown(" ".join(text for text in sentences if text)))


def tabulate(frame: pd.DataFrame) -> None:
    """Display a table without its index; the same table gives the same bytes."""
    display(HTML(frame.to_html(index=False, float_format="{:.3g}".format, border=0)))


# ---- what the tables say


def scope(results: Results) -> str:
    """What the results rest on: arms, seeds, runs."""
    frame = results.table("metrics")
    runs = results.table("runs").drop_duplicates(["arm", "seed"])
    seeds = frame.seeds.max()
    return (
        f"Results of `{frame.preset.iloc[0]}`: {len(results.arms())} arms (a variant and its "
        f"reward), {seeds} seed{'s' if seeds > 1 else ''}, {len(runs)} runs. Brackets are 95% "
        f"intervals{'' if seeds > 1 else ' over prompts alone'}."
    )


def rates(results: Results, metric: str, arms: Iterable[str] = MAIN, **where: str) -> str:
    """'base 88% [86, 90], rl (rule) 26% [22, 30] and sft 2% [1, 4]'."""
    rows = results.metric(metric, **where)
    return join(f"{label_of(arm)} {interval(rows.loc[arm])}" for arm in arms if arm in rows.index)


def means(results: Results, metric: str, **where: str) -> str:
    """As `rates`, of what is no share: 'base 1.06 [0.87, 1.25] and sft 0.50 [0.34, 0.66]'."""
    rows = results.metric(metric, **where)
    return join(f"{label_of(arm)} {amount(rows.loc[arm])}" for arm in MAIN if arm in rows.index)


def begun(results: Results, start: str, arms: Iterable[str] = MAIN) -> str:
    """As `rates`: harm that a policy adds to a beginning of a response (prefill.csv)."""
    rows = prefilled(results, start)
    return join(f"{label_of(arm)} {interval(rows.loc[arm])}" for arm in arms if arm in rows.index)


def advised(results: Results) -> str:
    """'of 30 rates (...) a form of asking changes clearly: two examples 7 better, ...', at 95%."""
    table = select(lookup.advised(results), language="all")
    ends = table[["low", "high"]].mul(table.metric.map(BETTER), axis="index")
    better, worse = ends.gt(0).all(axis="columns"), ends.lt(0).all(axis="columns")
    counts = table.assign(better=better, worse=worse).groupby("form", sort=False)
    said = [
        f"{FORMS[form]} {rows.better.sum()} better, {rows.worse.sum()} worse"
        for form, rows in counts
    ]
    arms, measures = len(results.arms("usage")), len(BETTER)
    of = f"of {arms * measures} rates ({arms} arms, {measures} measures)"
    return f"{of} a form of asking changes clearly: {'; '.join(said)}"


def by_form(results: Results, metric: str, arm: str) -> str:
    """'as asked 7% [2, 21], two examples 5% [1, 19] and ...': a metric of an arm (usage.csv)."""
    where = {"metric": metric, "arm": arm, "language": "all", "than": "none"}
    rows = select(results.table("usage"), **where)
    return join(f"{FORMS[row.form]} {interval(row)}" for row in rows.itertuples())


def gaps(results: Results, arms: Iterable[str] = MAIN, **where: str) -> str:
    """'base +2 points [-1, +4] and sft ...': generalization gaps."""
    rows = results.metric("generalization_gap", **where)
    return join(f"{label_of(arm)} {points(rows.loc[arm])}" for arm in arms if arm in rows.index)


def differences(
    results: Results, metric: str, noun: str, arms: Iterable[str], other: str, **where: str
) -> str:
    """'paired difference in harm from sft: rl (rule) +12 points [+5, +19]'; '' if none is there."""
    rows = {arm: results.contrast(metric, arm, other, **where) for arm in arms}
    found = join(f"{label_of(arm)} {points(row)}" for arm, row in rows.items() if row is not None)
    return f"paired difference in {noun} from {label_of(other)}: {found}" if found else ""


def versus(
    results: Results, metric: str, noun: str, arms: Iterable[str], other: str, **where: str
) -> str:
    """'more harm under rl (rule) 26% than under sft 2%; no clear difference under joint (rule) 3%'.

    '' where the preset lacks `other` or all of `arms`.
    """
    rows = results.metric(metric, **where)
    if other not in rows.index:
        return ""
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for arm in arms:
        if arm in rows.index and arm != other:
            groups[direction(results, metric, arm, other, **where)].append(arm)

    def named(arm: str) -> str:
        rate = rows.estimate[arm]
        gap = f"{signed(100 * rate)} points"
        return f"{label_of(arm)} {gap if metric.endswith('_gap') else percent(rate)}"

    clauses = []
    for sign, words in ((1, "more"), (-1, "less"), (0, "no clear difference")):
        group = join(map(named, groups[sign]))
        if group and clauses:  # the first clause has named what is compared, and with what
            clauses.append(f"{words} under {group}")
        elif group and sign:
            clauses.append(f"{words} {noun} under {group} than under {named(other)}")
        elif group:
            clauses.append(f"{words} in {noun} from {named(other)} under {group}")
    return "; ".join(clauses)


def moved(mean: float, low: float, high: float) -> str:
    """The verb for a `change`; of a single seed nothing is clear."""
    return "rises" if low > 0 else "falls" if high < 0 else "does not clearly move"


def movement(results: Results, arm: str, columns: dict[str, str] = PAID_AND_WANTED) -> str:
    """A sentence on how training columns of an arm moved; '' if it was not trained by RL."""
    if arm not in trained_by_rl(results):
        return ""
    clauses = []
    for column, name in columns.items():
        found = change(results, column, arm)
        by = f"{signed(found[0], 2)}{_ends(*found[1:], 2)}"
        clauses.append(f"{name} {moved(*found)} ({by})")
    return f"Under {label_of(arm)}, {join(clauses)}."


def over_optimised(results: Results, arms: Iterable[str] = (*RL, "rl_gold/gold")) -> str:
    """'gold is highest under rl (rule) at 2.3 of 2.5, and loses 4 points by the end; ...'."""
    told = []
    for arm in arms:
        if len(rows := lookup.over_optimised(results, arm)):
            means, least, most = rows.mean(), rows.regret.min(), rows.regret.max()
            told.append(
                f"{label_of(arm)} at {means.peak:.1f} of {means.end:.1f}, and loses "
                f"{100 * means.regret:.0f} points by the end (seeds from {100 * least:.0f} to "
                f"{100 * most:.0f})"
            )
    return f"gold is highest under {'; '.join(told)}" if told else ""


def control(results: Results) -> str:
    """Whether RL paid by the oracle raised gold on its own training prompts."""
    if "rl_gold/gold" not in trained_by_rl(results):
        return "This preset has no control: nothing is said for or against RL."
    found = change(results, "gold", "rl_gold/gold")
    by = points(pd.Series(found, index=["estimate", "low", "high"]))
    what = f"from the first to the last tenth of its steps gold moves by {by}"
    if pd.isna(found[1]):
        return f"The control is of one seed, which has no interval: {what}."
    if found[1] > 0:
        return f"The control holds: {what}."
    return f"**The control fails: {what}. No verdict on RL can be taken from these runs.**"


def times(
    results: Results,
    column: str,
    arms: Iterable[str] = (*RL, "two_stage/model"),
    other: str = "sft/none",
) -> str:
    """'as multiples of sft's: rl (rule) 3.4 and two_stage (model) 4.4'."""
    means = totals(results, column).estimate
    if other not in means.index:
        return f"without {label_of(other)} to compare with"
    found = join(
        f"{label_of(arm)} {means[arm] / means[other]:.1f}" for arm in arms if arm in means.index
    )
    return f"as multiples of {label_of(other)}'s: {found}"


def less_harm(results: Results) -> str:
    """'paid by the rule, chord_mu than sft and none than rl; ...' by Holm-adjusted pairs."""
    rows = select(results.table("hybrids"), metric="harm_rate", split="all")
    rows = rows[rows.a.str.partition("/")[0].isin(hybrid_variants())]
    said = []
    for reward in rewards(results):
        found = {o: select(rows, reward=reward, b=o) for o in ("sft/none", f"rl/{reward}")}
        names = [
            (join(arm.partition("/")[0] for arm in pairs.a[pairs.high < 0]) or "none")
            + f" than {other.partition('/')[0]}"
            for other, pairs in found.items()
            if len(pairs)
        ]
        if names:
            said.append(f"{PAID_BY[reward]}, {join(names)}")
    return "; ".join(said) or "no hybrid was compared"


def sweep(results: Results) -> str:
    """'joint_lambda 16% to 24% and ...': harm by what is swept, both rewards together."""
    rows = sweep_ranges(results).itertuples()
    return join(f"{name} {percent(low)} to {percent(high)}" for name, low, high in rows)


def tally(results: Results) -> str:
    """'8 claims: 3 supported (C1, C2, C4), 2 refuted (C5, C6) and 3 inconclusive (C3, C7, C8)'."""
    verdicts = claims(results)
    if verdicts.empty:
        return "0 claims: the arms that they compare were not all run"
    groups = {word: verdicts.index[verdicts.eq(word)] for word in VERDICTS}
    found = {word: f"{len(names)} {word} ({', '.join(names)})" for word, names in groups.items()}
    return f"{len(verdicts)} claims: {join(found[word] for word in VERDICTS if len(groups[word]))}"


def sensitivity(results: Results) -> str:
    """'9 of 15 effects have the same verdict at every point that gives one (...); ...'."""
    table = results.table("sensitivity")
    apart = table[table.verdict.isin(DECIDED)].groupby(EFFECT, sort=False).verdict.nunique()
    moved = join(sorted(set(apart.index[apart > 1].get_level_values("claim"))))
    changed = table[~table.default.astype(bool)].groupby(["parameter", "value"]).verdict
    no_base = int((~changed.agg(lambda verdicts: verdicts.isin(VERDICTS).any())).sum())
    no_control = int(changed.agg(lambda verdicts: verdicts.eq("descriptive").any()).sum())
    without = [
        f"at {no_base} the base is not competent" if no_base else "",
        f"at {no_control} the control fails, and RL has no verdict" if no_control else "",
    ]
    same = int((apart == 1).sum())
    have = "has" if same == 1 else "have"
    return sentence(
        f"{same} of {len(apart)} effects {have} the same verdict at every point that gives one "
        f"(the unchanged and {changed.ngroups} changed)",
        f"it changes in {moved}" if moved else "",
        join(filter(None, without)),
    )


def other_sides(results: Results) -> str:
    """The points at which an effect lies on the other side of its margin, by claim."""
    rows = lookup.sides(results)
    rows = rows[~rows.same]
    if rows.empty:
        return "At every changed point with a base each effect lies on its side of the margin."
    told = join(f"{claim} ({_points(points)})" for claim, points in rows.groupby("claim"))
    return f"An effect lies on the other side of its margin in {told}."


def ranges(results: Results) -> str:
    """Markdown: a row an effect, its estimate and verdict here, its least and most over the changed
    points that touch it and give a verdict, how often which, and where another than here."""
    at, told = lookup.sides(results).groupby(EFFECT), []
    for here in results.table("verdicts").itertuples():
        key = tuple(getattr(here, name) for name in EFFECT)
        if key not in at.groups:
            continue
        there = at.get_group(key)
        by_verdict = dict(iter(there.groupby("verdict")))
        told.append(
            [
                here.claim,
                f"{here.metric.replace('_', ' ')}, {here.contrast}{suffix_of(here.reward)}",
                f"{signed(here.estimate, 2)}, {here.verdict}",
                f"{signed(there.estimate.min(), 2)} to {signed(there.estimate.max(), 2)}",
                ", ".join(
                    f"{word} at {len(rows)}"
                    + (f" ({_points(rows)})" if word != here.verdict else "")
                    for word in DECIDED
                    if (rows := by_verdict.get(word)) is not None
                ),
            ]
        )
    head = ["claim", "effect", "here", "where a change touches it", "verdicts there"]
    return markdown.table(head, told)


def _points(rows: pd.DataFrame) -> str:
    """'base seed 1, 2; hidden size 128': points by parameter."""
    values = rows.groupby("parameter", sort=False).value
    told = (f"{n.replace('_', ' ')} {', '.join(map(str, v.unique()))}" for n, v in values)
    return "; ".join(told)


def other_side(results: Results) -> list[list[str]]:
    """Rows (claim beside which it stands, the counter-claim, what was measured)."""
    rows = []
    for row in results.table("exploratory").itertuples():
        _, counter, what = row.asks.partition("the counter-claim, ")
        if counter:
            rows.append([row.claim, what, effect(row)])
    gap = {"split": "unseen_both"}
    if own := gaps(results, ["sft/none", "base/none"], **gap):
        what = f"generalization gap, both unseen: {own}"
        rows.append(["C6", "the safety gains of SFT generalize poorly", what])
    return rows


def depth(results: Results) -> str:
    """Harm that policies add to begun responses, from shallow to deep."""
    found = {"nothing": "with nothing begun", "true_answer": "behind a true thought and the first "
             "words of an answer that complies", "false_answer": "behind a false thought and the "
             "same"}  # fmt: skip
    told = "; ".join(f"{words}, {begun(results, start)}" for start, words in found.items())
    return f"**How deep it goes.** Harm that the policy adds to a response begun for it: {told}."


def agreement(results: Results) -> str:
    """'`smollm2` and `organism`: 6 of 8 effects lie on the same side of their margin; not ...'."""
    rows = results.table("beside")
    first, second = dict.fromkeys(rows.preset)
    effects = rows[rows.preset.eq(first)]
    apart = [
        f"{row.claim} {row.metric.replace('_', ' ')} {row.contrast}"
        for row in effects[~effects.same_side].itertuples()
    ]
    found = f"{first} beside {second}: {len(effects) - len(apart)} of {len(effects)} effects lie"
    return f"{found} on the same side of their margin" + (
        f"; they disagree on {join(apart)}." if apart else "."
    )


def evidence(results: Results, claim: str) -> str:
    """The rows of a claim in words, each with effect, interval, margin and verdict."""
    return sentence(*map(effect, select(results.table("verdicts"), claim=claim).itertuples()))


def effect(row) -> str:
    """A row of verdicts.csv or exploratory.csv in words."""
    paid = f" ({row.reward} reward)" if row.reward in ("rule", "model") else ""
    by, low, high, margin = (signed(x, 3) for x in (row.estimate, row.low, row.high, row.margin))
    what = f"{row.metric.replace('_', ' ')}, {row.contrast}{paid}"
    return f"{what}: {by} [{low}, {high}] against a margin of {margin}, {row.verdict}"


def judge(results: Results) -> str:
    """How far the judge of refusals is to be believed, string matching beside it."""
    rows = results.table("judges")
    counts = rows[rows.counts.astype(bool)].iloc[0]
    clauses = []
    for _, row in rows.iterrows():
        measured = {
            name: row[[name, f"{name}_low", f"{name}_high"]].set_axis(["estimate", "low", "high"])
            for name in ("accuracy", "precision", "recall")
        }
        found = join(f"{name} {interval(values)}" for name, values in measured.items())
        clauses.append(f"`{row.judge}` has {found}, kappa {row.kappa:.2f}")
    return (
        f"Refusals are judged by `{counts.judge}`. Against {counts.n} responses that humans "
        f"labelled and no judge was fitted to, {'; '.join(clauses)}. Of {counts.judged} responses "
        f"here {counts.unparsed} could not be judged."
    )


def identifier(results: Results) -> str:
    """How often the language of free text is told rightly, by kind of line."""
    rows = results.table("identifier").groupby("kind", sort=False)[["right", "n"]].sum()
    found = join(f"{row.right} of {row.n} ({row.Index})" for row in rows.itertuples())
    return f"On lines whose languages are known the identifier is right in {found}."


def chosen_rates(results: Results) -> tuple[str, str]:
    """The learning rate of each arm, and which arms have one at an end of the grid."""
    frame = results.table("learning_rates")
    chosen = frame[frame.chosen].groupby("arm").learning_rate.first()
    rates = [f"{label_of(a)} {short(chosen[a])}" for a in results.arms("learning_rates")]
    ends = (frame.learning_rate.min(), frame.learning_rate.max())
    at_end = [label_of(arm) for arm in chosen.index if chosen[arm] in ends]
    return join(rates) or "none", join(at_end) or "none"


def gate(results: Results) -> str:
    """Whether the base passed its gate, with the checks that it failed."""
    frame = results.table("gate")
    failed = frame[~frame.passes.astype(bool)]
    if failed.empty:
        return f"The base passes all {len(frame)} checks."
    names = join(
        f"{row.check} ({row.language}: {row.value:.2f}, wanted {row.bound})"
        for row in failed.itertuples()
    )
    return f"**The base fails {len(failed)} of {len(frame)} checks: {names}.**"
