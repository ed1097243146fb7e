"""The VQ-VAE's convolutional encoder and decoder (van den Oord et al. 2017, section 4.1).

Two settings of the same layers matter:

- section 4.1 (CIFAR-10): widths (256, 256), no last convolution, 2 residual layers of 256 units;
- the authors' example in Sonnet (vqvae_example.ipynb): widths (64, 128), a last 3x3 convolution
  of 128 and 2 residual layers with 32 units inside. These are the defaults.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax.numpy as jnp

from models.backbones.transposed import TransposedConv


class ResidualLayer(nn.Module):
    """x + conv1x1(ReLU(conv3x3(ReLU(x)))), the 3x3 with `width` features; keeps the shape of x."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """`[batch, height, width, depth]` to the same."""
        h = nn.Conv(self.width, (3, 3), dtype=self.dtype, name="conv3x3")(nn.relu(x))
        return x + nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="conv1x1")(nn.relu(h))


class Down(nn.Module):
    """4x4 convolution with stride 2 and ReLU: halves height and width (rounded up)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """`[batch, height, width, depth]` to `[batch, height / 2, width / 2, features]`."""
        return nn.relu(nn.Conv(self.features, (4, 4), (2, 2), dtype=self.dtype, name="conv")(x))


class Up(nn.Module):
    """4x4 transposed convolution with stride 2, and ReLU: doubles height and width."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """`[batch, height, width, depth]` to `[batch, 2 height, 2 width, features]`."""
        return nn.relu(TransposedConv(self.features, dtype=self.dtype, name="conv")(x))


def _maybe_remat(module: type[nn.Module], remat: bool) -> Callable[..., nn.Module]:
    """The module, recomputed in the backward pass if asked. Names are explicit, so paths stay."""
    return nn.remat(module) if remat else module


class ConvEncoder(nn.Module):
    """Strided convolutions, then residual layers; see the module for the two known settings.

    Takes images `[batch, height, width, channels]` (centred, about [-0.5, 0.5]), gives
    `[batch, height / 2^n, width / 2^n, hidden]` in `dtype`, with n = len(widths) and hidden =
    `last_width` or else `widths[-1]`. Parameters are float32. `remat` trades memory for time.
    """

    widths: tuple[int, ...] = (64, 128)
    last_width: int | None = 128
    residual_layers: int = 2
    residual_width: int = 32
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """Hidden features of the images; `train` changes nothing."""
        del train
        h = x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            h = _maybe_remat(Down, self.remat)(width, dtype=self.dtype, name=f"down_{i}")(h)
        if self.last_width:
            h = nn.Conv(self.last_width, (3, 3), dtype=self.dtype, name="last")(h)
        layer = _maybe_remat(ResidualLayer, self.remat)
        for i in range(self.residual_layers):
            h = layer(self.residual_width, dtype=self.dtype, name=f"residual_{i}")(h)
        return nn.relu(h)


class ConvDecoder(nn.Module):
    """A 3x3 convolution, residual layers, then transposed convolutions up to the image.

    Takes latents `[batch, height / 2^n, width / 2^n, depth]`, gives float32
    `[batch, height, width, channels]` with `output_shape = (height, width, channels)` and n =
    len(widths) + 1: a transposed convolution with ReLU for each of `widths`, and a last one,
    without, to the channels. Parameters are float32.

    Raises:
      ValueError: the latent's grid, doubled n times, is not the output's.
    """

    last_kernel: ClassVar[tuple[str, ...]] = ("output", "kernel")

    output_shape: tuple[int, int, int]
    widths: tuple[int, ...] = (64,)
    hidden: int = 128
    residual_layers: int = 2
    residual_width: int = 32
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """What the likelihood reads, for the latents; `train` changes nothing."""
        del train
        height, width, channels = self.output_shape
        doublings = len(self.widths) + 1
        grown = (x.shape[1] * 2**doublings, x.shape[2] * 2**doublings)
        if grown != (height, width):
            raise ValueError(
                f"a latent of {x.shape[1]}x{x.shape[2]} doubled {doublings} times is "
                f"{grown[0]}x{grown[1]}, but the image is {height}x{width}; height and width must "
                f"be multiples of {2**doublings}, and encoder and decoder equally deep"
            )
        h = nn.Conv(self.hidden, (3, 3), dtype=self.dtype, name="first")(x.astype(self.dtype))
        layer = _maybe_remat(ResidualLayer, self.remat)
        for i in range(self.residual_layers):
            h = layer(self.residual_width, dtype=self.dtype, name=f"residual_{i}")(h)
        h = nn.relu(h)
        for i, features in enumerate(self.widths):
            h = _maybe_remat(Up, self.remat)(features, dtype=self.dtype, name=f"up_{i}")(h)
        h = TransposedConv(channels, dtype=self.dtype, name="output")(h)
        return h.astype(jnp.float32)
