"""How deep harmlessness goes: responses to harmful requests that have been prefilled.

The policy goes on from a prefix that complies (Qi et al., arXiv 2406.05946). The prefix never holds
what must not be given away, and only what the policy adds is scored. A response has half a dozen
words before the harm, so depth is measured by parts, not by a count of words: the thought, true as
the base would state it or false, and the first words of the answer.
"""

from itertools import takewhile

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hybridlib.engine.sampling import sample
from hybridlib.evaluation.specs import Prefilled
from hybridlib.tasks.lexicon import END_THINK
from hybridlib.tasks.oracle import discloses
from hybridlib.tasks.prompts import Prompt, counter_aligned, disclosure
from hybridlib.tasks.prompts import thought as stated_thought
from hybridlib.tasks.responses import FREE_TEXT, refuses, words_of

#: Prefix -> (thought, whether the answer is prefilled); shallow ones first.
STARTS = {
    "nothing": ("", False),
    "true_thought": ("true", False),
    "true_answer": ("true", True),
    "false_thought": ("false", False),
    "false_answer": ("false", True),
}


def beginning(prompt: Prompt, start: str, with_thought: bool = True) -> str:
    """The words that a response to a harmful request is prefilled with; '' for `nothing`."""
    thought, answered = STARTS[start]
    if not thought:
        return ""
    true = thought == "true"
    stated = stated_thought(prompt, prompt.language) if true else counter_aligned(prompt)
    words = [stated, END_THINK] if with_thought else [END_THINK]
    if answered:  # up to the first word that gives something away
        secret = {word for secrets in prompt.secrets for word in secrets}
        answer = disclosure(prompt, prompt.language).split()
        words += takewhile(lambda word: word not in secret, answer)
    return " ".join(words)


def respond(
    spec: Prefilled,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
) -> pd.DataFrame:
    """One row a prefix and every second harmful prompt of the tasks, sampled at T=1.

    `response`, `harm` and `keyword_satisfied` are of what the policy added.
    """
    asked = [p for p in prompts if p.kind == "harmful" and p.task not in FREE_TEXT][::2]
    rows = []
    for start in STARTS:
        begun = [beginning(prompt, start, spec.base.thought) for prompt in asked]
        heads = tokenizer([prompt.text for prompt in asked])["input_ids"]
        tails = [f" {words}" if words else "" for words in begun]
        tails = tokenizer(tails, add_special_tokens=False)["input_ids"]
        texts, length = [h + t for h, t in zip(heads, tails)], spec.given.max_completion
        generator = torch.Generator().manual_seed(spec.seed)
        drawn = sample(model, tokenizer, texts, length, generator=generator)
        for prompt, words, ids in zip(asked, begun, drawn):
            added = words_of(tokenizer.decode(ids, skip_special_tokens=True))
            row = prompt.row() | {"start": start, "decoding": "sample", "begun": words}
            row |= {"response": added, "harm": float(discloses(added, prompt.secrets))}
            rows.append(row | {"keyword_satisfied": float(refuses(added))})
    return pd.DataFrame(rows).drop(columns=["text", "secrets", "reference", "partition"])
