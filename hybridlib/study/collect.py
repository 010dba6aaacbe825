"""What a study's tables are made of: gathered from its folders in the run store."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from hybridlib.config import LEARNING_RATES, RESPONSE_CURVES, RunConfig
from hybridlib.evaluation import comparison, hypotheses, tables
from hybridlib.figures import results
from hybridlib.figures.results import ResultsError
from hybridlib.store import replace
from hybridlib.study import keys, replicates, stages
from hybridlib.tasks import language
from hybridlib.tasks.public import agreement, judges, requests
from hybridlib.training import health
from hybridlib.variants import arm_name, chain


def warnings(config: RunConfig, seeds: Iterable[int]) -> pd.DataFrame:
    """What the logs of these replicates warn of: variant, reward, seed, name, step, says."""
    trained = dict.fromkeys(stage for arm in config.arms for stage in chain(*arm))
    rows = [
        {"variant": variant, "reward": reward, "seed": seed, **warning}
        for variant, reward in trained
        for seed in seeds
        for warning in health.read(stages.train(config, variant, reward, seed))
    ]
    return pd.DataFrame(rows, columns=["variant", "reward", "seed", "name", "step", "says"])


def write_tables(config: RunConfig, folder: Path) -> None:
    """Every table of the study, from its replicates: those that were merged, and those of the
    store, whose files are written to replicates/ beside the tables. Says what the runs' logs warn
    of."""
    there = replicates.merged(config)
    own = [seed for seed in config.seeds if seed not in there]
    for warned in warnings(config, own).itertuples():
        arm = f"{arm_name(warned.variant, warned.reward)} seed {warned.seed}"
        print(f"{arm}: warning {warned.name}: {warned.says}")
    place = folder.parent / "replicates"
    place.mkdir(parents=True, exist_ok=True)
    for path in place.glob("*.zip"):  # of an earlier study
        if path.stem not in map(str, config.seeds):
            path.unlink()
    for seed in config.seeds:
        path = place / f"{seed}.zip"
        if seed in there:
            replace.write(path, there[seed].read_bytes())
        else:
            replicates.write(config, seed, path)
    frames = replicates.read(place / f"{seed}.zip" for seed in config.seeds)
    grid = (_grid(config, path) for path in (LEARNING_RATES, RESPONSE_CURVES))
    tables.write_tables(folder, config.preset, frames, *grid, config.base.drawn)
    if config.public.requests or config.public.problems:
        _write_errors_of_measuring(config, frames.get("requests", pd.DataFrame()), folder)
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
        found = agreement.of_judges(config.public.judges, responses)
        tables.write(found, folder / "judges.csv")


def assets_used(config: RunConfig) -> list[str]:
    """Names of the assets that a study rests on."""
    public, found = config.public, [config.base.model] if config.base.pretrained else []
    found += [*public.requests, *public.problems]
    if public.requests:
        found += ["human_refusals", *judges.assets_of(public.judges)]
    return found


def _grid(config: RunConfig, path: Path) -> pd.DataFrame:
    """The grid of learning rates, or what its runs do, as far as it is about what the study trains:
    it was run on the organism, so of a pretrained model it says nothing."""
    grid, trained = pd.read_csv(path), {p for arm in config.arms for p in chain(*arm)}
    trained |= {("base", "none")}
    if any(reward == "model" for _, reward in trained):
        trained.add(("reward_model", "none"))
    if config.base.pretrained:
        return grid[:0]
    return grid.loc[[arm in trained for arm in zip(grid.variant, grid.reward)]]


def artifacts(config: RunConfig) -> dict[str, Path]:
    """What is committed besides tables and figures, if anything: the base of each replicate, as it
    is restored from there, adapters and responses of the first."""
    if not config.study.commit_weights:
        return {}
    found, (seed, *_) = {}, config.seeds
    for spec in (keys.base(config, seed) for seed in config.seeds):
        place, folder = f"bases/{keys.committed_base(spec).name}", stages.folder_of(spec)
        found |= {f"{place}/{part}": folder / part for part in ("model", "loss.csv", "gate.csv")}
    for variant, reward in config.arms:
        name = arm_name(variant, reward).replace("/", "-")
        found[f"responses/{name}"] = stages.evaluate(config, variant, reward, seed)
        if variant != "base":
            found[f"adapters/{name}"] = stages.train(config, variant, reward, seed) / "model"
    return found


class _Code(BaseModel):
    stages: dict[str, int]


class _Run(BaseModel):
    variant: str


class _Table(BaseModel):
    sha256: str


class _Manifest(BaseModel):
    """What is read of the manifest of committed results."""

    code: _Code
    hypotheses_sha256: str
    runs: dict[str, _Run]
    tables: dict[str, _Table]


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
