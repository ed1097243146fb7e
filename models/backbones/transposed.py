"""The 4x4, stride 2 transposed convolution that doubles an image, fast on CPU too.

XLA's CPU backend takes a slow path for the kernel gradient of a convolution with a dilated input,
which is what a transposed convolution is. The sub-pixel form (Shi et al. 2016, arXiv:1609.07009)
computes the same numbers with an ordinary convolution, and a matrix product gives the gradients.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def dilated(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """Transposed convolution as XLA has it: a convolution of the input with zeros put between.

    `x` is `[batch, height, width, depth]`, `kernel` `[4, 4, depth, features]`; gives
    `[batch, 2 height, 2 width, features]`.
    """
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=_LAYOUT)


def subpixel(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """The same numbers from one 2x2 convolution, which gives the four phases as channels.

    Along one axis, with taps k0..k3: y[2i] = k0 x[i-1] + k2 x[i] and y[2i+1] = k1 x[i] + k3 x[i+1].
    Each phase is a convolution with two taps, and the odd one starts one step later.
    """
    batch, height, width, depth = x.shape
    features = kernel.shape[-1]
    # Tap 2t + p of the 4x4 kernel is tap t of phase p; the phases become output channels.
    taps = kernel.reshape(2, 2, 2, 2, depth, features)  # [tap, phase, tap, phase, depth, features]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, depth, 4 * features)
    edges = ((1, 1), (1, 1))
    phases = jax.lax.conv_general_dilated(x, taps, (1, 1), edges, dimension_numbers=_LAYOUT)
    phases = phases.reshape(batch, height + 1, width + 1, 2, 2, features)
    # Interleave: y[2i + a, 2j + b] is phase (a, b) at place (i + a, j + b).
    rows = [
        jnp.stack([phases[:, a : a + height, b : b + width, a, b] for b in (0, 1)], axis=3)
        for a in (0, 1)
    ]  # two of [batch, height, width, 2, features]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, features)


def overlapping(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """The same numbers from one matrix product: every pixel times the whole kernel.

    That of pixel (i, j), turned over, covers the 4x4 pixels from (2i, 2j) of an image with a border
    of one; where products overlap they are added.
    """
    batch, height, width, depth = x.shape
    features = kernel.shape[-1]
    products = jnp.dot(
        x.reshape(-1, depth),
        kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(depth, 16 * features),
        # In float32 until they are added.
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    # Tap 2t + p is pixel p of the block of two that begins t blocks later.
    products = products.reshape(batch, height, width, 2, 2, 2, 2, features)
    blocks = [
        jnp.pad(
            products[:, :, :, s, :, t].transpose(0, 1, 3, 2, 4, 5),
            ((0, 0), (s, 1 - s), (0, 0), (t, 1 - t), (0, 0), (0, 0)),
        )
        for s in (0, 1)
        for t in (0, 1)
    ]  # four of [batch, height + 1, 2, width + 1, 2, features]
    y = sum(blocks).reshape(batch, 2 * height + 2, 2 * width + 2, features)
    return y[:, 1:-1, 1:-1].astype(x.dtype)


@jax.custom_jvp
def fast_on_cpu(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """The same as `dilated`: values by `subpixel`, derivatives by `overlapping`.

    Backwards, `overlapping` is two matrix products at full speed, and the convolution was 1.4 times
    as slow; forwards on large images it is the other way round.
    """
    return subpixel(x, kernel)


@fast_on_cpu.defjvp
def _derivatives(
    primals: tuple[chex.Array, ...], tangents: tuple[chex.Array, ...]
) -> tuple[chex.Array, chex.Array]:
    return subpixel(*primals), jax.jvp(overlapping, primals, tangents)[1]


class TransposedConv(nn.Module):
    """Drop-in for Flax's `nn.ConvTranspose(features, (4, 4), strides=(2, 2), padding="SAME")`.

    Takes `[batch, height, width, depth]`, gives `[batch, 2 height, 2 width, features]` in `dtype`.
    Parameters "kernel" `[4, 4, depth, features]` and "bias" `[features]` are Flax's in name, shape,
    start and meaning, whatever the platform.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Doubles height and width."""
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # Chosen when lowered: only the branch of the platform that runs is compiled.
        return jax.lax.platform_dependent(x, kernel, cpu=fast_on_cpu, default=dilated) + bias
