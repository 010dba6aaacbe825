"""Training through the run store: killed by SIGKILL and gone on with, altered and redone."""

import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny

from hybridlib.evaluation import respond
from hybridlib.store.run_store import Store, read_manifest
from hybridlib.study import keys, stages
from hybridlib.training import callbacks, grpo, loading, rewards, sft

pytestmark = pytest.mark.slow
STEPS, EVERY, TIMEOUT = 12, 4, 120

# Children are forked from a server that has imported all that takes seconds.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["hybridlib.evaluation.respond", "hybridlib.training.reward_model"])
RATES = {"learning_rates": {"rl/keyword": 1e-3, "sft": 1e-3, "joint/keyword": 1e-3}}


def pay(config, prompts, responses, of_task) -> list[float]:
    return [len({*r.whole.split()}) % 5 / 4 for r in responses]


def work(store: Path, variant: str, reward: str, pause: float) -> None:
    """What a child does; its output goes to the file `said` in the store."""
    os.environ["HYBRIDLIB_STORE"] = str(store)
    sys.stdout = sys.stderr = (store / "said").open("w", buffering=1)
    torch.set_num_threads(1)
    callbacks.CHECKPOINT_EVERY = EVERY
    respond.GATE_PER_CELL = 1
    rewards.weighted = pay  # a random base earns nothing: pay for something that differs
    log = callbacks.Progress.on_log

    def slow(self, *args, **kwargs) -> None:
        log(self, *args, **kwargs)
        time.sleep(pause)  # not so fast that the test cannot see where it is

    callbacks.Progress.on_log = slow
    print(stages.train(tiny(steps=STEPS, sft_steps=STEPS, **RATES), variant, reward, 0))


def start(store: Path, *arguments) -> multiprocessing.Process:
    store.mkdir(exist_ok=True)
    child = context.Process(target=work, args=(store, *arguments))
    child.start()
    return child


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(folder: Path, name: str) -> Counter:
    return Counter(row["step"] for row in rows(folder / name))


def kill_when(store: Path, variant: str, reward: str, ready) -> Path:
    """Start the training and end it by SIGKILL once `ready(its folder)`; return that folder."""
    child = start(store, variant, reward, 0.3)
    try:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            assert child.is_alive(), (store / "said").read_text()
            for folder in (store / "train").glob(".*.partial"):
                if ready(folder):
                    return folder
            time.sleep(0.02)
        raise AssertionError("waited too long")
    finally:
        child.kill()
        child.join()


def at_step(step: int):
    def ready(folder: Path) -> bool:
        log = folder / "log.jsonl"
        return log.exists() and len(log.read_text().splitlines()) >= step

    return ready


def finish(store: Path, variant: str, reward: str) -> tuple[Path, str]:
    child = start(store, variant, reward, 0)
    child.join(TIMEOUT)
    said = (store / "said").read_text()
    assert child.exitcode == 0, said
    return Path(said.splitlines()[-1]), said


@pytest.fixture(scope="module", params=[("rl", "keyword"), ("sft", "none")], ids=["rl", "sft"])
def killed(request, tmp_path_factory) -> tuple[Path, Path, str]:
    """A run that was never stopped, one that was killed and gone on with, and what that printed."""
    store = tmp_path_factory.mktemp("whole")
    whole, said = finish(store, *request.param)
    assert "goes on" not in said
    store = tmp_path_factory.mktemp("killed")
    partial = kill_when(store, *request.param, at_step(EVERY + 2))
    kept = [path.name for path in (partial / "checkpoints").glob("checkpoint-*")]
    assert kept == [f"checkpoint-{EVERY}"]
    assert not (store / "train" / whole.name).exists()
    resumed, said = finish(store, *request.param)
    assert resumed.name == whole.name
    return whole, resumed, said


def base_of(run: Path):
    """The base in the store of a run."""
    return loading.load_base(next((run.parents[1] / "base").glob("*/model")))


def test_a_killed_training_goes_on_from_its_checkpoint_and_says_so(killed):
    whole, resumed, said = killed
    assert f"goes on from its checkpoint at step {EVERY}" in said
    assert json.loads((resumed / "cost.json").read_text())["resumed"] is True
    assert json.loads((whole / "cost.json").read_text())["resumed"] is False
    assert not (resumed / "checkpoints").exists()
    assert Store(resumed.parents[1]).has("train", resumed.name)
    # one line a step, save those behind the checkpoint that were done twice
    assert set(steps(resumed, "log.jsonl")) == set(range(1, STEPS + 1))


def test_it_ends_where_an_uninterrupted_one_does(killed):
    whole, resumed, _ = killed
    ours, theirs = (load_file(f / "model" / "adapter_model.safetensors") for f in (resumed, whole))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].equal(theirs[name]), name
    kept = [{p.parent.name: load_file(p) for p in f.glob("snapshots/*/adapter_model.safetensors")}
            for f in (resumed, whole)]  # fmt: skip
    assert kept[0].keys() == kept[1].keys() and len(kept[0]) > 1
    for step, policy in kept[0].items():  # those from before the kill, too
        assert all(policy[name].equal(kept[1][step][name]) for name in policy), step
    if (whole / "rollouts.jsonl").exists():
        last = {step: [] for step in range(1, STEPS + 1)}
        size = tiny().train.prompts_per_step * tiny().train.group_size
        for row in rows(resumed / "rollouts.jsonl"):
            last[row["step"]].append(row)
        kept = [row for step in last for row in last[step][-size:]]
        assert kept == rows(whole / "rollouts.jsonl")


def test_it_counts_what_all_of_it_cost(killed):
    """Tokens and FLOPs decide the comparison at equal compute: those before the kill count too."""
    whole, resumed, _ = killed
    cost = [json.loads((folder / "cost.json").read_text()) for folder in (whole, resumed)]
    for name in ("optimiser_steps", "prompt_tokens", "completion_tokens", "trained_tokens"):
        assert cost[0].get(name) == cost[1].get(name), name


def test_the_curves_of_a_resumed_run_are_those_of_a_whole_one(killed):
    whole, resumed, _ = killed
    config = tiny(steps=STEPS, **RATES)
    spec = keys.train(config, "rl", "keyword", 0)
    a, b = (
        respond.curves(spec, folder, loading.organism_tokenizer(), base_of(folder))
        for folder in (whole, resumed)
    )
    assert list(a.step) == list(range(1, STEPS + 1))
    assert a.equals(b)


def test_a_kill_within_a_line_of_the_logs_does_no_harm(tmp_path: Path):
    """The rows behind the checkpoint are cut anywhere, as a full disk buffer may be."""
    store = tmp_path / "store"
    partial = kill_when(store, "rl", "keyword", at_step(EVERY + 2))
    for name in ("rollouts.jsonl", "log.jsonl"):
        text = (partial / name).read_text()
        behind = [i for i, line in enumerate(text.splitlines()) if json.loads(line)["step"] > EVERY]
        lines = text.splitlines(keepends=True)
        kept = "".join(lines[: behind[0] + (3 if name == "rollouts.jsonl" else 0)])
        (partial / name).write_text(kept + lines[behind[-1]][:20])
    folder, _ = finish(store, "rl", "keyword")
    config = tiny(steps=STEPS, **RATES)
    spec, tokenizer = keys.train(config, "rl", "keyword", 0), loading.organism_tokenizer()
    table = respond.curves(spec, folder, tokenizer, base_of(folder))
    assert list(table.step) == list(range(1, STEPS + 1))
    assert table.tokens.notna().all()


def test_a_checkpoint_that_was_not_finished_is_passed_over(tmp_path: Path):
    """SIGKILL while the second checkpoint is written: its folder is there, its state is not."""
    store = tmp_path / "store"
    partial = kill_when(store, "rl", "keyword", at_step(EVERY + 2))
    half = partial / "checkpoints" / f"checkpoint-{2 * EVERY}"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half of it")
    _, said = finish(store, "rl", "keyword")
    assert f"goes on from its checkpoint at step {EVERY}" in said


# --- within this process ---------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch) -> Store:
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(respond, "GATE_PER_CELL", 1)
    monkeypatch.setattr(rewards, "weighted", pay)
    return Store()


def unit(name: str = "sft", reward: str = "none") -> tuple[str, str, int]:
    return name, reward, 0


@pytest.mark.parametrize("name", ["model/adapter_model.safetensors", "log.jsonl", "objective.json"])
def test_a_file_that_was_altered_is_found_and_redone(store, name: str, caplog):
    config = tiny(**RATES)
    folder = stages.train(config, *unit())
    before = {n: digest for n, (_, digest) in read_manifest(folder)["files"].items()}
    assert stages.is_done(config, "train", *unit())
    content = bytearray((folder / name).read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    (folder / name).write_bytes(content)
    assert not stages.is_done(config, "train", *unit())
    assert stages.train(config, *unit()) == folder
    assert f"{name!r} was altered" in caplog.text
    assert stages.is_done(config, "train", *unit())
    after = {n: digest for n, (_, digest) in read_manifest(folder)["files"].items()}
    assert after["model/adapter_model.safetensors"] == before["model/adapter_model.safetensors"]
    assert (folder.with_name(f".{folder.name}.damaged") / name).read_bytes() == content


def test_nothing_is_done_twice_and_a_parameter_redoes_what_depends_on_it(store, monkeypatch):
    config = tiny(**RATES)
    stages.evaluate(config, *unit())
    made = list(store.root.rglob("manifest.json"))
    assert sorted(p.parent.parent.name for p in made) == ["base", "evaluate", "train"]

    def never(*args, **kwargs):
        raise AssertionError("done again")

    with monkeypatch.context() as patch:
        for module, name in ((sft, "sft"), (grpo, "rl"), (sft, "finish"), (grpo, "finish")):
            patch.setattr(module, name, never)
        patch.setattr(respond, "respond", never)
        stages.evaluate(config, *unit())
    again = tiny(per_cell=2, **RATES)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "finish", never)
        stages.evaluate(again, *unit())  # measured anew, trained not
    assert len(list((store.root / "evaluate").glob("[!.]*"))) == 2
    assert len(list((store.root / "train").glob("[!.]*"))) == 1


def test_evaluation_is_the_same_each_time(store):
    config = tiny(**RATES)
    first = stages.evaluate(config, *unit("rl", "keyword"))
    content = {p.name: p.read_bytes() for p in first.iterdir() if p.name != "manifest.json"}
    assert set(content) == {"responses.parquet", "training.csv", "snapshots.csv"}
    (first / "training.csv").unlink()
    assert stages.evaluate(config, *unit("rl", "keyword")) == first
    for name, text in content.items():
        assert (first / name).read_bytes() == text, name
