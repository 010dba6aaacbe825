"""Over which part of what was chosen does a verdict hold? sensitivity.csv of a study.

A point is a study with one parameter changed, of how the base is bred or of how it is trained, so
its runs go through the run store like any other. Where the base of a point fails its gate there is
nothing to train, and that is what is written. What the primary tests compare is trained and no
more, on as many of the study's seeds as a verdict needs: the point where nothing is changed is in
the committed results, or else in the store, already.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hybridlib import hypotheses, jobs, publish, stats, study, tables
from hybridlib.config import PARAMETERS, PARTS, ParameterError, RunConfig, load_config
from hybridlib.errors import OneLineError
from hybridlib.lookup import EFFECT
from hybridlib.measures import Cube

# parameter -> values, the default among them
AXES: dict[str, tuple[Any, ...]] = {
    "genuine_refusal_share": (0.0, 0.1, 0.2),
    "superficial_refusal_share": (0.0, 0.1, 0.2),
    "code_switching_share": (0.0, 0.15, 0.3),
    "minority_share": (0.15, 0.3, 0.45),
    "careless_share": (0.0, 0.5, 0.75),
    "hidden_size": (128, 192, 256),
    "base_seed": (0, 1, 2),
    "thought": (False, True),
    "scope": ("answer", "whole"),
    "weight_language": (0.0, 1.0),
    "labels": (60, 240, 0),
    "narrow_categories": (1, 2, 3, 5),
}
NUMBERS = ["estimate", "low", "high", "margin", "seeds", "verdict"]
COLUMNS = ["parameter", "value", "default", *EFFECT, *NUMBERS, "why"]
NO_BASE = "no base"  # in place of a verdict


class Point(NamedTuple):
    """A study with one parameter changed, or not: its default."""

    parameter: str
    value: Any
    default: bool


def points(names: Iterable[str] = ()) -> list[Point]:
    """Every value of the axes named, or the one value of NAME=VALUE (default: all of all).

    Raises
    ------
    ParameterError : an axis or a value that is none.
    """
    found = []
    for asked in tuple(names) or tuple(AXES):
        name, _, only = asked.partition("=")
        if name not in AXES:
            raise ParameterError(f"axis {name!r} is none of {', '.join(AXES)}")
        values = [value for value in AXES[name] if only in ("", str(value))]
        if not values:
            raise ParameterError(f"{name} {only!r} is none of {', '.join(map(str, AXES[name]))}")
        default = PARTS[PARAMETERS[name]].model_fields[name].default
        found += [Point(name, value, value == default) for value in values]
    return found


def verdicts(
    point: Point,
    responses: pd.DataFrame,
    cost: pd.DataFrame,
    training: pd.DataFrame,
    why: str = "",
) -> pd.DataFrame:
    """The primary tests at a point, by the rule of the study (tables.verdicts).

    why : what could not be trained, if anything; its tests are left out.
    """
    control = tables.control_holds(training)
    primary, _, _ = tables.verdicts(Cube(responses), cost, hypotheses.load(), control)
    why = why if control else "the control fails"
    return primary.assign(**point._asdict(), why=why)[COLUMNS]


def without_base(point: Point, why: str) -> pd.DataFrame:
    """The same rows where nothing could be trained, and why."""
    tests = [
        (claim.claim, half.metric, half.contrast, reward)
        for claim in hypotheses.load().claims
        for half in claim.halves
        for reward in half.rewards
    ]
    named = pd.DataFrame(tests, columns=EFFECT)
    return named.assign(**point._asdict(), verdict=NO_BASE, why=why).reindex(columns=COLUMNS)


def sensitivity(
    preset: str,
    names: Sequence[str] = (),
    *,
    report: Callable[[str], object] = print,
    **overrides: Any,
) -> Path:
    """Train and measure every point that the store lacks; write sensitivity.csv beside the tables.

    Rows of axes that are not named stay as they were, locally or else in the committed results.
    The point where nothing is changed is taken from the committed results if they are of this code.

    Raises
    ------
    ParameterError : an axis that is none, or a parameter that cannot be.
    """
    unchanged = pd.DataFrame(columns=COLUMNS) if overrides else _unchanged(preset)
    seeds = load_config(preset, **overrides).seeds[: stats.SEEDS_FOR_A_VERDICT]
    overrides |= {"seeds": list(seeds)}
    config, asked = load_config(preset, **overrides), points(names)
    path = study.local(config.preset) / "tables" / "sensitivity.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [_before(config.preset)]
    for nth, point in enumerate(asked, 1):
        if point.default and len(unchanged):
            done.append(unchanged.assign(**point._asdict()))
        else:
            done.append(_at(preset, overrides | {point.parameter: point.value}, point))
        tables.write(_latest(done), path)
        found = done[-1].verdict.value_counts().sort_index()
        said = ", ".join(f"{count} {verdict}" for verdict, count in found.items())
        report(f"[{nth}/{len(asked)}] {point.parameter} {point.value}: {said}")
    return path


def _at(preset: str, overrides: dict[str, Any], point: Point) -> pd.DataFrame:
    """The rows of one point, its runs taken from the store or made."""
    from hybridlib import runs

    config = load_config(preset, **overrides)
    gate = pd.read_csv(runs.base(config) / "gate.csv")
    if not gate.passes.astype(bool).all():
        failed = gate[~gate.passes.astype(bool)]
        what = (f"{row.check} {row.language} {row.value:.2f}" for row in failed.itertuples())
        return without_base(point, "; ".join(what))
    units = _units(config)
    with jobs.processes() as pool:
        said = list(pool.map(_measured, *zip(*((preset, overrides, unit) for unit in units))))
    failed = {unit: why for unit, why in zip(units, said) if why}
    lost = {reward for _, reward, _ in failed}
    rewards = [reward for reward in config.rewards if reward not in lost]
    why = "; ".join(dict.fromkeys(failed.values()))
    if not rewards or lost - set(config.rewards):
        return without_base(point, why)
    config = load_config(preset, **overrides | {"rewards": rewards})
    folders = {unit: runs.evaluate(config, *unit) for unit in _units(config)}
    responses = pd.concat(pd.read_parquet(f / "responses.parquet") for f in folders.values())
    control = [
        pd.read_csv(folder / "training.csv").assign(variant=variant, seed=seed)
        for (variant, _, seed), folder in folders.items()
        if variant == "rl_gold"
    ]
    training = pd.concat(control) if control else pd.DataFrame()
    return verdicts(point, responses, runs.costs(config, folders), training, why)


def _units(config: RunConfig) -> list[tuple[str, str, int]]:
    """What the primary tests and the control need: what others are built on first, then those
    that take long, then what takes seconds, so that no process waits long for the last of them."""
    halves = [half for claim in hypotheses.load().claims for half in claim.halves]
    needed = {(v, r) for half in halves for v in half.variants for r in (*half.rewards, "none")}
    arms = dict.fromkeys([*study.FIRST, *reversed(config.arms)])
    arms = [arm for arm in arms if arm in config.arms and arm in needed | {("rl_gold", "gold")}]
    return [(*arm, seed) for arm in arms for seed in config.seeds]


def _measured(preset: str, overrides: dict[str, Any], unit: tuple[str, str, int]) -> str:
    """Train and evaluate a run; say why where it cannot be, '' where it could."""
    from hybridlib import runs

    try:
        runs.evaluate(load_config(preset, **overrides), *unit)
    except FloatingPointError:
        variant, reward, seed = unit
        return f"{variant}/{reward} seed {seed} diverged"
    except OneLineError as error:
        return str(error)
    return ""


def _before(preset: str) -> pd.DataFrame:
    """What is known already: rows of the local table, or else of the committed one."""
    for place in (study.local(preset), study.committed(preset)):
        path = place / "tables" / "sensitivity.csv"
        if path.exists():
            return _read(path)
    return pd.DataFrame(columns=COLUMNS)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"value": str}, keep_default_na=False, na_values=[""])


def _unchanged(preset: str) -> pd.DataFrame:
    """The committed rows of one point where nothing is changed; none if other code made them."""
    rows, folder = pd.DataFrame(columns=COLUMNS), study.committed(preset)
    if (folder / "tables" / "sensitivity.csv").exists() and publish.is_present(folder):
        rows = _read(folder / "tables" / "sensitivity.csv")
        rows = rows[rows.default.astype(bool)].drop_duplicates(EFFECT)
    return rows


def _latest(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The last row of each test and point, in the order of the axes."""
    rows = pd.concat([f.assign(value=f.value.astype(str)) for f in frames if len(f)])
    rows = rows.drop_duplicates(["parameter", "value", *EFFECT], keep="last")
    order = {(n, str(v)): i for i, (n, v, _) in enumerate(points())}
    at = [order.get(pair, len(order)) for pair in zip(rows.parameter, rows.value)]
    kept = rows.assign(at=at)[[i < len(order) for i in at]]
    return kept.sort_values("at", kind="stable").drop(columns="at")[COLUMNS]
