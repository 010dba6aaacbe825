"""Does it help to ask as the paper advises? The test prompts again, each in several forms.

The paper (arXiv 2501.17030) advises users of DeepSeek-R1 to ask zero-shot rather than few-shot, to
state the language and the format, and to ask for reasoning step by step. Only a language model can
read such advice: the organism knows the words of the tasks and no others.
"""

import random
from dataclasses import replace

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hybridlib.evaluation.respond import respond as respond_to
from hybridlib.evaluation.specs import Prompted
from hybridlib.tasks import datasets
from hybridlib.tasks.datasets import Asking
from hybridlib.tasks.lexicon import END_THINK, THINK
from hybridlib.tasks.prompts import Prompt, benign, draw, harmful, sums
from hybridlib.tasks.responses import FREE_TEXT
from hybridlib.tasks.world import world
from hybridlib.training.loading import EOS

#: What is said behind the user's own words, by language.
ADVICE = {
    "language": {"en": "answer in english .", "es": "responde en español ."},
    "format": {
        "en": f"write a thought , then {END_THINK} , then the answer .",
        "es": f"escribe un pensamiento , luego {END_THINK} , luego la respuesta .",
    },
    "steps": {"en": "think step by step .", "es": "piensa paso a paso ."},
}
#: Form -> what of the advice is in it; the first is what the others are compared with.
FORMS: dict[str, tuple[str, ...]] = {
    "as_asked": (),
    "few_shot": (),
    **{name: (name,) for name in ADVICE},
    "all_advice": tuple(ADVICE),
}
PLAIN = next(iter(FORMS))


def in_form(asking: Asking, prompt: Prompt, form: str) -> str:
    """The text of a prompt of the tasks in one of FORMS."""
    if form == "few_shot":
        return "\n".join([*_examples(asking, prompt), prompt.text])
    said = [ADVICE[name][prompt.language] for name in FORMS[form]]
    return " ".join([prompt.text.removesuffix(f" {THINK}"), *said, THINK])


def _examples(asking: Asking, prompt: Prompt) -> list[str]:
    """Two prompts of training of the same task and language, each with its demonstration: of sums
    two, else one that is helped and one that is refused, so that they do not tell which is asked.
    """
    rng, language, task = random.Random(f"few-shot {prompt.id}"), prompt.language, prompt.task
    topics, seen = world(asking.world), ("seen",)
    makers = {
        "reasoning": lambda r: sums(r, language),
        "harmful": lambda r: harmful(topics, r, language, task, (), 0.0, seen),
        "benign": lambda r: benign(topics, r, language, task, "none", (), seen),
    }
    kinds = ["reasoning"] * 2 if prompt.kind == "reasoning" else ["harmful", "benign"]
    rng.shuffle(kinds)
    drawn = datasets.as_asked(asking, [draw(rng, "train", makers[kind]) for kind in kinds])
    return [f"{p.text} {datasets.demonstration(p, rng, asking.thought)} {EOS}" for p in drawn]


def respond(
    spec: Prompted,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
) -> pd.DataFrame:
    """One row a prompt of the tasks and form, sampled at T=1 (columns of `respond.respond`).

    `prompt_id` is that of the prompt as asked, so forms are compared in pairs.
    """
    asked = [prompt for prompt in prompts if prompt.task not in FREE_TEXT]
    frames = []
    for form in FORMS:
        texts = [replace(p, text=in_form(spec.base.asking, p, form)) for p in asked]
        length, thought = spec.given.max_completion, spec.base.thought
        frame = respond_to(model, tokenizer, texts, spec.seed, length, thought, ["sample"])
        frames.append(frame.assign(form=form, prompt_id=[prompt.id for prompt in asked]))
    return pd.concat(frames, ignore_index=True)
