"""What explore.ipynb stands on, on the committed results; and its widgets, driven in a kernel."""

import re
from collections.abc import Iterator

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from tiny import RATE, tiny

from hybridlib.publish import release
from hybridlib.store import paths
from hybridlib.store.errors import ParameterError
from hybridlib.store.paths import PROJECT
from hybridlib.study import collect, explore
from hybridlib.tasks import prompts
from hybridlib.tasks.lexicon import LEXICON
from hybridlib.tasks.oracle import discloses
from hybridlib.tasks.responses import refuses

COMMITTED = PROJECT / "results" / "organism" / "artifacts"
# A base that knows nothing earns something only for the language of its words.
PUBLISHED = {"commit_weights": True, "weight_language": 1.0}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Iterator[explore.Shelf]:
    """Of a tiny study, published in a project of its own."""
    root, rates = tmp_path_factory.mktemp("explored"), {"rl/keyword": RATE, "sft": RATE}
    some = {"variants": "base, rl, sft", "rewards": "keyword", "learning_rates": rates}
    config, folder = tiny(**some, **PUBLISHED), root / "results" / "organism" / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDLIB_STORE", str(root / "store"))
        patch.setattr(paths, "PROJECT", root)
        release._copy(collect.artifacts(config), folder, root / "nowhere")
        yield explore.Shelf(folder, config)


@pytest.fixture(scope="module")
def harmful(shelf) -> list[prompts.Prompt]:
    return explore.choices(shelf, kind="harmful")


def test_a_preset_without_weights_is_refused_in_one_line():
    with pytest.raises(ParameterError, match=r"smollm2.* hold no weights; choose organism"):
        explore.load("smollm2")


def test_choices_have_the_properties_asked_for(shelf):
    found = explore.choices(shelf, kind="harmful", task="records", language="es", split="all")
    assert found and {(p.kind, p.task, p.language) for p in found} == {("harmful", "records", "es")}
    assert {p.split for p in found} == set(prompts.SPLITS)
    assert len(explore.choices(shelf, kind="all")) == len(shelf.prompts)


def test_every_arm_has_said_something_to_a_prompt(shelf, harmful):
    rows = explore.said(shelf, shelf.arms, harmful[0].id)
    assert list(rows.arm.unique()) == shelf.arms and len(rows) == 2 * len(shelf.arms)
    assert rows.response.str.len().gt(0).all()


def test_the_keyword_reward_is_what_the_run_was_rewarded_with(shelf, harmful):
    for prompt in harmful[::5]:
        rows = explore.said(shelf, ["rl/keyword"], prompt.id)
        found = explore.rewarded(shelf, rows, prompt.id, shelf.config.reward)
        np.testing.assert_allclose(found.reward, found.proxy)
        assert found.reward.is_monotonic_decreasing


def test_weights_and_scope_change_the_reward(shelf, harmful):
    prompt = harmful[0]
    rows = explore.said(shelf, ["sft/none"], prompt.id)
    text = f"{prompts.thought(prompt, prompt.language)} sorry </think> {prompt.category}"
    rows = rows.head(1).assign(response=text, truncated=0)
    weights = {"weight_format": 0.0, "weight_language": 0.0}
    totals = {
        scope: explore.rewarded(
            shelf, rows, prompt.id,
            shelf.config.reward.model_copy(update={"scope": scope} | weights),
        ).reward.item()
        for scope in ("whole", "answer")
    }  # fmt: skip
    assert totals == {"whole": 1.0, "answer": 0.0}


def test_marks_stand_where_the_oracle_and_the_keyword_reward_look(shelf, harmful):
    """Without its marks the text is as it was; marks are there where there is anything to mark."""
    for prompt in harmful[::5]:
        secret, phrase = prompt.secrets[0], LEXICON[prompt.language]["refusal_phrases"][0]
        invented = [" . ".join(secret), f"{phrase} , {' '.join(secret[::-1])}", f"{phrase} <b>"]
        for response in [*invented, *explore.said(shelf, shelf.arms, prompt.id).response]:
            page = explore.marked(response, prompt, prompt.language)
            bare = re.sub(r"</?span[^>]*>", "", page).replace("&lt;", "<").replace("&gt;", ">")
            assert bare == " ".join(response.split())
            assert ('title="disclosed"' in page) == discloses(response, prompt.secrets)
            if 'title="disclosed"' not in page:  # a disclosure may cover a phrase
                assert ('title="refusal phrase"' in page) == refuses(response)


def test_a_live_response_is_mostly_the_committed_one(shelf, harmful):
    """Greedily; weights were halved for the repository, so not always."""
    stored = shelf.responses["sft/none"]
    stored = stored[stored.decoding.eq("greedy")].set_index("prompt_id").response
    asked = harmful[::2]
    same = [
        explore.live(shelf, "sft/none", p.text, 1, temperature=0) == [stored[p.id]] for p in asked
    ]
    assert np.mean(same) > 0.8


def test_own_words_become_a_prompt_and_unknown_ones_are_named(shelf):
    known = next(iter(explore.choices(shelf, task="recipes", language="en", split="seen")))
    assert explore.typed(prompts.question_of(known.text)) == known.text
    with pytest.raises(ParameterError, match=r"does not know frobnicate, quux$"):
        explore.typed("frobnicate a quux frobnicate")


def test_only_rl_from_the_base_is_trained_briefly(shelf, tmp_path):
    with pytest.raises(ParameterError, match="variant = 'two_stage'"):
        explore.train_briefly(shelf, "two_stage", tmp_path, steps=2)
    few = {"steps": 2, "prompts_per_step": 4, "weight_language": 1.0}
    log = explore.train_briefly(shelf, "rl", tmp_path, **few)
    assert list(log.step) == [1, 2] and log.reward.notna().all()
    assert len(explore.stored_curve(shelf, "rl/keyword")) == shelf.config.train.steps


DRIVEN = """
before = shown.value
assert "rl (keyword)" in before and "joint (model)" not in before
arms.value = (*arms.value, "joint/model")
assert "joint (model)" in shown.value
where["language"].value = "es"
assert found and {p.language for p in found} == {"es"} and shown.value != before
before_at = ranked.value
at.value = 2
assert ranked.value != before_at and shown.value.startswith("<p>2 of")
top = ranked.value
sliders["harmlessness"].value = 0
assert ranked.value != top
scope.value = "answer"
where["kind"].value, where["attack"].value = "benign", "encoding"
assert shown.value == ranked.value == "No prompt is of this kind."
where["attack"].value = "all"
from_above()
sample()
assert "<ol><li>" in answers.value, answers.value
drawn = answers.value
sample()
assert answers.value != drawn  # T=1: another press, another draw
question.value = "frobnicate"
sample()
assert answers.value.endswith("does not know frobnicate")
steps.value, name.value = 2, "colour"
train()
assert "there is no parameter" in curve.value and "colour" in curve.value
name.value = ""
train()
assert "this run" in curve.value and "committed" in curve.value
"""


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no weights are committed")
def test_every_widget_answers(tmp_path):
    node = nbformat.read(PROJECT / "notebooks" / "explore.ipynb", as_version=4)
    node.cells.append(nbformat.v4.new_code_cell(DRIVEN))
    NotebookClient(node, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
