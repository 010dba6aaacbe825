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
}


def stated(variant: str) -> str:
    """The variant in words, then its loss, as markdown."""
    method = METHODS[variant]
    return f"**`{variant}`.** {method.words}\n\n$${method.loss}$$"
