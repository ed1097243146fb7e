"""EM routing: each output capsule is a Gaussian, fitted to the votes it is responsible for.

Source: Hinton, Sabour & Frosst 2018, "Matrix Capsules with EM Routing", ICLR,
https://openreview.net/forum?id=HJWLfGWRb, procedure 1. Paper symbols: V_ij the vote, a the
activations, R_ij the share of input i that output j explains, mu_j and sigma_j of each Gaussian.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bottlenecks.floating import check_floating
from bottlenecks.votes import (
    TINY,
    agreement,
    by_output,
    check_votes,
    weighted_sum,
)


class EMRouted(NamedTuple):
    """Output capsules: where the votes for each cluster, and whether they do.

    Attributes:
      latent: `[..., J, D]` in the votes' dtype, mu_j.
      activation: `[..., J]` in the activation's dtype, a_j in (0, 1).
      coupling: float32 `[..., I, J]`, R_ij that the last fit started from; sums to 1 over j.
    """

    latent: chex.Array
    activation: chex.Array
    coupling: chex.Array


def em_routing(
    votes: chex.Array,
    activation: chex.Array,
    beta_u: chex.Array,
    beta_a: chex.Array,
    *,
    iterations: int = 3,
    final_lambda: float = 0.01,
    lambda_decay: float = 0.95,
    variance_floor: float = 1e-6,
) -> EMRouted:
    """EM routing (Hinton et al. 2018, procedure 1), differentiated through all iterations.

    The inverse temperature of iteration t = 1, 2 ... is final_lambda (1 - lambda_decay^t), a common
    schedule; the paper leaves it open.

    Args:
      votes: floating `[..., I, J, D]`, V_ij.
      activation: floating `[..., I]`, a_i, 0 or more.
      beta_u: `[J]` or `[]`, nats per dimension and input for being described by an inactive output.
      beta_a: `[J]` or `[]`, nats that it costs to activate an output.
      iterations: M steps, 1 or more, with an E step between two; 1 is a fit of all votes.
      final_lambda: where the inverse temperature ends.
      lambda_decay: how slowly it rises; 0 has it at its end at once.
      variance_floor: added to sigma_j^2; the paper has none, and divides by 0 where votes agree.

    Returns:
      An `EMRouted`. An output that no active input votes for has mu_j = 0 and a_j = sigmoid(lambda
      beta_a).

    Raises:
      ValueError: if the shapes do not fit, iterations < 1, variance_floor is not positive or
        lambda_decay is outside `[0, 1)`.
    """
    check_votes(votes, iterations)
    check_floating(activation=activation)
    if jnp.shape(activation) != votes.shape[:-2]:
        raise ValueError(
            f"There is one activation per input capsule, expected {votes.shape[:-2]}, got "
            f"{jnp.shape(activation)}."
        )
    if variance_floor <= 0:
        raise ValueError(f"variance_floor is above 0, got {variance_floor}.")
    if not 0 <= lambda_decay < 1:
        raise ValueError(f"lambda_decay is in [0, 1), got {lambda_decay}.")
    V = by_output(votes)
    outputs = (*V.shape[:-3], V.shape[-3])
    beta_u, beta_a = (
        _per_output(name, beta, outputs)
        for name, beta in dict(beta_u=beta_u, beta_a=beta_a).items()
    )
    a_in = activation.astype(jnp.float32)[..., None, :]
    log_R = jnp.full(V.shape[:-1], -math.log(outputs[-1]), jnp.float32)
    for iteration in range(iterations):
        inverse_temperature = final_lambda * (1 - lambda_decay ** (iteration + 1))
        R = jnp.exp(log_R)
        # M step
        weight, total = _shares(log_R, a_in)  # R_ij <- R_ij a_i
        mu = weighted_sum(weight, V)
        # Moments about the constant c = mu are those about any other, and no digits are lost at
        # this one: m is 0. It is there for its gradient, whose sums over i become products with V
        # (training is twice as fast as with V - mu).
        c = jax.lax.stop_gradient(mu)
        m = mu - c
        square = jnp.square(V - c[..., None, :])
        variance = weighted_sum(weight, square) - jnp.square(m) + variance_floor
        cost = (beta_u[..., None] + 0.5 * jnp.log(variance)) * total[..., None]
        logit = inverse_temperature * (beta_a - jnp.sum(cost, axis=-1))
        if iteration < iterations - 1:
            # E step: sum_h (V - mu)^2 / sigma^2, with V - mu = (V - c) - m multiplied out. The
            # Gaussian's power of 2 pi is the same for all outputs.
            precision = 1 / variance
            distance = agreement(precision, square) - 2 * agreement(precision * m, V)
            distance = distance + jnp.sum(precision * m * (m + 2 * c), axis=-1)[..., None]
            log_p = -0.5 * (distance + jnp.sum(jnp.log(variance), axis=-1)[..., None])
            log_R = jax.nn.log_softmax(jax.nn.log_sigmoid(logit)[..., None] + log_p, axis=-2)
    return EMRouted(
        latent=mu.astype(votes.dtype),
        activation=jax.nn.sigmoid(logit).astype(activation.dtype),
        coupling=jnp.swapaxes(R, -1, -2),
    )


def _shares(log_R: chex.Array, a_in: chex.Array) -> tuple[jax.Array, jax.Array]:
    """R_ij a_i over its sum over i, `[..., J, I]`, and that sum, `[..., J]`.

    The largest R_ij of each j is divided out first: the shares hold where all of them underflow.
    Shares are 0 where the sum is.
    """
    largest = jnp.max(jnp.where(a_in > 0, log_R, -jnp.inf), axis=-1, keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    # Not jnp.minimum, which halves the gradient where both are equal: at the largest.
    below = jnp.where(log_R > largest, 0, log_R - largest)
    weight = jnp.exp(below) * a_in
    total = jnp.sum(weight, axis=-1, keepdims=True)
    shares = weight / jnp.where(total > TINY, total, 1)
    return shares, (jnp.exp(largest) * total)[..., 0]


def _per_output(name: str, beta: chex.Array, outputs: tuple[int, ...]) -> jax.Array:
    if jnp.shape(beta) not in ((), outputs[-1:]):
        raise ValueError(f"{name} is [J] or [], expected {outputs[-1:]}, got {jnp.shape(beta)}.")
    return jnp.broadcast_to(jnp.asarray(beta, jnp.float32), outputs)
