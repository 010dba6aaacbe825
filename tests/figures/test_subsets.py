"""Every subset of variants, rewards and seeds: its tables, figures and notebooks, from the same
code as a study; a figure that does not apply is left out with a line that says why."""

import json
import re
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import synthetic
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invented import write_tables
from tiny import tiny

from hybridlib.evaluation import hypotheses
from hybridlib.figures import registry, show, style
from hybridlib.figures.results import Results
from hybridlib.store.paths import NOTEBOOKS
from hybridlib.variants import VARIANTS, measured, tuned_arms

FIGURES = registry.figures()
MEASURED = measured()
HYBRIDS = set(MEASURED) - {"base", "rl", "rl_gold", "sft", "sft_narrow", "sft_long"}
CLAIMS = yaml.safe_load(hypotheses.FILE.read_text(encoding="utf-8"))["claims"]
RATES = dict.fromkeys(tuned_arms(), 1e-3)
REAL = {"model": "smollm2", "requests": "xstest", "problems": "gsm8k", "rewards": "keyword",
        "learning_rates": RATES}  # fmt: skip
HARD = {
    "base alone": {"variants": "base"},
    "sft alone": {"variants": "sft", "beside": "smollm2"},  # no effect in common
    "no rl": {"variants": "base, sft", "seeds": 5},
    "rl alone": {"variants": "rl"},
    "sft and the control": {"variants": "sft, rl_gold", "seeds": 5},
    "one hybrid": {"variants": "gated", "rewards": "keyword"},
    "one hybrid without a reward": {"variants": "self_distill"},
    "no reward": {"variants": "sft, self_distill", "seeds": 5},
    "no parents": {"variants": "base, gated, prefix, multi_stage", "flops_budget": 1e9},
    "the rule only": {"rewards": "keyword"},
    "the model only": {"rewards": "model", "seeds": "[3, 7]"},
    "no thought": {"thought": False, "variants": "base, sft, two_stage"},
    "a real model": REAL | {"variants": "base, sft, rl, gated"},
    "a real model without rl": REAL | {"variants": "base, sft"},
    "everything": {"variants": ", ".join(MEASURED), "flops_budget": 1e9},
}
HARD = {name: {"learning_rates": RATES} | given for name, given in HARD.items()}
FAST = ("base alone", "sft alone", "no parents", "a real model without rl")
hard = pytest.mark.parametrize("name", HARD)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def study(store, tmp_path_factory):
    """Write the tables of a study, and check them; a warning is an error."""

    def made(**overrides) -> Results:
        config = tiny(**overrides)
        folder = tmp_path_factory.mktemp("study")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_tables(config, folder / "tables", store)
            check(config, Results(folder))
        return Results(folder)

    return made


def check(config, results: Results) -> None:
    """The tables hold what was run, and what it decides: reckoned here from the words alone."""
    chosen = {v for v in config.variants if VARIANTS[v].rewards == "chosen"}
    assert set(results.arms()) == {f"{v}/{r}" for v, r in config.arms}
    training, cost = results.table("training"), results.table("cost")
    assert {"proxy", "gold", "kl", "zero_variance_groups"} <= set(training)
    trained = set(results.arms()) - {"base/none"}
    assert set(training.arm) == set(cost.arm) == set(results.arms("snapshots")) == trained

    def runs(contrast: str, reward: str) -> bool:
        named = set(contrast.split(" - "))
        return named <= set(config.variants) and (reward in config.rewards or not named & chosen)

    control = "rl_gold" in config.variants and len(config.seeds) > 1  # of one: no interval
    for table, part in (("verdicts", "halves"), ("exploratory", "exploratory")):
        expected = [
            (claim["claim"], half["metric"], half["contrast"], half.get("task", "all"), reward)
            for claim in CLAIMS
            for half in claim.get(part, ())
            for reward in half.get("rewards", ["none"])
            if runs(half["contrast"], reward)
        ]
        rows = results.table(table)
        named = zip(rows.claim, rows.metric, rows.contrast, rows.task, rows.reward)
        assert list(named) == expected
        assert not rows.estimate.isna().any()
        assert rows[["low", "high"]].isna().any(axis=1).eq(rows.replicates < 2).all()
        for row in rows.itertuples():
            with_rl = any(VARIANTS[v].method == "rl" for v in row.contrast.split(" - "))
            counts = control or not with_rl or row.metric == "log_flops_to_harm"
            assert row.verdict == (_decided(row) if counts else "descriptive")
    _check_claims(results)

    compares = HYBRIDS & set(config.variants) - {"two_stage", "joint"}
    assert results.has("hybrids") == bool(compares)
    if compares:
        rewards = [r for r in ("keyword", "model") if chosen and r in config.rewards] or ["none"]
        one_each = len((HYBRIDS | {"sft", "rl"}) & set(config.variants))
        rows = results.table("hybrids")
        assert len(rows) == len(rewards) * 5 * one_each * (one_each - 1) / 2
        assert set(rows.reward) <= set(rewards)


def _decided(row) -> str:
    """The verdict of an interval: the rule of hypotheses.yaml."""
    if row.replicates < 5:
        return "descriptive"
    beyond = {"supported": row.low > row.margin, "reversed": row.high < -abs(row.margin)}
    beyond["negligible"] = row.margin > 0 and row.low > -row.margin and row.high < row.margin
    assert sum(beyond.values()) <= 1
    return next((word for word, holds in beyond.items() if holds), "undecided")


def _check_claims(results: Results) -> None:
    rows, told = results.table("verdicts"), results.table("claims")
    expected = {}
    for claim in CLAIMS:
        mine, under = rows[rows.claim.eq(claim["claim"])], {}
        needed = {r for half in claim["halves"] for r in half.get("rewards", ())} or {"none"}
        for reward in needed:
            found = list(mine[mine.reward.isin([reward, "none"])].verdict)
            if len(found) == len(claim["halves"]):
                order = ("descriptive", "reversed", "negligible", "undecided", "supported")
                under[reward] = min(found, key=order.index)
        if len(under) == len(needed):
            words = set(under.values())
            under["all"] = words.pop() if len(words) == 1 else "undecided"
        expected |= {(claim["claim"], reward): word for reward, word in under.items()}
    assert dict(zip(zip(told.claim, told.reward), told.verdict)) == expected


def drawn(results: Results, names=tuple(FIGURES)) -> set[str]:
    """Draw those of these figures that apply; the others say why not in one line."""
    found = set()
    for name in names:
        if lacks := FIGURES[name].lacks(results):
            assert re.fullmatch(r"(the study has no \w+\.csv|\w+\.csv has no \w+)", lacks)
        else:
            FIGURES[name].draw(results).canvas.draw()
            found.add(name)
    return found


def executed(results: Results, notebook: str) -> str:
    """What a notebook shows, executed here on these results: its Markdown and HTML."""
    said, here = [], {"In": []}
    keep = "hybridlib.figures.{}.display"
    with (
        mock.patch(keep.format("prose"), lambda shown: said.append(shown.data)),
        mock.patch(keep.format("show"), lambda shown: said.append(shown.data)),
        mock.patch.dict(style.RC, {"savefig.dpi": 12}),  # nobody looks at them
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        text = (NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8")
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                if "parameters" in cell["metadata"].get("tags", ()):
                    source += f"\npreset, results = {results.preset!r}, {str(results.folder)!r}"
                exec(source, here)
    return "\n".join(said)


def all_executed(results: Results) -> str:
    names = registry.NOTEBOOKS if results.has("hybrids") else registry.NOTEBOOKS[:4]
    text = "\n".join(executed(results, name) for name in names)
    assert not re.search(r"(?<![a-z])nan(?![a-z])|\bNone\b", re.sub(r'src="[^"]*"', "", text))
    of_these = {name for name, figure in FIGURES.items() if figure.notebook in names}
    left_out = set(re.findall(r"\*The figure `(\w+)` is left out: .*\.\*", text))
    there = {path.stem for path in (results.folder / "figures").glob("*.png")}
    assert not left_out & there
    # what belongs to some studies alone has a section of its own, which is not there
    asked = {"public_requests", "usage_advice", "prefill_depth", "side_by_side", "moderators",
             "hybrids_at_budget", "hybrids_along_compute", "hybrid_sweeps", "response_curves",
             "response_curves_model"}  # fmt: skip
    assert of_these - asked <= left_out | there
    return text


# ---- any subset


ANY = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=4, **ANY)
@given(data=st.data())
def test_any_subset_gives_tables_and_figures(data, store):
    goes_through(data, store, most=3, figures=1)


@pytest.mark.slow
@settings(max_examples=60, **ANY)
@given(data=st.data())
def test_many_subsets_give_tables_and_figures(data, store):
    goes_through(data, store, most=len(MEASURED), figures=3)


def goes_through(data, store, most: int, figures: int) -> None:
    some = st.lists(st.sampled_from(MEASURED), min_size=1, max_size=most, unique=True)
    rewards = st.sampled_from([["keyword"], ["model"], ["keyword", "model"]])
    config = tiny(
        variants=data.draw(some, "variants"), rewards=data.draw(rewards, "rewards"),
        seeds=data.draw(st.sampled_from([1, 2, 5]), "seeds"),
        thought=data.draw(st.booleans(), "thought"),
        flops_budget=data.draw(st.sampled_from([0.0, 1e9]), "flops_budget"), learning_rates=RATES,
    )  # fmt: skip
    names = data.draw(st.permutations(list(FIGURES)), "figures")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        results = Results(Path(folder))
        write_tables(config, Path(folder) / "tables", store)
        check(config, results)
        drawn(results, names[:figures])


@pytest.mark.parametrize("name", FAST)
def test_a_hard_subset_gives_tables(name, study):
    study(**HARD[name])


@pytest.mark.slow
@hard
def test_a_hard_subset_goes_through_all_figures_and_notebooks(name, study):
    results = study(**HARD[name])
    assert drawn(results)
    all_executed(results)


def test_a_study_without_rl_goes_through(study):
    """The row of the issue: it trained everything and then failed in the tables."""
    results = study(**HARD["no rl"])
    text = all_executed(results)
    left_out = set(re.findall(r"figure `(\w+)` is left out: training.csv has no proxy", text))
    assert left_out == {"proxy_vs_gold", "language_training"}
    assert {"response_classes", "verdict_page", "cost"} <= drawn(results, ["response_classes",
            "verdict_page", "cost"])  # fmt: skip
    decided = results.table("verdicts")
    assert list(zip(decided.claim, decided.contrast)) == [("C4", "base - sft")]
    assert results.table("claims").empty, "half a claim decides nothing"
    assert set(results.table("learning_rates").variant) == {"sft"}


def test_one_hybrid_goes_through(study):
    results = study(**HARD["one hybrid"])
    text = executed(results, "08_hybrids")
    assert "hybrids.csv has no row" in text and "gated (keyword)" in text


def test_hybrids_without_a_reward_are_compared_once(study):
    results = study(**HARD["no reward"])
    assert set(results.table("hybrids").reward) == {"none"}
    names = {"hybrids", "hybrids_by_compute", "hybrid_mechanism"}
    assert drawn(results, names) == names
    text = executed(results, "08_hybrids")
    assert text.count("No reward") == 1 and "keyword" not in text.lower()


# ---- odd data within a study

MEASURES = ["harm", "harm_thought", "harm_answer", "correct", "keyword_satisfied", "refusal",
            "gold", "proxy", "rewarded", "repetition", "off_language", "off_language_thought",
            "off_language_answer",
            "target_language_share", "target_language_share_thought",
            "target_language_share_answer", "switches_per_100_words"]  # fmt: skip


def changed(where, columns, value):
    """A change of responses: in the rows that `where` finds, columns that are there."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame, rows = frame.copy(), where(frame)
        for column in frame.columns.intersection(columns):
            frame[column] = frame[column].astype(float).mask(rows & frame[column].notna(), value)
        return frame

    return change


def every(frame):
    return pd.Series(True, frame.index)


ODD = {
    "nothing parsed": changed(every, MEASURES, np.nan),
    "no harm known": changed(every, ["harm", "harm_thought", "harm_answer"], np.nan),
    "no answer known": changed(every, ["correct", "refusal"], np.nan),
    "no language known": changed(every, [m for m in MEASURES if "language" in m], np.nan),
    "one variant's harm unknown": changed(
        lambda f: f.variant.eq("sft"), ["harm", "harm_thought", "harm_answer"], np.nan
    ),
    "one variant unknown": changed(lambda f: f.variant.eq("sft"), MEASURES, np.nan),
    "the base unknown": changed(lambda f: f.variant.eq("base"), MEASURES, np.nan),
    "one seed unknown": changed(lambda f: f.seed.eq(1), MEASURES, np.nan),
    "all the same": changed(every, MEASURES, 0.1),
}
FEW = ("nothing parsed", "one variant's harm unknown")
WITH_HYBRIDS = {"variants": "base, sft, rl_gold, gated", "rewards": "keyword", "seeds": 5,
                "learning_rates": RATES}  # fmt: skip


@pytest.fixture
def odd(request, store, tmp_path) -> Results:
    config = tiny(**WITH_HYBRIDS, flops_budget=1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_tables(config, tmp_path / "tables", store, ODD[request.param])
    return Results(tmp_path)


@pytest.mark.parametrize("odd", FEW, indirect=True)
def test_odd_data_are_drawn_or_left_out_and_decide_nothing_wrongly(odd):
    check_odd(odd)
    drawn(odd, ["response_classes", "harm_vs_over_refusal", "generalization_gaps", "hybrids"])


def check_odd(odd: Results) -> None:
    for table in ("metrics", "contrasts", "verdicts", "exploratory", "hybrids", "at_budget"):
        if odd.has(table):
            assert not odd.table(table)[["estimate", "low", "high"]].isna().any(axis=None)
    decided = odd.table("verdicts").query("verdict != 'descriptive'")
    assert decided.replicates.ge(5).all()


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD, indirect=True)
def test_odd_data_go_through_all_notebooks(odd, request):
    check_odd(odd)
    all_executed(odd)
    if "one seed" in request.node.name:
        of_responses = odd.table("verdicts").query("metric != 'log_flops_to_harm'")
        assert of_responses.replicates.eq(4).all()


# ---- a study after another one, in the same folder


def test_what_an_earlier_study_left_is_no_part_of_the_next(store, tmp_path):
    tables, config = tmp_path / "tables", tiny(**HARD["no parents"], seeds=1)
    write_tables(config, tables, store)
    assert {"hybrids.csv", "at_budget.csv", "prefill.csv"} <= {p.name for p in tables.iterdir()}
    synthetic.sweep().to_csv(tables / "sweep.csv", index=False)  # `make sweep` wrote it
    show.figure(Results(tmp_path), "proxy_vs_gold")
    write_tables(tiny(variants="base, sft", thought=False), tables, store)
    there = {path.name for path in tables.iterdir()}
    assert not {"hybrids.csv", "at_budget.csv", "prefill.csv"} & there
    assert "sweep.csv" in there
    picture = tmp_path / "figures" / "proxy_vs_gold.png"
    assert picture.exists()
    show.figure(Results(tmp_path), "proxy_vs_gold")
    assert not picture.exists()


def test_a_number_of_an_arm_does_not_depend_on_what_else_was_run(store, tmp_path):
    found = {}
    for variants in ("base, sft, gated", "sft"):
        write_tables(tiny(variants=variants, learning_rates=RATES), tmp_path / variants, store)
        rows = pd.read_csv(tmp_path / variants / "metrics.csv", keep_default_na=False)
        found[variants] = rows[rows.variant.eq("sft")].reset_index(drop=True)
    pd.testing.assert_frame_equal(*found.values())
