"""RL: TRL's GRPO, sampling of our own, and a loss that the variant's row names (hybrids.py).

    L_RL = GRPO (arXiv 2402.03300), token-normalised as in DAPO (arXiv 2503.14476), TRL's default

Rollouts are ours (rollouts.py); advantages, the GRPO loss, optimiser, schedule and checkpoints are
TRL's. A row is made once, where it is sampled and rewarded, and travels in TRL's batch to the loss.
"""

import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental

import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from hybridlib.engine.sampling import InferenceCopy
from hybridlib.engine.scoring import score_completions
from hybridlib.training import data, loading
from hybridlib.training.callbacks import Progress, arguments, finish, finite
from hybridlib.training.cost import OPERATIONS
from hybridlib.training.objective import Validation, write_objective
from hybridlib.training.rewards import Harmlessness
from hybridlib.training.rollouts import Rollouts
from hybridlib.training.specs import Training
from hybridlib.training.step import Demonstrations, Row, Step


class PolicyTrainer(GRPOTrainer):
    """TRL's GRPO with three additions.

    Rows of zero advantage are left out of forward and backward: with the token-normalised loss and
    no KL or entropy term they add nothing, so the gradient is exactly the same. A prompt is
    computed once for its group (engine/scoring.py). And the variant says what is minimised, towards
    a frozen teacher if it distils.
    """

    def __init__(
        self,
        *,
        spec: Training,
        demonstrations: Demonstrations,
        teacher: PreTrainedModel | None = None,
        **of_trl,
    ) -> None:
        self.spec, self.demonstrations, self.teacher = spec, demonstrations, teacher
        self.tokens = dict.fromkeys(OPERATIONS, 0)
        super().__init__(**of_trl)

    @property
    def progress(self) -> float:
        return self.state.global_step / self.state.max_steps

    def log(self, logs: dict, start_time: float | None = None) -> None:
        if not self.spec.variant.rewarded:
            for name in [name for name in self._metrics["train"] if "reward" in name]:
                del self._metrics["train"][name]  # of a reward that TRL must have and nobody reads
        super().log(logs | self.tokens, start_time)

    def _generate_and_score_completions(self, inputs):
        found = super()._generate_and_score_completions(inputs)
        # TRL has put the rows into `inputs`, and shuffles what is returned as a whole.
        return found | {"row": [example["row"] for example in inputs]}

    def _compute_loss(self, model, inputs):
        if not model.training:
            return self.grpo_loss(model, inputs)
        return self.spec.variant.loss(Step(self, model, inputs))

    def grpo_loss(self, model, inputs) -> torch.Tensor:
        return super()._compute_loss(model, self._rows_with_advantage(inputs))

    def _rows_with_advantage(self, inputs: dict) -> dict:
        """The rows whose advantage is not zero (one at least)."""
        if self.beta or self.loss_type != "dapo":
            return inputs
        keep = inputs["advantages"] != 0
        if not keep.any():
            keep[0] = True
        kept = {
            name: value[keep] if torch.is_tensor(value) and value.shape[:1] == keep.shape else value
            for name, value in inputs.items()
        }
        # Counted as separate rows: what the engine saves by sharing is no part of a method's cost.
        read = kept["prompt_mask"].sum() + kept["completion_mask"].sum()
        self.tokens["trained_tokens"] += int(read)
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
        logps, entropies = (padded.masked_scatter(mask, torch.cat(x)) for x in (logps, entropies))
        return logps, entropies, None


def reward(row: list[Row], **_) -> list[float]:
    """TRL's reward function: a row was rewarded where it was sampled."""
    return [made.reward or 0.0 for made in row]


def rl(
    spec: Training,
    base: Path,
    folder: Path,
    harmlessness: Harmlessness,
    start: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """GRPO on seen prompts, with the loss of the variant, from the base or from `start`.

    Parameters
    ----------
    base : folder of the base model.
    folder : gets model/, log.jsonl, rollouts.jsonl, cost.json, warnings.json, objective.json.
    harmlessness : the reward of harmful prompts: keyword, reward model, or (rl_gold) the oracle.
    start : folder of a trained adapter to go on from.

    Raises Diverged, NothingLearnt, RewardNotFinite.
    """
    torch.manual_seed(spec.seed)
    given, variant = spec.given, spec.variant
    policy, tokenizer = loading.policy(base, start, given.lora_rank), loading.load_tokenizer(base)
    asked, demonstrations = data.asked(spec), _demonstrations(spec, tokenizer)
    inference, prompts = InferenceCopy(policy), {prompt.text: prompt for prompt in asked}
    record = folder / "rollouts.jsonl"
    teacher = None if variant.rewarded else loading.load_base(base).requires_grad_(False).eval()
    trainer = PolicyTrainer(
        spec=spec,
        demonstrations=demonstrations,
        teacher=teacher,
        model=policy,
        reward_funcs=reward,
        rollout_func=Rollouts(
            spec, tokenizer, inference, prompts, demonstrations, harmlessness, record
        ),
        args=grpo_config(spec, folder, len(data.steps_of(spec)), loading.is_bf16(policy)),
        train_dataset=Dataset.from_list([{"prompt": prompt.text} for prompt in asked]),
        processing_class=tokenizer,
        callbacks=[Progress(spec.name, folder), *callbacks],
    )
    of_reward = ("reward", "frac_reward_zero_std") if variant.rewarded else ()
    finish(trainer, folder, ("loss", "entropy", "completions/mean_length", *of_reward))
    validation = Validation(spec, tokenizer, trainer.model, inference, harmlessness, teacher)
    with finite(trainer):
        write_objective(folder, variant.objective(validation))


def grpo_config(spec: Training, folder: Path, steps: int, bf16: bool, **more) -> GRPOConfig:
    """One optimiser step a batch of prompts x completions, always on-policy."""
    given = spec.given
    return GRPOConfig(
        **arguments(folder, spec.seed, spec.learning_rate, steps, bf16) | more,
        per_device_train_batch_size=given.prompts_per_step * given.group_size,
        num_generations=given.group_size,
        steps_per_generation=1,
        max_completion_length=given.max_completion,
        shuffle_dataset=False,
        beta=given.kl,
    )


def _demonstrations(spec: Training, tokenizer) -> Demonstrations:
    """Those of the variant; none where its row does not need any."""
    rows = data.demonstrations(spec) if "demonstrations" in spec.given else []
    documents = data.encoded(tokenizer, rows) if rows else []
    to = {row["prompt"]: response for row, (_, response) in zip(rows, documents)}
    return Demonstrations(documents, to)
