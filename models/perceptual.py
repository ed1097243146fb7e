"""LPIPS, the learned distance between images: differences of a trained network's features.

Source: Zhang, Isola, Efros, Shechtman & Wang 2018, "The Unreasonable Effectiveness of Deep Features
as a Perceptual Metric", https://arxiv.org/abs/1801.03924, version 0.1 of its released code
(richzhang/PerceptualSimilarity), and VQGAN's loss (https://arxiv.org/abs/2012.09841).

The weights are the user's: nothing is downloaded, `train.weights.load_lpips` reads them from a
file. What random weights measure is no LPIPS, and is not called so.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from bottlenecks.votes import safe_root
from models.weights import checked_array

# ImageNet's mean and standard deviation, for images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# What the numbers may be called: LPIPS with trained weights alone.
NAMES = ("lpips_vgg16", "lpips_alexnet", "random_features_distance")
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_HIGHEST = jax.lax.Precision.HIGHEST


class Conv(NamedTuple):
    """A square convolution, with ReLU after it.

    Attributes:
      index: its number in torchvision's `features`.
      size: of the kernel.
      stride: of the convolution.
      padding: zeros at every edge.
    """

    index: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class Net(NamedTuple):
    """A network of five stages, whose last ReLU each is looked at.

    Attributes:
      stages: the convolutions of each.
      widths: channels of each stage.
      pool: size of the maximum taken, with stride 2, before a stage.
      pooled: the stages before which it is taken.
    """

    stages: tuple[tuple[Conv, ...], ...]
    widths: tuple[int, ...]
    pool: int
    pooled: tuple[int, ...]


NETS = {
    "vgg16": Net(
        stages=tuple(
            tuple(map(Conv, indices))
            for indices in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
        ),
        widths=(64, 128, 256, 512, 512),
        pool=2,
        pooled=(1, 2, 3, 4),
    ),
    "alexnet": Net(
        stages=(
            (Conv(0, size=11, stride=4, padding=2),),
            (Conv(3, size=5, padding=2),),
            (Conv(6),),
            (Conv(8),),
            (Conv(10),),
        ),
        widths=(64, 192, 384, 256, 256),
        pool=3,
        pooled=(1, 2),
    ),
}


@struct.dataclass
class FeatureDistance:
    """Weights of a distance, a tree of arrays, and what its numbers may be called.

    Attributes:
      net: key of `NETS`.
      name: of the number, one of `NAMES`.
      convolutions: for each stage, for each convolution, (kernel `[size, size, in, out]`, bias).
      linear: for each stage the weight of every channel, `[width]`, 0 or more.
    """

    net: str = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False)
    convolutions: tuple[tuple[tuple[chex.Array, chex.Array], ...], ...]
    linear: tuple[chex.Array, ...]


def lpips(distance: FeatureDistance, x: chex.Array, y: chex.Array) -> jax.Array:
    """How different images look (Zhang et al. 2018, Eq. 1).

    Args:
      distance: the network's weights.
      x: images `[batch, height, width, 3]` in [-1, 1]; of one channel, they count as grey.
      y: alike.

    Returns:
      `[batch]`, float32, 0 or more: sum over stages of the mean over positions of
      sum_c w_c (f_c - g_c)^2, with f and g of length 1 at every position. No dropout.

    Raises:
      ValueError: the images differ in shape, have 2 or more than 3 channels, or are too small.
    """
    if x.shape != y.shape:
        raise ValueError(f"images to compare have one shape, got {x.shape} and {y.shape}")
    total = jnp.zeros_like(x[:, 0, 0, 0], jnp.float32)
    stages = zip(features(distance, x), features(distance, y), distance.linear, strict=True)
    for f, g, w in stages:
        squares = jnp.square(_unit(f) - _unit(g))
        per_position = jnp.einsum("bhwc,c->bhw", squares, w, precision=_HIGHEST)
        total = total + jnp.mean(per_position, axis=(1, 2))
    return total


class PerceptualTerm(NamedTuple):
    """A loss term of an autoencoder.

    Attributes:
      name: of the term, the distance's own.
      distance: `(x, y) -> [batch]` of images in [-1, 1].
    """

    name: str
    distance: Callable[[chex.Array, chex.Array], jax.Array]


def perceptual_term(distance: FeatureDistance) -> PerceptualTerm:
    """The loss term that measures this distance.

    A Flax module has it as an attribute: weights are constants of what is compiled, no parameters.
    """
    return PerceptualTerm(distance.name, functools.partial(lpips, distance))


def features(distance: FeatureDistance, images: chex.Array) -> list[jax.Array]:
    """What the network sees at the end of each stage: float32 `[batch, rows, columns, width]`.

    Arguments and errors are those of `lpips`.
    """
    net = NETS[distance.net]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images are [batch, height, width, 1 or 3], got {images.shape}")
    h = (images.astype(jnp.float32) - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
    seen = []
    for i, (stage, weights) in enumerate(zip(net.stages, distance.convolutions, strict=True)):
        if i in net.pooled:
            h = _max_pool(h, net.pool)
        for conv, (kernel, bias) in zip(stage, weights, strict=True):
            if min(h.shape[1:3]) + 2 * conv.padding < conv.size:
                raise ValueError(
                    f"images of {images.shape[1]}x{images.shape[2]} are too small for "
                    f"{distance.net}; it takes {_least(net)}x{_least(net)} or more"
                )
            edge = (conv.padding, conv.padding)
            h = jax.lax.conv_general_dilated(
                h,
                jnp.asarray(kernel, jnp.float32),
                (conv.stride, conv.stride),
                (edge, edge),
                dimension_numbers=_LAYOUT,
                precision=_HIGHEST,
            )
            h = jax.nn.relu(h + jnp.asarray(bias, jnp.float32))
        seen.append(h)
    return seen


def lpips_from_weights(arrays: Mapping[str, np.ndarray], *, net: str) -> FeatureDistance:
    """The distance from arrays named and laid out as in the `state_dict` of PyTorch's `lpips`.

    `net.slice{k}.{index}.weight` `[out, in, size, size]` and `.bias` `[out]` for stages k = 1 .. 5,
    with the index of torchvision's `features`, and `lin{k - 1}.model.1.weight` `[1, width, 1, 1]`.
    Others are left alone.

    Args:
      arrays: name to array.
      net: "vgg16" or "alexnet".

    Raises:
      ValueError: no such net; an array is absent, of another shape or not finite.
    """
    if net not in NETS:
        raise ValueError(f"no network is called {net!r}; there are {', '.join(NETS)}")

    def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return checked_array(arrays, name, shape, of=f"LPIPS with {net}").astype(np.float32)

    before = 3
    convolutions, linear = [], []
    stages = zip(NETS[net].stages, NETS[net].widths, strict=True)
    for k, (stage, width) in enumerate(stages):
        layers = []
        for conv in stage:
            name = f"net.slice{k + 1}.{conv.index}"
            kernel = array(f"{name}.weight", (width, before, conv.size, conv.size))
            bias = array(f"{name}.bias", (width,))
            layers.append((kernel.transpose(2, 3, 1, 0), bias))
            before = width
        convolutions.append(tuple(layers))
        linear.append(array(f"lin{k}.model.1.weight", (1, width, 1, 1)).reshape(-1))
    return FeatureDistance(net, f"lpips_{net}", tuple(convolutions), tuple(linear))


def random_lpips(
    key: chex.PRNGKey, *, net: str = "vgg16", widths: tuple[int, ...] = (4, 8, 8, 8, 8)
) -> FeatureDistance:
    """A distance with random weights (He et al. 2015), each channel counted alike: not LPIPS.

    Its number is a `random_features_distance`. For tests, and for runs without the weights.
    """
    before = 3
    convolutions = []
    for k, (stage, width) in enumerate(zip(NETS[net].stages, widths, strict=True)):
        layers = []
        for conv in stage:
            shape = (conv.size, conv.size, before, width)
            deviation = math.sqrt(2 / (conv.size**2 * before))
            drawn = jax.random.normal(jax.random.fold_in(key, 100 * k + conv.index), shape)
            layers.append((deviation * drawn, jnp.zeros(width)))
            before = width
        convolutions.append(tuple(layers))
    linear = tuple(jnp.ones(width) / width for width in widths)
    return FeatureDistance(net, "random_features_distance", tuple(convolutions), linear)


def _max_pool(h: jax.Array, size: int) -> jax.Array:
    window = (1, size, size, 1)
    return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")


def _unit(f: jax.Array) -> jax.Array:
    """Each position's features over their length, which has a gradient at 0 here."""
    length = safe_root(jnp.sum(jnp.square(f), axis=-1, keepdims=True), at_zero=0.0)
    return f / (length + 1e-10)


def _least(net: Net) -> int:
    """The smallest side whose features reach the last stage."""
    side = 1
    for i in reversed(range(len(net.stages))):
        for conv in reversed(net.stages[i]):
            side = max(1, (side - 1) * conv.stride + conv.size - 2 * conv.padding)
        if i in net.pooled:
            side = 2 * (side - 1) + net.pool
    return side
