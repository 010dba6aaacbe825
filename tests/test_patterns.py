"""Every pattern of the package takes linear time, on whatever text."""

import importlib
import pkgutil
import re
import signal
from collections.abc import Iterator

import pytest

import hybridlib
from hybridlib.study import notebook

LENGTH, SECONDS = 60_000, 0.6  # of the processor; those of linear time need some hundredths
UNITS = [
    "a", "A", "1", "/", "/a", "a/", '"', "'", "\\", " ", "\n", "\t", "   1", "        x", "   x",
    "        " + 60 * " x" + "\n", "<", "<a", "</", "<!-- a -->\n", "<!-- a ", "[", "](", "[a](",
    "\x1b[", "\x1b[1;", ";", "-", "1,", ".", "1.", "_", "a_", "|", "`", "```\n", "$", "$a", "word ",
    "I can't ", "http://", "a@", "(", "{", "你", "你 ", "é", "n't", ":", "=", "*", "#", "~",
]  # fmt: skip


def inside(value: object) -> Iterator[re.Pattern]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for part in value.values() if isinstance(value, dict) else value:
            yield from inside(part)


def compiled() -> dict[str, re.Pattern]:
    """module.NAME -> each compiled pattern that a module of the package holds."""
    found = {}
    for module in pkgutil.walk_packages(hybridlib.__path__, "hybridlib."):
        for name, value in vars(importlib.import_module(module.name)).items():
            for nth, pattern in enumerate(inside(value)):
                found[f"{module.name}.{name}[{nth}]"] = pattern
    return found


PATTERNS = compiled()


def expired(number: int, frame: object) -> None:
    raise TimeoutError


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_takes_linear_time(name: str):
    before = signal.signal(signal.SIGVTALRM, expired)
    try:
        for unit in UNITS:
            for text in (unit * (LENGTH // len(unit)), f"        /{unit * (LENGTH // len(unit))}"):
                signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
                try:
                    PATTERNS[name].sub("", text)
                    PATTERNS[name].fullmatch(text)
                except TimeoutError:
                    pytest.fail(f"{name} takes over {SECONDS} s for {LENGTH} letters of {unit!r}")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_the_patterns_are_found():
    assert {"hybridlib.study.notebook.ANSI[0]", "hybridlib.publish.docs.BLOCK[0]"} <= set(PATTERNS)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("/tmp/ipykernel_71/12.py:1: a warning", "cell:1: a warning"),
        ("in File:/var/a b/tmp/ipykernel_7/1.py", "in File:/var/a bcell"),
        (r'"\n/tmp/ipykernel_7/1.py\n/a/ipykernel_8/2.py"', r'"\ncell\ncell"'),
        ("/tmp/ipykernel_7/x.py /ipykernel_7/1.py", "/tmp/ipykernel_7/x.py /ipykernel_7/1.py"),
    ],
)
def test_the_file_of_a_cell_is_named_without_its_place(said: str, left: str):
    assert notebook.CELL_FILE.sub(r"\1cell", said) == left


def test_lines_about_what_still_runs_are_left_out():
    said = "        base   12 s so far   loss 1\n        no   41 s\nx   1 s so far\n"
    left = "        no   41 s\nx   1 s so far\n"
    assert notebook.STILL_RUNNING.sub("", said) == left
