"""FSQ-VAE (Mentzer et al. 2023): numbers rounded one by one, a codebook that is not learned."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from bottlenecks.clusters import code_counts, perplexity
from bottlenecks.scalar_quantization import finite_scalar_quantize, fsq_latent
from models.autoencoder import BottleneckOutput


class FiniteScalarQuantizer(nn.Module):
    """Every position's features, projected to d numbers, each rounded to one of its L levels.

    There are no losses and no state: the codebook is the grid of all levels (section 3.1). Metric
    `perplexity`, `[batch]`, in training: exp of the entropy of the batch's codes, alike for all.

    Attributes:
      levels: L of each of the d numbers; section 4.1 advises 5 or more.
      axis_name: mapped axis over which the metric is summed.
      dtype: of the projection's arithmetic; the rounding is float32 always.
    """

    levels: tuple[int, ...]
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses settings that cannot be."""
        levels = self.levels
        whole = isinstance(levels, list | tuple) and all(type(level) is int for level in levels)
        if not whole or not levels or not all(2 <= level <= 1000 for level in levels):
            raise ValueError(
                f"bottleneck.levels is {levels!r}; it must be whole numbers of 2 to 1000, e.g. "
                "(8, 6, 5)"
            )
        if math.prod(levels) >= 2**31:
            raise ValueError(
                f"bottleneck.levels is {levels!r}, {math.prod(levels)} codes; they must be fewer "
                "than 2^31"
            )
        self.levels = tuple(levels)  # a config may hold a list
        super().__post_init__()

    @property
    def codes(self) -> int:
        """K, the number of codes."""
        return math.prod(self.levels)

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> BottleneckOutput:
        """Quantises `[batch, ..., features]`; the latent is float32 `[batch, ..., d]`.

        `code` is int32 `[batch, ..., 1]`. `mask` `[batch]`, 1 for real examples.
        """
        z = nn.Dense(len(self.levels), dtype=self.dtype, name="project")(features)
        quantized = finite_scalar_quantize(z.astype(jnp.float32), levels=self.levels)
        metrics = {}
        if train and not self.is_initializing():
            metrics["perplexity"] = self._perplexity(quantized.index, mask)
        return BottleneckOutput(quantized.latent, quantized.index[..., None], {}, metrics)

    def look_up(self, code: jax.Array) -> jax.Array:
        """Latent `[..., d]` of codes `[..., 1]`, int32."""
        return fsq_latent(code[..., 0], levels=self.levels)

    def _perplexity(self, index: jax.Array, mask: jax.Array | None) -> jax.Array:
        if mask is not None:
            mask = jnp.broadcast_to(mask.reshape(-1, *[1] * (index.ndim - 1)), index.shape)
        counts = code_counts(index, self.codes, axis_name=self.axis_name, mask=mask)
        return jnp.full(index.shape[:1], perplexity(counts))
