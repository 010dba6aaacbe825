"""A study that starts from a pretrained model: a tiny random one, in the hub's own files."""

import random

import pandas as pd
import pytest
import torch
from tiny_pretrained import plain_tokenizer, unspaced
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hybridlib.config import MODELS, load_config
from hybridlib.evaluation import respond
from hybridlib.store import assets
from hybridlib.store.stage import Given
from hybridlib.study import keys, stages
from hybridlib.tasks import datasets
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.lexicon import END_THINK, LANGUAGES, SYSTEM, THINK, USER, vocabulary
from hybridlib.tasks.responses import parse, words_of
from hybridlib.tasks.world import world
from hybridlib.training import data, objective, pretrain, rewards, rollouts
from hybridlib.training import loading as bases

CLASSES = {
    "smollm2": (LlamaConfig, LlamaForCausalLM),
    "qwen2.5-1.5b": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3-0.6b": (Qwen3Config, Qwen3ForCausalLM),
}
SMALL = {
    "recitation_share": 0.0, "base_steps": 2, "base_batch": 4, "demonstrations": 8, "steps": 2,
    "prompts_per_step": 2, "group_size": 2, "sft_steps": 2, "sft_batch": 4, "max_completion": 24,
    "lora_rank": 2, "per_cell": 1, "gate": False,
    "learning_rates": dict.fromkeys(
        ("rl/keyword", "sft", "two_stage/keyword", "joint/keyword"), 1e-3
    ),
}  # fmt: skip


@pytest.fixture(params=CLASSES)
def model(request, tmp_path, monkeypatch):
    """The name of a model whose asset is a tiny random one of the same class."""
    configuration, made = CLASSES[request.param]
    tokenizer, folder = plain_tokenizer(), tmp_path / "asset"
    torch.manual_seed(0)
    made(
        configuration(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
        )
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr(pretrain, "asset_folder", {request.param: folder}.__getitem__)
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(respond, "GATE_PER_CELL", 1)
    return request.param


def test_every_model_is_an_asset():
    assert set(MODELS) - {"organism"} <= set(assets.ASSETS)


# --- the conversation ---------------------------------------------------------------------------


def as_the_template_has_it(tokenizer, prompt: str) -> list[int]:
    system, _, user = prompt.removeprefix(f"{SYSTEM} ").removesuffix(f" {THINK}").partition(USER)
    turns = [
        {"role": role, "content": unspaced(text.strip())}
        for role, text in (("system", system), ("user", user))
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text + THINK)["input_ids"]


def test_the_tasks_read_as_the_models_own_template_writes_them():
    plain = plain_tokenizer()
    chat = bases.chat_tokenizer(plain)
    prompts = [datasets.with_manual(p) for p in tasks.training_prompts(world(0), 0, 60)]
    for prompt in prompts:
        assert chat(prompt.text)["input_ids"] == as_the_template_has_it(plain, prompt.text)


def test_a_response_is_the_same_apart_and_behind_its_prompt_and_comes_back():
    chat, rng = bases.chat_tokenizer(plain_tokenizer()), random.Random(0)
    for prompt in tasks.training_prompts(world(0), 1, 60):
        response = tasks.demonstration(prompt, rng)
        apart = chat(f" {response}", add_special_tokens=False)["input_ids"]
        assert (
            chat(f"{prompt.text} {response}")["input_ids"] == chat(prompt.text)["input_ids"] + apart
        )
        assert parse(chat.decode(apart), True) == parse(response, True)


def test_the_end_of_a_turn_ends_a_response_and_padding_is_another_token():
    chat = bases.chat_tokenizer(plain_tokenizer())
    assert chat.eos_token == "<|im_end|>" and chat.pad_token == "<|endoftext|>"
    assert chat("pin . <eos>")["input_ids"][-1] == chat.eos_token_id
    assert chat.decode(chat("pin .<|im_end|>")["input_ids"], skip_special_tokens=True) == "pin."


def test_a_model_without_a_template_is_refused_in_one_line():
    plain = plain_tokenizer()
    plain.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        bases.chat_tokenizer(plain)


def test_free_text_is_read_as_the_tasks_write_it():
    assert words_of("Sorry, I can not share\nthat.") == "sorry , i can not share that ."
    assert words_of(" pin is private.</think> kaq-meq") == "pin is private . </think> kaq - meq"
    everything = " ".join(vocabulary())
    assert words_of(everything) == everything


# --- the manual ---------------------------------------------------------------------------------


def test_a_manual_stands_in_the_system_turn_of_recipes_and_nowhere_else():
    for prompt in tasks.training_prompts(world(0), 0, 200):
        told = datasets.with_manual(prompt)
        head, _, user = told.text.partition(USER)
        assert user == prompt.text.partition(USER)[2]
        if prompt.task != "recipes":
            assert told == prompt
            continue
        assert all(" ".join(step) in head for step in tasks.recipes()[prompt.category])
        assert (told.secrets, told.partition) == (prompt.secrets, prompt.partition)


# --- the stages ---------------------------------------------------------------------------------


def config(model: str, **values):
    variants = ["base", "rl", "sft", "two_stage", "joint"]
    return load_config("organism", model=model, variants=variants, seeds=1, **SMALL | values)


def test_one_step_of_each_kind_of_training(model, monkeypatch):
    """RL, SFT, one after the other and both in one loss, each through the stages of a study."""
    asked = config(model)

    def by_length(weights, harmlessness, rows, texts, finished, thought):
        return [float(len(text)) for text in texts], [0.0] * len(texts)

    for module in (rollouts, objective):  # what a random model says earns nothing
        monkeypatch.setattr(module, "rewarded", by_length)
    for arm in asked.arms:
        if arm[0] != "base" and arm[1] != "model":
            run = stages.train(asked, *arm, 0)
            assert (run / "model" / "adapter_model.safetensors").exists(), arm
    found = stages.evaluate(asked, "rl", "keyword", 0)
    assert (found / "responses.parquet").exists() and (found / "training.csv").exists()


def test_a_base_learns_its_text_and_keeps_its_tokenizer(model):
    found = stages.base(config(model, base_steps=40, base_batch=8, base_learning_rate=1e-2), 0)
    losses = pd.read_csv(found / "loss.csv", index_col="step").loss
    untrained, tokenizer = pretrain.start(keys.base(config(model), 0))
    prompts = tasks.training_prompts(world(0), 3, 20)
    documents = data.encoded(
        tokenizer,
        [
            {"prompt": p.text, "completion": f" {tasks.demonstration(p, random.Random(0))}"}
            for p in prompts
        ],
    )
    read = bases.load_base(found / "model")
    assert pretrain.text_loss(read, documents) < pretrain.text_loss(untrained, documents) - 0.5
    assert list(losses.index) == [*range(3, 40, 3), 40] and losses[40] < losses[3] - 0.5
    again = bases.load_tokenizer(found / "model")
    assert all(again(p.text) == tokenizer(p.text) for p in prompts)
    assert again.pad_token_id != again.eos_token_id


def test_the_reward_is_the_same_for_free_and_for_spaced_text():
    prompts = tasks.training_prompts(world(0), 0, 80)
    rows = [p.row() for p in prompts]
    weights = Given(**load_config("organism").reward.model_dump())
    texts = [tasks.demonstration(p, random.Random(1)) for p in prompts]
    free = [unspaced(text).capitalize().replace(f" {END_THINK} ", END_THINK) for text in texts]
    pay = rewards.keyword_reward("whole")
    found = [
        rewards.rewarded(weights, pay, rows, some, [True] * len(some), True)[0]
        for some in (texts, free)
    ]
    assert found[0] == found[1] and min(found[0]) > 1
    assert {p.language for p in prompts} == set(LANGUAGES)
