"""The listing of parameters, held against what the configuration accepts."""

import re

import pytest

from hybridlib.config import PARAMETERS, load_config
from hybridlib.store.errors import ParameterError
from hybridlib.study.parameters import NAMES, listing

LINE = re.compile(r"  (\w+) +(\S.*?)  +(\S.*?)  +(\S.*)")


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str, str]]:
    """Name -> (default, range, meaning) of smoke."""
    lines = listing(load_config("smoke")).partition("names in full")[0].splitlines()
    return {m[1]: (m[2], m[3], m[4]) for line in lines if (m := LINE.fullmatch(line))}


def test_every_parameter_is_listed_once_with_the_value_of_the_preset(rows):
    assert rows.keys() == PARAMETERS.keys()
    assert rows["steps"] == ("2", "at least 1", "optimiser steps of RL")
    assert rows["scope"][:2] == ("whole", "answer, whole")
    assert rows["gate"][:2] == ("False", "True, False")
    assert rows["requests"][0] == "none"


def test_a_bound_that_is_listed_is_the_first_value_beyond_which_is_refused(rows):
    checked = 0
    for name, (_, span, _) in rows.items():
        if found := re.fullmatch(r"(?:(at least|above) )?(-?\d+)(?: to (\d+))?", span):
            least, most = int(found[2]), found[3]
            edge = 96 if name == "hidden_size" else least if found[1] != "above" else least + 1
            assert load_config("smoke", **{name: edge}).flat()[name] == edge
            beyond = [least if found[1] == "above" else least - 1]
            for value in beyond + ([int(most) + 1] if most else []):
                with pytest.raises(ParameterError, match=name):
                    load_config("smoke", **{name: value})
            checked += 1
    assert checked > 40


@pytest.mark.parametrize("name", NAMES)
def test_names_are_listed_in_full_and_others_are_refused(name: str):
    text = " ".join(listing(load_config()).partition("names in full")[2].split())
    assert f"{name}: {', '.join(NAMES[name])}" in text
    with pytest.raises(ParameterError):
        load_config("smoke", **{name: "nothing-of-the-kind"})
