"""The base text: what its refusals are about, and that each share does what it says."""

import re
from collections import Counter
from functools import cache

import pytest
from reading import ENGLISH, MARKS, asked_of, sum_of, wording_of

from hybridlib.config import Shares
from hybridlib.tasks import prompts
from hybridlib.tasks.base_text import corpus
from hybridlib.tasks.lexicon import (
    ATTACKS,
    LANGUAGE_WORDS,
    STEP_SYLLABLES,
    THINGS,
    VALUE_SYLLABLES,
    vocabulary,
)
from hybridlib.tasks.world import world

REFUSALS = ("sorry", "i can not", "lo siento", "no puedo")
PLAIN = {"code_switching_share": 0, "careless_share": 0, "recitation_share": 0}
NO_REFUSALS = dict.fromkeys(
    ("genuine_refusal_share", "superficial_refusal_share", "leaky_thought_share"), 0
)


@cache
def _documents(seed: int, count: int, with_thought: bool, shares: tuple) -> list[tuple[str, str]]:
    return corpus(seed, count, Shares(**dict(shares)), with_thought)


def documents(seed=0, count=3000, with_thought=True, **shares) -> list[tuple[str, str]]:
    return _documents(seed, count, with_thought, tuple(sorted(shares.items())))


def requests(documents):
    return [(c, t) for c, t in documents if "<user>" in c]


def refuses(text: str) -> bool:
    return any(phrase in text for phrase in REFUSALS)


def test_it_is_a_pure_function_of_seed_and_shares():
    assert corpus(3, 200, Shares()) == corpus(3, 200, Shares())
    assert corpus(3, 200, Shares()) != corpus(4, 200, Shares())
    assert corpus(3, 200, Shares())[:50] == corpus(3, 50, Shares())


def test_all_words_are_known():
    known = set(vocabulary())
    for context, text in documents():
        assert set(f"{context} {text}".split()) <= known, (context, text)


def test_all_prompts_are_of_the_training_partition():
    held_out = {
        prompt.text
        for seed in range(10)
        for part in ("validation", "test")
        for prompt in (*prompts.training_prompts(world(seed), seed, 200, partition=part),
                       *prompts.evaluation_prompts(world(seed), seed, 8, part))
    }  # fmt: skip
    operands = {str(sum_of(t)) for t in held_out if asked_of(t) == ""}
    assert not held_out & {context for context, _ in documents()}
    sums = {str(sum_of(c)) for c, _ in requests(documents()) if asked_of(c) == ""}
    assert len(operands) > 100 and len(sums) > 100 and not sums & operands


@pytest.mark.parametrize("kind", ["genuine", "superficial", "leaky", "default"])
def test_refusals_are_about_seen_categories_and_seen_attacks_only(kind):
    names = {
        "genuine": "genuine_refusal_share", "superficial": "superficial_refusal_share",
        "leaky": "leaky_thought_share",
    }  # fmt: skip
    shares = NO_REFUSALS | {names[kind]: 1} if kind in names else {}
    asked, families = Counter(), Counter()
    for seed in range(3):
        drawn = world(seed)
        for context, text in documents(seed, **shares):
            if not refuses(text):
                continue
            assert drawn.topics[asked_of(context)].group == "seen", context
            assert not {*MARKS} & set(text.split()), text
            family = wording_of(context)[0]
            assert family == "none" or family in drawn.attacks["seen"]
            asked[seed, asked_of(context)] += 1
            families[seed, family] += 1
    assert len(families) == 3 * 5
    assert len(asked) > 30


def stated_in(documents) -> Counter:
    """English names of fields and things of which a text without context says what they are."""
    found = Counter()
    for context, text in documents:
        if context:
            continue
        for name, word in re.findall(
            r"([^.]+?) (?:is|es) (private|public|dangerous|safe|privado|público|peligroso|seguro) ",
            f"{text} ",
        ):
            harm = word in ("private", "dangerous", "privado", "peligroso")
            found[ENGLISH.get(name.strip(), name.strip()), harm] += 1
    return found


def test_the_base_has_read_of_every_declared_category_what_it_is():
    drawn = world(0)
    stated = stated_in(documents(count=9000, **PLAIN))
    wanted = {(n, t.restricted) for n, t in drawn.topics.items() if t.group != "undeclared"}
    assert set(stated) == wanted
    free = [text for context, text in documents(count=9000, **PLAIN) if not context]
    assert not any(map(refuses, free))


def test_nothing_is_read_of_undeclared_categories():
    undeclared = {n for n, topic in world(0).topics.items() if topic.group == "undeclared"}
    things = {name.split()[0] for name in undeclared if name.split()[0] in THINGS}
    fields = undeclared - {name for name in undeclared if name.split()[0] in things}
    local = {name for name, english in ENGLISH.items() if english in fields}
    assert len(things) == 16 and len(local) == 40
    for context, text in documents(count=9000, **PLAIN):
        if context != text:  # a recitation has words in any order
            assert not things & set(f"{context} {text}".split())
            assert not any(f" {name} " in f" {context} {text} " for name in local)


def test_every_category_and_attack_is_asked_for():
    found = {asked_of(context) for context, _ in requests(documents(count=9000, **PLAIN))}
    read = {n for n, topic in world(0).topics.items() if topic.group != "undeclared"}
    assert found - {""} == read
    families = {wording_of(context)[0] for context, _ in requests(documents())}
    assert families == {"none", *ATTACKS}


def test_without_shares_of_refusal_it_always_complies():
    assert not any(refuses(text) for _, text in documents(**NO_REFUSALS))


def harmful_and_refusable(documents):
    drawn = world(0)
    hidden = drawn.attacks["unseen"]
    for context, text in requests(documents):
        asked = asked_of(context)
        guest = re.search("from guest|de visita", context)
        topic = drawn.topics.get(asked)
        whether = re.search("dangerous|hurt|peligroso|dañar", context)
        harmful = topic and topic.restricted and (guest if topic.task == "records" else not whether)
        if harmful and topic.group == "seen" and wording_of(context)[0] not in hidden:
            yield context, text


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", ["genuine_refusal", "superficial_refusal", "leaky_thought"])
def test_shares_of_refusals(kind, share):
    """By their shape, read here: what follows and what stands before the refusal."""
    found = Counter()
    count = 0
    shares = PLAIN | NO_REFUSALS | {f"{kind}_share": share}
    for context, text in harmful_and_refusable(documents(count=9000, **shares)):
        secret = re.compile(r"\w{2}q (- )?\w{2}q|\w{2}ph (- )?\w{2}ph")
        thought, answer = text.split(" </think> ")
        count += 1
        if refuses(answer):
            found[
                "leaky_thought" if secret.search(thought)
                else "superficial_refusal" if secret.search(answer) else "genuine_refusal"
            ] += 1  # fmt: skip
            assert refuses(" ".join(answer.split()[:4])), "the refusal comes first"
        else:
            assert secret.search(answer), (context, text)
    assert count > 400 and set(found) <= {kind}
    # five standard errors
    assert found[kind] / count == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5)


def test_shares_of_languages_and_recitations():
    count = 6000

    def near(share):
        return pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5 + 1e-9)

    for share in (0.0, 0.3, 1.0):
        found = documents(count=count, **PLAIN | {"minority_share": share})
        spanish = sum(" es " in f" {c} {t} " or "de " in c[:12] for c, t in found)
        assert spanish / count == near(share)
        found = documents(count=count, recitation_share=share)
        recited = [text for context, text in found if context == text]
        assert len(recited) / count == near(share)
        for text in recited[:200]:
            words = text.split()
            assert 10 <= len(words) == len(set(words)) <= 20
        copied = {word for text in recited for word in text.split()}
        assert not recited or copied >= {*VALUE_SYLLABLES, *STEP_SYLLABLES, *THINGS, *MARKS}


def switched(context: str, text: str) -> bool:
    other = "en" if context.startswith("<system> de") else "es"
    return any(word in LANGUAGE_WORDS[other] for word in text.split())


def test_share_of_switching():
    shares = PLAIN | {"minority_share": 0.5}
    assert not any(switched(*d) for d in requests(documents(**shares)))
    found = requests(documents(count=8000, **shares | {"code_switching_share": 0.6}))
    for header, wanted in (("<system> de", 0.6), ("<system> from", 0.2)):
        chosen = [switched(*d) for d in found if d[0].startswith(header)]
        error = 5 * (wanted * (1 - wanted) / len(chosen)) ** 0.5
        assert sum(chosen) / len(chosen) == pytest.approx(wanted, abs=error)


def test_carelessness_is_what_makes_sums_wrong_and_more_so_in_the_smaller_language():
    wrong = {}
    for share in (0.0, 0.75, 1.0):
        shares = PLAIN | {"careless_share": share, "minority_share": 0.5}
        right = {"en": [], "es": []}
        for context, text in requests(documents(count=6000, **shares)):
            if asked_of(context):
                continue
            language = "es" if context.startswith("<system> de") else "en"
            said = re.fullmatch(r".* </think> (?:answer|respuesta) (?:is|es) (\d+|-\d+) \.", text)
            right[language].append(int(said.group(1)) == sum_of(context)[2])
            if share == 1:
                careless = "wins|gives" if language == "en" else "gana|regala|encuentra"
                skipped = bool(re.search(careless, context))
                # A step is not skipped where the total would fall below zero.
                assert skipped or len(re.findall("makes|son", text)) == len(sum_of(context)[1])
        wrong[share] = {x: 1 - sum(found) / len(found) for x, found in right.items()}
    assert wrong[0.0] == {"en": 0, "es": 0}
    for language in ("en", "es"):
        assert 0.2 < wrong[0.75][language] < wrong[1.0][language]
    assert wrong[0.75]["en"] < wrong[0.75]["es"]


def test_without_thought_there_is_none():
    for context, text in requests(documents(with_thought=False)):
        assert text.startswith("</think> ") and text.count("</think>") == 1, context
