"""What a study's tables are made of: gathered from its folders in the run store."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from hybridlib.config import LEARNING_RATES, RunConfig
from hybridlib.evaluation import hypotheses
from hybridlib.study import keys, stages
from hybridlib.tasks.public import judges
from hybridlib.training import health
from hybridlib.training.cost import OPERATIONS, flops
from hybridlib.variants import arm_name, chain, compares_hybrids


def costs(config: RunConfig, measured: Iterable[tuple[str, str, int]]) -> pd.DataFrame:
    """What each of these units took, phase by phase from the base; flops are counted."""
    rows = []
    for variant, reward, seed in measured:
        for phase in chain(variant, reward):
            spec = keys.train(config, *phase, seed)
            cost = json.loads((stages.folder_of(spec) / "cost.json").read_text())
            rows.append(
                {
                    "variant": variant,
                    "reward": reward,
                    "seed": seed,
                    "phase": spec.variant.method,
                    "optimiser_steps": cost["optimiser_steps"],
                    **{name: cost.get(name, 0) for name in OPERATIONS},
                    "flops": stages.operations(spec),
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
    log = pd.read_json(stages.train(config, *unit) / "log.jsonl", lines=True)
    if "completion_tokens" not in log:
        return training
    parameters = stages.parameters(keys.base(config))
    return training.join(flops_by_step(log, total, parameters), on="step")


def warnings(config: RunConfig) -> pd.DataFrame:
    """What the logs of all runs warn of: variant, reward, seed, name, step, says."""
    trained = dict.fromkeys(stage for arm in config.arms for stage in chain(*arm))
    rows = [
        {"variant": variant, "reward": reward, "seed": seed, **warning}
        for variant, reward in trained
        for seed in config.seeds
        for warning in health.read(stages.train(config, variant, reward, seed))
    ]
    return pd.DataFrame(rows, columns=["variant", "reward", "seed", "name", "step", "says"])


def write_tables(config: RunConfig, folder: Path) -> None:
    """Every table of the study, from what the store holds; says what the runs' logs warn of."""
    from hybridlib.evaluation import tables

    found = {unit: stages.evaluate(config, *unit) for unit in stages.units(config)}
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
        for stage, measure in stages.measurements(config).items()
        if stage != "evaluate"
    }
    tables.write_tables(
        folder,
        config.preset,
        responses,
        pd.concat(training.values()) if training else pd.DataFrame(),
        cost,
        pd.read_csv(stages.base(config) / "gate.csv"),
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
    found = {"base": stages.base(config) / "model"}
    for variant, reward in config.arms:
        name = arm_name(variant, reward).replace("/", "-")
        found[f"responses/{name}"] = stages.evaluate(config, variant, reward, seed)
        if variant != "base":
            found[f"adapters/{name}"] = stages.train(config, variant, reward, seed) / "model"
    return found


def is_present(results: Path) -> bool:
    """Whether committed results are of the present stages and hypotheses."""
    made = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    stages_are = made["code"]["stages"].items() <= keys.VERSIONS.items()
    return stages_are and made["hypotheses_sha256"] == hypotheses.digest()
