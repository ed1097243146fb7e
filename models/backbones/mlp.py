"""Fully connected encoder and decoder, for small images."""

import math
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


def _hidden(x: chex.Array, widths: tuple[int, ...], activation: str, dtype: Any) -> chex.Array:
    """Flattens all but the first axis, then dense layers hidden_0, hidden_1, ... of the caller."""
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"no activation is called {activation!r}; there are {', '.join(ACTIVATIONS)}"
        )
    h = x.reshape(x.shape[0], -1).astype(dtype)
    for i, width in enumerate(widths):
        h = ACTIVATIONS[activation](nn.Dense(width, dtype=dtype, name=f"hidden_{i}")(h))
    return h


class MLPEncoder(nn.Module):
    """Dense layers over the flattened image.

    Takes `[batch, ...]`, gives `[batch, widths[-1]]` in `dtype`. Parameters are float32.

    Raises:
      ValueError: unknown activation.
    """

    widths: tuple[int, ...] = (200, 200)
    activation: str = "tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """Hidden features of the images; `train` changes nothing."""
        del train
        return _hidden(x, self.widths, self.activation, self.dtype)


class MLPDecoder(nn.Module):
    """Dense layers from the flattened latent to the image.

    Takes `[batch, ...]`, gives float32 `[batch, height, width, channels]` with `output_shape =
    (height, width, channels)`. Parameters are float32.

    Raises:
      ValueError: unknown activation.
    """

    output_shape: tuple[int, int, int]
    widths: tuple[int, ...] = (200, 200)
    activation: str = "tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """What the likelihood reads, for the latents; `train` changes nothing."""
        del train
        h = _hidden(x, self.widths, self.activation, self.dtype)
        h = nn.Dense(math.prod(self.output_shape), dtype=self.dtype, name="output")(h)
        return h.reshape(h.shape[0], *self.output_shape).astype(jnp.float32)
