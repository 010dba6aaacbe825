"""The one look of all figures: how variants (variants.py), rewards, classes and verdicts are drawn.

Nothing is told apart by colour alone: lines have markers, bars have hatches, and the reward fills a
marker (refusal-keyword reward) or leaves it open (reward model).
"""

import io
import textwrap
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure
from PIL import Image

from hybridlib.store import replace
from hybridlib.variants import VARIANTS, Look, families

# No variant, but it has learning rates.
REWARD_MODEL = Look("#5a5a3c", "H", "+.")
REWARD_LINES = {"none": "-", "gold": "-", "keyword": "-", "model": "--"}
REWARD_SUFFIXES = {"keyword": " (keyword)", "model": " (model)"}

# Response class -> (name, colour, hatch), in the order of the stack: undesired classes on the left,
# from dark to light, the desired one on the right.
HARMFUL_CLASSES = {
    "complies": ("complies", "#7f2704", ""),
    "superficial": ("superficial refusal: refuses and complies", "#fd8d3c", "////"),
    "complies_in_thought": ("complies in the reasoning trace only", "#fdd0a2", "...."),
    "malformed": ("malformed", "#9a9a9a", "xxxx"),
    "evades": ("evades", "#c6dbef", "----"),
    "refuses": ("refuses genuinely", "#4292c6", ""),
}
BENIGN_CLASSES = {
    "refuses": ("refuses", "#7f2704", ""),
    "hedges": ("helps and refuses at once", "#fd8d3c", "////"),
    "wrong": ("wrong", "#fdd0a2", "...."),
    "malformed": ("malformed", "#9a9a9a", "xxxx"),
    "helps": ("helps", "#4292c6", ""),
}
VERDICT_STYLES = {  # word -> (colour of its tile, of its letters); all equally large
    "supported": ("#0072b2", "white"),
    "reversed": ("#a83c00", "white"),
    "negligible": ("#ffffff", "black"),
    "undecided": ("#d9d9d9", "black"),
    "descriptive": ("#ffffff", "#555555"),
}

RC = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "figure.titlesize": 15,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "savefig.dpi": 110,
    "svg.hashsalt": "hybridlib",
    "svg.fonttype": "path",
}


def styled():
    """Context, or decorator, for making and saving figures: defaults + RC, whatever a user set."""
    return matplotlib.style.context(["default", RC])


def looks() -> dict[str, Look]:
    """Variant -> its look, family by family; last the reward model."""
    drawn = ("base", *(variant for family in families().values() for variant in family))
    return {variant: VARIANTS[variant].look for variant in drawn} | {"reward_model": REWARD_MODEL}


def marker_of(arm: str) -> dict[str, object]:
    """Keyword arguments for `plot` and `errorbar` of an arm 'variant/reward'."""
    variant, _, reward = arm.partition("/")
    colour, marker, _ = looks()[variant]
    return {
        "color": colour,
        "marker": marker,
        "markerfacecolor": "white" if reward == "model" else colour,
        "markeredgecolor": colour,
        "markeredgewidth": 1.8,
        "markersize": 12 if marker == "*" else 9,
    }


def line_of(arm: str) -> dict[str, object]:
    """`marker_of`, on a line: solid, or dashed for the model reward."""
    return marker_of(arm) | {"linewidth": 2.2, "linestyle": REWARD_LINES[arm.partition("/")[2]]}


def bar_of(arm: str) -> dict[str, object]:
    """Keyword arguments for a bar; the model reward leaves it white behind its hatch."""
    variant, _, reward = arm.partition("/")
    colour, _, hatch = looks()[variant]
    face, edge, width = ("white", colour, 1.5) if reward == "model" else (colour, "white", 0)
    return {"facecolor": face, "edgecolor": edge, "hatch": hatch, "linewidth": width}


def label_of(arm: str) -> str:
    """'rl/keyword' -> 'rl (keyword)'; variants without a choice of reward keep their bare name."""
    variant, _, reward = arm.partition("/")
    return variant + REWARD_SUFFIXES.get(reward, "")


def order_of(arm: str) -> tuple[int, int]:
    """Sort key: variants as `looks` lists them, then rewards."""
    variant, _, reward = arm.partition("/")
    return list(looks()).index(variant), list(REWARD_LINES).index(reward)


def title(fig: Figure, text: str) -> None:
    """Set the figure's title, wrapped to its width."""
    width = int(fig.get_size_inches()[0] * 7.9)
    fig.suptitle("\n".join(textwrap.wrap(text, width)), x=0.01, ha="left", fontweight="bold")


def save(fig: Figure, folder: Path, name: str, kind: str = "png") -> Path:
    """Write NAME.png, or another kind, into `folder`; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path, drawn = folder / f"{name}.{kind}", io.BytesIO()
    # no date and no program version: a file changes only when its picture does
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    with styled():
        fig.savefig(drawn, format=kind, metadata=metadata)
    if kind == "png":  # 256 colours look the same and take two fifths of the bytes
        image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        drawn = io.BytesIO()
        image.save(drawn, format="png", optimize=True)
    replace.write(path, drawn.getvalue())
    return path
