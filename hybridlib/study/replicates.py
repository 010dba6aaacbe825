"""A replicate in compact form: all that tables are made of, in one small file.

replicates/<seed>.zip holds a parquet file a frame, and replicate.json: the configuration, the
learning rates, the versions of the stages, the keys of the runs and on what they were computed.
Replicates of several machines are put together by `merge`; the study takes those for done.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from hybridlib.config import RunConfig, StudyConfig
from hybridlib.evaluation import hacks
from hybridlib.evaluation.comparison import WEIGHED
from hybridlib.evaluation.metrics import measured, places
from hybridlib.evaluation.tables import ASKED_FOR, COST
from hybridlib.store import replace
from hybridlib.store.errors import OneLineError
from hybridlib.store.lock import only_here
from hybridlib.store.paths import committed, local
from hybridlib.store.run_store import read_manifest
from hybridlib.study import keys, stages
from hybridlib.training.cost import OPERATIONS
from hybridlib.variants import arm_name, chain

Frames = dict[str, pd.DataFrame]
Unit = tuple[str, str, int]  # (variant, reward, seed)
ARM = ["variant", "reward", "seed"]
#: Responses asked for in another way: what names the way, and what is measured in each.
BESIDES = {"prefill": ("start", ("harm_rate",)), "usage": ("form", ASKED_FOR)}
#: Parameters that two replicates need not have in common; the rates that are used are compared.
OWN = {"preset", "fresh_bases", "learning_rates"} | set(StudyConfig.model_fields)
OWN -= {"variants", "rewards"}
#: Of responses to public requests no word is kept, only how they were judged.
JUDGED = ["variant", "reward", "seed", "no_answer", "judged_refusal"]
META = "replicate.json"
VERSION = 1  # of the frames; raised by hand
#: What reading the file of a replicate may raise, where it is none or is damaged.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile,
              zlib.error)  # fmt: skip
WORDS = {"configuration": "", "learning_rates": "the learning rate of ",
         "stages": "the version of stage "}  # fmt: skip


class ReplicateError(OneLineError, ValueError):
    """A file of a replicate cannot be used: one line that says why."""


def gathered(config: RunConfig, seed: int) -> Frames:
    """The frames of a replicate, from its folders in the run store, which are made if they are not
    there."""
    units = [(variant, reward, seed) for variant, reward in config.arms]
    runs = {unit: stages.evaluate(config, *unit) for unit in units}
    gate = pd.read_csv(stages.base(config, seed) / "gate.csv").assign(seed=seed)
    recipe = {"seed": seed, "competent": bool(gate.passes.all())} | keys.recipe(config, seed)
    named = [(run.name, *unit, "evaluate") for unit, run in runs.items()]
    responses = _read(runs, "responses.parquet")
    found = {
        "values": measured(responses),
        "training": _read(runs, "training.csv"),
        "snapshots": _read(runs, "snapshots.csv"),
        "cost": costs(config, units),
        "gate": gate,
        "recipes": pd.DataFrame([recipe]),
        "reward_models": _reward_models(config, seed),
        "runs": pd.DataFrame(named, columns=["run", *ARM, "stage"]),
        "requests": responses[responses.task.eq("requests")].reindex(columns=JUDGED),
        "hacks": hacks.shares(responses),
        "transcripts": hacks.transcripts(responses),
        "places": places(responses),
    }
    if len(at_budget := _read(runs, "at_budget.parquet")):
        values = measured(at_budget, 1, {metric for metric, *_ in WEIGHED})
        found["at_budget"] = values.assign(flops=config.train.flops_budget)
    for stage, make in stages.measurements(config).items():
        if stage in BESIDES:
            asked = _read({unit: make(config, *unit) for unit in units}, "responses.parquet")
            by, metrics = BESIDES[stage]
            found[stage] = pd.concat(
                measured(rows, 1, metrics).assign(**{by: way})
                for way, rows in asked.groupby(by, sort=False)
            )
    return {name: f.reset_index(drop=True) for name, f in found.items() if len(f)}


def costs(config: RunConfig, units: Iterable[Unit]) -> pd.DataFrame:
    """What each of these units took, phase by phase from the base; flops are counted."""
    rows = []
    for variant, reward, seed in units:
        for phase in chain(variant, reward):
            spec = keys.train(config, *phase, seed)
            cost = json.loads((stages.folder_of(spec) / "cost.json").read_text(encoding="utf-8"))
            row = {"variant": variant, "reward": reward, "seed": seed}
            row |= {"phase": spec.variant.method, "optimiser_steps": cost["optimiser_steps"]}
            row |= {name: cost.get(name, 0) for name in OPERATIONS}
            row |= {"flops": stages.operations(spec)}
            rows.append(row | {name: cost[name] for name in ("seconds", "peak_memory_mib")})
    return pd.DataFrame(rows, columns=COST)


def _reward_models(config: RunConfig, seed: int) -> pd.DataFrame:
    """What the reward model of a replicate says of itself, where one is used."""
    if not any(reward == "model" for _, reward in config.arms):
        return pd.DataFrame()
    path = stages.folder_of(keys.reward_model(config, seed)) / "reward_model.json"
    return pd.DataFrame([{"seed": seed} | json.loads(path.read_text(encoding="utf-8"))])


def _read(runs: Mapping[Unit, Path], name: str) -> pd.DataFrame:
    """The rows of all folders that have such a file, with the columns of ARM."""
    read = pd.read_parquet if name.endswith(".parquet") else pd.read_csv
    there = {unit: folder / name for unit, folder in runs.items() if (folder / name).exists()}
    found = [read(path).assign(**dict(zip(ARM, unit))) for unit, path in there.items()]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


# --- as files -----------------------------------------------------------------------------------


class _Meta(BaseModel):
    """replicate.json."""

    seed: int
    configuration: dict[str, Any]
    learning_rates: dict[str, Any]
    stages: dict[str, Any]
    runs: dict[str, str]
    environments: list[dict[str, str]]
    frames: list[str]


def described(config: RunConfig) -> dict[str, dict[str, Any]]:
    """What two replicates must have in common to be put together, as JSON reads it."""
    flat = {name: value for name, value in config.flat().items() if name not in OWN}
    trained = {phase for arm in config.arms for phase in chain(*arm)}
    rates = {arm_name(*phase): config.learning_rate(*phase) for phase in sorted(trained)}
    if any(reward == "model" for _, reward in trained):
        rates["reward_model"] = config.learning_rate("reward_model")
    versions = keys.VERSIONS | {"replicate": VERSION}
    found = {"configuration": flat, "learning_rates": rates, "stages": versions}
    return json.loads(json.dumps(found))


def write(config: RunConfig, seed: int, path: Path) -> None:
    """Write the file of a replicate, if the one there is not of the same runs. Its bytes depend on
    the run store alone."""
    runs = {arm_name(*arm): stages.stage_key(config, "evaluate", *arm, seed) for arm in config.arms}
    told = described(config) | {"seed": seed, "runs": runs}
    if (there := _meta(path)) and told.items() <= there.model_dump().items():
        return
    frames, machines = gathered(config, seed), []
    for arm in config.arms:
        machine = read_manifest(stages.evaluate(config, *arm, seed))["environment"]
        machines += [] if machine in machines else [machine]
    meta = _Meta(**told, environments=machines, frames=sorted(frames))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:  # the files in it have no time
        file.writestr(zipfile.ZipInfo(META), meta.model_dump_json(indent=1) + "\n")
        for name, frame in sorted(frames.items()):
            made = io.BytesIO()
            frame.to_parquet(made, index=False)
            file.writestr(zipfile.ZipInfo(f"{name}.parquet"), made.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace.write(path, content.getvalue())


def read(paths: Iterable[Path]) -> Frames:
    """The frames of these replicates, put together by name. Raises ReplicateError."""
    found: dict[str, list[pd.DataFrame]] = {}
    for path in paths:
        try:
            with zipfile.ZipFile(path) as file:
                for name in sorted(set(file.namelist()) - {META}):
                    frame = pd.read_parquet(io.BytesIO(file.read(name)))
                    found.setdefault(name.removesuffix(".parquet"), []).append(frame)
        except UNREADABLE as error:
            raise ReplicateError(f"{path}: not the file of a replicate ({error})") from None
    return {name: pd.concat(frames, ignore_index=True) for name, frames in found.items()}


def _meta(path: Path) -> _Meta | None:
    """replicate.json of a file that is whole; None if it is not one of a replicate."""
    try:
        with zipfile.ZipFile(path) as file:
            meta = _Meta.model_validate_json(file.read(META))
            names = {META, *(f"{name}.parquet" for name in meta.frames)}
            if file.testzip() is None and names == set(file.namelist()):
                return meta
    except UNREADABLE:
        pass
    return None


def differences(config: RunConfig, path: Path) -> list[str]:
    """What keeps the replicate of a file from being one of this study, in words."""
    if not (meta := _meta(path)):
        return ["it is not the file of a replicate"]
    found = []
    for part, ours in described(config).items():
        theirs = getattr(meta, part)
        for name in sorted(ours.keys() | theirs.keys()):
            there, here = (of.get(name, "not there") for of in (theirs, ours))
            if there != here:
                found.append(f"{WORDS[part]}{name} is {there}, and {here} here")
    return found


def merged(config: RunConfig) -> dict[int, Path]:
    """Seed -> file of the replicates that `merge` has brought and that are still of this study."""
    files = {path: path.stem for path in (local(config.preset) / "merged").glob("*.zip")}
    found = {int(stem): path for path, stem in files.items() if stem.isdecimal()}
    return {
        seed: path
        for seed, path in sorted(found.items())
        if seed in config.seeds and not differences(config, path)
    }


def merge(config: RunConfig, places: Iterable[Path]) -> list[int]:
    """Bring the replicates of other machines into this study, so that it need not run them.

    Parameters
    ----------
    places : files of replicates, or folders that hold some, at any depth; by default those that are
        committed.

    Returns their seeds. Raises ReplicateError, and brings none, if one of them is of another
    configuration or code version, is damaged, or comes twice with other content.
    """
    found: dict[int, bytes] = {}
    for place in places or [committed(config.preset) / "replicates"]:
        files = [place] if place.is_file() else sorted(place.rglob("*.zip"))
        if not files:
            raise ReplicateError(f"{place}: no replicate is there")
        for path in files:
            if why := differences(config, path):
                more = f" ({len(why)} things differ)" if len(why) > 1 else ""
                raise ReplicateError(f"{path}: {why[0]}{more}")
            seed, content = _meta(path).seed, path.read_bytes()
            if found.setdefault(seed, content) != content:
                raise ReplicateError(f"{path}: replicate {seed} comes twice, with other content")
    with only_here(local(config.preset)):
        folder = local(config.preset) / "merged"
        folder.mkdir(parents=True, exist_ok=True)
        for seed, content in found.items():
            replace.write(folder / f"{seed}.zip", content)
    return sorted(found)
