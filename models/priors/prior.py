"""A likelihood of codes as what a run trains: the second stage of a discrete bottleneck."""

import math
from typing import NamedTuple, Protocol

import jax
from flax import linen as nn


class CodeLikelihood(Protocol):
    """What a prior asks of the Flax module that it trains.

    Attributes:
      codes: K, the values of a code.
      conditions: the entries of a batch that `log_prob` takes after the codes, such as "label".
    """

    codes: int
    conditions: tuple[str, ...]

    def log_prob(self, code: jax.Array, *conditions: jax.Array) -> jax.Array:
        """Log-probability of each example's codes, float32 `[batch]`, in nats per example."""
        ...


class PriorOutput(NamedTuple):
    """What a prior makes of a batch.

    Attributes:
      code: the codes it was given, `[batch, *grid, codebooks]`.
      losses: unweighted loss terms, each `[batch]`.
      metrics: figures to watch, each `[batch]`.
    """

    code: jax.Array
    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class Prior(nn.Module):
    """Trains a likelihood of codes (van den Oord et al. 2017, section 3.3).

    Its batch has "code", int32 `[batch, *grid, codebooks]`, and what `net.conditions` names.

    Attributes:
      net: the likelihood, such as a `GatedPixelCNN`.
    """

    net: nn.Module

    def __call__(self, batch: dict[str, jax.Array], *, train: bool) -> PriorOutput:
        """The codes' length under the prior; see `losses`."""
        del train
        code = batch["code"]
        nats = -self.net.log_prob(code, *(batch[name] for name in self.net.conditions))
        bits = nats / (math.prod(code.shape[1:]) * math.log(2))
        return PriorOutput(code, losses={"nats": nats}, metrics={"bits_per_code": bits})

    def losses(
        self, batch: dict[str, jax.Array], *, train: bool
    ) -> tuple[dict[str, jax.Array], PriorOutput]:
        """The one loss term, `[batch]`, and the output it came from.

        "nats" is -log p(code) in nats per example; the metric "bits_per_code" is the same in bits
        per token of a codebook.
        """
        output = self(batch, train=train)
        return output.losses, output
