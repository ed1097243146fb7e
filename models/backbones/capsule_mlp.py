"""The fully connected network of the Topographic VAE; its encoders end in posteriors.

Source: Keller & Welling 2021, "Topographic VAEs learn Equivariant Capsules", NeurIPS,
https://arxiv.org/abs/2109.01394, appendix A.3, as released (akandykeller/TopographicVAE), where its
layers are written as convolutions over the whole image. They start as PyTorch's do: kernels and
biases uniform in +-1 / sqrt(fan). The fan of a convolution is that of its input. PyTorch takes it
from the second axis of the weights, which in a transposed convolution is the output: the decoder's
layers start by their output width.
"""

import math
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp


class CapsuleMLPEncoder(nn.Module):
    """Separate encoders of one image, each 3s - 2s - 2s with ReLU between: z's, then u's.

    Takes images `[batch, height, width, channels]` in [-0.5, 0.5] and gives float32
    `[batch, encoders, 2, units]`, mean and log variance of each. As released, the first layer sees
    values in [0, 1], so that a black pixel is 0. Parameters are float32.

    Attributes:
      units: s, the number of latent variables of each kind.
      encoders: 2 for z and u; 1 for z alone.
      dtype: of the arithmetic.
    """

    units: int
    encoders: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """Posteriors of the images; `train` changes nothing."""
        del train
        image = x.reshape(x.shape[0], -1) + 0.5
        posteriors = []
        for name in ("z", "u")[: self.encoders]:
            h = image
            for i, width in enumerate((3 * self.units, 2 * self.units, 2 * self.units)):
                h = nn.Dense(
                    width,
                    dtype=self.dtype,
                    kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
                    bias_init=_symmetric(1 / math.sqrt(h.shape[-1])),
                    name=f"{name}_{i}",
                )(h if i == 0 else nn.relu(h))
            posteriors.append(h.reshape(-1, 2, self.units))
        return jnp.stack(posteriors, axis=1).astype(jnp.float32)


class CapsuleMLPDecoder(nn.Module):
    """Dense layers 2s - 3s - image with ReLU between, from a latent of s units.

    Takes `[batch, ...]`, gives float32 `[batch, height, width, channels]` with `output_shape =
    (height, width, channels)`. The last layer was a transposed convolution: its bias is one number
    for each channel, not for each pixel. Parameters are float32.
    """

    output_shape: tuple[int, int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """What the likelihood reads, for the latents; `train` changes nothing."""
        del train
        h = x.reshape(x.shape[0], -1)
        units, values = h.shape[-1], math.prod(self.output_shape)
        kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        for i, width in enumerate((2 * units, 3 * units)):
            h = nn.Dense(
                width,
                dtype=self.dtype,
                kernel_init=kernel_init,
                bias_init=_symmetric(1 / math.sqrt(width)),
                name=f"hidden_{i}",
            )(h)
            h = nn.relu(h)
        h = nn.Dense(
            values, use_bias=False, dtype=self.dtype, kernel_init=kernel_init, name="output"
        )(h)
        start = _symmetric(1 / math.sqrt(values))
        bias = self.param("output_bias", start, self.output_shape[-1:], jnp.float32)
        return h.reshape(-1, *self.output_shape).astype(jnp.float32) + bias


def _symmetric(bound: float) -> Callable[..., jax.Array]:
    def init(key: chex.PRNGKey, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
