"""What a batch of feature vectors says about its codes: counts, sums, samples, clusters.

`axis_name` is the mapped axis (or axes) whose devices together hold the batch: the result on n
devices is then that of one device with the whole batch, device after device.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bottlenecks.nearest import nearest_codeword


class KMeans(NamedTuple):
    """Clusters of a batch.

    Attributes:
      codebook: float32 `[codes, D]`, the centres.
      counts: float32 `[codes]`, rows nearest to each centre; 0 for an empty cluster.
    """

    codebook: chex.Array
    counts: chex.Array


def code_counts(
    index: chex.Array,
    codes: int,
    *,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> chex.Array:
    """How often each code was chosen.

    Args:
      index: integer `[...]`, in `0 .. codes-1`.
      codes: K.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[...]` like index, the weight of each: 1 counts, 0 does not.

    Returns:
      float32 `[codes]`, exact up to 2^24 of one code.

    Raises:
      ValueError: if codes is not positive, index is not integer or the mask's shape differs.
    """
    if codes < 1:
        raise ValueError(f"codes is the size of the codebook, 1 or more, got {codes}.")
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f"index must be integer, got {index.dtype}; convert with astype.")
    weight = row_weights(index.shape, mask)
    return sum_over(jax.ops.segment_sum(weight, index.reshape(-1), codes), axis_name)


def code_statistics(
    features: chex.Array,
    index: chex.Array,
    codes: int,
    *,
    axis_name: str | None,
    mask: chex.Array | None,
) -> tuple[chex.Array, chex.Array]:
    """n_i, float32 `[codes]`, and sum_j z_ij, float32 `[codes, D]`, over all devices."""
    n = code_counts(index, codes, axis_name=axis_name, mask=mask)
    x = jax.lax.stop_gradient(features).astype(jnp.float32).reshape(-1, features.shape[-1])
    weight = row_weights(index.shape, mask)[:, None]
    x = jnp.where(weight > 0, x * weight, 0)  # a masked row may hold anything, NaN too
    return n, sum_over(jax.ops.segment_sum(x, index.reshape(-1), codes), axis_name)


def perplexity(counts: chex.Array) -> chex.Array:
    """How many codes are in use: e to the entropy of the shares, sum_k -p_k ln p_k in nats.

    Args:
      counts: `[K]`, summed over all that it should speak of (a batch, an epoch).

    Returns:
      float32 `[]`, from 1 to K; 1 when all counts are 0.
    """
    return jnp.exp(_entropy(counts))


def bits_per_token(counts: chex.Array) -> chex.Array:
    """What a code costs when each is coded by its share alone: sum_k -p_k log2 p_k.

    Args:
      counts: `[K]`, summed over all that it should speak of (a batch, an epoch).

    Returns:
      float32 `[]`, bits per token, from 0 to log2 K; 0 when all counts are 0.
    """
    return _entropy(counts) / math.log(2)


def used_codes(counts: chex.Array) -> chex.Array:
    """How many codes were chosen at all: counts `[K]` to int32 `[]`."""
    return jnp.sum(counts > 0, dtype=jnp.int32)


def sample_rows(
    key: chex.PRNGKey,
    features: chex.Array,
    count: int,
    *,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> chex.Array:
    """Draws feature vectors at random from the whole batch, without replacement.

    The order is one random order of the rows of all devices, drawn alike on each from the same key;
    each device then adds the rows that are its own.

    Args:
      key: a key, the same on all devices.
      features: floating `[..., D]`.
      count: rows to draw.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[...]`, 0 for rows not to be drawn.

    Returns:
      `[count, D]` in the features' dtype. With fewer rows than count the draw starts again from its
      first row; with none the rows are 0.

    Raises:
      ValueError: if count < 1, there are no features, or the mask's shape differs.
    """
    if count < 1:
        raise ValueError(f"count is the number of rows to draw, 1 or more, got {count}.")
    if jnp.ndim(features) < 2 or 0 in features.shape:
        raise ValueError(f"Features are [..., D] with at least one row, got {features.shape}.")
    rows = jax.lax.stop_gradient(features).reshape(-1, features.shape[-1])
    valid = row_weights(features.shape[:-1], mask) > 0
    local = rows.shape[0]
    everyones, device = valid, 0
    if axis_name is not None:
        everyones = jax.lax.all_gather(valid, axis_name, tiled=True)
        device = jax.lax.axis_index(axis_name)
    priority = jax.random.uniform(key, everyones.shape, jnp.float32)
    order = jnp.argsort(jnp.where(everyones, priority, 2.0))  # masked rows come last
    drawable = jnp.maximum(jnp.sum(everyones, dtype=jnp.int32), 1)
    drawn = order[jnp.arange(count, dtype=jnp.int32) % drawable] - device * local
    mine = (drawn >= 0) & (drawn < local)
    drawn = jnp.clip(drawn, 0, local - 1)
    mine = mine & valid[drawn]
    return sum_over(jnp.where(mine[:, None], rows[drawn], 0), axis_name)


def kmeans(
    key: chex.PRNGKey,
    features: chex.Array,
    codes: int,
    *,
    iterations: int = 10,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> KMeans:
    """Lloyd's algorithm from `sample_rows`: a codebook to start from.

    An empty cluster keeps its centre.

    Args:
      key: a key, the same on all devices.
      features: floating `[..., D]`.
      codes: clusters.
      iterations: rounds of assigning rows and moving centres; 0 gives the sampled rows.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[...]`, 0 for rows to leave out.

    Returns:
      A `KMeans`; `start_codebook(codebook, count=counts)` makes a state of it.

    Raises:
      ValueError: if codes < 1, iterations < 0, or as `sample_rows`.
    """
    if codes < 1:
        raise ValueError(f"codes is the number of clusters, 1 or more, got {codes}.")
    if iterations < 0:
        raise ValueError(f"iterations is 0 or more, got {iterations}.")
    features = jax.lax.stop_gradient(features)
    centres = sample_rows(key, features, codes, axis_name=axis_name, mask=mask)

    def assign(centres: chex.Array) -> tuple[chex.Array, chex.Array]:
        index = nearest_codeword(features, centres).index
        return code_statistics(features, index, codes, axis_name=axis_name, mask=mask)

    def move(_: int, centres: chex.Array) -> chex.Array:
        n, s = assign(centres)
        return jnp.where(n[:, None] > 0, s / jnp.where(n > 0, n, 1)[:, None], centres)

    centres = jax.lax.fori_loop(0, iterations, move, centres.astype(jnp.float32))
    return KMeans(codebook=centres, counts=assign(centres)[0])


def _entropy(counts: chex.Array) -> jax.Array:
    """sum_k -p_k ln p_k of the shares, nats."""
    counts = counts.astype(jnp.float32)
    n = jnp.sum(counts)
    p = counts / jnp.where(n > 0, n, 1)
    return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)))


def sum_over(x: chex.Array, axis_name: str | None) -> chex.Array:
    """The sum over the devices of `axis_name`; x itself where there is none."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def row_weights(shape: tuple[int, ...], mask: chex.Array | None) -> jax.Array:
    """The weight of each row, float32 `[rows]`."""
    if mask is None:
        return jnp.ones(shape, jnp.float32).reshape(-1)
    if jnp.shape(mask) != tuple(shape):
        raise ValueError(
            f"The mask has one weight per feature vector, expected {tuple(shape)}, got "
            f"{jnp.shape(mask)}; spread it with jnp.broadcast_to."
        )
    return mask.astype(jnp.float32).reshape(-1)
