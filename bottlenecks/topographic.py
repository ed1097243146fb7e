"""Topographic variables: Student-t variables whose denominators share energy with their neighbours.

Source: Keller & Welling 2021, "Topographic VAEs learn Equivariant Capsules", NeurIPS,
https://arxiv.org/abs/2109.01394, as released (akandykeller/TopographicVAE). Symbols: t = (z + mu) /
sqrt(W u^2), z and u standard Gaussian of shape `[..., S, C, D]`: S frames, C capsules of D places.

W is 0/1, and its rows are one kernel k x k moved around the torus of frames and places, so W u^2 is
a sum of shifted copies of u^2. A run of k shifts takes about 2 log2(k) additions of positive
numbers by doubling; nothing is subtracted, so small energies beside large ones keep their digits.
`bottlenecks.equivariance` measures what comes of it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class StudentT(NamedTuple):
    """Topographic Student-t variables.

    Attributes:
      latent: `[...]` in z's dtype, t.
    """

    latent: chex.Array


def shifting_energy(
    u: chex.Array, *, window: int, spread: int = 0, causal: bool = False
) -> chex.Array:
    """W u^2 of the Topographic VAE: energy that moves one place a frame.

    The kernel's taps are (a, e), 0 <= a, e < window, with |a - e| <= spread:

        v[l, c, i] = sum_(a, e) u[(l + h - a) mod S, c, (i + h - e) mod D]^2,   h = window // 2.

    With spread 0 this is sum_d u[l + d, c, i + d]^2. An even window is one frame longer ahead than
    behind. The paper's window of L is 2 L S frames, its band of K is spread (K - 1) / 2.

    Args:
      u: floating `[..., S, C, D]`.
      window: k, frames (and places) that the kernel spans; 1 or more, it may pass S.
      spread: half the width of the band.
      causal: only taps at the same or an earlier frame and no place ahead of it, and no frames
        before the first: their energy is 0 ("Predictive Coding with Topographic VAEs", ICCV
        workshops 2021, akandykeller/PCTVAE). The release goes round instead, so that its first
        frames see the last ones.

    Returns:
      float32 `[..., S, C, D]`.

    Raises:
      ValueError: if u is not floating `[..., S, C, D]`, window < 1 or spread is negative or no
        less than the taps of the main diagonal.
    """
    _check(u, "[..., S, C, D]", 3)
    if window < 1:
        raise ValueError(f"window is 1 frame or more, got {window}.")
    # Diagonals j above and below the main one have window - j taps each; all start at one corner of
    # the kernel. A run of n + 1 shifts is its first term and a run of n, so they run as one.
    length = window - window // 2 if causal else window
    if not 0 <= spread < length:
        raise ValueError(f"spread is 0 .. {length - 1} for this window, got {spread}.")
    shift = _back if causal else _on
    energy = jnp.square(u.astype(jnp.float32))
    total, diagonals = jnp.zeros_like(energy), energy
    for j in range(1, spread + 1):
        total = total + diagonals
        diagonals = shift(diagonals, 1)
        if causal:
            diagonals = diagonals + jnp.roll(energy, j, axis=-1)
        else:
            diagonals = diagonals + jnp.roll(energy, -j, axis=-1) + jnp.roll(energy, -j, axis=-3)
    total = total + _run(diagonals, length - spread, shift)
    return total if causal else _on(total, window // 2 - window + 1)


def stationary_energy(u: chex.Array, *, window: int, width: int) -> chex.Array:
    """W u^2 of the BubbleVAE: energy that stays in place, all taps of a window x width kernel.

    `window=1` is the model with L = 0, topographic within a frame only.

    Args:
      u: floating `[..., S, C, D]`.
      window: frames, going round; an even number is one longer ahead.
      width: places of a capsule, going round, likewise.

    Returns:
      float32 `[..., S, C, D]`.

    Raises:
      ValueError: if u is not floating `[..., S, C, D]` or window or width is below 1.
    """
    _check(u, "[..., S, C, D]", 3)
    return _box(u, {-3: window, -1: width})


def torus_energy(u: chex.Array, *, width: int) -> chex.Array:
    """W u^2 on one torus of units, all taps of a width x width kernel (TVAE-2D).

    Args:
      u: floating `[..., H, W]`.
      width: units, going round in both directions; an even number is one longer ahead.

    Returns:
      float32 `[..., H, W]`.

    Raises:
      ValueError: if u is not floating `[..., H, W]` or width is below 1.
    """
    _check(u, "[..., H, W]", 2)
    return _box(u, {-2: width, -1: width})


def student_t(
    z: chex.Array, energy: chex.Array, mu: chex.Array, *, epsilon: float = 1e-6
) -> StudentT:
    """Student-t variables t = (z + mu) / sqrt(W u^2 + epsilon).

    The release adds mu; the paper writes z - mu, the same up to the sign of mu.

    Args:
      z: floating `[...]`.
      energy: floating `[...]` like z, W u^2.
      mu: floating `[]`, the one mean of all variables.
      epsilon: above 0; 1e-6 in the release, 1e-3 for L = 0 on dSprites.

    Returns:
      A `StudentT`.

    Raises:
      ValueError: if the shapes do not fit or epsilon is not positive.
    """
    if jnp.shape(z) != jnp.shape(energy):
        raise ValueError(
            f"There is one energy per unit of z; got {jnp.shape(energy)} for {jnp.shape(z)}."
        )
    if jnp.shape(mu) != ():
        raise ValueError(f"mu is one number, expected shape (), got {jnp.shape(mu)}.")
    if epsilon <= 0:
        raise ValueError(f"epsilon is above 0, got {epsilon}.")
    v = energy.astype(jnp.float32) + epsilon
    t = (z.astype(jnp.float32) + jnp.asarray(mu, jnp.float32)) * jax.lax.rsqrt(v)
    return StudentT(latent=t.astype(z.dtype))


def roll_capsules(t: chex.Array, steps: chex.Array | int) -> chex.Array:
    """Moves every capsule on by `steps` places, going round: `[..., D]` to `[..., D]`.

    Equivariant capsules of frame l, rolled by d, are those of frame l + d.
    """
    return jnp.roll(t, steps, axis=-1)


def _run(x: chex.Array, length: int, shift: Callable[[chex.Array, int], chex.Array]) -> chex.Array:
    """The sum over d < length of shift(x, d), where shift(shift(x, a), b) is shift(x, a + b)."""
    total, taken = None, 0
    block, width = x, 1  # the sum of `width` shifts
    while True:
        if length & width:
            part = shift(block, taken)
            total = part if total is None else total + part
            taken += width
        if 2 * width > length:
            return total
        block = block + shift(block, width)
        width *= 2


def _on(x: chex.Array, steps: int) -> chex.Array:
    """x[l + steps, c, i + steps], frames and places going round."""
    return jnp.roll(x, (-steps, -steps), axis=(-3, -1))


def _back(x: chex.Array, steps: int) -> chex.Array:
    """x[l - steps, c, i - steps], places going round, 0 before the first frame."""
    frames = x.shape[-3]
    kept = jax.lax.slice_in_dim(x, 0, max(frames - steps, 0), axis=-3)
    before = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, min(steps, frames), axis=-3))
    return jnp.roll(jnp.concatenate([before, kept], axis=-3), steps, axis=-1)


def _along(x: chex.Array, steps: int, *, axis: int) -> chex.Array:
    return jnp.roll(x, -steps, axis=axis)


def _box(u: chex.Array, lengths: dict[int, int]) -> chex.Array:
    energy = jnp.square(u.astype(jnp.float32))
    for axis, length in lengths.items():
        if length < 1:
            raise ValueError(f"The kernel has 1 tap or more along each axis, got {length}.")
        on = partial(_along, axis=axis)
        energy = on(_run(energy, length, on), length // 2 - length + 1)
    return energy


def _check(u: chex.Array, wanted: str, dimensions: int) -> None:
    if jnp.ndim(u) < dimensions or not jnp.issubdtype(u.dtype, jnp.floating):
        raise ValueError(f"u is floating {wanted}, got {u.dtype} {jnp.shape(u)}.")
