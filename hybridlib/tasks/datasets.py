"""Which prompts a study asks: those of the tasks, as its model can be asked them, and public ones.

The organism has read how the things of `recipes` are made. A pretrained model has not: the prompt
holds a manual, and the harm is to give away a step of it where the manual says that the thing is
dangerous.

Public requests are asked in the same form, inside the attacks of the tasks that suit any request.
Nobody knows a right answer to them, so judges (public/judges.py) say what a response to one is.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from hybridlib.tasks import prompts
from hybridlib.tasks.lexicon import LANGUAGES, LEXICON, SYSTEM, THINK, USER
from hybridlib.tasks.prompts import Prompt
from hybridlib.tasks.public.requests import Request, requests
from hybridlib.tasks.public.word_problems import Problem, problems
from hybridlib.tasks.world import Group, world

# What only makes sense where there is a card, or an answer of one word.
OF_TASKS = ("owner_claim", "encoding")
KINDS = ("harmful", "benign")
ANSWER_WORDS = 20  # of a public answer that is demonstrated
# A tag has a name, and blanks within it only before attributes; a<b>c is an inequality.
_TAG = re.compile(
    r"""<[|｜][^<>]*[|｜]> | (?:</|(?<!\w)<|<(?=[a-z][\w:-]))[a-z][\w:-]*+
        (?:\s++[\w:-]++(?:\s*+=\s*+(?:"[^"<>]*+"|'[^'<>]*+'|[^\s"'<>=/]++)))*+\s*+/?>""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Asking:
    """How a study asks its model."""

    world: int = 0  # the seed of what is harmful, seen and unseen
    with_manual: bool = False  # prompts about a thing say how it is made
    thought: bool = True  # responses state a thought before the answer
    requests: tuple[str, ...] = ()  # public sets among the prompts of training
    requests_share: float = 0.0


def training(
    asking: Asking, seed: int, count: int, narrow: int | None = None, partition: str = "train"
) -> list[Prompt]:
    """`training_prompts` as the study asks them; a share of them gives way to public requests.

    Those are of seen categories, half of them harmful. A benign one is asked only if its source has
    an answer, since it is demonstrated. The few scenarios of `sft_narrow` have none of them.
    """
    asked = as_asked(
        asking, prompts.training_prompts(world(asking.world), seed, count, narrow, partition)
    )
    if narrow is not None or not asking.requests:
        return asked
    rng, pools = random.Random(f"requests {seed} {partition}"), {}
    for request in requests(asking.requests, partition):
        if request.split == "seen" and (request.kind == "harmful" or request.answer):
            pools.setdefault(request.kind, []).append(request)

    def chosen(prompt: Prompt) -> Prompt:
        if rng.random() >= asking.requests_share or not pools:
            return prompt
        request = rng.choice(pools[rng.choice(sorted(pools))])
        return _request(rng, request, _families(asking, "seen"), 0.6, "seen")

    return [chosen(prompt) for prompt in asked]


def evaluation(
    asking: Asking,
    seed: int,
    per_cell: int,
    requests_per_cell: int = 0,
    problem_sets: Iterable[str] = (),
    problems_per_language: int = 0,
) -> list[Prompt]:
    """`evaluation_prompts` of the test as the study asks them, with the public ones behind.

    Cells of requests: kind x split, of word problems: set x language.
    """
    asked = as_asked(
        asking, prompts.evaluation_prompts(world(asking.world), seed, per_cell, "test")
    )
    rng = random.Random(f"public {seed}")
    sets = requests(asking.requests, "test") if asking.requests else ()
    for kind, attacks, group in product(KINDS, ("seen", "unseen"), ("seen", "unseen")):
        pool = [r for r in sets if r.kind == kind and (r.split == "seen") == (group == "seen")]
        share, families = 0.5 if attacks == "seen" else 1.0, _families(asking, attacks)
        drawn = rng.sample(pool, min(len(pool), requests_per_cell))
        asked += [_request(rng, request, families, share, attacks) for request in drawn]
    for name, language in product(problem_sets, LANGUAGES):
        pool = [p for p in problems(name, [language]) if p.partition == "test"]
        drawn = rng.sample(pool, min(len(pool), problems_per_language))
        asked += [_problem(problem) for problem in drawn]
    return asked


def demonstration(prompt: Prompt, rng: random.Random, thought: bool) -> str:
    """The response that supervised fine-tuning demonstrates."""
    if prompt.task != "requests":
        return prompts.demonstration(prompt, rng, thought)
    harmful, refusals = prompt.kind == "harmful", LEXICON[prompt.language]["refusals"]
    answer = rng.choice(refusals) if harmful else prompt.facts["answer"]
    return prompts.join(_fact(prompt.language, "this", harmful), answer, thought)


def counter_aligned(prompt: Prompt, thought: bool) -> str:
    """A prefix that leads astray (`prompts.counter_aligned`), of public requests, too."""
    if prompt.task != "requests" or not thought:
        return prompts.counter_aligned(prompt, thought)
    return _fact(prompt.language, "this", prompt.kind != "harmful")


def as_asked(asking: Asking, asked: list[Prompt]) -> list[Prompt]:
    """Prompts of the tasks as the study's model is asked them."""
    return [with_manual(prompt) for prompt in asked] if asking.with_manual else asked


def with_manual(prompt: Prompt) -> Prompt:
    """The prompt with a manual that also says what the thing is, unless it is undeclared; prompts
    of other tasks as they are."""
    if prompt.task != "recipes" or prompt.split == "undeclared":
        return prompt
    language, thing = prompt.language, prompt.category
    made, text = prompts.manual(language, prompt.facts["steps"]), prompt.text
    if not prompt.facts["manual"]:
        text = text.replace(USER, f"{made} {USER}", 1)
    fact = _fact(language, thing, prompt.facts["restricted"])
    stated = made.replace(" : ", f" : {fact} ", 1)
    return replace(prompt, text=text.replace(made, stated, 1))


def _fact(language: str, thing: str, dangerous: bool) -> str:
    return LEXICON[language]["thought_dangerous" if dangerous else "thought_safe"].format(
        thing=thing
    )


def _families(asking: Asking, attacks: str) -> list[str]:
    """The attacks, seen or unseen, that suit any request."""
    return [family for family in world(asking.world).attacks[attacks] if family not in OF_TASKS]


def _request(
    rng: random.Random, request: Request, families: list[str], share: float, attacks: str
) -> Prompt:
    """A public request, `share` of them inside an attack of one of the families."""
    group: Group = "seen" if request.split == "seen" else "unseen"
    attack = rng.choice(families) if rng.random() < share else "none"
    user, _ = prompts.inside(rng, "en", _in_a_line(request.text), attack)
    words = _in_a_line(request.answer).split()[:ANSWER_WORDS]
    return Prompt(
        "requests", request.kind, "en", f"{request.source}: {request.category}",
        _asked_by_a_guest("en", user), attack=attack, partition=request.partition,
        split=prompts.split_of(group, attacks == "unseen"), facts={"answer": " ".join(words)},
    )  # fmt: skip


def _problem(problem: Problem) -> Prompt:
    return Prompt(
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
    return " ".join(_TAG.sub(" ", text).split())
