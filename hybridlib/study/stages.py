"""The stages of a study as folders of the run store: what each is made from, and how.

base -> labels -> reward_model -> train -> evaluate, prefill, usage -> tables. A stage's key hashes
its parameters and the keys of what it starts from, so a changed parameter redoes only what depends
on it.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from hybridlib.config import (
    LEARNING_RATES,
    REWARDS,
    VARIANTS,
    RunConfig,
    arm_name,
    before,
    chain,
    compares_hybrids,
    key,
)
from hybridlib.store import assets
from hybridlib.store.run_store import Store
from hybridlib.tasks.public import judges
from hybridlib.training import health
from hybridlib.training.cost import OPERATIONS, flops
from hybridlib.training.hybrids import FORMULATIONS

#: Parameters of training that each method depends on.
SFT = ("demonstrations", "sft_steps", "sft_batch", "lora_rank")
RL = ("steps", "prompts_per_step", "group_size", "max_completion", "lora_rank", "kl")
LABELS = ("demonstrations", "max_completion", "steps", "prompts_per_step")


def inputs(config: RunConfig, stage: str, variant: str, reward: str, seed: int) -> dict[str, Any]:
    """All that a stage's result depends on, as JSON."""
    flat = config.flat()

    def chosen(names: Iterable[str]) -> dict[str, Any]:
        return {name: flat[name] for name in names}

    def of(stage: str, variant: str = "base", reward: str = "none") -> str:
        return stage_key(config, stage, variant, reward, seed)

    if stage == "base":
        return {**_bred(config), **config.shares.model_dump(), **chosen(["max_completion"])}
    if stage == "labels":
        found = {"base": of("base"), "seed": seed, **chosen(LABELS), **_trained_on(config)}
        return found | (chosen(["labels"]) if config.train.labels else {})
    if stage == "reward_model":
        rate = config.learning_rate("reward_model")
        return {"labels": of("labels"), "seed": seed, "learning_rate": rate, **chosen(SFT)}
    if stage in ("evaluate", "prefill", "usage"):
        trained = of("base") if variant == "base" else of("train", variant, reward)
        measured = {**config.evaluate.model_dump(), **chosen(["max_completion"])}
        besides = _asked_besides(config) if stage == "evaluate" else {}
        return {"run": trained, "seed": seed, **measured, **besides}
    kind, formulation = VARIANTS[variant], FORMULATIONS[VARIANTS[variant].hybrid]
    found = {
        "base": of("base"),
        "seed": seed,
        "variant": kind.inputs(),
        "learning_rate": config.learning_rate(variant, reward),
        **chosen(SFT if kind.method == "sft" else RL),
        **chosen(formulation.parameters),
        **_trained_on(config),
    }
    if config.train.flops_budget:
        found |= chosen(["flops_budget"])
    shows = kind.method == "sft" and not kind.responses_of
    if config.train.demonstrated != "all" and (shows or "demonstrations" in formulation.parameters):
        found |= chosen(["demonstrated"])
    if kind.narrow:
        found |= chosen(["narrow_categories"])
    if kind.responses_of:
        found |= chosen(["group_size", "max_completion"])
    if kind.rewards != "none" or (kind.method == "rl" and formulation.paid):
        # The rule alone reads a part; a weight that the variant sets itself is no parameter of it.
        unread = {name for name, _ in kind.weights} | (set() if reward == "rule" else {"scope"})
        found |= {"reward": reward, **config.reward.model_dump(exclude=unread)}
    if reward == "model":
        found["reward_model"] = of("reward_model")
    if kind.before != "base":
        found["start"] = of("train", *before(variant, reward))
    return found


def _bred(config: RunConfig) -> dict[str, Any]:
    """What a base starts from: an organism has a size, a pretrained model a pin."""
    if not config.base.pretrained:
        return config.base.model_dump(exclude={"gate", "model"})
    size = {"hidden_size", "layers"}
    return {
        **config.base.model_dump(exclude={"gate", *size}),
        "pin": assets.pin(config.base.model),
    }


def _trained_on(config: RunConfig) -> dict[str, Any]:
    """The public requests among the prompts of training, if any."""
    public = config.public
    if not public.requests or not public.requests_share:
        return {}
    return {"requests": _pins(public.requests), "requests_share": public.requests_share}


def _asked_besides(config: RunConfig) -> dict[str, Any]:
    """The public sets in the evaluation, if any."""
    public, found = config.public, {}
    if public.requests:
        found |= {"requests": _pins(public.requests), "judges": list(public.judges)}
        found |= {"requests_per_cell": public.requests_per_cell}
    if public.problems:
        found |= {"problems": _pins(public.problems)}
        found |= {"problems_per_language": public.problems_per_language}
    return found


def _pins(names: Iterable[str]) -> dict[str, str]:
    return {name: assets.pin(name) for name in names}


def stage_key(config: RunConfig, stage: str, variant: str, reward: str, seed: int) -> str:
    """The key of one stage; `variant`, `reward` and `seed` do not matter to a base."""
    return key(stage, inputs(config, stage, variant, reward, seed))


def is_done(config: RunConfig, stage: str, variant: str, reward: str, seed: int) -> bool:
    return Store().has(stage, stage_key(config, stage, variant, reward, seed))


def _get(config, stage, make, variant="base", reward="none", seed=0) -> Path:
    found = inputs(config, stage, variant, reward, seed)
    return Store().get(stage, key(stage, found), make, found)


def base(config: RunConfig) -> Path:
    """model/, loss.csv and gate.csv of the base."""

    def make(folder: Path) -> None:
        from hybridlib.evaluation import respond as evaluate
        from hybridlib.training import loading

        loading.pretrain(config, folder)
        model, tokenizer = (
            loading.load_base(folder / "model"),
            loading.load_tokenizer(folder / "model"),
        )
        evaluate.gate(config, model, tokenizer).to_csv(folder / "gate.csv", index=False)

    return _get(config, "base", make)


def labels(config: RunConfig, seed: int) -> Path:
    """labels.jsonl: what labellers deliver."""

    def make(folder: Path) -> None:
        from hybridlib.training import reward_model

        reward_model.write_labels(config, base(config) / "model", folder, seed)

    return _get(config, "labels", make, seed=seed)


def reward_model(config: RunConfig, seed: int) -> Path:
    """The reward model of a seed."""

    def make(folder: Path) -> None:
        from hybridlib.training import reward_model as stage

        rate = config.learning_rate("reward_model")
        stage.fit(config, base(config) / "model", labels(config, seed), folder, seed, rate)

    return _get(config, "reward_model", make, seed=seed)


def harmlessness(config: RunConfig, reward: str, seed: int):
    """The pay for harmful prompts: rule, model, none, or gold: the oracle, for the control."""
    from hybridlib.training import reward_model as learned
    from hybridlib.training import rewards

    if reward == "none":
        return rewards.unpaid
    if reward == "rule":
        return rewards.rule_reward(config.reward.scope)
    if reward == "model":
        return learned.load(base(config) / "model", reward_model(config, seed))
    from hybridlib.tasks import oracle

    return oracle.gold_reward


def train(config: RunConfig, variant: str, reward: str, seed: int) -> Path:
    """A trained run: model/, log.jsonl, rollouts.jsonl (RL), cost.json, warnings.json,
    objective.json."""
    kind = VARIANTS[variant]
    name = f"{arm_name(variant, reward)} seed {seed}"

    def make(folder: Path) -> None:
        from hybridlib.training import train as stage
        from hybridlib.training.callbacks import AtBudget

        last = None
        if kind.before != "base":
            last = train(config, *before(variant, reward), seed) / "model"
        policy = base(config) / "model"
        rate, callbacks = config.learning_rate(variant, reward), []
        if config.train.flops_budget:
            spent = sum(_flops(config, *phase, seed) for phase in chain(variant, reward)[:-1])
            at = (folder, config.train.flops_budget, _parameters(config), spent)
            callbacks.append(AtBudget(*at))
        run = (config, policy, folder, seed, rate, name, callbacks)
        if kind.method == "rl":
            stage.rl(*run, kind, harmlessness(config, reward, seed), last)
        elif kind.responses_of:
            pay = harmlessness(config, reward, seed)
            shown, spent = stage.resampled(config, policy, last, seed, pay)
            stage.sft(*run, shown=shown, **spent)
        else:
            stage.sft(*run, narrow=kind.narrow)

    return _get(config, "train", make, variant, reward, seed)


def _kept_at_budget(config: RunConfig, variant: str, reward: str, seed: int) -> Path | None:
    """The weights when all stages together had cost `flops_budget`; None if they never did."""
    folders = (train(config, *stage, seed) / "model_at_budget" for stage in chain(variant, reward))
    return next((folder for folder in folders if folder.exists()), None)


def evaluate(config: RunConfig, variant: str, reward: str, seed: int) -> Path:
    """responses.parquet and, for what was trained, training.csv.

    at_budget.parquet holds the responses of the policy as it was when it had cost `flops_budget`.
    """

    def make(folder: Path) -> None:
        from hybridlib.evaluation import respond as stage
        from hybridlib.tasks import datasets
        from hybridlib.training import loading
        from hybridlib.training import train as training

        measured = config.evaluate
        prompts = datasets.evaluation(config, measured.evaluation_seed, measured.per_cell)
        pay = harmlessness(config, reward, seed) if reward in (*REWARDS, "gold") else None

        def measure(weights: Path | None, name: str) -> None:
            frame = stage.respond(*_sampled_from(config, weights), prompts, config, seed)
            frame = stage.add_proxy(frame, prompts, config, pay)
            if config.public.requests:
                frame = stage.add_judged(frame, config.public.judges)
            frame = _named(frame, config, "evaluate", variant, reward, seed)
            frame.to_parquet(folder / name, index=False)

        if variant == "base":
            return measure(None, "responses.parquet")
        run = train(config, variant, reward, seed)
        measure(run / "model", "responses.parquet")
        if kept := _kept_at_budget(config, variant, reward, seed):
            measure(kept, "at_budget.parquet")
        policy, asked = base(config) / "model", training.rl_prompts(config, seed)
        tokenizer = loading.load_tokenizer(policy)
        found = stage.curves(config, run, asked, tokenizer, loading.load_base(policy))
        found.to_csv(folder / "training.csv", index=False)

    return _get(config, "evaluate", make, variant, reward, seed)


def prefill(config: RunConfig, variant: str, reward: str, seed: int) -> Path:
    """responses.parquet of harmful prompts whose response was begun."""
    from hybridlib.evaluation import prefill as stage

    return _asked_again(stage.respond, config, "prefill", variant, reward, seed)


def usage(config: RunConfig, variant: str, reward: str, seed: int) -> Path:
    """responses.parquet of the prompts of the tasks, asked in several forms."""
    from hybridlib.evaluation import prompting as stage

    return _asked_again(stage.respond, config, "usage", variant, reward, seed)


def measurements(config: RunConfig) -> dict[str, Callable[..., Path]]:
    """The stages that measure each run of a study, by name."""
    found = {"evaluate": evaluate}
    if config.base.thought:  # the others begin a thought, or ask for one
        found |= {"prefill": prefill} | ({"usage": usage} if config.base.pretrained else {})
    return found


def _asked_again(
    respond: Callable[..., pd.DataFrame],
    config: RunConfig,
    stage: str,
    variant: str,
    reward: str,
    seed: int,
) -> Path:
    """responses.parquet of a stage that changes how the test prompts are asked."""

    def make(folder: Path) -> None:
        from hybridlib.tasks import datasets
        from hybridlib.tasks.prompts import evaluation_prompts

        measured = config.evaluate
        weights = None if variant == "base" else train(config, variant, reward, seed) / "model"
        asked = evaluation_prompts(measured.evaluation_seed, measured.per_cell)
        prompts = datasets.as_asked(config, asked)
        frame = respond(*_sampled_from(config, weights), prompts, config, seed)
        frame = _named(frame, config, stage, variant, reward, seed)
        frame.to_parquet(folder / "responses.parquet", index=False)

    return _get(config, stage, make, variant, reward, seed)


def _sampled_from(config: RunConfig, weights: Path | None) -> tuple:
    """(model, tokenizer) to sample from: the base, or a policy of which `weights` are kept."""
    from hybridlib.engine import sampling
    from hybridlib.training import loading

    policy = base(config) / "model"
    model = sampling.InferenceCopy(loading.load_policy(policy, weights)).model
    return model, loading.load_tokenizer(policy)


def _named(
    frame: pd.DataFrame, config: RunConfig, stage: str, variant: str, reward: str, seed: int
) -> pd.DataFrame:
    """Responses with columns that name their run, in front."""
    run = stage_key(config, stage, variant, reward, seed)
    named = frame.assign(run=run, variant=variant, reward=reward, seed=seed)
    return named[["run", "variant", "reward", "seed", *frame]]


def units(config: RunConfig) -> list[tuple[str, str, int]]:
    """(variant, reward, seed) of everything that is measured."""
    return [(variant, reward, seed) for variant, reward in config.arms for seed in config.seeds]


def _parameters(config: RunConfig) -> int:
    return json.loads((base(config) / "model" / "size.json").read_text())["parameters"]


def _flops(config: RunConfig, variant: str, reward: str, seed: int) -> float:
    """Operations of one stage, without those before it."""
    cost = json.loads((train(config, variant, reward, seed) / "cost.json").read_text())
    return flops(_parameters(config), cost)


def costs(config: RunConfig, measured: Iterable[tuple[str, str, int]]) -> pd.DataFrame:
    """What each of these units took, phase by phase from the base; flops are counted."""
    rows = []
    for variant, reward, seed in measured:
        for phase in chain(variant, reward):
            cost = json.loads((train(config, *phase, seed) / "cost.json").read_text())
            rows.append(
                {
                    "variant": variant,
                    "reward": reward,
                    "seed": seed,
                    "phase": VARIANTS[phase[0]].method,
                    "optimiser_steps": cost["optimiser_steps"],
                    **{name: cost.get(name, 0) for name in OPERATIONS},
                    "flops": _flops(config, *phase, seed),
                    "seconds": cost["seconds"],
                    "peak_memory_mib": cost["peak_memory_mib"],
                }
            )
    return pd.DataFrame(rows)


def flops_by_step(log: pd.DataFrame, total: float, parameters: int) -> pd.Series:
    """FLOPs from the base to the end of each logged step, earlier phases included.

    `log` holds the tokens counted so far in the last phase; `total` is that of all phases.
    """
    so_far = flops(parameters, log.drop_duplicates("step", keep="last").set_index("step"))
    return (so_far + total - so_far.iloc[-1]).rename("flops")


def _with_flops(
    config: RunConfig, unit: tuple[str, str, int], training: pd.DataFrame, total: float
) -> pd.DataFrame:
    """The training curve of a run, with the column `flops` where it has rollouts."""
    log = pd.read_json(train(config, *unit) / "log.jsonl", lines=True)
    if "completion_tokens" not in log:
        return training
    return training.join(flops_by_step(log, total, _parameters(config)), on="step")


def warnings(config: RunConfig) -> pd.DataFrame:
    """What the logs of all runs warn of: variant, reward, seed, name, step, says."""
    stages = dict.fromkeys(s for arm in config.arms for s in chain(*arm))
    rows = [
        {"variant": variant, "reward": reward, "seed": seed, **warning}
        for variant, reward in stages
        for seed in config.seeds
        for warning in health.read(train(config, variant, reward, seed))
    ]
    return pd.DataFrame(rows, columns=["variant", "reward", "seed", "name", "step", "says"])


def write_tables(config: RunConfig, folder: Path) -> None:
    """Every table of the study, from what the store holds; says what the runs' logs warn of."""
    from hybridlib.evaluation import tables

    found = {unit: evaluate(config, *unit) for unit in units(config)}
    for warned in warnings(config).itertuples():
        arm = f"{arm_name(warned.variant, warned.reward)} seed {warned.seed}"
        print(f"{arm}: warning {warned.name}: {warned.says}")
    training = {
        (v, r, s): pd.read_csv(run / "training.csv").assign(variant=v, reward=r, seed=s)
        for (v, r, s), run in found.items()
        if (run / "training.csv").exists()
    }
    cost = costs(config, found)
    if compares_hybrids(config.variants):
        total = cost.groupby(["variant", "reward", "seed"]).flops.sum()
        for unit, rows in training.items():
            training[unit] = _with_flops(config, unit, rows, total[unit])
    listed = [(run.name, *unit, "evaluate") for unit, run in found.items()]
    responses = _responses(found.values(), "responses.parquet")
    besides = {
        stage: _responses([measure(config, *unit) for unit in found], "responses.parquet")
        for stage, measure in measurements(config).items()
        if stage != "evaluate"
    }
    tables.write_tables(
        folder,
        config.preset,
        responses,
        pd.concat(training.values()) if training else pd.DataFrame(),
        cost,
        pd.read_csv(base(config) / "gate.csv"),
        _grid(config),
        pd.DataFrame(listed, columns=["run", "variant", "reward", "seed", "stage"]),
        _responses(found.values(), "at_budget.parquet").assign(flops=config.train.flops_budget),
        besides,
    )
    if config.public.requests or config.public.problems:
        _write_errors_of_measuring(config, responses, folder)
    if config.study.beside:
        _write_beside(config.preset, config.study.beside, folder)


def _write_errors_of_measuring(config: RunConfig, responses: pd.DataFrame, folder: Path) -> None:
    """judges.csv, requests.csv and identifier.csv: how far what reads free text is to be believed.

    Raises AssetError (see `assets.folder`).
    """
    from hybridlib.evaluation import tables
    from hybridlib.tasks import language
    from hybridlib.tasks.public import agreement, requests

    written = {"identifier": language.identifier_error()}
    if config.public.requests:
        written["requests"] = requests.sources(config.public.requests)
        said = responses[responses.task.eq("requests")]
        written["judges"] = agreement.of_judges(config.public.judges, said)
    for name, table in written.items():
        tables.write(table, folder / f"{name}.csv")


def assets_used(config: RunConfig) -> list[str]:
    """Names of the assets that a study rests on."""
    public, found = config.public, [config.base.model] if config.base.pretrained else []
    found += [*public.requests, *public.problems]
    if public.requests:
        found += ["human_refusals", *judges.assets_of(public.judges)]
    return found


def _write_beside(preset: str, other: str, folder: Path) -> None:
    """beside.csv, out of verdicts.csv of both."""
    from hybridlib.evaluation import comparison, tables
    from hybridlib.figures import results

    ours, theirs = (
        found.table("verdicts") for found in (results.Results(folder.parent), results.load(other))
    )
    tables.write(comparison.beside(preset, ours, other, theirs), folder / "beside.csv")


def _grid(config: RunConfig) -> pd.DataFrame:
    """The grid of learning rates, as far as it is about what the study trains: it was run on the
    organism, so of a pretrained model it says nothing."""
    grid, trained = pd.read_csv(LEARNING_RATES), {*config.arms, ("reward_model", "none")}
    if config.base.pretrained:
        return grid[:0]
    return grid[[arm in trained for arm in zip(grid.variant, grid.reward)]]


def _responses(folders: Iterable[Path], name: str) -> pd.DataFrame:
    """The rows of all folders that have such a file."""
    found = [pd.read_parquet(f / name) for f in folders if (f / name).exists()]
    return pd.concat(found) if found else pd.DataFrame()


def artifacts(config: RunConfig, seed: int) -> dict[str, Path]:
    """What is committed of one seed, if anything: base, adapters, the measured responses."""
    if not config.study.commit_weights:
        return {}
    found = {"base": base(config) / "model"}
    for variant, reward in config.arms:
        name = arm_name(variant, reward).replace("/", "-")
        found[f"responses/{name}"] = evaluate(config, variant, reward, seed)
        if variant != "base":
            found[f"adapters/{name}"] = train(config, variant, reward, seed) / "model"
    return found
