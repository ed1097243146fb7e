"""Quantisers without a codebook to learn: each number is rounded by itself.

FSQ: Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple",
https://arxiv.org/abs/2309.15505. LFQ: Yu et al. 2023, "Language Model Beats Diffusion: Tokenizer is
Key to Visual Generation", https://arxiv.org/abs/2310.05737, section 3.1.

`axis_name` is the mapped axis (or axes) whose devices together hold the batch: the result on n
devices is then that of one device with the whole batch.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.clusters import row_weights, sum_over
from bottlenecks.floating import check_floating

JOINT_BITS = 20  # 2^20 shares are 4 MB


class ScalarQuantized(NamedTuple):
    """What `finite_scalar_quantize` makes of each feature vector.

    Attributes:
      latent: `[..., d]` in the features' dtype, each number one of its L levels in [-1, 1].
      index: int32 `[...]`, in `0 .. prod(levels)-1`; the first number is its lowest digit.
    """

    latent: chex.Array
    index: chex.Array


class LookupFreeQuantized(NamedTuple):
    """What `lookup_free_quantize` makes of each feature vector. Entropies are in nats.

    Attributes:
      latent: `[..., d]` in the features' dtype, -1 or 1, with the identity as its gradient.
      index: int32 `[...]`, in `0 .. 2^d-1`; number i is bit i, set where it is positive.
      commitment_loss: float32 `[...]`, ||z - sg[latent]||^2; squared units, summed over d, per
        token, unweighted.
      token_entropy: float32 `[...]`, H(q(c|z)) of each token.
      batch_entropy: float32 `[]`, H(E[q(c|z)]) of the whole batch.
      entropy_loss: float32 `[...]`, token_entropy - batch_entropy: the mean over tokens is the
        paper's L_entropy. Unweighted.
    """

    latent: chex.Array
    index: chex.Array
    commitment_loss: chex.Array
    token_entropy: chex.Array
    batch_entropy: chex.Array
    entropy_loss: chex.Array


def finite_scalar_quantize(features: chex.Array, *, levels: tuple[int, ...]) -> ScalarQuantized:
    """Bounds each number and rounds it to one of its L levels (section 3.1, listing in A.1).

    f(z) = tanh(z + s) (L - 1)(1 - 0.001) / 2 - o, with the half step o = 1/2 for even L and 0 for
    odd, is rounded and divided by floor(L / 2). The gradient is that of f, for rounding passes it
    on as it is. An even L has one level more below 0 than above, and never reaches 1. The shift s
    is the listing's tan(o / half width), with which f(0) is 0 but for -0.0004 at L = 4, less for
    more levels, and -0.04 at L = 2; exact would be artanh, which L = 2 does not have.

    Args:
      features: floating `[..., d]`.
      levels: L of each of the d numbers, 2 to 1000; beyond, the listing's factor 1 - 0.001 cuts
        off the outermost level.

    Returns:
      A `ScalarQuantized`. Its index is integer arithmetic and exact whatever the features' dtype.

    Raises:
      ValueError: if features are not floating `[..., d]`, a level is not an integer of 2 to 1000,
        or the product of the levels does not fit int32.
    """
    half, basis = _digits(levels)
    _check(features, len(levels), "numbers, one for each level")
    L = np.asarray(levels)
    half_width = (L - 1) * (1 - 1e-3) / 2
    o = np.where(L % 2 == 0, 0.5, 0.0)
    s = np.tan(o / half_width)
    ndim = jnp.ndim(features)
    z = features.astype(jnp.float32)
    f = jnp.tanh(z + _last(s, ndim)) * _last(half_width, ndim) - _last(o, ndim)
    digit = jnp.round(jax.lax.stop_gradient(f))
    # In the order in which rounding leaves the level as it is.
    latent = digit / _last(half, ndim) + (f - jax.lax.stop_gradient(f)) / _last(half, ndim)
    place = digit.astype(jnp.int32) + _last(half, ndim, np.int32)
    place = jnp.clip(place, 0, _last(L - 1, ndim, np.int32))  # a NaN may be any integer
    index = jnp.sum(place * _last(basis, ndim, np.int32), axis=-1, dtype=jnp.int32)
    return ScalarQuantized(latent=latent.astype(features.dtype), index=index)


def fsq_latent(index: chex.Array, *, levels: tuple[int, ...]) -> chex.Array:
    """The latent of given codes: index `[...]`, integer, to float32 `[..., d]`.

    Raises:
      ValueError: as `finite_scalar_quantize`, or if index is not integer.
    """
    half, basis = _digits(levels)
    _check_index(index)
    ndim = jnp.ndim(index) + 1
    place = index.astype(jnp.int32)[..., None] // _last(basis, ndim, np.int32)
    place = place % _last(np.asarray(levels), ndim, np.int32)
    half = _last(half, ndim, np.int32)
    return (place - half).astype(jnp.float32) / half.astype(np.float32)


def lookup_free_quantize(
    features: chex.Array,
    *,
    inverse_temperature: float = 100.0,
    joint_bits: int | None = None,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> LookupFreeQuantized:
    """Keeps the sign of each number; the code is those d bits.

    The entropy terms need probabilities, q(c|z) proportional to exp(-||z - c||^2 / T) over the 2^d
    codes c of -1 and 1. They are d independent bits, each 1 with probability sigmoid(4 z_i / T), so
    the token entropy is a sum of d binary entropies. The batch entropy is found from all 2^d mean
    probabilities, exactly; memory grows with N * 2^(d/2) + 2^d.

    Args:
      features: floating `[..., d]`, z; d at most 31.
      inverse_temperature: 1 / T, positive. The paper states none; 100 is usual in open code.
      joint_bits: bits whose joint distribution over the batch is enumerated, all by default, which
        needs d at most 20. With fewer, the bits are taken that many at a time and batch_entropy is
        the sum of their entropies: an upper bound, exact where the groups are independent.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[...]`, 1 for tokens that count in batch_entropy and 0 for those that do not.

    Returns:
      A `LookupFreeQuantized`; batch_entropy is 0 when no token counts.

    Raises:
      ValueError: if features are not floating `[..., d]` with d of 1 to 31, the mask's shape
        differs, inverse_temperature is not positive, or joint_bits is not 1 to 20.
    """
    bits = features.shape[-1] if jnp.ndim(features) else 0
    if not 1 <= bits <= 31:
        raise ValueError(f"Features are [..., d] with d of 1 to 31 bits; got {features.shape}.")
    _check(features, bits, "bits")
    if not inverse_temperature > 0:
        raise ValueError(f"inverse_temperature is positive, got {inverse_temperature}.")
    joint = bits if joint_bits is None else joint_bits
    if not 1 <= joint <= JOINT_BITS:
        raise ValueError(
            f"joint_bits is 1 to {JOINT_BITS}, got {joint_bits} for {bits} bits: with 2^{joint} "
            "codes the batch entropy is not enumerated; give fewer, for the sum over groups."
        )
    z = features.astype(jnp.float32)
    positive = z > 0
    sign = jnp.where(positive, 1.0, -1.0)
    place = _last(2 ** np.arange(bits), z.ndim, np.int32)
    index = jnp.sum(positive.astype(jnp.int32) * place, axis=-1, dtype=jnp.int32)

    # Beyond 100 the other value's probability is 0 in float32.
    logit = jnp.clip(4 * inverse_temperature * z, -100, 100)
    weight = row_weights(z.shape[:-1], mask)
    token_entropy = jnp.sum(_bit_entropy(logit), axis=-1)
    batch_entropy = _batch_entropy(logit.reshape(-1, bits), weight, joint, axis_name)
    return LookupFreeQuantized(
        latent=sign.astype(features.dtype) + (features - jax.lax.stop_gradient(features)),
        index=index,
        commitment_loss=jnp.sum(jnp.square(z - sign), axis=-1),
        token_entropy=token_entropy,
        batch_entropy=batch_entropy,
        entropy_loss=token_entropy - batch_entropy,
    )


def lfq_latent(index: chex.Array, *, bits: int) -> chex.Array:
    """The latent of given codes: index `[...]`, integer, to float32 `[..., bits]` of -1 and 1.

    Raises:
      ValueError: if bits is not 1 to 31 or index is not integer.
    """
    if not 1 <= bits <= 31:
        raise ValueError(f"bits is 1 to 31, got {bits}.")
    _check_index(index)
    shift = _last(np.arange(bits), jnp.ndim(index) + 1, np.int32)
    bit = (index.astype(jnp.int32)[..., None] >> shift) & 1
    return (2 * bit - 1).astype(jnp.float32)


def _bit_entropy(logit: chex.Array) -> jax.Array:
    """Entropy in nats of a bit that is 1 with probability sigmoid(logit)."""
    a = jnp.abs(logit)
    return jnp.log1p(jnp.exp(-a)) + a * jax.nn.sigmoid(-a)


def _batch_entropy(
    logit: chex.Array, weight: chex.Array, joint: int, axis_name: str | None
) -> jax.Array:
    """H(E[q]) over the rows `[N, d]`, group by group of `joint` bits."""
    logit = jnp.where(weight[:, None] > 0, logit, 0)  # a masked row may hold anything, NaN too
    total = sum_over(jnp.sum(weight), axis_name)
    share = 1 / jnp.where(total > 0, total, 1)
    entropy = jnp.zeros_like(total)
    for first in range(0, logit.shape[1], joint):
        group = logit[:, first : first + joint]
        # E[q] = E[q_high q_low^T]: the bits in two halves, joined by one matrix product.
        half = group.shape[1] // 2
        high = _enumerate(group[:, half:]) * weight[:, None]
        low = _enumerate(group[:, :half])
        p = jnp.matmul(high.T, low, precision=jax.lax.Precision.HIGHEST)
        p = sum_over(p, axis_name) * share
        entropy = entropy - jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)))
    return entropy


def _enumerate(logit: chex.Array) -> jax.Array:
    """Probabilities `[N, 2^b]` of all values of b independent bits with logits `[N, b]`."""
    table = jnp.ones((logit.shape[0], 1), jnp.float32)
    for i in range(logit.shape[1]):
        one = logit[:, i : i + 1]
        table = jnp.concatenate([table * jax.nn.sigmoid(-one), table * jax.nn.sigmoid(one)], axis=1)
    return table


def _digits(levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """floor(L / 2) and the weight in the index of each digit."""
    if not levels or not all(isinstance(L, int) and 2 <= L <= 1000 for L in levels):
        raise ValueError(f"levels are integers of 2 to 1000, at least one; got {levels}.")
    if math.prod(levels) > np.iinfo(np.int32).max:
        raise ValueError(
            f"The product of the levels {levels} is {math.prod(levels)} and does not fit int32; "
            "use fewer or smaller levels."
        )
    return np.asarray(levels) // 2, np.cumprod([1, *levels[:-1]])


def _check(features: chex.Array, depth: int, what: str) -> None:
    if jnp.ndim(features) < 1 or features.shape[-1] != depth:
        raise ValueError(f"Features are [..., {depth}] ({what}); got {jnp.shape(features)}.")
    check_floating(features=features)


def _check_index(index: chex.Array) -> None:
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f"index must be integer, got {index.dtype}; convert with astype.")


def _last(values: np.ndarray, ndim: int, dtype: type = np.float32) -> np.ndarray:
    """Constants `[d]` along the last of ndim axes."""
    return values.astype(dtype).reshape((1,) * (ndim - 1) + values.shape)
