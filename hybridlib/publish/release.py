"""Committed results: compare a rerun with them, or replace them.

results/<preset>/  tables/*.csv, those in WIDE as *.csv.gz  figures/*.png  notebooks/*.ipynb
                   replicates/*.zip  artifacts/  manifest.json: figure -> tables -> runs ->
                   configuration, code, environment; its sha256 of a table is that of the CSV,
                   compressed or not
"""

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from hybridlib import config as configuration
from hybridlib.evaluation import hypotheses
from hybridlib.figures import registry
from hybridlib.figures.results import Results, ResultsError
from hybridlib.publish import docs, model_card
from hybridlib.store import assets, replace
from hybridlib.store.environment import environment
from hybridlib.store.errors import OneLineError, nearest
from hybridlib.store.lock import only_here
from hybridlib.store.paths import PROJECT, committed, local
from hybridlib.study import collect, grid
from hybridlib.study import notebook as nb
from hybridlib.study.jobs import run
from hybridlib.study.keys import VERSIONS

LIMIT = 20_000_000  # bytes of committed results a preset
WIDE = ("classes", "contrasts", "metrics", "training")  # tables that no person reads in git
OUTSIDE = 0.05  # share of rows that may be outside before a rerun counts as different
MEASURED = {"arm", "estimate", "low", "high", "predicted_low", "predicted_high", "replicates",
            "responses", "margin", "share_on_side", "verdict", "fragile"}  # fmt: skip
ADDED = {"sweep"}  # tables of later commands, which use a committed study
RERUN = "run `make study PRESET={0}`"


class PublishError(OneLineError, RuntimeError):
    """Results are missing or not fit to be committed. One line."""


def compare(preset: str, *, report: Callable[[str], object] = print) -> int:
    """Compare the local results of a preset with the committed ones, row by row.

    A row of metrics.csv agrees if the two intervals overlap: a rerun has noise of its own, so an
    estimate of the same quantity is outside the other's 95% interval about one time in six. Rows
    that only one side has are counted and not judged.

    Returns 0 if they agree, 1 if a verdict changed or more than 5% of the rows do not overlap.
    Raises PublishError if a table is missing on either side.
    """
    replace.recover(committed(preset))
    rows = _side_by_side(preset, "metrics", report)
    both_absent = rows.estimate.isna() & rows.estimate_rerun.isna()
    overlap = (rows.low <= rows.high_rerun) & (rows.low_rerun <= rows.high)
    rows["outside"] = ~(overlap | both_absent)
    width = (rows.high - rows.low + rows.high_rerun - rows.low_rerun).clip(lower=1e-6)
    rows["distance"] = ((rows.estimate - rows.estimate_rerun).abs() / width).fillna(float("inf"))
    share = rows.outside.mean()
    report(f"{len(rows)} rows of metrics: {share:.1%} outside (at most {OUTSIDE:.0%} may be)")
    for _, row in rows[rows.outside].nlargest(10, "distance").iterrows():
        report(f"  {row['name']}: {_interval(row, '')} committed, {_interval(row, '_rerun')} now")

    verdicts = _side_by_side(preset, "verdicts", report)
    changed = verdicts[verdicts.verdict != verdicts.verdict_rerun]
    report(f"{len(verdicts)} verdicts: {len(changed)} changed")
    for _, row in changed.iterrows():
        report(f"  {row['name']}: {row.verdict} committed, {row.verdict_rerun} now")
    agree = share <= OUTSIDE and changed.empty
    report(
        "Your run reproduces the committed results, up to the chance between two runs."
        if agree
        else "Your run does not reproduce the committed results. If no parameter was changed, the "
        "likely reason is that your machine rounds differently."
    )
    return int(not agree)


def publish(preset: str, *, report: Callable[[str], object] = print) -> Path:
    """Replace the committed results of a preset by the local ones, and what docs/ take from them;
    all or nothing.

    Where only tables of ADDED are local, they are added to the committed results and all figures
    are redrawn. Raises PublishError if the local results are incomplete, failed, outdated, too
    large, or of other parameters than the preset's.
    """
    source, target = local(preset), committed(preset)
    if preset not in (known := configuration.presets()):
        raise PublishError(f"{preset!r} is no committed preset{nearest(preset, known)}")
    if not source.is_dir():
        raise PublishError(f"no local results of {preset}: {RERUN.format(preset)} first")
    tables = sorted((source / "tables").glob("*.csv"))
    with only_here(source):
        if not {path.stem for path in tables} - ADDED and tables:
            return _replace(target, lambda draft: _drawn(draft, target, report, tables), report)
        return _replace(target, lambda draft: _study(draft, source, preset), report)


def redraw(preset: str, *, report: Callable[[str], object] = print) -> Path:
    """Redraw the figures of committed tables, execute the notebooks that show them and write what
    docs/ take from them; all or nothing.

    Raises PublishError if there are no committed results, or not those of their manifest.
    """
    target = committed(preset)
    replace.recover(target)
    if not (target / "manifest.json").exists():
        raise PublishError(f"there are no committed results of {preset}")
    with only_here(local(preset)):
        return _replace(target, lambda draft: _drawn(draft, target, report), report)


def _replace(
    target: Path, fill: Callable[[Path], dict[str, Any]], report: Callable[[str], object]
) -> Path:
    """Replace `target` by what `fill` writes into a draft and the manifest that it returns."""
    name, pages = f"results/{target.name}", PROJECT / "docs"
    try:
        with replace.drafted(target) as draft:
            text = json.dumps(fill(draft), indent=1, ensure_ascii=False)
            (draft / "manifest.json").write_text(text + "\n", encoding="utf-8")
            compress(draft)
            size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
            if size > LIMIT:
                raise PublishError(
                    f"{size / 1e6:.1f} MB is over the {LIMIT / 1e6:.0f} MB of a preset"
                )
            with docs.kept(pages), replace.placed(target):
                docs.write(pages)
    except OSError as error:
        raise PublishError(f"{name} is as it was: {nb.one_line(str(error))}") from error
    report(f"{name}: {size / 1e6:.1f} MB")
    return target


def _study(draft: Path, source: Path, preset: str) -> dict[str, Any]:
    """Fill the draft with a whole study, run under the parameters of a preset; return its manifest.

    Raises PublishError as `publish` does.
    """
    config, driver = configuration.load_config(preset), source / "notebooks" / "00_study.ipynb"
    again = RERUN.format(preset)
    if not driver.exists():
        raise PublishError(f"no local results of {preset}: {again} first")
    usual, given = config.flat(), {"preset": preset} | _parameters(driver)
    for name, value in configuration.load_config(**given).flat().items():
        if value != usual[name]:
            raise PublishError(f"{name} = {value!r}, and {usual[name]!r} in the preset: {again}")
    jobs = grid.plan(config)
    for job in jobs:
        if job.notebook and job.key and not job.unchanged():
            raise PublishError(f"{job.name} is not up to date: {again}")
    for part, kind in (("tables", "csv"), ("figures", "png"), ("replicates", "zip")):
        (draft / part).mkdir(parents=True)
        for path in (source / part).glob(f"*.{kind}"):
            shutil.copyfile(path, draft / part / path.name)
    _check_tables(config, draft / "tables")
    artifacts = collect.artifacts(config)
    for path in _notebooks(jobs, source, of_runs=bool(artifacts)):
        _write_notebook(path, draft / "notebooks")
    _copy(artifacts, draft / "artifacts", committed(preset) / "artifacts")
    model_card.write(Results(draft))
    return manifest(config, draft)


def _parameters(driver: Path) -> dict[str, Any]:
    """What an executed study was asked for. Raises PublishError where it does not tell."""
    try:
        asked = json.loads(driver.read_text(encoding="utf-8"))["metadata"]["papermill"]
        asked = asked.get("parameters", {})
        return {name: value for name, value in asked.items() if name != "dry_run"}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PublishError(f"{driver.name} was not executed by `make study`") from None


def _check_tables(config: Any, folder: Path) -> None:
    """Raises PublishError unless these are the tables that the present code makes of the runs."""
    with tempfile.TemporaryDirectory() as place, redirect_stdout(io.StringIO()):
        collect.write_tables(config, Path(place, "tables"))
        made = {path.stem: path.read_bytes() for path in Path(place, "tables").glob("*.csv")}
    found = {path.stem: path.read_bytes() for path in folder.glob("*.csv")}
    for name in sorted(made.keys() | (found.keys() - ADDED if made else set())):
        if found.get(name) != made.get(name):
            wrong = "missing" if name not in found else "not what the runs of the study give"
            raise PublishError(f"tables/{name}.csv is {wrong}: {RERUN.format(config.preset)}")


def _drawn(
    draft: Path, target: Path, report: Callable[[str], object], added: Sequence[Path] = ()
) -> dict[str, Any]:
    """Fill the draft with the committed results and tables added to them, redraw the figures and
    execute their notebooks; return the manifest, in which an added table names its commit.

    Raises PublishError as `redraw` does, and if the tables to add are of other stages.
    """
    made = _verified(target)
    if added and not collect.is_present(target):
        again = f"{RERUN.format(target.name)} and publish that"
        raise PublishError(f"results/{target.name} is of other stages or hypotheses: {again}")
    shutil.copytree(target, draft, ignore=shutil.ignore_patterns("*.html"))
    for path in added:
        shutil.copyfile(path, draft / "tables" / path.name)
        made["tables"][path.stem] = _table(draft, path) | {"commit": _commit()}
        if _runs(draft, path.stem).run.isna().any():
            lacks = f"results/{target.name} does not hold"
            raise PublishError(f"tables/{path.name} names runs that {lacks}")
    shutil.rmtree(draft / "figures", ignore_errors=True)
    variants = {run["variant"] for run in made["runs"].values()}
    with tempfile.TemporaryDirectory() as notebooks:
        jobs = grid.figures(target.name, variants, draft, Path(notebooks))
        run(jobs, report=report)
        for job in jobs:
            _write_notebook(job.output, draft / "notebooks", {draft.name: target.name})
    return made | {"figures": _figures(draft)}


def _verified(target: Path) -> dict[str, Any]:
    """The manifest of committed results.

    Raises PublishError if there is none, or if the tables beside it are not those that it names;
    ResultsError for a file that cannot be read.
    """
    if not (target / "manifest.json").exists():
        raise PublishError(f"there are no committed results of {target.name}")
    made = collect.manifest(target)
    named = {name: table["sha256"] for name, table in made["tables"].items()}
    found = {path.name.partition(".")[0]: path for path in (target / "tables").glob("*")}
    for name in sorted(named.keys() | found.keys()):
        if name not in found or named.get(name) != _sha256(found[name]):
            raise PublishError(f"results/{target.name}: table {name} is not that of the manifest")
    return made


def manifest(config: Any, folder: Path) -> dict[str, Any]:
    """Return which runs, configuration, code and environment every table and figure rests on."""
    runs = Results(folder).table("runs").drop(columns="arm")
    tables = sorted((folder / "tables").glob("*.csv"))
    return {
        "preset": config.preset,
        "configuration": config.flat(),
        "figures": _figures(folder),
        "tables": {path.stem: _table(folder, path) for path in tables},
        "runs": {row.pop("run"): row for row in runs.to_dict("records")},
        "code": {"commit": _commit(), "stages": dict(VERSIONS)},
        "assets": assets.provenance(collect.assets_used(config)),
        "environment": environment(),
        "hypotheses_sha256": hypotheses.digest(),
    }


def _table(folder: Path, path: Path) -> dict[str, Any]:
    """The sha256 of a table and the runs that its rows name, or all where they name none."""
    return {"sha256": _sha256(path), "runs": sorted(set(_runs(folder, path.stem).run.dropna()))}


def _runs(folder: Path, name: str) -> pd.DataFrame:
    """The rows of runs.csv that a table names, `run` empty where it names others; else all."""
    table, runs = (Results(folder).table(part) for part in (name, "runs"))
    by = [column for column in ("variant", "reward", "seed") if column in table and column in runs]
    return runs.merge(table[by].drop_duplicates(), "right", by) if by else runs


def _sha256(table: Path) -> str:
    """The sha256 of the CSV of a table, compressed or not. Raises ResultsError."""
    try:
        content = table.read_bytes()
        content = gzip.decompress(content) if table.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ResultsError.of(table, error) from None
    return hashlib.sha256(content).hexdigest()


def compress(folder: Path) -> None:
    """Keep the wide tables of a results folder as gzip: the same CSV gives the same bytes."""
    for path in (folder / "tables" / f"{name}.csv" for name in WIDE):
        if path.exists():
            with (
                path.with_suffix(".csv.gz").open("wb") as file,
                gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped,
            ):
                zipped.write(path.read_bytes())
            path.unlink()


def _notebooks(jobs: list, source: Path, of_runs: bool) -> list[Path]:
    """Return the executed notebooks that are committed. Those of single runs come only with the
    weights of a preset: the trainings of the first seed, and the first evaluation."""
    first = next((job.parameters["seed"] for job in jobs if "seed" in job.parameters), None)
    shown = [job for job in jobs if job.notebook and job.parameters.get("seed", first) == first]
    evaluations = [job for job in shown if job.notebook.stem == "03_evaluate"]
    left_out = evaluations[1:] if of_runs else [j for j in shown if "variant" in j.parameters]
    kept = [source / "notebooks" / "00_study.ipynb"]
    kept += [job.output for job in shown if job not in left_out]
    return kept


def _write_notebook(path: Path, folder: Path, places: Mapping[str, str] = {}) -> None:
    """Write an executed notebook, cleaned. Raises PublishError if it is missing, failed or odd."""
    try:
        failed, node = nb.error_in(path), nb.cleaned(path, _places() | places)
    except Exception:  # a file may hold anything
        failed = True
    if failed:
        raise PublishError(f"{path.name} is missing or failed: run the study again")
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, folder / path.name)


def _places() -> dict[str, str]:
    """Return what is written in the place of each path of this machine."""
    home, python = str(Path.home()), sys.base_prefix
    return {f"{PROJECT}/": "", str(PROJECT): ".", python: "python", home: "~"}


def _copy(artifacts: Mapping[str, Path], draft: Path, there: Path) -> None:
    """Fill the draft with artifacts: weights in half precision, which is enough to sample from, and
    no place of this machine, so that an adapter names the committed base.

    A base that is committed already stays as it is in `there`: the keys of later runs hang on it.
    """
    places = {str(path): f"results/{there.parent.name}/artifacts/{name}"
              for name, path in artifacts.items()}  # fmt: skip
    for name, path in artifacts.items():
        is_kept = name.startswith("bases/") and (there / name).exists()
        path = there / name if is_kept else path
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, draft / name)
        if not is_kept:
            _tidy(draft / name, _places() | places)


def _tidy(artifact: Path, places: Mapping[str, str]) -> None:
    from safetensors.numpy import load_file, save_file

    for path in artifact.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text(encoding="utf-8")
            path.write_text(nb.renamed(text, places), encoding="utf-8")
        elif path.suffix == ".safetensors":
            halves = {name: value.astype("float16") for name, value in load_file(path).items()}
            save_file(halves, path, metadata={"format": "pt"})


def _figures(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return the tables of each figure of a results folder.

    Raises PublishError for a figure that the present code does not draw, or not from these tables.
    """
    known, found, results = registry.figures(), {}, Results(folder)
    for path in sorted((folder / "figures").glob("*.png")):
        if path.stem not in known:
            raise PublishError(f"figures/{path.name} is of older code: remove it and publish again")
        found[path.stem] = {"tables": known[path.stem].read(results)}
        if lost := [name for name in found[path.stem]["tables"] if not results.has(name)]:
            raise PublishError(f"figures/{path.name} shows tables/{lost[0]}.csv, which is missing")
    return found


def _commit() -> str:
    """Return the git commit of the code, with -changed where files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(PROJECT), *words]
        return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip()

    commit = git("rev-parse", "--verify", "--quiet", "HEAD") or "none"
    code = ("hybridlib", "notebooks", "requirements.lock")
    return commit + ("-changed" if git("status", "--porcelain", "--", *code) else "")


def _side_by_side(preset: str, name: str, report: Callable[[str], object]) -> pd.DataFrame:
    """Join the committed and the local version of a table on all that is not measured, as far as
    both have it; local columns end in _rerun. `name` is what a row is about, in words."""
    sides = []
    for place in (committed(preset), local(preset)):
        if not Results(place).has(name):
            where = place.relative_to(PROJECT) / "tables" / f"{name}.csv"
            raise PublishError(f"there is no {where} to compare")
        sides.append(Results(place).table(name))
    ids = [column for column in sides[0] if column in sides[1] and column not in MEASURED]
    sides = [side.assign(nth=side.groupby(ids, dropna=False).cumcount()) for side in sides]
    joined = {"on": [*ids, "nth"], "suffixes": ("", "_rerun"), "indicator": "found"}
    rows = sides[0].merge(sides[1], "outer", **joined)
    for side, told in (("left_only", "committed"), ("right_only", "new")):
        if count := rows.found.eq(side).sum():
            report(f"{count} rows of {name} are only {told}: not judged")
    words = rows[ids].astype(str).agg(" ".join, axis="columns")
    return rows.assign(name=words)[rows.found.eq("both")]


def _interval(row: Mapping[str, float], suffix: str) -> str:
    low, high = row[f"low{suffix}"], row[f"high{suffix}"]
    return f"{row[f'estimate{suffix}']:.3g} [{low:.3g}, {high:.3g}]"
