"""Bits of a latent, counted in one way for every bottleneck.

A code is turned into whole numbers (indices are such; other codes are divided by a step and
rounded), and an ideal entropy coder is supposed to have one fixed table for each unit: the
histogram of that unit's numbers over all examples and positions. What the tables and the network
cost, and what a prior over positions would save, is not counted.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from train.metrics.codes import entropy_bits

# Reconstructions may lose this much by rounding the code, decibels of PSNR: it cannot be seen.
UNSEEN_LOSS = 0.1


class Rate(NamedTuple):
    """A point of a rate-distortion curve.

    Attributes:
      step: what codes are rounded to a multiple of; 0 for indices.
      bits: per example.
      psnr: mean over the examples of the reconstruction from the rounded code, decibels.
    """

    step: float
    bits: float
    psnr: float


def code_bits(symbols: np.ndarray) -> float:
    """Bits per example of whole numbers, by one histogram for each unit.

    The sum over units of the entropy of the numbers seen there, times the positions.

    Args:
      symbols: whole numbers `[examples, positions..., units]`.

    Raises:
      ValueError: other than whole numbers, or fewer than two axes.
    """
    if symbols.ndim < 2 or not np.issubdtype(symbols.dtype, np.integer) or not symbols.size:
        raise ValueError(
            f"symbols are whole numbers [examples, positions..., units]; got {symbols.dtype} "
            f"{symbols.shape}"
        )
    tokens = symbols.reshape(-1, symbols.shape[-1])
    positions = len(tokens) / len(symbols)
    bits = 0.0
    for unit in tokens.T:
        bits += float(entropy_bits(np.unique(unit, return_counts=True)[1]))
    return positions * bits


def rounded(codes: np.ndarray, step: float) -> np.ndarray:
    """The multiples of `step` nearest to real codes, as whole numbers; int64, of codes' shape."""
    return np.rint(np.asarray(codes, np.float64) / step).astype(np.int64)


def rate_distortion(
    codes: np.ndarray, psnr: Callable[[np.ndarray], float], *, steps: Sequence[float]
) -> list[Rate]:
    """The curve of a real code rounded to multiples of each of `steps`.

    Args:
      codes: floating `[examples, positions..., units]`.
      psnr: mean PSNR of the reconstructions from such codes, decibels.
      steps: each above 0.

    Raises:
      ValueError: a step is not above 0.
    """
    if min(steps) <= 0:
        raise ValueError(f"steps are above 0, got {min(steps)}")
    curve = []
    for step in steps:
        symbols = rounded(codes, step)
        decoded = psnr((symbols * step).astype(np.float32))
        curve.append(Rate(float(step), code_bits(symbols), float(decoded)))
    return curve


def usual_steps(codes: np.ndarray) -> list[float]:
    """Steps from four times to a 64th of the root mean square of the entries that are not 0."""
    entries = np.asarray(codes, np.float64)
    entries = entries[entries != 0]
    size = float(np.sqrt(np.mean(np.square(entries)))) if entries.size else 1.0
    return [size * 2.0**k for k in range(2, -7, -1)]


def unseen(curve: Sequence[Rate], psnr: float) -> Rate:
    """The point of fewest bits whose PSNR is at most `UNSEEN_LOSS` below that of the exact code.

    The point of the highest PSNR if none is so near.
    """
    near = [point for point in curve if point.psnr >= psnr - UNSEEN_LOSS]
    return min(near, key=lambda p: p.bits) if near else max(curve, key=lambda p: p.psnr)
