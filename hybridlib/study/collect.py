"""What a study's tables are made of: gathered from its folders in the run store."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from hybridlib.config import LEARNING_RATES, RunConfig
from hybridlib.evaluation import comparison, hypotheses, tables
from hybridlib.figures import results
from hybridlib.figures.results import ResultsError
from hybridlib.store import jsonl
from hybridlib.study import keys, stages
from hybridlib.tasks import language
from hybridlib.tasks.public import agreement, judges, requests
from hybridlib.training import health
from hybridlib.training.cost import OPERATIONS, flops
from hybridlib.variants import arm_name, chain, compares_hybrids

Unit = tuple[str, str, int]  # (variant, reward, seed)
COST = ["variant", "reward", "seed", "phase", "optimiser_steps", *OPERATIONS, "flops", "seconds",
        "peak_memory_mib"]  # fmt: skip


def costs(config: RunConfig, measured: Iterable[Unit]) -> pd.DataFrame:
    """What each of these units took, phase by phase from the base; flops are counted."""
    rows = []
    for variant, reward, seed in measured:
        for phase in chain(variant, reward):
            spec = keys.train(config, *phase, seed)
            cost = json.loads((stages.folder_of(spec) / "cost.json").read_text(encoding="utf-8"))
            named = {"variant": variant, "reward": reward, "seed": seed}
            named |= {"phase": spec.variant.method, "optimiser_steps": cost["optimiser_steps"]}
            counted = {name: cost.get(name, 0) for name in OPERATIONS}
            counted |= {"flops": stages.operations(spec)}
            counted |= {name: cost[name] for name in ("seconds", "peak_memory_mib")}
            rows.append(named | counted)
    return pd.DataFrame(rows, columns=COST)


def flops_by_step(log: pd.DataFrame, total: float, parameters: int) -> pd.Series:
    """FLOPs from the base to the end of each logged step, earlier phases included.

    `log` holds the tokens counted so far in the last phase; `total` is that of all phases.
    """
    so_far = flops(parameters, log.drop_duplicates("step", keep="last").set_index("step"))
    return (so_far + total - so_far.iloc[-1]).rename("flops")


def _training(config: RunConfig, runs: Mapping[Unit, Path], cost: pd.DataFrame) -> pd.DataFrame:
    """The training curves of all runs; where hybrids are compared, those that have rollouts with
    the column `flops`."""
    total = cost.groupby(["variant", "reward", "seed"]).flops.sum()
    curves = []
    for (variant, reward, seed), run in runs.items():
        if not (run / "training.csv").exists():
            continue
        curve = pd.read_csv(run / "training.csv").assign(variant=variant, reward=reward, seed=seed)
        if compares_hybrids(config.variants):
            trained = stages.train(config, variant, reward, seed)
            log = pd.DataFrame(jsonl.read(trained / "log.jsonl"))
            if "completion_tokens" in log:
                parameters = stages.parameters(keys.base(config, seed))
                spent = flops_by_step(log, total[variant, reward, seed], parameters)
                curve = curve.join(spent, on="step")
        curves.append(curve)
    return _joined(curves)


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
    found = {unit: stages.evaluate(config, *unit) for unit in stages.units(config)}
    for warned in warnings(config).itertuples():
        arm = f"{arm_name(warned.variant, warned.reward)} seed {warned.seed}"
        print(f"{arm}: warning {warned.name}: {warned.says}")
    responses, cost = _responses(found.values()), costs(config, found)
    runs = [(run.name, *unit, "evaluate") for unit, run in found.items()]
    besides = {
        stage: _responses(measure(config, *unit) for unit in found)
        for stage, measure in stages.measurements(config).items()
        if stage != "evaluate"
    }
    tables.write_tables(
        folder,
        config.preset,
        responses,
        _training(config, found, cost),
        cost,
        pd.concat(
            pd.read_csv(stages.base(config, seed) / "gate.csv").assign(seed=seed)
            for seed in config.seeds
        ),
        _grid(config),
        pd.DataFrame(runs, columns=["run", "variant", "reward", "seed", "stage"]),
        _responses(found.values(), "at_budget").assign(flops=config.train.flops_budget),
        besides,
    )
    if config.public.requests or config.public.problems:
        _write_errors_of_measuring(config, responses, folder)
    if other := config.study.beside:
        pair = (results.Results(folder.parent), results.load(other))
        ours, theirs = (found.table("verdicts") for found in pair)
        beside = comparison.beside(config.preset, ours, other, theirs)
        tables.write(beside, folder / "beside.csv")


def _write_errors_of_measuring(config: RunConfig, responses: pd.DataFrame, folder: Path) -> None:
    """judges.csv, requests.csv and identifier.csv: how far what reads free text is to be believed.

    Raises AssetError (see `assets.folder`).
    """
    tables.write(language.identifier_error(), folder / "identifier.csv")
    if config.public.requests:
        tables.write(requests.sources(config.public.requests), folder / "requests.csv")
        said = responses[responses.task.eq("requests")]
        tables.write(agreement.of_judges(config.public.judges, said), folder / "judges.csv")


def assets_used(config: RunConfig) -> list[str]:
    """Names of the assets that a study rests on."""
    public, found = config.public, [config.base.model] if config.base.pretrained else []
    found += [*public.requests, *public.problems]
    if public.requests:
        found += ["human_refusals", *judges.assets_of(public.judges)]
    return found


def _grid(config: RunConfig) -> pd.DataFrame:
    """The grid of learning rates, as far as it is about what the study trains: it was run on the
    organism, so of a pretrained model it says nothing."""
    grid, trained = pd.read_csv(LEARNING_RATES), {p for arm in config.arms for p in chain(*arm)}
    if any(reward == "model" for _, reward in trained):
        trained.add(("reward_model", "none"))
    if config.base.pretrained:
        return grid[:0]
    return grid[[arm in trained for arm in zip(grid.variant, grid.reward)]]


def _responses(folders: Iterable[Path], name: str = "responses") -> pd.DataFrame:
    """The rows of all folders that have such a file."""
    files = (folder / f"{name}.parquet" for folder in folders)
    return _joined([pd.read_parquet(file) for file in files if file.exists()])


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames) if frames else pd.DataFrame()


def artifacts(config: RunConfig, seed: int) -> dict[str, Path]:
    """What is committed of one seed, if anything: base, adapters, the measured responses."""
    if not config.study.commit_weights:
        return {}
    found = {"base": stages.base(config, seed) / "model"}
    for variant, reward in config.arms:
        name = arm_name(variant, reward).replace("/", "-")
        found[f"responses/{name}"] = stages.evaluate(config, variant, reward, seed)
        if variant != "base":
            found[f"adapters/{name}"] = stages.train(config, variant, reward, seed) / "model"
    return found


class _Code(BaseModel):
    stages: dict[str, int]


class _Manifest(BaseModel):
    """What is read of the manifest of committed results."""

    code: _Code
    hypotheses_sha256: str
    runs: dict[str, dict[str, Any]]
    tables: dict[str, dict[str, Any]]


def manifest(results: Path) -> dict[str, Any]:
    """The manifest of committed results. Raises ResultsError if it cannot be read."""
    path = results / "manifest.json"
    try:
        content = path.read_bytes()
        _Manifest.model_validate_json(content)
    except (OSError, ValueError) as error:
        raise ResultsError.of(path, error) from None
    return json.loads(content)


def is_present(results: Path) -> bool:
    """Whether committed results are of the present stages and hypotheses."""
    try:
        made = manifest(results)
    except ResultsError:
        return False
    stages_are = made["code"]["stages"].items() <= keys.VERSIONS.items()
    return stages_are and made["hypotheses_sha256"] == hypotheses.digest()
