"""Tables that a reader sees: their numbers are those of the tables of the study."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import synthetic

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
    assert set(counter.claim) == {"C1", "C2"}
    for row, raw in zip(frame.itertuples(), results.table("exploratory").itertuples()):
        if not raw.metric.startswith("log_"):
            _, low, high = re.findall(r"[-+]?[\d.]+", row.estimate)
            ends = [float(low), float(high)]
            assert ends == pytest.approx([100 * raw.low, 100 * raw.high], abs=0.051)
        assert row.verdict == raw.verdict and row.effect == prose.effect(raw)


def test_an_effect_is_told_with_all_that_it_rests_on(population):
    frame, raw = summaries.effects(population), population.table("verdicts")
    slopes = population.table("moderators")
    assert len(frame) == len(raw) and set(raw.reward) == {"keyword", "model", "none"}
    for told, row in zip(frame.to_dict("records"), raw.itertuples(), strict=True):
        if row.metric == "log_flops_to_harm":
            assert float(told["estimate"].split()[0]) == pytest.approx(
                np.exp(row.estimate), rel=0.05
            )
            assert told["margin"] == "1 times"
        else:
            assert float(told["estimate"].split()[0]) == pytest.approx(100 * row.estimate, abs=0.06)
            assert float(told["margin"]) == pytest.approx(100 * row.margin)
        counted = round(row.share_on_side * row.replicates)
        assert told["claimed side"] == f"{counted} of {row.replicates}"
        assert told["fragile"] == {True: "fragile", False: "no"}.get(row.fragile, "")
        mine = slopes
        for name in ("claim", "metric", "contrast", "task", "split", "language", "reward"):
            mine = mine[mine[name].eq(getattr(row, name))]
        clear = set(mine[(mine.low > 0) | (mine.high < 0)].parameter)
        named = {name for name in mine.parameter if name.replace("_", " ") in told["depends on"]}
        assert named == clear
    assert frame["depends on"].ne("").any() and frame["depends on"].eq("").any()


def test_of_one_replicate_nothing_is_predicted(one_seed):
    assert set(summaries.effects(one_seed)["new replicate"]) == {""}


def test_the_compute_that_harmlessness_takes_is_found_between_snapshots(tmp_path):
    """Two replicates from a base of 80% harm: one reaches 20% half way between two snapshots, one
    never; a third is there at its first snapshot."""
    at = {"variant": "rl", "reward": "keyword", "responses": 64, "kl": 1.0, "refuses": 0.0}
    runs = {0: [0.5, 0.3, 0.1], 1: [0.7, 0.6, 0.5], 2: [0.0, 0.0, 0.0]}
    rows = [
        at | {"seed": seed, "step": n, "flops": 1e12 * n, "harm": harm}
        for seed, run in runs.items()
        for n, harm in enumerate(run, 1)
    ]
    snapshots = pd.DataFrame(rows).assign(arm="rl/keyword")
    base = pd.DataFrame({"seed": [0, 1, 2], "value": 0.8, "arm": "base/none"})
    base = base.assign(metric="harm_rate", task="all", split="all", language="all")
    results = Results(tmp_path, {"snapshots": snapshots, "values": base})
    (row,) = summaries.reached(results, 0.2).itertuples(index=False)
    assert row[:2] == ("rl (keyword)", "2 of 3")
    assert row[2] == "1.6e12"  # between 2.5e12, and 0.75e12 of the way down from 0.8
    assert summaries.reached(results, 0.05).iloc[0, 1] == "1 of 3"


def test_a_distance_is_the_root_of_the_last_kl(results):
    frame = summaries.distances(results).set_index("variant")
    raw = results.table("snapshots")
    last = raw[raw.arm.eq("rl/model") & raw.step.eq(60)]
    test = scipy.stats.t.interval(
        0.95, 4, np.sqrt(last.kl).mean(), np.sqrt(last.kl).sem()
    )  # fmt: skip
    told = f"{np.sqrt(last.kl).mean():.2f} [{test[0]:.2f}, {test[1]:.2f}]"
    assert frame.distance["rl (model)"] == told
    assert frame.harm["rl (model)"].startswith(f"{100 * last.harm.mean():.0f}% [")


def test_the_chosen_rate_is_told_with_its_plateau(results):
    frame, raw = summaries.chosen_rates(results), results.table("learning_rates")
    assert len(frame) == len(results.arms("learning_rates"))
    for row in frame.to_dict("records"):
        mine = raw[raw.variant.eq(row["variant"]) & raw.reward.eq(row["reward"])]
        assert float(row["chosen"]) == mine[mine.chosen].learning_rate.iloc[0]
        ends = [float(row["plateau from"]), float(row["to"])]
        plateau = mine[mine.plateau].learning_rate
        assert ends == [plateau.min(), plateau.max()] and row["rates tried"] == 5


def test_a_check_is_told_over_all_bases(results):
    gate = results.table("gate").copy()
    odd = gate.check.eq("harm_rate") & gate.seed.eq(2)
    gate.loc[odd, ["value", "passes"]] = [0.1, False]
    frame = summaries.gates(Results(results.folder, {"gate": gate})).set_index("check")
    assert frame.loc["harm_rate", ["least", "most", "passes", "bases"]].tolist() == [
        0.1,
        0.88,
        4,
        5,
    ]
    assert frame.passes.drop("harm_rate").eq(5).all()


def test_a_hack_is_told_with_its_counts_and_its_highest_share(results):
    frame, raw = summaries.hacks(results).set_index("variant"), results.table("hacks")
    assert list(frame.index) == [label_of(arm) for arm in results.arms("hacks")]
    for row in raw.itertuples():
        told = frame[row.hack][label_of(row.arm)]
        assert told.startswith(f"{row.counts} of {row.replicates}: ")
        assert told.endswith(f"[{prose.percent(row.most)}]")
    assert frame["gold falls while the reward holds"]["sft"] == ""


def test_harm_by_attack_is_the_mean_over_all_its_responses(results):
    frame = summaries.by_place(results, "attack").set_index("attack")
    asked = synthetic.responses()
    asked = asked[asked.kind.eq("harmful") & asked.decoding.eq("sample")]
    assert set(frame.index) == set(asked.attack)
    harm = asked.groupby(["attack", "variant", "reward"]).harm.mean()
    for (attack, variant, reward), value in harm.items():
        assert frame[label_of(f"{variant}/{reward}")][attack] == prose.percent(value)
    assert frame.responses.to_dict() == asked.groupby("attack").size().to_dict()


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
    columns = "reward metric task split a b estimate low high replicates".split()
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
    assert len(frame) == 6 * len(comparison.WEIGHED) and set(frame.replicates) == {5}
