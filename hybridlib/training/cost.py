"""What training costs: tokens, counted, and the floating-point operations that they stand for."""

from collections.abc import Mapping

#: Operations a token and parameter: 2 for a forward pass, 6 for forward and backward.
OPERATIONS = {
    "prompt_tokens": 2.0,
    "completion_tokens": 2.0,
    "scored_tokens": 2.0,
    "trained_tokens": 6.0,
}


def tokens_of(logged: Mapping[str, float]) -> Mapping[str, float]:
    """The tokens of a line of a run's log by the names of `OPERATIONS`; TRL counts one number for
    SFT, of tokens that are trained on."""
    if "trained_tokens" in logged:
        return logged
    return {"trained_tokens": logged["num_tokens"]}


def flops(parameters: int, counted: Mapping[str, float]) -> float:
    """Operations of the tokens that were `counted` by the names of `OPERATIONS`.

    `parameters` are those of the base. The frozen base under LoRA saves about a third of a training
    step, which is left out for every variant.
    """
    return parameters * sum(rate * counted.get(name, 0) for name, rate in OPERATIONS.items())
