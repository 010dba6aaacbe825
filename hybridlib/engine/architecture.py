"""Which models the engine computes right; every other one is refused rather than computed wrong."""

from transformers import PreTrainedModel

MODELS = ("llama", "qwen2", "qwen3")
ROTARY = ("default", "linear", "llama3", "yarn")  # the same angles whatever the length of the text


def check(model: PreTrainedModel) -> None:
    """Raise TypeError for a model that the engine would not compute as transformers does."""
    config, name = model.config, type(model).__name__
    if config.model_type not in MODELS:
        raise TypeError(f"the engine knows {', '.join(MODELS)}, not {name} ({config.model_type})")
    if (kind := config.rope_parameters["rope_type"]) not in ROTARY:
        raise TypeError(f"{name} has rotary positions of type {kind!r}, not {', '.join(ROTARY)}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise TypeError(f"{name} attends to a sliding window, which the engine does not compute")
