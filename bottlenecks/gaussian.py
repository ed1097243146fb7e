"""The Gaussian bottleneck: reparameterised samples, the KL term and the density, in nats.

Source: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114.

Free bits are those of Kingma et al. 2016, "Improving Variational Inference with Inverse
Autoregressive Flow", https://arxiv.org/abs/1606.04934, appendix C.8.

Everything is computed in float32. The log variance is held within -80 .. 80, where the variance is
a normal float32; outside of that values stay finite and the gradient to the log variance is 0.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bottlenecks.clusters import row_weights, sum_over
from bottlenecks.floating import check_floating

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


def kl_divergence(
    mean: chex.Array, log_variance: chex.Array, mean_2: chex.Array, log_variance_2: chex.Array
) -> chex.Array:
    """KL(N(mean, e^log_variance) || N(mean_2, e^log_variance_2)) per unit.

    The ratio of the variances is held within e^-80 .. e^80, as each variance is.

    Args:
      mean: floating `[..., D]`.
      log_variance: floating `[..., D]`.
      mean_2: floating `[..., D]`, of the second distribution, the prior.
      log_variance_2: floating `[..., D]`.

    Returns:
      float32 `[..., D]`, nats per unit.

    Raises:
      ValueError: if the shapes differ or an array is not floating.
    """
    _check_same_shape(
        mean=mean, log_variance=log_variance, mean_2=mean_2, log_variance_2=log_variance_2
    )
    prior = _bounded(log_variance_2)
    log_ratio = _bounded(_bounded(log_variance) - prior)
    scaled = (mean.astype(jnp.float32) - mean_2.astype(jnp.float32)) * jnp.exp(-0.5 * prior)
    return 0.5 * (jnp.square(scaled) + jnp.expm1(log_ratio) - log_ratio)


def free_bits(
    kl: chex.Array,
    *,
    nats: float,
    axis_name: str | None = None,
    mask: chex.Array | None = None,
) -> chex.Array:
    """The KL term with free bits: max(lambda, mean over the batch of KL_j) for each group j.

    What is returned is per example, as every loss here: a group whose mean is above lambda keeps
    its KL, another gets lambda for every example and no gradient. The mean over the batch is then
    the paper's value exactly, and its gradient too.

    Args:
      kl: floating `[..., J]`, nats of each group of units (sum the KL of its units first). All
        leading axes are averaged over.
      nats: lambda, free nats per group and example; 0 changes nothing but a negative mean.
      axis_name: mapped axis over whose devices the batch is spread.
      mask: `[...]`, the weight of each example in the mean.

    Returns:
      float32 `[..., J]`, nats.

    Raises:
      ValueError: if kl is not floating `[..., J]`, nats is negative or the mask's shape differs.
    """
    check_floating(kl=kl)
    if jnp.ndim(kl) < 1:
        raise ValueError("kl is [..., J], one number per group of units; got a scalar.")
    if nats < 0:
        raise ValueError(f"nats is 0 or more, got {nats}.")
    kl = kl.astype(jnp.float32)
    weight = row_weights(kl.shape[:-1], mask)[:, None]
    rows = jnp.where(weight > 0, kl.reshape(-1, kl.shape[-1]) * weight, 0)
    examples = sum_over(jnp.sum(weight), axis_name)
    mean = sum_over(jnp.sum(rows, axis=0), axis_name) / jnp.where(examples > 0, examples, 1)
    return jnp.where(jnp.broadcast_to(mean > nats, kl.shape), kl, nats)


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
    check_floating(**arrays)
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


def _check_same_shape(**arrays: chex.Array) -> None:
    check_floating(**arrays)
    if len({array.shape for array in arrays.values()}) > 1:
        raise ValueError(f"Shapes must be the same, got {_shapes(arrays)}.")
