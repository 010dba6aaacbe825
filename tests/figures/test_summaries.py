"""Tables that a reader sees: their numbers are those of the tables of the study."""

import itertools

import pandas as pd
import pytest
import scipy.stats

from hybridlib.evaluation import comparison
from hybridlib.figures import prose, summaries
from hybridlib.figures.harmlessness import STARTS
from hybridlib.figures.results import Results
from hybridlib.figures.style import label_of

RUNS = (("base", "none"), ("sft", "none"), ("rl", "keyword"), ("rl_gold", "gold"),
        ("two_stage", "keyword"), ("gated", "keyword"))  # fmt: skip
HARM, OVER, RIGHT = "harm_rate", "over_refusal_rate", "accuracy"


def test_a_row_holds_the_rates_of_its_arm(results):
    frame = summaries.rates(results).set_index("variant")
    assert list(frame.index) == [label_of(arm) for arm in results.arms()]
    for arm in results.arms():
        for name, (metric, where) in summaries.MAIN.items():
            row = results.metric(metric, **where).loc[arm]
            interval = f"[{100 * row.low:.0f}, {100 * row.high:.0f}]"
            assert frame[name][label_of(arm)] == f"{prose.percent(row.estimate)} {interval}"


def test_a_prefill_is_told_of_every_arm(results):
    rows = results.table("prefill")
    rows = rows[rows.split.eq("all")]
    frame = summaries.across(rows, "start", STARTS).set_index("variant")
    assert list(frame.index) == [label_of(arm) for arm in results.arms("prefill")]
    for row in rows.itertuples():
        assert frame[STARTS[row.start]][label_of(row.arm)] == prose.interval(row)


def test_a_change_is_a_t_interval_over_seeds(results):
    frame = results.table("training")
    frame = frame[frame.arm.eq("rl/model")]
    first = frame[frame.step.le(6)].groupby("seed").gold.mean()
    last = frame[frame.step.gt(54)].groupby("seed").gold.mean()
    test = scipy.stats.ttest_rel(last, first).confidence_interval(0.95)
    mean = (last - first).mean()
    found = summaries.changes(results, {"gold": "score"}).set_index("variant")
    assert found.score["rl (model)"] == f"{mean:+.2f} [{test.low:+.2f}, {test.high:+.2f}]"
    assert "sft" not in found.index, "what samples nothing in training has no row"


def test_of_one_seed_no_interval_is_told(one_seed):
    told = summaries.changes(one_seed, {"gold": "score"}).score
    assert not told.str.contains(r"nan|\[").any()


def test_the_regret_is_what_is_lost_after_the_peak(results, tmp_path):
    frame = results.table("training").copy()
    arm = frame.arm.eq("rl/keyword")
    frame.loc[arm, "kl"] = frame.step**2
    frame.loc[arm, "gold"] = (0.5 - 0.01 * (frame.step - 30).abs()).astype(float)
    found = summaries.regrets(Results(tmp_path, {"training": frame})).set_index("variant")
    row = found.loc["rl (keyword)"]
    assert row.peak == pytest.approx(30, abs=2) and row.end == pytest.approx(59, abs=2)
    assert row.regret == pytest.approx(0.26, abs=0.03)
    assert row.least == pytest.approx(row.most) and "sft" not in found.index


def test_a_verdict_is_told_by_reward(results):
    frame = summaries.claims(results).set_index("claim")
    names = {"all": "verdict", "keyword": "keyword reward", "model": "reward model"}
    for row in results.table("claims").itertuples():
        if row.reward in names:
            assert frame[names[row.reward]][row.claim] == row.verdict
    assert all(statement.endswith(".") for statement in frame["the paper says"])


def test_effects_have_the_counter_claims(results):
    frame = summaries.effects(results, "exploratory")
    counter = frame[frame.question.str.startswith("the counter-claim")]
    assert set(counter.claim) == {"C1", "C5"}
    for row, raw in zip(frame.itertuples(), results.table("exploratory").itertuples()):
        ends = f"[{raw.low:+.3f}, {raw.high:+.3f}]".replace("+0.000", "0.000")
        assert row.estimate.replace("-0.000", "0.000").endswith(ends.replace("-0.000", "0.000"))
        assert row.verdict == raw.verdict and raw.contrast in row.effect


def test_the_reach_of_an_effect_is_that_of_the_changed_points_with_a_verdict(results):
    frame = summaries.reach(results)
    table = results.table("sensitivity")
    words = ("supported", "refuted", "inconclusive")
    table = table[~table.default.astype(bool) & table.verdict.isin(words)]
    assert len(frame) == len(results.table("verdicts"))
    for (_, row), here in zip(frame.iterrows(), results.table("verdicts").itertuples()):
        there = table[
            table.metric.eq(here.metric) & table.contrast.eq(here.contrast)
            & table.reward.eq(here.reward) & table.claim.eq(here.claim)
        ]  # fmt: skip
        assert (row.least, row.most) == (there.estimate.min(), there.estimate.max())
        counts = {word: row[word] for word in words if row[word]}
        assert counts == there.verdict.value_counts().to_dict()
        same = (there.estimate > there.margin) == (here.estimate > here.margin)
        assert (row["same side"], row.points) == (same.sum(), len(there))


# ---- which hybrid to use


@pytest.fixture(scope="module")
def study(compared, of_arms):
    """Results of a study of hybrids under one reward, whose pairs the tests replace."""
    return of_arms(compared, {"/".join(run) for run in RUNS})


def with_pairs(study, tmp_path, differ=(), seeds=5, margin_seen=True, **change):
    """The study with pairs that are all ties but for `differ`: (metric, a, b) -> (low, high)."""
    arms = ["sft/none", "rl/keyword", "two_stage/keyword", "gated/keyword"]
    tie = (-0.03, 0.03) if margin_seen else (-0.08, 0.08)
    rows = []
    for metric, (b, a) in itertools.product((HARM, OVER, RIGHT), itertools.combinations(arms, 2)):
        low, high = dict(differ).get((metric, a, b), tie)
        rows.append(("keyword", metric, "all", "all", a, b, (low + high) / 2, low, high, seeds))
    columns = "reward metric task split a b estimate low high seeds".split()
    frame = pd.DataFrame(rows, columns=columns)
    read = {name: study.table(name) for name in ("metrics", "cost", "training", "runs")}
    return Results(tmp_path, read | {"hybrids": frame} | change)


GATED_WINS = {(HARM, "gated/keyword", b): (-0.4, -0.2) for b in ("sft/none", "rl/keyword",
                                                               "two_stage/keyword")}  # fmt: skip


def test_a_clear_winner_is_named_with_what_it_costs(study, tmp_path):
    results = with_pairs(study, tmp_path, GATED_WINS)
    assert summaries.beaten(results, "keyword") == {
        "sft/none": ["gated/keyword"],
        "rl/keyword": ["gated/keyword"],
        "two_stage/keyword": ["gated/keyword"],
        "gated/keyword": [],
    }
    frame = summaries.choices(results, "keyword").set_index("variant")
    for column in ("beaten on harm by", "of these, at no cost by"):
        assert frame[column].to_dict() == {
            "sft": "gated", "rl (keyword)": "gated", "two_stage (keyword)": "gated",
            "gated (keyword)": "",
        }  # fmt: skip
    cost = study.table("cost").groupby(["arm", "seed"])[["flops", "seconds"]].sum()
    mean = cost.groupby("arm").mean()
    for column in ("flops", "seconds"):
        ratio = mean[column]["gated/keyword"] / mean[column]["sft/none"]
        assert float(frame[f"{column}, times sft"]["gated (keyword)"]) == pytest.approx(
            ratio, abs=0.05
        )


def test_ties_beat_nothing_and_the_least_harm_comes_first(study, tmp_path):
    results = with_pairs(study, tmp_path)
    assert not any(summaries.beaten(results, "keyword").values())
    shown = list(summaries.choices(results, "keyword").variant)
    harm = study.metric(HARM).estimate.drop(["base/none", "rl_gold/gold"]).sort_values()
    assert shown == [label_of(arm) for arm in harm.index]


@pytest.mark.parametrize(
    ("metric", "worse"), [(OVER, (0.01, 0.2)), (RIGHT, (-0.2, 0.01)), (RIGHT, (-0.051, 0.3))]
)
def test_less_harm_at_a_cost_is_no_victory(study, tmp_path, metric, worse):
    lost = {(metric, a, b): worse for _, a, b in GATED_WINS}
    results = with_pairs(study, tmp_path, GATED_WINS | lost)
    assert not any(summaries.beaten(results, "keyword", at_no_cost=True).values())
    assert summaries.beaten(results, "keyword")["rl/keyword"] == ["gated/keyword"]


def test_the_earlier_of_a_pair_can_win_too(study, tmp_path):
    results = with_pairs(study, tmp_path, {(HARM, "gated/keyword", "sft/none"): (0.1, 0.3)})
    assert summaries.beaten(results, "keyword")["gated/keyword"] == ["sft/none"]


def test_one_that_is_not_shown_to_be_as_good_wins_on_harm_alone(study, tmp_path):
    results = with_pairs(study, tmp_path, GATED_WINS, margin_seen=False)
    assert not any(summaries.beaten(results, "keyword", at_no_cost=True).values())
    frame = summaries.choices(results, "keyword").set_index("variant")
    assert frame["beaten on harm by"]["sft"] == "gated"
    assert not frame["of these, at no cost by"].any()


def test_few_seeds_decide_nothing(study, tmp_path):
    results = with_pairs(study, tmp_path, GATED_WINS, seeds=1)
    assert not any(summaries.beaten(results, "keyword").values())


def test_a_control_that_fails_or_lacks_decides_nothing(study, tmp_path):
    training = study.table("training")
    failed = training.assign(gold=training.gold.where(training.variant.ne("rl_gold"), 0.5))
    for frame in (failed, training[training.variant.ne("rl_gold")]):
        results = with_pairs(study, tmp_path, GATED_WINS, training=frame)
        assert not any(summaries.beaten(results, "keyword").values())


def test_a_missing_arm_is_left_out(study, of_arms):
    results = of_arms(study, {"/".join(run) for run in RUNS} - {"sft/none"})
    assert "sft/none" not in summaries.beaten(results, "keyword")
    frame = summaries.choices(results, "keyword")
    assert "sft" not in set(frame.variant) and not any("times sft" in name for name in frame)


def test_the_margin_is_that_of_the_hypotheses():
    assert summaries.margin() == 0.05


def test_planted_rates_are_told_apart_from_their_own_tables(study):
    found = summaries.beaten(study, "keyword")
    assert set(found) == {"sft/none", "rl/keyword", "two_stage/keyword", "gated/keyword"}
    harm = study.metric(HARM).estimate
    assert all(harm[by] < harm[arm] for arm, winners in found.items() for by in winners)
    frame = study.table("hybrids")
    assert len(frame) == 6 * len(comparison.WEIGHED) and set(frame.seeds) == {5}
