"""The life of a codebook that follows the features: moving averages, and new life for dead codes.

Source: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning",
https://arxiv.org/abs/1711.00937, appendix A.1. Paper symbols: z_e features, e codebook, N_i and m_i
the moving count and sum of the features that chose code i, gamma the decay.

`axis_name` is the mapped axis (or axes) whose devices together hold the batch: the result on n
devices is then that of one device with the whole batch, device after device.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bottlenecks.clusters import code_statistics, row_weights, sample_rows, sum_over
from bottlenecks.nearest import check_features
from bottlenecks.rotation import normalize


class CodebookState(NamedTuple):
    """A codebook that follows the features by moving averages (appendix A.1).

    Attributes:
      codebook: float32 `[K, D]`, e.
      count: float32 `[K]`, N_i, the moving number of features per code (with `debias`, hidden:
        short of it by the factor 1 - decay^step).
      total: float32 `[K, D]`, m_i, the moving sum of the features of each code (hidden likewise).
      step: int32 `[]`, updates so far.
    """

    codebook: chex.Array
    count: chex.Array
    total: chex.Array
    step: chex.Array


class Revived(NamedTuple):
    """A codebook whose dead codes were replaced.

    Attributes:
      state: the new `CodebookState`.
      count: int32 `[]`, codes replaced.
    """

    state: CodebookState
    count: chex.Array


def start_codebook(
    codebook: chex.Array, *, count: chex.Array | None = None, debias: bool = False
) -> CodebookState:
    """The state before the first update: N = count, m = count * e.

    Args:
      codebook: floating `[K, D]`, random, sampled or from `kmeans`.
      count: `[K]`, rows behind each code, as `kmeans` gives them; 1 by default. A count of 0
        becomes 1, or the code would leave its place for the origin.
      debias: start the averages at a hidden 0 (`count` is not used), as Sonnet and Haiku do; needs
        `debias` in `update_codebook` as well.

    Returns:
      A `CodebookState`, step 0.

    Raises:
      ValueError: if the codebook is not `[K, D]` with K and D 1 or more, or count not `[K]`.
    """
    if jnp.ndim(codebook) != 2 or 0 in jnp.shape(codebook):
        raise ValueError(f"The codebook is [K, D] with K and D 1 or more; got {codebook.shape}.")
    e = codebook.astype(jnp.float32)
    ones = jnp.ones_like(e[:, 0])
    if count is None:
        count = ones
    elif jnp.shape(count) != ones.shape:
        raise ValueError(
            f"count is [K], one number per code; got {jnp.shape(count)} for codebook {e.shape}."
        )
    count = jnp.where(count > 0, count.astype(jnp.float32), ones)
    if debias:
        count = jnp.zeros_like(ones)
    return CodebookState(
        codebook=e,
        count=count,
        total=e * count[:, None],
        step=jnp.zeros_like(e[0, 0], dtype=jnp.int32),
    )


def update_codebook(
    state: CodebookState,
    features: chex.Array,
    index: chex.Array,
    *,
    decay: float = 0.99,
    epsilon: float = 1e-5,
    debias: bool = False,
    cosine: bool = False,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> CodebookState:
    """One step of the moving averages (Eq. 6 to 8 of appendix A.1).

    Laplace smoothing of the counts is an addition of Sonnet's, not in the paper. It draws codes
    that stay unused towards the origin: e becomes about e * N / (N + epsilon) as N decays, half of
    e after 1146 unused steps at the defaults. `epsilon=0` is the paper: an unused code stays.

    Haiku's and Sonnet's averages start at a hidden 0 (`debias`), which with smoothing sends every
    code that the first batch does not use to the origin. Kept to reproduce their curves.

    With `cosine`, N and m are the moving count and sum of the features' unit vectors, and the new
    codeword is m / ||m||: the direction alone, so that smoothing and debiasing do not matter and an
    unused code stays. Start from `kmeans(key, normalize(features), K)`, and revive with
    `normalize(features)`.

    Args:
      state: the averages so far; quantise with `state.codebook` before this call, not after.
      features: floating `[..., D]`, z_e of this batch.
      index: integer `[...]`, the code each feature chose.
      decay: gamma, in `[0, 1)`.
      epsilon: Laplace smoothing of the counts, 0 for none. Smoothed counts divide and are not kept.
      debias: divide the averages by 1 - decay^step.
      cosine: unit vectors, as in `quantize`.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[...]` like index, 1 for features that count and 0 for those that do not; a batch
        without any decays the averages and leaves the codes (up to smoothing).

    Returns:
      The new `CodebookState`; no gradient flows into it.

    Raises:
      ValueError: if the shapes do not fit, decay is outside `[0, 1)` or epsilon is negative.
    """
    check_features(features, state.codebook)
    if jnp.shape(index) != features.shape[:-1]:
        raise ValueError(
            f"There is one index per feature vector; got index {jnp.shape(index)} for features "
            f"{features.shape}."
        )
    if not 0 <= decay < 1:
        raise ValueError(f"decay is in [0, 1), got {decay}.")
    if epsilon < 0:
        raise ValueError(f"epsilon is 0 (no smoothing) or more, got {epsilon}.")
    codes = state.codebook.shape[0]
    if cosine:
        features = normalize(features.astype(jnp.float32))
    n, s = code_statistics(features, index, codes, axis_name=axis_name, mask=mask)

    count = decay * state.count + (1 - decay) * n  # Eq. 6
    total = decay * state.total + (1 - decay) * s  # Eq. 7
    step = state.step + 1
    N, m = count, total
    if debias:
        correction = 1 - jnp.power(jnp.float32(decay), step.astype(jnp.float32))
        N, m = N / correction, m / correction
    if epsilon > 0 and not cosine:
        everything = jnp.sum(N)
        N = (N + epsilon) / (everything + codes * epsilon) * everything
        moves = N > 0
    else:
        # Eq. 8 leaves an unused code where it was, for N and m shrink alike. Said outright, because
        # after some 8000 unused steps both are too small for float32.
        moves = n > 0
    e = m / jnp.where(moves, N, 1)[:, None]  # Eq. 8
    if cosine:
        e = normalize(e)
        moves = moves & jnp.any(e != 0, axis=-1)  # a sum of 0 has no direction
    new = CodebookState(
        codebook=jnp.where(moves[:, None], e, state.codebook), count=count, total=total, step=step
    )
    return jax.lax.stop_gradient(new)


def revive_dead_codes(
    key: chex.PRNGKey,
    state: CodebookState,
    features: chex.Array,
    *,
    threshold: float,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> Revived:
    """Gives codes that are hardly used the place of random features of the batch.

    A replaced code starts anew, N = 1 and m = e: with the old averages the next update would take
    it back to where it was. With `debias` the counts compared are the hidden ones, near 0 for the
    first 1 / (1 - decay) steps; revive after that.

    Args:
      key: a key, the same on all devices.
      state: after `update_codebook`.
      features: floating `[..., D]`, z_e of this batch.
      threshold: a code with N_i below it is dead; in `[0, 1]`, for a replaced code starts at 1.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[...]`, 0 for rows not to be used; with no row left nothing is replaced.

    Returns:
      A `Revived`: the new state and how many codes were replaced. Rows repeat only when there are
      more dead codes than rows.

    Raises:
      ValueError: if the shapes do not fit or threshold is outside `[0, 1]`.
    """
    check_features(features, state.codebook)
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold is in [0, 1], got {threshold}: a replaced code starts at count 1, and "
            "above that it would be dead again at once."
        )
    codes = state.codebook.shape[0]
    rows = sample_rows(key, features, codes, axis_name=axis_name, mask=mask).astype(jnp.float32)
    any_row = sum_over(jnp.sum(row_weights(features.shape[:-1], mask)), axis_name) > 0
    dead = (state.count < threshold) & any_row
    # The j-th dead code takes the j-th row drawn, so that no row is spent on a living code.
    e = rows[jnp.cumsum(dead, dtype=jnp.int32) - 1]
    new = CodebookState(
        codebook=jnp.where(dead[:, None], e, state.codebook),
        count=jnp.where(dead, 1.0, state.count),
        total=jnp.where(dead[:, None], e, state.total),
        step=state.step,
    )
    return Revived(state=new, count=jnp.sum(dead, dtype=jnp.int32))
