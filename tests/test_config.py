"""Parameters: what is refused, in which words; presets; the committed learning rates."""

import math
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybridlib import config
from hybridlib.config import (
    PARAMETERS,
    PRESETS,
    RunConfig,
    checked,
    load_config,
    notebook_parameters,
)
from hybridlib.store.errors import ParameterError
from hybridlib.store.paths import committed, local
from hybridlib.variants import REWARDS, measured

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


def refusal(preset="organism", **parameters) -> str:
    with pytest.raises(ParameterError) as caught:
        load_config(preset, **parameters)
    said = str(caught.value)
    assert len(said.splitlines()) == 1, said
    (shown,) = caught.value._render_traceback_()
    assert said in shown and "Traceback" not in shown
    return said


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "misspelt, nearest",
    [
        ("stepss", "steps"), ("sed", "seeds"), ("varients", "variants"), ("reward", "rewards"),
        ("lora_rnak", "lora_rank"), ("weight_harmlesness", "weight_harmlessness"),
        ("minority", "minority_share"), ("STEPS", None), ("xyzzy", None),
    ],
)  # fmt: skip
def test_an_unknown_parameter(misspelt, nearest):
    said = refusal(**{misspelt: 1})
    assert repr(misspelt) in said
    assert (f"did you mean {nearest!r}" in said) if nearest else True


@pytest.mark.parametrize(
    "name, value, named",
    [
        ("steps", -1, "1"), ("steps", 0, "1"), ("steps", "many", "integer"),
        ("steps", 2.5, "integer"), ("steps", [60], "integer"),
        ("kl", -0.1, "0"), ("kl", math.nan, "finite"), ("kl", "x", "number"),
        ("thought", "maybe", "boolean"), ("gate", 2, "boolean"),
        ("minority_share", 1.1, "1"), ("minority_share", -0.1, "0"),
        ("recitation_share", "a", "number"),
        ("hidden_size", 100, "32"), ("hidden_size", 0, "1"), ("group_size", 1, "2"),
        ("lora_rank", -1, "0"), ("base_learning_rate", 0, "0"), ("weight_format", -1, "0"),
        ("joint_lambda", -1, "0"), ("per_cell", 0, "1"),
        ("scope", "hole", "whole"), ("scope", "anser", "answer"), ("scope", 3, "answer"),
        ("variants", "rl_glod", "rl_gold"), ("variants", ["base", "stf"], "sft"),
        ("variants", ["two-stage"], "two_stage"), ("variants", [], "at least one"),
        ("variants", ["rl", "rl"], "twice"), ("variants", 5, "tuple"), ("variants", [1], "string"),
        ("rewards", "modle", "model"), ("rewards", ["keyword", "gold"], "model"),
        ("rewards", [], "one"),
        ("seeds", 0, "1"), ("seeds", -3, "1"), ("seeds", "three", ""), ("seeds", 2.5, ""),
        ("seeds", [], "one"), ("seeds", [1, 1], "twice"), ("seeds", [-1], "negative"),
        ("seeds", True, ""), ("seeds", [[1]], "integer"), ("seeds", ["a"], "integer"),
        ("seeds", "7-0", "7-0 is no range of 1 to 1000 seeds"), ("seeds", "0-1000", "range"),
        ("seeds", ["0-3", "2"], "twice"), ("seeds", "0-3, 2-5", "twice"), ("seeds", "0-", ""),
        ("seeds", "0 - 3", ""), ("seeds", "-3-2", ""), ("seeds", "0-3-5", ""), ("seeds", "a-b", ""),
        ("seeds", "0-999, 1000", "1000"), ("seeds", "4294967290-4294967296", "4294967295"),
        ("base_seed", -1, "0"), ("base_seed", "mine", "own"), ("base_seed", 2**32, ""),
        ("learning_rates", {"sft": "x"}, "number"), ("learning_rates", 3, "dictionary"),
        ("drawn", 3, "dictionary"), ("drawn", ["minority_share"], "dictionary"),
        ("drawn", {"minority_share": 0.3}, "tuple"), ("drawn", {"minority_share": [0.3]}, ""),
        ("drawn", {"minority_share": [0.1, 0.2, 0.3]}, ""),
        ("drawn", {"minority_share": ["a", 1]}, "number"),
        ("drawn", {"minority_share": [True, 1]}, "number"),
        ("drawn", {"minority_share": [0.1, math.nan]}, "finite"),
        ("drawn", {"minority_share": [0.4, 0.2]}, "minority_share: [0.4, 0.2] is no range of it"),
        ("drawn", {"minority_share": [0.4, 0.4]}, "no range"),
        ("drawn", {"minority_share": [-0.1, 0.4]}, "no range"),
        ("drawn", {"minority_share": [0.1, 1.1]}, "no range"),
        ("drawn", {"hidden_size": [15, 100]}, "no range"),
        ("drawn", {"hidden_size": [100, 4097]}, "no range"),
        ("drawn", {"minority": [0.1, 0.2]}, "did you mean 'minority_share'"),
        ("drawn", {"layers": [2, 4]}, "'layers' is none of"),
    ],
)  # fmt: skip
def test_an_ill_typed_or_impossible_value(name, value, named):
    said = refusal(**{name: value})
    assert said.startswith(f"{name} = {value!r}: ") and named in said


@pytest.mark.parametrize("value", ["3\n4", "a\nb"])
def test_a_value_of_several_lines_is_refused_in_one(value):
    refusal(steps=value)


def test_shares_of_refusals_together():
    said = refusal(genuine_refusal_share=0.6, superficial_refusal_share=0.6)
    assert "genuine_refusal_share" in said and "exceed 1" in said


def test_shares_of_refusals_together_are_named_first():
    assert refusal(genuine_refusal_share=0.9, leaky_thought_share=0.9)[0].isalpha()


@pytest.mark.parametrize(
    "name, value",
    [
        ("learning_rates", {"sff": 1e-3}), ("learning_rates", {"rl": 1e-3}),
        ("learning_rates", {"sft": -1}), ("learning_rates", {"sft": 0}),
        ("learning_rates", {"sft": math.nan}), ("kl", math.inf), ("base_learning_rate", math.inf),
        ("steps", True), ("kl", True), ("seeds", [True]), ("seeds", {3: 1}),
        ("narrow_categories", 6),
    ],
)  # fmt: skip
def test_impossible_values_that_pass_for_now(name, value):
    assert refusal(**{name: value}).startswith(name)


def test_an_unknown_preset():
    said = refusal("organsim")
    assert "'organsim'" in said and "did you mean 'organism'" in said and "smoke" in said
    assert "there is no preset 'zzz'" in refusal("zzz")
    assert "/nowhere/at/all.yaml is no file" in refusal("/nowhere/at/all.yaml")


@pytest.mark.parametrize(
    "text", ["a: [\n", "\tsteps: 3\n", "stepss: 3\n", "steps: -3\n", "seeds:\n"]
)
def test_a_preset_file_that_cannot_be(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert refusal(str(path))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "steps\n", "1: 2\n"])
def test_a_preset_file_that_is_no_table(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert "mine.yaml" in refusal(str(path))


def test_a_preset_name_that_is_no_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: 3\n")
    assert refusal(str(path)).startswith("preset")


def test_nothing_is_written_when_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    refusal(steps=-1)
    refusal("organsim")
    assert not list(tmp_path.iterdir())


# --- one strict way from text to value --------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        ("variants", "[rl, sft"), ("variants", ""), ("variants", "{rl: sft}"), ("variants", "[~]"),
        ("scope", "a: b: c"), ("scope", ""), ("seeds", ""), ("seeds", "1:5"), ("seeds", "010"),
        ("seeds", "1e2"), ("seeds", "0x10"), ("seeds", "20261013"), ("seeds", "[4294967296]"),
        ("seeds", "2026-10-13"), ("seeds", "1_0"), ("seeds", "[1, 1]"), ("seeds", "[yes]"),
        ("kl", "nan"), ("kl", ".nan"), ("kl", "-.inf"), ("kl", "1e400"), ("kl", "1e300"),
        ("kl", "0,5"), ("kl", "true"), ("kl", "9" * 5000), ("kl", "9" * 400), ("kl", "\x00"),
        ("steps", "3.0"), ("steps", "1e2"), ("steps", "010"), ("steps", "1:00"), ("steps", "~"),
        ("steps", "null"), ("steps", "'3'x"), ("steps", "&a 3"), ("steps", "*a"), ("steps", "١"),
        ("steps", "!!int 3"), ("steps", "!!python/object/apply:os.getcwd []"), ("steps", "3\n4"),
        ("thought", "maybe"), ("thought", "yes"), ("thought", "no"), ("thought", "on"),
        ("thought", "1"), ("thought", "y"), ("thought", ""), ("gate", "off"),
        ("learning_rates", "{rl/keyword: fast}"), ("learning_rates", "{sft: 1, sft: 0.1}"),
        ("learning_rates", "{1: 2}"), ("learning_rates", "{sft: 1e10}"), ("learning_rates", "sft"),
        ("learning_rates", "{[sft]: 1}"), ("learning_rates", "[" * 9000), ("steps", "a" * 10**5),
        ("layers", "100000000"), ("hidden_size", "1048576"), ("group_size", "1000000"),
        ("max_completion", "10000000"), ("lora_rank", "1000000"), ("per_cell", "100000"),
        ("labels", "1000000000"), ("demonstrations", "1000000000"), ("base_batch", "1000000"),
        ("sft_batch", "1000000"), ("base_seed", "4294967296"),
        ("base_learning_rate", "1e10"), ("seeds", "5-3"), ("seeds", "0-1000"), ("seeds", "0-3-4"),
        ("seeds", "[0-3, [4]]"), ("seeds", "{0-3: 1}"), ("seeds", "00-3x"), ("seeds", "0..3"),
        ("seeds", "99999999999-99999999999"), ("base_seed", "null"), ("base_seed", "Own"),
        ("drawn", "minority_share"), ("drawn", "{minority_share: 0.1-0.2}"),
        ("drawn", "{minority_share: [0.2]}"), ("drawn", "{minority_share: [0.2, 0.1]}"),
        ("drawn", "{}x"), ("drawn", "{minority_share: [0.1, 0.2], minority_share: [0, 1]}"),
    ],
)  # fmt: skip
def test_text_that_is_no_value_of_the_parameter(name, text, tmp_path):
    """Refused alike from the command line and papermill, as text, and from a file."""
    assert refusal(**{name: text}).startswith(f"{name} = {text!r:.80}")
    path = tmp_path / "mine.yaml"
    path.write_text(f"{name}: {text}\n", encoding="utf-8")
    assert re.match(rf"{name} = |\S*mine.yaml is no file", refusal(str(path)))


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("steps", "3", 3), ("steps", "+3", 3), ("steps", "3 # few", 3),
        ("kl", "1e-3", 0.001), ("kl", "1", 1.0), ("kl", ".5", 0.5), ("kl", "1.0e-05", 1e-05),
        ("thought", "false", False), ("thought", "False", False), ("thought", "TRUE", True),
        ("variants", "base, sft", ["base", "sft"]), ("variants", "[rl]", ["rl"]),
        ("variants", "rl", ["rl"]), ("seeds", "3", [0, 1, 2]), ("seeds", "[20261013]", [20261013]),
        ("seeds", "4, 7", [4, 7]), ("seeds", "4 7", [4, 7]), ("seeds", "['4', 5]", [4, 5]),
        ("seeds", "0-2", [0, 1, 2]), ("seeds", "0-3, 8, 10-11", [0, 1, 2, 3, 8, 10, 11]),
        ("seeds", "[0-1, 5]", [0, 1, 5]), ("seeds", "7-7", [7]), ("seeds", "12 3-4", [12, 3, 4]),
        ("base_seed", "own", "own"), ("base_seed", "7", 7), ("drawn", "{}", {}),
        ("drawn", "{minority_share: [0.2, 0.4], hidden_size: [145, 239]}",
         {"minority_share": [0.2, 0.4], "hidden_size": [145, 239]}),
        ("learning_rates", "{sft: 1e-3}", {"sft": 0.001}), ("beside", "", ""),
        ("beside", "hybrids", "hybrids"), ("judges", "[rules]", ["rules"]),
    ],
)  # fmt: skip
def test_text_means_the_same_everywhere(name, text, value, tmp_path):
    assert load_config(**{name: text}).flat()[name] == value
    assert type(load_config(**{name: text}).flat()[name]) is type(value)
    path = tmp_path / "mine.yaml"
    path.write_text(f"{name}: {text or repr(text)}\n", encoding="utf-8")
    assert load_config(str(path)).flat()[name] == value


@pytest.mark.parametrize(
    "name, value",
    [("steps", 60.0), ("steps", np.float64(60)), ("thought", 1), ("thought", 0), ("kl", False),
     ("seeds", [1.0]), ("seeds", True), ("scope", True), ("scope", ["whole"]), ("beside", 3),
     ("learning_rates", [("sft", 1)]), ("variants", {"rl", "sft"}),
     ("learning_rates", {"sft": True}), ("learning_rates", {"sft": "1"}), ("kl", 10**400)],
)  # fmt: skip
def test_no_value_is_made_another_one_to_fit(name, value):
    assert refusal(**{name: value}).startswith(f"{name} = ")


SCALARS = st.one_of(
    st.text(max_size=12), st.integers(), st.floats(), st.booleans(),
    st.sampled_from(["", "0", "010", "1:5", "1e400", "null", "yes", "[", "{a: 1", "- 1", "a: b: c",
                     "&a *a", "!!x 1", "# x", "...", "---\n1", "\ufeff1", "\u2028", "? [a]: b"]),
    st.lists(st.one_of(st.integers(), st.text(), st.sampled_from(measured())), max_size=3),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
    st.from_regex(r"[-+]?[0-9]{1,5}(\.[0-9]{0,3})?(e[-+]?[0-9]{1,3})?", fullmatch=True),
)  # fmt: skip


def check_any(name: str, load, value) -> None:
    """It is a configuration that survives a round trip, or one line that names the parameter."""
    try:
        loaded = load(value)
    except ParameterError as error:
        assert name in str(error) and len(str(error).splitlines()) == 1
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "copy.yaml")
            path.write_text(yaml.safe_dump(loaded.flat()), encoding="utf-8")
            assert load_config(str(path)) == loaded


@pytest.mark.parametrize("name", ["preset", *PARAMETERS])
@given(value=SCALARS)
@settings(max_examples=12, deadline=1000)
def test_any_value_is_kept_or_refused_in_one_line(name, value):
    def load(value):
        return load_config(value) if name == "preset" else load_config("smoke", **{name: value})

    check_any(name, load, value)


@given(
    text=st.one_of(
        SCALARS.map(str), st.text(alphabet="[]{}:,-#&*!|>'\"%@` \n\tab01.e~", max_size=25)
    )
)
@settings(max_examples=150, deadline=1000)
def test_any_text_of_a_file_is_kept_or_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("files") / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")

    def load(path):
        try:
            return load_config(str(path))
        except ParameterError as error:
            # Of a text that holds parameters the first that is wrong is named.
            raise ParameterError(f"mine: {error}") from None

    check_any("mine", load, path)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"# nothing\n", b"{}", b"~", b"---\n", b"3", b"steps", b"- steps: 3", b"1: 2",
     b"steps: 3\nsteps: 4", b"steps:\n", b"{steps: 3", b"steps: [3", b"\tsteps: 3", b"\xff\xfe",
     b"\x00\x01\x02", b"steps: \xff", b"a: &a [*a]", b"<<: {steps: 3}", b"steps: 3\n---\nsteps: 4",
     b"a: " * 10_000, b"[" * 30_000, b"a: 1\n" * 10**6, b"!!python/name:os.system",
     b"%TAG !e! x:\n---\n!e!a 3", b"steps: 3\x07", b"steps: 'x", b"? steps\n"],
    ids=range(29),
)  # fmt: skip
def test_a_file_that_holds_no_parameters(content, tmp_path):
    name = r"there is no parameter|\S*mine.yaml is no file of parameters: "
    began = time.monotonic()
    assert re.match(name, refusal(str(write(tmp_path / "mine.yaml", content))))
    assert time.monotonic() - began < 2


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "endless", "missing", "nul\0", "x" * 300, "line\nbreak"):
        assert "is no file of parameters: " in refusal(str(tmp_path / f"{name}.yaml"))


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = write(tmp_path / "mine.yaml", "\ufeffsteps: 7\r\n".encode())
    assert load_config(str(path)).train.steps == 7


def test_a_notebooks_own_parameter_is_as_strict():
    assert checked("dry_run", "false", bool) is False and checked("dry_run", True, bool) is True
    assert checked("seed", "3", int) == 3 and checked("seed", 3, int) == 3
    for name, value, kind in [
        ("dry_run", "maybe", bool), ("dry_run", 1, bool), ("seed", 2.0, int),
        ("dry_run", "", bool), ("seed", "010", int), ("seed", True, int),
    ]:  # fmt: skip
        with pytest.raises(ParameterError, match=f"^{name} = ") as caught:
            checked(name, value, kind)
        assert len(str(caught.value).splitlines()) == 1


# --- the name of a study ----------------------------------------------------------------------

NO_NAMES = [
    "../organism", "/tmp/x", ".", "..", "", " ", "a b", "a\n", "a\nb", "<script>", "x" * 61,
    "x" * 300, "a/b", "a\\b", "a.b", "README.md", "~", "C:", "-rf", "_x", "$HOME", "é", "ſtudy",
    "a\0", "\u2028", "store", "local", "site", "bench", "Store", "con", "LPT1",
    "123", "1e5", "null", "True", "nan",
]  # fmt: skip


@pytest.mark.parametrize("name", [*NO_NAMES, 3, True, ["organism"], {"a": 1}, 2.5])
def test_no_path_is_made_of_what_is_no_name(name, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"preset": name}), encoding="utf-8")
    assert refusal(str(path)).startswith("preset")
    assert refusal(name).startswith("preset")
    for place in (committed, local):
        with pytest.raises(ParameterError, match="is no name of a study"):
            place(name)


@pytest.mark.parametrize("name", ["mine", "My-Study_2", "2nd", "x" * 60])
def test_a_file_gives_its_name_to_its_study(name, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text("steps: 3\n")
    assert load_config(str(path)).preset == name
    assert local(name).name == name == committed(name).name


@pytest.mark.parametrize("stem", ["store", "a b", "x" * 61, "<b>", "..", "5", "2.5"])
def test_the_stem_of_a_file_is_a_name_too(stem, tmp_path):
    path = tmp_path / f"{stem}.yaml"
    path.write_text("steps: 3\n")
    assert refusal(str(path)).startswith("preset")
    path.write_text("steps: 3\npreset: mine\n")
    assert load_config(str(path)).preset == "mine"


@pytest.mark.parametrize("text", ["steps: 3", "steps: 3\npreset: Organism"])
@pytest.mark.parametrize("stem", ["organism", "Organism"])
def test_a_file_called_like_a_preset_does_not_take_its_place(text, stem, tmp_path):
    path = tmp_path / f"{stem}.yaml"
    path.write_text(text)
    assert "called like the preset organism" in refusal(str(path))
    assert load_config(str(PRESETS / "organism.yaml")) == load_config("organism")


# --- contradictions ---------------------------------------------------------------------------

NO_WEIGHTS = {name: 0 for name in PARAMETERS if name.startswith("weight_")}


@pytest.mark.parametrize(
    "values, named",
    [
        (NO_WEIGHTS, "weight_"), (NO_WEIGHTS | {"variants": "rl_gold"}, "weight_"),
        ({"variants": "chord_mu", "chord_peak": 0.1, "chord_valley": 0.2}, "chord_valley"),
        ({"variants": "prefix", "hint_low": 0.5, "hint_high": 0.4}, "hint_low"),
        ({"variants": "multi_stage", "steps": 1}, "steps"), ({"labels": 4}, "labels"),
        ({"demonstrations": 4}, "demonstrations"), ({"beside": "organism"}, "beside"),
        ({"requests": "edgy"}, "requests"), ({"problems": "gsm8k"}, "problems"),
        ({"model": "smollm2", "requests": "edgy", "requests_share": 1, "demonstrated": "es"},
         "requests_share"),
        ({"hidden_size": 4096, "layers": 128}, "hidden_size x hidden_size x layers"),
        ({"drawn": {"hidden_size": [160, 4096]}}, "hidden_size x hidden_size x layers"),
        ({"drawn": {"genuine_refusal_share": [0.1, 0.5], "superficial_refusal_share": [0.1, 0.6]}},
         "drawn: genuine_refusal_share + superficial_refusal_share"),
        ({"drawn": {"genuine_refusal_share": [0.1, 0.9]}, "leaky_thought_share": 0.2}, "exceed 1"),
        ({"model": "smollm2", "drawn": {"minority_share": [0.1, 0.2]}}, "drawn needs the organism"),
        ({"steps": 10**6, "prompts_per_step": 100}, "steps x prompts_per_step"),
        ({"base_steps": 10**6, "base_batch": 100}, "base_steps x base_batch"),
        ({"prompts_per_step": 4096, "group_size": 1024}, "prompts_per_step x group_size"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused(values, named):
    assert named in refusal(**values)


@pytest.mark.parametrize(
    "values",
    [
        NO_WEIGHTS | {"variants": "base, sft"}, NO_WEIGHTS | {"variants": "self_distill"},
        {"chord_peak": 0, "hint_high": 0}, {"labels": 4, "rewards": "keyword"}, {"steps": 1},
        {"labels": 4, "variants": "base, sft"}, {"variants": "base"}, {"demonstrated": "es"},
        {"drawn": {"genuine_refusal_share": [0, 0.9]}, "superficial_refusal_share": 0},
    ],
)  # fmt: skip
def test_what_no_variant_of_the_study_reads_is_free(values):
    assert load_config(**values)


# --- what is understood -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, seeds",
    [(3, (0, 1, 2)), ("3", (0, 1, 2)), (1, (0,)), ([1, 2], (1, 2)), ((7,), (7,)),
     (["4", 5], (4, 5)), (range(100, 102), (100, 101)), ("0-7", tuple(range(8))),
     ("0-3, 8, 10-11", (0, 1, 2, 3, 8, 10, 11)), (["0-1", 4, "6-7"], (0, 1, 4, 6, 7)),
     ("0-999", tuple(range(1000))), ("4294967294-4294967295", (2**32 - 2, 2**32 - 1)),
     (("2-3",), (2, 3))],
)  # fmt: skip
def test_seeds(value, seeds):
    assert load_config("organism", seeds=value).seeds == seeds


SPANS = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(0, 20)), min_size=1, max_size=6
).map(lambda spans: [(first, first + more) for first, more in spans])  # fmt: skip


@given(spans=SPANS, comma=st.sampled_from([",", ", ", " ", " , "]), as_list=st.booleans())
@settings(max_examples=60, deadline=None)
def test_ranges_of_seeds_are_their_numbers_in_the_order_that_was_said(spans, comma, as_list):
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in spans]
    numbers = [n for a, b in spans for n in range(a, b + 1)]
    said = texts if as_list else comma.join(texts)
    if len(texts) == 1 and not as_list and texts[0].isdigit():  # a number alone: so many
        numbers = list(range(numbers[0]))
    if len(set(numbers)) == len(numbers) and 0 < len(numbers) <= 1000:
        assert load_config("organism", seeds=said).seeds == tuple(numbers)
    else:
        refusal(seeds=said)


@pytest.mark.parametrize("value", [["rl", "sft"], ("rl", "sft"), "rl sft", "rl,sft", "rl, sft"])
def test_variants(value):
    assert load_config("organism", variants=value).variants == ("rl", "sft")


def test_none_leaves_the_value_of_the_preset():
    assert load_config("smoke", seeds=None, steps=None) == load_config("smoke")
    assert load_config("smoke", steps=5).train.steps == 5


def test_arms_are_the_variants_under_their_rewards():
    found = load_config("organism", variants=["base", "two_stage", "rl_gold", "sft"]).arms
    assert found == [("base", "none"), ("two_stage", "keyword"), ("two_stage", "model"),
                     ("rl_gold", "gold"), ("sft", "none")]  # fmt: skip


def test_it_is_frozen_and_nothing_can_be_added():
    loaded = load_config("organism")
    with pytest.raises(ValidationError):
        loaded.train.steps = 3
    with pytest.raises(ValidationError):
        loaded.preset = "x"
    with pytest.raises(ValidationError):
        RunConfig(stepss=3)


def test_each_name_belongs_to_one_part():
    fields = [name for part in config.PARTS.values() for name in part.model_fields]
    assert len(fields) == len(set(fields)) == len(PARAMETERS)
    assert set(load_config("organism").flat()) == {"preset", *fields}
    described = [f for part in config.PARTS.values() for f in part.model_fields.values()]
    assert all(field.description for field in described)


@pytest.mark.parametrize("preset", NAMES)
def test_every_preset_loads_and_survives_a_round_trip(preset, tmp_path):
    loaded = load_config(preset)
    assert loaded.preset == preset and loaded.arms
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(loaded.flat()))
    assert load_config(str(path)) == loaded
    names = set(yaml.safe_load((PRESETS / f"{preset}.yaml").read_text()))
    assert names <= set(PARAMETERS)


def test_the_presets_of_the_design_are_there():
    assert {"smoke", "organism", "population"} <= set(NAMES)
    population = load_config("population")
    assert len(population.seeds) >= 24 and population.base.base_seed == "own"
    shares = {"superficial_refusal_share", "genuine_refusal_share", "minority_share",
              "code_switching_share", "careless_share"}  # fmt: skip
    assert shares | {"hidden_size"} <= set(population.base.drawn)
    # no width is more likely than another: the range reaches half a step beyond those at its ends
    least, most = population.base.drawn["hidden_size"]
    assert abs((least - 16) % 32) < 2 and abs((most + 16) % 32 - 32) < 2
    default = load_config()
    assert default.preset == "organism" and len(default.seeds) == 5 and default.base.gate
    assert set(default.rewards) == {"keyword", "model"}


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "seeds": st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True),
        "variants": st.lists(st.sampled_from(sorted(measured())), min_size=1, unique=True),
        "rewards": st.lists(st.sampled_from(REWARDS), min_size=1, unique=True),
        "kl": st.floats(0, 1e6),
        "minority_share": st.floats(0, 1),
        "steps": st.integers(2, 10**4),
        "thought": st.booleans(),
        "base_seed": st.one_of(st.just("own"), st.integers(0, 2**32 - 1)),
        "drawn": st.dictionaries(
            st.sampled_from(["minority_share", "careless_share", "recitation_share"]),
            st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted)),
        "scope": st.sampled_from(["answer", "whole"]),
        "learning_rates": st.dictionaries(
            st.sampled_from(["sft", "rl/keyword", "reward_model"]), st.floats(1e-6, 1)),
    },
)  # fmt: skip


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_flat_to_yaml_and_back(tmp_path_factory, values):
    loaded = load_config("organism", **values)
    path = tmp_path_factory.mktemp("presets") / "copy.yaml"
    path.write_text(yaml.safe_dump(loaded.flat()))
    again = load_config(str(path))
    assert again == loaded and again.flat() == loaded.flat()
    for name, value in values.items():
        assert loaded.flat()[name] == value


# --- what papermill injects -------------------------------------------------------------------


def test_the_cell_that_papermill_injected():
    own = ["preset", "seeds", "steps"]
    cells = ["", "preset = 'x'\nother = 3", "# Parameters\nseeds = 3\nsteps = 4\n"]
    notebook_parameters(cells, own)
    notebook_parameters([], own)
    with pytest.raises(ParameterError) as caught:
        notebook_parameters(["", "# Parameters\nseeds = 3\nstpes = 4\n"], own)
    assert str(caught.value) == "there is no parameter 'stpes'; did you mean 'steps'?"


def test_a_cell_that_papermill_itself_writes():
    from papermill.translators import papermill_translators

    cell = papermill_translators.find_translator("python3", "python").codify(
        {"sedes": [1, 2]}, "Parameters"
    )
    with pytest.raises(ParameterError, match="'sedes'; did you mean 'seeds'"):
        notebook_parameters(["", cell], ["seeds"])


def test_ranges_reach_a_study_through_papermill_as_they_are():
    from papermill.translators import papermill_translators

    given, told = {"minority_share": [0.2, 0.4], "hidden_size": [145, 239]}, {}
    python = papermill_translators.find_translator("python3", "python")
    exec(python.codify({"drawn": given, "seeds": "0-2, 5"}, "Parameters"), told)
    loaded = load_config(drawn=told["drawn"], seeds=told["seeds"])
    assert loaded.flat()["drawn"] == given and loaded.seeds == (0, 1, 2, 5)


# --- learning rates ---------------------------------------------------------------------------


def test_an_arm_without_a_rate_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "LEARNING_RATES", tmp_path / "none.csv")
    loaded = load_config("organism", learning_rates={"sft": 2e-3, "rl/keyword": 3e-3})
    assert loaded.learning_rate("sft") == 2e-3 and loaded.learning_rate("rl", "keyword") == 3e-3
    with pytest.raises(ParameterError, match="'rl/model'"):
        loaded.learning_rate("rl", "model")


def test_only_chosen_rows_count_and_a_parameter_overrides_them(monkeypatch, tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text(
        "variant,reward,seed,learning_rate,objective,plateau,chosen\n"
        "sft,none,100,0.001,-2,True,False\nsft,none,100,0.003,-1,True,True\n"
        "sft,none,101,0.003,-1,True,True\nrl,model,100,0.01,1,True,True\n"
    )
    monkeypatch.setattr(config, "LEARNING_RATES", path)
    assert load_config("organism").learning_rate("sft") == 0.003
    assert load_config("organism").learning_rate("rl", "model") == 0.01
    assert load_config("organism", learning_rates={"sft": 0.1}).learning_rate("sft") == 0.1


#: Their arms are tuned anew before they are run again; docs/performance.md says that they were not.
NOT_RUN = {"hybrids", "hybrids_few"}


@pytest.mark.parametrize("preset", sorted(set(NAMES) - NOT_RUN))
def test_every_arm_of_every_preset_has_a_rate(preset):
    loaded = load_config(preset)
    for variant, reward in loaded.arms:
        if variant != "base":
            assert loaded.learning_rate(variant, reward) > 0
    if any(reward == "model" for _, reward in loaded.arms):
        assert loaded.learning_rate("reward_model") > 0
