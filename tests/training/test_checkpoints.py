"""Checkpoints by time; a run that goes on from any of them ends where a whole one does."""

from pathlib import Path

import pytest
from tiny import tiny
from training_runs import KillAfter, Killed, adapter, rows, run_rl, run_sft
from transformers import Trainer

from hybridlib.store import jsonl
from hybridlib.study import keys
from hybridlib.training import callbacks, data, pretrain

RUNS = {"sft": run_sft, "rl": run_rl}
CONFIG = tiny(sft_steps=7, sft_batch=8, steps=4)  # seven steps of SFT end within an epoch
MEASURED = ("step_time", "tokens_per_second")


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    """As if each step took a minute."""
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0, raising=False)
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", 0, raising=False)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """Runs that nothing interrupts, nor a checkpoint."""
    return {
        name: run(CONFIG, base, tmp_path_factory.mktemp("whole") / name)
        for name, run in RUNS.items()
    }


def log(run: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not name.endswith(MEASURED)}
        for row in rows(run / "log.jsonl")
    ]


def same(run: Path, whole: Path) -> bool:
    assert log(run) == log(whole)
    for name in ("rollouts.jsonl", "objective.json"):
        if (whole / name).exists():
            assert (run / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = adapter(run), adapter(whole)
    return all(ours[name].equal(value) for name, value in theirs.items())


def begun(name: str, base: Path, folder: Path, step: int) -> Path:
    with pytest.raises(Killed):
        RUNS[name](CONFIG, base, folder, callbacks=[KillAfter(step)])
    return folder


@pytest.mark.parametrize("name, step", [("rl", 2), ("rl", 4), ("sft", 1), ("sft", 3), ("sft", 7)])
def test_steps_that_take_a_minute_are_not_done_twice(name, step, whole, base, tmp_path, capsys):
    run = begun(name, base, tmp_path, step)
    last = min(step, len(log(whole[name])) - 1)
    assert [p.name for p in run.glob("checkpoints/checkpoint-*")] == [f"checkpoint-{last}"]
    capsys.readouterr()
    RUNS[name](CONFIG, base, run)
    assert f"goes on from its checkpoint at step {last}" in capsys.readouterr().out
    assert same(run, whole[name])


def test_a_checkpoint_changes_nothing_and_short_runs_take_none(whole, base, tmp_path, monkeypatch):
    saved, save = [], Trainer._save_checkpoint
    monkeypatch.setattr(
        Trainer, "_save_checkpoint", lambda self, *args: saved.append(1) or save(self, *args)
    )
    run = run_sft(CONFIG, base, tmp_path / "each")
    assert same(run, whole["sft"]) and len(saved) == 6
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 60, raising=False)
    run_sft(CONFIG, base, tmp_path / "none")
    assert len(saved) == 6


@pytest.mark.parametrize("name", ["log.jsonl", "rollouts.jsonl"])
def test_a_checkpoint_behind_what_is_recorded_is_not_gone_on_from(
    name, whole, base, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(callbacks, "CHECKPOINT_EVERY", 1)
    run = begun("rl", base, tmp_path, 3)
    kept = (run / name).read_bytes().splitlines(keepends=True)
    (run / name).write_bytes(b"".join(kept[:-1]) + kept[-1][:30])  # as a loss of power may leave it
    capsys.readouterr()
    run_rl(CONFIG, base, run)
    assert "goes on" not in capsys.readouterr().out
    assert same(run, whole["rl"])


def test_odd_text_and_half_a_line_do_not_stop_a_run_from_going_on(base, tmp_path, monkeypatch):
    decoded = data.decoded

    def odd(*args):
        texts, finished = decoded(*args)
        return [f"{text} \u2028\u2029\x85\x0b\x1c\ud800 ñ" for text in texts], finished

    monkeypatch.setattr(data, "decoded", odd)
    whole = run_rl(CONFIG, base, tmp_path / "whole")
    run = begun("rl", base, tmp_path / "cut", 3)
    with (run / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "response": "a')
    run_rl(CONFIG, base, run)
    assert same(run, whole)
    assert all(row["response"].endswith(" ñ") for row in jsonl.read(run / "rollouts.jsonl"))


def test_a_damaged_record_of_a_run_has_its_number(base, tmp_path):
    run = begun("rl", base, tmp_path, 3)
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join([lines[0], "{", *lines[2:], ""]))
    with pytest.raises(jsonl.DamagedRecord, match="line 2 of"):
        run_rl(CONFIG, base, run)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_pretraining_saves_by_time(step: int, tmp_path: Path, monkeypatch, capsys):
    spec, schedule = keys.base(tiny(base_steps=6), 0), pretrain._schedule
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "CHECKPOINT_SECONDS", 60, raising=False)
        pretrain.pretrain(spec, tmp_path / "whole")
    assert not (tmp_path / "whole" / "checkpoints").exists()

    def kill(at: int, steps: int) -> float:
        if at == step:
            raise Killed
        return schedule(at, steps)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pretrain, "_schedule", kill)
        patch.setattr(pretrain, "_is_due", lambda *_: True, raising=False)
        pretrain.pretrain(spec, tmp_path / "cut")
    capsys.readouterr()
    pretrain.pretrain(spec, tmp_path / "cut")
    assert f"goes on from its checkpoint at step {step}" in capsys.readouterr().out
    for name in ("model/model.safetensors", "loss.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_checkpoints_of_a_base_take_a_tenth_of_the_time_at_most(monkeypatch):
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", 60)
    monkeypatch.setattr(pretrain.time, "monotonic", lambda: 1000.0)
    assert not pretrain._is_due(941.0, 0.1) and pretrain._is_due(940.0, 0.1)
    assert not pretrain._is_due(801.0, 20.0) and pretrain._is_due(800.0, 20.0)
