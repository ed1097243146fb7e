"""The Gaussian bottleneck: reparameterised samples, the KL term and the density, in nats.

Source: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114.

Everything is computed in float32. The log variance is held within -80 .. 80, where the variance is
a normal float32; outside of that values stay finite and the gradient to the log variance is 0.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

_LARGEST_LOG_VARIANCE = 80.0


class GaussianSample(NamedTuple):
    """A sample of q(z|x) = N(mean, e^log_variance) and what it costs.

    Attributes:
      latent: `[..., D]` in the mean's dtype, z; differentiable in mean and log variance.
      kl: float32 `[..., D]`, KL(q(z|x) || N(0, 1)) of each unit in nats, unreduced and unweighted.
    """

    latent: chex.Array
    kl: chex.Array


def sample(mean: chex.Array, log_variance: chex.Array, noise: chex.Array) -> GaussianSample:
    """Reparameterised sample z = mean + sigma * noise (Kingma & Welling 2014, Eq. 10).

    Args:
      mean: floating `[..., D]`.
      log_variance: floating `[..., D]`, log sigma^2.
      noise: floating `[..., D]`, a draw from N(0, 1); zeros give the mean.

    Returns:
      A `GaussianSample` with latent `[..., D]` and kl `[..., D]`.

    Raises:
      ValueError: if the three shapes differ or an array is not floating.
    """
    _check_same_shape(mean=mean, log_variance=log_variance, noise=noise)
    sigma = jnp.exp(0.5 * _bounded(log_variance))
    latent = mean.astype(jnp.float32) + sigma * noise.astype(jnp.float32)
    return GaussianSample(
        latent=latent.astype(mean.dtype), kl=kl_standard_normal(mean, log_variance)
    )


def kl_standard_normal(mean: chex.Array, log_variance: chex.Array) -> chex.Array:
    """KL(N(mean, e^log_variance) || N(0, 1)) per unit (Kingma & Welling 2014, appendix B).

    Args:
      mean: floating `[..., D]`.
      log_variance: floating `[..., D]`.

    Returns:
      float32 `[..., D]`, nats per unit.

    Raises:
      ValueError: if the shapes differ or an array is not floating.
    """
    _check_same_shape(mean=mean, log_variance=log_variance)
    log_variance = _bounded(log_variance)
    # expm1 keeps the digits of sigma^2 - 1 near sigma = 1.
    return 0.5 * (jnp.square(mean.astype(jnp.float32)) + jnp.expm1(log_variance) - log_variance)


def log_density(x: chex.Array, mean: chex.Array, log_variance: chex.Array) -> chex.Array:
    """Log density of N(mean, e^log_variance) at x, per unit.

    Args:
      x: floating `[..., D]`.
      mean: floating, broadcast against x.
      log_variance: floating, broadcast against x.

    Returns:
      float32 `[..., D]`, nats per unit: log of a density, not of a probability mass.

    Raises:
      ValueError: if the shapes do not broadcast together or an array is not floating.
    """
    arrays = dict(x=x, mean=mean, log_variance=log_variance)
    _check_floating(arrays)
    try:
        shape = jnp.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        raise ValueError(f"Shapes must broadcast together, got {_shapes(arrays)}.") from None
    x, mean, log_variance = (jnp.broadcast_to(array, shape) for array in arrays.values())
    log_variance = _bounded(log_variance)
    # Scaled before the square, so that a far x with a large sigma does not overflow on the way.
    scaled = (x.astype(jnp.float32) - mean.astype(jnp.float32)) * jnp.exp(-0.5 * log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + jnp.square(scaled))


def _bounded(log_variance: chex.Array) -> jax.Array:
    log_variance = log_variance.astype(jnp.float32)
    return jnp.clip(log_variance, -_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)


def _shapes(arrays: dict[str, chex.Array]) -> str:
    return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())


def _check_floating(arrays: dict[str, chex.Array]) -> None:
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating, got {array.dtype}; convert with astype.")


def _check_same_shape(**arrays: chex.Array) -> None:
    _check_floating(arrays)
    if len({array.shape for array in arrays.values()}) > 1:
        raise ValueError(f"Shapes must be the same, got {_shapes(arrays)}.")
