"""Where RL and SFT meet: each published way to combine them is a few lines, and a row of a table.

A formulation says what a step of training minimises, in terms of a `Step` (policy.py):

    s.rl()        L_RL, GRPO on the step's completions; `s.rl(keep)` on the rows that are kept
    s.nll(docs)   L_SFT of (prompt, response) pairs: the mean over all their tokens
    s.batch()     the step's batch of demonstrations, those of the whole set taking turns
    s.rows        the step's completions, each with its group and its prompt's demonstration
    s.score(docs) log pi of every token of (prompt, response) pairs

and, if it is not only the policy that begins a response, with which tokens a response begins. Only
what the policy itself has drawn carries the RL term. Prompts without a demonstration are plain RL.
A further formulation is one function and one row of `FORMULATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridlib.tasks import datasets

if TYPE_CHECKING:  # the table is read where torch is not
    from torch import Tensor

    from hybridlib.config import TrainConfig
    from hybridlib.training.grpo import Ask, Step
    from hybridlib.training.train import Ended

HINT_PIECES = 5  # in which prefix gives a demonstration away, as in the code of its authors


# --- what a step minimises -------------------------------------------------------------------


def rl(s: Step) -> Tensor:
    """L_RL alone."""
    return s.rl()


def joint(s: Step) -> Tensor:
    """L_RL + lambda L_SFT."""
    return s.rl() + s.config.joint_lambda * s.nll(s.batch())


def chord_mu(s: Step) -> Tensor:
    """CHORD-mu (arXiv 2508.11408): (1 - mu) L_RL + mu L_SFT, mu falling from step to step."""
    mu = chord_weight(s.config, s.progress)
    return (1 - mu) * s.rl() + mu * s.nll(s.batch())


def chord_weight(config: TrainConfig, progress: float) -> float:
    """mu: linear up to the peak, then a cosine down to the valley, where it stays.

    A peak of 0.9, a valley of 0.05 and no warm-up are those of the example in ms-swift, whose decay
    takes 200 steps; here it takes half of the run.
    """
    if progress < config.chord_warmup:
        return config.chord_peak * progress / config.chord_warmup
    fallen = (progress - config.chord_warmup) / config.chord_decay if config.chord_decay else 1.0
    cosine = (1 + math.cos(math.pi * min(1.0, fallen))) / 2
    return config.chord_valley + (config.chord_peak - config.chord_valley) * cosine


def demo_in_group(s: Step) -> Tensor:
    """LUFFY (arXiv 2504.14945): the demonstration is the last member of its group.

    Its term is f(pi) A with f(x) = x / (x + gamma), unclipped; its pay counts in the advantages of
    all. Deviation: advantages stay divided by the group's standard deviation and the loss by its
    tokens, as in every variant here; LUFFY leaves both out.
    """
    own = [not row.shown for row in s.rows]
    shown = [row for row in s.rows if row.shown]
    shaped = 0.0
    for row, logp in zip(shown, s.score([row.document for row in shown])):
        probability = logp.exp()
        shaped += row.advantage * (probability / (probability + s.config.luffy_gamma)).sum()
    return s.rl(own) - shaped / s.tokens


def gated(s: Step) -> Tensor:
    """HPT (arXiv 2509.04419): prompts that the policy gets wrong are SFT, all others RL.

    With at most `switch_gate` right rollouts of a prompt (0, as published) L_SFT of its
    demonstration replaces the RL term of its group. Right is what the run's own reward pays at
    least half for what the prompt asks; no oracle is read. The prompts of a step count alike, so
    L_SFT is weighted by its share of them.
    """
    right: dict[int, int] = {}
    for row in s.rows:
        right[row.group] = right.get(row.group, 0) + row.right
    failed = {
        row.group: row.taught
        for row in s.rows
        if row.demonstration and right[row.group] <= s.config.switch_gate
    }
    share = len(failed) / len(right)
    s.note("sft_share", share)
    own = [row.group not in failed for row in s.rows]
    return s.rl(own) + share * s.nll(list(failed.values()))


def prefix(s: Step) -> Tensor:
    """UFT (arXiv 2505.16984): rollouts behind a hint, and L_SFT of the hint with a small weight.

    Deviation: L_SFT is the mean over the tokens of the step's hints, as in the code of its authors,
    not their sum.
    """
    hints = {row.group: row.begun for row in s.rows if row.forced}
    return s.rl() + s.config.hint_weight * s.nll(list(hints.values()))


def self_distill(s: Step) -> Tensor:
    """OPSA (arXiv 2605.15239), SDFT: towards the base as it answers with a demonstration in view.

    KL(pi || teacher) at every token of the policy's own responses, by the sampled token: its
    gradient is that of the KL in expectation, where SDFT sums over the likeliest words. The teacher
    is the frozen base behind prompt and demonstration (`in_view`). No reward is read.
    """
    rows = [row for row in s.rows if row.demonstration]
    policy = s.score([row.document for row in rows])
    s.note("entropy", s.entropy)
    teacher = s.teach([(in_view(row.prompt, row.demonstration), row.completion) for row in rows])
    terms = [((p.detach() - t) * (p - p.detach()).exp()).sum() for p, t in zip(policy, teacher)]
    return sum(terms) / s.tokens


def in_view(prompt: list[int], demonstration: list[int]) -> list[int]:
    """The privileged context: the prompt answered as one would wish, then the prompt again."""
    return [*prompt, *demonstration, *prompt]


# --- what a response begins with -------------------------------------------------------------


def hint(ask: Ask) -> list[int]:
    """The first pieces of the demonstration, fewer from step to step, then none (UFT, eq. B.1).

    How many of its five pieces is binomial, its share a cosine from `hint_high` to `hint_low`.
    """
    config = ask.config.train
    if not ask.demonstration or ask.progress >= config.hint_steps:
        return []
    cosine = (1 + math.cos(math.pi * ask.progress / config.hint_steps)) / 2
    share = config.hint_low + (config.hint_high - config.hint_low) * cosine
    pieces = sum(ask.rng.random() < share for _ in range(HINT_PIECES))
    # The last token is the closing one: something is left to draw.
    return ask.demonstration[: round((len(ask.demonstration) - 1) * pieces / HINT_PIECES)]


def wrong_foot(ask: Ask) -> list[int]:
    """RECAP (arXiv 2510.00938): for half of the prompts, a start that leads astray.

    The reward reads the whole response, so what is learnt is to recover. Deviation: a short false
    thought of the task (questions.counter_aligned) for the long ones that another model wrote.
    """
    if ask.rng.random() >= ask.config.train.prefill_share:
        return []
    return ask.encode(datasets.counter_aligned(ask.config, ask.prompt))


# --- the table -------------------------------------------------------------------------------


def _reward(e: Ended) -> float:
    return e.reward()


@dataclass(frozen=True)
class Formulation:
    """One way to combine RL and SFT."""

    loss: Callable[[Step], Tensor] = rl
    parameters: tuple[str, ...] = ()  # that it reads, its main number first
    begin: Callable[[Ask], list[int]] | None = None  # first tokens of the responses to a prompt
    shows: bool = False  # the last of a group is the demonstration
    paid: bool = True  # reads a reward
    demonstrated: bool = False  # asks only prompts that have a demonstration, again and again
    objective: Callable[[Ended], float] = _reward  # by which its learning rate is chosen


_EACH = ("demonstrations",)
_BATCH = ("demonstrations", "sft_batch")

FORMULATIONS: dict[str, Formulation] = {
    "": Formulation(),
    "joint": Formulation(
        joint,
        ("joint_lambda", *_BATCH),
        objective=lambda e: e.reward() - e.config.train.joint_lambda * e.nll(),
    ),
    "chord_mu": Formulation(
        chord_mu,
        ("chord_peak", "chord_valley", "chord_warmup", "chord_decay", *_BATCH),
        objective=lambda e: (
            (1 - e.config.train.chord_valley) * e.reward() - e.config.train.chord_valley * e.nll()
        ),
    ),
    "demo_in_group": Formulation(demo_in_group, ("luffy_gamma", *_EACH), shows=True),
    "gated": Formulation(gated, ("switch_gate", *_EACH)),
    "prefix": Formulation(
        prefix, ("hint_weight", "hint_high", "hint_low", "hint_steps", *_EACH), begin=hint
    ),
    "safety_prefix": Formulation(parameters=("prefill_share",), begin=wrong_foot),
    "self_distill": Formulation(
        self_distill, _EACH, paid=False, demonstrated=True, objective=lambda e: -e.kl()
    ),
}
