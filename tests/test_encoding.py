"""Text is UTF-8 whatever the locale: every call that reads, writes or is told text says so."""

import ast

from hybridlib.store.paths import PROJECT

SOURCES = [path for room in ("hybridlib", "bench") for path in (PROJECT / room).rglob("*.py")]


def of_text(call: ast.Call) -> bool:
    """Whether a call may read, write or be told text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        owner = getattr(getattr(call.func, "value", None), "id", "")
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        return owner not in ("os", "Image") and not any("b" in str(mode) for mode in modes)
    true = [w.arg for w in call.keywords if getattr(w.value, "value", None) is True]
    told = "text" in true or "universal_newlines" in true
    return told or name in ("read_text", "write_text", "TextIOWrapper")


def test_the_encoding_is_named():
    unnamed = [
        f"{path.name}:{call.lineno}"
        for path in SOURCES
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and of_text(call)
        if "encoding" not in [word.arg for word in call.keywords]
    ]
    assert SOURCES and not unnamed
