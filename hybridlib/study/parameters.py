"""What a study can be asked for: every parameter with its default, its range and its meaning."""

import textwrap
from typing import Any

from hybridlib.config import MODELS, PARTS, SEED, SEEDS, RunConfig, presets
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
    "beside": tuple(presets()),
}


def listing(config: RunConfig) -> str:
    """One line a parameter, by group: name, the preset's value, range, meaning."""
    rows: list[tuple[str, ...]] = []
    for part, model in PARTS.items():
        rows.append((f"\n{part}: {model.__doc__.strip().splitlines()[0]}",))
        for name, schema in model.model_json_schema()["properties"].items():
            value = getattr(getattr(config, part), name)
            inside = value.items() if isinstance(value, dict) else ()
            shown = "below" if inside else brief(value)
            rows.append((f"  {name}", shown, span(name, schema), schema["description"]))
            rows += [(f"    {each}: {_plain(of)}",) for each, of in inside]
    widths = [max(len(row[i]) for row in rows if len(row) > 1) for i in range(3)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, [*widths, 0])) for row in rows]
    lines.append("\nnames in full")
    for name, known in NAMES.items():
        lines += textwrap.wrap(f"{name}: {', '.join(known)}", 98, initial_indent="  ",
                               subsequent_indent="    ")  # fmt: skip
    head = f"preset {config.preset}: name, default, range, meaning\n"
    return head + "\n".join(line.rstrip() for line in lines)


def _plain(value: Any) -> str:
    """A number, or a range of numbers."""
    return " to ".join(map("{:g}".format, value if isinstance(value, tuple) else [value]))


def brief(value: Any) -> str:
    """A value as a person writes it; of a long list its ends."""
    if isinstance(value, tuple):
        names = [str(each) for each in value]
        value = ", ".join([names[0], "...", names[-1]] if len(names) > 3 else names)
    return str(value) if value not in ("", {}) else "none"


def span(name: str, schema: dict[str, Any]) -> str:
    """The values that a parameter may have: '0 to 1', 'above 0, at most 1', 'all, en, es'."""
    said = {
        "seeds": f"at most {SEEDS}, each 0 to {SEED}",
        "base_seed": f"own, or 0 to {SEED}",
        "drawn": "[least, most] of a share or of hidden_size",
    } | {n: brief(known) for n, known in NAMES.items()}
    if name in said:
        return said[name]
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema["type"] == "boolean":
        return "True, False"
    if name == "learning_rates":
        return f"each {span('', schema['additionalProperties'])}"
    most = schema["maximum"]
    return f"{schema['minimum']} to {most}" if "minimum" in schema else f"above 0, at most {most}"
