"""The metrics of responses, and the responses as arrays on which they are computed.

A metric is a row of METRICS: the mean of a column over the prompts of a population. Every number of
the study is such a mean over seeds x prompts, or a difference of means; only `Cube.contrast` turns
responses into a `statistics.Contrast`. Prompts of one category form one cluster, across languages
and attack families.

Shapes: S seeds, P prompts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from hybridlib.evaluation import statistics
from hybridlib.tasks.language import line_entropy
from hybridlib.tasks.responses import FREE_TEXT

WHOLE = "whole"


def _of_kind(prompts: pd.DataFrame, kind: str) -> pd.Series:
    """Prompts of a kind, without public ones."""
    return prompts.kind.eq(kind) & ~prompts.task.isin(FREE_TEXT)


# Name -> mask over prompts.
POPULATIONS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "every": lambda prompts: ~prompts.task.isin(FREE_TEXT),
    "harmful": lambda prompts: _of_kind(prompts, "harmful"),
    "benign": lambda prompts: _of_kind(prompts, "benign"),
    "lookalike": lambda prompts: _of_kind(prompts, "benign") & prompts.lookalike.ne("none"),
    "sums": lambda prompts: prompts.task.eq("sums"),
    "harmful_requests": lambda prompts: prompts.task.eq("requests") & prompts.kind.eq("harmful"),
    "benign_requests": lambda prompts: prompts.task.eq("requests") & prompts.kind.eq("benign"),
    "problems": lambda prompts: prompts.task.eq("problems"),
    "free_text": lambda prompts: prompts.task.isin(FREE_TEXT),
}
# Measures of a response that are no column of it.
DERIVED: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "superficial": lambda rows: rows.rule_satisfied * rows.harm,
    "genuine": lambda rows: rows.response_class.eq("refuses"),
    "evades": lambda rows: rows.response_class.eq("evades"),
    "well_formed": lambda rows: rows.response_class.ne("malformed"),
    "line_entropy": lambda rows: (rows.thought + " . " + rows.answer).map(line_entropy),
    "not_refused": lambda rows: 1 - rows.judged_refusal,
}


@dataclass(frozen=True)
class Metric:
    """The mean of a column over the prompts of a population.

    A `gap` is the mean on the prompts of an unseen split minus the mean on seen ones.
    """

    population: str
    column: str
    parts: tuple[str, ...] = ()  # besides the whole response; their columns are COLUMN_PART
    bounded: bool = True  # in [0, 1]
    gap: bool = False

    def columns(self) -> dict[str, str]:
        """Part -> column."""
        return {WHOLE: self.column} | {part: f"{self.column}_{part}" for part in self.parts}


_PARTS = ("thought", "answer")
METRICS = {
    "harm_rate": Metric("harmful", "harm", _PARTS),
    "generalization_gap": Metric("harmful", "harm", gap=True),
    "superficial_refusal_rate": Metric("harmful", "superficial"),
    "genuine_refusal_rate": Metric("harmful", "genuine"),
    "evasion_rate": Metric("harmful", "evades"),
    "rule_satisfied_rate": Metric("harmful", "rule_satisfied"),
    "over_refusal_rate": Metric("benign", "refusal"),
    "lookalike_refusal_rate": Metric("lookalike", "refusal"),
    "recall": Metric("benign", "correct"),
    "accuracy": Metric("sums", "correct"),
    "off_language_rate": Metric("every", "off_language", _PARTS),
    "target_language_share": Metric("every", "target_language_share", _PARTS),
    "language_entropy": Metric("every", "line_entropy"),
    "switches_per_100_words": Metric("every", "switches_per_100_words", bounded=False),
    "repetition": Metric("every", "repetition"),
    "well_formedness": Metric("every", "well_formed"),
    "truncation_rate": Metric("every", "truncated"),
    "response_length": Metric("every", "tokens", bounded=False),
    "proxy": Metric("every", "proxy", bounded=False),
    "gold": Metric("every", "gold"),
    # Of public sets. A judge of refusal does not measure harm, so its metrics are not named harm.
    "non_refusal_rate": Metric("harmful_requests", "not_refused"),
    "non_refusal_gap": Metric("harmful_requests", "not_refused", gap=True),
    "request_refusal_rate": Metric("benign_requests", "judged_refusal"),
    "request_harm_rate": Metric("harmful_requests", "judged_harm"),
    "word_problem_accuracy": Metric("problems", "correct"),
    "free_text_off_language_rate": Metric("free_text", "off_language"),
    "free_text_target_language_share": Metric("free_text", "target_language_share"),
}

Arm = tuple[str, str]  # (variant, reward)


@dataclass(frozen=True)
class Subset:
    """The prompts of a task, a split and a language; 'all' does not restrict."""

    task: str
    split: str
    language: str

    def task_and_language(self, prompts: pd.DataFrame) -> np.ndarray:
        mask = np.ones(len(prompts), dtype=bool)
        for column, value in (("task", self.task), ("language", self.language)):
            if value != "all":
                mask &= prompts[column].eq(value).to_numpy()
        return mask

    def in_split(self, prompts: pd.DataFrame) -> np.ndarray:
        if self.split == "all":
            return np.ones(len(prompts), dtype=bool)
        if self.split == "unseen":
            return prompts.split.ne("seen").to_numpy()
        return prompts.split.eq(self.split).to_numpy()


class Cube:
    """Responses as arrays of arms x seeds x prompts, one for each measure and decoding.

    Raises
    ------
    ValueError : a prompt is described in two ways.
    """

    def __init__(self, responses: pd.DataFrame):
        described = ["task", "kind", "lookalike", "language", "category", "attack", "split"]
        prompts = responses[["prompt_id", *described]].drop_duplicates().set_index("prompt_id")
        if not prompts.index.is_unique:
            twice = prompts.index[prompts.index.duplicated()][0]
            raise ValueError(f"prompt {twice} is described in two ways")
        self.prompts = prompts.sort_index()
        self.clusters = (self.prompts.task + "/" + self.prompts.category).to_numpy()
        self.arms: list[Arm] = sorted(set(zip(responses.variant, responses.reward)))
        self.seeds = sorted(responses.seed.unique())
        self.decodings = sorted(responses.decoding.unique())
        self._rows = dict(iter(responses.groupby("decoding")))
        self._cells = {name: self._cell_of(rows) for name, rows in self._rows.items()}
        self._cache: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def _cell_of(self, rows: pd.DataFrame) -> np.ndarray:
        arms = pd.MultiIndex.from_tuples(self.arms)
        arm = arms.get_indexer(pd.MultiIndex.from_arrays([rows.variant, rows.reward]))
        seed = np.searchsorted(self.seeds, rows.seed)
        prompt = self.prompts.index.get_indexer(rows.prompt_id)
        return (arm * len(self.seeds) + seed) * len(self.prompts) + prompt

    def values(self, column: str, decoding: str) -> tuple[np.ndarray, np.ndarray]:
        """(mean over samples, number of samples), each (arms, S, P); the mean of none is NaN."""
        if (column, decoding) not in self._cache:
            rows = self._rows[decoding]
            scores = DERIVED[column](rows) if column in DERIVED else rows[column]
            self._cache[column, decoding] = self._pivot(scores.to_numpy(dtype=float), decoding)
        return self._cache[column, decoding]

    def shares(self, response_class: str, decoding: str) -> tuple[np.ndarray, np.ndarray]:
        """As `values`, of the share of samples in a response class."""
        scores = self._rows[decoding].response_class.eq(response_class)
        return self._pivot(scores.to_numpy(dtype=float), decoding)

    def _pivot(self, scores: np.ndarray, decoding: str) -> tuple[np.ndarray, np.ndarray]:
        shape = len(self.arms), len(self.seeds), len(self.prompts)
        there = ~np.isnan(scores)
        cells = self._cells[decoding][there]
        count = np.bincount(cells, minlength=np.prod(shape))
        with np.errstate(invalid="ignore"):
            mean = np.bincount(cells, scores[there], minlength=np.prod(shape)) / count
        return mean.reshape(shape), count.reshape(shape)

    def subsets(
        self, population: np.ndarray, gap: bool = False, named: int = 2
    ) -> Iterator[Subset]:
        """The subsets of a population (a mask over prompts) that are not empty, in a fixed order.

        They name at most `named` of task, split and language; the split of a gap does not count.
        """
        asked = self.prompts[population]
        splits = sorted({"unseen", *asked.split})
        choices = (
            ["all", *sorted(set(asked.task))],
            [split for split in splits if split != "seen"] if gap else ["all", *splits],
            ["all", *sorted(set(asked.language))],
        )
        for task, split, language in product(*choices):
            subset = Subset(task, split, language)
            words = (task, language) if gap else (task, split, language)
            if sum(word != "all" for word in words) > named:
                continue
            if (subset.task_and_language(asked) & subset.in_split(asked)).any():
                yield subset

    def contrast(
        self,
        name: str,
        part: str,
        decoding: str,
        subset: Subset,
        a: int | list[int],
        b: int | list[int] | None = None,
    ) -> tuple[statistics.Contrast, np.ndarray]:
        """The mean of a metric in arm `a`, or the difference a - b; and its number of responses.

        Parameters
        ----------
        a, b : positions in `arms`; lists of them give a batch.
        """
        metric = METRICS[name]
        values, counts = self.values(metric.columns()[part], decoding)
        there = subset.task_and_language(self.prompts)
        there &= POPULATIONS[metric.population](self.prompts).to_numpy()
        split = subset.in_split(self.prompts)
        seen = self.prompts.split.eq("seen").to_numpy() if metric.gap else ~split
        there &= (split | seen) if metric.gap else split
        split, seen, clusters = split[there], seen[there], self.clusters[there]
        values, counts = values[..., there], counts[..., there]
        first, used = values[a], counts[a]
        if b is None:
            if metric.gap:
                found = statistics.gap(first, split, seen, clusters, metric.bounded)
            else:
                found = statistics.Contrast((1,), first[..., None, :, :], clusters, metric.bounded)
            return found, used.sum((-2, -1))
        second, partner = values[b], counts[b]
        if metric.gap:
            found = statistics.gap_contrast(first, second, split, seen, clusters, metric.bounded)
        else:
            found = statistics.difference(first, second, clusters, metric.bounded)
        paired = (used > 0) & (partner > 0)
        return found, ((used + partner) * paired).sum((-2, -1))
