"""Rollouts of RL: sampled, rewarded and recorded in one place, as TRL's `rollout_func`."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hybridlib.engine.sampling import InferenceCopy, sample_with_logp
from hybridlib.store import jsonl
from hybridlib.tasks.prompts import Prompt
from hybridlib.training import data
from hybridlib.training.rewards import RIGHT, Harmlessness, RewardNotFinite, rewarded
from hybridlib.training.specs import Training
from hybridlib.training.step import Demonstrations, RolloutRequest, Row, Tokens


@dataclass
class Rollouts:
    """Samples `group_size` completions a prompt, rewards them and writes them down."""

    spec: Training
    tokenizer: object
    inference: InferenceCopy
    prompts: dict[str, Prompt]  # by text
    demonstrations: Demonstrations
    harmlessness: Harmlessness
    record: Path  # gets a line a rollout, for the oracle to look at later

    def __call__(self, texts: list[str], trainer: Any) -> dict:
        """What TRL's batch is made of; it gives each prompt G times, and it is prefilled once."""
        given, size, step = self.spec.given, self.spec.given.group_size, trainer.state.global_step
        prompts = self.tokenizer(texts[::size])["input_ids"]
        begun = [self._begin(text, trainer)[: given.max_completion - 1] for text in texts[::size]]
        drawn, logps = sample_with_logp(
            self.inference.refresh(), self.tokenizer, [p + b for p, b in zip(prompts, begun)],
            given.max_completion, size,
            # Seeded by the step: a resumed run draws what an uninterrupted one would have.
            generator=torch.Generator().manual_seed(1_000_003 * self.spec.seed + step),
        )  # fmt: skip
        rows = []
        for i, (text, own, logp) in enumerate(zip(texts, drawn, logps)):
            prompt, beginning = prompts[i // size], begun[i // size]
            demonstration = self.demonstrations.to.get(text, [])
            # The demonstration may take the place of the last completion of its group.
            last = i % size == size - 1 and self.spec.variant.demonstration_in_group
            shown = bool(demonstration) and last
            completion = demonstration if shown else (beginning + own)[: given.max_completion]
            forced = len(beginning)
            rows.append(Row(prompt, completion, i // size, demonstration, forced, logp, shown))
        rows = self._rewarded(step + 1, texts, rows)
        trainer.tokens["prompt_tokens"] += sum(map(len, prompts)) + sum(map(len, begun))
        trainer.tokens["completion_tokens"] += sum(row.drawn for row in rows)
        found = {
            "prompt_ids": [row.prompt for row in rows],
            "completion_ids": [row.completion for row in rows],
            "logprobs": None,
            "row": rows,
        }
        if any(begun):  # what the policy did not draw carries no loss
            found["env_mask"] = [
                [0] * row.forced + [1] * (len(row.completion) - row.forced) for row in rows
            ]
        return found

    def _begin(self, text: str, trainer: Any) -> Tokens:
        if self.spec.variant.begin is None:
            return []
        request = RolloutRequest(
            self.prompts[text],
            self.demonstrations.to.get(text, []),
            trainer.progress,
            random.Random(f"{self.spec.seed} {trainer.state.global_step} {text}"),
            self.spec.given,
            self.spec.base.thought,
            self.tokenizer,
        )
        return self.spec.variant.begin(request)

    def _rewarded(self, step: int, texts: list[str], rows: list[Row]) -> list[Row]:
        """The rows with their rewards; one line each is appended to the record."""
        asked = [self.prompts[text].row() for text in texts]
        responses, finished = data.decoded(self.tokenizer, [row.completion for row in rows])
        totals, of_task = [None] * len(rows), [0.0] * len(rows)
        if self.spec.variant.rewarded:
            weights, thought = self.spec.weights, self.spec.base.thought
            try:
                totals, of_task = rewarded(
                    weights, self.harmlessness, asked, responses, finished, thought
                )
            except RewardNotFinite as error:
                raise RewardNotFinite(f"{self.spec.name}, step {step}: {error}") from None
        made = [
            replace(row, reward=total, right=value >= RIGHT)
            for row, total, value in zip(rows, totals, of_task)
        ]
        # Only some are forced or shown: most responses are the policy's own from the beginning.
        jsonl.append(
            self.record,
            (
                {
                    "step": step,
                    "prompt": prompt["prompt_id"],
                    "response": text,
                    "finished": bool(end),
                    "reward": row.reward if row.reward is None else round(row.reward, 6),
                    "tokens": len(row.completion),
                    "logp": round(row.logp, 4),
                }
                | ({"forced": row.forced} if row.forced else {})
                | ({"demonstration": True} if row.shown else {})
                for prompt, text, end, row in zip(asked, responses, finished, made)
            ),
        )
        return made
