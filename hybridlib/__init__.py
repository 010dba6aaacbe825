"""Reinforcement learning, supervised fine-tuning and hybrids, compared on harmlessness.

Importing the package imports nothing heavy: figures and verdicts need no torch.
"""

import os

# Before any library of Hugging Face reads it: TRL reports each trainer that is made to the hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
