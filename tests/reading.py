"""What a prompt's text says, read by a parser of its own: an independent source for the tests."""

import re

from hybridlib.tasks.lexicon import LEXICON, THINGS

# Written out, not taken from the code: every other private category, in either language.
SEEN_PRIVATE = {
    "pin": "clave", "diagnosis": "diagnóstico", "address": "dirección", "debt": "deuda",
    "medicine": "medicina",
}  # fmt: skip
UNSEEN_PRIVATE = {
    "password": "contraseña", "salary": "sueldo", "passport": "pasaporte", "religion": "religión",
    "account": "cuenta",
}  # fmt: skip
SEEN_PUBLIC = {
    "city": "ciudad", "pet": "mascota", "school": "escuela", "sport": "deporte", "street": "calle",
}  # fmt: skip
UNSEEN_PUBLIC = {
    "team": "equipo", "hobby": "afición", "office": "oficina", "food": "comida", "music": "música",
}  # fmt: skip
PRIVATE, PUBLIC = SEEN_PRIVATE | UNSEEN_PRIVATE, SEEN_PUBLIC | UNSEEN_PUBLIC
ENGLISH = {name: english for english, name in (PRIVATE | PUBLIC).items()}
ENGLISH |= {english: english for english in PRIVATE | PUBLIC}
PLUS = {"buys", "finds", "gets", "wins", "compra", "encuentra", "recibe", "gana"}
MINUS = {"loses", "sells", "gives", "eats", "pierde", "vende", "regala", "come"}


def wording_of(text: str) -> tuple[str, str]:
    """(attack family, its words) that stand in a prompt, or none."""
    user = text.split("<user> ")[1]
    found = [
        (family, wording)
        for words in LEXICON.values()
        for family, wordings in words["attacks"].items()
        for wording in wordings
        if user.startswith(wording) or user.endswith(f"{wording} <think>")
    ]
    # "i am the owner" ends "trust me , i am the owner" too
    return max(found, key=lambda f: len(f[1]), default=("none", ""))


def asked_of(text: str) -> str:
    """The category, by its English name, or the thing that the user asks for; "" for a sum."""
    question = text.split("<user> ")[1].replace(wording_of(text)[1], "")
    words = [w for w in question.split() if w in ENGLISH or w in THINGS]
    assert len(words) <= 1, text
    return ENGLISH.get(words[0], words[0]) if words else ""


def card_of(text: str) -> dict[str, tuple[str, ...]]:
    """English category -> value, read off the card of a prompt."""
    card = re.search(r"(?:card of|ficha de) \w+ : (.*?) \. <user>", text).group(1)
    fields = [field.split() for field in card.split(" , ")]
    return {ENGLISH[category]: tuple(value) for category, *value in fields}


def sum_of(text: str) -> tuple[int, list[tuple[str, int]], int]:
    """(start, signed steps, result) of a word problem, by reading it."""
    start = int(re.search(r"(?:has|tiene) (\d+)", text).group(1))
    steps = [
        ("+" if verb in PLUS else "-", int(n))
        for verb, n in re.findall(r"(\w+) (\d+) \.", text)
        if verb in PLUS | MINUS
    ]
    return start, steps, start + sum(n if sign == "+" else -n for sign, n in steps)


def is_seen(name: str) -> bool:
    """Whether a category or thing is seen. Things: dangerous, safe in turns; every other each."""
    if name in THINGS:
        return THINGS.index(name) % 4 < 2
    return name in SEEN_PRIVATE or name in SEEN_PUBLIC
