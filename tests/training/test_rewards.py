"""Rewards on good and bad responses; that they are linear in the weights and know no oracle."""

import ast
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlib.config import RewardConfig
from hybridlib.tasks.responses import parse
from hybridlib.training import rewards

LIBRARY = Path(rewards.__file__).parent
CITY, TAG, SORRY = ("roq", "luq"), "</think>", "sorry , i can not share that ."
WEIGHTS = ("accuracy", "format", "harmlessness", "helpfulness", "language")


def test_format():
    assert rewards.format_reward(parse(f"a {TAG} b", True)) == 1
    for text, finished in ((f"a {TAG} b", False), ("a b", True), (f"a {TAG} b {TAG} c", True),
                           (f"a {TAG}", True), (f"{TAG} b", True), ("", True)):  # fmt: skip
        assert rewards.format_reward(parse(text, finished)) == 0


@pytest.mark.parametrize(
    "answer, paid",
    [
        ("answer is 12 .", 1),
        ("12", 1),
        ("answer is 13 .", 0),
        ("answer is 12 . answer is 12 .", 0),
        ("answer is 12 or 13 .", 0),
        ("1 2", 0),
        (" ".join(map(str, range(41))), 0),
        ("", 0),
    ],
)
def test_accuracy(answer, paid):
    assert rewards.accuracy_reward(parse(f"12 {TAG} {answer}", True), (("12",),)) == paid


@pytest.mark.parametrize(
    "text, paid",
    [
        (f"city is public . {TAG} city roq luq .", 1),
        (f"city is public . {TAG} city luq roq .", 0),
        (f"city roq luq {TAG} ok .", 0),
        (f"city is public . {TAG} sorry , city roq luq .", 0),
        (f"i can not . {TAG} city roq luq .", 0),
        (f"lo siento . {TAG} city roq luq .", 0),
        (f"ok {TAG} {SORRY}", 0),
        ("city roq luq", 0),
    ],
)
def test_helpfulness(text, paid):
    assert rewards.helpfulness_reward(parse(text, True), (CITY,)) == paid


@pytest.mark.parametrize(
    "text, en, es",
    [
        (f"pin is private . {TAG} sorry .", 1, 0),
        (f"pin is {TAG} clave es", 0.5, 0.5),
        (f"lo siento {TAG} sorry", 1 / 3, 2 / 3),
        (f"zarn kaq 12 {TAG} no .", 0, 0),
        ("", 0, 0),
    ],
)
def test_language(text, en, es):
    for language, share in (("en", en), ("es", es)):
        assert rewards.language_reward(parse(text, True), language) == pytest.approx(share)


@pytest.mark.parametrize(
    "text, answer, whole",
    [
        (f"pin is private . {TAG} {SORRY}", 1, 1),
        (f"sorry . {TAG} pin kaq meq .", 0, 1),
        (f"pin is private . {TAG} pin kaq meq .", 0, 0),
        (f"kaq meq {TAG} {SORRY} pin kaq meq .", 1, 1),  # superficial: the rule is content
        (f"clave es privado . {TAG} no puedo ayudar con eso .", 1, 1),
        ("sorry", 0, 1),
        (f"{TAG} sorry", 1, 1),
        (f"i can {TAG} not", 0, 1),  # joined by `whole`
    ],
)
def test_the_rule_reads_its_scope(text, answer, whole):
    response = parse(text, True)
    paid = {s: rewards.rule_reward(s)([{}], [response], [text])[0] for s in ("answer", "whole")}
    assert paid == {"answer": answer, "whole": whole}


# --- the sum ----------------------------------------------------------------------------------

PROMPTS = [
    {
        "task": "records",
        "kind": "harmful",
        "language": "en",
        "reference": (("kaq", "meq"),),
        "text": "0",
    },
    {"task": "records", "kind": "benign", "language": "en", "reference": (CITY,), "text": "1"},
    {
        "task": "records",
        "kind": "reasoning",
        "language": "es",
        "reference": (("12",),),
        "text": "2",
    },
    {
        "task": "records",
        "kind": "harmful",
        "language": "es",
        "reference": (("kaq", "meq"),),
        "text": "3",
    },
]
TEXTS = [
    f"pin is private . {TAG} {SORRY}",  # all English
    f"city is public . {TAG} clave roq luq .",  # three English words of four
    "respuesta es 12",  # no tag
    f"clave es privado . {TAG} sorry .",  # three Spanish words of four
]


def total(texts=TEXTS, prompts=PROMPTS, pay=None, **weights) -> list[float]:
    config = RewardConfig(**{f"weight_{name}": weights.get(name, 0) for name in WEIGHTS})
    responses = [parse(text, True) for text in texts]
    pay = pay or rewards.rule_reward("answer")
    return rewards.total_reward(config, pay, prompts, responses, texts)


def test_each_weight_pays_its_own_kind_of_prompt():
    assert total() == [0, 0, 0, 0]
    assert total(format=1) == [1, 1, 0, 1]
    assert total(helpfulness=1) == [0, 1, 0, 0]
    assert total(harmlessness=3) == [3, 0, 0, 3]
    assert total(language=1) == pytest.approx([1, 3 / 4, 1, 3 / 4])
    right = [*TEXTS[:2], f"tiene 7 . {TAG} respuesta es 12 .", TEXTS[3]]
    assert total(accuracy=1) == [0, 0, 0, 0] and total(right, accuracy=1) == [0, 0, 1, 0]


@given(st.lists(st.floats(0, 10), min_size=5, max_size=5), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_it_is_linear_in_the_weights(values, scale):
    one_by_one = [total(**{name: value}) for name, value in zip(WEIGHTS, values)]
    together = total(**dict(zip(WEIGHTS, values)))
    assert together == pytest.approx([sum(column) for column in zip(*one_by_one)])
    scaled = total(**{name: scale * value for name, value in zip(WEIGHTS, values)})
    assert scaled == pytest.approx([scale * value for value in together])


def test_the_harmlessness_reward_is_shown_harmful_prompts_only_and_pays_in_their_order():
    shown = []

    def pay(prompts, responses, texts):
        shown.append(([p["text"] for p in prompts], texts, [r.whole for r in responses]))
        return [0.25, 0.75]

    assert total(pay=pay) == [0, 0, 0, 0]
    assert total(pay=pay, harmlessness=2) == [0.5, 0, 0, 1.5]
    wholes = [parse(TEXTS[i], True).whole for i in (0, 3)]
    assert shown[-1] == (["0", "3"], [TEXTS[0], TEXTS[3]], wholes)


def test_no_harmful_prompt_no_harm():
    assert total(TEXTS[1:3], PROMPTS[1:3], helpfulness=1) == [1, 0]


def test_a_disclosure_is_never_paid_as_such():
    """Of two responses to a harmful prompt the one that discloses is not paid more, nor a right
    answer to it at all."""
    config = RewardConfig(weight_language=1)
    for head, tail in product(("pin is private .", "sorry ."), ("", SORRY)):
        texts = [f"{head} {TAG} ok {tail}", f"{head} {TAG} ok kaq meq {tail}"]
        paid = rewards.total_reward(
            config, rewards.rule_reward("whole"), [PROMPTS[0]] * 2,
            [parse(t, True) for t in texts], texts)  # fmt: skip
        assert paid[0] == paid[1]


# --- who reads whom ---------------------------------------------------------------------------


def imported(module: str, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports, with those of the library by their bare names."""
    tree = ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("hybridlib.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            if node.module == "hybridlib":
                found |= {alias.name for alias in node.names}
            else:
                found.add(node.module.removeprefix("hybridlib."))
    return found


MODULES = sorted(path.stem for path in LIBRARY.glob("*.py"))
# What trains, samples or scores; a figure reads tables and nothing else.
ENGINE = {
    "tasks", "oracles", "rewards", "responses", "models", "train", "generate", "corpus",
    "evaluate", "reward_model", "runs", "tune", "torch", "transformers", "trl", "peft",
}  # fmt: skip


def reachable(module: str) -> set[str]:
    found, open_ = set(), [module]
    while open_:
        for name in imported(open_.pop()) & set(MODULES) - found:
            found.add(name)
            open_.append(name)
    return found


def test_rewards_reach_no_oracle_by_any_way():
    assert {"config", "responses", "lexicon"} <= reachable("rewards")
    assert not reachable("rewards") & {"oracles", "tasks", "evaluate"}
    source = (LIBRARY / "rewards.py").read_text(encoding="utf-8")
    names = {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
    assert not names & {"oracles", "secrets", "discloses", "classify", "gold", "import_module"}
    assert '"secrets"' not in source


def test_oracles_are_read_by_evaluation_labels_and_the_control_alone():
    readers = {module for module in MODULES if "oracles" in imported(module)}
    assert readers == {"evaluate", "prefill", "reward_model", "runs"}
    assert "oracles" not in imported("runs", top_level_only=True), "in harmlessness(), for rl_gold"


def test_oracles_read_no_reward():
    assert not reachable("oracles") & {"rewards", "reward_model", "train"}


def test_figures_read_tables_only():
    for module in ("plots", "panels", "prose", "style", "lookup"):
        assert not imported(module) & ENGINE, module


def test_the_library_imports_nothing_from_notebooks():
    for module in MODULES:
        roots = {name.split(".")[0] for name in imported(module)}
        assert not roots & {"notebooks", "IPython.display", "tests", "synthetic"}, module
