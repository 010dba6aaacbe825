"""What a replicate's tasks are about: which topics are harmful, which topics and attacks are seen.

All of it is drawn by a seed, so that no result hangs on one choice of what was left out.

A topic is a field of a card (`records`) or a thing that can be made (`recipes`). Some have a second
word that tells what they are: the field of a compound ("alarm pin" is a pin), or a word that
dangerous things share and safe ones do not. So the status of a topic that is stated nowhere can be
inferred.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Literal, NamedTuple

from hybridlib.tasks.lexicon import ATTACKS, LEXICON, MARKS, STEP_SYLLABLES, THINGS

#: seen: in training and in the tests. unseen: in the tests alone, though the base text states what
#: it is. declared: in the base text alone; from these the second word can be learnt. undeclared: in
#: the tests alone, and no text states what it is.
Group = Literal["seen", "unseen", "declared", "undeclared"]
#: How many things of each kind, dangerous and safe, there are in a group.
THINGS_OF: dict[Group, int] = {"seen": 12, "unseen": 12, "declared": 16, "undeclared": 8}
MARKED = ("declared", "undeclared")  # their things have a second word

Words = tuple[str, ...]


class Topic(NamedTuple):
    """A topic: whether giving it away is harm, and where it is met."""

    task: str
    restricted: bool
    group: Group


@dataclass(frozen=True)
class World:
    """The topics and attacks of the replicates whose base has this seed."""

    seed: int

    @cached_property
    def attacks(self) -> dict[Literal["seen", "unseen"], Words]:
        """Half of the attack families each."""
        drawn = _shuffled(self.seed, "attacks", ATTACKS)
        return {"seen": tuple(drawn[: len(drawn) // 2]), "unseen": tuple(drawn[len(drawn) // 2 :])}

    @cached_property
    def topics(self) -> dict[str, Topic]:
        """Every topic by its English name."""
        return {
            name: Topic(task, restricted, group)
            for task, drawn in (("records", self._fields()), ("recipes", self._things()))
            for (restricted, group), names in drawn.items()
            for name in names
        }

    def names(self, task: str, restricted: bool, groups: Iterable[Group]) -> Words:
        """The topics of a task that are harmful, or are not, in these groups."""
        return tuple(
            name
            for name, topic in self.topics.items()
            if topic.task == task and topic.restricted == restricted and topic.group in groups
        )

    def _fields(self) -> dict[tuple[bool, Group], list[str]]:
        """Half of the fields are seen. Each is in two declared compounds and in an undeclared one;
        each other word is in as many private ones as public ones, and so says nothing."""
        english = LEXICON["en"]
        others, compound = english["modifiers"], english["compound"]
        found = {}
        for restricted, kind in ((True, "private"), (False, "public")):
            fields = _shuffled(self.seed, kind, english[kind])
            half = len(fields) // 2
            found[restricted, "seen"], found[restricted, "unseen"] = fields[:half], fields[half:]
            first, second, third = (
                [
                    compound.format(modifier=others[(i + shift) % len(others)], field=field)
                    for i, field in enumerate(fields)
                ]
                for shift in range(3)
            )
            found[restricted, "declared"], found[restricted, "undeclared"] = first + third, second
        return found

    def _things(self) -> dict[tuple[bool, Group], list[str]]:
        """Half of the things are dangerous; those of two groups say so by a word of their own."""
        things = iter(_shuffled(self.seed, "things", THINGS))
        marks = dict(zip((True, False), _shuffled(self.seed, "marks", MARKS)))
        return {
            (restricted, group): [
                f"{next(things)} {marks[restricted]}" if group in MARKED else next(things)
                for _ in range(count)
            ]
            for group, count in THINGS_OF.items()
            for restricted in (True, False)
        }


@cache
def world(seed: int) -> World:
    """The world of a seed; one object a seed, since its draws are kept in it."""
    return World(seed)


@cache
def local_names(language: str) -> dict[str, str]:
    """The English name of every field and compound -> its name in `language`."""
    english, words = LEXICON["en"], LEXICON[language]
    pairs = [*zip(english["private"], words["private"]), *zip(english["public"], words["public"])]
    modifiers = list(zip(english["modifiers"], words["modifiers"]))
    compounds = {
        english["compound"].format(modifier=m, field=f): words["compound"].format(
            modifier=local_m, field=local_f
        )
        for (m, local_m), (f, local_f) in product(modifiers, pairs)
    }
    return dict(pairs) | compounds


@cache
def recipes() -> dict[str, tuple[Words, ...]]:
    """Four steps a thing without a second word, each a pair of syllables that no other thing has,
    in either order."""
    pairs = [p for p in product(STEP_SYLLABLES, repeat=2) if p[0] < p[1]]
    random.Random("recipes").shuffle(pairs)
    return {thing: tuple(pairs[4 * i : 4 * i + 4]) for i, thing in enumerate(THINGS)}


def drawn_steps(rng: random.Random) -> tuple[Words, ...]:
    """Four steps that no thing has for good, each of two different syllables."""
    return tuple(tuple(rng.sample(STEP_SYLLABLES, 2)) for _ in range(4))


def _shuffled(seed: int, name: object, items: Iterable[str]) -> list[str]:
    drawn = list(items)
    random.Random(f"world {seed} {name}").shuffle(drawn)
    return drawn
