"""Gaussian VAE (Kingma and Welling 2014): the reference bottleneck."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bottlenecks import gaussian
from models.autoencoder import BottleneckOutput


class GaussianBottleneck(nn.Module):
    """Diagonal Gaussian posterior, standard normal prior.

    Loss `kl`, `[batch]`: KL(q(z|x) || N(0, I)) in nats per example, summed over all units.
    `code` is the posterior mean. Training and evaluation decode a draw, from the random stream
    "sample", so that the losses are the ELBO's. Applied without that stream and with
    `train=False`, the latent is the mean, as a notebook wants it.

    Attributes:
      depth: units per position.
      axis_name: mapped axis; noise is drawn per example of the whole batch, whatever the number of
        devices that share it.
      dtype: of the projection's arithmetic.
    """

    depth: int
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses settings that cannot be."""
        if self.depth < 1:
            raise ValueError(f"bottleneck.depth is {self.depth}; it must be at least 1")
        super().__post_init__()

    @nn.compact
    def posterior(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of q(z|x), each float32 `[batch, ..., depth]`."""
        both = nn.Dense(2 * self.depth, dtype=self.dtype, name="posterior")(features)
        mean, log_variance = jnp.split(both.astype(jnp.float32), 2, axis=-1)
        return mean, log_variance

    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> BottleneckOutput:
        """One reparameterised draw per example; `[batch, ..., features] -> [batch, ..., depth]`."""
        del mask
        mean, log_variance = self.posterior(features)
        drawn = draw(self, mean, log_variance, train=train)
        kl = jnp.sum(drawn.kl, axis=tuple(range(1, drawn.kl.ndim)))
        return BottleneckOutput(latent=drawn.latent, code=mean, losses={"kl": kl}, metrics={})

    def draw_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Codes of this shape, `[n, ..., units]`, from the prior N(0, I)."""
        return jax.random.normal(key, shape)

    def look_up(self, code: jax.Array) -> jax.Array:
        """The latent of a code, which is the code itself: a posterior mean."""
        return code


def draw(
    module: nn.Module, mean: jax.Array, log_variance: jax.Array, *, train: bool
) -> gaussian.GaussianSample:
    """One draw per example from the posterior, or the mean where a notebook asks for no noise.

    Args:
      module: whose random stream "sample" and `axis_name` are used.
      mean: `[batch, ...]`.
      log_variance: like `mean`.
      train: without the stream "sample", False gives the mean.
    """
    if train or module.has_rng("sample"):
        axis_name = None if module.is_initializing() else module.axis_name
        noise = normal_per_example(module.make_rng("sample"), mean.shape, axis_name=axis_name)
    else:
        noise = jnp.zeros_like(mean)
    return gaussian.sample(mean, log_variance, noise)


def normal_per_example(
    key: jax.Array, shape: tuple[int, ...], *, axis_name: str | None = None
) -> jax.Array:
    """Standard normal noise `[batch, ...]`; row i depends on the key and its place in the batch.

    With `axis_name` the place is counted over all devices, so that n devices draw together exactly
    what one device with the whole batch draws.
    """
    place = jnp.arange(shape[0])
    if axis_name is not None:
        place = place + shape[0] * jax.lax.axis_index(axis_name)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(place)
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:], jnp.float32))(keys)
