"""Base models: the loss, the tokenizer, pretraining and its checkpoints."""

import random
from pathlib import Path

import pytest
import torch
from tiny import save_random, tiny
from torch.optim import _muon

from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.base_text import corpus
from hybridlib.tasks.lexicon import vocabulary
from hybridlib.training import loading

NEWTON_SCHULZ = _muon._zeropower_via_newtonschulz  # before any test replaces it


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("base"), tiny(layers=2))


# --- the tokenizer ---------------------------------------------------------------------------


def every_text() -> list[str]:
    prompts = tasks.evaluation_prompts(0, 8)
    for partition in tasks.PARTITIONS:
        prompts += tasks.training_prompts(1, 150, partition=partition)
    texts = [prompt.text for prompt in prompts]
    return texts + [text for pair in corpus(0, 400, tiny().shares) for text in pair if text]


def test_no_word_of_the_tasks_is_unknown_and_all_come_back(base: Path):
    for tokenizer in (loading.organism_tokenizer(), loading.load_tokenizer(base)):
        known = set(vocabulary())
        for text in every_text():
            ids = tokenizer(text)["input_ids"]
            assert ids[0] == tokenizer.bos_token_id
            assert not {0, tokenizer.eos_token_id, tokenizer.unk_token_id} & set(ids)
            assert len(ids) == 1 + len(text.split())
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert known.issuperset(text.split())


def test_special_tokens_are_apart_and_a_foreign_word_is_seen(base: Path):
    tokenizer = loading.load_tokenizer(base)
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert len({*special, tokenizer.unk_token_id}) == 4
    assert len(tokenizer) == 4 + len(set(vocabulary()))
    assert tokenizer("xylophone")["input_ids"] == [tokenizer.bos_token_id, tokenizer.unk_token_id]
    config = loading.load_base(base).config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == special
    assert config.vocab_size == len(tokenizer)


def test_prompt_and_completion_tokenize_apart_as_together(base: Path):
    tokenizer = loading.load_tokenizer(base)
    for prompt in tasks.training_prompts(0, 40):
        text = tasks.demonstration(prompt, random.Random(0))
        apart = tokenizer(prompt.text)["input_ids"]
        apart = apart + tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        assert apart == tokenizer(f"{prompt.text} {text}")["input_ids"]


# --- policies --------------------------------------------------------------------------------


def test_lora_reaches_every_linear_layer_but_the_head(base: Path):
    from peft import get_peft_model

    assert loading.lora(0) is None
    policy = get_peft_model(loading.load_base(base), loading.lora(4))
    adapted = {n.split(".")[-1] for n, m in policy.named_modules() if hasattr(m, "lora_A")}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)


def test_an_adapter_is_loaded_to_be_read_or_to_be_trained(base: Path, tmp_path: Path):
    from peft import get_peft_model

    policy = get_peft_model(loading.load_base(base), loading.lora(4))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    policy.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[1, 5, 9, 20]])
    expected = policy(input_ids=ids).logits
    for trainable in (False, True):
        loaded = loading.load_policy(base, tmp_path / "adapter", trainable)
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
        assert any(p.requires_grad for p in loaded.parameters()) == trainable
    plain = loading.load_policy(base, None)
    assert not torch.allclose(plain(input_ids=ids).logits, expected)
    plain.save_pretrained(tmp_path / "full")  # a fully tuned model has no adapter
    torch.testing.assert_close(
        loading.load_policy(base, tmp_path / "full", True)(input_ids=ids).logits,
        plain(input_ids=ids).logits,
    )
