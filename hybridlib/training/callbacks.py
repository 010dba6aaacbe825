"""How any trainer of TRL is run: its arguments, its progress, from its checkpoint to what it cost.

log.jsonl is written as it comes, and a killed run goes on from its last checkpoint. A number that
is not finite, nothing to train and parameters that did not change stop a run; what else a log shows
(health.py) is written to warnings.json and printed.
"""

import json
import math
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback

from hybridlib.store import jsonl
from hybridlib.store.errors import OneLineError
from hybridlib.training.cost import flops, tokens_of
from hybridlib.training.health import warnings_in

CHECKPOINT_EVERY = 20  # steps
CHECKPOINT_SECONDS = 60  # or so long after the last one


class Diverged(OneLineError, FloatingPointError):
    """Training has come to numbers that are not finite."""


class NothingLearnt(OneLineError, RuntimeError):
    """Training has changed nothing."""


class Progress(TrainerCallback):
    """One line now and then, log.jsonl and checkpoints as they come; a resumed run goes on in the
    same file.

    Raises FloatingPointError at the first loss or gradient that is not finite.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path, self.began = name, folder / "log.jsonl", time.monotonic()
        self.saved = self.began
        self.offset = self.tokens = 0  # TRL counts the tokens of a resumed run from 0 again

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" not in (logs or {}):
            return
        self.tokens = self.offset + int(logs["num_tokens"])
        logs["num_tokens"] = self.tokens  # for the callbacks behind this one, too
        for name, what in (("loss", "the loss"), ("grad_norm", "the gradient")):
            if not math.isfinite(logs.get(name, 0)):
                raise FloatingPointError(f"{what} is not finite")
        jsonl.append(self.path, [dict(sorted({"step": state.global_step, **logs}.items()))])
        if state.global_step % 10 == 0 or state.global_step == state.max_steps:
            reward = f", reward {logs['reward']:.3f}" if "reward" in logs else ""
            spent = time.monotonic() - self.began
            done = f"{self.name}: step {state.global_step}/{state.max_steps}"
            print(f"{done}, loss {logs['loss']:.4f}{reward}   {spent:.0f} s", flush=True)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        due = control.should_save or time.monotonic() - self.saved >= CHECKPOINT_SECONDS
        # From a checkpoint behind the last step the trainer would take one step more.
        control.should_save = due and state.global_step < state.max_steps

    def on_save(self, args, state, control, **kwargs) -> None:
        self.saved = time.monotonic()


class AtBudget(TrainerCallback):
    """Saves the policy to model_at_budget/ at the first step at which it has cost a budget.

    `budget` (0: none) and what the stages before have `spent` are operations (cost.py), of a base
    of so many `parameters`. Nothing is saved if the stages before reached the budget.
    """

    def __init__(self, folder: Path, budget: float, parameters: int, spent: float) -> None:
        self.path, self.parameters = folder / "model_at_budget", parameters
        self.left = budget - spent

    def on_log(self, args, state, control, logs=None, model=None, **kwargs) -> None:
        if self.left <= 0 or "loss" not in (logs or {}) or self.path.exists():
            return
        if flops(self.parameters, tokens_of(logs)) >= self.left:
            draft = self.path.with_name("checkpoints") / self.path.name
            model.save_pretrained(draft)
            draft.rename(self.path)


class Snapshots(TrainerCallback):
    """Saves the policy to snapshots/<step>/ at some steps, closer together at the beginning."""

    SHARES = (1 / 12, 1 / 6, 1 / 3, 2 / 3)  # of all steps

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        step = state.global_step
        if step in {round(share * state.max_steps) for share in self.SHARES} - {state.max_steps}:
            draft = self.folder / "checkpoints" / "snapshot"
            model.save_pretrained(draft)
            path = self.folder / "snapshots" / str(step)
            shutil.rmtree(path, ignore_errors=True)  # of a killed run
            path.parent.mkdir(exist_ok=True)
            draft.rename(path)


def arguments(folder: Path, seed: int, rate: float, steps: int, bf16: bool) -> dict:
    """Arguments that all trainers share."""
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": seed,
        "learning_rate": rate,
        "max_steps": steps,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5 if steps > 1 else 0,  # the first step of a warm-up changes nothing
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # else a loss of NaN is logged as 0 and goes unseen
        "save_steps": CHECKPOINT_EVERY,
        "save_total_limit": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": bf16,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def finish(trainer, folder: Path, expected: Iterable[str] = (), **spent: float) -> None:
    """Train from the last checkpoint if there is one; check that something was learnt; save.

    The trainer must log the `expected` numbers (see `health.warnings_in`). What was spent
    beforehand on what it learns from is added to its cost. Raises Diverged, NothingLearnt.
    """
    before, began = trainable(trainer.model), time.monotonic()
    progress = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Progress))
    last = _go_on(trainer, progress, folder)
    trainer.remove_callback(PrinterCallback)  # Progress says the same in one line
    with finite(trainer):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        after = trainable(trainer.model)
        if not all(values.isfinite().all() for values in after.values()):
            raise FloatingPointError("a weight is not finite")
    rows = list(jsonl.read(progress.path))
    if all(torch.equal(before[name], after[name]) for name in before):
        # The first step of a warm-up changes nothing, whatever it was paid.
        alike = all(row.get("frac_reward_zero_std") == 1 for row in rows[1:] or rows)
        why = "all rewards of each group were equal" if alike else "the learning rate is too low"
        raise NothingLearnt(f"{progress.name}: training changed no parameter: {why}")
    trainer.model.save_pretrained(folder / "model")
    cost = {
        "optimiser_steps": trainer.state.global_step,
        **getattr(trainer, "tokens", {"trained_tokens": progress.tokens}),
        "seconds": round(time.monotonic() - began, 2),
        "resumed": bool(last),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    cost |= {name: round(cost.get(name, 0) + value, 2) for name, value in spent.items()}
    (folder / "cost.json").write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")
    found = warnings_in(rows, expected)
    (folder / "warnings.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for warning in found:
        print(f"{progress.name}: warning {warning['name']}: {warning['says']}", flush=True)


@contextmanager
def finite(trainer) -> Iterator[None]:
    """Raises Diverged for a FloatingPointError within."""
    try:
        yield
    except FloatingPointError as error:
        at = f"after {trainer.state.global_step} steps at {trainer.args.learning_rate:g}"
        raise Diverged(f"{error} {at}: lower the learning rate") from None


def _go_on(trainer, progress: "Progress", folder: Path) -> Path | None:
    """The newest checkpoint that is whole; what a killed run has left behind it is removed.

    The trainer writes the state of a checkpoint last. The records must reach up to it, too, and are
    cut back to it.
    """
    rl = hasattr(trainer, "tokens")
    paths = [progress.path, *([folder / "rollouts.jsonl"] if rl else [])]
    records = {path: list(jsonl.read(path)) if path.exists() else [] for path in paths}
    found = {int(p.name.rsplit("-", 1)[1]): p for p in folder.glob("checkpoints/checkpoint-*")}
    for step in sorted(found, reverse=True):
        try:
            json.loads((found[step] / "trainer_state.json").read_text(encoding="utf-8"))
            reached = all(_reaches(rows, step) for rows in records.values())
            if reached and step < trainer.args.max_steps:
                break
        except (OSError, ValueError):
            pass
        shutil.rmtree(found[step])
    else:
        step = 0
    for path, rows in records.items():
        jsonl.write(path, [row for row in rows if row["step"] <= step])
    if not step:
        return None
    last = next(row for row in records[progress.path] if row["step"] == step)
    if rl:
        trainer.tokens = {name: last[name] for name in trainer.tokens}
    else:
        progress.offset = int(last["num_tokens"])
    print(f"goes on from its checkpoint at step {step}", flush=True)
    return found[step]


def _reaches(records: list[dict], step: int) -> bool:
    """Whether each step up to this one has the same number of records."""
    rows = Counter(row["step"] for row in records if row["step"] <= step)
    return sorted(rows) == list(range(1, step + 1)) and len(set(rows.values())) == 1


def trainable(model) -> dict[str, torch.Tensor]:
    """Copies of the trainable parameters. Raises RuntimeError if there are none."""
    found = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise RuntimeError("no parameter is trainable")
    return found
