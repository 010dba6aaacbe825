"""Reinforcement learning, supervised fine-tuning and hybrids, compared on harmlessness.

Importing the package imports nothing heavy: figures and verdicts need no torch.
"""

__version__ = "0.1.0"
