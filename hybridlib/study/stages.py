"""The stages of a study as folders of the run store: made once, from the folders before them.

Each function takes a configuration and returns the folder; what is not there is made first.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hybridlib.config import RunConfig
from hybridlib.evaluation.specs import Evaluation, Measured, Prefilled, Prompted
from hybridlib.store import jsonl
from hybridlib.store.run_store import Store
from hybridlib.store.stage import Stage
from hybridlib.study import keys
from hybridlib.tasks.prompts import Prompt
from hybridlib.tasks.responses import FREE_TEXT
from hybridlib.training.cost import flops, tokens_of
from hybridlib.training.specs import Base, Labels, RewardModel, Training
from hybridlib.variants import REWARDS


def folder_of(spec: Stage) -> Path:
    """The finished folder of a stage, made if it is not there."""
    return Store().get(spec.NAME, spec.key, partial(MAKERS[type(spec)], spec), spec.inputs())


def is_done(config: RunConfig, stage: str, *unit: Any) -> bool:
    """Whether the folder of the stage of a unit (variant, reward, seed) is in the store."""
    return Store().has(stage, stage_key(config, stage, *unit))


def stage_key(config: RunConfig, stage: str, *unit: Any) -> str:
    """The key of the stage of a unit."""
    return keys.of(config, stage, *unit).key


def base(config: RunConfig, seed: int) -> Path:
    """model/, loss.csv and gate.csv of the base of a replicate."""
    return folder_of(keys.base(config, seed))


def train(config: RunConfig, variant: str, reward: str, seed: int) -> Path:
    """A trained run: model/, log.jsonl, rollouts.jsonl (RL), cost.json, warnings.json,
    objective.json."""
    return folder_of(keys.train(config, variant, reward, seed))


def evaluate(config: RunConfig, variant: str, reward: str, seed: int) -> Path:
    """responses.parquet and, for what was trained, training.csv.

    at_budget.parquet holds the responses of the policy as it was when it had cost `flops_budget`.
    """
    return folder_of(keys.evaluate(config, variant, reward, seed))


def measurements(config: RunConfig) -> dict[str, Callable[..., Path]]:
    """The stages that measure each run of a study, by name: responses.parquet of each."""
    names = ["evaluate"]
    if config.base.thought:  # the others begin a thought, or ask for one
        names += ["prefill", "usage"] if config.base.pretrained else ["prefill"]

    def measure(stage: str, config: RunConfig, *unit: Any) -> Path:
        return folder_of(keys.of(config, stage, *unit))

    return {name: partial(measure, name) for name in names}


def units(config: RunConfig) -> list[tuple[str, str, int]]:
    """(variant, reward, seed) of everything that is measured."""
    return [(variant, reward, seed) for variant, reward in config.arms for seed in config.seeds]


def harmlessness(spec: Training):
    """The reward of harmful prompts: keyword, model, none, or gold: the oracle, for the control."""
    from hybridlib.training import reward_model as learned
    from hybridlib.training import rewards

    if spec.reward == "keyword":
        return rewards.keyword_reward(spec.given.scope)
    if spec.reward == "model":
        return learned.load(_model(spec.base), folder_of(spec.reward_model))
    if spec.reward == "gold":
        from hybridlib.tasks import oracle

        return oracle.gold_reward
    return rewards.no_harmlessness_reward


def operations(spec: Training) -> float:
    """FLOPs of one stage of training, without those before it."""
    cost = json.loads((folder_of(spec) / "cost.json").read_text(encoding="utf-8"))
    return flops(parameters(spec.base), cost)


def parameters(spec: Base) -> int:
    """The number of parameters of a base."""
    return json.loads((_model(spec) / "size.json").read_text(encoding="utf-8"))["parameters"]


# --- how each is made ---------------------------------------------------------------------------


def _model(spec: Base) -> Path:
    return folder_of(spec) / "model"


def _make_base(spec: Base, folder: Path) -> None:
    from hybridlib.evaluation import respond
    from hybridlib.training import loading, pretrain

    if spec.weights:
        loading.restore(keys.committed_base(spec), folder)
    else:
        pretrain.pretrain(spec, folder)
    model = loading.load_base(folder / "model")
    found = respond.gate(spec, model, loading.load_tokenizer(folder / "model"))
    found.to_csv(folder / "gate.csv", index=False)


def _make_labels(spec: Labels, folder: Path) -> None:
    from hybridlib.training.reward_model import write_labels

    write_labels(spec, _model(spec.base), folder)


def _make_reward_model(spec: RewardModel, folder: Path) -> None:
    from hybridlib.training.reward_model import fit

    fit(spec, _model(spec.labels.base), folder_of(spec.labels), folder)


def _make_training(spec: Training, folder: Path) -> None:
    from hybridlib.training.callbacks import AtBudget, Snapshots
    from hybridlib.training.grpo import rl
    from hybridlib.training.sft import resampled, sft

    start = folder_of(spec.start) / "model" if spec.start else None
    base, callbacks = _model(spec.base), [Snapshots(folder)]
    if "flops_budget" in spec.given:
        of = parameters(spec.base), _spent_before(spec)
        callbacks.append(AtBudget(folder, spec.given.flops_budget, *of))
    if spec.variant.method == "rl":
        rl(spec, base, folder, harmlessness(spec), start, callbacks)
    elif spec.variant.responses_of:
        shown, spent = resampled(spec, base, start, harmlessness(spec))
        sft(spec, base, folder, callbacks, shown=shown, **spent)
    else:
        sft(spec, base, folder, callbacks)


def _make_evaluation(spec: Evaluation, folder: Path) -> None:
    from hybridlib.evaluation import respond
    from hybridlib.training import loading

    prompts, run = spec.prompts(), spec.training
    reward = harmlessness(run) if run and run.reward in (*REWARDS, "gold") else None

    def measure(weights: Path | None, name: str) -> None:
        model, tokenizer = _sampled_from(spec.base, weights)
        length, thought = spec.given.max_completion, spec.base.thought
        frame = respond.respond(model, tokenizer, prompts, spec.seed, length, thought)
        frame = respond.add_proxy(frame, prompts, spec, reward)
        if spec.requests:
            frame = respond.add_judged(frame, spec.given.judges, thought)
        _named(frame, spec).to_parquet(folder / name, index=False)

    if not run:
        return measure(None, "responses.parquet")
    trained = folder_of(run)
    measure(trained / "model", "responses.parquet")
    # The weights when all stages together had cost `flops_budget`; none if they never did.
    kept = [folder_of(stage) / "model_at_budget" for stage in run.chain]
    if at_budget := next(filter(Path.exists, kept), None):
        measure(at_budget, "at_budget.parquet")
    _snapshots(spec, prompts).to_csv(folder / "snapshots.csv", index=False)
    base = _model(spec.base)
    model, tokenizer = loading.load_base(base), loading.load_tokenizer(base)
    curve = respond.curves(run, trained, tokenizer, model)
    spent, counted = _spent_before(run), tokens_of(_log(run).set_index("step"))
    curve = curve.join((spent + flops(parameters(spec.base), counted)).rename("flops"), on="step")
    curve.to_csv(folder / "training.csv", index=False)


def _snapshots(spec: Evaluation, prompts: list[Prompt]) -> pd.DataFrame:
    """What the policy did to some of the harmful prompts while it was trained: a row a snapshot,
    the end among them, with the operations since the base."""
    from hybridlib.evaluation import respond
    from hybridlib.training import loading

    run, trained = spec.training, folder_of(spec.training)
    base = loading.load_base(_model(spec.base))
    asked = [p for p in prompts if p.kind == "harmful" and p.task not in FREE_TEXT][::4]
    kept = {int(path.name): path for path in trained.glob("snapshots/*")}
    log = _log(run)
    kept[int(log.step.max())] = trained / "model"
    spent, rows = _spent_before(run), []
    for step, weights in sorted(kept.items()):
        model, tokenizer = _sampled_from(spec.base, weights)
        how = asked, spec.seed, spec.given.max_completion, spec.base.thought
        found = respond.snapshot(model, base, tokenizer, *how)
        counted = tokens_of(log[log.step.eq(step)].iloc[0])
        cost = spent + flops(parameters(spec.base), counted)
        rows.append({"step": step, "flops": cost} | found)
    return pd.DataFrame(rows)


def _log(run: Training) -> pd.DataFrame:
    """What a run has logged, a row a step."""
    log = pd.DataFrame(jsonl.read(folder_of(run) / "log.jsonl"))
    return log.drop_duplicates("step", keep="last")


def _spent_before(run: Training) -> float:
    """The operations of the stages before a run, from the base."""
    return sum(map(operations, run.chain[:-1]))


def _make_other(spec: Prefilled | Prompted, folder: Path) -> None:
    """responses.parquet of a stage that changes how the test prompts are asked."""
    from hybridlib.evaluation import prefill, prompting

    respond = prefill.respond if isinstance(spec, Prefilled) else prompting.respond
    weights = folder_of(spec.training) / "model" if spec.training else None
    frame = respond(spec, *_sampled_from(spec.base, weights), spec.prompts())
    _named(frame, spec).to_parquet(folder / "responses.parquet", index=False)


def _sampled_from(base: Base, weights: Path | None) -> tuple:
    """(model, tokenizer) to sample from: the base, or a policy of which `weights` are kept."""
    from hybridlib.engine import sampling
    from hybridlib.training import loading

    policy = loading.load_policy(_model(base), weights)
    return sampling.InferenceCopy(policy).model, loading.load_tokenizer(_model(base))


def _named(frame: pd.DataFrame, spec: Measured) -> pd.DataFrame:
    """Responses with columns that name their run, in front."""
    run = spec.training
    variant, reward = (run.variant.name, run.reward or "none") if run else ("base", "none")
    named = frame.assign(run=spec.key, variant=variant, reward=reward, seed=spec.seed)
    return named[["run", "variant", "reward", "seed", *frame]]


MAKERS: dict[type[Stage], Callable[..., None]] = {
    Base: _make_base,
    Labels: _make_labels,
    RewardModel: _make_reward_model,
    Training: _make_training,
    Evaluation: _make_evaluation,
    Prefilled: _make_other,
    Prompted: _make_other,
}
