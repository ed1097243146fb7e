"""Inception-v3 up to its last pooling, as the Frechet Inception distance takes its features.

Sources: Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2016, "Rethinking the Inception Architecture for
Computer Vision", https://arxiv.org/abs/1512.00567; and, for where the network of FID differs from
it, mseitzer/pytorch-fid: averages leave the border out, and the last block takes a maximum.

The weights are the user's: nothing is downloaded, `train.weights.load_inception` reads a file.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from models.weights import checked_array

SIDE = 299
FEATURES = 2048
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Conv(NamedTuple):
    """A convolution without bias, normalised by fixed statistics, and ReLU.

    Attributes:
      name: within its block.
      features: channels it gives.
      size: of the kernel, (rows, columns).
      stride: in both directions.
      same: zeros at the edges keep the size; else there are none.
    """

    name: str
    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True


class Pool(NamedTuple):
    """3x3 pooling: "average" without the border, "max", both of stride 1; "reduce", max of 2."""

    kind: str


class Fork(NamedTuple):
    """Convolutions side by side, their results put together."""

    convs: tuple[Conv, ...]


Branch = tuple[Conv | Pool | Fork, ...]


def _a(pool: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (Pool("average"), Conv("branch_pool", pool)),
    )


def _b() -> tuple[Branch, ...]:
    return (
        (Conv("branch3x3", 384, (3, 3), 2, same=False),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), 2, same=False),
        ),
        (Pool("reduce"),),
    )


def _c(width: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", width),
            Conv("branch7x7_2", width, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, (7, 1)),
            Conv("branch7x7dbl_3", width, (1, 7)),
            Conv("branch7x7dbl_4", width, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (Pool("average"), Conv("branch_pool", 192)),
    )


def _d() -> tuple[Branch, ...]:
    return (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, same=False)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), 2, same=False),
        ),
        (Pool("reduce"),),
    )


def _e(pool: str) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 320),),
        (
            Conv("branch3x3_1", 384),
            Fork((Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))),
        ),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            Fork((Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1)))),
        ),
        (Pool(pool), Conv("branch_pool", 192)),
    )


STEM: Branch = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, same=False),
    Conv("Conv2d_2a_3x3", 32, (3, 3), same=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    Pool("reduce"),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), same=False),
    Pool("reduce"),
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _b(),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _d(),
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("max"),
}
# Name of a convolution, blocks and all, to its kernel and the offset that normalises what it gives.
Weights = dict[str, tuple[chex.Array, chex.Array]]


def inception_features(weights: Weights, images: chex.Array) -> jax.Array:
    """What the last pooling gives.

    Args:
      weights: as `inception_from_weights` gives them.
      images: `[batch, height, width, 3]` in [0, 1]; of one channel, they count as grey. They are
        resized to 299x299, bilinearly and without a low-pass filter, and mapped to [-1, 1].

    Returns:
      `[batch, 2048]`, float32.

    Raises:
      ValueError: images of another number of channels or axes.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images are [batch, height, width, 1 or 3], got {images.shape}")
    x = jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:3], 3))
    x = jax.image.resize(x, (len(x), SIDE, SIDE, 3), "bilinear", antialias=False)
    h = _walk(lambda conv, h: _convolve(conv, h, *weights[conv.name]), STEM, 2 * x - 1)
    for name, branches in BLOCKS.items():

        def apply(conv: Conv, h: jax.Array, name: str = name) -> jax.Array:
            return _convolve(conv, h, *weights[f"{name}.{conv.name}"])

        h = jnp.concatenate([_walk(apply, branch, h) for branch in branches], axis=-1)
    return jnp.mean(h, axis=(1, 2))


def inception_from_weights(arrays: Mapping[str, np.ndarray]) -> Weights:
    """Kernels and offsets from arrays named and laid out as in the `state_dict` of pytorch-fid.

    For each convolution, as "Mixed_5b.branch1x1": `.conv.weight` `[out, in, rows, columns]`, and
    `.bn.weight`, `.bn.bias`, `.bn.running_mean`, `.bn.running_var` `[out]`. Others are left alone.

    Raises:
      ValueError: an array is absent, of another shape or not finite.
    """
    weights: Weights = {}

    def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return checked_array(arrays, name, shape, of="Inception-v3").astype(np.float64)

    def take(block: str) -> Callable[[Conv, int], int]:
        def one(conv: Conv, before: int) -> int:
            name = f"{block}{conv.name}"
            kernel = array(f"{name}.conv.weight", (conv.features, before, *conv.size))
            gain, offset, mean, variance = (
                array(f"{name}.bn.{part}", (conv.features,))
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            # Fixed statistics: one gain and one offset for each channel, the gain in the kernel.
            gain = gain / np.sqrt(variance + 1e-3)
            kernel = kernel.transpose(2, 3, 1, 0) * gain
            weights[name] = (kernel.astype(np.float32), (offset - mean * gain).astype(np.float32))
            return conv.features

        return one

    before = _walk_widths(take(""), STEM, 3)
    for name, branches in BLOCKS.items():
        before = sum(_walk_widths(take(f"{name}."), branch, before) for branch in branches)
    return weights


def _walk(apply: Callable[[Conv, jax.Array], jax.Array], branch: Branch, h: jax.Array) -> jax.Array:
    for part in branch:
        if isinstance(part, Conv):
            h = apply(part, h)
        elif isinstance(part, Fork):
            h = jnp.concatenate([apply(conv, h) for conv in part.convs], axis=-1)
        else:
            h = _pool(part.kind, h)
    return h


def _walk_widths(take: Callable[[Conv, int], int], branch: Branch, before: int) -> int:
    for part in branch:
        if isinstance(part, Conv):
            before = take(part, before)
        elif isinstance(part, Fork):
            before = sum([take(conv, before) for conv in part.convs])
    return before


def _convolve(conv: Conv, h: jax.Array, kernel: chex.Array, offset: chex.Array) -> jax.Array:
    h = jax.lax.conv_general_dilated(
        h,
        jnp.asarray(kernel),
        (conv.stride, conv.stride),
        "SAME" if conv.same else "VALID",
        dimension_numbers=_LAYOUT,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(h + jnp.asarray(offset))


def _pool(kind: str, h: jax.Array) -> jax.Array:
    window = (1, 3, 3, 1)
    if kind == "average":
        total, count = (
            jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
            for x in (h, jnp.ones_like(h[:1, :, :, :1]))
        )
        return total / count
    strides, padding = ((1, 2, 2, 1), "VALID") if kind == "reduce" else ((1, 1, 1, 1), "SAME")
    return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, strides, padding)
