"""What a stage of a study is handed, and the key of its result: the hash of exactly that."""

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar


def digest(content: Any) -> str:
    """The sha256 in hex of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Given:
    """The parameters that a stage was handed, by attribute.

    Asking for any other raises AttributeError, so no stage can read what its key does not hold.
    """

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("what a stage was handed does not change")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this stage was not handed the parameter {name!r}")

    def __contains__(self, name: str) -> bool:
        return name in vars(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(digest(vars(self)))

    def inputs(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Stage:
    """A stage as its function gets it. Its fields are all that its result depends on.

    A field may be a plain JSON value, a `Given` (its parameters count as fields), an object with
    `inputs()`, or the stage whose result it starts from. A field that is None does not count.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int]  # raised by hand when results change although the fields do not

    def inputs(self) -> dict[str, Any]:
        """What is hashed, as JSON: parameters, and the keys of the stages that this starts from."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Given):
                found |= value.inputs()
            elif isinstance(value, Stage):
                found[field.name] = value.key
            elif value is not None:
                found[field.name] = value.inputs() if hasattr(value, "inputs") else value
        return found

    @cached_property
    def key(self) -> str:
        """16 hex digits: the stage, its version, and all that its result depends on."""
        return digest([self.NAME, self.VERSION, self.inputs()])[:16]
