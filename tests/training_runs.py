"""Short runs of training for tests, and what is compared of them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny import RATE, training
from transformers import TrainerCallback

from hybridlib.tasks.prompts import Prompt
from hybridlib.training import data, grpo, sft


def pay(prompts, responses, texts) -> list[float]:
    """A random model earns nothing; this is a reward that differs, of harmful prompts alone."""
    return [len(set(text.split())) % 5 / 4 for text in texts]


def run_rl(
    config, base, folder, variant="rl", *, start=None, seed=0, rate=RATE, pay=pay, callbacks=()
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    spec = training(config, variant, seed=seed, rate=rate)
    grpo.rl(spec, base, folder, pay, start, callbacks)
    return folder


def run_sft(config, base, folder, variant="sft", *, rate=RATE, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sft.sft(training(config, variant, rate=rate), base, folder, **more)
    return folder


def demonstrations(config, variant="sft", seed=0, partition="train") -> list[dict]:
    return data.demonstrations(training(config, variant, seed=seed), partition)


def rl_prompts(config, seed=0) -> list[Prompt]:
    return data.rl_prompts(training(config, seed=seed))


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "adapter_model.safetensors")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Killed(BaseException):
    """What a SIGKILL is to a process, as far as a test within it can tell."""


class KillAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise Killed

    on_train_end = on_step_begin


def close(ours: dict, theirs: dict, **tolerance) -> None:
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


class Recorder(grpo.PolicyTrainer):
    """Keeps itself and the inputs of every step."""

    made: list["Recorder"] = []

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[dict] = []
        Recorder.made.append(self)

    def _compute_loss(self, model, inputs):
        self.seen.append(dict(inputs))
        return super()._compute_loss(model, inputs)


def gradients(trainer, loss) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert sum(g.abs().sum() for g in found.values()) > 0
    return found
