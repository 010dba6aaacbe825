"""From text to value, the one way: parameter files, values of `-p`, what papermill leaves as text.

It is YAML, of which only `true`, `false`, `null`, decimal numbers, text, lists and `name: value`
have a meaning. What YAML 1.1 would change on the way (`010` is 8, `1:5` is 65, `yes` is true) stays
text, which a parameter that is a number or a truth refuses.
"""

import re
from collections import Counter
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from hybridlib.store.errors import ParameterError

LIMIT = 1 << 15  # characters: a thousand seeds and a rate for every arm fit well
DEPTH = 8  # lists within lists; RunConfig has two


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core values; no tags, no anchors, no name given twice."""

    yaml_implicit_resolvers: dict = {}
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="&, * and ! have no meaning here: put it in quotes",
                                       problem_mark=event.start_mark)  # fmt: skip
        if self.depth > DEPTH:
            raise yaml.MarkedYAMLError(problem="too deep", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = Counter(str(key.value) for key, _ in node.value)
        if twice := [name for name, count in names.items() if count > 1]:
            raise yaml.MarkedYAMLError(problem=f"{shown(twice[0])} is given twice",
                                       problem_mark=node.start_mark)  # fmt: skip
        return super().construct_mapping(node, deep)


_INTEGER = "[-+]?(0|[1-9][0-9]*)"
for _tag, _pattern in {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": _INTEGER,
    "float": rf"({_INTEGER}(\.[0-9]*)?|[-+]?\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
}.items():
    _pattern = re.compile(rf"({_pattern})\Z")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def parse(text: str) -> Any:
    """The value that a text says. Raises ValueError, in one line, if it says none."""
    if len(text) > LIMIT:
        raise ValueError(f"it is longer than {LIMIT} characters")
    try:
        found = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if "\n" in text.strip() else ""
        raise ValueError(f"{line}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"it holds the character {error.character:#x}") from None
    except ValueError:
        raise ValueError("it holds a number of too many digits") from None
    if found is None:
        raise ValueError("it is empty")
    return found


def read(path: Path) -> dict[str, Any]:
    """The parameters that a file holds: text in utf-8, `name: value` on each line.

    Raises ParameterError, which names the file, if it holds none or cannot be read.
    """
    try:
        if not S_ISREG(path.stat().st_mode):  # a pipe may wait for ever, a device never end
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            found = parse(file.read(4 * LIMIT).decode("utf-8-sig"))
        if not isinstance(found, dict) or not found or {type(name) for name in found} != {str}:
            raise ValueError("it must hold lines of the form name: value")
        if empty := [name for name, value in found.items() if value is None]:
            raise ValueError(f"{shown(empty[0])} has no value")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        name = shown(str(path)).strip("'\"")
        raise ParameterError(f"{name} is no file of parameters: {reason}") from None
    return found


def shown(value: Any) -> str:
    """A value as Python writes it, in one line, of a long one the start."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
