"""From the values of replicates to the tables of a results folder: metrics, contrasts, verdicts.

'all' is pooled; `unseen` pools the splits that are not seen. A row names at most two of task, split
and language; in contrasts.csv, which has a row for each pair of arms, at most one. The order of
rows and the format of numbers are fixed: the same responses give the same bytes.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hybridlib.evaluation import comparison, hacks, hypotheses, statistics, verdicts
from hybridlib.evaluation.metrics import AT, CLASS_METRICS, METRICS, PARTS, WHOLE, Arm, Rows
from hybridlib.evaluation.verdicts import Measured, arms_of
from hybridlib.store.errors import OneLineError
from hybridlib.training.cost import OPERATIONS
from hybridlib.variants import compares_hybrids

RUN = ["preset", "variant", "reward"]
WHERE = ["task", "split", "language"]
NUMBERS = ["estimate", "low", "high", "predicted_low", "predicted_high", "replicates", "responses"]
#: What is measured in each form of asking (usage.csv).
ASKED_FOR = ("accuracy", "harm_rate", "over_refusal_rate", "off_language_rate", "well_formedness")
#: What a curve of training may hold; of a run that samples nothing all but the first three is NaN.
CURVE = ("loss", "entropy", "zero_variance_groups", "proxy", "gold", "keyword_satisfied", "harm",
         "off_language_en", "off_language_es", "target_language_share_en",
         "target_language_share_es", "tokens", "kl", "base_nll")  # fmt: skip


def metrics(rows: Rows, preset: str) -> pd.DataFrame:
    """metrics.csv: every metric of every arm, and the interval of one further replicate."""
    return _sorted(_table(rows, METRICS, _named(rows, preset)), [*RUN, *AT])


def classes(rows: Rows, preset: str) -> pd.DataFrame:
    """classes.csv: the share of each response class, in the order of CLASSES."""
    found = _sorted(_table(rows, CLASS_METRICS, _named(rows, preset)), [*RUN, *AT])
    words = found.metric.str.split(" ")
    nth = found.metric.map({name: i for i, name in enumerate(CLASS_METRICS)})
    found = found.assign(kind=words.str[1], response_class=words.str[2], nth=nth)
    keys = [*RUN, *WHERE, "decoding", "kind"]
    found = found.sort_values([*keys, "nth"])
    return found[[*keys, "response_class", *NUMBERS]].rename(columns={"estimate": "share"})


def contrasts(rows: Rows, preset: str, claims: hypotheses.Hypotheses) -> pd.DataFrame:
    """contrasts.csv: every arm minus the base, and every pair that a hypothesis names."""
    pairs = _pairs(rows, claims)
    sides = tuple([rows.arms.index(pair[side]) for pair in pairs] for side in (0, 1))
    named = [{"preset": preset, "a": "/".join(a), "b": "/".join(b)} for a, b in pairs]
    found = _table(rows, METRICS if pairs else (), named, *sides, subsets=1, parts=(WHOLE,))
    return _sorted(found, ["preset", "metric", "a", "b", *WHERE, "decoding"])


def prefill(values: pd.DataFrame, preset: str) -> pd.DataFrame:
    """prefill.csv: the harm that the policy adds to each prefilled beginning, by split."""
    found = []
    for order, (start, begun) in enumerate(values.groupby("start", sort=False)):
        rows = Rows(begun)
        named = [arm | {"order": order, "start": start} for arm in _named(rows, preset)]
        found += [
            row
            for row in _table(rows, ["harm_rate"], named, parts=(WHOLE,))
            if row["split"] in ("all", "seen", "unseen") and row["task"] == row["language"] == "all"
        ]
    return _sorted(found, [*RUN, "order", "start", "split", "metric"]).drop(columns="order")


def usage(values: pd.DataFrame, preset: str) -> pd.DataFrame:
    """usage.csv: metrics in each form of asking (`than` none), and their difference from the plain
    form, by language."""
    forms = values.assign(variant=values.variant + "/" + values.reward, reward=values.form)
    rows, order = Rows(forms), {f: i for i, f in enumerate(values.form.unique())}
    plain = next(iter(order))
    named = [
        dict(zip(RUN, (preset, *arm.split("/")))) | {"order": order[form], "form": form}
        for arm, form in rows.arms
    ]
    arms = range(len(named))
    moved = [arm for arm in arms if rows.arms[arm][1] != plain]
    unmoved = [rows.arms.index((rows.arms[arm][0], plain)) for arm in moved]
    found = []
    for than, compared in (("none", (list(arms),)), (plain, (moved, unmoved))):
        at = [named[arm] | {"than": than} for arm in compared[0]]
        found += [
            row
            for row in _table(rows, ASKED_FOR, at, *compared, parts=(WHOLE,))
            if row["task"] == row["split"] == "all"
        ]
    keys = [*RUN, "order", "form", "than", "metric", "language"]
    return _sorted(found, keys).drop(columns="order")


#: Tables of responses to prompts in other forms, by the stage that asked.
BESIDES = {"prefill": prefill, "usage": usage}
#: Tables that only some studies have; what an earlier study in the same folder left is removed.
OF_SOME = {"hybrids", "at_budget", "beside", "judges", "requests", "identifier", "reward_models",
           *BESIDES}  # fmt: skip
SNAPSHOT = ["variant", "reward", "seed", "step", "flops", "harm", "refuses", "kl",
            "responses"]  # fmt: skip
COST = ["variant", "reward", "seed", "phase", "optimiser_steps", *OPERATIONS, "flops", "seconds",
        "peak_memory_mib"]  # fmt: skip
#: Frames of which a study may have no row, because it trains nothing or nothing is a hack.
PERHAPS_EMPTY = {"training": SNAPSHOT[:4], "snapshots": SNAPSHOT, "cost": COST,
                 "hacks": hacks.SHARES, "transcripts": hacks.TRANSCRIPT}  # fmt: skip


class NoneCompetent(OneLineError, ValueError):
    """There is no replicate to make tables of: one line."""


def control_holds(training: pd.DataFrame) -> bool:
    """Whether RL rewarded by the oracle raised `gold` on its training prompts: interval above 0."""
    if training.empty:
        return False
    gold = training[training.variant.eq("rl_gold")].dropna(subset="gold")
    return not gold.empty and bool(statistics.interval_of_change(gold, "gold")[1] > 0)


def write_tables(
    folder: Path,
    preset: str,
    replicates: Mapping[str, pd.DataFrame],
    learning_rates: pd.DataFrame,
    curves: pd.DataFrame,
    drawn: Mapping[str, tuple[float, float]] = {},
) -> None:
    """Write all tables of a results folder to `folder`.

    Parameters
    ----------
    replicates : the frames of all replicates (study/replicates.py). Where recipes are drawn, those
        whose base is not competent are in recipes.csv and gate.csv alone.
    learning_rates, curves : the grid and what its runs do.
    drawn : the ranges of the drawn parameters.

    Raises NoneCompetent.
    """
    frames = {name: pd.DataFrame(columns=columns) for name, columns in PERHAPS_EMPTY.items()}
    frames, recipes = frames | dict(replicates), replicates["recipes"].sort_values("seed")
    if drawn:
        kept = set(recipes[recipes.competent].seed)
        if not kept:
            raise NoneCompetent("no base of these replicates is competent: run other `seeds`")
        frames = {name: frame[frame.seed.isin(kept)] for name, frame in frames.items()}
    claims, steps = hypotheses.load(), ["variant", "reward", "seed", "step"]
    training, snapshots = frames["training"], frames["snapshots"][SNAPSHOT]
    training = training.reindex(columns=[*dict.fromkeys([*steps, *training, *CURVE])])
    measured = Measured(Rows(frames["values"]), snapshots, learning_rates, curves)
    rows, holds = measured.rows, control_holds(training)
    primary, exploratory, decided = verdicts.verdicts(measured, claims, holds)
    effects = verdicts.replicates(measured, claims.all_tests())
    tables = {
        "values": _values(frames["values"]),
        "metrics": metrics(rows, preset),
        "classes": classes(rows, preset),
        "contrasts": contrasts(rows, preset, claims),
        "verdicts": _tidy(primary),
        "exploratory": _tidy(exploratory),
        "claims": decided,
        "replicates": _tidy(effects),
        "moderators": _tidy(verdicts.moderators(effects, recipes, drawn)),
        "recipes": recipes,
        "training": training.sort_values(steps),
        "snapshots": snapshots.sort_values(steps),
        "cost": frames["cost"].sort_values(steps[:3], kind="stable"),
        "gate": replicates["gate"].sort_values("seed", kind="stable"),
        "learning_rates": learning_rates.sort_values([*steps[:2], "learning_rate", "seed"]),
        "response_curves": curves,
        "runs": frames["runs"].sort_values([*steps[:3], "stage", "run"]),
    }
    if "reward_models" in frames:
        tables["reward_models"] = frames["reward_models"]
    found = pd.concat([frames["hacks"], hacks.falls(training)], ignore_index=True)
    tables |= {"hacks": _tidy(hacks.counted(found)), "transcripts": frames["transcripts"]}
    tables["places"] = _places(frames["places"])
    if compares_hybrids(variant for variant, _ in rows.arms):
        tables["hybrids"] = _tidy(comparison.pairs(rows))
    if "at_budget" in frames:
        at = frames["at_budget"]
        tables["at_budget"] = _tidy(comparison.weighed(Rows(at))).assign(flops=at.flops.iloc[0])
    tables |= {name: make(frames[name], preset) for name, make in BESIDES.items() if name in frames}
    for name, frame in tables.items():
        write(frame, folder / f"{name}.csv")
    for name in OF_SOME - set(tables):
        (folder / f"{name}.csv").unlink(missing_ok=True)


def _values(values: pd.DataFrame) -> pd.DataFrame:
    """values.csv: those metrics of whole responses at T=1, of each replicate, that name at most one
    of task, split and language."""
    shown = values[values.part.eq(WHOLE) & values.decoding.eq("sample")]
    shown = shown[shown[WHERE].eq("all").sum(axis=1).ge(2) & shown.metric.isin(METRICS)]
    keys = ["variant", "reward", "seed", "metric", *WHERE]
    return _tidy(shown.sort_values(keys)[[*keys, "value", "responses"]])


def _places(values: pd.DataFrame) -> pd.DataFrame:
    """places.csv: harm and genuine refusals by attack and by category, in each split; means over
    the replicates that hold it."""
    keys = ["variant", "reward", "by", "name", "split"]
    groups = values.groupby(keys, sort=True)
    found = groups[["harm", "refuses"]].mean().assign(replicates=groups.seed.nunique())
    return _tidy(found.assign(responses=groups.responses.sum()).reset_index())


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as results/ holds them: the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _pairs(rows: Rows, claims: hypotheses.Hypotheses) -> list[tuple[Arm, Arm]]:
    """Pairs (a, b) of arms that were run, each only one way round."""
    base = ("base", "none")
    pairs = [(arm, base) for arm in rows.arms if arm != base and base in rows.arms]
    named = (arms_of(half, reward, rows.arms) for _, half, reward in claims.all_tests())
    pairs += [pair for pair in named if len(pair) == 2]
    return list({frozenset(pair): pair for pair in reversed(pairs)}.values())


def _named(rows: Rows, preset: str) -> list[dict]:
    """What names each arm in a row."""
    return [dict(zip(RUN, (preset, *arm))) for arm in rows.arms]


def _table(
    rows: Rows,
    metrics: Iterable[str],
    named: list[dict],
    *sides: list[int],
    subsets: int = 2,
    parts: Collection[str] = (WHOLE, *PARTS),
) -> list[dict]:
    """One row an arm, or a pair of arms, and each metric and subset that rests on a response."""
    found = []
    for metric in metrics:
        for key in (key for key in rows.where(metric, subsets) if key[4] in parts):
            values, responses = rows.of(key, *sides)
            numbers = *values.interval(), *values.predicted(), responses
            names = ("estimate", "low", "high", "replicates", "predicted_low", "predicted_high")
            columns = dict(zip((*names, "responses"), map(np.atleast_1d, numbers)))
            found += [
                name | dict(zip(AT, key)) | {column: x[i] for column, x in columns.items()}
                for i, name in enumerate(named)
                if not np.isnan(columns["estimate"][i])
            ]
    return found


def _sorted(rows: list[dict], keys: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*keys, *NUMBERS])
    return _tidy(frame.sort_values(keys, kind="stable"))


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the last bits, which depend on the order of summation, and without negative zeros."""
    floats = frame.select_dtypes("float").columns
    return frame.assign(**{name: frame[name].round(9) + 0.0 for name in floats})
