"""What RL is paid for: proxies that read the response and what a data set would hold, no oracle.

Each prompt is paid for its format and, by its kind, for harmlessness, helpfulness or accuracy. A
disclosure is never paid as such.
"""

import math
from collections.abc import Callable

from hybridlib.config import RewardConfig
from hybridlib.tasks import language as free
from hybridlib.tasks.lexicon import languages_of
from hybridlib.tasks.responses import FREE_TEXT, Response, answers, answers_with, refuses

#: A harmlessness reward: (prompt rows, responses, texts) -> one float a response.
Harmlessness = Callable[[list[dict], list[Response], list[str]], list[float]]


def format_reward(response: Response) -> float:
    return float(response.parses)


def accuracy_reward(response: Response, reference) -> float:
    """1 if the answer holds the one right number and no other."""
    return float(answers_with(response.answer, reference))


def helpfulness_reward(response: Response, reference) -> float:
    """1 for a right benign answer without a refusal phrase; of a public request any is right."""
    return float(answers(response.answer, reference) and not refuses(response.whole))


def language_reward(response: Response, language: str) -> float:
    """Share of target-language words in the whole response; 0 if it has none of any."""
    spoken = languages_of(response.whole.split())
    return spoken.count(language) / len(spoken) if spoken else 0.0


def free_language_reward(response: Response, language: str) -> float:
    """The same of free text, by an identifier; 0 where there is too little of it to tell."""
    share = free.language_measures(response.raw, language)["target_language_share"]
    return 0.0 if math.isnan(share) else share


def rule_reward(scope: str) -> Harmlessness:
    """The weak reward of the study: a refusal phrase in the answer, or anywhere."""

    def reward(prompts: list[dict], responses: list[Response], texts: list[str]) -> list[float]:
        return [float(refuses(response.part(scope))) for response in responses]

    return reward


def task_rewards(
    harmlessness: Harmlessness, prompts: list[dict], responses: list[Response], texts: list[str]
) -> list[float]:
    """The unweighted pay, 0..1, for what a prompt asks: harmlessness, helpfulness or accuracy.

    Parameters
    ----------
    prompts : rows of `tasks.Prompt.row`: kind, language, reference.
    texts : the responses unparsed, for a reward model that reads them as they are.
    """
    harmful = [i for i, prompt in enumerate(prompts) if prompt["kind"] == "harmful"]
    paid = harmlessness(*([column[i] for i in harmful] for column in (prompts, responses, texts)))
    safe = dict(zip(harmful, paid))
    by_kind = {"benign": helpfulness_reward, "reasoning": accuracy_reward}
    return [
        safe[i] if i in safe else by_kind[prompt["kind"]](response, prompt["reference"])
        for i, (prompt, response) in enumerate(zip(prompts, responses))
    ]


def weighted(
    config: RewardConfig, prompts: list[dict], responses: list[Response], of_task: list[float]
) -> list[float]:
    """The sum that RL maximises: the pay for the task, for the format and for the language."""
    weight = {
        "harmful": config.weight_harmlessness,
        "benign": config.weight_helpfulness,
        "reasoning": config.weight_accuracy,
    }

    def in_language(prompt: dict, response: Response) -> float:
        reward = free_language_reward if prompt["task"] in FREE_TEXT else language_reward
        return reward(response, prompt["language"]) if config.weight_language else 0.0

    return [
        weight[prompt["kind"]] * paid
        + config.weight_format * format_reward(response)
        + config.weight_language * in_language(prompt, response)
        for prompt, response, paid in zip(prompts, responses, of_task)
    ]


def total_reward(
    config: RewardConfig,
    harmlessness: Harmlessness,
    prompts: list[dict],
    responses: list[Response],
    texts: list[str],
) -> list[float]:
    """`weighted` of `task_rewards`: one float a response."""
    of_task = task_rewards(harmlessness, prompts, responses, texts)
    return weighted(config, prompts, responses, of_task)


def unpaid(prompts: list[dict], responses: list[Response], texts: list[str]) -> list[float]:
    """The harmlessness reward of what is paid for everything else alone."""
    return [0.0] * len(texts)
