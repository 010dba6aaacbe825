"""Fine-tuning on TRL's trainers: `sft`, `rl` and what lies between.

    L_SFT = - mean over demonstrated tokens of log pi(y_t | x, y_<t)
    L_RL  = GRPO (arXiv 2402.03300), token-normalised as in DAPO (arXiv 2503.14476), TRL's default
    joint = L_RL + lambda * L_SFT

Sampling is ours (generate.py), through TRL's `rollout_func`; losses, optimiser, schedule and
checkpoints are TRL's. Every rollout is written down as it comes, for the oracle to look at later.
"""

import json
import math
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from hybridlib import models, rewards, tasks
from hybridlib.config import RunConfig
from hybridlib.fused import fuse
from hybridlib.generate import InferenceCopy, sample
from hybridlib.responses import parse
from hybridlib.scoring import score_completions

CHECKPOINT_EVERY = 20
VALIDATION_PROMPTS = 128


def demonstrations(
    config: RunConfig, seed: int, narrow: bool, partition: str = "train"
) -> list[dict]:
    """Rows {prompt, completion} in the language of the prompt, seen categories and attacks only."""
    few = config.train.narrow_categories if narrow else None
    count = config.train.demonstrations if partition == "train" else VALIDATION_PROMPTS
    rng = random.Random(f"demonstrations {seed}")
    return [
        {
            "prompt": prompt.text,
            "completion": f" {tasks.demonstration(prompt, rng, config.base.thought)}",
        }
        for prompt in tasks.training_prompts(seed, count, few, partition)
    ]


def encoded(tokenizer, rows: list[dict]) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion with its closing token) of demonstrations as token ids."""
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    texts = tokenizer([row["completion"] for row in rows], add_special_tokens=False)["input_ids"]
    return [(p, [*t, tokenizer.eos_token_id]) for p, t in zip(prompts, texts)]


def rl_prompts(config: RunConfig, seed: int) -> list[tasks.Prompt]:
    """The prompts of one epoch of RL; those of the demonstrations come first among them."""
    return tasks.training_prompts(seed, config.train.steps * config.train.prompts_per_step)


class Progress(TrainerCallback):
    """One line now and then, and log.csv as it comes; a resumed run goes on in the same file."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path, self.began = name, folder / "log.jsonl", time.monotonic()
        self.offset = self.tokens = 0  # TRL counts the tokens of a resumed run from 0 again

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" not in (logs or {}):
            return
        self.tokens = self.offset + int(logs["num_tokens"])
        logs = logs | {"num_tokens": self.tokens}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **logs}, sort_keys=True) + "\n")
        if state.global_step % 10 == 0 or state.global_step == state.max_steps:
            paid = f", reward {logs['reward']:.3f}" if "reward" in logs else ""
            spent = time.monotonic() - self.began
            print(
                f"{self.name}: step {state.global_step}/{state.max_steps}, "
                f"loss {logs['loss']:.4f}{paid}   {spent:.0f} s",
                flush=True,
            )


def arguments(folder: Path, seed: int, rate: float, steps: int, warmup: int = 5) -> dict:
    """Arguments that all trainers share."""
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": seed,
        "learning_rate": rate,
        "max_steps": steps,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": warmup,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # else a loss of NaN is logged as 0 and goes unseen
        "save_steps": CHECKPOINT_EVERY,
        "save_total_limit": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def finish(trainer, folder: Path) -> None:
    """Train from the last checkpoint if there is one; check that something was learnt; save."""
    before, began = trainable(trainer.model), time.monotonic()
    last = _last_checkpoint(folder / "checkpoints")
    progress = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Progress))
    _go_on(trainer, progress, folder, int(last.name.rsplit("-", 1)[1]) if last else 0)
    trainer.remove_callback(PrinterCallback)  # Progress says the same in one line
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError("the loss is not finite: lower the learning rate")
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
    (folder / "cost.json").write_text(json.dumps(cost, indent=1) + "\n")


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
    for path in (folder / "log.jsonl", folder / "rollouts.jsonl"):
        if not path.exists():
            continue
        lines = path.read_text().splitlines()
        # The last line may be half written; what stands behind the checkpoint is done again.
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


def _policy(config: RunConfig, base: Path, start: Path | None):
    """The model to train: the base with fresh LoRA, or a trained adapter to go on from."""
    if start is not None:
        return fuse(models.load_policy(base, start, trainable=True))
    model, adapters = models.load_base(base), models.lora(config.train.lora_rank)
    return fuse(get_peft_model(model, adapters)) if adapters else model


def sft(
    config: RunConfig, base: Path, folder: Path, seed: int, rate: float, narrow: bool, name: str
) -> None:
    """Supervised fine-tuning on demonstrations; the loss is on completions alone."""
    torch.manual_seed(seed)
    policy, tokenizer = _policy(config, base, None), models.load_tokenizer(base)
    trainer = SFTTrainer(
        model=policy,
        args=SFTConfig(
            **arguments(folder, seed, rate, config.train.sft_steps),
            per_device_train_batch_size=config.train.sft_batch,
            completion_only_loss=True,
            max_length=256,
        ),
        train_dataset=Dataset.from_list(demonstrations(config, seed, narrow)),
        processing_class=tokenizer,
        callbacks=[Progress(name, folder)],
    )
    finish(trainer, folder)
    write_objective(folder, -demonstration_nll(config, trainer.model, tokenizer, seed, narrow))


class PolicyTrainer(GRPOTrainer):
    """TRL's GRPO with three additions.

    Rows of zero advantage are left out of forward and backward: with the token-normalised loss and
    no KL or entropy term they add nothing, so the gradient is exactly the same. A prompt is
    computed once for its group (scoring.py). And L_SFT on a batch of demonstrations is added with
    weight `joint_lambda`.
    """

    joint_lambda = 0.0
    demonstrations: list[dict] = ()
    sft_batch = 0

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0, "trained_tokens": 0}

    def log(self, logs: dict, start_time: float | None = None) -> None:
        super().log(logs | self.tokens, start_time)

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, self._paid_rows(inputs))
        if self.joint_lambda and model.training:
            nll = self._demonstration_loss(model)
            loss = loss + self.joint_lambda * nll / self.current_gradient_accumulation_steps
        return loss

    def _paid_rows(self, inputs: dict) -> dict:
        """The rows whose advantage is not zero (one at least)."""
        if self.beta or self.loss_type != "dapo":
            return inputs
        keep = inputs["advantages"] != 0
        if not keep.any():
            keep[0] = True
        rows = len(keep)
        kept = {
            name: value[keep] if torch.is_tensor(value) and value.shape[:1] == (rows,) else value
            for name, value in inputs.items()
        }
        # Counted as separate rows: what the engine saves by sharing is no part of a method's cost.
        self.tokens["trained_tokens"] += int(
            kept["prompt_mask"].sum() + kept["completion_mask"].sum()
        )
        return kept

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *_, **__
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(rows, logits_to_keep), as TRL pads them, each prompt computed once for its group."""
        prompt_ids, completion_ids = input_ids.tensor_split([-logits_to_keep], 1)
        prompt_mask, mask = attention_mask.bool().tensor_split([-logits_to_keep], 1)
        logps, entropies = score_completions(
            self.accelerator.unwrap_model(model),
            [ids[kept].tolist() for ids, kept in zip(prompt_ids, prompt_mask)],
            [ids[kept].tolist() for ids, kept in zip(completion_ids, mask)],
        )
        padded = torch.zeros(mask.shape, device=mask.device)
        return (
            padded.masked_scatter(mask, torch.cat(logps)),
            padded.masked_scatter(mask, torch.cat(entropies)),
            None,
        )

    def _demonstration_loss(self, model) -> torch.Tensor:
        """Mean negative log-likelihood of the demonstrated tokens of the step's batch."""
        tokenizer = self.processing_class
        first = self.state.global_step * self.sft_batch
        batch = [
            self.demonstrations[(first + i) % len(self.demonstrations)]
            for i in range(self.sft_batch)
        ]
        documents = encoded(tokenizer, batch)
        self.tokens["trained_tokens"] += sum(len(p) + len(t) for p, t in documents)
        logps, _ = score_completions(self.accelerator.unwrap_model(model), *zip(*documents))
        return -torch.cat(logps).mean()


def rollouts(
    inference: InferenceCopy, tokenizer, group: int, tokens: int, seed: int
) -> Callable:
    """TRL's `rollout_func`: `group` completions of at most `tokens` tokens a prompt."""
    uniforms = torch.Generator()

    def roll_out(texts: list[str], trainer: PolicyTrainer) -> dict:
        """TRL gives each prompt G times; it is prefilled once."""
        # Seeded by the step, so that a resumed run draws what an uninterrupted one would have.
        uniforms.manual_seed(1_000_003 * seed + trainer.state.global_step)
        model, prompts = inference.refresh(), texts[::group]
        completions = sample(model, tokenizer, prompts, tokens, group, generator=uniforms)
        prompt_ids = tokenizer(prompts)["input_ids"]
        trainer.tokens["prompt_tokens"] += sum(map(len, prompt_ids))
        trainer.tokens["completion_tokens"] += sum(map(len, completions))
        repeated = [ids for ids in prompt_ids for _ in range(group)]
        return {"prompt_ids": repeated, "completion_ids": completions, "logprobs": None}

    return roll_out


def grpo_arguments(
    folder: Path, seed: int, rate: float, steps: int, prompts: int, group: int, tokens: int, **more
) -> GRPOConfig:
    """One optimiser step a batch of `prompts` x `group` completions, always on-policy."""
    return GRPOConfig(
        **arguments(folder, seed, rate, steps) | more,
        per_device_train_batch_size=prompts * group,
        num_generations=group,
        steps_per_generation=1,
        max_completion_length=tokens,
        shuffle_dataset=False,
    )


def rl(
    config: RunConfig,
    base: Path,
    folder: Path,
    seed: int,
    rate: float,
    harmlessness: rewards.Harmlessness,
    start: Path | None,
    joint: bool,
    name: str,
) -> None:
    """GRPO on seen prompts, from the base or from a trained adapter (`start`).

    Parameters
    ----------
    harmlessness : the pay for harmful prompts: rule, reward model, or (rl_gold alone) the oracle.
    joint : add `joint_lambda` times the SFT loss at every step.
    """
    torch.manual_seed(seed)
    training = config.train
    group, tokens = training.group_size, training.max_completion
    policy, tokenizer = _policy(config, base, start), models.load_tokenizer(base)
    prompts = rl_prompts(config, seed)
    rows = [prompt.row() for prompt in prompts]
    inference, record_file = InferenceCopy(policy), folder / "rollouts.jsonl"

    def reward(completions, completion_ids, index, trainer_state, **_) -> list[float]:
        asked = [rows[i] for i in index]
        finished = [ids[-1] == tokenizer.eos_token_id for ids in completion_ids]
        parsed = [parse(t, f, config.base.thought) for t, f in zip(completions, finished)]
        paid = rewards.total_reward(config.reward, harmlessness, asked, parsed, completions)
        with record_file.open("a") as file:
            for row, text, end, value in zip(asked, completions, finished, paid):
                record = {
                    "step": trainer_state.global_step + 1,
                    "prompt": row["prompt_id"],
                    "response": text,
                    "finished": bool(end),
                    "reward": round(value, 6),
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return paid

    trainer = PolicyTrainer(
        model=policy,
        reward_funcs=reward,
        rollout_func=rollouts(inference, tokenizer, group, tokens, seed),
        args=grpo_arguments(
            *(folder, seed, rate, training.steps, training.prompts_per_step, group, tokens),
            beta=training.kl,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": prompt.text, "index": i} for i, prompt in enumerate(prompts)]
        ),
        processing_class=tokenizer,
        callbacks=[Progress(name, folder)],
    )
    if joint:
        trainer.joint_lambda = training.joint_lambda
        trainer.demonstrations = demonstrations(config, seed, narrow=False)
        trainer.sft_batch = training.sft_batch
    finish(trainer, folder)
    objective = validation_reward(config, inference.refresh(), tokenizer, seed, harmlessness)
    if joint:
        nll = demonstration_nll(config, trainer.model, tokenizer, seed, narrow=False)
        objective -= training.joint_lambda * nll
    write_objective(folder, objective)


# --- the rule by which learning rates are chosen ---------------------------------------------


def write_objective(folder: Path, value: float) -> None:
    """objective.json: the run's own training objective on validation prompts; higher is better."""
    (folder / "objective.json").write_text(json.dumps({"objective": value}) + "\n")


@torch.no_grad()
def demonstration_nll(config: RunConfig, model, tokenizer, seed: int, narrow: bool) -> float:
    """L_SFT on demonstrations to validation prompts."""
    model.eval()
    rows = demonstrations(config, seed, narrow, "validation")
    return models.text_loss(model, encoded(tokenizer, rows)).item()


def validation_reward(config: RunConfig, model, tokenizer, seed: int, harmlessness) -> float:
    """The mean reward of one response at T=1 to each validation prompt."""
    prompts = tasks.training_prompts(seed, VALIDATION_PROMPTS, partition="validation")
    completions = sample(
        model, tokenizer, [p.text for p in prompts], config.train.max_completion,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    finished = [ids[-1] == tokenizer.eos_token_id for ids in completions]
    parsed = [parse(t, f, config.base.thought) for t, f in zip(texts, finished)]
    rows = [prompt.row() for prompt in prompts]
    paid = rewards.total_reward(config.reward, harmlessness, rows, parsed, texts)
    return sum(paid) / len(paid)
