"""Draws from a WaveNet, each value at the cost of one position of every layer.

Le Paine, Khorrami, Chang, Zhang, Ramachandran, Hasegawa-Johnson & Huang 2016, "Fast Wavenet
Generation Algorithm", https://arxiv.org/abs/1611.09482.

A layer of dilation d keeps what went into it at the last d positions, in a ring: what it needs now
was written d positions ago, at the place that is written next. The rings of all layers lie in one
array, so that a position takes one read and one write.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.priors.pixelcnn_sampling import draw
from models.priors.wavenet import WaveNet


def sample_sequences(
    model: WaveNet,
    variables: Mapping[str, Any],
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    label: jax.Array | None = None,
    local: jax.Array | None = None,
    temperature: float = 1.0,
) -> jax.Array:
    """Sequences of values drawn from a WaveNet, int32 of the given shape.

    Position i is drawn, for the whole batch, by `draw` with the key fold_in(key, i). So the values
    are those that passing the whole sequence through the model for every position gives, unless
    rounding moves a probability across the number drawn. A label outside its range makes -1.

    Args:
      model: the WaveNet.
      variables: its variables, {"params": ...}.
      key: a key of `jax.random`.
      shape: of the values: (batch, time) or (batch, time, 1).
      label: int `[batch]`, the class of each sequence; None without classes.
      local: `[batch, stretches, local_features]`; None without local conditioning.
      temperature: the logits are divided by it; above 0. 1 draws from the model itself.

    Raises:
      ValueError: shape or conditioning do not fit the model, or the temperature is not positive.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be finite and above 0")
    shape = tuple(shape)
    model.check(shape, label, local)
    code = _sample(model, shape[:2], variables, key, label, local, temperature)
    return code.reshape(shape)


@partial(jax.jit, static_argnums=(0, 1))
def _sample(
    model: WaveNet,
    shape: tuple[int, int],
    variables: Mapping[str, Any],
    key: jax.Array,
    label: jax.Array | None,
    local: jax.Array | None,
    temperature: jax.Array,
) -> jax.Array:
    """A scan over positions; returns `[batch, time]`."""
    batch, time = shape
    apply = partial(model.apply, variables)
    told = apply(label, local, method="conditioning")  # [stretches, layers, batch, 2C]
    stretch = time // told.shape[0]
    dilations = np.array(model.dilations())
    starts = np.cumsum(dilations) - dilations
    # Zeros made from the data, which vary over mapped axes as the values will.
    of_data = jax.random.bits(key, (batch,)).astype(jnp.int32) + (0 if label is None else label)
    h = jnp.zeros_like(apply(jnp.zeros_like(of_data), method="embed"))  # [batch, C]
    h = h + jnp.zeros_like(told[0, 0, :, : h.shape[1]])
    rings = jnp.repeat(h[None], dilations.sum(), axis=0)

    def position(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
        rings, h = carry
        places = starts + t % dilations
        here = jax.lax.dynamic_index_in_dim(told, t // stretch, keepdims=False)
        seen, logits = apply(rings[places], h, here, method="next_position")
        code = draw(jax.random.fold_in(key, t), logits, temperature)
        rings = rings.at[places].set(seen, unique_indices=True, mode="promise_in_bounds")
        return (rings, apply(code, method="embed")), code

    _, code = jax.lax.scan(position, (rings, h), jnp.arange(time))
    return code.T
