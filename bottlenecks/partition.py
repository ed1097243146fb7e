"""A latent in disjoint parts, each computed from its own slice, and a decoder of fewer pixels.

Source: the PartitionVAE, https://arxiv.org/abs/2302.03689, sections 3 and 4 of its write-up.
`partitions` are the sizes d_1 .. d_K of the parts, in the order in which they are concatenated.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.floating import check_floating


def split_partitions(h: chex.Array, partitions: tuple[int, ...]) -> tuple[chex.Array, ...]:
    """The parts h_k: `[..., sum d_k]` to K arrays `[..., d_k]`.

    Raises:
      ValueError: if the sizes are not positive or do not sum up to the last axis of h.
    """
    _check_sizes("partitions", partitions)
    if jnp.ndim(h) < 1 or h.shape[-1] != sum(partitions):
        raise ValueError(
            f"h is [..., {sum(partitions)}], the sum of partitions {tuple(partitions)}; got "
            f"{jnp.shape(h)}."
        )
    return tuple(jnp.split(h, np.cumsum(partitions)[:-1], axis=-1))


def partition_of_units(partitions: tuple[int, ...]) -> np.ndarray:
    """Which part each unit is in: int32 `[sum d_k]`, 0 .. K-1; a mask of part k is `== k`."""
    _check_sizes("partitions", partitions)
    return np.repeat(np.arange(len(partitions), dtype=np.int32), partitions)


def block_diagonal(
    h: chex.Array,
    kernels: chex.Array,
    biases: chex.Array,
    *,
    partitions: tuple[int, ...],
    outputs: tuple[int, ...] | None = None,
) -> chex.Array:
    """One dense layer per part, h_k A_k + b_k, all in one product.

    Kernels and biases are padded to the largest part. The padding changes nothing and its gradient
    is exactly 0, as is the derivative of one part's output with respect to another's input.

    Args:
      h: floating `[..., sum d_k]`.
      kernels: floating `[K, dmax, dmax_out]`; of kernel k the corner `[:d_k, :o_k]` is A_k.
      biases: floating `[K, dmax_out]`; of bias k the start `[:o_k]` is b_k.
      partitions: d_k, the sizes of the parts of h.
      outputs: o_k, those of the result; the same by default.

    Returns:
      `[..., sum o_k]` in h's dtype.

    Raises:
      ValueError: if the shapes do not fit the sizes or an array is not floating.
    """
    parts = split_partitions(h, partitions)
    outputs = partitions if outputs is None else outputs
    _check_sizes("outputs", outputs)
    K = len(partitions)
    if len(outputs) != K:
        raise ValueError(f"outputs has one size per part, expected {K}, got {len(outputs)}.")
    dmax, dmax_out = max(partitions), max(outputs)
    wanted = dict(kernels=(K, dmax, dmax_out), biases=(K, dmax_out))
    for name, array in dict(kernels=kernels, biases=biases).items():
        if jnp.shape(array) != wanted[name]:
            raise ValueError(f"{name} is {wanted[name]}, got {jnp.shape(array)}.")
    check_floating(h=h, kernels=kernels, biases=biases)

    def padded(part: chex.Array) -> jax.Array:
        room = [(0, 0)] * (part.ndim - 1) + [(0, dmax - part.shape[-1])]
        return jnp.pad(part.astype(jnp.float32), room)

    x = jnp.stack([padded(part) for part in parts], axis=-2)
    y = jnp.einsum(
        "...ki,kio->...ko", x, kernels.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    y = y + jnp.broadcast_to(biases.astype(jnp.float32), y.shape)
    return jnp.concatenate([y[..., k, :size] for k, size in enumerate(outputs)], axis=-1).astype(
        h.dtype
    )


def upsample(y: chex.Array, factor: int, *, method: str = "nearest") -> chex.Array:
    """Enlarges images by a whole factor: x_hat = upsample_f(y).

    Pixels are squares and their centres lie at halves, in the small image and in the large one:
    "nearest" copies each pixel factor x factor times (PyTorch's "nearest" and "nearest-exact");
    "bilinear" interpolates between centres and holds the outermost value up to the edge (PyTorch's
    with align_corners=False, `jax.image.resize`).

    Args:
      y: floating `[..., h, w, C]`.
      factor: f, 1 or more.
      method: "nearest" as the PartitionVAE, or "bilinear".

    Returns:
      `[..., h f, w f, C]` in y's dtype.

    Raises:
      ValueError: if y is not floating `[..., h, w, C]`, factor < 1 or the method is another.
    """
    _check_images("y", y)
    if factor < 1:
        raise ValueError(f"factor is 1 or more, got {factor}.")
    *lead, h, w, C = y.shape
    large = (*lead, h * factor, w * factor, C)
    if method == "nearest":
        copies = jnp.broadcast_to(y[..., :, None, :, None, :], (*lead, h, factor, w, factor, C))
        return copies.reshape(large)
    if method == "bilinear":
        x = jax.image.resize(
            y.astype(jnp.float32), large, "bilinear", precision=jax.lax.Precision.HIGHEST
        )
        return x.astype(y.dtype)
    raise ValueError(f"method is 'nearest' or 'bilinear', got {method!r}.")


def block_mean_floor(x: chex.Array, factor: int) -> chex.Array:
    """The mean squared error that no decoder can beat behind nearest up-sampling by `factor`.

    A copied pixel is best where it is the mean of its block: mean over pixels and channels of
    (x - mean of its f x f block)^2.

    Args:
      x: floating `[..., H, W, C]`, the images to be reconstructed.
      factor: f; divides H and W.

    Returns:
      float32 `[...]`, squared units per pixel and channel, per image.

    Raises:
      ValueError: if x is not floating `[..., H, W, C]` or factor does not divide H and W.
    """
    _check_images("x", x)
    *lead, H, W, C = x.shape
    if factor < 1 or H % factor or W % factor:
        raise ValueError(f"factor divides height and width, {H} and {W}; got {factor}.")
    blocks = x.astype(jnp.float32).reshape(*lead, H // factor, factor, W // factor, factor, C)
    rest = blocks - jnp.mean(blocks, axis=(-4, -2), keepdims=True)
    return jnp.mean(jnp.square(rest), axis=(-5, -4, -3, -2, -1))


def _check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} are one or more sizes of 1 or more, got {tuple(sizes)}.")


def _check_images(name: str, x: chex.Array) -> None:
    if jnp.ndim(x) < 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name} is floating [..., height, width, channels], got {x.dtype} {jnp.shape(x)}."
        )
