"""Unit vectors, and the rotation from one direction to another."""

import chex
import jax
import jax.numpy as jnp


def normalize(x: chex.Array) -> chex.Array:
    """Gives the direction x / ||x||, also where ||x||^2 would overflow or vanish.

    Args:
      x: floating `[..., D]`.

    Returns:
      `[..., D]` in x's dtype, of norm 1; a zero vector stays zero and gets no gradient.
    """
    return _norm_and_direction(x.astype(jnp.float32))[1].astype(x.dtype)


def rotate_and_rescale(v: chex.Array, z_e: chex.Array, q: chex.Array) -> chex.Array:
    """Applies to v the constant linear map lambda R that turns z_e into q.

    Source: Fifty et al. 2024, "Restructuring Vector Quantization with the Rotation Trick",
    https://arxiv.org/abs/2410.06424, section 4. With unit vectors e^ = z_e / ||z_e||,
    q^ = q / ||q|| and r = (e^ + q^) / ||e^ + q^||,

        R = I - 2 r r^T + 2 q^ e^T,    lambda = ||q|| / ||z_e||,    lambda R z_e = q.

    R is the rotation in the plane of e^ and q^, and the D x D matrix is never formed. Where the
    paper leaves it open: between opposite vectors any half turn will do, and r is then the
    coordinate axis farthest from e^, made orthogonal to it (in one dimension there is no rotation,
    and R = -1); a zero vector has no direction to turn, and lambda R is the identity.

    Args:
      v: float32 `[..., D]`; the result is linear in it, and it alone has a gradient.
      z_e: float32 `[..., D]`.
      q: float32 `[..., D]`.

    Returns:
      float32 `[..., D]`.
    """
    norm_e, e = _norm_and_direction(jax.lax.stop_gradient(z_e))
    norm_q, q = _norm_and_direction(jax.lax.stop_gradient(q))
    middle = e + q
    least = jax.nn.one_hot(jnp.argmin(jnp.abs(e), axis=-1), e.shape[-1], dtype=jnp.float32)
    orthogonal = least - _dot(least, e) * e
    # Below 3e-4, the root of float32's rounding, e + q is a worse middle than a half turn's.
    r = normalize(jnp.where(_dot(middle, middle) > 1e-7, middle, orthogonal))
    rotated = v - 2 * _dot(r, v) * r + 2 * _dot(e, v) * q
    both = (norm_e > 0) & (norm_q > 0)
    # Kept finite, so that 0 times it is 0.
    scale = jnp.minimum(norm_q / jnp.where(both, norm_e, 1), jnp.finfo(jnp.float32).max)
    return jnp.where(both, scale * rotated, v)


def _dot(a: chex.Array, b: chex.Array) -> jax.Array:
    return jnp.sum(a * b, axis=-1, keepdims=True)


def _norm_and_direction(x: chex.Array) -> tuple[jax.Array, jax.Array]:
    """||x|| `[..., 1]` and x / ||x||, 0 for a zero vector."""
    # Divided by its largest entry first. That is a constant, for the direction of c x is that of x.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    nonzero = largest >= jnp.finfo(jnp.float32).tiny
    scaled = jnp.where(nonzero, x / jnp.where(nonzero, largest, 1), 0)
    norm = jnp.sqrt(jnp.where(nonzero, _dot(scaled, scaled), 1))
    return largest * norm, scaled / norm
