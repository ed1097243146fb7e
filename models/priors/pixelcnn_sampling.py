"""Draws from a gated PixelCNN, each position at the cost of one column of every layer.

Ramachandran, Le Paine, Khorrami, Babaeizadeh, Chang, Zhang, Hasegawa-Johnson, Campbell & Huang
2017, "Fast Generation for Convolutional Autoregressive Models", https://arxiv.org/abs/1704.06001.

A layer keeps what its next output will see: the vertical stack its last floor(n/2) rows, for it
moves by a row; the horizontal one its last floor(n/2) columns of the row being drawn. The layers
are the model's own, given these instead of the zeros before the grid.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from models.priors.pixelcnn import GatedPixelCNN


def sample(
    model: GatedPixelCNN,
    variables: Mapping[str, Any],
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    label: jax.Array | None = None,
    features: jax.Array | None = None,
    temperature: float = 1.0,
) -> jax.Array:
    """Grids of codes drawn from the prior, int32 of the given shape.

    Codebook j of position i = row * width + column is drawn, for the whole batch, by `draw` with
    the key fold_in(fold_in(key, i), j). So the codes are those that passing the whole grid through
    the model for every position gives, unless rounding moves a probability across the number
    drawn: in bfloat16, or where float32 products are rounded further, some may differ. A label
    outside its range makes codes of -1.

    Args:
      model: the prior.
      variables: its variables, {"params": ...}.
      key: a key of `jax.random`.
      shape: of the codes: (batch, height, width), or (batch, height, width, codebooks).
      label: int `[batch]`, the class of each grid; None for an unconditional prior.
      features: `[batch, height, width, any]`, or `[batch, 1, 1, any]` for all positions alike, for
        a prior that is `located`; else None.
      temperature: the logits are divided by it; above 0. 1 draws from the prior itself.

    Raises:
      ValueError: shape, labels or features do not fit the model, or the temperature is not
        positive.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be finite and above 0")
    shape = tuple(shape)
    model.check(shape, label, features)
    whole = (*shape[:3], model.codebooks)
    code = sample_unchecked(model, whole, variables, key, label, features, temperature)
    return code.reshape(shape)


def draw(key: jax.Array, logits: jax.Array, temperature: float | jax.Array = 1.0) -> jax.Array:
    """Codes int32 `[batch]` from logits `[batch, codes]` over a temperature; -1 where one is NaN.

    By inversion of the cumulative probabilities: a random number for each code drawn, where the
    Gumbel trick of `jax.random.categorical` takes one for each value it could have.
    """
    # The largest is 0 at any temperature, so that none overflows.
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
    cumulative = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    total = cumulative[..., -1:]
    u = jax.random.uniform(key, total.shape)
    # Rounding can make u * total the total itself.
    code = jnp.minimum(jnp.sum(cumulative <= u * total, axis=-1), logits.shape[-1] - 1)
    return jnp.where(jnp.isnan(total[..., 0]), -1, code).astype(jnp.int32)


@partial(jax.jit, static_argnums=(0, 1))
def sample_unchecked(
    model: GatedPixelCNN,
    shape: tuple[int, int, int, int],
    variables: Mapping[str, Any],
    key: jax.Array,
    label: jax.Array | None,
    features: jax.Array | None,
    temperature: jax.Array,
) -> jax.Array:
    """As `sample`, of `[batch, height, width, codebooks]`, for programs that are compiled already.

    A scan over rows, and in each a scan over its positions.
    """
    batch, height, width, codebooks = shape
    apply = partial(model.apply, variables)
    # Zeros made from the data, which vary over mapped axes as the codes will.
    of_data = jax.random.bits(key, (batch,)).astype(jnp.int32) + (0 if label is None else label)
    code = jnp.repeat(jnp.zeros_like(of_data)[:, None], codebooks, axis=1)
    zeros = jnp.zeros_like(apply(code, method="embed"))  # [batch, p]
    columns = jnp.repeat(zeros[:, None], model.kernel // 2, axis=1)
    v = jnp.repeat(zeros[:, None, None], width, axis=2)
    rows = jnp.repeat(v, model.kernel // 2, axis=1)

    def next_column(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
        left, h = carry
        position, from_vertical = inputs
        position_key = jax.random.fold_in(key, position)
        left, u = apply(left, h, from_vertical, method="next_column")
        code = []
        for j in range(codebooks):
            if j:
                u = apply(u, code[-1], j - 1, method="condition")
            logits = apply(u, j, method="codebook_logits")
            code.append(draw(jax.random.fold_in(position_key, j), logits, temperature))
        code = jnp.stack(code, axis=-1)
        return (left, apply(code, method="embed")), code

    def next_row(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
        above, v = carry
        row, features = inputs
        above, from_vertical = apply(above, v, label, features, method="next_row")
        # [width, batch, 2p], for the scan over columns.
        from_vertical = tuple(jnp.moveaxis(a[:, 0], 1, 0) for a in from_vertical)
        inputs = row * width + jnp.arange(width), from_vertical
        _, code = jax.lax.scan(next_column, ((columns,) * model.layers, zeros), inputs)
        code = jnp.moveaxis(code, 0, 1)
        return (above, apply(code, method="embed")[:, None]), code

    # [height, batch, 1, width or 1, any], for the scan over rows.
    if features is not None:
        features = jnp.broadcast_to(features, (batch, height, *features.shape[2:]))
        features = jnp.moveaxis(features, 1, 0)[:, :, None]
    inputs = jnp.arange(height), features
    _, code = jax.lax.scan(next_row, ((rows,) * model.layers, v), inputs)
    return jnp.moveaxis(code, 0, 1)
