"""A sparse code z of a signal e on a dictionary D, and what it is worth.

Rows are signals: e `[..., d]` is approximated by z D^T, with the dictionary D `[d, K]` and the code
z `[..., K]`. The papers' b, A and x are e, D and z as columns.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.dictionaries import check_dictionary
from bottlenecks.floating import check_floating


class SparseCode(NamedTuple):
    """A code and what it stands for.

    Attributes:
      latent: `[..., d]` in the signals' dtype, z D^T.
      code: `[..., K]` in the signals' dtype, z.
      iterates: `[T, ..., K]` in the signals' dtype, the code after each of the T steps; None unless
        asked for.
    """

    latent: chex.Array
    code: chex.Array
    iterates: chex.Array | None = None


def soft_threshold(
    v: chex.Array, threshold: chex.Array | float, *, non_negative: bool = False
) -> chex.Array:
    """sign(v) max(|v| - threshold, 0), or with `non_negative` max(v - threshold, 0).

    The gradient to v is 1 and that to the threshold -sign(v) where |v| > threshold; both are 0
    elsewhere, the kink included (`sign(v) * maximum(|v| - t, 0)` would give a half there).

    Args:
      v: floating `[...]`.
      threshold: 0 or more, broadcast against v.
      non_negative: leave no negative entry.

    Returns:
      `[...]` in v's dtype; NaN where v is.

    Raises:
      ValueError: if v is not floating or the threshold does not broadcast to it.
    """
    check_floating(v=v)
    x, t = v.astype(jnp.float32), spread(threshold, v.shape, "threshold")
    # Written so that a NaN is passed on: it compares as not within the threshold.
    if non_negative:
        shrunk = jnp.where(x <= t, 0, x - t)
    else:
        shrunk = jnp.where(jnp.abs(x) <= t, 0, x - jnp.sign(x) * t)
    return shrunk.astype(v.dtype)


def objective(
    signals: chex.Array, dictionary: chex.Array, code: chex.Array, *, penalty: chex.Array | float
) -> chex.Array:
    """F(z) = 1/2 ||e - z D^T||_2^2 + alpha ||z||_1 of each signal.

    Args:
      signals: floating `[..., d]`, e.
      dictionary: floating `[d, K]`, D.
      code: floating `[..., K]`, z.
      penalty: alpha, as in `ista`.

    Returns:
      float32 `[...]`, squared units, summed over d.

    Raises:
      ValueError: if shapes do not fit or an array is not floating.
    """
    e, D, z, alpha = _problem(signals, dictionary, code, penalty)
    return objective_at(e - matmul(z, D.T), z, alpha)


def duality_gap(
    signals: chex.Array, dictionary: chex.Array, code: chex.Array, *, penalty: chex.Array | float
) -> chex.Array:
    """How far F(z) can be from its minimum at most: F(z) less a value of the dual problem.

    With the residual r = e - z D^T and nu = r min(1, min_i alpha_i / |d_i^T r|), which is feasible
    in the dual, the gap is F(z) - (1/2 ||e||^2 - 1/2 ||e - nu||^2) (Kim et al. 2007, "An
    Interior-Point Method for Large-Scale l1-Regularized Least Squares"). In float32 it is good to
    about 1e-6 of ||e||^2.

    Args:
      signals: floating `[..., d]`, e.
      dictionary: floating `[d, K]`, D.
      code: floating `[..., K]`, z, of either sign.
      penalty: alpha, as in `ista`.

    Returns:
      float32 `[...]`, 0 or more, squared units, summed over d.

    Raises:
      ValueError: if shapes do not fit or an array is not floating.
    """
    e, D, z, alpha = _problem(signals, dictionary, code, penalty)
    r = e - matmul(z, D.T)
    dual = dual_at(e, r, matmul(r, D), alpha, non_negative=False)
    return jnp.maximum(objective_at(r, z, alpha) - dual, 0)


def zero_fraction(code: chex.Array) -> chex.Array:
    """The share of entries that are exactly 0: code `[..., K]` to float32 `[...]`."""
    return jnp.mean(code == 0, axis=-1, dtype=jnp.float32)


def hoyer(code: chex.Array) -> chex.Array:
    """Hoyer's sparseness (sqrt(K) - ||z||_1 / ||z||_2) / (sqrt(K) - 1) of each code.

    1 for a code with one entry, 0 for one whose entries are all as large, whatever its scale; a
    code of zeros gives 1, with gradient 0. Source: Hoyer 2004, "Non-negative Matrix Factorization
    with Sparseness Constraints".

    Args:
      code: floating `[..., K]`, K 2 or more.

    Returns:
      float32 `[...]`, in 0 .. 1.

    Raises:
      ValueError: if the code is not floating or K < 2.
    """
    check_floating(code=code)
    if jnp.ndim(code) < 1 or code.shape[-1] < 2:
        raise ValueError(f"The code is [..., K] with K 2 or more, got {jnp.shape(code)}.")
    z = code.astype(jnp.float32)
    # Scaled by the largest entry first, or the squares of small codes would vanish.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=-1, keepdims=True))
    some = largest > 0
    z = z / jnp.where(some, largest, 1)
    squared = jnp.sum(jnp.square(z), axis=-1)
    norm_2 = jnp.sqrt(jnp.where(some[..., 0], squared, 1))
    ratio = jnp.where(some[..., 0], jnp.sum(jnp.abs(z), axis=-1) / norm_2, 1)
    root = np.sqrt(np.float32(code.shape[-1]))
    return (root - ratio) / (root - 1)


def dual_at(
    e: chex.Array, r: chex.Array, g: chex.Array, alpha: chex.Array, *, non_negative: bool
) -> jax.Array:
    """A value of the dual problem, from the residual r and its correlations g = r D."""
    size = g if non_negative else jnp.abs(g)
    infeasible = size > alpha
    shrink = jnp.min(jnp.where(infeasible, alpha / jnp.where(infeasible, size, 1), 1), axis=-1)
    nu = r * shrink[..., None]
    # 1/2 ||e||^2 - 1/2 ||e - nu||^2, without the difference of large numbers.
    return jnp.sum(nu * (e - 0.5 * nu), axis=-1)


def objective_at(r: chex.Array, z: chex.Array, alpha: chex.Array) -> jax.Array:
    """The objective, from the residual r = e - z D^T."""
    return 0.5 * jnp.sum(jnp.square(r), axis=-1) + jnp.sum(alpha * jnp.abs(z), axis=-1)


def _problem(
    signals: chex.Array, dictionary: chex.Array, code: chex.Array, penalty: chex.Array | float
) -> tuple[jax.Array, ...]:
    check_signals(signals, dictionary)
    check_floating(code=code)
    shape = (*signals.shape[:-1], dictionary.shape[1])
    if jnp.shape(code) != shape:
        raise ValueError(f"The code is {shape} for these signals, got {jnp.shape(code)}.")
    e, D, z = (x.astype(jnp.float32) for x in (signals, dictionary, code))
    return e, D, z, spread(penalty, shape, "penalty")


def as_sparse_code(
    signals: chex.Array, dictionary: chex.Array, z: chex.Array, iterates: chex.Array | None
) -> SparseCode:
    """The code and its latent in the signals' dtype."""
    dtype = signals.dtype
    return SparseCode(
        latent=matmul(z, dictionary.astype(jnp.float32).T).astype(dtype),
        code=z.astype(dtype),
        iterates=None if iterates is None else iterates.astype(dtype),
    )


def matmul(a: chex.Array, b: chex.Array) -> jax.Array:
    """The product in full precision; the accelerators' default is bfloat16 or TF32."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def check_signals(signals: chex.Array, dictionary: chex.Array) -> None:
    """Raises ValueError unless signals are `[..., d]` and the dictionary `[d, K]`, floating."""
    check_dictionary(dictionary)
    check_floating(signals=signals)
    if jnp.ndim(signals) < 1 or signals.shape[-1] != dictionary.shape[0]:
        raise ValueError(
            f"Signals are [..., d] and the dictionary [d, K] with one d; got signals "
            f"{jnp.shape(signals)} and dictionary {jnp.shape(dictionary)}."
        )


def spread(number: chex.Array | float, shape: tuple[int, ...], name: str) -> jax.Array:
    """A number or array as float32 that broadcasts against `shape` without a change of rank."""
    x = jnp.asarray(number, jnp.float32)
    if x.ndim == 0:
        return x
    try:
        return jnp.broadcast_to(x, shape)
    except ValueError:
        raise ValueError(f"{name} must broadcast to {tuple(shape)}, got {x.shape}.") from None


def start_at(start: chex.Array, like: chex.Array) -> jax.Array:
    """A given code to start from, which varies over the devices that `like` varies over."""
    if jnp.shape(start) != like.shape:
        raise ValueError(f"start is a code, {like.shape}, got {jnp.shape(start)}.")
    return jnp.zeros_like(like) + start.astype(jnp.float32)
