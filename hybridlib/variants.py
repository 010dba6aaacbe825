"""The variants of training: one row each, and nothing else in the project lists them.

A row says where a policy starts, how it is trained, what it needs, how it is written and drawn. A
variant of your own is one row (`VARIANTS["mine"] = Variant("mine", ...)`), a function in hybrids.py
if its loss is new, and a learning rate (the parameter `learning_rates`, or `make tune`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hybridlib.training import hybrids

REWARDS = ("keyword", "model")  # the harmlessness rewards that a study may choose


class Look(NamedTuple):
    """How a variant is drawn, in every figure the same, and told apart by more than its colour.

    Colours are Okabe and Ito's for the default variants; later ones add a shade of their family's
    hue.
    """

    colour: str
    marker: str
    hatch: str


@dataclass(frozen=True)
class Variant:
    """How a policy is made.

    A row with a `rate` of another arm is a stage of a chain: trained, but no arm by itself.
    """

    name: str
    method: Literal["none", "sft", "rl"]
    words: str  # what it does
    equation: str  # what it minimises, in LaTeX
    look: Look | None = None  # None: it is not measured, so it is not drawn
    family: str = ""  # what it changes of the training that it starts from
    rewards: Literal["none", "gold", "chosen"] = "none"
    start: str = "base"
    loss: Callable = hybrids.rl  # what a step of RL minimises
    needs: tuple[str, ...] = ()  # parameters that loss and begin read, besides those of RL or SFT
    begin: Callable | None = None  # the tokens that a response is prefilled with
    objective: Callable = hybrids.reward_objective  # what its learning rate is chosen by
    swept: tuple[str, tuple[float, ...]] | None = None  # the parameter that matters, its values
    rewarded: bool = True  # RL reads a reward
    demonstration_in_group: bool = False  # the last completion of a group is the demonstration
    demonstrated_only: bool = False  # asks only prompts that have a demonstration, again and again
    narrow: bool = False  # demonstrations of a few categories of one task
    steps: str = "sft_steps"  # the parameter that says how many steps SFT takes
    responses_of: str = ""  # SFT on this row's own right responses, not on demonstrations
    part: tuple[float, float] = (0.0, 1.0)  # of the steps and prompts of RL
    weights: tuple[tuple[str, float], ...] = ()  # of rewards, instead of the parameters
    rate: str = ""  # the arm whose learning rate it has

    @property
    def before(self) -> str:
        """The row that has to be trained before this one."""
        return self.responses_of or self.start

    @property
    def is_hybrid_loss(self) -> bool:
        return self.loss is not hybrids.rl or self.begin is not None

    def inputs(self) -> dict[str, Any]:
        """What a key is made of: all that changes training, where it is not the default."""
        found: dict[str, Any] = {"method": self.method}
        for name in ("rewards", "start", "narrow", "responses_of", "part", "weights"):
            if getattr(self, name) != getattr(Variant, name):
                found[name] = getattr(self, name)
        if self.is_hybrid_loss:
            found[(self.begin if self.loss is hybrids.rl else self.loss).__name__] = True
        return found


_GRPO = r"\mathcal{L}_\text{RL}(\theta),\quad \theta_0 = \theta_\text{base}"
_SFT = r"\mathcal{L}_\text{SFT}(\theta),\quad \theta_0 = \theta_\text{base}"
_FROM_SFT = (
    r"\mathcal{L}_\text{RL}(\theta),\quad "
    r"\theta_0 = \textstyle\arg\min_\theta \mathcal{L}_\text{SFT}(\theta)"
)
# DeepSeek-R1 (arXiv 2501.12948): its first RL is rewarded for reasoning, format and language alone,
# its second for everything; the language reward is added as it is, with weight 1.
_LANGUAGE = ("weight_language", 1.0)
_REASONING = (_LANGUAGE, ("weight_harmlessness", 0.0), ("weight_helpfulness", 0.0))
_BATCH = ("demonstrations", "sft_batch")

# fmt: off
_ROWS = (
    Variant(
        "base", "none",
        "The base as it is: nothing is trained.",
        r"\theta = \theta_\text{base}",
        Look("#2b2b2b", "o", ""),
    ),
    Variant(
        "rl", "rl",
        "RL alone, from the base, as in R1-Zero.",
        _GRPO,
        Look("#d55e00", "s", "//"), "RL", rewards="chosen",
    ),
    Variant(
        "rl_gold", "rl",
        "The positive control: RL whose reward is the oracle's own word. If it does not learn, no "
        "other RL had a fair chance.",
        _GRPO + r",\quad r = \mathbb{1}[\text{the class is the desired one}]",
        Look("#e69f00", "*", "xx"), "RL", rewards="gold",
    ),
    Variant(
        "sft", "sft",
        "Supervised fine-tuning alone, on demonstrations.",
        _SFT,
        Look("#0072b2", "^", "\\\\"), "SFT",
    ),
    Variant(
        "sft_narrow", "sft",
        "SFT on few categories of one task, at the same number of demonstrations.",
        _SFT + r",\quad \mathcal{D} = \mathcal{D}_\text{narrow}",
        Look("#56b4e9", "v", ".."), "SFT", narrow=True,
    ),
    Variant(
        "sft_long", "sft",
        "SFT on the same demonstrations for as many FLOPs as RL takes.",
        _SFT + r",\quad \text{FLOPs as RL}",
        Look("#00366b", "1", "xx."), "SFT", steps="sft_long_steps",
    ),
    Variant(
        "two_stage", "rl",
        "SFT first, then RL from where it ended, with fresh optimiser states.",
        _FROM_SFT,
        Look("#009e73", "D", "++"), "in sequence", rewards="chosen", start="sft",
        swept=("steps", (15, 30, 60, 120)),
    ),
    Variant(
        "r1_reasoning", "rl",
        "The second stage of R1: from SFT, half of the steps of RL, rewarded for reasoning, format "
        "and language alone.",
        _FROM_SFT + r",\quad r = r_\text{accuracy} + r_\text{format} + r_\text{language}",
        start="sft", part=(0.0, 0.5), weights=_REASONING, rate="rl/keyword",
    ),
    Variant(
        "r1_resampled", "sft",
        "The third stage of R1: SFT from the base again, on those of the second stage's own "
        "responses that the reward finds right (rejection sampling).",
        _SFT + r",\quad \mathcal{D} = \{(x, y) : y \sim \pi_\text{second stage}(\cdot \mid x),\ "
        r"r(x, y) \geq \tfrac{1}{2}\}",
        rewards="chosen", responses_of="r1_reasoning", rate="sft",
    ),
    Variant(
        "multi_stage", "rl",
        "R1's four stages: SFT; RL for reasoning and language; SFT from the base on its own "
        "responses that the reward finds right; RL for everything. Both RL stages together have "
        "the steps and prompts of `rl`. The loss is that of the last stage.",
        r"\mathcal{L}_\text{RL}(\theta),\quad \theta_0 = \textstyle\arg\min_\theta "
        r"\mathcal{L}_\text{SFT}(\theta; \mathcal{D}_\text{own, right}),\quad "
        r"r = r_\text{all} + r_\text{language}",
        Look("#00573f", "d", "--"), "in sequence", rewards="chosen", start="r1_resampled",
        part=(0.5, 1.0), weights=(_LANGUAGE,),
    ),
    Variant(
        "joint", "rl",
        "Both at once: each step minimises the loss of RL on rollouts plus a multiple of the loss "
        "of SFT on a batch of demonstrations.",
        r"\mathcal{L}_\text{RL}(\theta) + \lambda\,\mathcal{L}_\text{SFT}(\theta),\quad "
        r"\theta_0 = \theta_\text{base}",
        Look("#cc79a7", "P", "oo"), "mixed losses", rewards="chosen", loss=hybrids.joint,
        needs=("joint_lambda", *_BATCH), objective=hybrids.joint_objective,
        swept=("joint_lambda", (0.1, 0.25, 0.5, 1.0, 2.0)),
    ),
    Variant(
        "chord_mu", "rl",
        "CHORD (arXiv 2508.11408): from imitating to exploring. The weight of SFT falls from a "
        "peak to a valley, that of RL rises.",
        r"(1 - \mu_t)\,\mathcal{L}_\text{RL}(\theta) + \mu_t\,\mathcal{L}_\text{SFT}(\theta),\quad "
        r"\mu_t = \mu_\text{valley} + (\mu_\text{peak} - \mu_\text{valley})\,"
        r"\tfrac{1 + \cos(\pi \min(1,\, t / T_\text{decay}))}{2}",
        Look("#7b3294", "X", "||"), "mixed losses", rewards="chosen", loss=hybrids.chord_mu,
        needs=("chord_peak", "chord_valley", "chord_warmup", "chord_decay", *_BATCH),
        objective=hybrids.chord_objective, swept=("chord_peak", (0.1, 0.3, 0.5, 0.7, 0.9)),
    ),
    Variant(
        "demo_in_group", "rl",
        "LUFFY (arXiv 2504.14945): the demonstration takes the place of one response in each group "
        "and is rewarded like the others. Its term is shaped so that what the policy hardly ever "
        "says counts more, and it is not clipped.",
        r"-\frac{1}{\sum_i |o_i|} \Big( \sum_{i < G} \sum_t \min\big(\rho_{i,t} A_i,\ "
        r"\text{clip}(\rho_{i,t})\, A_i\big) + \sum_t f\big(\pi_\theta(y_t \mid x, y_{<t})\big)\, "
        r"A_G \Big),\quad f(p) = \frac{p}{p + \gamma}",
        Look("#8c510a", "p", "**"), "mixed data", rewards="chosen", loss=hybrids.demo_in_group,
        needs=("luffy_gamma", "demonstrations"), demonstration_in_group=True,
        swept=("luffy_gamma", (0.01, 0.03, 0.1, 0.3, 1.0)),
    ),
    Variant(
        "gated", "rl",
        "HPT (arXiv 2509.04419): where no response of a group is right, SFT on the prompt's "
        "demonstration replaces RL.",
        r"\frac{1}{P} \sum_x \begin{cases} \mathcal{L}_\text{SFT}(\theta; x) & \text{if at most } "
        r"\texttt{switch\_gate} \text{ of } o_1, \dots, o_G \text{ are right} \\ "
        r"\mathcal{L}_\text{RL}(\theta; x) & \text{else} \end{cases}",
        Look("#6a20e6", "h", "OO"), "mixed losses", rewards="chosen", loss=hybrids.gated,
        needs=("switch_gate", "demonstrations"), swept=("switch_gate", (0, 1, 2, 4)),
    ),
    Variant(
        "prefix", "rl",
        "UFT (arXiv 2505.16984): the policy goes on from a first part $h$ of the demonstration, "
        "which gets shorter from step to step; SFT on the part itself has a small weight.",
        r"\mathcal{L}_\text{RL}\big(\theta;\ o \sim \pi_\theta(\cdot \mid x, h)\big) + \beta\, "
        r"\mathcal{L}_\text{SFT}(\theta; h),\quad h = y_{\leq \ell},\ "
        r"\ell \sim \text{Binomial}(|y|, p_t),\ p_t \searrow",
        Look("#b3a100", "<", "/."), "mixed data", rewards="chosen", loss=hybrids.prefix,
        needs=("hint_weight", "hint_high", "hint_low", "hint_steps", "demonstrations"),
        begin=hybrids.hint, swept=("hint_steps", (0.2, 0.4, 0.6, 0.8, 1.0)),
    ),
    Variant(
        "safety_prefix", "rl",
        "RECAP (arXiv 2510.00938): half of the prompts are prefilled with a counter-aligned prefix "
        "$c$, as if a harmful request were harmless and the other way round; the policy is "
        "rewarded for recovering.",
        r"\mathcal{L}_\text{RL}\big(\theta;\ o \sim \pi_\theta(\cdot \mid x, c)\big),\quad "
        r"r = r(x,\ c\,o)",
        Look("#501400", ">", "\\."), "mixed data", rewards="chosen", needs=("prefill_share",),
        begin=hybrids.safety_prefix, swept=("prefill_share", (0.25, 0.5, 0.75, 1.0)),
    ),
    Variant(
        "self_distill", "rl",
        "OPSA (arXiv 2605.15239): the policy's own responses, each token compared with what the "
        "base would say with a demonstration $y$ to the same prompt in view. No reward is read.",
        r"\mathbb{E}_{o \sim \pi_\theta(\cdot \mid x)} \frac{1}{|o|} \sum_t \mathrm{KL}\big("
        r"\pi_\theta(\cdot \mid x, o_{<t}) \,\|\, \pi_\text{base}(\cdot \mid x, y, x, o_{<t})\big)",
        Look("#9be07a", "8", "-."), "distillation", loss=hybrids.self_distill,
        needs=("demonstrations",), rewarded=False, demonstrated_only=True,
        objective=hybrids.distillation_objective,
    ),
)
# fmt: on
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _ROWS}


def measured() -> tuple[str, ...]:
    """The variants that a study may compare, in the order of the rows."""
    return tuple(name for name, variant in VARIANTS.items() if not variant.rate)


def families() -> dict[str, tuple[str, ...]]:
    """Family -> its variants: together in every list and figure."""
    names = dict.fromkeys(variant.family for variant in VARIANTS.values() if variant.family)
    return {f: tuple(n for n, v in VARIANTS.items() if v.family == f) for f in names}


def hybrid_variants() -> tuple[str, ...]:
    """All variants that combine RL and SFT, family by family."""
    return tuple(n for f, names in families().items() if f not in ("RL", "SFT") for n in names)


def compares_hybrids(variants: Iterable[str]) -> bool:
    """Whether a study holds hybrids beyond the two of the hypotheses: then it compares them all."""
    return bool(set(variants) & set(hybrid_variants()) - {"two_stage", "joint"})


def stated(variant: str) -> str:
    """The variant in words, then its loss, as Markdown."""
    row = VARIANTS[variant]
    return f"**`{variant}`.** {row.words}\n\n$${row.equation}$$"


# --- arms: a variant under a reward -------------------------------------------------------------


def arm_name(variant: str, reward: str) -> str:
    """How a variant under a reward is named: rl/model, sft."""
    return variant if reward == "none" else f"{variant}/{reward}"


def rewards_of(variant: str, chosen: tuple[str, ...] = REWARDS) -> tuple[str, ...]:
    """The rewards under which a variant is trained, each an arm."""
    return {"none": ("none",), "gold": ("gold",), "chosen": chosen}[VARIANTS[variant].rewards]


def before(variant: str, reward: str) -> tuple[str, str]:
    """(variant, reward) of the row that has to be trained before this one, of the same chain."""
    name = VARIANTS[variant].before
    return name, reward if VARIANTS[name].rewards == "chosen" else "none"


def chain(variant: str, reward: str) -> list[tuple[str, str]]:
    """(variant, reward) of all that is trained for an arm, the first stage first."""
    if variant == "base":
        return []
    return [*chain(*before(variant, reward)), (variant, reward)]


def tuned_arms() -> list[str]:
    """Everything that has a learning rate: the reward model, and each variant and reward."""
    arms = [arm_name(v, r) for v in measured() if v != "base" for r in rewards_of(v)]
    return ["reward_model", *arms]
