"""The README's account of speed, written from results/bench: no number of it is typed."""

import json
from pathlib import Path

import pandas as pd

from bench.bench import CURVE, FOLDER, SETTINGS
from hybridlib.figures.prose import join, percent
from hybridlib.publish import markdown

BLOCK = "speed"
MODELS = {"organism": "organism", "smollm2": "SmolLM2-135M-Instruct (Q4_1 weights)"}
CURVES = (
    "![Mean reward and completion length over 50 steps of GRPO by TRL's trainer and by this "
    "project's, with 95% intervals over five seeds](results/bench/learning_curves.png)"
)


def speed(folder: Path = FOLDER) -> str:
    """Markdown: ratios to TRL's trainer, learning curves, scaling, and what was tried."""
    noted = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    steps, scaling = (pd.read_csv(folder / f"{name}.csv") for name in ("steps", "scaling"))
    as_written = {"before_s": str, "after_s": str}
    tried = pd.read_csv(folder / "tried.csv", dtype=as_written)
    study, inside = noted["study"], noted["curves"]["inside_each_other"]
    parts = [
        markdown.table(
            ["model", "a step, TRL's time over ours", "generation a token",
             "tokens generated a second, TRL's and ours"],
            [_ratios(name, noted[name]) for name in SETTINGS],
        ),
        f"Median, least and most of {_rounds(steps)} rounds (`bench.json`, `steps.csv`). The "
        f"default study takes {study['cold_s'] / 60:.1f} min in an empty store and "
        f"{study['warm_s']:.0f} s when there is nothing to do. At its peak a step takes, TRL's and "
        f"ours, {join(_memory(steps, name) for name in SETTINGS)}.",
        CURVES,
        f"Of the means of windows of {CURVE['window']} steps, "
        f"{join(f'{percent(share)} ({name})' for name, share in inside.items())} lie inside the "
        "interval of the other trainer (`curves.csv`).",
        f"{_doublings(scaling)} One measurement each, by a policy that stays as it is "
        "(`scaling.csv`): one that learns has more, then fewer groups with any spread of reward, "
        "and only those are trained on.",
        "What was tried, each timed before and after in one run, once, on two cores "
        "(`tried.csv`, written by hand as it was measured):",
        _tried(tried[tried.kept]),
        "What did not pay and is not there:",
        _tried(tried[~tried.kept]),
    ]  # fmt: skip
    return "\n\n".join(parts)


def write(readme: Path) -> None:
    """Replace the account in a README."""
    markdown.replace_block(readme, BLOCK, speed())


def _ratios(name: str, noted: dict) -> list[str]:
    at = SETTINGS[name]
    size = f"{at.prompts} x {at.group} completions of at most {at.tokens} tokens"
    drawn = (noted[f"{trainer}_tokens_per_second"]["generation"] for trainer in ("stock", "ours"))
    return [
        f"{MODELS[name]}, {size}, {at.dtype}",
        *(
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
            for ratio in (noted["step_ratio"], noted["generation_ratio"])
        ),
        join(map(str, drawn)),
    ]


def _rounds(steps: pd.DataFrame) -> str:
    counts = steps.groupby("setting")["round"].nunique()
    return join(str(counts[name]) for name in SETTINGS)


def _memory(steps: pd.DataFrame, name: str) -> str:
    """'20.2 and 5.7 GiB (smollm2)': medians over rounds."""
    peak = steps[steps.setting.eq(name)].groupby("trainer").memory_mib.median() / 1024
    return f"{peak['stock']:.1f} and {peak['ours']:.1f} GiB ({name})"


def _doublings(scaling: pd.DataFrame) -> str:
    """How many times as long each doubling takes, and the memory of four times the steps."""
    said = []
    for name, rows in scaling.groupby("doubled", sort=False):
        times = (rows.seconds / rows.seconds.shift()).dropna()
        values = " to ".join(map(str, (rows[name].iloc[0], rows[name].iloc[-1])))
        said.append(f"{name} {join(f'{time:.2f}' for time in times)} ({values})")
    memory = scaling[scaling.doubled.eq("steps")].memory_mib
    more = memory.iloc[-1] / memory.iloc[0] - 1
    return (
        f"Doubling takes so many times as long: {join(said)}; four times the steps need "
        f"{percent(more)} more memory."
    )


def _tried(rows: pd.DataFrame) -> str:
    head = ["what", "model", "what was timed", "seconds before", "after"]
    return markdown.table(head, rows.drop(columns="kept").to_numpy().tolist())
