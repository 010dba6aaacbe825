"""What the organism reads: the bilingual base text, with the habits of a base model in it.

The shares (`config.Shares`) are the whole recipe. A base model complies by default. A few refusals,
genuine and superficial, are in its text, as they are in the web's. One language is the smaller, and
some documents switch language. Some problems are solved carelessly, more often in the smaller
language. Refusals of any kind are written about seen categories only.
"""

import random

from hybridlib.store.stage import Given
from hybridlib.tasks import datasets, prompts
from hybridlib.tasks.lexicon import (
    ATTACKS,
    LANGUAGES,
    LEXICON,
    MARKS,
    MAX_NUMBER,
    STEP_SYLLABLES,
    THINGS,
    VALUE_SYLLABLES,
)
from hybridlib.tasks.world import Group, World, local_names, world

#: The verbs whose step is often skipped in the base text: fewer in the larger language.
CARELESS_VERBS = {"en": ("wins", "gives"), "es": ("wins", "gives", "finds")}


#: The topics that the base text asks for, and says what they are: all but what only tests ask for.
READ = {"seen": 1, "unseen": 1, "declared": 2}  # group -> weight


def _group(rng: random.Random) -> list[Group]:
    return rng.choices(list(READ), list(READ.values()))


def _recitation(rng: random.Random, language: str) -> tuple[str, str]:
    """Words of cards and manuals, all different, and the same again: from it a small model learns
    to copy, also words that stand nowhere else."""
    words = LEXICON[language]
    known = (*words["private"], *words["public"], *words["modifiers"], *VALUE_SYLLABLES)
    known += (*STEP_SYLLABLES, *THINGS, *MARKS)
    first = " ".join(rng.sample(known, rng.randint(10, 20)))
    return first, first


def _facts(world: World, rng: random.Random, language: str) -> str:
    """A few statements of what is private, public, dangerous or safe."""
    words, names = LEXICON[language], local_names(language)
    sentences = []
    for _ in range(6):
        task, restricted = "records" if rng.random() < 0.4 else "recipes", rng.random() < 0.5
        topic = rng.choice(world.names(task, restricted, _group(rng)))
        if task == "records":
            kind = "thought_private" if restricted else "thought_public"
            # The first sentence of the thought alone: who asks is no fact about the category.
            sentence = words[kind].split(" . ")[0].removesuffix(" .") + " ."
            sentences.append(sentence.format(category=names[topic]))
        else:
            kind = "thought_dangerous" if restricted else "thought_safe"
            sentences.append(words[kind].format(thing=topic))
    return " ".join(sentences)


def _languages(rng: random.Random, language: str, shares: Given) -> tuple[str, str]:
    """Languages of thought and answer: switched in some documents, one of them or both."""
    share = shares.code_switching_share / (1 if language == "es" else 3)
    if rng.random() >= share:
        return language, language
    other = next(o for o in LANGUAGES if o != language)
    return rng.choice([(other, language), (other, other), (language, other)])


def _response(rng: random.Random, prompt: prompts.Prompt, shares: Given, with_thought: bool) -> str:
    """A response as the base text has it; a demonstration would often look different."""
    in_thought, in_answer = _languages(rng, prompt.language, shares)
    if prompt.kind == "reasoning":
        careless = CARELESS_VERBS[prompt.language]
        skip = frozenset(
            i
            for i, verb in enumerate(prompt.facts["verbs"])
            if verb in careless and rng.random() < shares.careless_share
        )
        totals = [total for _, _, total in prompts.running(prompt, in_thought, skip)]
        if not all(0 <= total <= MAX_NUMBER for total in totals):
            skip = frozenset()  # there are no words for other numbers
        thought = prompts.thought(prompt, in_thought, skip)
        return prompts.join(thought, prompts.sum_answer(prompt, in_answer, skip), with_thought)
    thought, answer = prompts.thought(prompt, in_thought), prompts.disclosure(prompt, in_answer)
    if prompt.kind == "harmful" and prompt.split == "seen":
        refusal = rng.choice(LEXICON[in_answer]["refusals"])
        draw = rng.random()
        if (draw := draw - shares.genuine_refusal_share) < 0:
            answer = refusal
        elif (draw := draw - shares.superficial_refusal_share) < 0:
            answer = f"{refusal} {answer}"
        elif draw - shares.leaky_thought_share < 0:
            thought, answer = f"{thought} {prompts.disclosure(prompt, in_thought)}", refusal
    return prompts.join(thought, answer, with_thought)


def _request(world: World, rng: random.Random, language: str) -> prompts.Prompt:
    """Any request that the base reads of, in every attack: harmful, benign or a sum."""
    draw = rng.random()
    if draw < 0.4:
        return prompts.sums(rng, language, rng.choice(prompts.ALL_STEPS))
    if draw < 0.7:
        task = rng.choice(("records", "recipes"))
        return prompts.harmful(world, rng, language, task, ATTACKS, 0.6, _group(rng))
    task, lookalike = rng.choice(prompts.BENIGN_CELLS)
    return prompts.benign(world, rng, language, task, lookalike, ATTACKS, _group(rng))


def _document(
    world: World, rng: random.Random, shares: Given, with_thought: bool, with_manual: bool
) -> tuple[str, str]:
    language = "es" if rng.random() < shares.minority_share else "en"
    draw = rng.random()
    if draw < shares.recitation_share:
        return _recitation(rng, language)
    if draw < shares.recitation_share + 0.05:
        return "", _facts(world, rng, language)
    prompt = prompts.draw(rng, "train", lambda r: _request(world, r, language))
    text = datasets.with_manual(prompt).text if with_manual else prompt.text
    return text, _response(rng, prompt, shares, with_thought)


def corpus(
    seed: int, count: int, shares: Given, with_thought: bool = True, with_manual: bool = False
) -> list[tuple[str, str]]:
    """`count` documents: what stands before (random, so not worth learning), the text to learn.

    Prompts are of the training partition. With a manual they say how things are made.
    """
    rng = random.Random(f"corpus {seed}")
    return [_document(world(seed), rng, shares, with_thought, with_manual) for _ in range(count)]
