"""How reliable a judge is: its verdicts compared with those of humans."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from hybridlib.store import assets
from hybridlib.tasks.public import judges

_COLUMNS = {"objective": "prompt", "assistant_response": "response", "human_score": "label"}


def human_refusals(folder: Path) -> pd.DataFrame:
    """The responses that humans labelled (pyrit, refusal.csv): prompt, response, label 1 or 0.

    For validation only: no judge is fitted to them.
    """
    return read(next(Path(folder).rglob("refusal.csv")))


def read(path: Path) -> pd.DataFrame:
    """A file of pyrit's labels: prompt, response, label."""
    with path.open(encoding="utf-8") as file:
        remarks = len(list(takewhile(lambda line: line.startswith("#"), file)))
    frame = pd.read_csv(path, skiprows=remarks)
    return frame.rename(columns=_COLUMNS)[list(_COLUMNS.values())]


def agreement(labels: Sequence[float], verdicts: Sequence[float]) -> dict[str, float]:
    """Verdicts compared with labels, each measure with its 95% interval (NAME_low, NAME_high).

    Verdicts that are NaN are counted as `parse_failures` and are in no other measure. Intervals are
    Wilson's. That of F1 = 2J / (1 + J) comes from the proportion J = TP / (TP + FP + FN); that of
    Cohen's kappa is asymptotic and does not exist for perfect agreement. What has no cases is NaN.
    Raises ValueError if there are not as many verdicts as labels.
    """
    truth, said = np.asarray(labels, dtype=float), np.asarray(verdicts, dtype=float)
    if truth.shape != said.shape:
        raise ValueError(f"{truth.size} labels, {said.size} verdicts")
    judged = ~np.isnan(said)
    truth, said = truth[judged] == 1, said[judged] == 1
    both, either, n = int((truth & said).sum()), int((truth | said).sum()), truth.size
    neither = n - either
    proportions = {
        "accuracy": (both + neither, n),
        "precision": (both, int(said.sum())),
        "recall": (both, int(truth.sum())),
        "f1": (both, either),
    }
    measures = {name: _proportion(*counts) for name, counts in proportions.items()}
    measures["f1"] = 2 * measures["f1"] / (1 + measures["f1"])
    table = [[neither, int(said.sum()) - both], [int(truth.sum()) - both, both]]
    measures["kappa"] = _kappa(np.array(table))
    return {"n": n, "parse_failures": int((~judged).sum())} | {
        f"{name}{end}": float(value)
        for name, values in measures.items()
        for end, value in zip(("", "_low", "_high"), values)
    }


def of_judges(names: Sequence[str], responses: pd.DataFrame) -> pd.DataFrame:
    """How each judge of refusal agrees with humans, compared with string matching (`rules`).

    The verdicts on the study's own `responses` to public requests are in their columns
    `judged_refusal` and `no_answer`. Raises AssetError if the labels or a judge cannot be
    downloaded.

    Returns
    -------
    judge, counts (the study reports the verdicts of this one; of none where it named judges of
        harm alone), judged, no_answer (nothing to judge) and unparsed (of those judged; all three
        of the study's own responses), then `agreement` with human labels that no judge was fitted
        to.
    """
    humans, rows = human_refusals(assets.folder("human_refusals")), []
    loaded = [judges.load(name, assets.folder) for name in dict.fromkeys([*names, "rules"])]
    refusal = [judge for judge in loaded if judge.measures == "refusal"]
    for judge in refusal:
        counts = judge is refusal[0] and judge.name in names
        own = responses if counts else responses[:0]
        silent = int(own.get("no_answer", np.zeros(len(own))).sum())
        said = judge.judge(list(humans.prompt), list(humans.response))
        row = {"judge": judge.name, "counts": counts, "judged": len(own) - silent}
        row |= {"no_answer": silent, "unparsed": int(own.judged_refusal.isna().sum()) - silent}
        rows.append(row | agreement(humans.label, said))
    return pd.DataFrame(rows)


def _proportion(count: int, of: int) -> np.ndarray:
    """(3,) share, low and high."""
    if not of:
        return np.full(3, np.nan)
    return np.array([count / of, *proportion_confint(count, of, method="wilson")])


def _kappa(table: np.ndarray) -> np.ndarray:
    """(3,) Cohen's kappa of a 2 x 2 table, low and high."""
    if (table.sum(0) * table.sum(1) == table.sum() ** 2).any() or not table.any():
        return np.full(3, np.nan)  # both always say the same, as by chance
    with np.errstate(invalid="ignore"):  # the variance of a perfect agreement is -1e-17
        found = cohens_kappa(table)
    if np.trace(table) == table.sum():
        return np.array([found.kappa, np.nan, np.nan])
    return np.array([found.kappa, found.kappa_low, found.kappa_upp])
