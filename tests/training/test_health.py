"""Warnings of a run: on logs that are made up, and one each on a real run."""

import json
from pathlib import Path

import pytest
from tiny import tiny
from training_runs import rows, run_rl

from hybridlib.training import callbacks, health
from hybridlib.training.health import PATIENCE, read, warnings_in

HEALTHY = {"loss": 0.1, "frac_reward_zero_std": 0.4, "completions/mean_length": 15, "entropy": 0.1}
SICK = {
    "no_variance": {"frac_reward_zero_std": 1.0},
    "collapsed_length": {"completions/mean_length": 7.4},
    "collapsed_entropy": {"entropy": 0.0099},
}


def log(*spells: tuple[int, dict]) -> list[dict]:
    """A log of spells (steps, what differs from health)."""
    found = [HEALTHY | sick for steps, sick in spells for _ in range(steps)]
    return [{"step": step, **row} for step, row in enumerate(found, 1)]


def test_a_healthy_log_is_not_warned_of():
    assert warnings_in(log((60, {}))) == []
    assert warnings_in([]) == []


@pytest.mark.parametrize("name", SICK)
def test_what_lasts_is_named_once_with_its_first_step(name):
    found = warnings_in(log((8, {}), (PATIENCE, SICK[name]), (5, {}), (30, SICK[name])))
    assert [(w["name"], w["step"]) for w in found] == [(name, 9)]
    assert found[0]["says"].startswith(f"from step 9, {PATIENCE} steps in a row, ")


@pytest.mark.parametrize("name", SICK)
def test_what_does_not_last_or_is_not_measured_is_not_warned_of(name):
    spell = ((PATIENCE - 1, SICK[name]), (1, {}))
    assert warnings_in(log((8, {}), *spell, *spell)) == []
    gone = dict.fromkeys(SICK[name])
    assert warnings_in(log((8, gone), (30, gone))) == []
    assert warnings_in([{"step": row["step"], "loss": 1.0} for row in log((40, {}))]) == []


def test_a_length_or_entropy_that_was_low_from_the_first_is_not_collapsed():
    low = {"completions/mean_length": 1.0, "entropy": 1e-6}
    assert warnings_in(log((60, low))) == []


@pytest.mark.parametrize("name", SICK)
def test_a_run_records_and_says_it(base, name, monkeypatch, tmp_path, capsys):
    """Real runs: groups of equal rewards, and thresholds that every run is below."""
    monkeypatch.setattr(health, "PATIENCE", 2)
    monkeypatch.setattr(health, "BASELINE", 1)
    if name == "no_variance":  # from the fourth step on, after it has learnt something
        calls = []

        def pay(prompts, responses, texts):
            calls.append(1)
            return [(len(calls) < 4) * (len(set(text.split())) % 5) / 4 for text in texts]

        values = {"steps": 6, "weight_format": 0.0, "weight_accuracy": 0.0}
    else:

        def pay(prompts, responses, texts):
            return [len(set(text.split())) % 5 / 4 for text in texts]

        values = {"steps": 6}
        share = {"collapsed_length": "SHORT", "collapsed_entropy": "CERTAIN"}[name]
        monkeypatch.setattr(health, share, 10.0)
    values |= {"weight_helpfulness": 0.0} if name == "no_variance" else {}
    run = run_rl(tiny(**values), base, tmp_path, pay=pay)
    found = [warning for warning in read(run) if warning["name"] == name]
    assert len(found) == 1 and json.loads((run / "warnings.json").read_text()) == read(run)
    assert f"rl/keyword seed 0: warning {name}: {found[0]['says']}" in capsys.readouterr().out
    assert found[0]["step"] <= len(rows(run / "log.jsonl"))


def test_a_number_that_the_trainer_no_longer_logs_is_missed():
    assert warnings_in(log((8, {})), expected=("entropy", "loss")) == []
    with pytest.raises(LookupError, match="no longer logs frac_reward_zero_std2"):
        warnings_in(log((8, {})), expected=("entropy", "frac_reward_zero_std2"))


@pytest.mark.parametrize("name", ["frac_reward_zero_std", "completions/mean_length", "entropy"])
def test_a_run_whose_trainer_logs_under_another_name_fails(base, name, monkeypatch, tmp_path):
    logged = callbacks.Progress.on_log

    def renamed(self, args, state, control, logs=None, **kwargs) -> None:
        logs = {f"new_{n}" if n == name else n: value for n, value in (logs or {}).items()}
        logged(self, args, state, control, logs=logs, **kwargs)

    monkeypatch.setattr(callbacks.Progress, "on_log", renamed)
    with pytest.raises(LookupError, match=f"no longer logs {name}"):
        run_rl(tiny(), base, tmp_path)
    assert not (tmp_path / "warnings.json").exists()


def test_a_run_without_a_record_has_no_warnings(tmp_path: Path):
    assert read(tmp_path) == []
