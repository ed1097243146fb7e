"""Sparse codes to a chosen accuracy: the Lasso of a whole batch, with the gradient of its solution.

For the notation see `bottlenecks.sparse_codes`. Source: Wright, Nowak & Figueiredo 2009, "Sparse
Reconstruction by Separable Approximation" (SpaRSA), after Barzilai & Borwein 1988.
"""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from bottlenecks.sparse_codes import (
    SparseCode,
    as_sparse_code,
    check_signals,
    matmul,
    soft_threshold,
    spread,
)

_MEMORY = 5  # objectives that a new one is compared with


def sparse_code(
    signals: chex.Array,
    dictionary: chex.Array,
    *,
    penalty: chex.Array | float,
    tolerance: float = 1e-2,
    max_iterations: int = 1000,
    non_negative: bool = False,
) -> SparseCode:
    """Minimises 1/2 ||e - z D^T||^2 + alpha ||z||_1 until the duality gap is small enough.

    Proximal gradient steps as in `ista`, but each signal's step is as long as its last one found
    the objective to be flat, |dz|^2 / |dz D^T|^2, and so several times 1 / c: on its support a
    signal sees few atoms. A step that leaves the objective above its last five values is repeated
    at a quarter of the length.

    The loop ends when the duality gaps of the batch add up to no more than `tolerance` times its
    objectives: a bound on the relative excess of the sum. The excess itself is far less, 1e-4 to
    1e-3 at the default on SC-VAE's dictionary. Codes depend on the rest of the batch within that
    bound. In float32 gaps below 1e-6 of the objectives cannot be seen.

    The gradient, to signals, dictionary and penalty, is that of the exact minimiser with the
    support and signs found (implicit differentiation), not that of the steps, and takes no memory
    for them. It is a linear system on the support, solved by conjugate gradients.

    Args:
      signals: floating `[..., d]`, e.
      dictionary: floating `[d, K]`, D.
      penalty: alpha, above 0, as in `ista`.
      tolerance: see above, a number of 0 or more that jit does not trace.
      max_iterations: proximal steps at most, 0 or more.
      non_negative: codes of z >= 0 only.

    Returns:
      A `SparseCode`, without iterates.

    Raises:
      ValueError: if shapes do not fit, an array is not floating, or tolerance or max_iterations is
        negative.
    """
    check_signals(signals, dictionary)
    if tolerance < 0 or max_iterations < 0:
        raise ValueError(
            f"tolerance and max_iterations are 0 or more, got {tolerance} and {max_iterations}."
        )
    e, D = signals.astype(jnp.float32), dictionary.astype(jnp.float32)
    alpha = spread(penalty, (*e.shape[:-1], D.shape[1]), "penalty")
    z = _minimise(tolerance, max_iterations, non_negative, e, D, alpha)
    return as_sparse_code(signals, dictionary, z, None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _minimise(
    tolerance: float,
    max_iterations: int,
    non_negative: bool,
    e: chex.Array,
    D: chex.Array,
    alpha: chex.Array,
) -> jax.Array:
    """Columns inside, as in the papers: e `[d, N]`, z `[K, N]`. Sums over rows are fast on CPU."""
    d, K = D.shape
    shape = (*e.shape[:-1], K)
    e = e.reshape(-1, d).T
    alpha = alpha if alpha.ndim == 0 else alpha.reshape(-1, K).T
    shrink = functools.partial(soft_threshold, non_negative=non_negative)

    def evaluate(z: chex.Array) -> tuple[jax.Array, jax.Array]:
        r = e - matmul(D, z)
        return r, 0.5 * _squared(r) + jnp.sum(alpha * jnp.abs(z), axis=0, keepdims=True)

    def step(state: tuple) -> tuple:
        k, z, r, t, F, dual = state
        g = matmul(D.T, r)
        size = jnp.max((g if non_negative else jnp.abs(g)) / alpha, axis=0, keepdims=True)
        nu = r / jnp.maximum(size, 1)
        dual = jnp.maximum(dual, jnp.sum(nu * (e - 0.5 * nu), axis=0, keepdims=True))
        new_z = shrink(z + t * g, alpha * t)
        new_r, new_F = evaluate(new_z)
        accept = new_F <= jnp.max(F, axis=0, keepdims=True)
        length = _ratio(_squared(new_z - z), _squared(new_r - r), t)
        t = jnp.where(accept, length, t / 4)
        z, r = jnp.where(accept, new_z, z), jnp.where(accept, new_r, r)
        F = jnp.where(accept, jnp.concatenate([new_F, F[:-1]]), F)
        return k + 1, z, r, t, F, dual

    def unfinished(state: tuple) -> jax.Array:
        k, *_, F, dual = state
        return (k < max_iterations) & (jnp.sum(F[:1] - dual) > tolerance * jnp.sum(F[:1]))

    z = jnp.zeros_like(matmul(D.T, e) + alpha)
    r, F = evaluate(z)
    t = _ratio(jnp.full_like(F, K), _squared(D.reshape(-1, 1)), jnp.ones_like(F))
    k = jnp.zeros_like(jnp.sum(F), dtype=jnp.int32)
    F = jnp.concatenate([F] * _MEMORY)
    z = jax.lax.while_loop(unfinished, step, (k, z, r, t, F, jnp.zeros_like(F[:1])))[1]
    return z.T.reshape(shape)


@_minimise.defjvp
def _minimise_jvp(
    tolerance: float, max_iterations: int, non_negative: bool, primals: tuple, tangents: tuple
) -> tuple[jax.Array, jax.Array]:
    """On the support (e - z D^T) D = alpha sign(z), so that dz (D^T D) = d[that with z fixed]."""
    z = _minimise(tolerance, max_iterations, non_negative, *primals)
    support, sign = z != 0, jnp.sign(z)
    D = primals[1]

    def optimality(e: chex.Array, D: chex.Array, alpha: chex.Array) -> jax.Array:
        return jnp.where(support, matmul(e - matmul(z, D.T), D) - alpha * sign, 0)

    def curvature(dz: chex.Array) -> jax.Array:
        dz = jnp.where(support, dz, 0)
        return jnp.where(support, matmul(matmul(dz, D.T), D), 0)

    _, dh = jax.jvp(optimality, primals, tangents)
    dz = jax.lax.custom_linear_solve(curvature, dh, _conjugate_gradient, symmetric=True)
    return z, jnp.where(support, dz, 0)  # backwards, what is to be solved for is masked by this


def _conjugate_gradient(product: Callable[[jax.Array], jax.Array], b: chex.Array) -> jax.Array:
    """One solve for each row, all in step.

    A row is done at 1e-6 of its right side, or where the system is singular to float32 in the
    direction left (a support of more atoms than dimensions has such directions).
    """

    def unfinished(state: tuple) -> jax.Array:
        k, *_, rr = state
        return (k < 2 * b.shape[-1]) & jnp.any(rr > 0)

    def step(state: tuple) -> tuple:
        k, steepest, x, r, p, rr = state
        Ap = product(p)
        pAp = _dot(p, Ap)
        bend = _ratio(pAp, _dot(p, p), 0.0)
        steepest = jnp.maximum(steepest, bend)
        go = (rr > 0) & (bend > 1e-6 * steepest)
        a = jnp.where(go, _ratio(rr, pAp, 0.0), 0)
        x, r = x + a * p, r - a * Ap
        new = _dot(r, r)
        new = jnp.where(go & (new > 1e-12 * bb), new, 0)
        return k + 1, steepest, x, r, r + _ratio(new, rr, 0.0) * p, new

    bb = _dot(b, b)
    k = jnp.zeros_like(jnp.sum(b), dtype=jnp.int32)
    state = (k, jnp.zeros_like(bb), jnp.zeros_like(b), b, b, bb)
    return jax.lax.while_loop(unfinished, step, state)[2]


def _squared(x: chex.Array) -> jax.Array:
    return jnp.sum(jnp.square(x), axis=0, keepdims=True)


def _dot(x: chex.Array, y: chex.Array) -> jax.Array:
    return jnp.sum(x * y, axis=-1, keepdims=True)


def _ratio(a: chex.Array, b: chex.Array, otherwise: chex.Array | float) -> jax.Array:
    """The ratio a / b where both are positive, so that it is finite and not 0."""
    fine = (a > 0) & (b > 0)
    return jnp.where(fine, a / jnp.where(fine, b, 1), otherwise)
