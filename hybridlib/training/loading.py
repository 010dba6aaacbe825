"""Models and tokenizers: how they are loaded, and adapted with LoRA."""

import io
import json
import re
import shutil
import tempfile
import warnings
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path

import datasets
import torch
from jinja2 import TemplateError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from hybridlib.engine.fused import fuse
from hybridlib.store import assets
from hybridlib.store.errors import ParameterError
from hybridlib.store.run_store import Store
from hybridlib.tasks.lexicon import END_THINK, SYSTEM, THINK, USER, vocabulary

# Bars over files of a few MB, reports of what was loaded and renames to come would fill notebooks.
logging.set_verbosity_error()
logging.disable_progress_bar()
datasets.disable_progress_bars()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_at_bf16() -> bool:
    """Whether the GPU, or else the CPU, has instructions for products in bfloat16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def is_bf16(model: PreTrainedModel) -> bool:
    """Whether a model, its adapters aside, is in bfloat16."""
    return next(model.parameters()).dtype == torch.bfloat16


def organism_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; `<think>` and the other tags are words like any other."""
    words = [PAD, BOS, EOS, UNKNOWN, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, words.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
    )


def chat_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A chat model's tokenizer that reads the tasks' own format as turns of a conversation.

    The text behind the tags `<system>` and `<user>` becomes those turns, in the words of the
    model's chat template, and `<think>` begins the assistant's; blanks before full stops, commas
    and the like are dropped. The end of a response is what ends a turn. A date in the template
    stays that of today. Raises ParameterError if the model's template or tokenizer cannot be read
    so.
    """
    parts = re.split(r"\[\[(\w+)]]", _begun(tokenizer, "[[system]]", "[[user]]"))
    if parts[1::2] != ["system", "user"]:
        raise ParameterError("the model's chat template has no system turn; choose another model")
    _, found, behind = _written(tokenizer, "", "", "[[assistant]]").partition("[[assistant]]")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token for token in described["added_tokens"]}
    end = max((name for name in added if behind.lstrip().startswith(name)), key=len, default="")
    if not (found and end):
        raise ParameterError("the model's chat template ends no turn by a token; choose another")
    for token in added.values():
        token["normalized"] = True  # else it is looked for before the tags are replaced
        # What is special is left out of a response, which must keep the tags of its thought.
        token["special"] &= token["content"] not in (THINK, END_THINK)
    added[end]["special"] = True
    special = (name for name, token in added.items() if token["special"])
    pads = (token for token in (tokenizer.pad_token, tokenizer.unk_token, *special) if token != end)
    if not (pad := next(filter(None, pads), "")):
        raise ParameterError("the model's tokenizer has no token to pad with; choose another model")
    written = {f"{SYSTEM} ": parts[0], f" {USER} ": parts[2], f" {THINK}": parts[4]}
    written |= {f" {sign}": sign for sign in ".,:?"} | {f" {EOS}": behind.partition(end)[0] + end}
    if tokenizer.num_special_tokens_to_add():
        described["post_processor"] = None  # else it would write again what the template writes
    backend = Tokenizer.from_str(json.dumps(described))
    after = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace(*pair) for pair in written.items()] + after
    )
    chat = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        eos_token=end,
        chat_template=tokenizer.chat_template,
        padding_side="left",
    )
    own = tokenizer(_begun(tokenizer, "be kind.", "is it: 2, 3?"), add_special_tokens=False)
    read = chat(f"{SYSTEM} be kind . {USER} is it : 2 , 3 ? {THINK}")
    said = chat.decode(chat(f" 2 {END_THINK} 3 . {EOS}")["input_ids"], skip_special_tokens=True)
    if read["input_ids"] != own["input_ids"] or said.split() != ["2", END_THINK, "3."]:
        raise ParameterError("the model's tokenizer reads no tags as turns; choose another model")
    return chat


def _begun(tokenizer: PreTrainedTokenizerFast, *asked: str) -> str:
    """A conversation up to the thought of the assistant, in the words of the chat template."""
    text = _written(tokenizer, *asked, add_generation_prompt=True)
    if text == _written(tokenizer, *asked):  # it begins no turn unless there is something to say
        answered = _written(tokenizer, *asked, "[[assistant]]").partition("[[assistant]]")[0]
        text = text if answered.strip() == text.strip() else answered
    text = re.sub(rf"(?:{THINK}\s*)?{END_THINK}\s*\Z", "", text)  # an empty thought
    return text if text.rstrip().endswith(THINK) else text + THINK


def _written(tokenizer: PreTrainedTokenizerFast, *said: str, **options: bool) -> str:
    """What the system, the user and the assistant say, in the words of the chat template.

    Raises ParameterError if there is none, or if it refuses such turns.
    """
    if not tokenizer.chat_template:
        raise ParameterError("the model has no chat template; choose one that does")
    roles = ("system", "user", "assistant")
    turns = [{"role": role, "content": text} for role, text in zip(roles, said)]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"the model's chat template refuses a system turn: {reason}") from None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def load_base(folder: Path) -> PreTrainedModel:
    """A base model from a folder of safetensors, as precise as it was saved; no remote code."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device())


def restore(committed: Path, folder: Path) -> None:
    """Write a committed base, of half precision, as it was when it had been pretrained: model/ and
    loss.csv."""
    shutil.copytree(committed / "model", folder / "model")
    weights = folder / "model" / "model.safetensors"
    singles = {name: value.float() for name, value in load_file(weights).items()}
    save_file(singles, weights, metadata={"format": "pt"})
    shutil.copyfile(committed / "loss.csv", folder / "loss.csv")


def write_size(model: PreTrainedModel, folder: Path) -> None:
    """size.json: the number of parameters."""
    size = {"parameters": sum(p.numel() for p in model.parameters())}
    (folder / "size.json").write_text(json.dumps(size) + "\n", encoding="utf-8")


def asset_folder(name: str) -> Path:
    """The folder of a named model in transformers' own format: weights, tokenizer, chat template.

    A GGUF is converted once, to bfloat16. Whoever made it has rounded the weights (those of
    `smollm2` to Q4_1): they are not the original ones. Raises AssetError (see `assets.fetch`).
    """
    asset = assets.find(name)
    if not asset.members[0].endswith(".gguf"):
        return assets.folder(name)

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as draft:
            from_gguf(*assets.fetch(name, Path(draft)), folder / "model")

    return Store().get("asset", assets.pin(name)[:16], make, asdict(asset)) / "model"


def from_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer to `folder`, as transformers' own formats."""
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with redirect_stderr(io.StringIO()):  # a bar that no setting silences
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def load_policy(base: Path, adapter: Path | None, trainable: bool = False) -> PreTrainedModel:
    """The base with an adapter, or a fully tuned model where the folder holds one."""
    if adapter is None:
        return load_base(base)
    if not (adapter / "adapter_config.json").exists():
        return load_base(adapter)
    return PeftModel.from_pretrained(load_base(base), adapter, is_trainable=trainable)


def lora(rank: int, task_type: str = "CAUSAL_LM") -> LoraConfig | None:
    """LoRA on every linear layer without dropout (generation runs in train mode); 0: none."""
    if not rank:
        return None
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear",
        task_type=task_type, modules_to_save=["score"] if task_type == "SEQ_CLS" else None,
    )  # fmt: skip


def adapted(model: PreTrainedModel, rank: int, task_type: str = "CAUSAL_LM") -> PreTrainedModel:
    """The model with fresh adapters that compute in one step; as it is at rank 0."""
    adapters = lora(rank, task_type)
    return fuse(get_peft_model(model, adapters)) if adapters else model


def policy(base: Path, start: Path | None, rank: int) -> PreTrainedModel:
    """The model to train: the base with fresh LoRA, or a trained adapter to go on from."""
    if start is not None:
        return fuse(load_policy(base, start, trainable=True))
    return adapted(load_base(base), rank)
