"""The forms of asking that the paper advises on: what is asked, in which pairs, and the table."""

import numpy as np
import pytest
import synthetic
from scipy import stats
from tiny import save_random, tiny
from tiny_pretrained import plain_tokenizer, unspaced

from hybridlib.config import load_config
from hybridlib.evaluation import prompting, tables
from hybridlib.figures import readability
from hybridlib.study import keys
from hybridlib.study import stages as study
from hybridlib.tasks import datasets, prompts
from hybridlib.tasks.lexicon import END_THINK, SYSTEM, THINK, USER
from hybridlib.tasks.responses import refuses
from hybridlib.tasks.world import world
from hybridlib.training import loading
from hybridlib.training.loading import EOS

ASKING = datasets.Asking(with_manual=True)
PROMPTS = datasets.as_asked(ASKING, prompts.evaluation_prompts(world(0), 0, 2))


@pytest.mark.parametrize("form", prompting.FORMS)
def test_a_form_adds_words_and_changes_none(form):
    for prompt in PROMPTS:
        asked = prompting.in_form(ASKING, prompt, form)
        assert asked.endswith(f" {THINK}") and prompt.text.removesuffix(THINK) in asked
        assert (asked == prompt.text) == (form == prompting.PLAIN)
        assert asked == prompting.in_form(ASKING, prompt, form)


def test_advice_is_given_in_the_language_of_the_prompt_and_all_of_it_holds_each():
    for prompt in PROMPTS:
        said = {form: prompting.in_form(ASKING, prompt, form) for form in prompting.FORMS}
        for name, words in prompting.ADVICE.items():
            others = [text for language, text in words.items() if language != prompt.language]
            for form in (name, "all_advice"):
                assert words[prompt.language] in said[form].partition(USER)[2]
                assert not any(text in said[form] for text in others)


def test_examples_are_of_training_and_do_not_tell_what_is_asked():
    others = ("validation", "test")
    tested = {p.text for part in others for p in prompts.evaluation_prompts(world(0), 0, 8, part)}
    for prompt in PROMPTS:
        *examples, asked = prompting.in_form(ASKING, prompt, "few_shot").split("\n")
        assert asked == prompt.text and len(examples) == 2
        answers = []
        for example in examples:
            shown, _, response = example.removesuffix(f" {EOS}").partition(f" {THINK} ")
            assert f"{shown} {THINK}" not in tested and END_THINK in response
            answers.append(refuses(response))
        assert sorted(answers) == ([False, False] if prompt.kind == "reasoning" else [False, True])


def test_examples_read_as_the_models_own_template_writes_a_conversation():
    plain = plain_tokenizer()
    chat = loading.chat_tokenizer(plain)
    for prompt in PROMPTS[::5]:
        text, turns = prompting.in_form(ASKING, prompt, "few_shot"), []
        for part in text.split("\n"):
            asked, _, response = part.partition(THINK)
            system, _, user = asked.removeprefix(f"{SYSTEM} ").partition(USER)
            turns += [{"role": "system", "content": unspaced(system.strip())}]
            turns += [{"role": "user", "content": unspaced(user.strip())}]
            if response:
                said = f"{THINK}{unspaced(response.removesuffix(f' {EOS}'))}"
                turns += [{"role": "assistant", "content": said}]
        written = plain.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert chat.decode(chat(text)["input_ids"]) == plain.decode(
            plain(written + THINK)["input_ids"]
        )


def test_forms_are_compared_on_the_same_prompts(tmp_path):
    folder = save_random(tmp_path, tiny(layers=1), scale=1.0)
    model, tokenizer = loading.load_base(folder), loading.load_tokenizer(folder)
    spec = keys.of(load_config("smollm2"), "usage", "base", "none", 0)
    frame = prompting.respond(spec, model, tokenizer, PROMPTS[:6])
    assert list(frame.form.unique()) == list(prompting.FORMS) == list(readability.FORMS)
    for _, rows in frame.groupby("form"):
        assert list(rows.prompt_id) == [prompt.id for prompt in PROMPTS[:6]]
    assert set(frame.decoding) == {"sample"} and frame.prompt.nunique() == 6 * len(prompting.FORMS)


def test_the_table_holds_means_and_paired_differences():
    asked = synthetic.usage(seeds=3, runs=(("base", "none"), ("rl", "keyword")))
    table = tables.usage(synthetic.asked_values(asked, "form", tables.ASKED_FOR), "smollm2")
    assert set(table.metric) == set(tables.ASKED_FOR)
    means = asked.groupby(["variant", "form", "seed"]).harm.mean()
    rows = table[table.metric.eq("harm_rate") & table.language.eq("all")]
    assert list(rows[rows.than.eq("none")].form.unique()) == list(prompting.FORMS)
    for row in rows.itertuples():
        values = means[row.variant, row.form].to_numpy()
        if row.than != "none":
            assert row.than == prompting.PLAIN != row.form
            values = values - means[row.variant, prompting.PLAIN].to_numpy()
            wanted = stats.ttest_1samp(values, 0).confidence_interval()
            assert (row.low, row.high) == pytest.approx(np.clip(wanted, -1, 1), abs=1e-8)
        assert row.estimate == pytest.approx(values.mean(), abs=1e-8)
        assert row.low <= row.estimate <= row.high
    last = rows[rows.than.ne("none") & rows.form.eq("all_advice")]
    assert (last.estimate < -0.1).all(), "made up to do half the harm less"


@pytest.mark.parametrize(
    ("preset", "stages"),
    [
        ("organism", ["evaluate", "prefill"]),
        ("no_thought", ["evaluate"]),
        ("smollm2", ["evaluate", "prefill", "usage"]),
    ],
)
def test_only_what_can_read_advice_is_given_it(preset, stages):
    assert list(study.measurements(load_config(preset))) == stages
