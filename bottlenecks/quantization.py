"""Vector quantisation with a straight-through gradient.

Source: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning",
https://arxiv.org/abs/1711.00937. Paper symbols: z_e features, e codebook, z_q the chosen codeword.

The codebook's life, start, moving averages and revival, is in `bottlenecks.codebook`; counts,
samples and k-means are in `bottlenecks.clusters`. All of their names are here too.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bottlenecks.clusters import (
    KMeans,
    bits_per_token,
    code_counts,
    kmeans,
    perplexity,
    sample_rows,
    used_codes,
)
from bottlenecks.codebook import (
    CodebookState,
    Revived,
    revive_dead_codes,
    start_codebook,
    update_codebook,
)
from bottlenecks.nearest import check_features, nearest_codeword
from bottlenecks.rotation import normalize, rotate_and_rescale

__all__ = [
    "CodebookState",
    "KMeans",
    "Quantized",
    "Revived",
    "bits_per_token",
    "code_counts",
    "kmeans",
    "normalize",
    "perplexity",
    "quantize",
    "revive_dead_codes",
    "sample_rows",
    "start_codebook",
    "update_codebook",
    "used_codes",
]


class Quantized(NamedTuple):
    """What `quantize` makes of each feature vector.

    Attributes:
      latent: `[..., D]` in the features' dtype: the chosen codeword, with the identity as its
        gradient to the features (straight-through) and none to the codebook.
      index: int32 `[...]`, the chosen codeword's row in the codebook.
      codebook_loss: float32 `[...]`, ||sg[z_e] - e||^2, the second term of Eq. 3; squared units,
        summed over D, per token, unweighted. Its gradient reaches the codebook alone.
      commitment_loss: float32 `[...]`, ||z_e - sg[e]||^2, the third term of Eq. 3 before beta; as
        above. Its gradient reaches the features alone.
    """

    latent: chex.Array
    index: chex.Array
    codebook_loss: chex.Array
    commitment_loss: chex.Array


def quantize(
    features: chex.Array,
    codebook: chex.Array,
    *,
    tile: int = 128,
    cosine: bool = False,
    rotation: bool = False,
) -> Quantized:
    """Replaces each feature vector by its nearest codeword (Eq. 1, 2 and the terms of Eq. 3).

    The paper sums the squared error over D and averages it over tokens; Sonnet, Haiku and most
    ports average over D too, which is 1/D of it. Nothing is averaged or weighted here.

    With `cosine`, features and codewords are first divided by their norms, so that the nearest
    codeword is the one with the largest cosine, a squared distance is 2 - 2 cos, and the latent is
    a unit vector, `normalize(codebook)[index]`. All gradients pass through that division: they turn
    a feature or a codeword and never lengthen it. Pass `cosine` to `update_codebook` as well.

    Args:
      features: floating `[..., D]`, z_e(x).
      codebook: floating `[K, D]`, e.
      tile: codewords compared at a time, see `nearest_codeword`.
      cosine: compare directions instead of positions.
      rotation: the latent's gradient reaches the features turned and scaled as z_e is to become
        z_q, instead of as it is (the rotation trick, Fifty et al. 2024, see `rotate_and_rescale`).
        Values do not change.

    Returns:
      A `Quantized`.

    Raises:
      ValueError: as `nearest_codeword`.
    """
    check_features(features, codebook)
    z_e, e = features.astype(jnp.float32), codebook.astype(jnp.float32)
    if cosine:
        z_e, e = normalize(z_e), normalize(e)
    index = nearest_codeword(z_e, e, tile=tile).index  # Eq. 1
    e = e[index]
    z_q = jax.lax.stop_gradient(e).astype(features.dtype)  # Eq. 2
    # z_e + sg(z_q - z_e), in the order in which rounding leaves the codeword as it is: what the
    # decoder sees in training is what it sees when the codes are looked up later.
    nothing = z_e - jax.lax.stop_gradient(z_e)  # 0, with the gradient of z_e
    if rotation:
        nothing = rotate_and_rescale(nothing, z_e, e)
    return Quantized(
        latent=z_q + nothing.astype(features.dtype),
        index=index,
        codebook_loss=_squared_norm(jax.lax.stop_gradient(z_e) - e),  # Eq. 3, second term
        commitment_loss=_squared_norm(z_e - jax.lax.stop_gradient(e)),  # Eq. 3, third term
    )


def _squared_norm(x: chex.Array) -> jax.Array:
    return jnp.sum(jnp.square(x), axis=-1)
