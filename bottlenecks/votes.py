"""Votes of input capsules i for output capsules j, laid out and summed; what all routings share.

Votes come as `[..., I, J, D]` and are routed as `[..., J, I, D]`: the two products below are then
batched products of a matrix and a vector, without a copy in each iteration.
"""

import chex
import jax
import jax.numpy as jnp

from bottlenecks.floating import check_floating

_HIGHEST = jax.lax.Precision.HIGHEST
TINY = float(jnp.finfo(jnp.float32).tiny)


def by_output(votes: chex.Array) -> jax.Array:
    """`[..., I, J, D]` to float32 `[..., J, I, D]`."""
    return jnp.swapaxes(votes.astype(jnp.float32), -3, -2)


def weighted_sum(c: chex.Array, u_hat: chex.Array) -> jax.Array:
    """sum_i c_ij u_hat_{j|i}: `[..., J, I]` and `[..., J, I, D]` to `[..., J, D]`."""
    return jnp.einsum("...i,...id->...d", c, u_hat, precision=_HIGHEST)


def agreement(v: chex.Array, u_hat: chex.Array) -> jax.Array:
    """u_hat_{j|i} . v_j: `[..., J, D]` and `[..., J, I, D]` to `[..., J, I]`."""
    return jnp.einsum("...d,...id->...i", v, u_hat, precision=_HIGHEST)


def safe_root(square: chex.Array, *, at_zero: float) -> jax.Array:
    """The root, with the value `at_zero` and gradient 0 where the square is 0."""
    positive = square > TINY
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), at_zero)


def check_votes(votes: chex.Array, iterations: int) -> None:
    """Raises ValueError unless votes are floating `[..., I, J, D]` and iterations 1 or more."""
    if jnp.ndim(votes) < 3 or 0 in jnp.shape(votes)[-3:]:
        raise ValueError(
            f"Votes are [..., I, J, D] with at least one of each, got {jnp.shape(votes)}."
        )
    check_floating(votes=votes)
    check_iterations(iterations)


def check_iterations(iterations: int) -> None:
    """Raises ValueError unless iterations is 1 or more."""
    if iterations < 1:
        raise ValueError(f"iterations is 1 (the plain average) or more, got {iterations}.")
