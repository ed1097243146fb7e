"""Mu-law: 256 levels for amplitudes in [-1, 1], the finer the smaller the amplitude.

ITU-T Recommendation G.711 (1988), in the continuous form of van den Oord et al. 2016, "WaveNet",
section 2.2.
"""

import math

import jax
import jax.numpy as jnp


def compand(amplitude: jax.Array, *, levels: int = 256) -> jax.Array:
    """f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu), mu = levels - 1; float32 in [-1, 1].

    Args:
      amplitude: `[...]`, floating; beyond [-1, 1] it is clipped.
      levels: mu + 1, at least 2.
    """
    mu = levels - 1
    x = jnp.clip(amplitude.astype(jnp.float32), -1, 1)
    return jnp.sign(x) * jnp.log1p(mu * jnp.abs(x)) / math.log1p(mu)


def expand(companded: jax.Array, *, levels: int = 256) -> jax.Array:
    """The amplitude of a companded one: the inverse of `compand`, float32 in [-1, 1]."""
    mu = levels - 1
    y = jnp.clip(companded.astype(jnp.float32), -1, 1)
    return jnp.sign(y) * jnp.expm1(jnp.abs(y) * math.log1p(mu)) / mu


def encode(amplitude: jax.Array, *, levels: int = 256) -> jax.Array:
    """Levels int32 0 .. levels - 1 of amplitudes `[...]` in [-1, 1]: the nearest when companded."""
    scaled = (compand(amplitude, levels=levels) + 1) / 2 * (levels - 1)
    return jnp.round(scaled).astype(jnp.int32)


def decode(level: jax.Array, *, levels: int = 256) -> jax.Array:
    """Amplitudes float32 `[...]` in [-1, 1] of levels 0 .. levels - 1."""
    return expand(2 * level.astype(jnp.float32) / (levels - 1) - 1, levels=levels)
