"""The listing of parameters, held against what the configuration accepts."""

import re

import pytest

from hybridlib.config import PARAMETERS, load_config
from hybridlib.store.errors import ParameterError
from hybridlib.study.parameters import NAMES, listing

# What lets every other parameter have its largest value: no reward model, and small products.
SMALL = {"rewards": "keyword", "genuine_refusal_share": 0, "superficial_refusal_share": 0,
         "leaky_thought_share": 0, "base_steps": 1, "base_batch": 1, "layers": 1, "steps": 1,
         "prompts_per_step": 1, "group_size": 2, "max_completion": 1}  # fmt: skip
LINE = re.compile(r"  (\w+) +(\S.*?)  +(\S.*?)  +(\S.*)")


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str, str]]:
    """Name -> (default, range, meaning) of smoke."""
    lines = listing(load_config("smoke")).partition("names in full")[0].splitlines()
    return {m[1]: (m[2], m[3], m[4]) for line in lines if (m := LINE.fullmatch(line))}


def test_every_parameter_is_listed_once_with_the_value_of_the_preset(rows):
    assert rows.keys() == PARAMETERS.keys()
    assert rows["steps"] == ("2", "1 to 1000000", "optimiser steps of RL")
    assert rows["scope"][:2] == ("whole", "answer, whole")
    assert rows["gate"][:2] == ("False", "True, False")
    assert rows["requests"][0] == rows["drawn"][0] == "none"


def test_ranges_and_rates_are_listed_below_their_parameter():
    drawn = {"hidden_size": [145, 239], "minority_share": [0.2, 0.4]}
    text = listing(load_config("smoke", drawn=drawn, learning_rates={"rl/keyword": 3e-3}))
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  drawn"))
    assert "below" in lines[at]
    assert lines[at + 1 : at + 3] == [
        "    hidden_size: 145 to 239",
        "    minority_share: 0.2 to 0.4",
    ]
    assert "    rl/keyword: 0.003" in lines


def test_a_bound_that_is_listed_is_the_first_value_beyond_which_is_refused(rows):
    checked = 0
    for name, (_, span, _) in rows.items():
        if found := re.fullmatch(
            r"(?:own, or )?(above )?(-?\d+)(?: to |, at most )([\d.e+]+)", span
        ):
            least, most = int(found[2]), float(found[3])
            values = [least + 1e-3 if found[1] else least, most]
            for edge in (32, 4096) if name == "hidden_size" else values:
                edge = (float if isinstance(load_config("smoke").flat()[name], float) else int)(
                    edge
                )
                assert load_config("smoke", **SMALL | {name: edge}).flat()[name] == edge
            for value in (least if found[1] else least - 1, int(1.1 * most) + 1):
                with pytest.raises(ParameterError, match=name):
                    load_config("smoke", **{name: value})
            checked += 1
    assert checked == 48


@pytest.mark.parametrize("name", NAMES)
def test_names_are_listed_in_full_and_others_are_refused(name: str):
    text = " ".join(listing(load_config()).partition("names in full")[2].split())
    assert f"{name}: {', '.join(NAMES[name])}" in text
    with pytest.raises(ParameterError):
        load_config("smoke", **{name: "nothing-of-the-kind"})
