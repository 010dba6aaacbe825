"""What a study can be asked for: every parameter with its default, its range and its meaning."""

import textwrap
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from hybridlib.config import MODELS, PARTS, PRESETS, RunConfig
from hybridlib.tasks.public import judges, requests, word_problems
from hybridlib.variants import REWARDS, measured

#: The names that a parameter may hold, where its type does not say them.
NAMES = {
    "model": MODELS,
    "variants": measured(),
    "rewards": REWARDS,
    "requests": tuple(requests.SOURCES),
    "judges": tuple(judges.JUDGES),
    "problems": tuple(word_problems.SETS),
    "beside": tuple(sorted(path.stem for path in PRESETS.glob("*.yaml"))),
}


def listing(config: RunConfig) -> str:
    """One line a parameter, by group: name, the preset's value, range, meaning."""
    rows: list[tuple[str, ...]] = []
    for part, model in PARTS.items():
        rows.append((f"\n{part}: {model.__doc__.strip().splitlines()[0]}",))
        values = getattr(config, part)
        for name, field in model.model_fields.items():
            value = brief(getattr(values, name))
            rows.append((f"  {name}", value, span(name, field), field.description))
    widths = [max(len(row[i]) for row in rows if len(row) > 1) for i in range(3)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, [*widths, 0])) for row in rows]
    lines.append("\nnames in full")
    for name, known in NAMES.items():
        lines += textwrap.wrap(f"{name}: {', '.join(known)}", 98, initial_indent="  ",
                               subsequent_indent="    ")  # fmt: skip
    head = f"preset {config.preset}: name, default, range, meaning\n"
    return head + "\n".join(line.rstrip() for line in lines)


def brief(value: Any) -> str:
    """A value as a person writes it; of a long list its ends."""
    if isinstance(value, tuple):
        names = [str(each) for each in value]
        value = ", ".join([names[0], "...", names[-1]] if len(names) > 3 else names)
    return str(value) if value not in ("", {}) else "none"


def span(name: str, field: FieldInfo) -> str:
    """The values that a parameter may have: '0 to 1', 'at least 1', 'all, en, es'."""
    if name in NAMES:
        return brief(NAMES[name])
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    if field.annotation is bool:
        return "True, False"
    bounds = {
        kind: getattr(limit, kind)
        for limit in field.metadata
        for kind in ("ge", "gt", "le")
        if hasattr(limit, kind)
    }
    if "gt" in bounds:
        return f"above {bounds['gt']}"
    if "ge" in bounds:
        return f"{bounds['ge']} to {bounds['le']}" if "le" in bounds else f"at least {bounds['ge']}"
    return {"seeds": "each at least 0", "learning_rates": "each above 0"}[name]
