"""Several codewords for each feature vector: side by side, or each correcting the one before.

All codebooks learn at once with `jax.vmap(update_codebook)`, as the functions here say.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bottlenecks.floating import check_floating
from bottlenecks.quantization import Quantized, quantize


class ResidualQuantized(NamedTuple):
    """What `residual_quantize` makes of each feature vector.

    Attributes:
      latent: `[..., D]` in the features' dtype: the sum of the L chosen codewords, with the
        identity as its gradient to the features and none to the codebooks (straight-through).
      index: int32 `[..., L]`, the codeword each level chose.
      codebook_loss: float32 `[..., L]`, ||sg[r_l] - e_l||^2 of each level; squared units, summed
        over D, per token, unweighted. Its gradient reaches that level's codebook alone.
      commitment_loss: float32 `[..., L]`, ||r_l - sg[e_l]||^2: the features against the sum of the
        codewords down to this level. Its gradient reaches the features alone.
      residuals: float32 `[L, ..., D]`, r_l, what each level was left with; without a gradient.
    """

    latent: chex.Array
    index: chex.Array
    codebook_loss: chex.Array
    commitment_loss: chex.Array
    residuals: chex.Array


def product_quantize(
    features: chex.Array,
    codebooks: chex.Array,
    *,
    tile: int = 128,
    cosine: bool = False,
    rotation: bool = False,
) -> Quantized:
    """Cuts each feature vector into G slices, each with a codebook of its own.

    To learn, for states stacked along their first axis (`jax.vmap(start_codebook)(codebooks)`):

        learn = functools.partial(update_codebook, axis_name=axis_name, mask=mask)
        states = jax.vmap(learn)(states, split(features, G), jnp.moveaxis(found.index, -1, 0))

    Args:
      features: floating `[..., G*D]`.
      codebooks: floating `[G, K, D]`.
      tile: codewords compared at a time, see `nearest_codeword`.
      cosine: as in `quantize`, slice by slice.
      rotation: as in `quantize`, slice by slice.

    Returns:
      A `Quantized` with latent `[..., G*D]`, and index and losses `[..., G]`.

    Raises:
      ValueError: if the shapes do not fit, or as `quantize`.

    Source: Jegou, Douze & Schmid 2011, "Product Quantization for Nearest Neighbor Search",
    IEEE TPAMI 33(1).
    """
    _check_codebooks(features, codebooks, slices=True)

    def one(z: chex.Array, e: chex.Array) -> Quantized:
        return quantize(z, e, tile=tile, cosine=cosine, rotation=rotation)

    found = jax.vmap(one)(split(features, codebooks.shape[0]), codebooks)
    return Quantized(
        latent=jnp.moveaxis(found.latent, 0, -2).reshape(features.shape),
        index=jnp.moveaxis(found.index, 0, -1),
        codebook_loss=jnp.moveaxis(found.codebook_loss, 0, -1),
        commitment_loss=jnp.moveaxis(found.commitment_loss, 0, -1),
    )


def residual_quantize(
    features: chex.Array, codebooks: chex.Array, *, tile: int = 128
) -> ResidualQuantized:
    """Quantises, then quantises what is left, L times.

    The latent of given codes is the sum over l of `codebooks[l][index[..., l]]`. To learn, for
    states stacked along their first axis (`jax.vmap(start_codebook)(codebooks)`):

        learn = functools.partial(update_codebook, axis_name=axis_name, mask=mask)
        states = jax.vmap(learn)(states, found.residuals, jnp.moveaxis(found.index, -1, 0))

    Args:
      features: floating `[..., D]`.
      codebooks: floating `[L, K, D]`, the coarsest first.
      tile: codewords compared at a time, see `nearest_codeword`.

    Returns:
      A `ResidualQuantized`; with one level, what `quantize` gives.

    Raises:
      ValueError: if the shapes do not fit, or as `quantize`.

    Source: Zeghidour et al. 2021, "SoundStream: An End-to-End Neural Audio Codec",
    https://arxiv.org/abs/2107.03312, Algorithm 1; the losses as in Lee et al. 2022,
    "Autoregressive Image Generation using Residual Quantization", https://arxiv.org/abs/2203.01941.
    """
    _check_codebooks(features, codebooks, slices=False)
    x, e = features.astype(jnp.float32), codebooks.astype(jnp.float32)

    def level(carry: tuple[chex.Array, chex.Array], e_l: chex.Array) -> tuple:
        r_l, so_far = carry
        found = quantize(r_l, e_l, tile=tile)
        codeword = jax.lax.stop_gradient(found.latent)
        outputs = (
            found.index,
            found.codebook_loss,
            found.commitment_loss,
            jax.lax.stop_gradient(r_l),
        )
        return (r_l - codeword, so_far + codeword), outputs

    # The carry is made from both inputs, so that it varies over the devices they vary over.
    zero = jnp.zeros_like(x) + jnp.zeros_like(e[0, 0, 0])
    (_, z_q), outputs = jax.lax.scan(level, (x + zero, zero), e)
    index, codebook_loss, commitment_loss, residuals = outputs
    # In the order in which rounding leaves the codewords' sum as it is.
    latent = z_q.astype(features.dtype) + (features - jax.lax.stop_gradient(features))
    return ResidualQuantized(
        latent=latent,
        index=jnp.moveaxis(index, 0, -1),
        codebook_loss=jnp.moveaxis(codebook_loss, 0, -1),
        commitment_loss=jnp.moveaxis(commitment_loss, 0, -1),
        residuals=residuals,
    )


def split(features: chex.Array, slices: int) -> chex.Array:
    """The slices that the codebooks of `product_quantize` see: `[..., G*D]` to `[G, ..., D]`."""
    return jnp.moveaxis(features.reshape(*features.shape[:-1], slices, -1), -2, 0)


def _check_codebooks(features: chex.Array, codebooks: chex.Array, *, slices: bool) -> None:
    found = f"got features {jnp.shape(features)} and codebooks {jnp.shape(codebooks)}"
    if jnp.ndim(codebooks) != 3 or 0 in jnp.shape(codebooks):
        raise ValueError(f"Codebooks are [codebooks, K, D], none of them 0; {found}.")
    books, _, depth = codebooks.shape
    expected = books * depth if slices else depth
    if jnp.ndim(features) < 1 or features.shape[-1] != expected:
        of = f"{books} slices of {depth}" if slices else "one D"
        raise ValueError(f"Features are [..., {expected}] for these codebooks ({of}); {found}.")
    check_floating(features=features, codebooks=codebooks)
