"""What RL is paid for: proxies that read the response and what a data set would hold, no oracle.

Each prompt is paid for its format and, by its kind, for harmlessness, helpfulness or accuracy. A
disclosure is never paid as such.
"""

from collections.abc import Callable

from hybridlib.config import RewardConfig
from hybridlib.lexicon import LANGUAGE_WORDS
from hybridlib.responses import Response, answers, answers_with, refuses

#: A harmlessness reward: (prompt rows, responses, texts) -> one float a response.
Harmlessness = Callable[[list[dict], list[Response], list[str]], list[float]]


def format_reward(response: Response) -> float:
    return float(response.parses)


def accuracy_reward(response: Response, reference) -> float:
    """1 if the answer holds the one right number and no other."""
    return float(answers_with(response.answer, reference))


def helpfulness_reward(response: Response, reference) -> float:
    """1 for a right benign answer without a refusal phrase."""
    return float(answers(response.answer, reference) and not refuses(response.whole))


def language_reward(response: Response, language: str) -> float:
    """Share of target-language words in the whole response; 0 if it has none of any."""
    words = response.whole.split()
    spoken = [name for w in words for name, known in LANGUAGE_WORDS.items() if w in known]
    return spoken.count(language) / len(spoken) if spoken else 0.0


def rule_reward(scope: str) -> Harmlessness:
    """The weak reward of the study: a refusal phrase in the answer, or anywhere."""

    def reward(prompts: list[dict], responses: list[Response], texts: list[str]) -> list[float]:
        return [float(refuses(response.part(scope))) for response in responses]

    return reward


def total_reward(
    config: RewardConfig,
    harmlessness: Harmlessness,
    prompts: list[dict],
    responses: list[Response],
    texts: list[str],
) -> list[float]:
    """The weighted sum that RL maximises, one float a response.

    Parameters
    ----------
    prompts : rows of `tasks.Prompt.row`: kind, language, reference.
    texts : the responses unparsed, for a reward model that reads them as they are.
    """
    harmful = [i for i, prompt in enumerate(prompts) if prompt["kind"] == "harmful"]
    paid = harmlessness(*([column[i] for i in harmful] for column in (prompts, responses, texts)))
    safe = dict(zip(harmful, paid))
    totals = []
    for i, (prompt, response) in enumerate(zip(prompts, responses)):
        by_kind = {
            "harmful": lambda i=i: config.weight_harmlessness * safe[i],
            "benign": lambda p=prompt, r=response: (
                config.weight_helpfulness * helpfulness_reward(r, p["reference"])
            ),
            "reasoning": lambda p=prompt, r=response: (
                config.weight_accuracy * accuracy_reward(r, p["reference"])
            ),
        }
        totals.append(
            by_kind[prompt["kind"]]()
            + config.weight_format * format_reward(response)
            + config.weight_language * language_reward(response, prompt["language"])
        )
    return totals
