"""Sparse codes: min_z 1/2 ||e - z D^T||_2^2 + alpha ||z||_1, solved by unrolled proximal steps.

Rows are signals: e `[..., d]` is approximated by z D^T, with the dictionary D `[d, K]` and the code
z `[..., K]`; the papers' b, A and x are e, D and z as columns. Sources: Daubechies, Defrise & De
Mol 2004 (ISTA); Beck & Teboulle 2009, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear
Inverse Problems" (FISTA).
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.dictionaries import check_dictionary, spectral_norm_squared

__all__ = [
    "SparseCode",
    "duality_gap",
    "fista",
    "hoyer",
    "ista",
    "objective",
    "soft_threshold",
    "spectral_norm_squared",
    "zero_fraction",
]


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
    return _objective(e - matmul(z, D.T), z, alpha)


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
    return gap_at(e, r, matmul(r, D), z, alpha, non_negative=False)


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


def gap_at(
    e: chex.Array,
    r: chex.Array,
    correlation: chex.Array,
    z: chex.Array,
    alpha: chex.Array,
    *,
    non_negative: bool,
) -> jax.Array:
    """The duality gap, given the residual r and its correlation r D with the atoms."""
    size = correlation if non_negative else jnp.abs(correlation)
    infeasible = size > alpha
    shrink = jnp.min(jnp.where(infeasible, alpha / jnp.where(infeasible, size, 1), 1), axis=-1)
    nu = r * shrink[..., None]
    # 1/2 ||e||^2 - 1/2 ||e - nu||^2 = nu . (e - nu / 2), without the difference of large numbers.
    dual = jnp.sum(nu * (e - 0.5 * nu), axis=-1)
    return jnp.maximum(_objective(r, z, alpha) - dual, 0)


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


def check_floating(**arrays: chex.Array) -> None:
    """Raises ValueError unless every array is floating."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating, got {array.dtype}; convert with astype.")


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


def _objective(r: chex.Array, z: chex.Array, alpha: chex.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.square(r), axis=-1) + jnp.sum(alpha * jnp.abs(z), axis=-1)
