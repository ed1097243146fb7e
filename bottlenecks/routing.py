"""Routing by agreement: input capsules i vote for output capsules j, and agreeing votes win.

Sources:
  Sabour, Frosst & Hinton 2017, "Dynamic Routing Between Capsules",
    https://arxiv.org/abs/1710.09829 (`squash`, `dynamic_routing`).
  Tsai, Srivastava, Goh & Salakhutdinov 2020, "Capsules with Inverted Dot-Product Attention
    Routing", https://arxiv.org/abs/2002.04764 (`attention_routing`).
  Pucci, Micheloni, Foresti & Martinel 2022, "CVGAN: Image Generation with Capsule Vector-VAE",
    ICIAP, https://doi.org/10.1007/978-3-031-06427-2_45 (`published_capsules`).
and `em_routing`, which has a file to itself.

Paper symbols: u_hat_{j|i} the vote of i for j, b_ij its logit, c_ij the coupling, s_j the sum of
votes, v_j the output capsule. Iterations are unrolled: a scan takes about twice
the time forward and backward, and compiles no faster.
"""

from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from bottlenecks.clusters import row_weights, sum_over
from bottlenecks.em import EMRouted, em_routing
from bottlenecks.floating import check_floating
from bottlenecks.votes import (
    agreement,
    by_output,
    check_iterations,
    check_votes,
    safe_root,
    weighted_sum,
)

__all__ = [
    "EMRouted",
    "PublishedCapsules",
    "Routed",
    "attention_routing",
    "dynamic_routing",
    "em_routing",
    "published_capsules",
    "squash",
]

_HIGHEST = jax.lax.Precision.HIGHEST


class Routed(NamedTuple):
    """Output capsules and what they are made of.

    Attributes:
      latent: `[..., J, D]` in the votes' dtype, v_j.
      coupling: float32 `[..., I, J]`, c_ij of the last iteration, the share of input i that went to
        output j; sums to 1 over j (to less with a leak).
    """

    latent: chex.Array
    coupling: chex.Array


class PublishedCapsules(NamedTuple):
    """What the capsule layer of CVGAN gives.

    Attributes:
      latent: `[B, I]` in u's dtype, the norms ||c_i u_hat_i||, 0 or more.
      capsule: `[B, d_out]` in u's dtype, the one output capsule v, which the release discards.
      coupling: float32 `[I]`, c_i of the last iteration, one for the whole batch; sums to 1.
    """

    latent: chex.Array
    capsule: chex.Array
    coupling: chex.Array


def squash(s: chex.Array, *, epsilon: float = 0.0) -> chex.Array:
    """Shortens a vector to a length below 1 (Sabour et al. 2017, Eq. 1).

    Args:
      s: floating `[..., D]`.
      epsilon: added to |s|^2 under the root; 0 is the paper, float32's 2^-23 the release of CVGAN.

    Returns:
      `[..., D]` in s's dtype: |s|^2 / (1 + |s|^2) s / |s|; 0 with gradient 0 at s = 0.
    """
    x = s.astype(jnp.float32)
    norm2 = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    scale = norm2 / (1 + norm2) / safe_root(norm2 + epsilon, at_zero=1.0)  # Eq. 1
    return (scale * x).astype(s.dtype)


def dynamic_routing(
    votes: chex.Array,
    *,
    iterations: int = 3,
    logits: chex.Array | None = None,
    bias: chex.Array | None = None,
    leaky: bool = False,
    gradient: Literal["all", "last"] = "all",
) -> Routed:
    """Routing by agreement (Sabour et al. 2017, procedure 1).

    Args:
      votes: floating `[..., I, J, D]`, u_hat_{j|i}.
      iterations: 1 or more; 1 is the plain average over outputs, c_ij = 1 / J.
      logits: `[I, J]` or `[..., I, J]`, b_ij to start from, the log priors; 0 by default.
      bias: `[J, D]`, added to s_j.
      leaky: one more output, of logit 0, takes a share of every input and is dropped, so that an
        input may go nowhere (in the release of Sabour, not in the paper).
      gradient: through all iterations, as the paper's authors, or "last": the agreements, and with
        them the coupling, count as constants; only s_j and v_j of the last iteration are
        differentiated (and its softmax, with respect to `logits`).

    Returns:
      A `Routed`.

    Raises:
      ValueError: if the shapes do not fit, iterations < 1 or gradient is neither of the two.
    """
    check_votes(votes, iterations)
    if gradient not in ("all", "last"):
        raise ValueError(f"gradient is 'all' or 'last', got {gradient!r}.")
    u_hat = by_output(votes)
    J, _, D = u_hat.shape[-3:]
    # One logit per output until votes differ: the softmax of a large constant would be folded when
    # the program is compiled, in seconds.
    b = jnp.zeros((1,) * (u_hat.ndim - 3) + (J, 1), jnp.float32)
    if logits is not None:
        b = _start_logits(logits, votes.shape[:-1])
    if bias is not None and jnp.shape(bias) != (J, D):
        raise ValueError(f"The bias is [J, D], expected {(J, D)}, got {jnp.shape(bias)}.")
    for iteration in range(iterations):
        c = jnp.broadcast_to(_softmax_over_outputs(b, leaky), u_hat.shape[:-1])  # Eq. 3
        s = weighted_sum(c, u_hat)  # Eq. 2, left
        if bias is not None:
            s = s + jnp.broadcast_to(bias.astype(jnp.float32), s.shape)
        v = squash(s)  # Eq. 1
        if iteration < iterations - 1:
            agreed = agreement(v, u_hat)
            b = b + (agreed if gradient == "all" else jax.lax.stop_gradient(agreed))
    return Routed(latent=v.astype(votes.dtype), coupling=jnp.swapaxes(c, -1, -2))


def attention_routing(
    votes: chex.Array,
    *,
    iterations: int = 2,
    scale: chex.Array | None = None,
    bias: chex.Array | None = None,
    epsilon: float = 1e-5,
) -> Routed:
    """Inverted dot-product attention (Tsai et al. 2020): outputs compete for each input.

    Args:
      votes: floating `[..., I, J, D]`, W_ij u_i.
      iterations: times v_j is computed; 1 is the uniform coupling 1 / J, 2 the paper's default.
      scale: `[D]`, gain of the layer normalisation, 1 by default.
      bias: `[D]`, its offset, 0 by default.
      epsilon: added to its variance.

    Returns:
      A `Routed`.

    Raises:
      ValueError: if the shapes do not fit or iterations < 1.
    """
    check_votes(votes, iterations)
    u_hat = by_output(votes)
    J, _, D = u_hat.shape[-3:]
    for name, array in dict(scale=scale, bias=bias).items():
        if array is not None and jnp.shape(array) != (D,):
            raise ValueError(f"{name} is [D], expected {(D,)}, got {jnp.shape(array)}.")

    def layer_norm(s: chex.Array) -> jax.Array:
        s = s - jnp.mean(s, axis=-1, keepdims=True)
        v = s * jax.lax.rsqrt(jnp.mean(jnp.square(s), axis=-1, keepdims=True) + epsilon)
        if scale is not None:
            v = v * jnp.broadcast_to(scale.astype(jnp.float32), v.shape)
        if bias is not None:
            v = v + jnp.broadcast_to(bias.astype(jnp.float32), v.shape)
        return v

    r = jnp.full(u_hat.shape[:-1], 1 / J, jnp.float32)
    v = layer_norm(weighted_sum(r, u_hat))
    for _ in range(iterations - 1):
        o = agreement(v, u_hat) / D**0.5
        r = jax.nn.softmax(o, axis=-2)
        v = layer_norm(weighted_sum(r, u_hat))
    return Routed(latent=v.astype(votes.dtype), coupling=jnp.swapaxes(r, -1, -2))


def published_capsules(
    u: chex.Array,
    W: chex.Array,
    *,
    iterations: int = 3,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> PublishedCapsules:
    """The capsule layer as CVGAN released it (Riretta/CV_GAN, 2022).

    It differs from `dynamic_routing` in that
      there is one output capsule, and the softmax runs over the inputs i instead of the outputs j:
        nothing competes, and c_i stays close to 1 / I;
      squash acts on each unit alone, s |s| / (1 + s^2), for its norm is over an axis of size 1;
      the agreement is averaged over the batch: an image's latent depends on the others in its
        batch. The release takes the batch of each device; name `axis_name` for the whole one;
      v is discarded, and the latent is the norm of each coupled vote.
    The norm's gradient at a vote of 0, NaN there, is 0 here.

    Args:
      u: floating `[B, I, d_in]`, the input capsules, after `squash(u, epsilon=2**-23)`.
      W: floating `[I, d_out, d_in]`; the release draws it from N(0, 1) and does not train it.
      iterations: 1 or more; 1 is the plain average over inputs.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[B]`, 0 for images that have no part in the batch's agreement.

    Returns:
      A `PublishedCapsules`.

    Raises:
      ValueError: if the shapes do not fit or iterations < 1.
    """
    if jnp.ndim(u) != 3 or jnp.ndim(W) != 3 or (u.shape[1], u.shape[2]) != (W.shape[0], W.shape[2]):
        raise ValueError(
            f"u is [B, I, d_in] and W [I, d_out, d_in]; got {jnp.shape(u)} and {jnp.shape(W)}."
        )
    check_floating(u=u, W=W)
    check_iterations(iterations)
    weight = row_weights(u.shape[:1], mask)[:, None]
    images = sum_over(jnp.sum(weight), axis_name)
    u_hat = jnp.einsum(
        "bid,iod->bio", u.astype(jnp.float32), W.astype(jnp.float32), precision=_HIGHEST
    )
    b = jnp.zeros(u.shape[1], jnp.float32)
    for iteration in range(iterations):
        c = jax.nn.softmax(b)  # over the inputs
        s = jnp.einsum("i,bio->bo", c, u_hat, precision=_HIGHEST)
        v = s * jnp.abs(s) / (1 + jnp.square(s))
        if iteration < iterations - 1:
            agreed = jnp.einsum("bio,bo->bi", u_hat, v, precision=_HIGHEST)
            agreed = jnp.sum(jnp.where(weight > 0, agreed * weight, 0), axis=0)
            b = b + sum_over(agreed, axis_name) / jnp.where(images > 0, images, 1)
    n = c[None, :] * safe_root(jnp.sum(jnp.square(u_hat), axis=-1), at_zero=0.0)
    return PublishedCapsules(latent=n.astype(u.dtype), capsule=v.astype(u.dtype), coupling=c)


def _softmax_over_outputs(b: chex.Array, leaky: bool) -> jax.Array:
    if not leaky:
        return jax.nn.softmax(b, axis=-2)
    leak = jnp.zeros_like(b[..., :1, :])
    return jax.nn.softmax(jnp.concatenate([b, leak], axis=-2), axis=-2)[..., :-1, :]


def _start_logits(logits: chex.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[I, J]` or `[..., I, J]` to float32 `[..., J, I]`."""
    if jnp.shape(logits) not in (shape[-2:], shape):
        raise ValueError(
            f"Logits are [I, J] or [..., I, J], expected {shape[-2:]} or {shape}, got "
            f"{jnp.shape(logits)}."
        )
    b = jnp.swapaxes(logits.astype(jnp.float32), -1, -2)
    return b.reshape((1,) * (len(shape) - b.ndim) + b.shape)
