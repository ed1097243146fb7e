"""VQGAN's encoder and decoder (Esser, Rombach & Ommer 2021), which SC-VAE has too.

The layers are those of the released code (CompVis/taming-transformers,
`modules/diffusionmodules/model.py`, dropout 0), and so are their names, with "_" for ".". Images
come here in [-0.5, 0.5] and there in [-1, 1]: released weights fit once the kernel of the encoder's
`conv_in` is doubled, and kernel and bias of the decoder's `conv_out` are halved.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from bottlenecks.partition import upsample

STARTS = ("pytorch", "xavier")


@dataclasses.dataclass(frozen=True)
class Layers:
    """What all layers of a network share, and the layers as children of the module that calls.

    Attributes:
      groups: of a GroupNorm.
      start: "pytorch": kernels and biases uniform in +-1 / sqrt(fan in), as VQGAN starts;
        "xavier": kernels uniform in +-sqrt(6 / (fan in + fan out)), biases 0, as SC-VAE does.
      dtype: of the arithmetic; parameters are float32.
    """

    groups: int = 32
    start: str = "pytorch"
    dtype: Any = jnp.float32

    def norm(self, x: chex.Array, name: str) -> jax.Array:
        """GroupNorm, its statistics in float32."""
        return nn.GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name=name)(x)

    def conv(
        self,
        x: chex.Array,
        features: int,
        name: str,
        *,
        size: int = 3,
        stride: int = 1,
        padding: Any = "SAME",
    ) -> jax.Array:
        """A square convolution with bias."""
        if self.start == "xavier":
            kernel_init, bias_init = nn.initializers.xavier_uniform(), nn.initializers.zeros_init()
        else:
            kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            bias_init = _symmetric(1 / math.sqrt(size * size * x.shape[-1]))
        return nn.Conv(
            features,
            (size, size),
            (stride, stride),
            padding,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=self.dtype,
            name=name,
        )(x)


def _symmetric(bound: float) -> Callable[..., jax.Array]:
    def init(key: chex.PRNGKey, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); x by a 1x1 convolution if its width changes."""

    features: int
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """`[batch, height, width, depth]` to `[batch, height, width, features]`."""
        norm, conv = self.layers.norm, self.layers.conv
        h = conv(nn.swish(norm(x, "norm1")), self.features, "conv1")
        h = conv(nn.swish(norm(h, "norm2")), self.features, "conv2")
        if x.shape[-1] != self.features:
            x = conv(x, self.features, "nin_shortcut", size=1)
        return x + h


class AttnBlock(nn.Module):
    """x + out(softmax(q k^T / sqrt(depth)) v) over all positions, with one head."""

    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """`[batch, height, width, depth]` to the same."""
        batch, height, width, depth = x.shape
        h = self.layers.norm(x, "norm")
        q, k, v = (
            self.layers.conv(h, depth, name, size=1).reshape(batch, height * width, depth)
            for name in ("q", "k", "v")
        )
        logits = jnp.einsum("bic,bjc->bij", q, k, preferred_element_type=jnp.float32)
        share = nn.softmax(logits * depth**-0.5).astype(v.dtype)
        h = jnp.einsum("bij,bjc->bic", share, v).reshape(x.shape)
        return x + self.layers.conv(h, depth, "proj_out", size=1)


class VQGANEncoder(nn.Module):
    """Residual blocks at every resolution, halving between, attention where it is asked for.

    Takes images `[batch, height, width, channels]`, about [-0.5, 0.5], gives
    `[batch, height / 2^n, width / 2^n, z_channels]` in `layers.dtype`, n = len(ch_mult) - 1.

    Attributes:
      ch: width of the first convolution; level i is `ch * ch_mult[i]` wide.
      ch_mult: one for each level.
      num_res_blocks: per level.
      attn_resolutions: grid heights at which each residual block is followed by attention.
      z_channels: width of the result.
      layers: what all layers share.
      remat: recompute the blocks' activations in the backward pass.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    z_channels: int = 256
    layers: Layers = Layers()
    remat: bool = False

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """Features of the images; `train` changes nothing."""
        del train
        conv = self.layers.conv
        res, attn = _blocks(self.layers, self.remat)
        h = conv(x.astype(self.layers.dtype), self.ch, "conv_in")
        for i, multiple in enumerate(self.ch_mult):
            for j in range(self.num_res_blocks):
                h = res(self.ch * multiple, f"down_{i}_block_{j}")(h)
                if h.shape[1] in self.attn_resolutions:
                    h = attn(f"down_{i}_attn_{j}")(h)
            if i < len(self.ch_mult) - 1:
                # Zeros at the bottom and the right alone, as in the release.
                edges = ((0, 1), (0, 1))
                name = f"down_{i}_downsample_conv"
                h = conv(h, h.shape[-1], name, stride=2, padding=edges)
        h = _middle(h, res, attn)
        return conv(nn.swish(self.layers.norm(h, "norm_out")), self.z_channels, "conv_out")


class VQGANDecoder(nn.Module):
    """The encoder's levels backwards, each with one residual block more; no last non-linearity.

    Takes latents `[batch, height / 2^n, width / 2^n, depth]`, gives float32
    `[batch, height, width, channels]` with `output_shape = (height, width, channels)` and n =
    len(ch_mult) - 1.

    Attributes:
      post_quant_conv: a 1x1 convolution that keeps the latent's depth before all, as VQGAN has
        after its codebook.
      others: those of the encoder.

    Raises:
      ValueError: the latent's grid, doubled n times, is not the output's.
    """

    last_kernel: ClassVar[tuple[str, ...]] = ("conv_out", "kernel")

    output_shape: tuple[int, int, int]
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    post_quant_conv: bool = False
    layers: Layers = Layers()
    remat: bool = False

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """What the likelihood reads, for the latents; `train` changes nothing."""
        del train
        height, width, channels = self.output_shape
        doublings = len(self.ch_mult) - 1
        grown = (x.shape[1] * 2**doublings, x.shape[2] * 2**doublings)
        if grown != (height, width):
            raise ValueError(
                f"a latent of {x.shape[1]}x{x.shape[2]} doubled {doublings} times is "
                f"{grown[0]}x{grown[1]}, but the image is {height}x{width}; height and width must "
                f"be multiples of {2**doublings}: each of ch_mult but the last halves the image"
            )
        conv = self.layers.conv
        res, attn = _blocks(self.layers, self.remat)
        h = x.astype(self.layers.dtype)
        if self.post_quant_conv:
            h = conv(h, h.shape[-1], "post_quant_conv", size=1)
        h = conv(h, self.ch * self.ch_mult[-1], "conv_in")
        h = _middle(h, res, attn)
        for i, multiple in reversed(list(enumerate(self.ch_mult))):
            for j in range(self.num_res_blocks + 1):
                h = res(self.ch * multiple, f"up_{i}_block_{j}")(h)
                if h.shape[1] in self.attn_resolutions:
                    h = attn(f"up_{i}_attn_{j}")(h)
            if i > 0:
                h = conv(upsample(h, 2), h.shape[-1], f"up_{i}_upsample_conv")
        h = conv(nn.swish(self.layers.norm(h, "norm_out")), channels, "conv_out")
        return h.astype(jnp.float32)


def _blocks(layers: Layers, remat: bool) -> tuple[Callable, Callable]:
    """Makes a residual block `(features, name)` and attention `(name)`; names keep paths alike."""
    wrap = nn.remat if remat else (lambda module: module)
    return (
        lambda features, name: wrap(ResBlock)(features, layers, name=name),
        lambda name: wrap(AttnBlock)(layers, name=name),
    )


def _middle(h: chex.Array, res: Callable, attn: Callable) -> chex.Array:
    """Residual block, attention, residual block."""
    h = res(h.shape[-1], "mid_block_1")(h)
    h = attn("mid_attn_1")(h)
    return res(h.shape[-1], "mid_block_2")(h)
