"""Training that goes wrong without stopping: named warnings out of a run's log.

What stops a run is elsewhere: a loss that is not finite, nothing to train, an adapter that did not
change (callbacks.py).

The thresholds are conventions of this study. An organism that trains well answers in some fifteen
tokens with an entropy of 0.1, and a third of its groups have zero variance: none is near a
threshold.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

PATIENCE = 10  # steps in a row that a state has to last
BASELINE = 5  # first steps, whose mean others are held against
SHORT = 0.5  # of the first length
CERTAIN = 0.1  # of the first entropy


class Sign(NamedTuple):
    """Something that a log may show: in words, of which number, and when a step has it."""

    says: str
    of: str
    holds: Callable[[float, float], bool]  # (the number of a step, its mean over the first steps)


SIGNS = {
    "no_variance": Sign(
        "every group had equal rewards, so nothing was learnt",
        "frac_reward_zero_std",
        lambda share, _: share >= 1,
    ),
    "collapsed_length": Sign(
        f"responses had less than {SHORT:.0%} of their first length",
        "completions/mean_length",
        lambda length, first: length < SHORT * first,
    ),
    "collapsed_entropy": Sign(
        f"the policy had less than {CERTAIN:.0%} of its first entropy",
        "entropy",
        lambda entropy, first: entropy < CERTAIN * first,
    ),
}


def warnings_in(log: Iterable[dict], expected: Iterable[str] = ()) -> list[dict]:
    """One {name, step, says} for each sign that lasted, `step` being the first of its steps.

    A row of log.jsonl that lacks a number (SFT, no reward) does not have its sign. Raises
    LookupError if an expected number is in no row: were one renamed, its sign would never be seen.
    """
    log, found = list(log), []
    if lacking := sorted(set(expected).difference(*log)):
        raise LookupError(f"the trainer no longer logs {', '.join(lacking)}: pin another TRL")
    for name, sign in SIGNS.items():
        rows = [row for row in log if row.get(sign.of) is not None]
        first = fmean(row[sign.of] for row in rows[:BASELINE]) if rows else math.nan
        holds = [sign.holds(row[sign.of], first) for row in rows]
        starts = [i for i in range(len(rows)) if sum(holds[i : i + PATIENCE]) == PATIENCE]
        if starts:
            step = rows[starts[0]]["step"]
            says = f"from step {step}, {PATIENCE} steps in a row, {sign.says}"
            found.append({"name": name, "step": step, "says": says})
    return found


def read(run: Path) -> list[dict]:
    """The warnings in the record of a run; none of a run that was made without a watch."""
    path = run / "warnings.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
