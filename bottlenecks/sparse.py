"""Sparse coding, min_z 1/2 ||e - z D^T||_2^2 + alpha ||z||_1, by unrolled proximal steps.

For the notation see `bottlenecks.sparse_codes`. Sources: Daubechies, Defrise & De Mol 2004 (ISTA);
Beck & Teboulle 2009, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse
Problems" (FISTA).
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.dictionaries import spectral_norm_squared
from bottlenecks.lasso import sparse_code
from bottlenecks.sparse_codes import (
    SparseCode,
    as_sparse_code,
    check_signals,
    duality_gap,
    hoyer,
    matmul,
    objective,
    soft_threshold,
    spread,
    start_at,
    zero_fraction,
)

__all__ = [
    "SparseCode",
    "duality_gap",
    "fista",
    "hoyer",
    "ista",
    "objective",
    "soft_threshold",
    "sparse_code",
    "spectral_norm_squared",
    "zero_fraction",
]


def ista(
    signals: chex.Array,
    dictionary: chex.Array,
    *,
    penalty: chex.Array | float,
    iterations: int,
    c: chex.Array | float | None = None,
    start: chex.Array | None = None,
    non_negative: bool = False,
    keep_iterates: bool = False,
) -> SparseCode:
    """Proximal gradient steps z+ = ST(z + (e - z D^T) D / c, alpha / c).

    The objective never increases while c >= ||D||_2^2, and falls like 1 / T. Differentiable as
    unrolled, to the signals, dictionary, penalty, c and start; memory grows with T, unless under
    `jax.checkpoint`. The residual form costs 2 d K products a step and signal, no more than K^2 (of
    the form with D^T D) while K >= 2 d.

    Args:
      signals: floating `[..., d]`, e.
      dictionary: floating `[d, K]`, D.
      penalty: alpha >= 0, a number, `[]`, or anything that broadcasts against the code.
      iterations: T, 0 or more.
      c: `[]`, inverse of the step length; `spectral_norm_squared(dictionary)` by default, which
        takes as long as some steps: pass it in where the dictionary stays.
      start: `[..., K]`, the code to start from; 0 by default.
      non_negative: codes of z >= 0 only.
      keep_iterates: return the code after each step as well.

    Returns:
      A `SparseCode`.

    Raises:
      ValueError: if shapes do not fit, an array is not floating or iterations is negative.
    """

    def step(z: chex.Array, _: None) -> tuple[chex.Array, chex.Array]:
        z = proximal_step(z)
        return z, (z if keep_iterates else None)

    z, proximal_step = _prepare(signals, dictionary, penalty, iterations, c, start, non_negative)
    z, iterates = jax.lax.scan(step, z, None, length=iterations)
    return as_sparse_code(signals, dictionary, z, iterates)


def fista(
    signals: chex.Array,
    dictionary: chex.Array,
    *,
    penalty: chex.Array | float,
    iterations: int,
    c: chex.Array | float | None = None,
    start: chex.Array | None = None,
    non_negative: bool = False,
    keep_iterates: bool = False,
) -> SparseCode:
    """ISTA's steps from an extrapolated point (Beck & Teboulle 2009, Eq. 4.1 to 4.3).

    The error falls like 1 / T^2 instead of 1 / T at the same cost; the objective may rise between.
    Arguments, result and errors are those of `ista`.
    """

    def step(carry: tuple, momentum: chex.Array) -> tuple[tuple, chex.Array]:
        z, y = carry
        z, previous = proximal_step(y), z  # Eq. 4.1
        y = z + momentum * (z - previous)  # Eq. 4.3
        return (z, y), (z if keep_iterates else None)

    z, proximal_step = _prepare(signals, dictionary, penalty, iterations, c, start, non_negative)
    (z, _), iterates = jax.lax.scan(step, (z, z), _momenta(iterations))
    return as_sparse_code(signals, dictionary, z, iterates)


def _prepare(
    signals: chex.Array,
    dictionary: chex.Array,
    penalty: chex.Array | float,
    iterations: int,
    c: chex.Array | float | None,
    start: chex.Array | None,
    non_negative: bool,
) -> tuple:
    """The first code and the proximal step."""
    check_signals(signals, dictionary)
    if iterations < 0:
        raise ValueError(f"iterations is 0 or more, got {iterations}.")
    e, D = signals.astype(jnp.float32), dictionary.astype(jnp.float32)
    shape = (*e.shape[:-1], D.shape[1])
    alpha = spread(penalty, shape, "penalty")
    c = spectral_norm_squared(D) if c is None else jnp.asarray(c, jnp.float32)
    if c.ndim:
        raise ValueError(f"c is one number, got an array of shape {c.shape}.")

    def proximal_step(z: chex.Array) -> jax.Array:
        r = e - matmul(z, D.T)
        return soft_threshold(z + matmul(r, D) / c, alpha / c, non_negative=non_negative)

    # Made from all that a step reads, so that it varies over the devices they vary over.
    z = jnp.zeros_like(matmul(e, D) + alpha + c)
    return (z if start is None else start_at(start, z)), proximal_step


def _momenta(iterations: int) -> np.ndarray:
    """(t_k - 1) / t_{k+1} with t_1 = 1, t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2 (Eq. 4.2)."""
    t = np.ones(iterations + 1)
    for k in range(iterations):
        t[k + 1] = (1 + np.sqrt(1 + 4 * t[k] ** 2)) / 2
    return ((t[:-1] - 1) / t[1:]).astype(np.float32)
