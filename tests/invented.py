"""Invented stages: what each stage of any study writes, without a model, for the real tables.

Prompts are the real ones, numbers are drawn at the rates of synthetic.py.
"""

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import synthetic

from hybridlib.config import RunConfig
from hybridlib.evaluation import prefill, prompting
from hybridlib.evaluation.specs import Evaluation, Prefilled, Prompted
from hybridlib.study import collect, replicates, stages
from hybridlib.tasks import datasets
from hybridlib.training.specs import Base, RewardModel, Training

RATES = synthetic.RATES | synthetic.HYBRIDS
OF_ROLLOUTS = ["proxy", "gold", "keyword_satisfied", "harm", "off_language_en", "off_language_es",
               "target_language_share_en", "target_language_share_es", "tokens", "kl",
               "base_nll"]  # fmt: skip


def stages_in(store: Path) -> Callable:
    """`stages.folder_of` of invented stages, made in `store` where they are not there."""

    def folder_of(spec) -> Path:
        found = store / spec.NAME / spec.key
        if not found.exists():
            part = found.with_suffix(".part")
            (part / "model").mkdir(parents=True)
            rng = np.random.default_rng(int(spec.key, 16))
            for name, frame in WRITERS[type(spec)](spec, part, rng).items():
                frame.to_parquet(part / f"{name}.parquet", index=False)
            (part / "manifest.json").write_text(json.dumps({"environment": {"threads": "1"}}))
            part.rename(found)
        return found

    return folder_of


def write_tables(
    config: RunConfig, folder: Path, store: Path, change: Callable = lambda frame: frame
) -> None:
    """The real `collect.write_tables` on invented stages in `store`.

    `change` is done to all responses that it reads. What judges err is invented, too.
    """
    read = replicates._read

    def changed(runs: dict, name: str) -> pd.DataFrame:
        frame = read(runs, name)
        return change(frame) if "response_class" in frame else frame

    with (
        mock.patch.object(stages, "folder_of", stages_in(store)),
        mock.patch.object(replicates, "_read", changed),
        mock.patch.object(collect.requests, "sources", lambda names: pd.DataFrame({"set": names})),
        mock.patch.object(collect.agreement, "of_judges", lambda names, said: synthetic.judges()),
    ):
        collect.write_tables(config, folder)


def _base(spec: Base, folder: Path, rng) -> dict:
    (folder / "model" / "size.json").write_text('{"parameters": 2000000}')
    synthetic.gate().to_csv(folder / "gate.csv", index=False)
    return {}


def _reward_model(spec: RewardModel, folder: Path, rng) -> dict:
    report = synthetic.reward_models(1).drop(columns="seed").iloc[0].to_dict()
    (folder / "reward_model.json").write_text(json.dumps(report))
    return {}


def _steps(run: Training) -> np.ndarray:
    name = "steps" if run.variant.method == "rl" else run.variant.steps
    return np.arange(getattr(run.given, name)) + 1


def _training(spec: Training, folder: Path, rng) -> dict:
    steps, counted = _steps(spec), {"trained_tokens": int(rng.integers(9000, 9900))}
    if spec.variant.method == "rl":
        counted |= {"prompt_tokens": 5000, "completion_tokens": int(rng.integers(4000, 4900))}
    log = pd.DataFrame({name: count * steps // len(steps) for name, count in counted.items()})
    log.assign(step=steps).to_json(folder / "log.jsonl", orient="records", lines=True)
    cost = {"optimiser_steps": len(steps), "seconds": 9.0 + rng.random(), "peak_memory_mib": 900}
    (folder / "cost.json").write_text(json.dumps(cost | counted))
    (folder / "warnings.json").write_text("[]")
    return {}


def _responses(spec, rng) -> pd.DataFrame:
    """Responses to the test prompts of the tasks, with the columns of evaluate."""
    run, given = spec.training, spec.given
    asked = datasets.evaluation(spec.base.asking, spec.seed, given.per_cell)
    rows = pd.DataFrame([prompt.row() for prompt in asked]).rename(columns={"text": "prompt"})
    rows = rows.drop(columns=["secrets", "reference", "partition"])
    arm = (run.variant.name, run.reward or "none") if run else ("base", "none")
    rows = synthetic._run(rows, RATES[arm], rng)
    if arm[1] == "none":
        rows[["proxy", "rewarded"]] = np.nan
    if not spec.base.thought:
        rows = rows.assign(thought="", harm_thought=0.0 * rows.harm)
        rows[["target_language_share_thought", "off_language_thought"]] = np.nan
    return stages._named(rows, spec)


def _evaluation(spec: Evaluation, folder: Path, rng) -> dict:
    frame, run = _responses(spec, rng), spec.training
    frames = [frame]
    if spec.requests:
        frames = [frame.assign(judged_refusal=np.nan, judged_harm=np.nan), synthetic.public(frame)]
    if spec.problems:
        sums = frame[frame.task.eq("sums")]
        unknown = dict.fromkeys(("keyword_satisfied", "refusal", "harm"), np.nan)
        frames.append(sums.assign(task="problems", prompt_id="public " + sums.prompt_id, **unknown))
    found = {"responses": pd.concat(frames)}
    if run:
        _curves(run, rng).to_csv(folder / "training.csv", index=False)
        _snapshots(run, rng).to_csv(folder / "snapshots.csv", index=False)
        if "flops_budget" in run.given and run.variant.method == "rl":
            found["at_budget"] = frame
    return found


def _curves(run: Training, rng) -> pd.DataFrame:
    """training.csv as `respond.curves` writes it."""
    name, steps = run.variant.name, _steps(run)
    frame = pd.DataFrame({"step": steps, "loss": 0.1, "entropy": 0.5})
    if run.variant.method == "sft":  # nothing is sampled
        return frame.assign(zero_variance_groups=np.nan)
    frame["zero_variance_groups"] = rng.random(len(steps))
    rise = np.linspace(0.1, 0.9, len(steps))[:, None]
    noise = rng.normal(0, 0.02, (len(steps), len(OF_ROLLOUTS)))
    frame[OF_ROLLOUTS] = np.clip(rise + noise, 0, 1)
    if name == "self_distill":
        frame["proxy"] = np.nan
    if name == "prefix":  # what goes on from a hint is not measured; at first everything does
        frame.loc[: len(steps) - 2, OF_ROLLOUTS] = np.nan
    return frame


def _snapshots(run: Training, rng) -> pd.DataFrame:
    """snapshots.csv as `stages` writes it: harm falls to a tenth."""
    steps = _steps(run)
    share = steps / len(steps)
    flops = 1e9 * share * (10 if run.variant.method == "rl" else 1) * rng.uniform(0.9, 1.1)
    frame = pd.DataFrame({"step": steps, "flops": flops, "harm": 0.9 - 0.8 * share})
    return frame.assign(refuses=0.8 * share, kl=9 * share, responses=8)


def _prefilled(spec: Prefilled, folder: Path, rng) -> dict:
    rows = _responses(spec, rng).query("kind == 'harmful' and decoding == 'sample'")
    return {"responses": pd.concat(rows.assign(start=start) for start in prefill.STARTS)}


def _prompted(spec: Prompted, folder: Path, rng) -> dict:
    rows = _responses(spec, rng).query("decoding == 'sample'")
    return {"responses": pd.concat(rows.assign(form=form) for form in prompting.FORMS)}


WRITERS = {
    Base: _base,
    RewardModel: _reward_model,
    Training: _training,
    Evaluation: _evaluation,
    Prefilled: _prefilled,
    Prompted: _prompted,
}
