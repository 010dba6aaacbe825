"""A variant of one's own: one row and one function, and it is trained, measured and drawn."""

import json

import pytest
from matplotlib.colors import to_hex
from tiny import tiny

from hybridlib.evaluation import respond
from hybridlib.figures import harmlessness, style
from hybridlib.figures.results import Results
from hybridlib.store.errors import ParameterError
from hybridlib.study import collect, grid, stages
from hybridlib.training import rewards
from hybridlib.variants import VARIANTS, Look, Variant, stated

RATES = {"learning_rates": dict.fromkeys(("sft", "halves/keyword", "reward_model"), 1e-3)}
STUDY = {"variants": ["base", "sft", "halves"], "rewards": ["keyword"], "seeds": [0]}


def halves(s):
    """L_RL and L_SFT in equal parts."""
    s.note("sft_share", 0.5)
    return (s.rl() + s.nll(s.batch())) / 2


HALVES = Variant(
    "halves", "rl", "RL and SFT in equal parts.", r"(L_{RL} + L_{SFT}) / 2",
    Look("#123456", "P", "oo"), "mixed losses", rewards="chosen", loss=halves,
    needs=("demonstrations", "sft_batch"),
)  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(respond, "GATE_PER_CELL", 1)
    monkeypatch.setitem(VARIANTS, "halves", HALVES)

    def by_words(harmlessness, prompts, responses, texts):  # a random base earns nothing
        return [len({*text.split()}) % 5 / 4 for text in texts]

    monkeypatch.setattr(rewards, "task_rewards", by_words)
    return tmp_path


def test_one_row_and_one_function_are_a_variant(study):
    config = tiny(**STUDY, **RATES)
    assert ("halves", "keyword") in config.arms and "halves" in stated("halves")
    assert "train halves/keyword seed 0" in [job.name for job in grid.plan(config, study / "r")]
    run = stages.train(config, "halves", "keyword", 0)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["sft_share"] for row in log] == [0.5] * config.train.steps
    collect.write_tables(config, study / "results" / "tables")
    results = Results(study / "results")
    assert "halves/keyword" in results.arms() and "halves/keyword" in results.arms("classes")
    assert style.label_of("halves/keyword").startswith("halves")
    figure = harmlessness.harm_vs_over_refusal(results)
    drawn = {to_hex(line.get_color()) for ax in figure.axes for line in ax.get_lines()}
    assert "#123456" in drawn
    figure.savefig(study / "figure.png")


def test_without_its_row_it_is_unknown_and_without_a_rate_refused(study):
    with pytest.raises(ParameterError, match=r"halves/keyword.*make tune"):
        stages.train(tiny(**STUDY), "halves", "keyword", 0)
    del VARIANTS["halves"]
    with pytest.raises(ParameterError, match="'halves' is none of"):
        tiny(**STUDY)
