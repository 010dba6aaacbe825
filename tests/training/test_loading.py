"""Base models: the loss, the tokenizer, pretraining and its checkpoints."""

import random
from pathlib import Path

import pytest
import torch
import trl
from tiny import save_random, tiny
from tiny_pretrained import CHATML, plain_tokenizer, unspaced
from tokenizers import AddedToken, normalizers, processors
from torch.optim import _muon

from hybridlib.store.errors import ParameterError
from hybridlib.tasks import prompts as tasks
from hybridlib.tasks.base_text import corpus
from hybridlib.tasks.lexicon import END_THINK, SYSTEM, THINK, USER, vocabulary
from hybridlib.tasks.responses import parse
from hybridlib.tasks.world import world
from hybridlib.training import loading
from hybridlib.training.loading import EOS

NEWTON_SCHULZ = _muon._zeropower_via_newtonschulz  # before any test replaces it


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("base"), tiny(layers=2))


# --- the tokenizer ---------------------------------------------------------------------------


def every_text() -> list[str]:
    prompts = tasks.evaluation_prompts(world(0), 0, 8)
    for partition in tasks.PARTITIONS:
        prompts += tasks.training_prompts(world(0), 1, 150, partition=partition)
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
    for prompt in tasks.training_prompts(world(0), 0, 40):
        text = tasks.demonstration(prompt, random.Random(0))
        apart = tokenizer(prompt.text)["input_ids"]
        apart = apart + tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        assert apart == tokenizer(f"{prompt.text} {text}")["input_ids"]


# --- chat templates ---------------------------------------------------------------------------

TEMPLATES = Path(trl.__file__).parent / "chat_templates"  # as the models themselves have them
TOKENS = {  # of each template: what begins a text, what ends a turn, and others
    "qwen3": ("", "<|im_end|>", "<|im_start|>"),
    "qwen3_instruct_2507": ("", "<|im_end|>", "<|im_start|>"),
    "qwen3_5_think": ("", "<|im_end|>", "<|im_start|>"),
    "qwen3_5_nothink": ("", "<|im_end|>", "<|im_start|>"),
    "qwen2_5": ("", "<|im_end|>", "<|im_start|>"),
    "deepseek_r1_distill": (
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
    ),
    "llama3": (
        "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"
    ),
    "llama3_2": (
        "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"
    ),
    "phi3": ("", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    "gemma3": ("<bos>", "<end_of_turn>", "<start_of_turn>"),
    "lfm2": ("<|startoftext|>", "<|im_end|>", "<|im_start|>"),
}  # fmt: skip
SMOLLM3 = (  # in its manner: what it is told turns its thoughts off, an empty one stands for none
    "{% set told = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set thinks = '/no_think' not in told and not off %}"
    "<|im_start|>system\n## Metadata\n\nToday Date: {{ strftime_now('%d %B %Y') }}\n"
    "Reasoning Mode: {{ '/think' if thinks else '/no_think' }}\n\n## Custom Instructions\n\n"
    "{{ told.replace('/no_think', '').rstrip() }}\n\n<|im_end|>\n"
    "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n"
    "{{ '<think>\n\n</think>\n' if m['role'] == 'assistant' and not thinks }}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{{ '' if thinks else '<think>\n\n</think>\n' }}{% endif %}"
)


def chatting(template: str, tokens: tuple[str, ...], special: bool = False, pad: str = "<pad>"):
    """A tokenizer with the added tokens of a template, the tags of thoughts special or not."""
    begin, end, *others = tokens
    tokenizer = plain_tokenizer()
    named = [AddedToken(t, special=True, normalized=False) for t in (begin, end, *others, pad) if t]
    tags = [AddedToken(t, special=special, normalized=False) for t in (THINK, END_THINK)]
    tokenizer.add_tokens([*named, *tags])
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template = end, pad, template
    if begin:
        tokenizer.bos_token = begin
        begins = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.convert_tokens_to_ids(begin))]
        )
        tokenizer.backend_tokenizer.post_processor = begins
    return tokenizer


def own(tokenizer, prompt: str) -> str:
    """A prompt as the model's own template has it, up to where a thought goes on."""
    system, _, user = prompt.removeprefix(f"{SYSTEM} ").removesuffix(f" {THINK}").partition(USER)
    turns = [
        {"role": role, "content": unspaced(text.strip())}
        for role, text in (("system", system), ("user", user))
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if text.endswith(f"{THINK}\n\n{END_THINK}\n\n"):  # it would not think by itself
        text = text.removesuffix(f"{THINK}\n\n{END_THINK}\n\n")
    return text if text.endswith((THINK, f"{THINK}\n")) else text + THINK


@pytest.mark.parametrize("special", [False, True], ids=["tags are words", "tags are special"])
@pytest.mark.parametrize("name", TOKENS)
def test_a_prompt_is_what_the_models_own_template_begins(name: str, special: bool):
    plain = chatting(
        (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), TOKENS[name], special
    )
    chat, rng = loading.chat_tokenizer(plain), random.Random(0)
    assert chat.eos_token == TOKENS[name][1]
    for prompt in tasks.training_prompts(world(0), 0, 12):
        ids = chat(prompt.text)["input_ids"]
        assert ids == plain(own(plain, prompt.text), add_special_tokens=False)["input_ids"]
        assert chat.decode(ids).rstrip().endswith(THINK)
        response = tasks.demonstration(prompt, rng)
        apart = chat(f" {response} {EOS}", add_special_tokens=False)["input_ids"]
        assert chat(f"{prompt.text} {response} {EOS}")["input_ids"] == ids + apart
        assert apart[-1] == chat.eos_token_id and chat.pad_token_id not in ids + apart
        said = chat.decode(apart, skip_special_tokens=True)
        assert parse(said, True) == parse(response, True)


@pytest.mark.parametrize("off", [False, True], ids=["thinks", "no_think"])
def test_a_template_that_thinks_or_not_begins_a_thought(off: bool):
    template = f"{{% set off = {str(off).lower()} %}}{SMOLLM3}"
    plain = chatting(template, ("", "<|im_end|>", "<|im_start|>"))
    chat = loading.chat_tokenizer(plain)
    for prompt in tasks.training_prompts(world(0), 0, 6):
        read = chat.decode(chat(prompt.text)["input_ids"])
        header = f"{unspaced(prompt.text.partition(USER)[2].removesuffix(THINK).strip())}<|im_end|>"
        assert read.endswith(f"{header}\n<|im_start|>assistant\n{THINK}")
        assert f"Reasoning Mode: /{'no_' * off}think" in read and END_THINK not in read


def test_a_turn_may_begin_only_with_what_is_said_and_end_behind_a_blank():
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>model\n"
        "{{ m['content'] }} </s>{% else %}<|im_start|>{{ m['content'] | trim }}\n"
        "{% endif %}{% endfor %}"
    )
    chat = loading.chat_tokenizer(chatting(template, ("", "</s>", "<|im_start|>")))
    read = chat.decode(
        chat(f"{SYSTEM} be kind . {USER} who ? {THINK} i {END_THINK} you {EOS}").input_ids
    )
    assert read.replace(" <", "<") == (
        f"<|im_start|>be kind.\n<|im_start|>who?\n<|im_start|>model\n{THINK} i{END_THINK} you</s>"
    )


REFUSED = {
    "no template": (None, "has no chat template"),
    "drops it": ("{{ messages[-1]['content'] }}<|im_end|>", "has no system turn"),
    "refuses it": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role\nnot supported') }}"
        "{% endif %}", "refuses a system turn: System role not supported"
    ),
    "turns round": (
        "{% for m in messages[::-1] %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}",
        "has no system turn",
    ),
    "says it twice": (CHATML + "{{ messages[0]['content'] }}", "has no system turn"),
    "hides what is said": (
        "{% for m in messages if m['role'] != 'assistant' %}{{ m['content'] }}{% endfor %}",
        "ends no turn",
    ),
    "ends in words": (
        "{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}", "ends no turn"
    ),
    "is broken": ("{% for m in messages %}", "refuses a system turn: "),
    "asks for parts": ("{{ messages[0]['content'][0]['text'] }}", "has no system turn"),
}  # fmt: skip


@pytest.mark.parametrize(("template", "match"), REFUSED.values(), ids=REFUSED)
def test_a_template_that_cannot_be_read_as_turns_is_refused_in_one_line(template, match: str):
    plain = chatting(CHATML, ("", "<|im_end|>", "<|im_start|>"))
    plain.chat_template = template
    with pytest.raises(ParameterError, match=match) as error:
        loading.chat_tokenizer(plain)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_would_read_turns_otherwise_is_refused_in_one_line():
    plain = chatting(CHATML, ("", "<|im_end|>", "<|im_start|>"))
    plain.backend_tokenizer.normalizer = normalizers.Prepend("_")
    with pytest.raises(ParameterError, match="reads no tags as turns") as error:
        loading.chat_tokenizer(plain)
    assert "\n" not in str(error.value)


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
