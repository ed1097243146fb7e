"""Training and evaluation: loops, steps, data, checkpoints, the command line.

In a notebook: `run = train.load("runs/vqvae_digits")`.
"""

from train.errors import UserError
from train.runs import Run, load

__all__ = ["Run", "UserError", "load"]
