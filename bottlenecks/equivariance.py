"""How far capsules move as their sequence does: the measures of the Topographic VAE.

Source: Keller & Welling 2021, "Topographic VAEs learn Equivariant Capsules", NeurIPS,
https://arxiv.org/abs/2109.01394, section 6, as released. Capsules t are `[..., S, C, D]`: S frames,
C capsules of D places; Roll_d moves a capsule on by d places.

Samples of the prior score well on both measures: a large mu makes t nearly constant, and the window
makes denominators roll with the frames whatever these show. Print what the prior scores beside it.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.clusters import row_weights, sum_over

_TINY = float(jnp.finfo(jnp.float32).tiny)


class CapsuleRoll(NamedTuple):
    """How far the capsules of a sequence are from where they would be at position 0.

    Attributes:
      observed: int32 `[...]`, the roll that most capsules show, 0 .. D-1.
      true: int32 `[...]`, the position of the first frame.
      found: bool `[...]`, whether a frame is at position 0; where none is, observed is 0.
    """

    observed: chex.Array
    true: chex.Array
    found: chex.Array


def equivariance_error(t: chex.Array) -> chex.Array:
    """E_eq: sum over frames a < b, capsules and places of |Roll_{b-a}(t_a) - t_b|.

    Each capsule is divided by its length first. A sum: it depends on S, C and D. For t ~ N(0, 1)
    its mean is 13270.70 at S = C = D = 18 and 6936.53 at 15.

    Args:
      t: floating `[..., S, C, D]`.

    Returns:
      float32 `[...]`, per sequence.

    Raises:
      ValueError: if t is not floating `[..., S, C, D]`.
    """
    _check_capsules(t, "[..., S, C, D]", 3)
    S, _, D = t.shape[-3:]
    t = t.astype(jnp.float32)
    length2 = jnp.sum(jnp.square(t), axis=-1, keepdims=True)
    positive = length2 > _TINY
    t = t * jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, length2, 1)), 0)
    # Rolling both by -b changes no sum over places: |Roll_{-a}(t_a) - Roll_{-b}(t_b)|.
    start = (np.arange(D) + np.arange(S)[:, None]) % D
    start = start[:, None, :].reshape((1,) * (t.ndim - 3) + (S, 1, D))
    t = jnp.take_along_axis(t, start, axis=-1)
    pairs = jnp.abs(t[..., :, None, :, :] - t[..., None, :, :, :])
    return 0.5 * jnp.sum(pairs, axis=(-4, -3, -2, -1))  # each pair stands there twice


def observed_roll(t_0: chex.Array, t_omega: chex.Array) -> chex.Array:
    """How far t_0 is rolled on from t_Omega: the mode over capsules, the lowest on ties.

    A capsule's roll is argmax_m sum_n t_0[n + m] t_Omega[n], indices going round.

    Args:
      t_0: floating `[..., C, D]`.
      t_omega: floating `[..., C, D]`.

    Returns:
      int32 `[...]`, 0 .. D-1.

    Raises:
      ValueError: if the shapes differ or are not `[..., C, D]`.
    """
    _check_capsules(t_0, "[..., C, D]", 2)
    if t_0.shape != jnp.shape(t_omega):
        raise ValueError(f"Both are [..., C, D], got {t_0.shape} and {jnp.shape(t_omega)}.")
    return _rolls(t_0, t_omega[..., None, :, :])[..., 0]


def capsule_rolls(t: chex.Array, position: chex.Array) -> CapsuleRoll:
    """Observed and true roll of each sequence, the two columns that `capsule_correlation` takes.

    Omega is a frame whose position is 0; of several the one whose roll is closest to the truth.

    Args:
      t: floating `[..., S, C, D]`.
      position: integer `[..., S]`, the moving factor's index in each frame.

    Returns:
      A `CapsuleRoll`. Where position[..., 0] is 0 the first frame is compared with itself, which is
      right whatever the capsules hold: `mask=rolls.true != 0` leaves these sequences out.

    Raises:
      ValueError: if the shapes do not fit or position is not integer.
    """
    _check_capsules(t, "[..., S, C, D]", 3)
    if jnp.shape(position) != t.shape[:-2] or not jnp.issubdtype(position.dtype, jnp.integer):
        raise ValueError(
            f"There is one integer position per frame, expected {t.shape[:-2]}, got "
            f"{position.dtype} {jnp.shape(position)}."
        )
    position = position.astype(jnp.int32)
    true = position[..., 0]
    observed = _rolls(t[..., 0, :, :], t)
    at_zero = position == 0
    far = jnp.iinfo(jnp.int32).max
    distance = jnp.where(at_zero, jnp.abs(observed - true[..., None]), far)
    omega = jnp.argmin(distance, axis=-1)
    found = jnp.any(at_zero, axis=-1)
    closest = jnp.take_along_axis(observed, omega[..., None], axis=-1)[..., 0]
    return CapsuleRoll(observed=jnp.where(found, closest, 0), true=true, found=found)


def capsule_correlation(
    observed: chex.Array,
    true: chex.Array,
    *,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> chex.Array:
    """CapCorr: Pearson's correlation of observed and true rolls over sequences.

    On plain numbers, as released: rolls 0 and D-1 count as far apart.

    Args:
      observed: `[...]`, as `capsule_rolls` gives them; any leading axes, all averaged over.
      true: `[...]` likewise.
      axis_name: mapped axis over whose devices the sequences are spread.
      mask: `[...]`, 0 for sequences to leave out.

    Returns:
      float32 `[]`, from -1 to 1; 0 where one of the two is constant.

    Raises:
      ValueError: if the shapes differ.
    """
    x, y, weight, total = _rows(observed, true, axis_name, mask)

    def mean(x: chex.Array) -> jax.Array:
        return sum_over(jnp.sum(weight * x), axis_name) / total

    x, y = x - mean(x), y - mean(y)
    return _ratio(mean(x * y), mean(jnp.square(x)), mean(jnp.square(y)))


def circular_correlation(
    observed: chex.Array,
    true: chex.Array,
    *,
    places: int,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> chex.Array:
    """CapCorr on a circle of `places`, where rolls 0 and D-1 are neighbours.

    The coefficient rho_T of Fisher & Lee 1983, "A correlation coefficient for circular data",
    Biometrika 70(2), https://doi.org/10.1093/biomet/70.2.327: over all pairs of sequences,
    Pearson's without the means of sin(x_i - x_j) and sin(y_i - y_j).

    Args:
      observed: `[...]`, places.
      true: `[...]`, places.
      places: D, places of the circle.
      axis_name: mapped axis over whose devices the sequences are spread.
      mask: `[...]`, 0 for sequences to leave out.

    Returns:
      float32 `[]`, from -1 to 1; 0 where one of the two is constant.

    Raises:
      ValueError: if the shapes differ or places < 1.
    """
    if places < 1:
        raise ValueError(f"places is 1 or more, got {places}.")
    x, y, weight, total = _rows(observed, true, axis_name, mask)
    x, y = (2 * jnp.pi / places * angle for angle in (x, y))

    def mean(x: chex.Array) -> jax.Array:
        return sum_over(jnp.sum(weight * x), axis_name) / total

    def spread(x: chex.Array) -> jax.Array:
        return 1 - mean(jnp.cos(2 * x)) ** 2 - mean(jnp.sin(2 * x)) ** 2

    same = mean(jnp.cos(x) * jnp.cos(y)) * mean(jnp.sin(x) * jnp.sin(y))
    cross = mean(jnp.cos(x) * jnp.sin(y)) * mean(jnp.sin(x) * jnp.cos(y))
    return _ratio(4 * (same - cross), spread(x), spread(y))


def _rolls(t_0: chex.Array, t: chex.Array) -> jax.Array:
    """How far `[..., C, D]` is rolled on from each frame of `[..., S, C, D]`: int32 `[..., S]`."""
    D = t_0.shape[-1]
    shifted = t_0.astype(jnp.float32)[..., (np.arange(D)[:, None] + np.arange(D)) % D]  # [m, n]
    correlation = jnp.einsum(
        "...cmn,...scn->...scm",
        shifted,
        t.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    rolls = jax.nn.one_hot(jnp.argmax(correlation, axis=-1), D, dtype=jnp.float32)
    return jnp.argmax(jnp.sum(rolls, axis=-2), axis=-1).astype(jnp.int32)


def _rows(
    observed: chex.Array, true: chex.Array, axis_name: str | None, mask: chex.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Both as float32 `[rows]`, the weights of the rows and their sum over all devices."""
    if jnp.shape(observed) != jnp.shape(true):
        raise ValueError(
            f"There is one true roll per observed one; got {jnp.shape(true)} for "
            f"{jnp.shape(observed)}."
        )
    weight = row_weights(jnp.shape(observed), mask)
    total = sum_over(jnp.sum(weight), axis_name)
    x, y = (jnp.where(weight > 0, z.astype(jnp.float32).reshape(-1), 0) for z in (observed, true))
    return x, y, weight, jnp.where(total > 0, total, 1)


def _ratio(covariance: chex.Array, variance: chex.Array, variance_2: chex.Array) -> jax.Array:
    """Covariance over both roots of variance; 0 where a variance is 0 or what rounding makes it."""
    varied = (variance > 1e-6) & (variance_2 > 1e-6)
    return jnp.where(
        varied, covariance * jax.lax.rsqrt(jnp.where(varied, variance * variance_2, 1)), 0
    )


def _check_capsules(t: chex.Array, wanted: str, dimensions: int) -> None:
    if jnp.ndim(t) < dimensions or not jnp.issubdtype(t.dtype, jnp.floating):
        raise ValueError(f"Capsules are floating {wanted}, got {t.dtype} {jnp.shape(t)}.")
