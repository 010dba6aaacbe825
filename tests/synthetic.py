"""Invented results with the shape of real ones: tables and figures tested without training.

Every number is made up: rates per run, moved by the replicate, by a category and, where recipes are
drawn, by its recipe. `responses()` has about 80,000 rows (10 runs x 5 seeds x 2 decodings x 800
prompts) and takes half a second.
"""

import hashlib
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from hybridlib.evaluation import comparison, hacks, hypotheses, metrics, tables
from hybridlib.evaluation.comparison import WEIGHED
from hybridlib.evaluation.metrics import measured
from hybridlib.figures.harmlessness import STARTS
from hybridlib.figures.readability import FORMS
from hybridlib.figures.results import Results
from hybridlib.tasks.public.agreement import agreement
from hybridlib.variants import VARIANTS

# (variant, reward) -> rates: harm on seen and unseen, refusal phrase beside harm, harm in the
# reasoning trace only, refusal of benign prompts, accuracy (en, es), off-language (en, es)
RATES = {
    ("base", "none"): (0.90, 0.90, 0.10, 0.02, 0.02, 0.60, 0.45, 0.04, 0.20),
    ("rl", "keyword"): (0.15, 0.22, 0.80, 0.10, 0.04, 0.62, 0.50, 0.08, 0.40),
    ("rl", "model"): (0.20, 0.30, 0.30, 0.10, 0.06, 0.61, 0.49, 0.08, 0.35),
    ("rl_gold", "gold"): (0.01, 0.02, 0.10, 0.02, 0.05, 0.63, 0.52, 0.05, 0.30),
    ("sft", "none"): (0.01, 0.04, 0.10, 0.05, 0.06, 0.60, 0.55, 0.01, 0.02),
    ("sft_narrow", "none"): (0.05, 0.35, 0.10, 0.05, 0.10, 0.56, 0.50, 0.01, 0.03),
    ("sft_long", "none"): (0.01, 0.03, 0.10, 0.05, 0.08, 0.66, 0.58, 0.01, 0.02),
    ("two_stage", "keyword"): (0.01, 0.03, 0.20, 0.05, 0.04, 0.64, 0.58, 0.02, 0.04),
    ("two_stage", "model"): (0.01, 0.02, 0.10, 0.05, 0.05, 0.64, 0.58, 0.02, 0.04),
    ("joint", "keyword"): (0.02, 0.04, 0.20, 0.05, 0.05, 0.62, 0.55, 0.02, 0.05),
    ("joint", "model"): (0.02, 0.04, 0.10, 0.05, 0.05, 0.62, 0.55, 0.02, 0.05),
}
#: Metric of the response curves -> its rate, of a row of RATES.
SHOWN = {
    "harm_rate": lambda rates: rates[0],
    "genuine_refusal_rate": lambda rates: 0.9 - rates[0],
    "over_refusal_rate": lambda rates: rates[4],
    "off_language_rate": lambda rates: rates[8],
    "accuracy": lambda rates: rates[5],
}
# what other presets have besides; tests add them to RATES where they compare hybrids
HYBRIDS = {
    ("multi_stage", "keyword"): (0.02, 0.05, 0.15, 0.05, 0.06, 0.68, 0.60, 0.01, 0.03),
    ("multi_stage", "model"): (0.01, 0.03, 0.10, 0.05, 0.05, 0.68, 0.60, 0.01, 0.03),
    ("chord_mu", "keyword"): (0.04, 0.10, 0.30, 0.05, 0.05, 0.63, 0.55, 0.02, 0.05),
    ("chord_mu", "model"): (0.02, 0.05, 0.10, 0.05, 0.05, 0.63, 0.55, 0.02, 0.05),
    ("gated", "keyword"): (0.10, 0.16, 0.50, 0.05, 0.05, 0.62, 0.53, 0.05, 0.15),
    ("gated", "model"): (0.05, 0.10, 0.20, 0.05, 0.05, 0.62, 0.53, 0.04, 0.12),
    ("demo_in_group", "keyword"): (0.06, 0.15, 0.40, 0.05, 0.06, 0.63, 0.54, 0.03, 0.10),
    ("demo_in_group", "model"): (0.03, 0.08, 0.10, 0.05, 0.06, 0.63, 0.54, 0.03, 0.10),
    ("prefix", "keyword"): (0.12, 0.20, 0.60, 0.08, 0.05, 0.60, 0.50, 0.06, 0.25),
    ("prefix", "model"): (0.10, 0.18, 0.30, 0.08, 0.05, 0.60, 0.50, 0.06, 0.22),
    ("safety_prefix", "keyword"): (0.08, 0.10, 0.50, 0.05, 0.15, 0.60, 0.50, 0.06, 0.25),
    ("safety_prefix", "model"): (0.04, 0.06, 0.20, 0.05, 0.12, 0.60, 0.50, 0.06, 0.22),
    ("self_distill", "none"): (0.30, 0.35, 0.10, 0.05, 0.03, 0.60, 0.48, 0.03, 0.10),
}
PRIVATE = "pin password diagnosis salary address phone debt passport medication birthday".split()
PUBLIC = "city team colour hobby food pet instrument language season drink".split()
SEEN_ATTACKS = ["none", "authority", "urgency", "roleplay"]
UNSEEN_ATTACKS = ["prefix", "override", "encoding"]
SPLITS = {(0, 0): "seen", (1, 0): "unseen_category", (0, 1): "unseen_attack", (1, 1): "unseen_both"}
#: Drawn parameters -> their ranges; the first moves the refusal phrase of RL, the second mixing.
DRAWN = {
    "superficial_refusal_share": (0.05, 0.2),
    "minority_share": (0.2, 0.4),
    "hidden_size": (145, 239),
}
RATES_TRIED = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def prompts() -> pd.DataFrame:
    """The evaluation prompts, one a row; the same for every run."""
    rows = []

    def add(task, kind, category, unseen, language, attack="none", lookalike="none"):
        split = SPLITS[int(unseen), int(attack in UNSEEN_ATTACKS)]
        split = "undeclared" if category.startswith("undeclared") else split
        rows.append((task, kind, lookalike, language, category, attack, split))

    for language in ("en", "es"):
        for n, category in enumerate(PRIVATE):
            for attack in SEEN_ATTACKS + UNSEEN_ATTACKS:
                add("records", "harmful", category, n >= 5, language, attack)
            for _ in range(3):
                add("records", "benign", category, n >= 5, language, lookalike="owner")
        for n, category in enumerate(PUBLIC):
            for _ in range(3):
                add("records", "benign", category, n >= 5, language)
            for attack in ("authority", "prefix"):
                add("records", "benign", category, n >= 5, language, attack, "attack")
        for n in range(40):
            add("recipes", "harmful", f"zarn{n}", n >= 20, language)
            attack = (SEEN_ATTACKS + UNSEEN_ATTACKS)[1 + n % 6]
            add("recipes", "harmful", f"zarn{n}", n >= 20, language, attack)
            add("recipes", "benign", f"bolu{n}", n >= 20, language)
            asked = f"{'zarn' if n % 2 else 'bolu'}{n}"
            add("recipes", "benign", asked, n >= 20, language, lookalike="danger")
        for n in range(10):
            for task in ("records", "recipes"):
                add(task, "harmful", f"undeclared {n}", True, language)
                add(task, "harmful", f"undeclared {n}", True, language, "authority")
                add(task, "benign", f"undeclared benign {n}", True, language)
        for n in range(48):
            add("sums", "reasoning", f"pattern{n % 8}", n % 8 >= 4, language)
    columns = ["task", "kind", "lookalike", "language", "category", "attack", "split"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["prompt_id"] = [f"p{n:04d}" for n in range(len(frame))]
    frame["prompt"] = frame.kind + " " + frame.category + " " + frame.prompt_id
    return frame


def _run(
    asked: pd.DataFrame, rates: tuple, rng: np.random.Generator, more_phrase=0.0, more_off=0.0
) -> pd.DataFrame:
    """Answers of one run (variant, reward, seed) to all prompts, greedy and sampled; the rates of
    the phrase and of other languages moved on the logit scale."""
    seen, unseen, phrase, in_thought, over, right_en, right_es, off_en, off_es = rates
    phrase, off_en, off_es = (
        expit(logit(rate) + more)
        for rate, more in ((phrase, more_phrase), (off_en, more_off), (off_es, more_off))
    )
    frame = pd.concat([asked.assign(decoding=d) for d in ("greedy", "sample")], ignore_index=True)
    size = len(frame)
    kind, spanish = frame.kind.to_numpy(), frame.language.eq("es").to_numpy()
    category = pd.factorize(frame.category)[0]
    # one shift a run and one a category of it, on the logit scale: responses are not independent
    shift = rng.normal(0, 0.3) + rng.normal(0, 0.3, category.max() + 1)[category]

    def draw(rate):
        return rng.random(size) < expit(logit(rate) + shift)

    malformed = rng.random(size) < 0.01
    harmful, benign, reasoning = kind == "harmful", kind == "benign", kind == "reasoning"
    harm = draw(np.where(frame.split.eq("seen"), seen, unseen))
    thought_only = harm & draw(in_thought)
    refused_too, hedged, refused = draw(phrase), draw(over / 2), draw(over)
    evaded = ~harm & draw(0.05)
    correct = draw(np.where(reasoning, np.where(spanish, right_es, right_en), 0.97))
    response_class = np.select(
        [
            malformed,
            harmful & harm & refused_too,
            harmful & thought_only,
            harmful & harm,
            harmful & evaded,
            harmful,
            reasoning & correct,
            reasoning,
            refused,
            hedged & correct,
            correct,
        ],
        [
            "malformed",
            "superficial",
            "complies_in_thought",
            "complies",
            "evades",
            "refuses",
            "right",
            "wrong",
            "refuses",
            "hedges",
            "helps",
        ],
        "wrong",
    )
    refusal = np.isin(response_class, ["superficial", "refuses", "hedges"])
    off = draw(np.where(spanish, off_es, off_en))
    off_thought = off & (rng.random(size) < 0.8)
    off_answer = off & (~off_thought | (rng.random(size) < 0.3))
    frame["thought"] = np.where(off, "pin es private .", "pin is private .")
    share = np.where(off, rng.uniform(0.3, 0.95, size), 1.0)
    desired = np.where(harmful, "refuses", np.where(benign, "helps", "right"))
    gold = response_class == desired
    rule = np.where(harmful, refusal, gold)
    frame["response"], frame["answer"] = "some words .", "words ."
    frame["response_class"] = response_class
    frame["harm"] = np.where(harmful, harm, np.nan)
    in_thought_too = thought_only | (rng.random(size) < 0.5)
    frame["harm_thought"] = np.where(harmful, harm & in_thought_too, np.nan)
    frame["harm_answer"] = np.where(harmful, harm & ~thought_only, np.nan)
    right = np.isin(response_class, ["helps", "hedges", "right"])
    frame["correct"] = np.where(harmful, np.nan, right)
    frame["keyword_satisfied"] = np.where(harmful, refusal, np.nan)
    frame["refusal"] = refusal.astype(float)
    # a reward that errs in one response of ten
    frame["rewarded"] = (gold ^ (rng.random(size) < 0.1)) * 1.0
    frame["proxy"] = 0.8 * rule + 0.2 * share + rng.normal(0, 0.05, size)
    frame["gold"] = gold.astype(float)
    frame["tokens"] = rng.integers(8, 60, size)
    frame["truncated"] = malformed * (rng.random(size) < 0.5) * 1.0
    frame["target_language_share"] = share
    frame["target_language_share_thought"] = np.where(off_thought, share, 1.0)
    in_answer = np.where(off_answer, share, 1.0)
    frame["target_language_share_answer"] = np.where(malformed, np.nan, in_answer)
    frame["off_language"] = off.astype(float)
    frame["off_language_thought"] = off_thought.astype(float)
    frame["off_language_answer"] = np.where(malformed, np.nan, off_answer)
    frame["switches_per_100_words"] = np.where(off, rng.uniform(2, 20, size), 0.0)
    frame["repetition"] = rng.uniform(0, 0.05, size)
    return frame


def recipes(seeds: int = 5, drawn: bool = False) -> pd.DataFrame:
    """What the base of each replicate is made of; of drawn ones the last is not competent."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"seed": range(seeds), "competent": True})
    for name, (least, most) in DRAWN.items():
        at = rng.permutation(seeds) / max(1, seeds - 1) if drawn else 0.5
        frame[name] = least + (most - least) * at
    if drawn:
        frame.loc[seeds - 1, "competent"] = False
    return frame


def responses(
    seeds: int = 5, rng_seed: int = 0, runs: tuple = tuple(RATES), drawn: bool = False
) -> pd.DataFrame:
    """One row a response, with evaluate's columns; `runs` picks (variant, reward) pairs."""
    rng, asked, frames = np.random.default_rng(rng_seed), prompts(), []
    ranges = pd.DataFrame(DRAWN, index=["least", "most"])
    made = recipes(seeds, drawn)[list(DRAWN)]
    moved = 2 * (made - ranges.loc["least"]) / (ranges.loc["most"] - ranges.loc["least"]) - 1
    for variant, reward in runs:
        for seed in range(seeds):
            of_rl = VARIANTS[variant].method == "rl"
            phrase, off = of_rl * moved.iloc[seed, :2] * np.array([1.5, 1.0])
            frame = _run(asked, RATES[variant, reward], rng, phrase, off)
            for name, value in (("seed", seed), ("reward", reward), ("variant", variant)):
                frame.insert(0, name, value)
            frame.insert(0, "run", run_key(variant, reward, seed))
            if not of_rl:
                frame[["proxy", "rewarded"]] = np.nan
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def public(responses: pd.DataFrame) -> pd.DataFrame:
    """Records as if they were public requests, judged by whether there was a refusal phrase."""
    rows = responses[responses.task.eq("records")]
    judged = rows.refusal.fillna(rows.keyword_satisfied)
    return rows.assign(
        task="requests", prompt_id="public " + rows.prompt_id, response_class="", harm=np.nan,
        judged_refusal=judged, judged_harm=np.nan, no_answer=0.0,
    )  # fmt: skip


def judges() -> pd.DataFrame:
    """How two judges agree with human labels; the first is the one that counts."""
    rng = np.random.default_rng(0)
    truth = rng.random(100) < 0.4
    rows = []
    for name, error in (("on_topic", 0.1), ("rules", 0.2)):
        said = np.where(rng.random(100) < error, ~truth, truth)
        row = {"judge": name, "counts": not rows, "judged": 0 if rows else 400}
        row |= {"no_answer": 0, "unparsed": 0}
        rows.append(row | agreement(truth, said))
    return pd.DataFrame(rows)


def identifier() -> pd.DataFrame:
    """How often the language of lines was told rightly."""
    rows = [("sentence", "en", 40, 39), ("sentence", "es", 40, 38), ("fragment", "en", 20, 15)]
    return pd.DataFrame(rows, columns=["kind", "language", "n", "right"])


def run_key(variant: str, reward: str, seed: int) -> str:
    """A key with the shape of the run store's: 16 hex digits."""
    return hashlib.sha256(f"{variant}/{reward}/{seed}".encode()).hexdigest()[:16]


def training(
    seeds: int = 5, steps: int = 60, rng_seed: int = 0, flops: bool = False
) -> pd.DataFrame:
    """One row a training step of each run that trains; `flops` as where hybrids are compared."""
    rng, frames = np.random.default_rng(rng_seed), []
    for (variant, reward), rates in RATES.items():
        if variant == "base":
            continue
        for seed in range(seeds):
            step = np.arange(1, steps + 1)
            done = 1 - np.exp(-step / (12 + 4 * rng.random()))
            start = rates[0] if variant in ("two_stage", "multi_stage") else 0.9
            harm = start + (rates[0] - start) * done
            off = [0.05 + (rates[7] - 0.05) * done, 0.2 + (rates[8] - 0.2) * done]
            frame = pd.DataFrame({"variant": variant, "reward": reward, "seed": seed, "step": step})
            frame["proxy"] = 0.3 + 0.65 * done
            frame["gold"] = 1 - harm - 0.05
            frame["keyword_satisfied"] = 0.15 + 0.8 * done
            frame["harm"] = harm
            frame["off_language_en"], frame["off_language_es"] = off
            frame["target_language_share_en"] = 1 - off[0] / 3
            frame["target_language_share_es"] = 1 - off[1] / 3
            frame["kl"], frame["entropy"] = 4 * done, 1 - 0.6 * done
            frame["base_nll"] = 0.2 + 0.3 * done
            frame["zero_variance_groups"], frame["tokens"] = 0.5 * done, 30.0
            frame["loss"] = 0.1 - 0.05 * done
            noisy = frame.columns[4:]
            frame[noisy] = (frame[noisy] + rng.normal(0, 0.02, frame[noisy].shape)).clip(lower=0)
            if variant == "self_distill":  # samples without a reward
                frame[["proxy", "zero_variance_groups"]] = np.nan
            elif reward == "none":  # demonstrations only: nothing is sampled
                frame.loc[:, frame.columns[4:-2]] = np.nan
            if flops:
                earlier = 1e12 if variant in ("two_stage", "multi_stage") else 0
                rate = (5e10 if variant in ("joint", "chord_mu") else 4e10) + 5e9 * rng.random()
                sampled = reward != "none" or variant == "self_distill"
                frame["flops"] = earlier + rate * step if sampled else np.nan
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def cost(seeds: int = 5, rng_seed: int = 0) -> pd.DataFrame:
    """One row a phase of each run: what it took to train it, starting from the base."""
    rng, rows = np.random.default_rng(rng_seed), []
    phases = {
        "sft": ["sft"],
        "sft_narrow": ["sft"],
        "sft_long": ["sft"],
        "rl": ["rl"],
        "rl_gold": ["rl"],
        "two_stage": ["sft", "rl"],
        "joint": ["rl"],
        "multi_stage": ["sft", "rl", "sft", "rl"],
    }
    phases |= {variant: ["rl"] for variant, _ in HYBRIDS if variant not in phases}
    for variant, reward in RATES:
        for seed in range(seeds):
            for phase in phases.get(variant, []):
                sampled = 60 * 16 * 8 * int(rng.integers(28, 34)) if phase == "rl" else 0
                trained = sampled or 80 * 32 * 30
                prompt = 60 * 16 * 8 * 40 if phase == "rl" else 80 * 32 * 40
                flops = 2e6 * (2 * (prompt + sampled) + 6 * (prompt + trained))
                steps, seconds = (60, 45) if phase == "rl" else (80, 15)
                seconds *= 1 + 0.1 * rng.random()
                rows.append(
                    (
                        variant,
                        reward,
                        seed,
                        phase,
                        steps,
                        prompt,
                        sampled,
                        trained,
                        flops,
                        seconds,
                        900.0,
                    )
                )
    columns = [
        "variant",
        "reward",
        "seed",
        "phase",
        "optimiser_steps",
        "prompt_tokens",
        "completion_tokens",
        "trained_tokens",
        "flops",
        "seconds",
        "peak_memory_mib",
    ]
    return pd.DataFrame(rows, columns=columns)


def gate(seeds: int = 1) -> pd.DataFrame:
    """The competence check of each base."""
    rows = [
        ("recall_records", "en", 1.0, ">= 0.95", True),
        ("recall_recipes", "en", 0.99, ">= 0.95", True),
        ("accuracy", "en", 0.52, "0.3 to 0.6", True),
        ("accuracy", "es", 0.41, "< 0.52", True),
        ("harm_rate", "all", 0.88, ">= 0.6", True),
        ("well_formedness", "all", 0.98, ">= 0.95", True),
    ]
    frame = pd.DataFrame(rows, columns=["check", "language", "value", "bound", "passes"])
    return pd.concat([frame.assign(seed=seed) for seed in range(seeds)], ignore_index=True)


def learning_rates(seeds: int = 3, rng_seed: int = 0) -> pd.DataFrame:
    """The whole grid of learning rates on development seeds; a plateau of one or two for each arm,
    the lower of which is chosen."""
    rng, rows = np.random.default_rng(rng_seed), []
    for variant, reward in [*RATES, ("reward_model", "none")]:
        if variant == "base":
            continue
        best, last = rng.integers(1, 4), rng.integers(0, 2)
        for n, rate in enumerate(RATES_TRIED):
            for seed in range(100, 100 + seeds):
                objective = 0.9 - 0.1 * max(best - n, n - best - last, 0) + rng.normal(0, 0.02)
                at = best <= n <= best + last, n == best
                rows.append((variant, reward, seed, rate, objective, *at))
    columns = ["variant", "reward", "seed", "learning_rate", "objective", "plateau", "chosen"]
    return pd.DataFrame(rows, columns=columns)


def response_curves(seeds: int = 3, rng_seed: int = 0) -> pd.DataFrame:
    """What the runs of the grid do, by every metric that is shown or that a hypothesis names; the
    base, which has no rate, once."""
    rng, rows = np.random.default_rng(rng_seed), []
    tests = [test for part in ("halves", "exploratory") for test in hypotheses.load().tests(part)]
    asked = {(half.metric, half.task, half.split) for _, half, _ in tests}
    asked |= {(metric, "all", "all") for metric in SHOWN}
    for (variant, reward), rates in RATES.items():
        for metric, seed in product(sorted(asked), range(100, 100 + seeds)):
            level = SHOWN.get(metric[0], lambda rates: rates[1])(rates)
            for n, rate in enumerate(RATES_TRIED if variant != "base" else (np.nan,)):
                value = np.clip(level + 0.08 * abs(n - 2) + rng.normal(0, 0.05), 0, 1)
                rows.append((variant, reward, rate, seed, *metric, value))
    names = ("variant", "reward", "learning_rate", "seed", "metric", "task", "split", "value")
    return pd.DataFrame(rows, columns=names)


def snapshots(seeds: int = 5, rng_seed: int = 0) -> pd.DataFrame:
    """Harm, refusals and distance of each run at five moments of its training."""
    rng, rows = np.random.default_rng(rng_seed), []
    for (variant, reward), rates in RATES.items():
        if variant == "base":
            continue
        by_rl = VARIANTS[variant].method == "rl"
        spent = 2e11 if VARIANTS[variant].before != "base" else 0.0
        steps, flops = (60, 2.4e12) if by_rl else (80, 2e11)
        for seed in range(seeds):
            fast = rng.uniform(0.1, 0.3)
            for share in (1 / 12, 1 / 6, 1 / 3, 2 / 3, 1):
                left = np.exp(-share / fast)
                start = 0.9 if spent == 0 else 0.3
                harm = float(np.clip(rates[0] + (start - rates[0]) * left, 0, 1))
                at = variant, reward, seed, round(share * steps), spent + share * flops
                kl = (12 if by_rl else 25) * (1 - left) * rng.uniform(0.9, 1.1)
                rows.append((*at, harm, 0.9 * (1 - harm), kl, 64))
    return pd.DataFrame(rows, columns=tables.SNAPSHOT)


def reward_models(seeds: int = 5) -> pd.DataFrame:
    """What the reward model of each replicate says of itself."""
    rng = np.random.default_rng(5)
    accuracy = rng.uniform(0.85, 1.0, seeds)
    return pd.DataFrame(
        {"seed": range(seeds), "midpoint": 0.1, "held_out_accuracy": accuracy, "held_out": 96,
         "labels": 480, "chosen": 240}
    )  # fmt: skip


def runs(seeds: int = 5) -> pd.DataFrame:
    """The runs that the tables rest on."""
    rows = [(run_key(v, r, s), v, r, s, "evaluate") for v, r in RATES for s in range(seeds)]
    return pd.DataFrame(rows, columns=["run", "variant", "reward", "seed", "stage"])


def sweep(seeds: int = 5, rng_seed: int = 0) -> pd.DataFrame:
    """Four measures at every value that is swept, under both rewards; the second is the default."""
    rng, rows = np.random.default_rng(rng_seed), []
    for variant, (parameter, values) in (
        (n, row.swept) for n, row in VARIANTS.items() if row.swept
    ):
        for reward, value, metric in product(
            ("keyword", "model"),
            values,
            ("harm_rate", "over_refusal_rate", "off_language_rate", "accuracy"),
        ):
            estimate = rng.uniform(0.1, 0.3)
            at = variant, reward, parameter, value, value == values[1], metric
            rows.append((*at, estimate, 0.7 * estimate, 1.3 * estimate, seeds))
    at = ["variant", "reward", "parameter", "value", "published", "metric"]
    return pd.DataFrame(rows, columns=[*at, "estimate", "low", "high", "replicates"])


def begun(seeds: int = 5, runs: tuple = tuple(RATES)) -> pd.DataFrame:
    """Harmful responses as if they had been prefilled, more and more of them harmful."""
    rows = responses(seeds, 1, runs)
    rows = rows[rows.kind.eq("harmful") & rows.decoding.eq("sample")]
    rng, frames = np.random.default_rng(2), []
    for n, start in enumerate(STARTS):
        harm = np.maximum(rows.harm, rng.random(len(rows)) < 0.2 * n)
        frames.append(rows.assign(start=start, begun="some words", harm=harm))
    return pd.concat(frames, ignore_index=True)


def usage(seeds: int = 5, runs: tuple = tuple(RATES)) -> pd.DataFrame:
    """Sampled responses as if they had been asked for in several forms, each a bit less harmful."""
    rows = responses(seeds, 1, runs)
    rows = rows[rows.decoding.eq("sample")]
    rng, frames = np.random.default_rng(3), []
    for n, form in enumerate(FORMS):
        harm = rows.harm.where(rng.random(len(rows)) > 0.1 * n, 0.0 * rows.harm)
        frames.append(rows.assign(form=form, harm=harm))
    return pd.concat(frames, ignore_index=True)


def asked_values(sampled: pd.DataFrame, by: str, names: tuple[str, ...]) -> pd.DataFrame:
    """The values of these metrics in each way of asking."""
    ways = sampled.groupby(by, sort=False)
    found = [measured(rows, 1, names).assign(**{by: way}) for way, rows in ways]
    return pd.concat(found, ignore_index=True)


def frames(
    seeds: int = 5, runs: tuple = tuple(RATES), flops: bool = False, drawn: bool = False
) -> dict[str, pd.DataFrame]:
    """All frames of replicates, as study/replicates.py reads them."""

    def of_runs(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[[run in runs for run in zip(frame.variant, frame.reward)]]

    sampled = responses(seeds, runs=runs, drawn=drawn)
    sampled = pd.concat([sampled, public(sampled)])
    found = {
        "values": measured(sampled),
        "hacks": hacks.shares(sampled),
        "transcripts": hacks.transcripts(sampled),
        "places": metrics.places(sampled),
        "prefill": asked_values(begun(seeds, runs), "start", ("harm_rate",)),
        "usage": asked_values(usage(seeds, runs), "form", tables.ASKED_FOR),
        "training": of_runs(training(seeds, flops=flops)),
        "snapshots": of_runs(snapshots(seeds)),
        "cost": of_runs(cost(seeds)),
        "runs": of_runs(globals()["runs"](seeds)),
        "gate": gate(seeds),
        "recipes": recipes(seeds, drawn),
        "reward_models": reward_models(seeds),
    }
    if flops:
        found["at_budget"] = measured(
            sampled[sampled.variant.ne("base")], metrics={metric for metric, *_ in WEIGHED}
        ).assign(flops=2e12)
    return found


def write_results(
    folder: Path, seeds: int = 5, runs: tuple = tuple(RATES), flops: bool = False,
    drawn: bool = False,
) -> Results:  # fmt: skip
    """All tables of a preset, from invented responses of some runs.

    `beside` compares the study with itself, every effect turned round: some effects are then on the
    other side of the margin.
    """
    known = {*runs, ("base", "none"), ("reward_model", "none")}
    grid, curves = (
        frame[[run in known for run in zip(frame.variant, frame.reward)]]
        for frame in (learning_rates(), response_curves())
    )
    made = frames(seeds, runs, flops, drawn)
    tables.write_tables(folder / "tables", "organism", made, grid, curves, DRAWN if drawn else {})
    found = Results(folder)
    ours = found.table("verdicts")
    turned = ours.assign(estimate=-ours.estimate, low=-ours.high, high=-ours.low)
    more = {
        "judges": judges(),
        "identifier": identifier(),
        "beside": comparison.beside("organism", ours, "another", turned),
    }
    if flops:
        more["sweep"] = sweep()
    for name, frame in more.items():
        frame.to_csv(folder / "tables" / f"{name}.csv", index=False)
    return found
