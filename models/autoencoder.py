"""Every system of this library is one `Autoencoder`: encoder, bottleneck, decoder, likelihood.

The parts meet in one contract, so that a bottleneck can be exchanged for another and nothing else
changes. Encoders and decoders see single frames; axes between the batch and the frame (time) are
folded away for them and given back to the bottleneck, which may couple the frames of a sequence.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.likelihoods import Likelihood, to_unit
from models.perceptual import PerceptualTerm


class BottleneckOutput(NamedTuple):
    """What a bottleneck module returns.

    Attributes:
      latent: what the decoder reads, `[batch, (time,) ..., depth]`.
      code: the representation to keep: indices, posterior mean, sparse code, capsules.
      losses: unweighted loss terms, each `[batch]`; nats or squared units, as the module says.
      metrics: figures to watch, each `[batch]`.
    """

    latent: jax.Array
    code: jax.Array
    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class AutoencoderOutput(NamedTuple):
    """What an autoencoder makes of a batch.

    Attributes:
      output: parameters of the likelihood, as the decoder gave them.
      reconstruction: mean of the likelihood, in [0, 1], shaped as the image.
      latent: what the decoder read.
      code: the representation to keep.
      losses: unweighted loss terms, each `[batch]`.
      metrics: figures to watch, each `[batch]`.
    """

    output: jax.Array
    reconstruction: jax.Array
    latent: jax.Array
    code: jax.Array
    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class Autoencoder(nn.Module):
    """Encoder, bottleneck, decoder and likelihood put together.

    Attributes:
      encoder: `[frames, height, width, channels] -> features`.
      bottleneck: `(features, *, train, mask) -> BottleneckOutput`.
      decoder: `latent -> [frames, height, width, likelihood.output_channels(channels)]`.
      likelihood: p(x | latent).
      data_variance: variance of the data's values in [0, 1]; the unit of the normalised
        reconstruction error `nmse`.
      frame_rank: number of axes of one frame: 3 for an image, 2 for sound.
      key: the entry of the batch that is modelled.
      perceptual: a loss term beside the reconstruction's: how different the two images look, each
        frame's, averaged over the frames of an example.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    decoder: nn.Module
    likelihood: Likelihood
    data_variance: float = 1.0
    frame_rank: int = 3
    key: str = "image"
    perceptual: PerceptualTerm | None = None

    def _over_frames(self, function: nn.Module, x: jax.Array, rank: int, train: bool) -> jax.Array:
        """Applies `function` to frames of `rank` axes, whatever axes lead them."""
        lead = x.shape[: x.ndim - rank]
        y = function(x.reshape(math.prod(lead), *x.shape[x.ndim - rank :]), train=train)
        return y.reshape(*lead, *y.shape[1:])

    def encode(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Features of images `[batch, (time,) height, width, channels]`, uint8 or in [0, 1]."""
        return self._over_frames(self.encoder, to_unit(image) - 0.5, self.frame_rank, train)

    def decode(self, latent: jax.Array, *, train: bool = False, lead: int = 1) -> jax.Array:
        """Likelihood parameters for a latent whose first `lead` axes are batch (and time)."""
        return self._over_frames(self.decoder, latent, latent.ndim - lead, train)

    def reconstruct(self, image: jax.Array) -> jax.Array:
        """Mean of p(x | latent of the image), in [0, 1], shaped as the image."""
        return self({self.key: image}, train=False).reconstruction

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool) -> AutoencoderOutput:
        """Encodes, squeezes and decodes a batch; see `AutoencoderOutput`."""
        image = batch[self.key]
        lead = image.ndim - self.frame_rank
        squeezed = self.bottleneck(
            self.encode(image, train=train), train=train, mask=batch.get("mask")
        )
        output = self.decode(squeezed.latent, train=train, lead=lead)
        mean = self.likelihood.mean(output)
        nats = _per_example(self.likelihood.nats(output, image), jnp.sum)
        mse = _per_example(jnp.square(mean - to_unit(image)), jnp.mean)
        losses = {"reconstruction": nats, **squeezed.losses}
        if self.perceptual is not None:
            frames = (2 * x.reshape(-1, *x.shape[lead:]) - 1 for x in (to_unit(image), mean))
            looks = self.perceptual.distance(*frames).reshape(image.shape[:lead])
            losses[self.perceptual.name] = _per_example(looks, jnp.mean)
        return AutoencoderOutput(
            output=output,
            reconstruction=mean,
            latent=squeezed.latent,
            code=squeezed.code,
            losses=losses,
            metrics={"mse": mse, "nmse": mse / self.data_variance, **squeezed.metrics},
        )

    def losses(
        self, batch: dict[str, jax.Array], *, train: bool
    ) -> tuple[dict[str, jax.Array], AutoencoderOutput]:
        """Unweighted loss terms, each `[batch]`, and the output they came from.

        "reconstruction" is -log p(x | latent) in nats per example; the others are the bottleneck's,
        and the perceptual one if there is any.
        """
        output = self(batch, train=train)
        return output.losses, output


def _per_example(x: jax.Array, reduce: Any) -> jax.Array:
    return reduce(x, axis=tuple(range(1, x.ndim)))
