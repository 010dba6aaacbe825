"""The tables against plain pandas and scipy on synthetic responses."""

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats
from scipy.stats import entropy

from hybridlib.evaluation import hypotheses, metrics, statistics, tables
from hybridlib.evaluation.statistics import Replicates
from hybridlib.store.errors import OneLineError
from hybridlib.tasks.responses import CLASSES

NUMBERS = "low high predicted_low predicted_high replicates responses"
TEST = (
    "claim metric contrast task split language reward estimate low high predicted_low "
    "predicted_high margin replicates share_on_side verdict fragile"
)
COLUMNS = {
    "values": "variant reward seed metric task split language value responses",
    "metrics": "preset variant reward metric task split language part decoding estimate " + NUMBERS,
    "classes": "preset variant reward task split language decoding kind response_class share "
    + NUMBERS,
    "contrasts": "preset metric a b task split language decoding estimate " + NUMBERS,
    "prefill": "preset variant reward start split metric estimate " + NUMBERS,
    "usage": "preset variant reward form than metric language estimate " + NUMBERS,
    "verdicts": TEST,
    "exploratory": TEST + " asks",
    "claims": "claim reward tests verdict",
    "replicates": "claim metric contrast task split language reward seed estimate responses",
    "moderators": "claim metric contrast task split language reward parameter slope low high",
    "recipes": "seed competent superficial_refusal_share minority_share hidden_size",
    "snapshots": "variant reward seed step flops harm refuses kl responses",
    "learning_rates": "variant reward seed learning_rate objective plateau chosen",
    "response_curves": "variant reward learning_rate seed metric task split value",
    "gate": "check language value bound passes seed",
    "runs": "run variant reward seed stage",
    "places": "variant reward by name split harm refuses replicates responses",
    "hacks": "variant reward hack counts replicates share most seed",
    "transcripts": "variant reward seed hack prompt response",
}


def write(folder, frames, drawn=None):
    grid = synthetic.learning_rates(), synthetic.response_curves()
    tables.write_tables(folder, "test", frames, *grid, drawn or {})


def read(folder, name):
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def responses():
    """What the tables of `results` rest on."""
    return synthetic.responses()


@pytest.fixture(scope="module")
def frames(results):
    found = {path.stem: read(path.parent, path.stem) for path in results.folder.glob("tables/*")}
    for frame in found.values():
        for name in {"estimate", *NUMBERS.split()} & set(frame):
            frame[name] = pd.to_numeric(frame[name])
    return found


def row(frame, **where):
    rows = frame[np.logical_and.reduce([frame[name].eq(value) for name, value in where.items()])]
    assert len(rows) == 1, (where, len(rows))
    return rows.iloc[0]


POOLED = {"task": "all", "split": "all", "language": "all", "decoding": "sample"}
NUMERIC = ["estimate", "low", "high", "predicted_low", "predicted_high"]


@pytest.mark.parametrize("name", COLUMNS)
def test_columns(frames, name):
    assert list(frames[name]) == COLUMNS[name].split()


# Each metric in plain words: a query for its population, and a score of a row.
PLAIN = {
    "harm_rate": ("kind == 'harmful'", lambda r: r.harm),
    "superficial_refusal_rate": (
        "kind == 'harmful'",
        lambda r: (r.harm == 1) & (r.keyword_satisfied == 1),
    ),
    "genuine_refusal_rate": ("kind == 'harmful'", lambda r: r.response_class == "refuses"),
    "evasion_rate": ("kind == 'harmful'", lambda r: r.response_class == "evades"),
    "keyword_satisfied_rate": ("kind == 'harmful'", lambda r: r.keyword_satisfied),
    "refusal_gap": (
        "kind == 'harmful'",
        lambda r: r.keyword_satisfied - 1.0 * (r.response_class == "refuses"),
    ),
    "reward_accuracy": ("kind == 'harmful'", lambda r: (r.rewarded >= 0.5) == (r.gold == 1)),
    "reward_brier": ("kind == 'harmful'", lambda r: (r.rewarded - r.gold) ** 2),
    "keyword_accuracy": ("kind == 'harmful'", lambda r: r.keyword_satisfied == r.gold),
    "over_refusal_rate": ("kind == 'benign'", lambda r: r.refusal),
    "lookalike_refusal_rate": ("kind == 'benign' and lookalike != 'none'", lambda r: r.refusal),
    "recall": ("kind == 'benign'", lambda r: r.correct),
    "accuracy": ("task == 'sums'", lambda r: r.correct),
    "off_language_rate": ("kind != ''", lambda r: r.off_language),
    "target_language_share": ("kind != ''", lambda r: r.target_language_share),
    "language_entropy": (  # two words of one language and one of the other
        "kind != ''",
        lambda r: r.thought.str.contains(" es ") * entropy([2, 1], base=2),
    ),
    "switches_per_100_words": ("kind != ''", lambda r: r.switches_per_100_words),
    "repetition": ("kind != ''", lambda r: r.repetition),
    "well_formedness": ("kind != ''", lambda r: r.response_class != "malformed"),
    "truncation_rate": ("kind != ''", lambda r: r.truncated),
    "response_length": ("kind != ''", lambda r: r.tokens),
    "proxy": ("kind != ''", lambda r: r.proxy),
    "gold": ("kind != ''", lambda r: r.gold),
}
UNBOUNDED = {"refusal_gap", "switches_per_100_words", "response_length", "proxy"}
PLACES = [
    {},
    {"language": "es", "decoding": "greedy"},
    {"task": "records", "split": "unseen_both"},
    {"split": "unseen", "language": "en"},
    {"split": "undeclared"},
]


def asked_in(rows, where):
    """The rows of a place, in plain pandas."""
    rows = rows[rows.decoding.eq(where["decoding"])]
    for name in ("task", "language"):
        rows = rows if where[name] == "all" else rows[rows[name].eq(where[name])]
    if where["split"] == "unseen":
        return rows[rows.split.ne("seen")]
    return rows if where["split"] == "all" else rows[rows.split.eq(where["split"])]


def each(rows, score):
    """(mean, number) of a score in each replicate."""
    found = rows.assign(score=score(rows).astype(float)).groupby("seed").score
    return found.mean().to_numpy(), found.count().to_numpy()


@pytest.mark.parametrize("metric", PLAIN)
def test_a_row_is_the_mean_over_replicates_and_its_intervals(responses, frames, metric):
    query, score = PLAIN[metric]
    asked = responses.query(query + " and variant == 'rl' and reward == 'model'")
    tried = 0
    for where in (POOLED | place for place in PLACES):
        if (rows := asked_in(asked, where)).empty:
            continue
        values, counts = each(rows, score)
        found = row(
            frames["metrics"], variant="rl", reward="model", metric=metric, part="whole", **where
        )
        assert found.estimate == pytest.approx(values.mean(), rel=1e-5, abs=1e-9)
        assert (found.replicates, found.responses) == (5, len(rows))
        wanted = (  # a rate's is Wilson's, which test_statistics.py holds against statsmodels
            stats.ttest_1samp(values, 0).confidence_interval()
            if metric in UNBOUNDED
            else Replicates(values, True, counts).interval()[1:3]
        )
        assert (found.low, found.high) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        variance = np.var(values, ddof=1)
        error = np.sqrt(variance / 5)
        if metric not in UNBOUNDED:  # one response may always differ
            error = max(error, 1 / len(rows))
        half = stats.t.ppf(0.975, 4) * np.sqrt(variance + error**2)
        wanted = np.array([values.mean() - half, values.mean() + half])
        wanted = tuple(wanted if metric in UNBOUNDED else np.clip(wanted, 0, 1))
        predicted = found.predicted_low, found.predicted_high
        assert predicted == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        tried += 1
    assert tried


def test_values_are_those_of_each_replicate(responses, frames):
    found = frames["values"]
    assert set(found.metric) == set(frames["metrics"].metric)
    assert found[["task", "split", "language"]].ne("all").sum(axis=1).max() == 1
    for metric, place in (("harm_rate", {"split": "unseen"}), ("accuracy", {"language": "es"})):
        query, score = PLAIN[metric]
        rows = asked_in(responses.query(query + " and variant == 'sft'"), POOLED | place)
        values, counts = each(rows, score)
        at = {"task": "all", "split": "all", "language": "all"} | place
        of = found[found.variant.eq("sft") & found.metric.eq(metric)]
        of = of[of[list(at)].eq(pd.Series(at)).all(axis=1)]
        assert list(of.seed) == list(range(5)) and list(of.responses) == list(counts)
        assert of.value.to_numpy() == pytest.approx(values, rel=1e-5)


def of_public_sets() -> set[str]:
    """Metrics whose population holds prompts of public sets and no others."""
    prompts = pd.DataFrame({"task": ["records", "recipes", "sums"]})
    prompts = prompts.assign(kind=["harmful", "benign", "reasoning"], lookalike="owner")
    populations = {name: metrics.POPULATIONS[m.population] for name, m in metrics.METRICS.items()}
    return {name for name, holds in populations.items() if not holds(prompts).any()}


def test_every_metric_is_checked_and_written(responses, frames):
    own = set(metrics.METRICS) - of_public_sets()
    assert set(PLAIN) == own - {"generalization_gap"}
    assert {metric for metric in set(frames["metrics"].metric) if metric in own} == own
    alone = metrics.measured(responses[responses.seed.eq(0)])
    assert set(alone.metric) & set(metrics.METRICS) == own, "no metric of what was not asked"


def test_public_requests_have_metrics_of_their_own(responses, frames):
    public = synthetic.public(responses)
    judged = {"non_refusal_rate", "non_refusal_gap", "request_refusal_rate"}
    free = {"free_text_off_language_rate", "free_text_target_language_share"}
    assert set(frames["metrics"].metric) >= judged | free
    for metric, kind, of in (
        ("non_refusal_rate", "harmful", lambda r: 1 - r.judged_refusal),
        ("request_refusal_rate", "benign", lambda r: r.judged_refusal),
    ):
        rows = public.query(f"variant == 'sft' and kind == '{kind}' and decoding == 'sample'")
        found = row(frames["metrics"], variant="sft", metric=metric, part="whole", **POOLED)
        assert found.estimate == pytest.approx(each(rows, of)[0].mean(), rel=1e-5)
    # and are in no metric of the tasks
    own = metrics.measured(responses[responses.seed.eq(1)])
    both = pd.concat([responses, public])
    both = metrics.measured(both[both.seed.eq(1)])
    kept = both[both.metric.isin(own.metric)].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, own)


def test_what_has_no_answer_is_counted_and_in_no_rate(responses):
    rows = synthetic.public(responses).query("variant in ('sft', 'rl') and seed == 0")
    some = rows.prompt_id.isin(rows.prompt_id.unique()[::3]) | rows.variant.eq("rl")
    silent = rows.assign(no_answer=1.0, judged_refusal=np.nan, truncated=1.0)
    rows = rows.mask(some, silent)
    found = metrics.measured(rows, 0)
    found = found[found.decoding.eq("sample") & found.part.eq("whole")]

    def mean(variant: str, metric: str) -> tuple[float, int]:
        one = found[found.variant.eq(variant) & found.metric.eq(metric)]
        return tuple(one.iloc[0][["value", "responses"]])

    own = rows.query("variant == 'sft' and decoding == 'sample'")
    for name, column in (
        ("no_answer_rate", "no_answer"),
        ("free_text_truncation_rate", "truncated"),
    ):
        assert mean("sft", name) == (pytest.approx(own[column].mean()), len(own))
    refused = own.query("kind == 'benign'").judged_refusal.dropna()
    assert mean("sft", "request_refusal_rate") == (pytest.approx(refused.mean()), len(refused))
    assert mean("rl", "no_answer_rate")[0] == 1
    silent = found[found.variant.eq("rl")].metric
    assert not silent.isin(["request_refusal_rate", "non_refusal_rate"]).any(), "none was judged"


def test_parts(responses, frames):
    for part in ("thought", "answer"):
        for metric, column in (("harm_rate", "harm"), ("off_language_rate", "off_language")):
            rows = responses.query("variant == 'sft' and decoding == 'sample'")
            values, _ = each(rows, lambda r, of=f"{column}_{part}": r[of])
            found = row(frames["metrics"], variant="sft", metric=metric, part=part, **POOLED)
            assert found.estimate == pytest.approx(values.mean(), rel=1e-5)


@pytest.mark.parametrize("split", ["unseen_both", "unseen_category", "undeclared", "unseen"])
def test_a_gap_is_harm_on_an_unseen_split_minus_harm_on_seen_in_each_replicate(
    responses, frames, split
):
    rows = responses.query("variant == 'sft_narrow' and kind == 'harmful' and task == 'records'")
    (other, more), (seen, some) = (
        each(asked_in(rows, POOLED | {"split": at}), lambda r: r.harm) for at in (split, "seen")
    )
    where = POOLED | {"split": split, "task": "records"}
    of = {"variant": "sft_narrow", "metric": "generalization_gap", "part": "whole"}
    found = row(frames["metrics"], **of, **where)
    assert found.estimate == pytest.approx((other - seen).mean(), abs=1e-6)
    assert found.responses == (more + some).sum()
    wanted = np.clip(stats.ttest_1samp(other - seen, 0).confidence_interval(), -1, 1)
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-5)
    gaps = frames["metrics"].query("metric == 'generalization_gap'")
    assert not gaps.split.isin(["all", "seen"]).any()


def test_where_nothing_seen_was_asked_there_is_no_gap():
    rows = synthetic.responses(1, runs=(("base", "none"),))
    rows = rows[~(rows.split.eq("seen") & rows.task.eq("recipes"))]
    found = metrics.measured(rows)
    gaps = found[found.metric.eq("generalization_gap")]
    assert set(gaps.task) == {"all", "records"}


def test_shares_of_classes_add_up_and_count_the_responses(responses, frames):
    classes = frames["classes"]
    where = list(classes)[: list(classes).index("response_class")]
    np.testing.assert_allclose(classes.groupby(where).share.sum(), 1, atol=1e-5)
    of = "variant == 'rl' and reward == 'keyword' and kind == 'benign' and decoding == 'sample'"
    rows = responses.query(of + " and split == 'seen'")
    at = POOLED | {"split": "seen", "variant": "rl", "reward": "keyword", "kind": "benign"}
    of = classes[np.logical_and.reduce([classes[name].eq(value) for name, value in at.items()])]
    assert list(of.response_class) == list(CLASSES["benign"]), "in their order"
    for name, share in zip(of.response_class, of.share):
        values, _ = each(rows, lambda r, name=name: r.response_class.eq(name))
        assert share == pytest.approx(values.mean(), rel=1e-5, abs=1e-9)


def test_the_classes_are_all_that_occur(responses):
    for kind, rows in responses.groupby("kind"):
        assert set(rows.response_class) <= set(CLASSES[kind])


@pytest.mark.parametrize("place", [{}, {"split": "unseen"}, {"task": "recipes"}])
def test_contrasts_are_paired_within_replicates(responses, frames, place):
    where = POOLED | place
    (rl, some), (sft, more) = (
        each(asked_in(responses.query(f"{of} and kind == 'harmful'"), where), lambda r: r.harm)
        for of in ("variant == 'rl' and reward == 'keyword'", "variant == 'sft'")
    )
    found = row(frames["contrasts"], metric="harm_rate", a="rl/keyword", b="sft/none", **where)
    assert found.estimate == pytest.approx((rl - sft).mean(), abs=1e-6)
    wanted = stats.ttest_rel(rl, sft).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=1e-5)
    assert found.responses == some.sum() + more.sum()


def test_each_arm_is_held_against_the_base_and_no_pair_is_there_both_ways_round(frames):
    pairs = set(zip(frames["contrasts"].a, frames["contrasts"].b))
    arms = {"/".join(arm) for arm in synthetic.RATES}
    assert {a for a, b in pairs if b == "base/none"} == arms - {"base/none"}
    tests = hypotheses.load().tests() + hypotheses.load().tests("exploratory")
    named = {frozenset(half.variants) for _, half, _ in tests if len(half.variants) == 2}
    assert {frozenset(of.split("/")[0] for of in pair) for pair in pairs} >= {
        pair for pair in named if pair <= {variant for variant, _ in synthetic.RATES}
    }
    assert not {(b, a) for a, b in pairs} & pairs


def test_places_are_means_over_replicates_by_attack_and_category(responses, frames):
    of = "variant == 'rl' and reward == 'model' and kind == 'harmful' and decoding == 'sample'"
    for by, name, split in (("attack", "prefix", "unseen_both"), ("category", "pin", "seen")):
        rows = responses.query(of)
        rows = rows[rows[by].eq(name) & rows.split.eq(split)]
        at = {"variant": "rl", "reward": "model", "by": by, "name": name, "split": split}
        found = row(frames["places"], **at)
        assert (found.replicates, found.responses) == (5, len(rows))
        assert found.harm == pytest.approx(each(rows, lambda r: r.harm)[0].mean(), rel=1e-5)
        refused = each(rows, lambda r: r.response_class.eq("refuses"))[0].mean()
        assert found.refuses == pytest.approx(refused, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("gain, holds", [(0.4, True), (0.0, False), (-0.4, False)])
def test_the_control_holds_if_gold_rose(gain, holds):
    curve = pd.DataFrame(
        [
            (seed, step, 0.1 + gain * step / 20 + 0.01 * (seed + step) % 0.03)
            for seed in range(5)
            for step in range(20)
        ],
        columns=["seed", "step", "gold"],
    ).assign(variant="rl_gold")
    assert tables.control_holds(curve) is holds
    assert not tables.control_holds(curve.assign(variant="rl"))
    assert not tables.control_holds(curve[:0])


# --- which tables there are ---------------------------------------------------------------------

FEW = (("base", "none"), ("sft", "none"), ("rl", "keyword"))


def test_bytes_repeat_whatever_the_order_of_responses_and_replicates(results, tmp_path):
    frames = synthetic.frames(2, FEW)
    rows = synthetic.responses(2, runs=FEW)
    rows = pd.concat([rows, synthetic.public(rows)])
    write(tmp_path / "as read", frames)
    shuffled = metrics.measured(rows.sample(frac=1, random_state=0))
    turned = {name: frames[name][::-1] for name in ("snapshots", "recipes")}
    write(tmp_path / "turned", frames | turned | {"values": shuffled[::-1]})
    for path in (tmp_path / "as read").iterdir():
        assert (tmp_path / "turned" / path.name).read_bytes() == path.read_bytes(), path.name


def test_several_samples_of_a_prompt_are_one_mean_and_many_responses():
    once = synthetic.responses(2, runs=(("base", "none"), ("sft", "none")))
    one, two = (metrics.measured(rows) for rows in (once, pd.concat([once, once])))
    pd.testing.assert_frame_equal(one.drop(columns="responses"), two.drop(columns="responses"))
    assert (two.responses == 2 * one.responses).all()


def test_few_replicates_and_variants_are_described_and_the_rest_left_out(few):
    verdicts, claims = (few.table(name) for name in ("verdicts", "claims"))
    assert set(verdicts.claim) == {"C1", "C2", "C3", "C4", "C5"}
    assert set(verdicts.reward) == {"keyword", "none"}
    assert set(verdicts.verdict) == set(claims.verdict) == {"descriptive"}
    assert "C7" not in set(claims.claim), "two_stage was not run"
    assert "all" not in set(claims[claims.claim.eq("C1")].reward), "one of its two rewards was not"


def test_a_base_alone_has_no_contrasts(tmp_path):
    """As `gathered` gives it: what is of training has no rows, or no frame."""
    frames = synthetic.frames(1, (("base", "none"),))
    for name in ("training", "snapshots", "cost", "reward_models", "transcripts"):
        del frames[name]
    write(tmp_path, frames)
    assert len(read(tmp_path, "metrics")) > 100
    for name in ("contrasts", "verdicts", "exploratory", "claims", "replicates", "snapshots"):
        found = read(tmp_path, name)
        assert found.empty and list(found) == COLUMNS[name].split(), name
    assert read(tmp_path, "cost").empty


def test_a_replicate_that_is_missing_is_not_paired(tmp_path):
    runs = (("base", "none"), ("sft", "none"))
    rows = synthetic.responses(5, runs=runs)
    rows = rows[~(rows.variant.eq("sft") & rows.seed.eq(3))]
    write(tmp_path, synthetic.frames(5, runs) | {"values": metrics.measured(rows)})
    found = row(read(tmp_path, "contrasts"), metric="harm_rate", a="sft/none", **POOLED)
    both = rows.query("kind == 'harmful' and decoding == 'sample' and seed != 3")
    assert (found.replicates, found.responses) == (4, len(both))
    means = both.groupby(["variant", "seed"]).harm.mean()
    assert found.estimate == pytest.approx((means["sft"] - means["base"]).mean(), abs=1e-6)


def test_tables_that_a_study_has_no_more_go(tmp_path):
    frames = synthetic.frames(1, (("base", "none"), ("rl", "keyword")))
    frames["at_budget"] = frames["values"].assign(flops=1e9)
    for name in ("judges", "requests", "identifier", "beside"):  # what else was in this folder
        (tmp_path / f"{name}.csv").write_text("of an earlier study\n")
    write(tmp_path, frames)
    assert {"prefill.csv", "usage.csv", "at_budget.csv", "reward_models.csv"} <= {
        path.name for path in tmp_path.iterdir()
    }
    always = {path.stem for path in tmp_path.iterdir()} - tables.OF_SOME
    kept = {name: frame for name, frame in frames.items() if name not in tables.OF_SOME}
    write(tmp_path, kept)
    assert {path.stem for path in tmp_path.iterdir()} == always


def test_a_base_that_is_not_competent_is_counted_and_in_no_other_table(population):
    there = {path.stem: read(path.parent, path.stem) for path in population.folder.glob("tables/*")}
    failed = there["recipes"].query("not competent").seed
    assert list(failed) == [8] and len(there["recipes"]) == 9
    assert set(there["gate"].seed) == set(range(9))
    for name, frame in there.items():
        if name not in ("recipes", "gate", "hacks", "learning_rates", "response_curves"):
            assert "seed" not in frame or set(frame.seed) == set(range(8)), name
    assert set(there["verdicts"].replicates) == {8} and set(there["metrics"].replicates) == {8}


def test_where_no_base_is_competent_a_line_says_so(tmp_path):
    frames = synthetic.frames(1, FEW)
    frames["recipes"] = frames["recipes"].assign(competent=False)
    write(tmp_path / "not drawn", frames)
    with pytest.raises(OneLineError, match=r"no base .* is competent"):
        write(tmp_path / "drawn", frames, synthetic.DRAWN)


def test_verdicts_follow_the_rule_from_their_own_rows(frames):
    for frame in (frames["verdicts"], frames["exploratory"]):
        for of in frame.itertuples():
            said = statistics.verdict(of.low, of.high, of.margin, of.replicates)
            assert of.verdict == said
            assert of.low <= of.estimate <= of.high
            assert of.predicted_low <= of.estimate <= of.predicted_high
