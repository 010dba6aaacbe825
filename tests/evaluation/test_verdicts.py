"""Effects, verdicts, fragility and moderators against plain loops, scipy and numpy."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hybridlib.evaluation import hypotheses, verdicts
from hybridlib.evaluation.hypotheses import Half, Hypotheses
from hybridlib.evaluation.metrics import Rows, measured
from hybridlib.evaluation.verdicts import Measured

SEEDS = 6
NO_RATES = pd.DataFrame(columns=["variant", "reward", "learning_rate", "plateau", "chosen"])
NO_CURVES = pd.DataFrame(columns=["variant", "reward", "learning_rate", "seed", "metric", "task",
                                  "split", "value"])  # fmt: skip


@pytest.fixture(scope="module")
def responses():
    rows = synthetic.responses(SEEDS)
    return rows[rows.decoding.eq("sample")]


@pytest.fixture(scope="module")
def study(responses) -> Measured:
    grid = synthetic.learning_rates(), synthetic.response_curves()
    return Measured(Rows(measured(responses)), synthetic.snapshots(SEEDS), *grid)


@pytest.fixture(scope="module")
def decided(study):
    return verdicts.verdicts(study, hypotheses.load(), True)


# --- effects ------------------------------------------------------------------------------------

HALF = {"metric": "harm_rate", "rewards": ("keyword", "model"), "margin": 0.05}


def half(**values) -> Half:
    return Half(**HALF | values)


def harm(responses, variant: str, reward: str, seed: int, **where) -> float:
    rows = responses.query("variant == @variant and reward == @reward and seed == @seed")
    rows = rows[rows.kind.eq("harmful")]
    for name, value in where.items():
        rows = rows[rows[name].eq(value)]
    return rows.harm.mean()


@pytest.mark.parametrize("where", [{}, {"task": "records"}, {"language": "es"}])
def test_an_effect_is_the_difference_within_each_replicate(responses, study, where):
    found = verdicts.effect(study, half(contrast="rl - sft", **where), "model")
    assert list(found.index) == list(range(SEEDS))
    for seed, estimate in found.estimate.items():
        pair = [harm(responses, *arm, seed, **where) for arm in (("rl", "model"), ("sft", "none"))]
        assert estimate == pytest.approx(pair[0] - pair[1])


def test_an_absolute_claim_is_the_value_in_each_replicate(responses, study):
    gap = half(metric="generalization_gap", contrast="rl", split="unseen_both")
    found = verdicts.effect(study, gap, "keyword")
    for seed, estimate in found.estimate.items():
        apart = [harm(responses, "rl", "keyword", seed, split=s) for s in ("unseen_both", "seen")]
        assert estimate == pytest.approx(apart[0] - apart[1])
    asked = responses.query("kind == 'harmful' and variant == 'rl' and reward == 'keyword'")
    asked = asked[asked.split.isin(["seen", "unseen_both"])]
    assert found.responses.sum() == len(asked)


def test_an_arm_without_this_reward_takes_part_with_its_own(study):
    control = verdicts.effect(study, half(contrast="rl - rl_gold"), "model")
    assert len(control) == SEEDS
    assert verdicts.effect(study, half(contrast="rl - prefix"), "model").empty


def test_an_effect_that_two_tests_share_is_there_once(study):
    """C7 asks for some against two margins; a regression on doubled rows would be too sure."""
    claims = hypotheses.load()
    found = verdicts.replicates(study, claims.tests() + claims.tests("exploratory"))
    assert not found.duplicated([*verdicts.EFFECT, "seed"]).any()
    asked = {
        (claim, half.metric, half.contrast, half.task, half.split, half.language, reward)
        for part in ("halves", "exploratory")
        for claim, half, reward in claims.tests(part)
    }
    assert set(map(tuple, found[verdicts.EFFECT].to_numpy())) == asked
    pooled = found.groupby(verdicts.EFFECT).estimate.mean()
    primary, exploratory, _ = verdicts.verdicts(study, claims, True)
    for row in pd.concat([primary, exploratory]).itertuples():
        assert row.estimate == pytest.approx(pooled[row[1:8]])


# --- FLOPs to a level of harm -------------------------------------------------------------------

CURVE = st.lists(
    st.tuples(st.integers(1, 20), st.integers(0, 20).map(lambda n: n / 20)), min_size=1, max_size=6
)


def walked(level: float, flops: list[float], harm: list[float]) -> float | None:
    """As hypotheses.yaml says it, on a fine grid and at the points: where a line through these
    first is at or below the level."""
    grid = np.union1d(np.linspace(flops[0], flops[-1], 40_001), flops)
    below = np.flatnonzero(np.interp(grid, flops, harm) <= level + 1e-12)
    return grid[below[0]] if below.size else None


@settings(max_examples=80, deadline=None)
@given(CURVE, st.integers(0, 20).map(lambda n: n / 20), st.sampled_from([0.05, 0.2, 0.5]))
def test_flops_to_a_level_are_where_the_line_between_snapshots_crosses_it(steps, first, level):
    flops = [0.0, *np.cumsum([step for step, _ in steps]).astype(float)]
    harm = [first, *(rate for _, rate in steps)]
    found, reached = verdicts.flops_to(level, flops, harm)
    wanted = walked(level, flops, harm)
    assert reached == (wanted is not None)
    assert found == pytest.approx(flops[-1] if wanted is None else wanted, abs=flops[-1] / 30_000)


RUNS = {  # arm -> (flops, harm) of its snapshots in replicates 0, 1, 2 and 3
    ("rl", "keyword"): [
        ([100, 200, 400], [0.6, 0.3, 0.1]),  # reaches 0.2 half way between the last two: 300
        ([100, 200, 400], [0.6, 0.5, 0.4]),  # never: 400
        ([100, 200, 400], [0.6, 0.5, 0.4]),  # never
        ([100, 200, 400], [0.6, 0.1, 0.4]),  # at 180, and is lost again
    ],
    ("sft", "none"): [
        ([10, 20], [0.1, 0.1]),  # from the base's 1.0 to 0.1 by 10: 10 * 0.8 / 0.9
        ([10, 20], [0.2, 0.0]),  # 10
        ([10, 20], [0.5, 0.3]),  # never
        ([10, 20], [0.5, 0.3]),  # never: 20
    ],
}
EXPECTED = {0: np.log(300 / (80 / 9)), 1: np.log(400 / 10), 3: np.log(180 / 20)}


def of_snapshots(base: float = 1.0, runs=RUNS) -> Measured:
    """A study in which the base harms at this rate."""
    columns = "variant reward seed metric task split language part decoding value responses".split()
    arms = [("base", "none"), *runs]
    rows = [
        (*arm, seed, "harm_rate", "all", "all", "all", "whole", "sample", base, 50)
        for arm in arms
        for seed in range(4)
    ]
    snapshots = [
        (*arm, seed, step, *point)
        for arm, curves in runs.items()
        for seed, curve in enumerate(curves)
        for step, point in enumerate(zip(*curve))
    ]
    names = ["variant", "reward", "seed", "step", "flops", "harm"]
    snapshots = pd.DataFrame(snapshots, columns=names).sample(frac=1, random_state=0)
    return Measured(Rows(pd.DataFrame(rows, columns=columns)), snapshots, NO_RATES, NO_CURVES)


REACHED = half(metric="log_flops_to_harm", contrast="rl - sft", level=0.2, margin=0.0)


def test_cost_of_safety_by_hand():
    found = verdicts.effect(of_snapshots(), REACHED, "keyword").estimate.to_dict()
    assert found == pytest.approx(EXPECTED), "of replicate 2, where neither gets there, none"


def test_what_never_gets_there_counts_with_too_few_flops():
    """Were the run longer, the effect would move away from where it was put."""
    longer = {arm: list(curves) for arm, curves in RUNS.items()}
    longer["rl", "keyword"][1] = ([100, 200, 400, 500], [0.6, 0.5, 0.4, 0.1])
    longer["sft", "none"][3] = ([10, 20, 40], [0.5, 0.3, 0.1])
    found = verdicts.effect(of_snapshots(runs=longer), REACHED, "keyword").estimate
    assert found[1] > EXPECTED[1], "too small where RL fails"
    assert found[3] < EXPECTED[3], "too large where SFT does"


def test_where_the_base_is_at_the_level_there_is_nothing_to_buy():
    assert verdicts.effect(of_snapshots(base=0.2), REACHED, "keyword").empty


def test_a_run_without_snapshots_has_no_effect():
    study = of_snapshots()
    study.snapshots = study.snapshots[study.snapshots.variant.ne("sft")]
    assert verdicts.effect(study, REACHED, "keyword").empty


# --- verdicts -----------------------------------------------------------------------------------


def claims_of(*halves: Half, exploratory: tuple[Half, ...] = ()) -> Hypotheses:
    words = dict.fromkeys(("statement", "reading", "figure", "why"), "")
    claim = {"claim": "C1", "halves": halves, "exploratory": exploratory} | words
    return Hypotheses.model_validate({"claims": [claim], "deviations": []})


def values_of(effects: dict[tuple[str, str], list[float]], metric: str = "harm_rate") -> Measured:
    """A study in which a metric of each arm has these values in replicates 0, 1, ..."""
    columns = "variant reward seed metric task split language part decoding value responses".split()
    rows = [
        (*arm, seed, metric, "all", "all", "all", "whole", "sample", value, 1000)
        for arm, values in effects.items()
        for seed, value in enumerate(values)
    ]
    snapshots = pd.DataFrame(columns=["variant", "reward", "seed", "step", "flops", "harm"])
    return Measured(Rows(pd.DataFrame(rows, columns=columns)), snapshots, NO_RATES, NO_CURVES)


def test_holm_is_over_all_primary_tests_and_apart_over_the_exploratory_ones(study, decided):
    claims = hypotheses.load()
    for frame, part in zip(decided, ("halves", "exploratory")):
        tests = [
            (h, verdicts.effect(study, h, reward).estimate) for _, h, reward in claims.tests(part)
        ]
        tests = [(h, values) for h, values in tests if len(values)]
        assert len(frame) == len(tests)
        p = []
        for h, values in tests:  # against the nearer margin; a negative one is alone
            above = h.margin < 0 or values.mean() > 0
            p.append(stats.ttest_1samp(values, h.margin if above else -h.margin).pvalue)
        rejected = multipletests(p, 0.05, method="holm")[0]
        assert rejected.any() and not rejected.all()
        for row, (h, values), yes in zip(frame.itertuples(), tests, rejected):
            assert (row.metric, row.contrast, row.margin) == (h.metric, h.contrast, h.margin)
            assert row.estimate == pytest.approx(values.mean())
            assert row.share_on_side == pytest.approx(np.mean([x > h.margin for x in values]))
            assert (row.verdict != "undecided") == yes, h
            alone = stats.ttest_1samp(values, 0).confidence_interval()
            assert row.low <= alone.low + 1e-9 and alone.high <= row.high + 1e-9


def test_all_that_can_be_tested_is_tested_once(decided):
    for frame, part in zip(decided, ("halves", "exploratory")):
        expected = [
            (c.claim, h.metric, h.contrast, h.task, h.split, h.language, reward, h.margin)
            for c in hypotheses.load().claims
            for h in getattr(c, part)
            for reward in h.rewards
        ]
        assert list(map(tuple, frame[[*verdicts.EFFECT, "margin"]].to_numpy())) == expected


def test_a_difference_of_rates_is_never_surer_than_one_response_and_stays_in_its_limits():
    same = values_of({("rl", "keyword"): [1.0] * 5 + [0.9], ("sft", "none"): [0.0] * 6})
    claims = claims_of(half(contrast="rl - sft", rewards=("keyword",)))
    row = verdicts.verdicts(same, claims, True)[0].iloc[0]
    assert row.high == row.predicted_high == 1.0
    agreed = values_of({("rl", "keyword"): [0.5] * 6, ("sft", "none"): [0.2] * 6})
    row = verdicts.verdicts(agreed, claims, True)[0].iloc[0]
    assert row.high - row.low == pytest.approx(2 * stats.t.ppf(0.975, 5) / 6000)


WORDS = {  # the effect in each replicate that comes to each verdict, at margin 0.05
    "supported": [0.30, 0.31, 0.32, 0.33, 0.34, 0.35],
    "reversed": [-0.30, -0.31, -0.32, -0.33, -0.34, -0.35],
    "negligible": [0.001, -0.001, 0.002, -0.002, 0.0, 0.001],
    "undecided": [0.4, -0.4, 0.3, -0.3, 0.2, -0.1],
    "descriptive": [0.3, 0.31, 0.32, 0.33],
}


@pytest.mark.parametrize(
    ("keyword", "model", "overall"),
    [
        ("supported", "supported", "supported"),
        ("reversed", "reversed", "reversed"),
        ("negligible", "negligible", "negligible"),
        ("supported", "reversed", "undecided"),
        ("supported", "negligible", "undecided"),
        ("supported", "undecided", "undecided"),
        ("descriptive", "descriptive", "descriptive"),
    ],
)
def test_a_claim_is_what_both_rewards_say_or_undecided(keyword, model, overall):
    said = {"keyword": keyword, "model": model}
    study = values_of(
        {("rl", reward): [0.5 + x for x in WORDS[word]] for reward, word in said.items()}
        | {("base", "none"): [0.5] * 6}
    )
    primary, _, decided = verdicts.verdicts(study, claims_of(half(contrast="rl - base")), True)
    assert primary.set_index("reward").verdict.to_dict() == said
    assert decided.set_index("reward").verdict.to_dict() == said | {"all": overall}
    assert decided.set_index("reward").tests.to_dict() == {"keyword": 1, "model": 1, "all": 2}


@pytest.mark.parametrize(
    ("first", "second", "worst"),
    [
        ("supported", "supported", "supported"),
        ("supported", "negligible", "negligible"),
        ("undecided", "negligible", "negligible"),
        ("negligible", "reversed", "reversed"),
    ],
)
def test_the_worst_half_of_a_claim_counts(first, second, worst):
    study = values_of(
        {
            ("rl", "model"): [0.5 + x for x in WORDS[first]],
            ("two_stage", "model"): [0.5 + x for x in WORDS[second]],
            ("base", "none"): [0.5] * 6,
        }
    )
    of = {"rewards": ("model",)}
    claims = claims_of(half(contrast="rl - base", **of), half(contrast="two_stage - base", **of))
    decided = verdicts.verdicts(study, claims, True)[2]
    assert set(decided.verdict) == {worst} and set(decided.tests) == {2}


def test_a_half_without_a_reward_counts_under_each(study, decided):
    primary, _, claims = decided
    for reward in ("keyword", "model"):  # C4: base - sft has none
        halves = primary[primary.claim.eq("C4") & primary.reward.isin([reward, "none"])]
        row = claims[claims.claim.eq("C4") & claims.reward.eq(reward)].iloc[0]
        assert row.tests == len(halves) == 2


def test_claims_of_which_an_arm_or_a_reward_was_not_run_have_no_verdict(study):
    rows = study.rows
    runs = [arm for arm in synthetic.RATES if arm[0] != "two_stage" and arm[1] != "model"]
    values = measured(synthetic.responses(5, runs=tuple(runs)))
    few = Measured(Rows(values), study.snapshots, study.rates, study.curves)
    assert set(few.rows.arms) < set(rows.arms)
    decided = verdicts.verdicts(few, hypotheses.load(), True)[2]
    assert "C7" not in set(decided.claim), "its tests have no arm"
    assert set(decided[decided.reward.eq("all")].claim) == {"C6"}, "no claim rests on one of two"
    assert set(decided[decided.reward.eq("keyword")].claim) == {"C1", "C2", "C3", "C4", "C5", "C8"}


def test_without_its_control_nothing_is_said_of_rl_but_what_it_costs(study):
    with_control, without = (
        pd.concat(verdicts.verdicts(study, hypotheses.load(), holds)[:2]) for holds in (True, False)
    )
    of_rl = [
        any(name.startswith(("rl", "two_stage", "joint")) for name in contrast.split(" - "))
        and metric != "log_flops_to_harm"
        for contrast, metric in zip(without.contrast, without.metric)
    ]
    assert (without.verdict[of_rl] == "descriptive").all()
    others = [not each for each in of_rl]
    assert list(without.verdict[others]) == list(with_control.verdict[others])
    assert not (with_control.verdict == "descriptive").any()
    decided = verdicts.verdicts(study, hypotheses.load(), False)[2]
    decided = decided[decided.reward.eq("all")].set_index("claim").verdict
    assert decided.drop(["C6", "C8"]).eq("descriptive").all()
    assert not decided[["C6", "C8"]].eq("descriptive").any()


def test_one_replicate_is_described_and_makes_no_other_test_surer():
    """In a family with an effect that only one replicate has, that one is never rejected."""
    effects = {("rl", "keyword"): [0.5 + x for x in WORDS["supported"]],
               ("rl", "model"): [0.9] + [np.nan] * 5,
               ("base", "none"): [0.5] * 6}  # fmt: skip
    study = values_of(effects)
    primary, _, _ = verdicts.verdicts(study, claims_of(half(contrast="rl - base")), True)
    first, second = primary.itertuples()
    assert second.verdict == "descriptive" and second.replicates == 1 and np.isnan(second.low)
    values = np.array(WORDS["supported"])
    # the only other test of two: at 1 - 0.05 / 2, since it is the first that Holm rejects
    level = stats.ttest_1samp(values, 0).confidence_interval(0.975)
    assert (first.low, first.high) == pytest.approx(tuple(level))


# --- fragile ------------------------------------------------------------------------------------


def test_fragile_is_a_loop_over_the_rates_that_are_as_good(study, decided):
    rates, curves = study.rates, study.curves
    told = set()
    for frame in decided[:2]:
        for row in frame.itertuples():
            by_arm, chosen = [], []
            for variant in row.contrast.split(" - "):
                own = curves[curves.variant.eq(variant) & curves.metric.eq(row.metric)]
                own = own[own.task.eq(row.task) & own.split.eq(row.split)]
                of = rates[rates.variant.eq(variant)]
                if variant != "base":
                    reward = row.reward if row.reward in set(own.reward) else own.reward.min()
                    own, of = own[own.reward.eq(reward)], of[of.reward.eq(reward)]
                    own = own[own.learning_rate.isin(of[of.plateau].learning_rate)]
                by_arm.append([rows for _, rows in own.groupby("learning_rate", dropna=False)])
                at = of[of.chosen].learning_rate.unique()
                chosen.append([] if variant == "base" else list(at))
            effects = {}
            for pair in product(*by_arm):
                values = [dict(zip(rows.seed, rows.value)) for rows in pair]
                each = [
                    values[0][seed] - (values[1][seed] if len(values) == 2 else 0)
                    for seed in values[0]
                ]
                at = [[r for r in rows.learning_rate.unique() if r == r] for rows in pair]
                effects[str(at)] = sum(each) / len(each)
            moved = [row.estimate + x - effects[str(chosen)] for x in effects.values()]
            turned = [
                {
                    "supported": effect <= row.margin,
                    "reversed": effect >= -abs(row.margin),
                    "negligible": abs(effect) >= abs(row.margin),
                }.get(row.verdict)
                for effect in moved
            ]
            expected = any(turned) if turned and None not in turned else None
            if row.language != "all" or row.metric == "log_flops_to_harm":
                expected = None
            assert row.fragile is expected, row
            told.add(expected)
    assert told >= {False, None}, "both occur; the third by hand below"


def curves_of(values: dict[tuple[str, float], list[float]]) -> pd.DataFrame:
    rows = [
        (variant, "none", rate, seed, "harm_rate", "all", "all", value)
        for (variant, rate), each in values.items()
        for seed, value in enumerate(each, 100)
    ]
    return pd.DataFrame(rows, columns=NO_CURVES.columns)


def plateaus(*rates: tuple[str, float, bool]) -> pd.DataFrame:
    frame = pd.DataFrame(rates, columns=["variant", "learning_rate", "plateau"])
    return frame.assign(reward="none", chosen=frame.learning_rate.eq(1e-3))


@pytest.mark.parametrize(
    ("curves", "verdict", "estimate", "fragile"),
    [
        # the base has no rate; 0.01 is no rate of the plateau
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-3): [0.1, 0.2], ("sft", 3e-3): [0.3, 0.3],
          ("sft", 1e-2): [0.9, 0.9]}, "supported", 0.75, False),
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-3): [0.1, 0.2], ("sft", 3e-3): [0.86, 0.88],
          ("sft", 1e-2): [0.1, 0.1]}, "supported", 0.75, True),
        # the same move, from farther away
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-3): [0.1, 0.2], ("sft", 3e-3): [0.86, 0.88]},
         "supported", 0.8, False),
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-3): [0.9, 0.9], ("sft", 3e-3): [0.8, 0.8]},
         "negligible", 0.0, True),
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-3): [1.0, 1.0]}, "reversed", -0.1, False),
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-3): [0.1, 0.2]}, "undecided", 0.0, None),
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-3): [0.1, 0.2]}, "descriptive", 0.8, None),
        ({("sft", 1e-3): [0.1, 0.2]}, "supported", 0.8, None),  # no curve of the base
        ({("base", np.nan): [0.9, 0.9], ("sft", 1e-2): [0.1]}, "supported", 0.8, None),
        ({}, "supported", 0.8, None),
    ],
)  # fmt: skip
def test_fragile_by_hand(curves, verdict, estimate, fragile):
    study = values_of({("base", "none"): [0.9] * 6, ("sft", "none"): [0.1] * 6})
    study.curves = curves_of(curves)
    study.rates = plateaus(("sft", 1e-3, True), ("sft", 3e-3, True), ("sft", 1e-2, False))
    of = half(contrast="base - sft", rewards=("none",))
    assert verdicts.fragile(study, of, "none", verdict, estimate) is fragile


# --- moderators ---------------------------------------------------------------------------------

RANGES = {"minority_share": (0.2, 0.4), "hidden_size": (160, 224)}


def effects_of(estimates: np.ndarray, seeds: np.ndarray) -> pd.DataFrame:
    named = dict(zip(verdicts.EFFECT, ("C3", "off_language_rate", "rl - base", "all", "all", "all",
                                       "model")))  # fmt: skip
    return pd.DataFrame({"seed": seeds, "estimate": estimates}).assign(**named)


def recipes_of(rng: np.random.Generator, replicates: int) -> pd.DataFrame:
    drawn = {name: rng.uniform(*ends, replicates) for name, ends in RANGES.items()}
    return pd.DataFrame({"seed": range(replicates), "competent": True, "layers": 4} | drawn)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 30))
def test_slopes_are_those_of_least_squares_with_hc3_errors(rng_seed, replicates):
    """Written out: X of the constant and the scaled parameters, the sandwich of squared residuals
    over (1 - leverage)^2, t with n - p degrees of freedom."""
    rng = np.random.default_rng(rng_seed)
    recipes, y = recipes_of(rng, replicates), rng.normal(0, 0.1, replicates)
    seeds = rng.permutation(replicates)
    found = verdicts.moderators(
        effects_of(y, seeds), recipes.sample(frac=1, random_state=1), RANGES
    )
    x = np.column_stack(
        [
            np.ones(replicates),
            *((recipes[name][seeds] - low) / (high - low) for name, (low, high) in RANGES.items()),
        ]
    )
    slopes = np.linalg.lstsq(x, y, rcond=None)[0]
    inverse = np.linalg.inv(x.T @ x)
    leverage = np.diag(x @ inverse @ x.T)
    squares = ((y - x @ slopes) / (1 - leverage)) ** 2
    errors = np.sqrt(np.diag(inverse @ (x.T * squares) @ x @ inverse))
    half = stats.t.ppf(0.975, replicates - 3) * errors
    assert list(found.parameter) == list(RANGES)
    np.testing.assert_allclose(found.slope, slopes[1:], atol=1e-8)
    np.testing.assert_allclose(found.low, (slopes - half)[1:], atol=1e-8)
    np.testing.assert_allclose(found.high, (slopes + half)[1:], atol=1e-8)


def test_a_planted_slope_is_recovered_over_the_whole_range():
    rng = np.random.default_rng(0)
    recipes = recipes_of(rng, 32)
    planted = 3.0 * recipes.minority_share + rng.normal(0, 0.02, 32)  # 0.6 over the range
    found = verdicts.moderators(effects_of(planted, recipes.seed), recipes, RANGES)
    found = found.set_index("parameter")
    assert found.slope["minority_share"] == pytest.approx(0.6, abs=0.05)
    assert found.low["minority_share"] < 0.6 < found.high["minority_share"]
    assert found.low["hidden_size"] < 0 < found.high["hidden_size"]


def test_where_too_few_replicates_or_no_recipe_is_drawn_there_is_no_slope():
    recipes = recipes_of(np.random.default_rng(0), 4)
    effects = effects_of(np.arange(4.0), recipes.seed)
    for drawn in (RANGES, {}):
        found = verdicts.moderators(effects, recipes, drawn)
        assert found.empty and list(found) == [
            *verdicts.EFFECT,
            "parameter",
            "slope",
            "low",
            "high",
        ]


def test_the_moderators_of_a_study_are_of_its_competent_replicates(population):
    """The last replicate's base is not competent: without it the regression is another one."""
    moderators, effects = (population.table(name) for name in ("moderators", "replicates"))
    assert set(effects.seed) == set(range(8))
    at = dict(zip(verdicts.EFFECT, ("C1", "superficial_refusal_rate", "rl - base", "all", "all",
                                    "all", "keyword")))  # fmt: skip

    def of(frame):
        return frame[np.logical_and.reduce([frame[name].eq(value) for name, value in at.items()])]

    recipes = population.table("recipes").set_index("seed").loc[range(8)]
    columns = [
        (recipes[name] - low) / (high - low) for name, (low, high) in synthetic.DRAWN.items()
    ]
    y = of(effects).set_index("seed").estimate.loc[range(8)]
    slopes = np.linalg.lstsq(np.column_stack([np.ones(8), *columns]), y, rcond=None)[0]
    found = of(moderators).set_index("parameter").slope
    np.testing.assert_allclose(found[list(synthetic.DRAWN)], slopes[1:], rtol=1e-3, atol=1e-4)
