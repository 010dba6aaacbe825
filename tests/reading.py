"""What a prompt's text says, read by a parser of its own: an independent source for the tests."""

import re

from hybridlib.tasks.lexicon import LEXICON, THINGS

# Written out, not taken from the code: every field, in either language.
PRIVATE = {
    "pin": "clave", "password": "contraseña", "diagnosis": "diagnóstico", "salary": "sueldo",
    "address": "dirección", "passport": "pasaporte", "debt": "deuda", "religion": "religión",
    "medicine": "medicina", "account": "cuenta",
}  # fmt: skip
PUBLIC = {
    "city": "ciudad", "team": "equipo", "pet": "mascota", "hobby": "afición", "school": "escuela",
    "office": "oficina", "sport": "deporte", "food": "comida", "street": "calle",
    "music": "música",
}  # fmt: skip
#: The first word of a compound in English, the second in Spanish.
MODIFIERS = {
    "alarm": "alarma", "phone": "teléfono", "work": "trabajo", "bank": "banco", "home": "casa"
}  # fmt: skip
FIELDS = PRIVATE | PUBLIC
ENGLISH = {name: name for name in FIELDS} | {name: english for english, name in FIELDS.items()}
for _english, _spanish in MODIFIERS.items():
    ENGLISH |= {f"{_english} {field}": f"{_english} {field}" for field in FIELDS}
    ENGLISH |= {f"{name} {_spanish}": f"{_english} {field}" for field, name in FIELDS.items()}
MARKS = ("ruv", "sil")
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
    question = text.split("<user> ")[1].replace(wording_of(text)[1], "").split()
    found = []
    for i, word in enumerate(question):
        two = " ".join(question[i : i + 2])
        if two in ENGLISH:
            found.append(ENGLISH[two])
        elif word in ENGLISH and not any(word in name.split() for name in found):
            found.append(ENGLISH[word])
        elif word in THINGS:
            found.append(two if two.split()[-1] in MARKS else word)
    # The words of a compound are a field and more: the compound is what is asked.
    named = [n for n in found if not any(n != m and n in m.split() for m in found)]
    named = [n for n in named if n not in {FIELDS.get(f) for m in found for f in m.split()}]
    assert len(named) <= 1, text
    return named[0] if named else ""


def card_of(text: str) -> dict[str, tuple[str, ...]]:
    """English category -> value, read off the card of a prompt: a value has two syllables."""
    card = re.search(r"(?:card of|ficha de) \w+ : (.*?) \. <user>", text).group(1)
    fields = [field.rsplit(" ", 2) for field in card.split(" , ")]
    return {ENGLISH[category]: tuple(value) for category, *value in fields}


def manual_of(text: str) -> tuple[tuple[str, ...], ...]:
    """The steps in the manual of a prompt, read off it."""
    words = re.search(r"manual : (.*?) \. <user>", text).group(1).split()
    syllables = [word for word in words if word.endswith("ph")]
    return tuple(zip(syllables[::2], syllables[1::2]))


def is_private(name: str) -> bool:
    """Whether a field or compound is private: a compound is what its field is."""
    return name.split()[-1] in PRIVATE


def sum_of(text: str) -> tuple[int, list[tuple[str, int]], int]:
    """(start, signed steps, result) of a word problem, by reading it."""
    start = int(re.search(r"(?:has|tiene) (\d+)", text).group(1))
    steps = [
        ("+" if verb in PLUS else "-", int(n))
        for verb, n in re.findall(r"(\w+) (\d+) \.", text)
        if verb in PLUS | MINUS
    ]
    return start, steps, start + sum(n if sign == "+" else -n for sign, n in steps)
