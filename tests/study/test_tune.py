"""Learning rates: the rule against a plain reading of it, the grid, stops, response curves."""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import pandas as pd
import pytest
import synthetic
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybridlib import config as configuration
from hybridlib.config import RunConfig, load_config, presets
from hybridlib.evaluation import hypotheses, tables
from hybridlib.evaluation.metrics import METRICS
from hybridlib.store.errors import ParameterError
from hybridlib.store.lock import BusyError, only_here
from hybridlib.study import jobs, keys, stages, tune
from hybridlib.study.tune import BASE, DEVELOPMENT, RATES, REWARD_MODEL, WIDER
from hybridlib.variants import VARIANTS, arm_name, measured, rewards_of

# --- the rule, as DESIGN words it: "the rate is the geometric middle of all rates whose own
# --- objective lies within one standard error of the best"


def reading(grid: dict[float, list[Fraction | None]]) -> tuple[set[float], float, float]:
    """(plateau, chosen, best) in exact numbers; None: a run that diverged, so its rate is out.

    Rates that the plateau does not reach without a gap are left out: between two peaks there is no
    middle that is as good.
    """
    rates = sorted(grid)
    means = {r: sum(v) / len(v) for r, v in grid.items() if None not in v}
    if not means:
        return {rates[0]}, rates[0], rates[0]
    best = min(r for r in means if means[r] == max(means.values()))
    n, top = len(grid[best]), means[best]
    squared_error = sum((x - top) ** 2 for x in grid[best]) / (n - 1) / n
    near = {r for r in means if (top - means[r]) ** 2 <= squared_error}
    spans = [
        set(rates[i : j + 1])
        for i in range(len(rates))
        for j in range(i, len(rates))
        if best in rates[i : j + 1] and set(rates[i : j + 1]) <= near
    ]
    plateau = max(spans, key=len)
    # In squares of rates, so that it needs no logarithm: |log r - log sqrt(ab)|.
    product = Fraction(str(min(plateau))) * Fraction(str(max(plateau)))

    def distance(rate: float) -> Fraction:
        ratio = Fraction(str(rate)) ** 2 / product
        return max(ratio, 1 / ratio)

    return plateau, min(plateau, key=lambda r: (distance(r), r)), best


@st.composite
def grids(draw) -> dict[float, list[Fraction | None]]:
    """Five rates or more, next to one another, three replicates each; many are alike."""
    first = draw(st.integers(0, len(WIDER) - 5))
    last = draw(st.integers(first + 5, len(WIDER)))
    value = st.one_of(st.integers(-6, 6), st.integers(-96, 96)).map(lambda n: Fraction(n, 16))
    value = st.one_of(*[value] * 9, st.none())
    found = {r: draw(st.lists(value, min_size=3, max_size=3)) for r in WIDER[first:last]}
    means = [sum(v) / 3 for v in found.values() if None not in v]
    for v in found.values():  # on the limit itself, rounding decides
        if None not in v and means and (top := max(means)) != sum(v) / 3:
            for other in found.values():
                if None not in other and sum(other) / 3 == top:
                    error = sum((x - top) ** 2 for x in other) / 6
                    assume((top - sum(v) / 3) ** 2 != error)
    return found


def runs(grid: dict[float, list[Fraction | None]]) -> pd.DataFrame:
    rows = [
        (rate, seed, -math.inf if value is None else float(value))
        for rate, values in grid.items()
        for seed, value in zip(DEVELOPMENT, values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["learning_rate", "seed", "objective"])


@given(grid=grids(), shuffle=st.randoms())
@settings(max_examples=200, deadline=None)
def test_the_rule_is_that_of_the_design(grid, shuffle):
    plateau, rate, best = reading(grid)
    frame = runs(grid)
    order = list(range(len(frame)))
    shuffle.shuffle(order)
    table = tune.chosen(frame.iloc[order])
    assert set(table[table.plateau].learning_rate) == plateau
    assert set(table[table.chosen].learning_rate) == {rate}
    # and its grid goes on exactly where the best rate or the chosen one is its first or last
    at_edge = {best, rate} & {min(grid), max(grid)}
    if not at_edge:
        assert tune.next_rate(frame) is None
    elif at_edge & {WIDER[0], WIDER[-1]} and (min(grid) in at_edge) == (WIDER[0] in at_edge):
        with pytest.raises(ParameterError, match="at the edge of all that are tried"):
            tune.next_rate(frame)
    else:
        step = -1 if min(grid) in at_edge else 1
        edge = min(grid) if step < 0 else max(grid)
        assert tune.next_rate(frame) == WIDER[WIDER.index(edge) + step]


def by_hand(*means: float, error: float = 0.0) -> pd.DataFrame:
    """A grid with these mean objectives and this standard error of each."""
    apart = error * math.sqrt(3)  # of the three values -apart, 0, apart the error is this
    rows = [
        (rate, seed, mean + apart * n)
        for rate, mean in zip(RATES, means, strict=True)
        for seed, n in zip(DEVELOPMENT, (-1, 0, 1))
    ]
    return pd.DataFrame(rows, columns=["learning_rate", "seed", "objective"])


def found(frame: pd.DataFrame) -> tuple[list[float], float]:
    table = tune.chosen(frame)
    (rate,) = set(table[table.chosen].learning_rate)
    return sorted(set(table[table.plateau].learning_rate)), rate


def test_grids_by_hand():
    far = -math.inf
    assert found(by_hand(0, 1, 2, 1, 0)) == ([1e-3], 1e-3)
    # within one standard error: the middle of three, and of two or four the smaller of the middle
    assert found(by_hand(0, 1.6, 2, 1.7, 0, error=0.5)) == ([3e-4, 1e-3, 3e-3], 1e-3)
    assert found(by_hand(0, 1, 2, 1.7, 0, error=0.5)) == ([1e-3, 3e-3], 1e-3)
    assert found(by_hand(0, 1.7, 2, 1.7, 1.6, error=0.5))[1] == 1e-3
    # the best need not be in the middle, nor chosen
    assert found(by_hand(0, 2, 1.8, 1.8, 0, error=0.5)) == ([3e-4, 1e-3, 3e-3], 1e-3)
    # what a worse rate divides from the best is not of the plateau
    assert found(by_hand(1.9, 0, 2, 1, 0, error=0.5)) == ([1e-3], 1e-3)
    # equal ones without any error
    assert found(by_hand(0, 2, 2, 2, 0)) == ([3e-4, 1e-3, 3e-3], 1e-3)
    # a rate at which one replicate of three diverges is never the best
    diverged = by_hand(0, 1, 2, 1, 0)
    diverged.loc[diverged.learning_rate.eq(1e-3) & diverged.seed.eq(101), "objective"] = far
    assert found(diverged)[0] == [3e-4]
    assert tune.next_rate(by_hand(far, far, far, far, far)) == 3e-5


def test_a_chosen_rate_at_the_edge_extends_the_grid_too():
    """The best is none of the ends, but of it and its neighbour at the end the smaller is taken."""
    grid = by_hand(1.9, 2, 1, 0, 0, error=0.5)
    assert found(grid) == ([1e-4, 3e-4], 1e-4)
    assert tune.next_rate(grid) == 3e-5


@given(peak=st.integers(1, len(WIDER) - 2), steepness=st.floats(0.1, 3))
@settings(max_examples=30, deadline=None)
def test_a_grid_ends_around_its_optimum(peak, steepness):
    def objective(rate: float) -> float:
        return -steepness * abs(math.log(rate / WIDER[peak]))

    rates = list(RATES)
    rows = [(r, s, objective(r)) for r in rates for s in DEVELOPMENT]
    while True:
        frame = pd.DataFrame(rows, columns=["learning_rate", "seed", "objective"])
        if (more := tune.next_rate(frame)) is None:
            break
        rates.append(more)
        rows += [(more, s, objective(more)) for s in DEVELOPMENT]
    assert found(frame)[1] == WIDER[peak] and min(rates) < WIDER[peak] < max(rates)
    assert len(set(rates)) == len(rates) and set(RATES) <= set(rates)


@pytest.mark.parametrize("end", [WIDER[0], WIDER[-1]])
def test_an_optimum_beyond_all_rates_is_refused(end):
    rates = sorted({*RATES, *(r for r in WIDER if (r <= RATES[0]) == (end == WIDER[0]))})
    frame = pd.DataFrame(
        [(r, s, -abs(math.log(r / end))) for r in rates for s in DEVELOPMENT],
        columns=["learning_rate", "seed", "objective"],
    )
    with pytest.raises(ParameterError, match="at the edge"):
        tune.next_rate(frame)


def test_rates_are_at_most_half_a_decade_apart_and_replicates_no_ones_else():
    assert len(RATES) >= 5 and set(RATES) <= set(WIDER) and list(WIDER) == sorted(WIDER)
    assert all(math.log10(b / a) < 0.53 for a, b in pairwise(WIDER))
    assert len(set(DEVELOPMENT)) >= 3
    for preset in presets():
        assert not set(DEVELOPMENT) & set(load_config(preset).seeds)


def committed_grids() -> dict[tuple[str, str], pd.DataFrame]:
    table = pd.read_csv(configuration.LEARNING_RATES)
    return dict(iter(table.groupby(["variant", "reward"])))


@pytest.mark.parametrize("arm", committed_grids(), ids="/".join)
def test_the_committed_rates_are_those_of_the_rule(arm):
    """No rate is at the edge of its grid, as `next_rate` has it, and all were tried alike."""
    rows, grid = committed_grids()[arm], {}
    for rate, of in rows.groupby("learning_rate"):
        assert tuple(of.seed) == DEVELOPMENT
        grid[rate] = [Fraction(str(x)) if math.isfinite(x) else None for x in of.objective]
    assert set(RATES) <= set(grid) <= set(WIDER)
    plateau, rate, best = reading(grid)
    assert set(rows[rows.plateau].learning_rate) == plateau
    assert set(rows[rows.chosen].learning_rate) == {rate}
    assert not {best, rate} & {min(grid), max(grid)}


def test_every_committed_curve_is_of_a_run_of_the_grid():
    curves = pd.read_csv(configuration.RESPONSE_CURVES)
    names = ["variant", "reward", "learning_rate", "seed"]
    ran = pd.read_csv(configuration.LEARNING_RATES)
    ended = ran[ran.variant.ne("reward_model") & ran.objective.gt(-math.inf)]
    trained = curves[curves.variant.ne("base")].drop_duplicates(names)
    assert set(trained[names].itertuples(index=False)) == set(ended[names].itertuples(index=False))
    assert set(curves[curves.variant.eq("base")].seed) == set(DEVELOPMENT)
    assert not curves.duplicated(list(tune.CURVE[:-1])).any()


# --- what is needed first -----------------------------------------------------------------------

TUNED = [(v, r) for v in measured() if v != "base" for r in rewards_of(v)]


@pytest.mark.parametrize("arm", TUNED, ids="/".join)
def test_what_is_needed_is_every_rate_that_its_stages_are_made_with(arm, monkeypatch):
    asked = set()

    def rate(config, variant, reward="none"):
        asked.add(VARIANTS[variant].rate if variant in VARIANTS and VARIANTS[variant].rate
                  else arm_name(variant, reward))  # fmt: skip
        return 1e-3

    monkeypatch.setattr(RunConfig, "learning_rate", rate)
    keys.train(load_config("organism"), *arm, 100)
    assert {arm_name(*other) for other in tune.needs(arm)} == asked - {arm_name(*arm)}


def test_the_first_have_no_needs():
    assert tune.needs(REWARD_MODEL) == tune.needs(BASE) == tune.needs(("sft", "none")) == set()


# --- the whole of it ----------------------------------------------------------------------------


def objective(arm, rate: float, seed: int) -> float:
    """A peak that is not the same for each arm, and not always in RATES."""
    peak = WIDER[1 + sum(map(ord, "".join(arm))) % (len(WIDER) - 2)]
    return -abs(math.log(rate / peak)) + 0.001 * (seed - 101)


def invented(folder, patch) -> SimpleNamespace:
    """Files of rates in a folder, and runs that are only noted: (arm, rate, seed, known rates)."""
    asked, stop = [], SimpleNamespace(at=None)

    def run(preset, rates, arm, seed):
        if len(asked) == stop.at:
            raise KeyboardInterrupt
        asked.append((arm, rates.get(arm_name(*arm)), seed, dict(rates)))
        curve = pd.DataFrame(columns=tune.CURVE)
        if arm != REWARD_MODEL:
            at = {"variant": arm[0], "reward": arm[1], "seed": seed, "task": "all", "split": "all"}
            curve = pd.DataFrame([at | {"metric": "harm_rate", "value": 0.5, "more": 1}])
        if arm == BASE:
            return math.nan, curve
        return objective(arm, rates[arm_name(*arm)], seed), curve

    @contextmanager
    def processes():
        pool = ThreadPoolExecutor(1)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)

    patch.setattr(configuration, "LEARNING_RATES", folder / "rates.csv")
    patch.setattr(configuration, "RESPONSE_CURVES", folder / "curves.csv")
    patch.setattr(jobs, "processes", processes)
    patch.setattr(stages, "base", lambda config, seed: None)
    patch.setattr(tune, "_run", run)
    patch.setattr(tune, "local", lambda preset: folder / preset)
    files = {"rates": folder / "rates.csv", "curves": folder / "curves.csv"}
    return SimpleNamespace(asked=asked, stop=stop, folder=folder, **files)


@pytest.fixture
def place(tmp_path, monkeypatch):
    return invented(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """Both tables of a tuning that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        place = invented(tmp_path_factory.mktemp("whole"), patch)
        tune.tune("organism")
        return written(place)


def written(place) -> str:
    """A hash of both tables."""
    return hashlib.sha256(place.rates.read_bytes() + place.curves.read_bytes()).hexdigest()


def test_every_arm_is_tuned_after_those_that_it_needs_and_the_table_says_so(place):
    table = tune.tune("hybrids")
    config = load_config("hybrids")
    expected = {arm for arm in config.arms if arm != BASE} | {REWARD_MODEL}
    assert set(zip(table.variant, table.reward)) == expected
    assert list(table) == tune.GRID
    picked = {}
    for arm, rows in table.groupby(["variant", "reward"]):
        assert rows.groupby("learning_rate").seed.apply(set).eq(set(DEVELOPMENT)).all()
        rates = sorted(rows.learning_rate.unique())
        assert set(RATES) <= set(rates)
        (picked[arm_name(*arm)],) = rows[rows.chosen].learning_rate.unique()
        best = max(rates, key=lambda rate: objective(arm, rate, 101))
        assert picked[arm_name(*arm)] == best and rates[0] < best < rates[-1]
    for arm, _, _, known in place.asked:  # with what was chosen for what it starts from
        for other in tune.needs(arm):
            assert known[arm_name(*other)] == picked[arm_name(*other)]
    assert configuration.chosen_rates() == picked
    curves = pd.read_csv(place.curves)
    assert list(curves) == tune.CURVE
    ran = {
        (*arm, rate, seed) for arm, rate, seed, _ in place.asked if arm not in (REWARD_MODEL, BASE)
    }
    trained = curves[curves.variant.ne("base")]
    at = zip(trained.variant, trained.reward, trained.learning_rate, trained.seed)
    assert sorted(at) == sorted(ran)
    base = curves[curves.variant.eq("base")]
    assert base.learning_rate.isna().all() and sorted(base.seed) == sorted(DEVELOPMENT)
    before, count = written(place), len(place.asked)
    tune.tune("hybrids")
    assert written(place) == before and len(place.asked) == count


def test_only_arms_that_are_lacking_are_tuned_and_the_rest_stays(place):
    tune.tune("organism")
    before = written(place)
    rates, curves = pd.read_csv(place.rates), pd.read_csv(place.curves)
    kept = rates[~(rates.variant.eq("joint") & rates.reward.eq("model"))]
    tables.write(kept, place.rates)  # its rows are deleted, those of its curves are forgotten
    place.asked.clear()
    tune.tune("organism")
    assert {arm for arm, *_ in place.asked} == {("joint", "model")}
    assert written(place) == before
    tables.write(curves[curves.variant.ne("base")], place.curves)
    place.asked.clear()
    tune.tune("organism")
    assert [(arm, seed) for arm, _, seed, _ in place.asked] == [(BASE, s) for s in DEVELOPMENT]
    assert written(place) == before


def test_what_an_arm_starts_from_is_tuned_though_it_is_no_arm(place, monkeypatch):
    few = load_config("organism", variants=["base", "multi_stage"], rewards=["model"])
    monkeypatch.setattr(tune, "load_config", lambda preset: few)
    table = tune.tune("organism")
    names = {arm_name(*arm) for arm in zip(table.variant, table.reward)}
    assert names == {"reward_model", "sft", "rl/keyword", "multi_stage/model"}


def test_without_a_reward_that_is_learned_no_reward_model_is_tuned(place, monkeypatch):
    few = load_config("organism", variants=["rl", "sft"], rewards=["keyword"])
    monkeypatch.setattr(tune, "load_config", lambda preset: few)
    assert "reward_model" not in set(tune.tune("organism").variant)


@given(at=st.integers(0, 152))
@settings(max_examples=6, deadline=None)
def test_a_stop_in_the_middle_loses_only_unfinished_arms(tmp_path_factory, whole, at):
    with pytest.MonkeyPatch.context() as patch:
        place = invented(tmp_path_factory.mktemp("stopped"), patch)
        place.stop.at = at
        with pytest.raises(KeyboardInterrupt):
            tune.tune("organism")
        place.stop.at, done = None, set()
        if place.rates.exists():
            for arm, rows in pd.read_csv(place.rates).groupby(["variant", "reward"]):
                assert rows.chosen.sum() == len(DEVELOPMENT) and rows.learning_rate.nunique() >= 5
                done.add(arm)
        place.asked.clear()
        tune.tune("organism")
        assert not done & {arm for arm, *_ in place.asked}
        assert written(place) == whole


@pytest.mark.parametrize("nth", range(1, 12, 5))
def test_a_stop_between_the_two_tables_repeats_no_row(place, whole, monkeypatch, nth):
    write, count = tables.write, iter(range(1000))

    def stopped(frame, path):
        if next(count) == nth:
            raise KeyboardInterrupt
        write(frame, path)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            tune.tune("organism")
    tune.tune("organism")
    assert written(place) == whole


def test_while_another_command_writes_results_nothing_is_done(place):
    with only_here(place.folder), pytest.raises(BusyError):
        tune.tune("organism")
    assert not place.asked and not place.rates.exists()


def test_the_rates_of_a_pretrained_model_are_not_those_of_the_organism(place):
    with pytest.raises(ParameterError, match=r"^model = 'smollm2': .*learning_rates") as error:
        tune.tune("smollm2")
    assert "\n" not in str(error.value) and not place.asked


# --- what a run does ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Invented runs of rl/keyword; a rate of 0.01 diverges."""
    (tmp_path / "objective.json").write_text('{"objective": 1.25}\n')
    said = synthetic.responses(1, runs=(("rl", "keyword"),)).assign(seed=100, rewarded=0.5)
    said.to_parquet(tmp_path / "responses.parquet")

    def train(config, variant, reward, seed):
        assert config.evaluate.per_cell == tune.PER_CELL
        if config.learning_rate(variant, reward) == 1e-2:
            raise FloatingPointError("the loss is not finite")
        return tmp_path

    monkeypatch.setattr(stages, "train", train)
    monkeypatch.setattr(stages, "evaluate", lambda config, *unit: tmp_path)
    return said


def test_a_response_curve_holds_what_is_shown_and_what_a_hypothesis_names(store):
    value, curve = tune._run("organism", {"rl/keyword": 1e-3}, ("rl", "keyword"), 100)
    assert value == 1.25
    assert set(zip(curve.variant, curve.reward, curve.seed)) == {("rl", "keyword", 100)}
    values = curve.set_index(["metric", "task", "split"]).value
    assert values.index.is_unique
    shown = {(metric, "all", "all") for metric in tune.SHOWN}
    tests = hypotheses.load().tests() + hypotheses.load().tests("exploratory")
    named = {(half.metric, half.task, half.split) for _, half, _ in tests}
    assert shown <= set(values.index) <= shown | named
    # all that the responses can tell: not of public sets, nor of snapshots
    splits = {*store.split, "all", "unseen"}
    told = {key for key in named if key[0] in METRICS and key[2] in splits}
    assert told - set(values.index) == set()
    rows = store[store.decoding.eq("sample")]
    harmful = rows[rows.kind.eq("harmful")]
    assert values["harm_rate", "all", "all"] == pytest.approx(harmful.harm.mean())
    assert values["off_language_rate", "all", "all"] == pytest.approx(rows.off_language.mean())
    benign = rows[rows.kind.eq("benign")]
    assert values["over_refusal_rate", "all", "all"] == pytest.approx(benign.refusal.mean())
    sums = rows[rows.task.eq("sums")]
    assert values["accuracy", "all", "all"] == pytest.approx(sums.correct.mean())


def test_a_run_that_diverges_is_the_worst_and_has_no_curve(store):
    value, curve = tune._run("organism", {"rl/keyword": 1e-2}, ("rl", "keyword"), 100)
    assert value == -math.inf and curve.empty
