"""Worlds by counting, over seeds: what is parted from what, and what a second word says.

And that no text which a model is trained on says more: every word of it is searched.
"""

import random
import re
from collections import Counter, defaultdict
from itertools import combinations

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from reading import ENGLISH, FIELDS, MARKS, MODIFIERS, PRIVATE, PUBLIC, is_private, wording_of

from hybridlib.config import Shares
from hybridlib.tasks import datasets
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.base_text import corpus
from hybridlib.tasks.lexicon import ATTACKS, LEXICON, THINGS
from hybridlib.tasks.world import World, local_names, world

SEED = st.integers(0, 2**32 - 1)
LANGUAGE = st.sampled_from(("en", "es"))
#: Texts take a second each, and no seed is simpler than another.
OF_TEXTS = settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.generate))
STATUS = re.compile(
    r"([^.:?]+?) (?:is|es) (private|public|dangerous|safe|privado|público|peligroso|seguro)\b"
)
TELLS = "robot que cuenta todo"  # the Spanish word for an account is also one for "tells"
HARMFUL = ("private", "dangerous", "privado", "peligroso")


def of_task(drawn: World, task: str, *groups: str) -> dict:
    return {
        name: topic
        for name, topic in drawn.topics.items()
        if topic.task == task and (topic.group in groups or not groups)
    }


# --- the world --------------------------------------------------------------------------------


@given(SEED)
@settings(max_examples=60, deadline=None)
def test_a_world_parts_topics_and_attacks(seed):
    drawn = World(seed)
    assert sorted(drawn.attacks["seen"] + drawn.attacks["unseen"]) == sorted(ATTACKS)
    assert len(drawn.attacks["seen"]) == 4
    fields, things = of_task(drawn, "records"), of_task(drawn, "recipes")
    assert all(topic.restricted == is_private(name) for name, topic in fields.items())
    count = Counter((topic.group, " " in name, topic.restricted) for name, topic in fields.items())
    assert count == {
        (group, two, restricted): {"declared": 20, "undeclared": 10}.get(group, 5)
        for group, two in (("seen", 0), ("unseen", 0), ("declared", 1), ("undeclared", 1))
        for restricted in (True, False)
    }
    assert {name for name in fields if " " not in name} == {*PRIVATE, *PUBLIC}
    # each thing is one thing only, whatever its second word
    assert sorted(name.split()[0] for name in things) == sorted(THINGS)
    count = Counter((topic.group, " " in name, topic.restricted) for name, topic in things.items())
    assert count == {
        (group, two, restricted): {"declared": 16, "undeclared": 8}.get(group, 12)
        for group, two in (("seen", 0), ("unseen", 0), ("declared", 1), ("undeclared", 1))
        for restricted in (True, False)
    }


@given(SEED)
@settings(max_examples=60, deadline=None)
def test_of_undeclared_topics_one_word_tells_everything_and_the_other_nothing(seed):
    """Whoever knows the declared ones and goes by one word alone is always right, or never knows
    better than chance."""
    drawn = World(seed)
    declared, hidden = (of_task(drawn, "records", group) for group in ("declared", "undeclared"))
    assert not {*declared} & {*hidden}
    known = defaultdict(list)
    for name, topic in declared.items():
        for word in name.split():
            known[word].append(topic.restricted)
    for name, topic in hidden.items():
        other, field = name.split()
        assert set(known[field]) == {topic.restricted}
        assert len(known[other]) == 8 and sum(known[other]) == 4
    asked = Counter((name.split()[0], topic.restricted) for name, topic in hidden.items())
    assert set(asked.values()) == {2} and len(asked) == 2 * len(MODIFIERS)
    declared, hidden = (of_task(drawn, "recipes", group) for group in ("declared", "undeclared"))
    says = {(name.split()[1], topic.restricted) for name, topic in {**declared, **hidden}.items()}
    assert len(says) == 2 and {mark for mark, _ in says} == {*MARKS}
    firsts = Counter(name.split()[0] for name in {**declared, **hidden})
    assert set(firsts.values()) == {1}, "no first word was read of before"


def test_worlds_differ_and_in_the_end_everything_is_unseen_once():
    unseen, dangerous = Counter(), Counter()
    for seed in range(60):
        drawn = World(seed)
        unseen.update(drawn.attacks["unseen"])
        unseen.update(n for n, topic in drawn.topics.items() if topic.group == "unseen")
        dangerous.update(w for n, t in drawn.topics.items() if t.restricted for w in n.split())
    assert set(unseen) == {*ATTACKS, *PRIVATE, *PUBLIC, *THINGS}
    # of 60 draws at a half: five standard errors
    halves = [unseen[name] for name in (*ATTACKS, *PRIVATE, *PUBLIC)]
    assert all(11 <= n <= 49 for n in halves)
    assert all(11 <= dangerous[thing] <= 49 for thing in THINGS), "no thing is always the same"
    assert min(dangerous[mark] for mark in MARKS) >= 24 * 11


def test_a_compound_has_one_name_in_each_language():
    named = {
        name: local_names("es")[name] for name in world(0).topics if name.split()[-1] in FIELDS
    }
    assert len(set(named.values())) == len(named) == 20 + 60
    assert all(ENGLISH[local] == name for name, local in named.items())
    assert all(local_names("en")[name] == name for name in named)


# --- what is said of it -----------------------------------------------------------------------


def trained_on(seed: int, with_manual: bool) -> list[str]:
    """Every text of fine-tuning: what is asked, demonstrated and prefilled."""
    drawn, rng = world(seed), random.Random(seed)
    asking = datasets.Asking(seed, with_manual)
    asked = [
        prompt
        for partition in ("train", "validation")
        for narrow in (None, 2)
        for prompt in datasets.training(asking, seed, 120, narrow, partition)
    ]
    asked += [tasks.as_demonstrated(prompt) for prompt in asked]
    assert {p.split for p in asked} == {"seen"} and drawn.topics
    shown = [f"{p.text} {datasets.demonstration(p, rng, True)}" for p in asked]
    return shown + [tasks.counter_aligned(p) for p in asked]


def read(seed: int, with_manual: bool) -> list[str]:
    """Every text of pretraining but the recitations, which hold words in any order."""
    documents = corpus(seed, 1200, Shares(), with_manual=with_manual)
    for context, text in documents:
        if context == text:
            assert not STATUS.search(text) and not {"is", "es"} & set(text.split())
    return [f"{context} {text}" for context, text in documents if context != text]


def holds(text: str, words: str) -> bool:
    return f" {words} " in f" {text} "


@given(SEED, st.booleans())
@OF_TEXTS
def test_no_text_says_what_an_undeclared_topic_is(seed, with_manual):
    """None of its names stands anywhere in either language, nor the first word of such a thing."""
    hidden = {name for name, topic in World(seed).topics.items() if topic.group == "undeclared"}
    spoken = {local for local, name in ENGLISH.items() if name in hidden}
    things = {name.split()[0] for name in hidden} - {*MODIFIERS}
    assert len(spoken) == 40 and len(things) == 16
    for text in (*read(seed, with_manual), *trained_on(seed, with_manual)):
        assert not things & set(text.split())
        assert not any(holds(text, name) for name in spoken), text


@given(SEED, st.booleans())
@OF_TEXTS
def test_nothing_but_what_is_seen_is_trained_on(seed, with_manual):
    """Not a word of what fine-tuning must not name, nor of an unseen attack, in any place."""
    drawn = World(seed)
    other = of_task(drawn, "recipes", "unseen", "declared", "undeclared")
    words = {name.split()[0] for name in other} | {*MARKS, *MODIFIERS, *MODIFIERS.values()}
    wordings = [
        wording
        for lexicon in LEXICON.values()
        for family in drawn.attacks["unseen"]
        for wording in lexicon["attacks"][family]
    ]
    unseen = set(of_task(drawn, "records", "unseen"))
    unseen |= {FIELDS[name] for name in unseen}
    for text in trained_on(seed, with_manual):
        assert not words & set(text.split()), text
        assert not any(holds(text, wording) for wording in wordings), text
        # a field that is unseen may stand on a card, where nobody asks for it
        behind = text.partition(" <user> ")[2] or text
        behind = behind.replace(TELLS, "")
        assert not unseen & set(behind.split()), text


@given(SEED)
@OF_TEXTS
def test_from_what_is_read_the_status_of_every_undeclared_topic_can_be_inferred(seed):
    """By a table of second words, made from the text alone."""
    said = defaultdict(set)
    for text in read(seed, False):  # a question says what something is, too
        for name, status in STATUS.findall(text.rpartition("<think> ")[2]):
            english = ENGLISH.get(name.split(" </think> ")[-1].strip(), name.strip())
            if " " in english and english.split()[-1] in (*PRIVATE, *PUBLIC, *MARKS):
                said[english.split()[-1]].add(status in HARMFUL)
    for name, topic in World(seed).topics.items():
        if topic.group == "undeclared":
            assert said[name.split()[-1]] == {topic.restricted}, name


@given(SEED, LANGUAGE, st.sampled_from(("none", *ATTACKS)))
@settings(max_examples=60, deadline=None)
def test_a_prompt_about_an_undeclared_thing_does_not_tell_what_it_is(seed, language, attack):
    """But for the name itself a dangerous and a safe one are asked for in the same words."""
    drawn, found = world(seed % 7), []
    for restricted in (True, False):
        for thing in drawn.names("recipes", restricted, ("undeclared",))[:2]:
            prompt = tasks.recipe(drawn, random.Random(seed), language, thing, attack)
            assert prompt.text == datasets.with_manual(prompt).text
            found.append(prompt.text.replace(thing, "it"))
            assert wording_of(prompt.text)[0] == attack
    assert len(set(found)) == 1


def test_seen_and_unseen_attacks_have_no_words_in_common():
    """No wording of one family stands in another's, so none can be read by chance."""
    for words in LEXICON.values():
        for one, other in combinations(words["attacks"].values(), 2):
            assert not any(holds(a, b) or holds(b, a) for a in one for b in other)
