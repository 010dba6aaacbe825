"""How fast: this project's GRPO step beside TRL's unchanged `GRPOTrainer`, in one run.

    steps     both at one configuration, alternating, on the organism and on SmolLM2
    curves    both for 50 steps and five seeds: do they learn the same?
    scaling   time and memory against steps, prompts and seeds
    study     the default study, cold and warm

Every part writes its table, and its entry in bench.json, to results/bench/.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from hybridlib.store.environment import cores, environment
from hybridlib.store.paths import PROJECT
from hybridlib.study.notebook import kernel_variables

FOLDER = PROJECT / "results" / "bench"
RATE = 1e-3
CURVE = {"steps": 50, "seeds": 5, "window": 5}
TRAINERS = ("stock", "ours")


@dataclass(frozen=True)
class Setting:
    """One model at one configuration of GRPO, and how often it is measured."""

    prompts: int
    tokens: int
    dtype: str
    rounds: int
    steps: int  # measured in each round
    # Before them: oneDNN compiles its products for the shapes that it meets in the first ones.
    warm_up: int = 2
    group: int = 8


SETTINGS = {
    "organism": Setting(prompts=16, tokens=40, dtype="float32", rounds=5, steps=12),
    "smollm2": Setting(prompts=8, tokens=48, dtype="bfloat16", rounds=3, steps=2),
}


def bench(parts: Sequence[str]) -> None:
    """Run the named parts, all if none is named."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    _note("machine", {"processor": environment()["processor"], "cores": cores()})
    for name in parts or PARTS:
        print(f"bench: {name}", flush=True)
        PARTS[name]()


def _note(name: str, found: dict) -> None:
    """Set one entry of bench.json."""
    path = FOLDER / "bench.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    text = json.dumps(before | {name: before.get(name, {}) | found}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


@contextmanager
def _processes(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that gives each task a process of its own, with a kernel's environment."""
    before = dict(os.environ)
    os.environ.update(kernel_variables(threads))
    try:
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
            yield pool
    finally:
        os.environ.clear()
        os.environ.update(before)


def _apart(task: Callable, *arguments, threads: int) -> dict:
    """What `task` returns, called in a process of its own."""
    with _processes(1, threads) as pool:
        return pool.submit(task, *arguments).result()


# --- one trainer -----------------------------------------------------------------------------


def _train(
    setting_name: str,
    trainer_name: str,
    seed: int,
    steps: int,
    prompts: int = 0,
    rate: float = RATE,
) -> dict:
    """Train; seconds and tokens of each step, its logged metrics, and the peak memory in MiB."""
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import GRPOTrainer

    from hybridlib.config import load_config
    from hybridlib.engine.fused import fuse
    from hybridlib.engine.sampling import InferenceCopy
    from hybridlib.study import keys, stages
    from hybridlib.training import data, grpo, loading, rewards
    from hybridlib.training.rollouts import Rollouts
    from hybridlib.training.step import Demonstrations

    setting, of_study = SETTINGS[setting_name], setting_name == "organism"
    config = load_config(
        steps=steps,
        prompts_per_step=prompts or setting.prompts,
        group_size=setting.group,
        max_completion=setting.tokens,
        base_seed=0,  # one base for all: what differs is the trainer
    )
    spec = replace(keys.train(config, "rl", "keyword", seed), learning_rate=rate)
    base = stages.base(config, seed) / "model" if of_study else loading.asset_folder(setting_name)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=setting.dtype)
    policy = get_peft_model(model, loading.lora(16))
    asked = [(_as_asked(prompt, tokenizer), prompt) for prompt in data.rl_prompts(spec)]
    harmlessness = rewards.keyword_reward(config.reward.scope)

    def as_in_the_study(prompts, completions, completion_ids, **_) -> list[float]:
        rows = [dict(asked)[text].row() for text in prompts]
        finished = [ids[-1] == tokenizer.eos_token_id for ids in completion_ids]
        at = spec.weights, harmlessness, rows, completions, finished, spec.base.thought
        return rewards.rewarded(*at)[0]

    reward, kind, ours = (as_in_the_study if of_study else _new_words), GRPOTrainer, {}
    with tempfile.TemporaryDirectory() as folder:
        if trainer_name == "ours":
            fuse(policy)
            reward = grpo.reward if of_study else reward
            kind, none = grpo.PolicyTrainer, Demonstrations([], {})
            sampled = (spec, tokenizer, InferenceCopy(policy), dict(asked), none, harmlessness)
            rollouts = Rollouts(*sampled, Path(folder) / "rollouts.jsonl")
            ours = {"spec": spec, "demonstrations": none, "rollout_func": rollouts}
        bf16, unsaved = setting.dtype == "bfloat16", {"save_strategy": "no"}
        trainer = _clocked(kind)(
            model=policy,
            reward_funcs=reward,
            args=grpo.grpo_config(spec, Path(folder), steps, bf16, **unsaved),
            train_dataset=Dataset.from_list([{"prompt": text} for text, _ in asked]),
            processing_class=tokenizer,
            **ours,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    for row, log in zip(trainer.measured, logged, strict=True):
        row |= {"reward": log["reward"], "length": log["completions/mean_length"]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"steps": trainer.measured, "memory_mib": peak}


def _as_asked(prompt, tokenizer) -> str:
    """The text of a prompt; for a chat model as a user's turn."""
    if not tokenizer.chat_template:
        return prompt.text
    turns = [{"role": "user", "content": prompt.text}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def _new_words(completions: list[str], **_) -> list[float]:
    """A reward that hardly ever is the same for a whole group, so that no row is left out."""
    words = [text.split() for text in completions]
    return [len(set(w)) / max(1, len(w)) + 0.001 * len(w) for w in words]


def _clocked(kind: type) -> type:
    """The trainer, which notes seconds, seconds of generation and tokens of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self, trainer) -> None:
            self.trainer = trainer

        def _now(self) -> list[float]:
            return [time.perf_counter(), self.trainer.generating, self.trainer.drawn]

        def on_step_begin(self, *_, **__) -> None:
            self.before = self._now()

        def on_step_end(self, *_, **__) -> None:
            names = "seconds", "generation_seconds", "tokens"
            spent = [after - before for after, before in zip(self._now(), self.before)]
            self.trainer.measured.append(dict(zip(names, spent)))

    class Clocked(kind):
        def __init__(self, **of_trl) -> None:
            self.generating, self.drawn, self.measured = 0.0, 0, []
            super().__init__(**of_trl, callbacks=[Clock(self)])

        def _generate(self, prompts):
            began = time.perf_counter()
            found = super()._generate(prompts)
            self.generating += time.perf_counter() - began
            self.drawn += sum(map(len, found[1]))
            return found

    return Clocked


# --- the parts -------------------------------------------------------------------------------


def steps() -> None:
    """Time of a step and of its generation, stock over ours, at one configuration."""
    import torch

    torch.set_num_threads(cores())
    _note("machine", _roofline())
    rows = []
    for name, setting in SETTINGS.items():
        for number in range(setting.rounds):
            for trainer in TRAINERS:
                total = setting.warm_up + setting.steps
                found = _apart(_train, name, trainer, number, total, threads=cores())
                mean = pd.DataFrame(found["steps"][setting.warm_up :]).mean()
                at = {"setting": name, "round": number, "trainer": trainer}
                times = {c: mean[c] for c in ("seconds", "generation_seconds", "tokens")}
                rows.append(at | times | {"memory_mib": found["memory_mib"]})
                print(
                    f"{name} round {number} {trainer}: {mean.seconds:.2f} s a step, of which "
                    f"generation {mean.generation_seconds:.2f} s",
                    flush=True,
                )
    table = pd.DataFrame(rows).round(4)
    table.to_csv(FOLDER / "steps.csv", index=False)
    for name, frame in table.groupby("setting"):
        _note(str(name), _ratios(frame))


def _ratios(frame: pd.DataFrame) -> dict:
    """Stock over ours, round by round, and the median tokens a second of each."""
    each = {t: frame[frame.trainer == t].set_index("round") for t in TRAINERS}
    # A token: both sample at random, so the lengths differ a little.
    a_token = {t: rows.generation_seconds / rows.tokens for t, rows in each.items()}
    ratios = {
        "step_ratio": each["stock"].seconds / each["ours"].seconds,
        "generation_ratio": a_token["stock"] / a_token["ours"],
    }
    found = {n: r.agg(["min", "median", "max"]).round(2).to_dict() for n, r in ratios.items()}
    for trainer, rows in each.items():
        training = rows.tokens / (rows.seconds - rows.generation_seconds)
        found[f"{trainer}_tokens_per_second"] = {
            "generation": round((1 / a_token[trainer]).median()),
            "training": round(training.median()),
        }
    return found


def _roofline() -> dict:
    """GFLOP/s of a square matrix product, and GB/s of reading and writing a large tensor."""
    import torch

    def best(task: Callable, times: int = 5) -> float:
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            task()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(2048, 2048, dtype=dtype) for _ in range(2))
        name = f"matmul_{str(dtype).removeprefix('torch.')}_gflops"
        found[name] = round(2 * 2048**3 / best(lambda a=a, b=b: a @ b) / 1e9)
    big = torch.randn(1 << 27)
    to = torch.empty_like(big)
    found["copy_gb_per_second"] = round(2 * big.nbytes / best(lambda: to.copy_(big)) / 1e9, 1)
    return found


def curves() -> None:
    """Both trainers on the organism: mean reward and length of each step, by seed."""
    tasks_ = [(t, seed) for seed in range(CURVE["seeds"]) for t in TRAINERS]
    with _processes(cores(), threads=1) as pool:
        jobs = [pool.submit(_train, "organism", t, s, CURVE["steps"]) for t, s in tasks_]
        found = [job.result()["steps"] for job in jobs]
    table = pd.concat(
        pd.DataFrame(rows).assign(trainer=t, seed=s, step=range(1, len(rows) + 1))
        for (t, s), rows in zip(tasks_, found)
    )
    columns = ["trainer", "seed", "step", "reward", "length"]
    table[columns].round(6).to_csv(FOLDER / "curves.csv", index=False)
    _note("curves", draw_curves(table))


def bands(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and 95% t interval over seeds, by trainer and window of steps."""
    window = (table.step - 1) // CURVE["window"]
    by_seed = table.groupby(["trainer", window, "seed"])[column].mean().unstack()
    half = stats.t.ppf(0.975, by_seed.shape[1] - 1) * by_seed.sem(axis=1)
    mean = by_seed.mean(axis=1)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})


def draw_curves(table: pd.DataFrame) -> dict:
    """learning_curves.png; the share of windows in which each mean is inside the other."""
    from matplotlib.figure import Figure

    from hybridlib.figures import style

    shares = {}
    with style.styled():
        fig = Figure(figsize=(8, 3.4), layout="constrained")
        for ax, (column, label) in zip(
            fig.subplots(1, 2), {"reward": "mean reward", "length": "tokens a completion"}.items()
        ):
            band = bands(table, column)
            for trainer, (colour, name) in {
                "stock": ("#d55e00", "TRL, unchanged"),
                "ours": ("#0072b2", "this project"),
            }.items():
                part = band.loc[trainer]
                middle = part.index * CURVE["window"] + (CURVE["window"] + 1) / 2
                marker = "s" if trainer == "stock" else "o"
                ax.plot(middle, part["mean"], marker=marker, color=colour, label=name)
                ax.fill_between(middle, part.low, part.high, color=colour, alpha=0.2, lw=0)
            stock, ours = band.loc["stock"], band.loc["ours"]
            inside = [
                (b.low <= a["mean"]) & (a["mean"] <= b.high)
                for a, b in ((ours, stock), (stock, ours))
            ]
            shares[column] = round(float(np.mean([*inside[0], *inside[1]])), 3)
            ax.set_xlabel("optimiser step")
            ax.set_ylabel(label)
        fig.axes[0].legend(frameon=False)
        seeds = table.seed.nunique()
        style.title(fig, f"GRPO by both trainers: means and 95% intervals of {seeds} seeds")
        style.save(fig, FOLDER, "learning_curves")
    return {"inside_each_other": shares}


def scaling() -> None:
    """Seconds and peak memory of our trainer on the organism as steps, prompts or seeds double.

    The policy stays the base (a rate of 0): as it learns, the groups with any spread of reward,
    which alone are trained on, become more and then fewer, and a step costs as they do.
    """
    rows = []
    for name, values in {"steps": (10, 20, 40), "prompts": (8, 16, 32), "seeds": (1, 2, 4)}.items():
        for value in values:
            at = {"steps": 10, "prompts": 16, "seeds": 1} | {name: value}
            size = at["steps"], at["prompts"], 0.0
            found = [
                _apart(_train, "organism", "ours", seed, *size, threads=cores())
                for seed in range(at["seeds"])
            ]
            seconds = sum(row["seconds"] for f in found for row in f["steps"])
            memory = max(f["memory_mib"] for f in found)
            rows.append({"doubled": name, **at, "seconds": seconds, "memory_mib": memory})
            print(f"{name} {value}: {seconds:.1f} s, {memory} MiB", flush=True)
    pd.DataFrame(rows).round(2).to_csv(FOLDER / "scaling.csv", index=False)


def study() -> None:
    """The default study in an empty store, and again."""
    with tempfile.TemporaryDirectory() as store:
        for name in ("cold_s", "warm_s"):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "hybridlib", "study", "organism"],
                env=os.environ | {"HYBRIDLIB_STORE": store},
                check=True,
            )
            _note("study", {name: round(time.perf_counter() - began, 1)})
    _note("study", {"cores": cores(), "processor": environment()["processor"]})


PARTS = {"steps": steps, "curves": curves, "scaling": scaling, "study": study}
