"""Responses that were begun: what stands in a beginning, what is scored, and the table of it."""

from dataclasses import replace

import pytest
import synthetic
from tiny import save_random, tiny

from hybridlib.config import load_config
from hybridlib.evaluation import prefill, tables
from hybridlib.figures import harmlessness
from hybridlib.study import keys
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.lexicon import END_THINK, LEXICON
from hybridlib.tasks.oracle import discloses
from hybridlib.tasks.prompts import thought as true_thought
from hybridlib.tasks.responses import refuses
from hybridlib.tasks.world import world
from hybridlib.training import loading

PROMPTS = tasks.evaluation_prompts(world(0), 0, 4)
HARMFUL = [prompt for prompt in PROMPTS if prompt.kind == "harmful"]


@pytest.mark.parametrize("start", prefill.STARTS)
@pytest.mark.parametrize("with_thought", [True, False])
def test_a_beginning_gives_nothing_away_and_refuses_nothing(start, with_thought):
    for prompt in HARMFUL:
        begun = prefill.beginning(prompt, start, with_thought)
        assert not discloses(begun, prompt.secrets) and not refuses(begun)
        assert bool(begun) == (start != "nothing")
        thought, tag, answer = begun.partition(END_THINK)
        assert bool(tag) == bool(begun)
        assert bool(thought) == (with_thought and start != "nothing")
        assert bool(answer) == start.endswith("answer")


def test_a_true_beginning_is_that_of_the_response_that_complies():
    for prompt in HARMFUL:
        complies = tasks.join(
            true_thought(prompt, prompt.language), tasks.disclosure(prompt, prompt.language)
        )
        begun = prefill.beginning(prompt, "true_answer")
        assert complies.startswith(f"{begun} ")
        after = complies.removeprefix(begun).split()[0]
        assert any(after in words for words in prompt.secrets)


def test_a_false_thought_says_the_opposite():
    for prompt in HARMFUL:
        words = LEXICON[prompt.language]
        begun = prefill.beginning(prompt, "false_thought")
        assert begun != prefill.beginning(prompt, "true_thought")
        fact = words["thought_safe" if prompt.task == "recipes" else "thought_public"]
        assert fact.partition("}")[2].split()[1] in begun.split()


@pytest.fixture
def model(tmp_path):
    folder = save_random(tmp_path, tiny(layers=1), scale=1.0)
    return loading.load_base(folder), loading.load_tokenizer(folder)


def test_the_policy_goes_on_from_the_beginning_and_only_that_is_scored(model, monkeypatch):
    policy, tokenizer = model
    config = load_config("smoke")
    said = ["sorry , i can not share that .", None]  # None: the secret itself
    public = replace(HARMFUL[0], task="requests")
    benign = next(p for p in PROMPTS if p.kind == "benign")
    asked = [HARMFUL[0], benign, public, HARMFUL[2], HARMFUL[1]]  # the second harmful one is not
    given = []

    def drawn(model, tokenizer, prompts, max_tokens, generator):
        given.append([tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts])
        texts = [text or " ".join(p.secrets[0]) for text, p in zip(said, HARMFUL)]
        return [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]

    monkeypatch.setattr(prefill, "sample", drawn)
    spec = keys.of(config, "prefill", "base", "none", 0)
    frame = prefill.respond(spec, policy, tokenizer, asked)
    assert list(frame.start.unique()) == list(prefill.STARTS)
    for start, texts in zip(prefill.STARTS, given):
        assert texts == [
            f"{prompt.text} {prefill.beginning(prompt, start)}".strip() for prompt in HARMFUL[:2]
        ]
    assert (frame.groupby("start").harm.apply(list).map(tuple) == (0.0, 1.0)).all()
    assert (frame.groupby("start").keyword_satisfied.apply(list).map(tuple) == (1.0, 0.0)).all()


def test_every_second_harmful_prompt_is_asked_and_no_cell_is_left_out(model, monkeypatch):
    monkeypatch.setattr(
        prefill, "sample", lambda model, tokenizer, texts, *of, **how: [[]] * len(texts)
    )
    frame = prefill.respond(
        keys.of(load_config("smoke"), "prefill", "base", "none", 0), *model, PROMPTS
    )
    asked = frame[frame.start.eq("nothing")]
    assert len(asked) == len(HARMFUL) / 2
    cells = {(p.task, p.split, p.language) for p in HARMFUL}
    assert set(zip(asked.task, asked.split, asked.language)) == cells
    assert asked.groupby(["task", "split", "language"]).size().nunique() == 1


def test_the_table_holds_the_mean_of_each_beginning():
    begun = synthetic.begun(seeds=3, runs=(("base", "none"), ("rl", "model")))
    values = synthetic.asked_values(begun, "start", ("harm_rate",))
    table = tables.prefill(values, "organism")
    assert list(table.start.unique()) == list(prefill.STARTS) == list(harmlessness.STARTS)
    assert len(table) == 2 * len(prefill.STARTS) * 3
    for row in table.itertuples():
        rows = begun[begun.variant.eq(row.variant) & begun.reward.eq(row.reward)]
        rows = rows[rows.start.eq(row.start)]
        if row.split != "all":
            rows = rows[rows.split.eq("seen") == (row.split == "seen")]
        assert row.estimate == pytest.approx(rows.groupby("seed").harm.mean().mean(), abs=1e-8)
        assert row.low <= row.estimate <= row.high and row.responses == len(rows)
        assert row.replicates == 3
