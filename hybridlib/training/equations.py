"""What each variant does, in words and as the loss that it minimises (LaTeX)."""

from typing import NamedTuple


class Method(NamedTuple):
    words: str
    loss: str


_GRPO = r"\mathcal{L}_\text{RL}(\theta),\quad \theta_0 = \theta_\text{base}"
_SFT = r"\mathcal{L}_\text{SFT}(\theta),\quad \theta_0 = \theta_\text{base}"

METHODS = {
    "base": Method("The base as it is: nothing is trained.", r"\theta = \theta_\text{base}"),
    "rl": Method("RL alone, from the base, as in R1-Zero.", _GRPO),
    "rl_gold": Method(
        "The control: RL whose pay is the oracle's own word. If this does not learn, no other RL "
        "had a fair chance.",
        _GRPO + r",\quad r = \mathbb{1}[\text{the class is the one wished for}]",
    ),
    "sft": Method("Supervised fine-tuning alone: one token after another is demonstrated.", _SFT),
    "sft_narrow": Method(
        "SFT on few categories of one task, at the same number of demonstrations.",
        _SFT + r",\quad \mathcal{D} = \mathcal{D}_\text{narrow}",
    ),
    "two_stage": Method(
        "SFT first, then RL from where it ended, with fresh optimiser states.",
        r"\mathcal{L}_\text{RL}(\theta),\quad "
        r"\theta_0 = \textstyle\arg\min_\theta \mathcal{L}_\text{SFT}(\theta)",
    ),
    "joint": Method(
        "Both at once: at each step the loss of RL on rollouts plus a multiple of the loss of SFT "
        "on a batch of demonstrations.",
        r"\mathcal{L}_\text{RL}(\theta) + \lambda\,\mathcal{L}_\text{SFT}(\theta),\quad "
        r"\theta_0 = \theta_\text{base}",
    ),
    "r1_reasoning": Method(
        "The second stage of R1: from SFT, half of the steps of RL, paid for reasoning, format and "
        "language alone.",
        r"\mathcal{L}_\text{RL}(\theta),\quad "
        r"\theta_0 = \textstyle\arg\min_\theta \mathcal{L}_\text{SFT}(\theta),\quad "
        r"r = r_\text{accuracy} + r_\text{format} + r_\text{language}",
    ),
    "r1_resampled": Method(
        "The third stage of R1: SFT, from the base again, on those of the second stage's own "
        "responses that the reward finds right (rejection sampling).",
        r"\mathcal{L}_\text{SFT}(\theta),\quad \theta_0 = \theta_\text{base},\quad "
        r"\mathcal{D} = \{(x, y) : y \sim \pi_\text{second stage}(\cdot \mid x),\ r(x, y) \geq "
        r"\tfrac{1}{2}\}",
    ),
    "multi_stage": Method(
        "R1's four stages: SFT; RL for reasoning and language; SFT from the base on its own "
        "responses that the reward finds right; RL for everything. Both RL stages together have "
        "the steps and prompts of `rl`. Stated is the last one.",
        r"\mathcal{L}_\text{RL}(\theta),\quad \theta_0 = \textstyle\arg\min_\theta "
        r"\mathcal{L}_\text{SFT}(\theta; \mathcal{D}_\text{own, right}),\quad "
        r"r = r_\text{all} + r_\text{language}",
    ),
    "chord_mu": Method(
        "CHORD (arXiv 2508.11408): from imitating to exploring. The weight of SFT falls from a "
        "peak to a valley, that of RL rises.",
        r"(1 - \mu_t)\,\mathcal{L}_\text{RL}(\theta) + \mu_t\,\mathcal{L}_\text{SFT}(\theta),\quad "
        r"\mu_t = \mu_\text{valley} + (\mu_\text{peak} - \mu_\text{valley})\,"
        r"\tfrac{1 + \cos(\pi \min(1,\, t / T_\text{decay}))}{2}",
    ),
    "demo_in_group": Method(
        "LUFFY (arXiv 2504.14945): the demonstration takes the place of one response in each group "
        "and is paid like the others. Its term is shaped so that what the policy hardly ever says "
        "counts more, and it is not clipped.",
        r"-\frac{1}{\sum_i |o_i|} \Big( \sum_{i < G} \sum_t \min\big(\rho_{i,t} A_i,\ "
        r"\text{clip}(\rho_{i,t})\, A_i\big) + \sum_t f\big(\pi_\theta(y_t \mid x, y_{<t})\big)\, "
        r"A_G \Big),\quad f(p) = \frac{p}{p + \gamma}",
    ),
    "gated": Method(
        "HPT (arXiv 2509.04419): where no response of a group is right, the prompt's demonstration "
        "is taught instead.",
        r"\frac{1}{P} \sum_x \begin{cases} \mathcal{L}_\text{SFT}(\theta; x) & \text{if at most } "
        r"\texttt{switch\_gate} \text{ of } o_1, \dots, o_G \text{ are right} \\ "
        r"\mathcal{L}_\text{RL}(\theta; x) & \text{else} \end{cases}",
    ),
    "prefix": Method(
        "UFT (arXiv 2505.16984): the policy goes on from a first part $h$ of the demonstration, "
        "which gets shorter from step to step; the part itself is taught with a small weight.",
        r"\mathcal{L}_\text{RL}\big(\theta;\ o \sim \pi_\theta(\cdot \mid x, h)\big) + \beta\, "
        r"\mathcal{L}_\text{SFT}(\theta; h),\quad h = y_{\leq \ell},\ "
        r"\ell \sim \text{Binomial}(|y|, p_t),\ p_t \searrow",
    ),
    "safety_prefix": Method(
        "RECAP (arXiv 2510.00938): half of the prompts start on the wrong foot $c$, a harmful one "
        "as if it were harmless and the other way round; the policy is paid for recovering.",
        r"\mathcal{L}_\text{RL}\big(\theta;\ o \sim \pi_\theta(\cdot \mid x, c)\big),\quad "
        r"r = r(x,\ c\,o)",
    ),
    "self_distill": Method(
        "OPSA (arXiv 2605.15239): the policy's own responses, each token held against what the "
        "base would say with a demonstration $y$ to the same prompt in view. No reward is read.",
        r"\mathbb{E}_{o \sim \pi_\theta(\cdot \mid x)} \frac{1}{|o|} \sum_t \mathrm{KL}\big("
        r"\pi_\theta(\cdot \mid x, o_{<t}) \,\|\, \pi_\text{base}(\cdot \mid x, y, x, o_{<t})\big)",
    ),
}


def stated(variant: str) -> str:
    """The variant in words, then its loss, as markdown."""
    method = METHODS[variant]
    return f"**`{variant}`.** {method.words}\n\n$${method.loss}$$"
