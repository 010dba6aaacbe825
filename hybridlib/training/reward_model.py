"""The good reward: a reward model that reads the whole response, as DeepSeek-R1's did.

Labellers' work is a stage of its own: the base answers the prompts of training, each response is
labelled once, and the file of labels is all that the reward model ever sees of the oracle.
"""

import json
import math
import random
from itertools import cycle, islice
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig as TRLRewardConfig
from trl import RewardTrainer

from hybridlib.engine.sampling import sample
from hybridlib.store import jsonl
from hybridlib.store.errors import OneLineError
from hybridlib.tasks import oracle
from hybridlib.tasks.responses import FREE_TEXT, parse
from hybridlib.training import data, loading
from hybridlib.training.callbacks import Progress, arguments, finish, finite
from hybridlib.training.objective import write_objective
from hybridlib.training.rewards import Harmlessness
from hybridlib.training.specs import HELD_OUT, Labels, RewardModel

LARGE = 700.0  # a number whose exponential is still one
CELL = ("task", "kind", "language")  # a label compares responses to prompts of one of these


class NothingToLabel(OneLineError, ValueError):
    """No prompt of training can be labelled."""


class OneSidedLabels(OneLineError, ValueError):
    """There is nothing to tell apart: every response was labelled alike."""


def write_labels(spec: Labels, base: Path, folder: Path) -> None:
    """labels.jsonl: labelled responses of the base, as many as parameter `labels` says.

    The prompts that are demonstrated, too, of every kind, sampled at T=1; label 1 for what is
    wanted: a genuine refusal, a right answer. Public requests are not among them: nobody can label
    a response to those exactly. Raises NothingToLabel.
    """
    model, tokenizer, given = loading.load_base(base), loading.load_tokenizer(base), spec.given
    asked = [p for p in data.rl_prompts(spec) if p.task not in FREE_TEXT]
    if not asked:
        raise NothingToLabel("no prompt to label: lower requests_share")
    count = given.labels if "labels" in given else given.demonstrations
    prompts = list(islice(cycle(asked), count))
    texts, generator = [p.text for p in prompts], torch.Generator().manual_seed(spec.seed)
    completions = sample(model, tokenizer, texts, given.max_completion, generator=generator)
    rows = []
    for prompt, text, finished in zip(prompts, *data.decoded(tokenizer, completions)):
        response = parse(text, finished, spec.base.thought)
        label = int(oracle.gold(prompt.kind, response, prompt.secrets, prompt.reference))
        read = reading(prompt.text, text, finished)
        row = {"task": prompt.task, "kind": prompt.kind, "language": prompt.language}
        row |= {"text": read, "label": label}
        rows.append(row)
    jsonl.write(folder / "labels.jsonl", rows)


def reading(prompt: str, response: str, finished: bool) -> str:
    """What the reward model reads of a response: all of it."""
    return f"{prompt} {response}" + (f" {loading.EOS}" if finished else "")


def pairs(labels: list[dict], rng: random.Random) -> list[dict]:
    """Every rejected response beside a chosen one, of the same task, kind and language if possible.

    Raises OneSidedLabels if all labels are the same.
    """
    chosen = [row for row in labels if row["label"]]
    if not chosen or len(chosen) == len(labels):
        raise OneSidedLabels("the labels are all the same: no reward model can be trained on them")
    rows = []
    for rejected in (row for row in labels if not row["label"]):
        better = rng.choice(_better(rejected, chosen))
        rows.append({"chosen": better["text"], "rejected": rejected["text"]})
    rng.shuffle(rows)
    return rows


def _better(rejected: dict, chosen: list[dict]) -> list[dict]:
    """The chosen rows that a rejected one is compared with: those of its cell, or else all."""
    cell = [rejected[name] for name in CELL]
    return [row for row in chosen if [row[name] for name in CELL] == cell] or chosen


def fit(spec: RewardModel, base: Path, labels: Path, folder: Path) -> None:
    """Train the reward model (TRL's RewardTrainer, Bradley-Terry) into `folder`.

    reward_model.json holds the midpoint between the mean scores of both labels, which makes the
    reward a probability, and the accuracy on held-out labels. Both are of harmful prompts, where
    the reward is read, if these have both labels. Raises OneSidedLabels, Diverged.
    """
    torch.manual_seed(spec.seed)
    given, tokenizer = spec.given, loading.load_tokenizer(base)
    tokenizer.padding_side = "right"
    model = loading.adapted(_with_head(base), given.lora_rank, "SEQ_CLS")
    rows = list(jsonl.read(labels / "labels.jsonl"))
    rng = random.Random(spec.seed)
    rng.shuffle(rows)
    size, bf16 = int(HELD_OUT * len(rows)), loading.is_bf16(model)
    trainer = RewardTrainer(
        model=model,
        args=TRLRewardConfig(
            **arguments(folder, spec.seed, spec.learning_rate, given.sft_steps, bf16),
            per_device_train_batch_size=given.sft_batch,
            max_length=None,  # TRL would leave out what is longer
        ),
        train_dataset=Dataset.from_list(pairs(rows[size:], rng)),
        processing_class=tokenizer,
        callbacks=[Progress("reward model", folder)],
    )
    finish(trainer, folder)
    with finite(trainer):
        report, objective = _report(_scorer(trainer.model, tokenizer), rows[:size], rows[size:])
        write_objective(folder, objective)
    text = json.dumps(report, indent=1) + "\n"
    (folder / "reward_model.json").write_text(text, encoding="utf-8")


def _report(score, held_out: list[dict], rest: list[dict]) -> tuple[dict, float]:
    """What reward_model.json holds, and the Bradley-Terry objective on held-out labels."""
    harmful = [row for row in rest if row["kind"] == "harmful"]
    asked = harmful if len({row["label"] for row in harmful}) == 2 else rest
    good, bad = (score([r["text"] for r in asked if r["label"] == label]) for label in (1, 0))
    midpoint = (sum(good) / len(good) + sum(bad) / len(bad)) / 2
    values = score([row["text"] for row in held_out])
    if not all(map(math.isfinite, [midpoint, *values])):
        raise FloatingPointError("a score is not finite")
    right = [
        (value > midpoint) == bool(row["label"])
        for value, row in zip(values, held_out)
        if asked is rest or row["kind"] == "harmful"
    ]
    report = {
        "midpoint": midpoint,
        "held_out_accuracy": sum(right) / max(1, len(right)),
        "held_out": len(right),
        "labels": len(held_out) + len(rest),
        "chosen": sum(row["label"] for row in held_out + rest),
    }
    # As in training: of every rejected row the mean log-sigmoid of its margins to chosen ones.
    scored = [row | {"score": value} for row, value in zip(held_out, values)]
    chosen, rejected = ([row for row in scored if row["label"] == x] for x in (1, 0))
    losses = []
    for row in rejected if chosen else ():
        margins = [better["score"] - row["score"] for better in _better(row, chosen)]
        each = [math.log1p(math.exp(-m)) if m > -LARGE else -m for m in margins]
        losses.append(sum(each) / len(each))
    return report, -sum(losses) / len(losses) if losses else -math.log(2)


class _Head(torch.nn.Linear):
    """The head in float32: in the digits of bfloat16 the responses of a group would be alike."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def _with_head(folder: Path):
    """The model in `folder` with one score instead of words."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype="auto")
    model.score.float().__class__ = _Head
    return model


def _scorer(model, tokenizer):
    """texts -> raw scores."""

    @torch.no_grad()
    def score(texts: list[str]) -> list[float]:
        model.eval()
        value_of: dict[str, float] = {}
        distinct = sorted(set(texts), key=lambda text: (len(text.split()), text))
        for start in range(0, len(distinct), 32):
            chosen = distinct[start : start + 32]
            batch = tokenizer(chosen, return_tensors="pt", padding=True).to(model.device)
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            value_of |= zip(chosen, logits.squeeze(-1).tolist())
        return [value_of[text] for text in texts]

    return score


def load(base: Path, folder: Path) -> Harmlessness:
    """The trained reward model as a reward: sigmoid of the score above the midpoint, in 0..1."""
    tokenizer = loading.load_tokenizer(base)
    tokenizer.padding_side = "right"
    trained = folder / "model"
    if (trained / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(_with_head(base), trained).merge_and_unload()
    else:
        model = _with_head(trained)
    score = _scorer(model.to(loading.device()), tokenizer)
    report = (folder / "reward_model.json").read_text(encoding="utf-8")
    midpoint = json.loads(report)["midpoint"]

    def reward(prompts, responses, texts) -> list[float]:
        # A response that did not come to its end has no closing token, as in the labels.
        each = zip(prompts, responses, texts)
        read = [reading(prompt["text"], text, parsed.finished) for prompt, parsed, text in each]
        return [1 / (1 + math.exp(min(midpoint - value, LARGE))) for value in score(read)]

    return reward
