"""Committed results: hold a rerun against them, or replace them.

results/<preset>/  tables/*.csv  figures/*.{svg,png}  notebooks/*.{ipynb,html}  artifacts/
                   manifest.json: figure -> tables -> runs -> configuration, code, environment
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from hybridlib.store.environment import environment
from hybridlib.store.errors import OneLineError
from hybridlib.store.paths import PROJECT, committed, local
from hybridlib.store.run_store import sha256
from hybridlib.study import grid
from hybridlib.study import notebook as nb
from hybridlib.study.collect import is_present
from hybridlib.study.jobs import run

LIMIT = 50_000_000  # bytes of committed results a preset
OUTSIDE = 0.05  # share of rows that may lie outside before a rerun counts as different
MEASURED = {"estimate", "low", "high", "seeds", "responses", "margin", "verdict"}


class PublishError(OneLineError, RuntimeError):
    """Results are missing or not fit to be committed. One line."""


def compare(preset: str, *, report: Callable[[str], object] = print) -> int:
    """Hold the local results of a preset against the committed ones.

    A row of metrics.csv agrees if the two intervals overlap: a rerun has noise of its own, so an
    estimate of the same thing lies outside the other's 95% interval about one time in six.

    Returns
    -------
    0 if they agree, 1 if a verdict changed or more than 5% of the rows do not overlap.
    """
    before, after = committed(preset) / "tables", local(preset) / "tables"
    rows = _side_by_side(before / "metrics.csv", after / "metrics.csv")
    both_absent = rows.estimate.isna() & rows.estimate_rerun.isna() & (rows._merge == "both")
    overlap = (rows.low <= rows.high_rerun) & (rows.low_rerun <= rows.high)
    rows["outside"] = ~(overlap | both_absent)
    width = (rows.high - rows.low + rows.high_rerun - rows.low_rerun).clip(lower=1e-6)
    rows["distance"] = ((rows.estimate - rows.estimate_rerun).abs() / width).fillna(float("inf"))
    share = rows.outside.mean()
    report(f"{len(rows)} rows of metrics.csv: {share:.1%} outside (at most {OUTSIDE:.0%} may be)")
    for _, row in rows[rows.outside].nlargest(10, "distance").iterrows():
        name = " ".join(str(row[column]) for column in rows.attrs["ids"])
        report(f"  {name}: {_interval(row, '')} committed, {_interval(row, '_rerun')} now")

    verdicts = _side_by_side(before / "verdicts.csv", after / "verdicts.csv")
    changed = verdicts[verdicts.verdict != verdicts.verdict_rerun]
    report(f"{len(verdicts)} verdicts: {len(changed)} changed")
    for _, row in changed.iterrows():
        name = " ".join(str(row[column]) for column in verdicts.attrs["ids"])
        report(f"  {name}: {row.verdict} committed, {row.verdict_rerun} now")
    return int(share > OUTSIDE or len(changed) > 0)


def publish(preset: str, *, report: Callable[[str], object] = print) -> Path:
    """Replace the committed results of a preset by the local ones; all or nothing.

    Where tables alone are local (`make sensitivity` and `make sweep` go by a committed study), they
    are added to the committed results and the figures drawn again from all of them.

    Raises
    ------
    PublishError : the local results are incomplete, failed, outdated or too large.
    """
    source, target = local(preset), committed(preset)
    tables = {path.stem for path in (source / "tables").glob("*.csv")}
    if (source / "config.yaml").exists():
        fill = _study
    elif tables and "runs" not in tables and target.is_dir():
        fill = _added
    else:
        raise PublishError(f"no local results of {preset}: run `make study PRESET={preset}` first")
    return _replace(target, lambda draft: fill(draft, source, target), report)


def redraw(preset: str, *, report: Callable[[str], object] = print) -> Path:
    """Draw the figures of committed tables again, and execute the notebooks that show them.

    Raises
    ------
    PublishError : there are no committed results.
    """
    target = committed(preset)
    if not (target / "manifest.json").exists():
        raise PublishError(f"there are no committed results of {preset}")
    return _replace(target, lambda draft: _drawn(draft, target, report), report)


def _replace(
    target: Path, fill: Callable[[Path], dict[str, Any]], report: Callable[[str], object]
) -> Path:
    """Put what `fill` writes into a draft, with the manifest that it returns, in target's place."""
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        text = json.dumps(fill(draft), indent=1, ensure_ascii=False)
        (draft / "manifest.json").write_text(text + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
        if size > LIMIT:
            raise PublishError(f"{size / 1e6:.1f} MB is over the {LIMIT / 1e6:.0f} MB of a preset")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    report(f"{target.relative_to(PROJECT)}: {size / 1e6:.1f} MB")
    return target


def _study(draft: Path, source: Path, target: Path) -> dict[str, Any]:
    """Fill the draft with a whole study; return its manifest."""
    from hybridlib.config import load_config
    from hybridlib.study import collect

    config = load_config(str(source / "config.yaml"))
    jobs = grid.plan(config)
    for job in jobs:
        if job.notebook and job.key and not job.unchanged():
            again = f"run `make study PRESET={config.preset}`"
            raise PublishError(f"{job.name} is not up to date: {again}")
    for part, kinds in (("tables", ("csv",)), ("figures", ("svg", "png"))):
        (draft / part).mkdir(parents=True)
        for kind in kinds:
            for path in sorted((source / part).glob(f"*.{kind}")):
                shutil.copyfile(path, draft / part / path.name)
    for path in _notebooks(jobs, source):
        _write_notebook(path, draft / "notebooks")
    for name, folder in collect.artifacts(config, config.seeds[0]).items():
        shutil.copytree(folder, draft / "artifacts" / name)
    for path in (draft / "artifacts").rglob("adapter_config.json"):
        _name_base(path, target / "artifacts" / "base")
    for path in (draft / "artifacts").rglob("*"):
        if path.suffix in (".json", ".md"):
            path.write_text(_without_places(path.read_text(encoding="utf-8")), encoding="utf-8")
        elif path.suffix == ".safetensors":
            _halve(path)
    return manifest(config, draft)


def _added(draft: Path, source: Path, target: Path) -> dict[str, Any]:
    """Fill the draft with the committed results and the local tables; return the manifest, in
    which an added table names the commit that made it."""
    if not is_present(target):
        again = f"run `make study PRESET={target.name}` and publish that"
        raise PublishError(f"results/{target.name} is of other stages or hypotheses: {again}")
    return _drawn(draft, target, added=sorted((source / "tables").glob("*.csv")))


def _drawn(
    draft: Path,
    target: Path,
    report: Callable[[str], object] = lambda line: None,
    added: Sequence[Path] = (),
) -> dict[str, Any]:
    """Fill the draft with the committed results and tables added to them, the figures and their
    notebooks new; return the manifest."""
    shutil.copytree(target, draft)
    made = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    runs = _read(draft / "tables" / "runs.csv")
    for path in added:
        shutil.copyfile(path, draft / "tables" / path.name)
        named = {"sha256": sha256(path), "runs": _runs_of(_read(path), runs)}
        made["tables"][path.stem] = named | {"commit": _commit()}
    shutil.rmtree(draft / "figures")
    variants = {run["variant"] for run in made["runs"].values()}
    with tempfile.TemporaryDirectory() as notebooks:
        jobs = grid.figures(target.name, variants, draft, Path(notebooks))
        run(jobs, report=report)
        for job in jobs:
            _write_notebook(job.output, draft / "notebooks", {draft.name: target.name})
    return made | {"figures": _figures(draft)}


def manifest(config: Any, folder: Path) -> dict[str, Any]:
    """Return which runs, configuration, code and environment every table and figure rests on."""
    from hybridlib.evaluation import hypotheses
    from hybridlib.store import assets
    from hybridlib.study.collect import assets_used
    from hybridlib.study.keys import VERSIONS

    runs = _read(folder / "tables" / "runs.csv")
    tables = {}
    for path in sorted((folder / "tables").glob("*.csv")):
        tables[path.stem] = {"sha256": sha256(path), "runs": _runs_of(_read(path), runs)}
    return {
        "preset": config.preset,
        "configuration": config.flat(),
        "figures": _figures(folder),
        "tables": tables,
        "runs": {row.pop("run"): row for row in runs.to_dict("records")},
        "code": {"commit": _commit(), "stages": dict(VERSIONS)},
        "assets": assets.provenance(assets_used(config)),
        "environment": environment(),
        "hypotheses_sha256": hypotheses.digest(),
    }


def _notebooks(jobs: list, source: Path) -> list[Path]:
    """Return the executed notebooks that are committed: of the trainings those of the first seed,
    of the evaluations the first."""
    seeds = [job.parameters["seed"] for job in jobs if "seed" in job.parameters]
    kept = [source / "notebooks" / "00_study.ipynb"]
    evaluated = False
    for job in jobs:
        if not job.notebook or job.parameters.get("seed", seeds[0]) != seeds[0]:
            continue
        if job.notebook.stem == "03_evaluate":
            if evaluated:
                continue
            evaluated = True
        kept.append(job.output)
    for path in kept:
        if not path.exists() or nb.error_in(path):
            raise PublishError(f"{path.name} is missing or failed: run the study again")
    return kept


def _write_notebook(path: Path, folder: Path, places: Mapping[str, str] = {}) -> None:
    """Write an executed notebook, cleaned, as ipynb and HTML."""
    from hybridlib.publish import render

    folder.mkdir(parents=True, exist_ok=True)
    node = nb.cleaned(nbformat.read(path, as_version=4), _places() | places)
    nbformat.write(node, folder / path.name)
    (folder / path.name).with_suffix(".html").write_text(render.html(node), encoding="utf-8")


def _halve(path: Path) -> None:
    """Keep weights in half precision: enough to sample from, and half the size."""
    from safetensors.numpy import load_file, save_file

    tensors = {name: value.astype("float16") for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _places() -> dict[str, str]:
    """Return what is written in the place of each path of this machine."""
    return {
        f"{PROJECT}/": "",
        str(PROJECT): ".",
        sys.base_prefix: "python",
        str(Path.home()): "~",
    }


def _name_base(adapter: Path, base: Path) -> None:
    """Let an adapter name the committed base, not the folder of the store that it was trained on,
    which may lie anywhere and be gone."""
    trained_on = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    for path in (adapter, adapter.with_name("README.md")):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            named = base.relative_to(PROJECT).as_posix()
            path.write_text(text.replace(trained_on, named), encoding="utf-8")


def _without_places(text: str) -> str:
    for place in sorted(_places(), key=len, reverse=True):
        text = text.replace(place, _places()[place])
    return text


def _figures(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return the tables of each figure of a results folder."""
    drawn = sorted((folder / "figures").glob("*.svg"))
    return {path.stem: {"tables": _tables_of(path.stem, folder)} for path in drawn}


def _runs_of(table: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Return the keys of the runs that a table's rows name, or of all where it names none."""
    by = [column for column in ("variant", "reward", "seed") if column in table and column in runs]
    if by:
        runs = runs.merge(table[by].drop_duplicates(), on=by)
    return sorted(set(runs.run))


def _tables_of(figure: str, folder: Path) -> list[str]:
    """Return the tables that a figure's function reads, found by letting it draw."""
    from hybridlib.figures import plots, results

    read = set()

    class Watched(results.Results):
        def table(self, name: str) -> pd.DataFrame:
            read.add(name)
            return super().table(name)

    if not hasattr(plots, figure):
        raise PublishError(f"figures/{figure}.svg is of older code: remove it and publish again")
    getattr(plots, figure)(Watched(folder))
    return sorted(read)


def _commit() -> str:
    """Return the git commit of the code, with -changed where files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(PROJECT), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--verify", "--quiet", "HEAD") or "none"
    code = ("hybridlib", "notebooks", "requirements.lock")
    return commit + ("-changed" if git("status", "--porcelain", "--", *code) else "")


def _side_by_side(before: Path, after: Path) -> pd.DataFrame:
    """Join two versions of a table on all that is not measured; the second's end in _rerun."""
    for path in (before, after):
        if not path.exists():
            raise PublishError(f"there is no {path.relative_to(PROJECT)} to compare")
    left, right = _read(before), _read(after)
    ids = [column for column in left if column not in MEASURED]
    for frame in (left, right):
        frame["nth"] = frame.groupby(ids, dropna=False).cumcount()
    joined = left.merge(right, "outer", [*ids, "nth"], suffixes=("", "_rerun"), indicator=True)
    joined.attrs["ids"] = ids
    return joined


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])


def _interval(row: Mapping[str, float], suffix: str) -> str:
    low, high = row[f"low{suffix}"], row[f"high{suffix}"]
    return f"{row[f'estimate{suffix}']:.3g} [{low:.3g}, {high:.3g}]"
