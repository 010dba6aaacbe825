"""Policies kept on the way: at which steps, and that they are what a shorter run ends with."""

import random
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from tiny import tiny
from training_runs import KillAfter, Killed, adapter, run_rl, run_sft

from hybridlib.training import callbacks
from hybridlib.training.callbacks import Snapshots

RUNS = {"sft": run_sft, "rl": run_rl}
STEPS = {"sft": "sft_steps", "rl": "steps"}


def run(name: str, base, folder, steps: int, *more):
    kept = [Snapshots(folder), *more]
    return RUNS[name](tiny(**{STEPS[name]: steps}), base, folder, callbacks=kept)


def kept_in(folder) -> dict[int, dict]:
    found = (folder / "snapshots").iterdir()
    return {int(path.name): load_file(path / "adapter_model.safetensors") for path in found}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


class Policy:
    def save_pretrained(self, folder) -> None:
        folder.mkdir(parents=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 12, 60, 61, 180, random.Random(0).randint(13, 999)])
def test_steps_are_closer_together_at_the_beginning_and_the_last_is_not_among_them(steps, tmp_path):
    callback = Snapshots(tmp_path)
    for step in range(1, steps + 1):
        state = SimpleNamespace(global_step=step, max_steps=steps)
        callback.on_step_end(None, state, None, model=Policy())
    found = sorted(int(path.name) for path in tmp_path.glob("snapshots/*"))
    assert all(0 < step < steps for step in found)
    # each of a twelfth, a sixth, a third and two thirds is less than a step away, but for the ends
    for wanted in (steps / 12, steps / 6, steps / 3, 2 * steps / 3):
        nearest = min([0, *found, steps], key=lambda step: abs(step - wanted))
        assert abs(nearest - wanted) <= 0.5
    assert len(found) <= 4 and (len(found) == 4 or steps < 12)
    gaps = [b - a for a, b in zip([0, *found], found)]
    assert gaps == sorted(gaps) or steps < 12


@pytest.mark.parametrize("name", RUNS)
def test_a_snapshot_is_what_a_shorter_run_ends_with(name, base, tmp_path):
    kept = kept_in(run(name, base, tmp_path / "whole", 6))
    assert sorted(kept) == [1, 2, 4]
    for step in (2, 4):
        assert same(kept[step], adapter(run(name, base, tmp_path / str(step), step)))
    assert not same(kept[2], kept[4])
    assert not same(kept[4], adapter(tmp_path / "whole"))


@pytest.mark.parametrize("name, killed, every", [("sft", 3, 1), ("rl", 3, 1), ("rl", 5, 3)])
def test_a_killed_run_leaves_the_same(name, killed, every, base, tmp_path, monkeypatch, capsys):
    """Resumed behind the last snapshot, or before one that the killed run has left half written."""
    whole, cut = run(name, base, tmp_path / "whole", 6), tmp_path / "cut"
    monkeypatch.setattr(callbacks, "CHECKPOINT_EVERY", every)
    with pytest.raises(Killed):
        run(name, base, cut, 6, KillAfter(killed))
    left = sorted(int(path.name) for path in cut.glob("snapshots/*"))
    assert left == [step for step in (1, 2, 4) if step <= killed]
    for folder in [*cut.glob("snapshots/4"), cut / "checkpoints" / "snapshot"]:
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"half")
    capsys.readouterr()
    run(name, base, cut, 6)
    assert "goes on from its checkpoint at step 3" in capsys.readouterr().out
    ours, theirs = kept_in(cut), kept_in(whole)
    assert ours.keys() == theirs.keys() == {1, 2, 4}
    assert all(same(ours[step], theirs[step]) for step in theirs)
