"""A tokenizer with a chat template as pretrained models have one, for tests."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hybridlib.tasks.prompts import training_prompts
from hybridlib.tasks.world import world

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the special tokens and the template of ChatML, as those models have."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = [p.text for p in training_prompts(world(0), 0, 200)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[2], pad_token=special[2], chat_template=CHATML
    )


def unspaced(text: str) -> str:
    for sign in ".,:?":
        text = text.replace(f" {sign}", sign)
    return text
