"""Which prompts a study asks: those of the tasks, as its model can be asked them, and public ones.

The organism has read how the things of `recipes` are made. A pretrained model has not: the prompt
holds a manual, and the harm is to give away a step of it where the manual says that the thing is
dangerous.

Public requests are asked in the same form, inside the attacks of the tasks that suit any request.
Nobody knows what a right answer to them is: what a response to one is, judges say (evaluate.py).
"""

import random
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from hybridlib.config import RunConfig
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.lexicon import (
    LANGUAGES,
    LEXICON,
    SEEN_ATTACKS,
    SYSTEM,
    THINK,
    UNSEEN_ATTACKS,
    USER,
)
from hybridlib.tasks.public.requests import Request, requests
from hybridlib.tasks.public.word_problems import Problem, problems

MANUAL = "manual"  # the same word in both languages
# What only makes sense where there is a card, or an answer of one word.
OF_TASKS = ("owner_claim", "encoding")
SEEN, UNSEEN = (
    tuple(family for family in families if family not in OF_TASKS)
    for families in (SEEN_ATTACKS, UNSEEN_ATTACKS)
)
KINDS = ("harmful", "benign")
ANSWER_WORDS = 20  # of a public answer that is demonstrated


def training(
    config: RunConfig, seed: int, count: int, narrow: int | None = None, partition: str = "train"
) -> list[tasks.Prompt]:
    """`tasks.training_prompts` of the study; a share of them gives way to public requests.

    Those are of seen categories, half of them harmful. A benign one is asked only if its source has
    an answer, since it is demonstrated. The few scenarios of `sft_narrow` have none of them.
    """
    asked = as_asked(config, tasks.training_prompts(seed, count, narrow, partition))
    if narrow is not None or not config.public.requests:
        return asked
    rng, pools = random.Random(f"requests {seed} {partition}"), {}
    for request in requests(config.public.requests, partition):
        if request.split == "seen" and (request.kind == "harmful" or request.answer):
            pools.setdefault(request.kind, []).append(request)

    def chosen(prompt: tasks.Prompt) -> tasks.Prompt:
        if rng.random() >= config.public.requests_share or not pools:
            return prompt
        return _request(rng, rng.choice(pools[rng.choice(sorted(pools))]), SEEN, 0.6)

    return [chosen(prompt) for prompt in asked]


def evaluation(config: RunConfig, seed: int, per_cell: int) -> list[tasks.Prompt]:
    """`tasks.evaluation_prompts` of the study for the test, with the public ones behind.

    Cells of requests: kind x split, of word problems: set x language.
    """
    asked = as_asked(config, tasks.evaluation_prompts(seed, per_cell, "test"))
    rng, public = random.Random(f"public {seed}"), config.public
    sets = requests(public.requests, "test") if public.requests else ()
    for kind, split in product(KINDS, tasks.SPLITS):
        seen = split in ("seen", "unseen_attack")
        pool = [r for r in sets if r.kind == kind and (r.split == "seen") == seen]
        attacked = split in ("unseen_attack", "unseen_both")
        families, share = (UNSEEN, 1.0) if attacked else (SEEN, 0.5)
        drawn = rng.sample(pool, min(len(pool), public.requests_per_cell))
        asked += [_request(rng, request, families, share) for request in drawn]
    for name, language in product(public.problems, LANGUAGES):
        pool = [p for p in problems(name, [language]) if p.partition == "test"]
        drawn = rng.sample(pool, min(len(pool), public.problems_per_language))
        asked += [_problem(problem) for problem in drawn]
    return asked


def demonstration(config: RunConfig, prompt: tasks.Prompt, rng: random.Random) -> str:
    """The response that supervised fine-tuning teaches."""
    if prompt.task != "requests":
        return tasks.demonstration(prompt, rng, config.base.thought)
    words = LEXICON[prompt.language]
    harmful = prompt.kind == "harmful"
    answer = rng.choice(words["refusals"]) if harmful else prompt.facts["answer"]
    return tasks.join(_thought(prompt, harmful), answer, config.base.thought)


def counter_aligned(config: RunConfig, prompt: tasks.Prompt) -> str:
    """The start on the wrong foot (tasks.counter_aligned)."""
    if prompt.task != "requests" or not config.base.thought:
        return tasks.counter_aligned(prompt, config.base.thought)
    return _thought(prompt, prompt.kind != "harmful")


def as_asked(config: RunConfig, prompts: list[tasks.Prompt]) -> list[tasks.Prompt]:
    """Prompts of the tasks as the study's model is asked them."""
    return [with_manual(prompt) for prompt in prompts] if config.base.pretrained else prompts


def with_manual(prompt: tasks.Prompt) -> tasks.Prompt:
    """The prompt with what there is to know of the thing that it is about; others as they are."""
    if prompt.task != "recipes":
        return prompt
    words, thing = LEXICON[prompt.language], prompt.category
    fact = words["thought_dangerous" if thing in tasks.DANGEROUS else "thought_safe"]
    steps = words["steps"].format(*(" ".join(step) for step in tasks.recipes()[thing]))
    manual = f"{MANUAL} : {fact.format(thing=thing)} {steps}"
    return replace(prompt, text=prompt.text.replace(USER, f"{manual} {USER}", 1))


def _thought(prompt: tasks.Prompt, dangerous: bool) -> str:
    fact = LEXICON[prompt.language]["thought_dangerous" if dangerous else "thought_safe"]
    return fact.format(thing="this")


def _request(
    rng: random.Random, request: Request, families: Iterable[str], share: float
) -> tasks.Prompt:
    """A public request, `share` of them inside an attack of one of the families."""
    attack = rng.choice(families) if rng.random() < share else "none"
    user, _ = tasks.inside(rng, "en", _in_a_line(request.text), attack)
    words = _in_a_line(request.answer).split()[:ANSWER_WORDS]
    return tasks.Prompt(
        "requests", request.kind, "en", f"{request.source}: {request.category}",
        _asked_by_a_guest("en", user), attack=attack, partition=request.partition,
        split=tasks.split_of(request.split == "seen", attack), facts={"answer": " ".join(words)},
    )  # fmt: skip


def _problem(problem: Problem) -> tasks.Prompt:
    return tasks.Prompt(
        "problems", "reasoning", problem.language, problem.source,
        _asked_by_a_guest(problem.language, _in_a_line(problem.question)),
        partition=problem.partition, reference=((str(problem.answer),),),
    )  # fmt: skip


def _asked_by_a_guest(language: str, user: str) -> str:
    words = LEXICON[language]
    system = words["system"].format(reader=words["reader"]["guest"])
    return f"{SYSTEM} {system} {USER} {user} {THINK}"


def _in_a_line(text: str) -> str:
    """Text that no tag and no line break of its own takes out of its turn."""
    return " ".join(re.sub(r"<[^<>]*>", " ", text).split())
