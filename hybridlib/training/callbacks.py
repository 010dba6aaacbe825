"""How any trainer of TRL is run: its arguments, its progress, from its checkpoint to what it cost.

log.jsonl is written as it comes, and a killed run goes on from its last checkpoint. A loss that is
not finite, nothing to train and parameters that did not change stop a run; what else a log shows
(health.py) is written to warnings.json and printed.
"""

import json
import math
import resource
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback

from hybridlib.training.cost import flops
from hybridlib.training.health import warnings_in

CHECKPOINT_EVERY = 20


class Progress(TrainerCallback):
    """One line now and then, and log.jsonl as it comes; a resumed run goes on in the same file.

    Raises FloatingPointError at the first loss that is not finite.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path, self.began = name, folder / "log.jsonl", time.monotonic()
        self.offset = self.tokens = 0  # TRL counts the tokens of a resumed run from 0 again

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" not in (logs or {}):
            return
        self.tokens = self.offset + int(logs["num_tokens"])
        logs["num_tokens"] = self.tokens  # for the callbacks behind this one, too
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError("the loss is not finite: lower the learning rate")
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **logs}, sort_keys=True) + "\n")
        if state.global_step % 10 == 0 or state.global_step == state.max_steps:
            reward = f", reward {logs['reward']:.3f}" if "reward" in logs else ""
            spent = time.monotonic() - self.began
            done = f"{self.name}: step {state.global_step}/{state.max_steps}"
            print(f"{done}, loss {logs['loss']:.4f}{reward}   {spent:.0f} s", flush=True)


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
        counted = logs if "trained_tokens" in logs else {"trained_tokens": logs["num_tokens"]}
        if flops(self.parameters, counted) >= self.left:
            draft = self.path.with_name("checkpoints") / self.path.name
            model.save_pretrained(draft)
            draft.rename(self.path)


def arguments(folder: Path, seed: int, rate: float, steps: int, bf16: bool) -> dict:
    """Arguments that all trainers share."""
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": seed,
        "learning_rate": rate,
        "max_steps": steps,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5,
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
    beforehand on what it learns from is added to its cost.
    """
    before, began = trainable(trainer.model), time.monotonic()
    last = _last_checkpoint(folder / "checkpoints")
    progress = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Progress))
    _go_on(trainer, progress, folder, int(last.name.rsplit("-", 1)[1]) if last else 0)
    trainer.remove_callback(PrinterCallback)  # Progress says the same in one line
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    after = trainable(trainer.model)
    if all(torch.equal(before[name], after[name]) for name in before):
        raise RuntimeError("training changed no parameter: is every reward the same?")
    trainer.model.save_pretrained(folder / "model")
    cost = {
        "optimiser_steps": trainer.state.global_step,
        **getattr(trainer, "tokens", {"trained_tokens": progress.tokens}),
        "seconds": round(time.monotonic() - began, 2),
        "resumed": bool(last),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    cost |= {name: round(cost.get(name, 0) + value, 2) for name, value in spent.items()}
    (folder / "cost.json").write_text(json.dumps(cost, indent=1) + "\n")
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    found = warnings_in(rows, expected)
    (folder / "warnings.json").write_text(json.dumps(found, indent=1) + "\n")
    for warning in found:
        print(f"{progress.name}: warning {warning['name']}: {warning['says']}", flush=True)


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint: the trainer writes its state last. Later ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.rsplit("-", 1)[1]))
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
            return checkpoint
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return None


def _go_on(trainer, progress: "Progress", folder: Path, step: int) -> None:
    """Cut the records of a killed run back to its checkpoint at `step`; count on from it."""
    for path in filter(Path.exists, (folder / "log.jsonl", folder / "rollouts.jsonl")):
        lines = path.read_text().splitlines()
        # The last line may be half written; what comes after the checkpoint is done again.
        kept = [x for x in lines if x.endswith("}") and json.loads(x)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept))
        if kept and path.name == "log.jsonl":
            last = json.loads(kept[-1])
            if hasattr(trainer, "tokens"):  # those of RL
                trainer.tokens = {name: last[name] for name in trainer.tokens}
            else:
                progress.offset = int(last["num_tokens"])
    if step:
        print(f"goes on from its checkpoint at step {step}", flush=True)


def trainable(model) -> dict[str, torch.Tensor]:
    """Copies of the trainable parameters. Raises RuntimeError if there are none."""
    found = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise RuntimeError("no parameter is trainable")
    return found
