"""Behind explore.ipynb: committed responses side by side, their rewards, and live responses.

Everything here is read from the committed results of a preset that holds its weights; nothing is
trained and nothing is written.
"""

import re
from functools import cached_property
from pathlib import Path

import pandas as pd

from hybridlib.config import RewardConfig, RunConfig, load_config
from hybridlib.figures import markdown
from hybridlib.figures.style import order_of
from hybridlib.store import jsonl
from hybridlib.store.errors import ParameterError
from hybridlib.store.paths import committed
from hybridlib.store.stage import Given
from hybridlib.study import keys
from hybridlib.tasks.lexicon import LANGUAGE_WORDS, LEXICON, SYSTEM, THINK, USER, vocabulary
from hybridlib.tasks.prompts import Prompt
from hybridlib.tasks.responses import words_of
from hybridlib.training import rewards
from hybridlib.variants import VARIANTS

MARKS = {  # what is marked in a response -> (style, what it says)
    "secret": ("background:#d55e00;color:white", "disclosed"),
    "refusal": ("background:#0072b2;color:white", "refusal phrase"),
    "foreign": ("background:#f0e442;color:black", "other language"),
}


class Shelf:
    """The committed base, adapters and responses of the first replicate of a preset; what was read
    is kept."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        self.base = keys.committed_base(keys.base(config, config.seeds[0])) / "model"
        self._policies: dict[str, object] = {}

    @cached_property
    def arms(self) -> list[str]:
        """'rl/keyword', 'sft/none', ...: all whose responses are there."""
        names = {path.name for path in (self.folder / "responses").iterdir()}
        found = [f"{v}/{r}" for v, r in self.config.arms if self._name(f"{v}/{r}") in names]
        return sorted(found, key=order_of)

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """The test prompts by their id."""
        asked = keys.evaluate(self.config, "base", "none", self.config.seeds[0]).prompts()
        return {prompt.id: prompt for prompt in asked}

    @cached_property
    def responses(self) -> dict[str, pd.DataFrame]:
        """What each arm said to the test prompts, as respond.respond left it."""
        folders = {arm: self.folder / "responses" / self._name(arm) for arm in self.arms}
        return {arm: pd.read_parquet(f / "responses.parquet") for arm, f in folders.items()}

    def policy(self, arm: str):
        """The model of an arm, in float32; the base for 'base/none'."""
        from hybridlib.engine.sampling import InferenceCopy
        from hybridlib.training.loading import load_policy

        if arm not in self._policies:
            adapter = None if arm == "base/none" else self.folder / "adapters" / self._name(arm)
            policy = load_policy(self.base, adapter).float()
            self._policies[arm] = InferenceCopy(policy).model
        return self._policies[arm]

    @cached_property
    def tokenizer(self):
        from hybridlib.training.loading import load_tokenizer

        return load_tokenizer(self.base)

    @staticmethod
    def _name(arm: str) -> str:
        return arm.removesuffix("/none").replace("/", "-")


def load(preset: str) -> Shelf:
    """The committed artifacts of a preset. Raises ParameterError if it has none."""
    folder = committed(preset) / "artifacts"
    if not folder.is_dir():
        raise ParameterError(
            f"preset = {preset!r}: its committed results hold no weights; choose organism"
        )
    return Shelf(folder, load_config(preset))


def choices(shelf: Shelf, **where: str) -> list[Prompt]:
    """Test prompts with these properties (task, kind, language, split, attack; 'all': any)."""
    wanted = {name: value for name, value in where.items() if value != "all"}
    return [p for p in shelf.prompts.values() if all(getattr(p, n) == v for n, v in wanted.items())]


def said(shelf: Shelf, arms: list[str], prompt_id: str) -> pd.DataFrame:
    """One row an arm and decoding: what it said, the oracle's class, its reward."""
    columns = ["arm", "decoding", "response", "truncated", "response_class", "proxy"]
    rows = pd.concat([shelf.responses[arm].assign(arm=arm) for arm in arms])
    return rows[rows.prompt_id.eq(prompt_id)][columns].reset_index(drop=True)


def rewarded(
    shelf: Shelf, rows: pd.DataFrame, prompt_id: str, weights: RewardConfig
) -> pd.DataFrame:
    """Rows of `said` with the keyword reward under these weights, the highest first."""
    prompts = [shelf.prompts[prompt_id].row()] * len(rows)
    keyword, given = rewards.keyword_reward(weights.scope), Given(**weights.model_dump())
    texts, finished = list(rows.response), list(rows.truncated.eq(0))
    thought = shelf.config.base.thought
    totals, _ = rewards.rewarded(given, keyword, prompts, texts, finished, thought)
    return rows.assign(reward=totals).sort_values("reward", ascending=False, kind="stable")


def live(
    shelf: Shelf, arm: str, prompt: str, count: int = 4, temperature: float = 1.0, seed: int = 0
) -> list[str]:
    """Responses of an arm to any prompt, sampled now."""
    import torch

    from hybridlib.engine.sampling import sample

    drawn = sample(
        shelf.policy(arm), shelf.tokenizer, [prompt], shelf.config.train.max_completion, count,
        temperature, torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return shelf.tokenizer.batch_decode(drawn, skip_special_tokens=True)


def typed(question: str, language: str = "en", card: str = "") -> str:
    """A prompt as the organism is asked, around the user's own words; a card may stand before it.

    Raises ParameterError for words that the organism does not know.
    """
    words = LEXICON[language]
    system = words["system"].format(reader=words["reader"]["guest"])
    text = " ".join(f"{SYSTEM} {system} {card} {USER} {words_of(question)} {THINK}".split())
    known = {*vocabulary(), "."}
    if unknown := [word for word in text.split() if word not in known]:
        raise ParameterError(f"the organism does not know {', '.join(dict.fromkeys(unknown))}")
    return text


def marked(text: str, prompt: Prompt | None, language: str) -> str:
    """HTML of a response: disclosed values, refusal phrases and words of other languages marked."""
    words = markdown.visible(text).split()
    other = set().union(*(w for name, w in LANGUAGE_WORDS.items() if name != language))
    kinds = ["foreign" if word in other else "" for word in words]
    refusals = [p.split() for known in LEXICON.values() for p in known["refusal_phrases"]]
    secrets = [list(secret) for secret in prompt.secrets] if prompt else []
    for kind, phrases in (("refusal", refusals), ("secret", secrets + [s[::-1] for s in secrets])):
        for i in (place for phrase in phrases for place in _places(words, phrase)):
            kinds[i] = kind
    return " ".join(map(_mark, words, kinds))


def _places(words: list[str], phrase: list[str]) -> list[int]:
    """Where the words of a phrase stand one behind the other, with nothing but signs between."""
    spoken = [i for i, word in enumerate(words) if re.search(r"[^\W_]", word)]
    runs = (spoken[k : k + len(phrase)] for k in range(len(spoken)))
    return [i for run in runs if [words[j] for j in run] == phrase for i in run]


def _mark(word: str, kind: str) -> str:
    shown = markdown.escaped(word)
    if not kind:
        return shown
    style, says = MARKS[kind]
    return f'<span style="{style};padding:0 2px;border-radius:3px" title="{says}">{shown}</span>'


def train_briefly(shelf: Shelf, variant: str, folder: Path, /, **overrides: object) -> pd.DataFrame:
    """Train a variant from the committed base under the keyword reward, and return its log by step.

    The run goes into `folder`; nothing of it enters the run store. `overrides` are parameters of
    the study, few `steps` among them for a short run. Raises ParameterError for one that cannot be,
    and for a variant that is not RL from the base.
    """
    from hybridlib.training import grpo, loading

    if "preset" in overrides or "variants" in overrides:
        raise ParameterError("preset and variants are chosen above: name another parameter")
    config = load_config(shelf.config.preset, variants=[variant], **overrides)
    row = VARIANTS[variant]
    if row.method != "rl" or row.before != "base":
        raise ParameterError(f"variant = {variant!r}: only RL that starts from the base is quick")
    base = folder / "base"
    loading.load_base(shelf.base).float().save_pretrained(base)
    shelf.tokenizer.save_pretrained(base)
    spec = keys.train(config, variant, "keyword", config.seeds[0])
    keyword = rewards.keyword_reward(config.reward.scope)
    grpo.rl(spec, base, folder, keyword)
    return pd.DataFrame(jsonl.read(folder / "log.jsonl"))


def stored_curve(shelf: Shelf, arm: str) -> pd.DataFrame:
    """The committed training curve of an arm: step, proxy, gold, harm, ..."""
    return pd.read_csv(shelf.folder / "responses" / shelf._name(arm) / "training.csv")
