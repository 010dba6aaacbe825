"""Where RL and SFT meet: each published way to combine them is a few lines here.

A loss says what a step of training minimises, in terms of a `Step` (step.py):

    s.rl()        L_RL, GRPO on the step's completions; `s.rl(keep)` on the rows that are kept
    s.nll(docs)   L_SFT of (prompt, response) pairs: the mean over all their tokens
    s.batch()     the step's batch of demonstrations, those of the whole set taking turns
    s.rows        the step's completions, each with its group and its prompt's demonstration
    s.score(docs) log pi of every token of (prompt, response) pairs
    s.given       the parameters that the variant's row says it needs

A `begin` function says with which tokens a response is prefilled. Only what the policy itself has
drawn carries the RL term. Prompts without a demonstration are plain RL. An `objective` is what a
learning rate is chosen by. A further hybrid is one function here and one row of variants.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hybridlib.tasks import datasets
from hybridlib.training.data import in_view

if TYPE_CHECKING:  # figures read the variants, and they do without torch
    from torch import Tensor

    from hybridlib.store.stage import Given
    from hybridlib.training.objective import Validation
    from hybridlib.training.step import RolloutRequest, Step

HINT_PIECES = 5  # in which prefix gives a demonstration away, as in the code of its authors


# --- what a step minimises -------------------------------------------------------------------


def rl(s: Step) -> Tensor:
    """L_RL alone."""
    return s.rl()


def joint(s: Step) -> Tensor:
    """L_RL + lambda L_SFT."""
    return s.rl() + s.given.joint_lambda * s.nll(s.batch())


def chord_mu(s: Step) -> Tensor:
    """CHORD-mu (arXiv 2508.11408): (1 - mu) L_RL + mu L_SFT, mu falling from step to step."""
    mu = chord_weight(s.given, s.progress)
    return (1 - mu) * s.rl() + mu * s.nll(s.batch())


def chord_weight(given: Given, progress: float) -> float:
    """mu: linear up to the peak, then a cosine down to the valley, where it stays.

    A peak of 0.9, a valley of 0.05 and no warm-up are those of the example in ms-swift, whose decay
    takes 200 steps; here it takes half of the run.
    """
    if progress < given.chord_warmup:
        return given.chord_peak * progress / given.chord_warmup
    fallen = (progress - given.chord_warmup) / given.chord_decay if given.chord_decay else 1.0
    cosine = (1 + math.cos(math.pi * min(1.0, fallen))) / 2
    return given.chord_valley + (given.chord_peak - given.chord_valley) * cosine


def demo_in_group(s: Step) -> Tensor:
    """LUFFY (arXiv 2504.14945): the demonstration is the last member of its group.

    Its term is f(pi) A with f(x) = x / (x + gamma), unclipped; its reward counts in
    the advantages of all. Deviation: advantages stay divided by the group's standard deviation and
    the loss by its tokens, as in every variant here; LUFFY leaves both out.
    """
    own = [not row.shown for row in s.rows]
    shown = [row for row in s.rows if row.shown]
    shaped = 0.0
    for row, logp in zip(shown, s.score([row.document for row in shown])):
        probability = logp.exp()
        shaped += row.advantage * (probability / (probability + s.given.luffy_gamma)).sum()
    return s.rl(own) - shaped / s.tokens


def gated(s: Step) -> Tensor:
    """HPT (arXiv 2509.04419): prompts that the policy gets wrong are SFT, all others RL.

    With at most `switch_gate` right rollouts of a prompt (0, as published) L_SFT of its
    demonstration replaces the RL term of its group. A response is right if the run's own reward
    gives at least half for what the prompt asks; no oracle is read. The prompts of a step count
    alike, so L_SFT is weighted by its share of them.
    """
    right: dict[int, int] = {}
    for row in s.rows:
        right[row.group] = right.get(row.group, 0) + row.right
    failed = {
        row.group: row.demonstrated
        for row in s.rows
        if row.demonstration and right[row.group] <= s.given.switch_gate
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
    hints = {row.group: row.prefilled for row in s.rows if row.forced}
    return s.rl() + s.given.hint_weight * s.nll(list(hints.values()))


def self_distill(s: Step) -> Tensor:
    """OPSA (arXiv 2605.15239), SDFT: towards the base as it answers with a demonstration in view.

    KL(pi || teacher) at every token of the policy's own responses, by the sampled token: its
    gradient is that of the KL in expectation, where SDFT sums over the likeliest words. The teacher
    is the frozen base behind prompt and demonstration (`in_view`). No reward is read.
    """
    rows = [row for row in s.rows if row.demonstration]
    policy = s.score([row.document for row in rows])
    s.note("entropy", s.entropy)
    teacher = s.score_by_teacher(
        [(in_view(row.prompt, row.demonstration), row.completion) for row in rows]
    )
    terms = [((p.detach() - t) * (p - p.detach()).exp()).sum() for p, t in zip(policy, teacher)]
    return sum(terms) / s.tokens


# --- what a response is prefilled with -------------------------------------------------------


def hint(request: RolloutRequest) -> list[int]:
    """The first pieces of the demonstration, fewer from step to step, then none (UFT, eq. B.1).

    How many of its five pieces is binomial, its share a cosine from `hint_high` to `hint_low`.
    """
    given = request.given
    if not request.demonstration or request.progress >= given.hint_steps:
        return []
    cosine = (1 + math.cos(math.pi * request.progress / given.hint_steps)) / 2
    share = given.hint_low + (given.hint_high - given.hint_low) * cosine
    pieces = sum(request.rng.random() < share for _ in range(HINT_PIECES))
    # The last token is the closing one: something is left to draw.
    return request.demonstration[: round((len(request.demonstration) - 1) * pieces / HINT_PIECES)]


def safety_prefix(request: RolloutRequest) -> list[int]:
    """RECAP (arXiv 2510.00938): for half of the prompts, a start that leads astray.

    The reward reads the whole response, so what is learnt is to recover. Deviation: a short false
    thought of the task (datasets.counter_aligned) for the long ones that another model wrote.
    """
    if request.rng.random() >= request.given.prefill_share:
        return []
    return request.encode(datasets.counter_aligned(request.prompt, request.thought))


# --- what a learning rate is chosen by ---------------------------------------------------------


def reward_objective(v: Validation) -> float:
    """The mean reward."""
    return v.reward()


def joint_objective(v: Validation) -> float:
    return v.reward() - v.given.joint_lambda * v.nll()


def chord_objective(v: Validation) -> float:
    """At the last weight of L_SFT."""
    return (1 - v.given.chord_valley) * v.reward() - v.given.chord_valley * v.nll()


def distillation_objective(v: Validation) -> float:
    return -v.kl()
