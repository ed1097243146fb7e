"""PartitionVAE: a Gaussian latent in disjoint partitions, each with small nets of its own.

Source: "PartitionVAE -- a human-interpretable VAE", https://arxiv.org/abs/2302.03689, sections 3
and 4 of its write-up, and its released code (meeeeee/PartitionVAE).
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bottlenecks.partition import split_partitions
from models.autoencoder import BottleneckOutput
from models.backbones.block_dense import BLOCK_ACTIVATIONS, BlockMLP
from models.gaussian_vae import draw

MODES = ("described", "legacy")
HEADS = ("partitioned", "dense", "permuted")


class PartitionedGaussian(nn.Module):
    """Diagonal Gaussian posterior whose units are in partitions, standard normal prior.

    h = B flat(features) + b, and for each partition k its mean and log variance are small nets of
    its slice alone, mu_k = M_k(h_k) and logvar_k = V_k(h_k). `code` is the posterior mean and the
    latent a draw, as in `GaussianBottleneck`, both `[batch, sum d_k]`. With `grid`, an addition to
    the write-up, this is done at every position by itself, B and heads shared by all of them, and
    both are `[batch, ..., sum d_k]`: so it fits encoders and decoders of grids.

    Loss `kl`, `[batch]`: KL(q(z|x) || N(0, I)) in nats per example, summed over all units. Metrics
    `kl_partition_0` and so on, `[batch]` nats: what each partition has of it.

    The modes:

    - "described": independent nets for mean and log variance, d_k -> hidden -> d_k, trained.
    - "legacy": as released. Mean and log variance are the same net, d_k -> hidden -> d_k -> d_k and
      linear, which is in no optimiser's list and stays at its random start.

    With linear heads B makes up for any restriction of the mean: partitions say nothing about it,
    and no more than which mean's units each log variance is a function of.

    Heads other than "partitioned" are what these are compared with, at equal numbers of parameters:

    - "dense": one net over all units, its widths cut so that the number of its parameters is as
      near as can be (`dense_widths`). For partitions 4, 3, 3 and a hidden width of 10 it is 241
      against 240, for each of mean and log variance.
    - "permuted": partitioned nets whose units are drawn from all partitions by a fixed permutation,
      and put back afterwards: the partitions that are named are not those that were computed.

    Attributes:
      partitions: sizes d_1 .. d_K.
      hidden: widths between h_k and its outputs, the same for all partitions, (10,), or given for
        each, ((5,), (10,)).
      head_activation: between the layers of a head: "linear" as described and released, "relu",
        "tanh".
      mode: see above.
      heads: see above.
      grid: see above.
      axis_name: mapped axis; noise is drawn per example of the whole batch, whatever the number of
        devices that share it.
      dtype: of B's arithmetic; everything after it is float32.
    """

    partitions: tuple[int, ...]
    hidden: tuple[int, ...] | tuple[tuple[int, ...], ...] = (10,)
    head_activation: str = "linear"
    mode: str = "described"
    heads: str = "partitioned"
    grid: bool = False
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses settings that cannot be."""
        for name, known in (
            ("mode", MODES),
            ("heads", HEADS),
            ("head_activation", tuple(BLOCK_ACTIVATIONS)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"bottleneck.{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        # A config may hold lists.
        self.partitions = _sizes("partitions", self.partitions)
        self.hidden = _hidden(self.hidden, len(self.partitions))
        if self.mode == "legacy" and (self.heads, self.head_activation) != (HEADS[0], "linear"):
            raise ValueError(
                "bottleneck.mode 'legacy' is the release, whose heads are partitioned and linear; "
                f"found heads={self.heads!r} and head_activation={self.head_activation!r}"
            )
        if self.heads == "dense" and not self.hidden[0]:
            raise ValueError(
                "bottleneck.hidden is empty: without a width to choose, heads='dense' cannot have "
                "as many parameters as partitioned ones; give a width such as (10,)"
            )
        if self.heads == "permuted" and len(self.partitions) < 2:
            raise ValueError("bottleneck.heads is 'permuted', which needs two partitions or more")
        super().__post_init__()

    @nn.compact
    def posterior(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of q(z|x), each float32 `[batch, (...,) sum d_k]`."""
        units = sum(self.partitions)
        x = features if self.grid else features.reshape(features.shape[0], -1)
        h = nn.Dense(units, dtype=self.dtype, name="mix")(x).astype(jnp.float32)
        if self.mode == "legacy":
            layers = (*self._layers(), self.partitions)
            both = BlockMLP(layers, frozen=True, name="heads")(h)
            return both, both
        # Where the unit that a partition computes with stands in the latent.
        place = _permutation(units) if self.heads == "permuted" else np.arange(units)
        mean, log_variance = (
            BlockMLP(self._layers(), self.head_activation, name=name)(h[..., place])
            for name in ("mean", "log_variance")
        )
        back = np.argsort(place)
        return mean[..., back], log_variance[..., back]

    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> BottleneckOutput:
        """One draw per example; `[batch, ..., features] -> [batch, (...,) sum d_k]`."""
        del mask
        mean, log_variance = self.posterior(features)
        drawn = draw(self, mean, log_variance, train=train)
        parts = split_partitions(drawn.kl, self.partitions)
        axes = tuple(range(1, mean.ndim))
        metrics = {f"kl_partition_{k}": jnp.sum(part, axis=axes) for k, part in enumerate(parts)}
        return BottleneckOutput(
            latent=drawn.latent,
            code=mean,
            losses={"kl": jnp.sum(drawn.kl, axis=axes)},
            metrics=metrics,
        )

    def draw_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Codes of this shape, `[n, ..., units]`, from the prior N(0, I)."""
        return jax.random.normal(key, shape)

    def look_up(self, code: jax.Array) -> jax.Array:
        """The latent of a code, which is the code itself: a posterior mean."""
        return code

    def _layers(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the heads at their input and after each layer: d_k -> hidden -> d_k."""
        if self.heads == "dense":
            units = (sum(self.partitions),)
            widths = dense_widths(self.partitions, self.hidden)
            return (units, *((width,) for width in widths), units)
        return (self.partitions, *zip(*self.hidden, strict=True), self.partitions)


def dense_widths(
    partitions: tuple[int, ...], hidden: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """Widths of one dense net with about as many parameters as the partitions' nets together.

    Args:
      partitions: sizes d_1 .. d_K.
      hidden: the widths of each partition's net, K tuples of one length.

    Returns:
      Widths in proportion to the sums of the partitions' widths, and of those the ones whose net's
      number of parameters is nearest.
    """
    wanted = sum(_parameters((d, *h, d)) for d, h in zip(partitions, hidden, strict=True))
    units, together = sum(partitions), [sum(widths) for widths in zip(*hidden, strict=True)]
    candidates = (
        tuple(max(1, round(total * n / together[0])) for total in together)
        for n in range(1, together[0] + 1)
    )
    return min(candidates, key=lambda w: abs(_parameters((units, *w, units)) - wanted))


def _parameters(sizes: Sequence[int]) -> int:
    """Weights and biases of dense layers of these sizes."""
    return sum(before * after + after for before, after in itertools.pairwise(sizes))


def _permutation(units: int) -> np.ndarray:
    """A random order of the units, the same every time."""
    return np.random.default_rng(0).permutation(units)


def _sizes(name: str, sizes: Sequence[int], least: int = 1) -> tuple[int, ...]:
    whole = isinstance(sizes, Sequence) and all(type(size) is int and size > 0 for size in sizes)
    if not whole or len(sizes) < least:
        raise ValueError(
            f"bottleneck.{name} are {least} or more positive whole numbers, e.g. (4, 3, 3); found "
            f"{sizes!r}"
        )
    return tuple(sizes)


def _hidden(hidden: Sequence, K: int) -> tuple[tuple[int, ...], ...]:
    """The widths of each of the K heads, whether given once for all or for each."""
    for_each = isinstance(hidden, Sequence) and any(isinstance(w, Sequence) for w in hidden)
    widths = tuple(_sizes("hidden", w, 0) for w in (hidden if for_each else (hidden,) * K))
    if len(widths) != K or len({len(w) for w in widths}) != 1:
        raise ValueError(
            f"bottleneck.hidden gives widths for each partition, {K} lists of one length; found "
            f"{hidden!r}"
        )
    return widths
