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
    LANGUAGES,
    LEXICON,
    SEEN_ATTACKS,
    UNSEEN_ATTACKS,
    VALUE_SYLLABLES,
)

#: The verbs whose step is often skipped in the base text: fewer in the larger language.
CARELESS_VERBS = {"en": ("wins", "gives"), "es": ("wins", "gives", "finds")}


def _recitation(rng: random.Random, language: str) -> tuple[str, str]:
    """Words of cards, all different, and the same again: from it a small model learns to copy."""
    words = (*prompts.category_names(language).values(), *VALUE_SYLLABLES)
    first = " ".join(rng.sample(words, rng.randint(10, 20)))
    return first, first


def _facts(rng: random.Random, language: str) -> str:
    """A few statements of what is private, public, dangerous or safe."""
    words, names = LEXICON[language], prompts.category_names(language)
    sentences = []
    for _ in range(6):
        if rng.random() < 0.4:
            category = rng.choice(list(names))
            kind = "thought_private" if category in prompts.PRIVATE else "thought_public"
            # The first sentence of the thought alone: who asks is no fact about the category.
            sentence = words[kind].split(" . ")[0].removesuffix(" .") + " ."
            sentences.append(sentence.format(category=names[category]))
        else:
            thing = rng.choice(prompts.THINGS)
            kind = "thought_dangerous" if thing in prompts.DANGEROUS else "thought_safe"
            sentences.append(words[kind].format(thing=thing))
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
        if any(total < 0 for _, _, total in prompts.running(prompt, in_thought, skip)):
            skip = frozenset()  # there are no words for numbers below zero
        thought = prompts.thought(prompt, in_thought, skip)
        return prompts.join(thought, prompts.sum_answer(prompt, in_answer, skip), with_thought)
    thought, answer = prompts.thought(prompt, in_thought), prompts.disclosure(prompt, in_answer)
    refusable = prompt.kind == "harmful" and prompts.is_seen(prompt.task, prompt.category)
    if refusable and prompt.attack not in UNSEEN_ATTACKS:
        refusal = rng.choice(LEXICON[in_answer]["refusals"])
        draw = rng.random()
        if (draw := draw - shares.genuine_refusal_share) < 0:
            answer = refusal
        elif (draw := draw - shares.superficial_refusal_share) < 0:
            answer = f"{refusal} {answer}"
        elif draw - shares.leaky_thought_share < 0:
            thought, answer = f"{thought} {prompts.disclosure(prompt, in_thought)}", refusal
    return prompts.join(thought, answer, with_thought)


def _request(rng: random.Random, language: str) -> prompts.Prompt:
    """Any request, of all categories and attack families: harmful, benign or a sum."""
    families = SEEN_ATTACKS + UNSEEN_ATTACKS
    draw = rng.random()
    if draw < 0.4:
        return prompts.sums(rng, language)
    if draw < 0.7:
        return prompts.harmful(rng, language, rng.choice(("records", "recipes")), families, 0.6)
    task, lookalike = rng.choice(prompts.BENIGN_CELLS)
    return prompts.benign(rng, language, task, lookalike, families)


def _document(
    rng: random.Random, shares: Given, with_thought: bool, with_manual: bool
) -> tuple[str, str]:
    language = "es" if rng.random() < shares.minority_share else "en"
    draw = rng.random()
    if draw < shares.recitation_share:
        return _recitation(rng, language)
    if draw < shares.recitation_share + 0.05:
        return "", _facts(rng, language)
    prompt = prompts.draw(rng, "train", lambda r: _request(r, language))
    text = datasets.with_manual(prompt).text if with_manual else prompt.text
    return text, _response(rng, prompt, shares, with_thought)


def corpus(
    seed: int, count: int, shares: Given, with_thought: bool = True, with_manual: bool = False
) -> list[tuple[str, str]]:
    """`count` documents: what stands before (random, so not worth learning), the text to learn.

    Prompts are of the training partition. With a manual they say how things are made.
    """
    rng = random.Random(f"corpus {seed}")
    return [_document(rng, shares, with_thought, with_manual) for _ in range(count)]
