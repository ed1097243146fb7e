"""PartitionVAE's encoder and decoders.

Source: https://arxiv.org/abs/2302.03689, section 3 of its write-up, and the released code.

The decoder's image is smaller by a whole factor f, its "subresolution", and is up-sampled to the
size of the input before the likelihood sees it.

`centre` and `scale`, in [0, 1] units, are what the networks take for 0 and 1: Adam's steps are as
large for a picture of little contrast, and drown it, unless its values are spread out first.
"""

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bottlenecks.partition import split_partitions, upsample
from models.backbones.block_dense import BLOCK_ACTIVATIONS, BlockMLP

# Of the sines and cosines by which a broadcast decoder knows a pixel's place: half waves across.
FREQUENCIES = 4


class PartitionEncoder(nn.Module):
    """For each of `convs` a k x k convolution without padding, ReLU, and the largest of 2 x 2.

    Takes images `[batch, height, width, channels]`, gives `[batch, h, w, channels]` in `dtype`,
    with h = (height - k + 1) // 2 for each (k, channels) of `convs`. Parameters are float32.

    Raises:
      ValueError: nothing is left of the image.
    """

    convs: tuple[tuple[int, int], ...] = ((5, 32), (5, 8))
    centre: float = 0.5
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """Features of the images; `train` changes nothing."""
        del train
        h = _spread(x, self.centre, self.scale).astype(self.dtype)
        for i, (k, channels) in enumerate(self.convs):
            if min(h.shape[1:3]) < k + 1:
                raise ValueError(
                    f"convs[{i}] of backbone 'partition' is {k}x{k} and halves what is left, but "
                    f"finds {h.shape[1]}x{h.shape[2]} pixels; use fewer or smaller convolutions"
                )
            h = nn.Conv(channels, (k, k), padding="VALID", dtype=self.dtype, name=f"conv_{i}")(h)
            h = _largest_of_four(nn.relu(h))
        return h


def _spread(x: chex.Array, centre: float, scale: float) -> chex.Array:
    """Values of images that came with 0.5 taken away, in the networks' unit."""
    return (x + (0.5 - centre)) / scale


def _restored(y: chex.Array, centre: float, scale: float) -> chex.Array:
    """The inverse of `_spread`, float32."""
    return scale * y.astype(jnp.float32) + (centre - 0.5)


def _largest_of_four(x: chex.Array) -> chex.Array:
    """Max-pooling of 2 x 2 pixels; a last odd row or column is left out.

    Backwards 15 times as fast on CPU as `nn.max_pool`, which scatters.
    """
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


class PartitionDecoder(nn.Module):
    """Dense layers to a small image, convolutions on it, and up-sampling: it is not partitioned.

    The small image has height / f x width / f pixels and one channel. For each (k, channels) of
    `convs` follow a transposed convolution k x k with ReLU, which adds k - 1 pixels, and a
    convolution with ReLU, which takes them away; then a convolution 1 x 1 to the channels.

    Takes latents `[batch, ...]`, gives float32 `[batch, height, width, channels]` with
    `output_shape = (height, width, channels)`. Parameters are float32.
    """

    output_shape: tuple[int, int, int]
    dense: tuple[int, ...] = (100,)
    convs: tuple[tuple[int, int], ...] = ((5, 1),)
    subresolution: int = 2
    upsample: str = "nearest"
    activation: str = "linear"
    centre: float = 0.5
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """What the likelihood reads, for the latents; `train` changes nothing."""
        del train
        height, width, channels = self.output_shape
        small = (height // self.subresolution, width // self.subresolution)
        y = x.reshape(x.shape[0], -1).astype(self.dtype)
        for i, size in enumerate(self.dense):
            y = nn.Dense(size, dtype=self.dtype, name=f"dense_{i}")(y)
            y = BLOCK_ACTIVATIONS[self.activation](y)
        y = nn.Dense(small[0] * small[1], dtype=self.dtype, name="grid")(y)
        y = y.reshape(-1, *small, 1)
        for i, (k, features) in enumerate(self.convs):
            # With stride 1 a transposed convolution is an ordinary one with a border of k - 1.
            for name, border in (("transposed", k - 1), ("conv", 0)):
                layer = nn.Conv(
                    features, (k, k), padding=border, dtype=self.dtype, name=f"{name}_{i}"
                )
                y = nn.relu(layer(y))
        y = nn.Conv(channels, (1, 1), dtype=self.dtype, name="output")(y)
        y = _restored(y, self.centre, self.scale)
        return upsample(y, self.subresolution, method=self.upsample)


class AdditiveDecoder(nn.Module):
    """A small dense decoder for every partition, their images added up before the likelihood.

    An extension, not in the paper. There the decoder reads all units alike, and units may change
    places between partitions at no cost. Here every partition has an image of its own, and what it
    can do to the reconstruction is that image, whatever the other partitions hold.

    Takes latents `[batch, sum partitions]`, gives float32 `[batch, height, width, channels]` with
    `output_shape = (height, width, channels)`. Parameters are float32.
    """

    output_shape: tuple[int, int, int]
    partitions: tuple[int, ...]
    dense: tuple[int, ...] = (100,)
    subresolution: int = 2
    upsample: str = "nearest"
    activation: str = "relu"
    centre: float = 0.5
    scale: float = 1.0
    dtype: Any = jnp.float32

    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        """What the likelihood reads, for the latents; `train` changes nothing."""
        del train
        y = _restored(jnp.sum(self._small_images(x), axis=1), self.centre, self.scale)
        # Up-sampling is linear: once, after the sum.
        return upsample(y, self.subresolution, method=self.upsample)

    def parts(self, x: chex.Array) -> chex.Array:
        """Each partition's image, float32 `[batch, K, height, width, channels]`.

        The output is their sum plus `centre` - 0.5.
        """
        y = self.scale * self._small_images(x).astype(jnp.float32)
        return upsample(y, self.subresolution, method=self.upsample)

    @nn.compact
    def _small_images(self, x: chex.Array) -> chex.Array:
        """In the networks' unit, `[batch, K, height / f, width / f, channels]`."""
        height, width, channels = self.output_shape
        small = (height // self.subresolution, width // self.subresolution, channels)
        K = len(self.partitions)
        sizes = (*self.dense, small[0] * small[1] * small[2])
        layers = (self.partitions, *((size,) * K for size in sizes))
        y = BlockMLP(layers, self.activation, name="parts")(x.astype(self.dtype))
        return y.reshape(-1, K, *small)


class BroadcastDecoder(AdditiveDecoder):
    """As `AdditiveDecoder`, but a partition's net draws one pixel, told where, and draws them all.

    An extension, not in the paper: a spatial broadcast decoder (Watters et al. 2019,
    https://arxiv.org/abs/1901.07017) for every partition. A dense decoder learns a thing anew at
    every place where it can be, so that two partitions may well share it, one drawing it above, the
    other below. A net that draws it in one place knows how to in all others.

    A background, the same for all images, is shared out evenly among the partitions' images.
    `dense` are the widths of a pixel's net, one or more.
    """

    @nn.compact
    def _small_images(self, x: chex.Array) -> chex.Array:
        """In the networks' unit, `[batch, K, height / f, width / f, channels]`."""
        height, width, channels = self.output_shape
        small = (height // self.subresolution, width // self.subresolution)
        K = len(self.partitions)
        zeros = nn.initializers.zeros_init()
        background = self.param("background", zeros, (*small, channels), jnp.float32)
        images = []
        for k, part in enumerate(split_partitions(x.astype(self.dtype), self.partitions)):
            net = PixelNet((*self.dense, channels), self.activation, self.dtype, name=f"part_{k}")
            images.append(net(part, _places(*small)).reshape(-1, *small, channels))
        return jnp.stack(images, axis=1) + background / K


class PixelNet(nn.Module):
    """Dense layers that draw a pixel, from a code and the pixel's place.

    Takes codes `[batch, depth]` and places `[pixels, features]`, gives `[batch, pixels, channels]`
    in `dtype`, channels being the last of `widths`. The first layer is one of both, of which each
    half is computed once.
    """

    widths: tuple[int, ...]
    activation: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, code: chex.Array, places: chex.Array) -> chex.Array:
        """The pixels that each code stands for."""
        first, *rest = self.widths
        h = nn.Dense(first, dtype=self.dtype, name="code")(code)[:, None]
        h = h + nn.Dense(first, use_bias=False, dtype=self.dtype, name="place")(places)
        for i, width in enumerate(rest):
            h = BLOCK_ACTIVATIONS[self.activation](h)
            h = nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(h)
        return h


def _places(height: int, width: int) -> np.ndarray:
    """Where each pixel is, float32 `[height * width, 2 + 4 FREQUENCIES]`, each within +-1."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    at = np.stack([x, y], axis=-1).reshape(-1, 2)
    waves = [np.pi / 2 * n * at for n in range(1, FREQUENCIES + 1)]
    features = [at, *(f(wave) for wave in waves for f in (np.sin, np.cos))]
    return np.concatenate(features, axis=1).astype(np.float32)
