"""VQ-VAE of speech (van den Oord et al. 2017, section 4.3): codes in, the speaker's voice out.

An encoder of strided convolutions, a vector quantiser, and as decoder a WaveNet that is told the
codes' latents and the speaker. While it is trained, the WaveNet sees the true samples before each.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from models import mu_law
from models.gaussian_vae import normal_per_example
from models.likelihoods import Categorical
from models.priors.wavenet import WaveNet
from models.priors.wavenet_sampling import sample_sequences


class SpeechOutput(NamedTuple):
    """What a speech model makes of a batch.

    Attributes:
      latent: what the bottleneck gives the decoder, `[batch, samples / stride, depth]`.
      code: int32 `[batch, samples / stride, codebooks]`.
      losses: unweighted loss terms, each `[batch]`.
      metrics: figures to watch, each `[batch]`.
    """

    latent: jax.Array
    code: jax.Array
    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class Speech(nn.Module):
    """Encoder, bottleneck and WaveNet put together.

    Its batch has "audio" `[batch, samples]`, int16 or floating in [-1, 1], and "speaker", int
    `[batch]`.

    Attributes:
      encoder: `[batch, samples, 1] -> [batch, samples / stride, features]`.
      bottleneck: `(features, *, train, mask) -> BottleneckOutput`, of codes.
      wavenet: p(samples | latents, speaker) over the levels of mu-law.
      jitter: probability that a latent becomes its neighbour while training (`time_jitter`).
      axis_name: mapped axis of the training step; jitter is drawn per example of the whole batch.
      key: the entry of the batch that is modelled.
      likelihood: of a sample's level of mu-law.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    wavenet: WaveNet
    jitter: float = 0.0
    axis_name: str | None = None
    key: ClassVar[str] = "audio"
    likelihood: ClassVar[Categorical] = Categorical(levels=256)

    def setup(self) -> None:
        """A convolution over neighbouring latents, before they are repeated for the WaveNet."""
        # So does the decoder of Chorowski et al. 2019: a latent's neighbours are told with it.
        self.context = nn.Conv(self.wavenet.local_features, (3,), dtype=self.wavenet.dtype)

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> SpeechOutput:
        """Encodes and squeezes a batch, and measures the samples given what is left of it."""
        amplitude = to_amplitude(batch["audio"])
        squeezed = self.bottleneck(
            self.encode(amplitude, train=train), train=train, mask=batch.get("mask")
        )
        latent = squeezed.latent
        if self.jitter and train:
            axis = None if self.is_initializing() else self.axis_name
            noise = normal_per_example(self.make_rng("sample"), latent.shape[:2], axis_name=axis)
            uniform = jax.scipy.special.ndtr(noise)
            latent = time_jitter(latent, uniform, probability=self.jitter)
        level = mu_law.encode(amplitude, levels=self.wavenet.codes)
        nats = self.wavenet.nats(level, batch["speaker"], self.condition(latent))
        total = jnp.sum(nats, axis=1)
        return SpeechOutput(
            latent=squeezed.latent,
            code=squeezed.code,
            losses={"reconstruction": total, **squeezed.losses},
            metrics={
                "bits_per_sample": total / (level.shape[1] * math.log(2)),
                **squeezed.metrics,
            },
        )

    def losses(
        self, batch: Mapping[str, jax.Array], *, train: bool
    ) -> tuple[dict[str, jax.Array], SpeechOutput]:
        """Unweighted loss terms, each `[batch]`, and the output they came from.

        "reconstruction" is -log p(samples | latents, speaker) in nats per example, of 8-bit levels;
        the others are the bottleneck's.
        """
        output = self(batch, train=train)
        return output.losses, output

    def encode(self, audio: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[batch, samples / stride, features]` of audio `[batch, samples]`."""
        # Companded: else the encoder would hardly see the quiet speakers.
        x = mu_law.compand(to_amplitude(audio), levels=self.wavenet.codes)
        return self.encoder(x[..., None], train=train)

    def condition(self, latent: jax.Array) -> jax.Array:
        """What the WaveNet is told of each stretch, `[batch, samples / stride, local_features]`."""
        return nn.relu(self.context(latent))

    def conditioned_on(self, code: jax.Array) -> jax.Array:
        """`condition` of codes `[batch, samples / stride, codebooks]`."""
        return self.condition(self.bottleneck.look_up(code))


def to_amplitude(audio: jax.Array) -> jax.Array:
    """Amplitudes in [-1, 1], float32 of the same shape: int16 is divided by 32768, floats stay.

    Raises:
      ValueError: neither int16 nor floating.
    """
    audio = jnp.asarray(audio)
    if audio.dtype == jnp.int16:
        return audio.astype(jnp.float32) / 32768
    if jnp.issubdtype(audio.dtype, jnp.floating):
        return audio.astype(jnp.float32)
    raise ValueError(f"audio must be int16 or floating (in [-1, 1]), found {audio.dtype}")


def time_jitter(latent: jax.Array, uniform: jax.Array, *, probability: float) -> jax.Array:
    """Latents some of which are replaced by a neighbour's, so that a code alone means little.

    Chorowski, Weiss, Bengio & van den Oord 2019, "Unsupervised speech representation learning using
    WaveNet autoencoders", https://arxiv.org/abs/1901.08810, section III-D. Each is replaced
    independently, by the one before or after it alike; where there is none, it stays.

    Args:
      latent: `[batch, time, depth]`.
      uniform: `[batch, time]` in [0, 1).
      probability: that one is replaced, in [0, 1]; 0.12 in the paper's experiments.
    """
    before = jnp.concatenate([latent[:, :1], latent[:, :-1]], axis=1)
    after = jnp.concatenate([latent[:, 1:], latent[:, -1:]], axis=1)
    chosen = jnp.where((uniform < probability)[..., None], after, latent)
    return jnp.where((uniform < probability / 2)[..., None], before, chosen)


def synthesize(
    model: Speech,
    variables: Mapping[str, Any],
    key: jax.Array,
    code: jax.Array,
    speaker: jax.Array,
    *,
    temperature: float = 1.0,
) -> jax.Array:
    """Audio of codes in speakers' voices, drawn sample by sample, float32 `[batch, samples]`.

    Args:
      model: a speech model.
      variables: its variables.
      key: a key of `jax.random`.
      code: int32 `[batch, time, codebooks]`.
      speaker: int `[batch]`.
      temperature: of the draws; 1 draws from the model itself, less is less noisy.

    Raises:
      ValueError: the speakers do not fit the codes, or the temperature is not positive.
    """
    local = model.apply(variables, code, method="conditioned_on")
    level = sample_sequences(
        model.wavenet,
        {"params": variables["params"]["wavenet"]},
        key,
        (code.shape[0], code.shape[1] * 2 ** len(model.encoder.widths)),
        label=speaker,
        local=local,
        temperature=temperature,
    )
    return mu_law.decode(level, levels=model.wavenet.codes)
