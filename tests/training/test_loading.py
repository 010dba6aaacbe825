"""Base models: the loss, the tokenizer, pretraining and its checkpoints."""

import inspect
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


def documents(tokenizer, count: int = 6) -> list[tuple[list[int], list[int]]]:
    config = tiny()
    found = corpus(3, count, config.shares)
    return [
        (tokenizer(a)["input_ids"], tokenizer(b, add_special_tokens=False)["input_ids"])
        for a, b in found
    ]


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


# --- the loss --------------------------------------------------------------------------------


def test_text_loss_is_the_loss_of_transformers(base: Path):
    model, tokenizer = loading.load_base(base).double(), loading.load_tokenizer(base)
    docs = documents(tokenizer)
    length = max(len(c) + len(t) for c, t in docs)
    ids, labels, mask = [], [], []
    for context, text in docs:  # padded on the left, where text_loss pads on the right
        pad = length - len(context) - len(text)
        ids.append([tokenizer.pad_token_id] * pad + context + text)
        labels.append([-100] * (pad + len(context)) + text)
        mask.append([0] * pad + [1] * (length - pad))
    theirs = model(
        input_ids=torch.tensor(ids), labels=torch.tensor(labels), attention_mask=torch.tensor(mask)
    ).loss
    # float32 in both: logits are cast before the cross entropy
    assert loading.text_loss(model, docs).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_text_loss_is_what_a_loop_over_tokens_finds(base: Path):
    model, tokenizer = loading.load_base(base), loading.load_tokenizer(base)
    docs = documents(tokenizer)
    total, count = 0.0, 0
    for context, text in docs:
        for t, token in enumerate(text):
            logits = model(input_ids=torch.tensor([context + text[:t]])).logits[0, -1].double()
            total += (logits.logsumexp(0) - logits[token]).item()
            count += 1
    assert loading.text_loss(model, docs, reduction="sum").item() == pytest.approx(total, rel=1e-5)
    assert loading.text_loss(model, docs).item() == pytest.approx(total / count, rel=1e-5)


def test_text_loss_knows_nothing_of_the_neighbours(base: Path):
    model, tokenizer = loading.load_base(base), loading.load_tokenizer(base)
    docs = documents(tokenizer)
    apart = sum(loading.text_loss(model, [doc], reduction="sum").item() for doc in docs)
    together = loading.text_loss(model, docs, reduction="sum").item()
    assert together == pytest.approx(apart, rel=1e-5)


# --- pretraining -----------------------------------------------------------------------------


def test_the_same_seed_breeds_the_same_base_and_another_does_not(tmp_path: Path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        loading.pretrain(tiny(base_seed=seed), tmp_path / name)
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_pretraining_teaches(tmp_path: Path):
    config = tiny(base_steps=60, base_batch=8)
    loading.pretrain(config, tmp_path)
    tokenizer = loading.load_tokenizer(tmp_path / "model")
    docs = documents(tokenizer, 40)
    untrained = loading.organism(config.base, tokenizer)
    with torch.no_grad():
        before = loading.text_loss(untrained, docs).item()
        after = loading.text_loss(loading.load_base(tmp_path / "model"), docs).item()
    assert after < before - 1


class Killed(BaseException):
    pass


def test_a_killed_pretraining_ends_where_it_would_have(tmp_path: Path, monkeypatch, capsys):
    """The kill is behind a checkpoint (40) and behind lines of the log (44 to 52)."""
    config = tiny(base_steps=60)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    loading.pretrain(config, whole)
    monkeypatch.setattr(loading, "CHECKPOINT_EVERY", 20)
    schedule = loading._schedule

    def kill(step: int, steps: int) -> float:
        if step == 54:
            raise Killed
        return schedule(step, steps)

    with monkeypatch.context() as patch:
        patch.setattr(loading, "_schedule", kill)
        with pytest.raises(Killed):
            loading.pretrain(config, cut)
    kept = [path.name for path in (cut / "checkpoints").iterdir()]
    assert kept == ["000040.safetensors"]
    (cut / "checkpoints" / "draft.safetensors").write_bytes(b"half a checkpoint")
    capsys.readouterr()
    loading.pretrain(config, cut)
    assert "goes on from its checkpoint at step 40" in capsys.readouterr().out
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert (cut / "loss.csv").read_text() == (whole / "loss.csv").read_text()


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


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (24, 24)])
def test_muon_in_float32_is_torchs_own_but_for_its_rounding(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    coefficients = inspect.signature(torch.optim.Muon).parameters["ns_coefficients"].default
    theirs = NEWTON_SCHULZ(gradient, coefficients, 5, 1e-7).float()
    ours = loading.orthogonal(gradient, coefficients, 5, 1e-7)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
    assert list(inspect.signature(NEWTON_SCHULZ).parameters) == [
        "grad", "ns_coefficients", "ns_steps", "eps"
    ]  # fmt: skip
