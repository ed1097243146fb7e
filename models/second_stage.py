"""A VQ-VAE of another's codes: a whole grid of them in a few latents, and a PixelCNN to draw it.

van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning",
https://arxiv.org/abs/1711.00937, section 4.2: of the 21x21x1 codes of DM-Lab's frames, a second
VQ-VAE keeps three latents, "each with K=512 and their own embedding space e", and its decoder is a
PixelCNN. So strong a decoder could do without latents; it would gain nothing by that, for the KL
term of a nearest codeword is a constant (section 3.1): 27 bits, used or not.

How the PixelCNN is told the latents the paper does not say. Here it is given them as van den Oord
et al. 2016, https://arxiv.org/abs/1606.05328, give it a vector h (section 2.3, Eq. 4).

The encoder's features are normalised over the batch (Ioffe & Szegedy 2015), which is ours: without
it a PixelCNN of Breakout's frames learned to do without its latents. Our reading: frames differ in
few codes, and so at first hardly in their latents.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bottlenecks import quantization as vq
from models.backbones.convnet import Up
from models.likelihoods import Categorical
from models.priors.pixelcnn import GatedPixelCNN, rows_of
from models.priors.pixelcnn_sampling import sample


class SecondStageOutput(NamedTuple):
    """What a second stage makes of a batch.

    Attributes:
      latent: the codewords, one after another, `[batch, latents * depth]`.
      code: which they are, int32 `[batch, latents]`.
      losses: unweighted loss terms, each `[batch]`.
      metrics: figures to watch, each `[batch]`.
    """

    latent: jax.Array
    code: jax.Array
    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class SecondStage(nn.Module):
    """Encoder of codes, bottleneck and PixelCNN put together.

    Its batch has "code", int32 `[batch, height, width, codebooks]`, of the first stage. A code
    outside its range makes NaN, as in the PixelCNN.

    Attributes:
      encoder: `[batch, height, width, embedding] -> [batch, ..., features]`.
      bottleneck: `(features, *, train, mask) -> BottleneckOutput`, of codes: a latent for each of
        its codebooks, from all the features of an example.
      pixelcnn: p(codes | latents); it is `located`.
      grid: (height, width) of the codes.
      embedding: features that a code becomes for the encoder.
      map_features: 0: the PixelCNN is given h, the codewords, at every position alike (Eq. 4). More
        than 0: it is given as many features of each position, s = m(h), "a deconvolutional neural
        network" m of ours. Where things are is in h too, and a PixelCNN with few layers does not
        see the edges from which it could tell where it is.
      axis_name: mapped axis of the training step; use of the codebooks is counted over it, and
        features are normalised.
      key: the entry of the batch that is modelled.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    pixelcnn: GatedPixelCNN
    grid: tuple[int, int]
    embedding: int = 64
    map_features: int = 0
    axis_name: str | None = None
    key: ClassVar[str] = "code"

    @property
    def likelihood(self) -> Categorical:
        """Of a code of the first stage: one of its K values."""
        return Categorical(levels=self.pixelcnn.codes)

    def setup(self) -> None:
        """Embeddings of the codes, what normalises features, and the network m."""
        codes, codebooks = self.pixelcnn.codes, self.pixelcnn.codebooks
        shape = (codebooks, codes, self.embedding)
        self.code_embedding = self.param("code_embedding", nn.initializers.normal(1), shape)
        dtype = self.pixelcnn.dtype
        self.normalize = nn.BatchNorm(
            momentum=0.98, use_bias=False, use_scale=False, axis_name=self.axis_name, dtype=dtype
        )
        if self.map_features:
            rows, columns = self._start()
            self.map_start = nn.Dense(rows * columns * self.map_features, dtype=dtype)
            self.map_up = [Up(self.map_features, dtype=dtype, name=f"map_up_{i}") for i in range(2)]

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> SecondStageOutput:
        """Encodes and squeezes a batch, and measures the codes given what is left of them."""
        code, mask = batch[self.key], batch.get("mask")
        squeezed = self.bottleneck(self.encode(code, train=train), train=train, mask=mask)
        features = self.condition(squeezed.latent)
        nats = -self.pixelcnn.log_prob(code, None, features)
        metrics = {"bits_per_code": nats / (math.prod(code.shape[1:]) * math.log(2))}
        if train and not self.is_initializing():
            for j in range(squeezed.code.shape[-1]):
                counts = vq.code_counts(
                    squeezed.code[:, j], self.bottleneck.codes, axis_name=self.axis_name, mask=mask
                )
                metrics[f"perplexity_{j}"] = jnp.full(nats.shape, vq.perplexity(counts))
        return SecondStageOutput(
            latent=squeezed.latent,
            code=squeezed.code,
            losses={"reconstruction": nats, **squeezed.losses},
            metrics={**metrics, **squeezed.metrics},
        )

    def losses(
        self, batch: Mapping[str, jax.Array], *, train: bool
    ) -> tuple[dict[str, jax.Array], SecondStageOutput]:
        """Unweighted loss terms, each `[batch]`, and the output they came from.

        "reconstruction" is -log p(codes | latents) in nats per example; the others are the
        bottleneck's. The metrics: "bits_per_code", the first in bits per code of the grid; while
        training, "perplexity_0" and so on, of each codebook in the batch, and "perplexity", their
        mean.
        """
        output = self(batch, train=train)
        return output.losses, output

    def encode(self, code: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[batch, any]` of codes `[batch, height, width, codebooks]`.

        Normalised: with `train` by this batch's statistics, else by running ones.
        """
        if code.shape[1:] != (*self.grid, self.pixelcnn.codebooks):
            raise ValueError(
                f"codes have the shape {code.shape}; expected [batch, {self.grid[0]}, "
                f"{self.grid[1]}, {self.pixelcnn.codebooks}]"
            )
        table = self.code_embedding
        embedded = sum(rows_of(table[j], code[..., j]) for j in range(len(table)))
        features = self.encoder(embedded, train=train).reshape(code.shape[0], -1)
        return self.normalize(features, use_running_average=not train)

    def condition(self, latent: jax.Array) -> jax.Array:
        """What the PixelCNN is told: h, `[batch, 1, 1, latents * depth]`, or s of each position."""
        if not self.map_features:
            return latent[:, None, None]
        s = nn.relu(self.map_start(latent)).reshape(-1, *self._start(), self.map_features)
        for up in self.map_up:
            s = up(s)
        return s[:, : self.grid[0], : self.grid[1]]

    def conditioned_on(self, code: jax.Array) -> jax.Array:
        """`condition` of codes `[batch, latents]`."""
        return self.condition(self.bottleneck.look_up(code))

    def log_prob(self, code: jax.Array, latent_code: jax.Array) -> jax.Array:
        """Log-probability of each grid, float32 `[batch]`, in nats per example, given latents.

        Args:
          code: of the first stage, int `[batch, height, width, codebooks]`.
          latent_code: int `[batch, latents]`, of these or of any other grids.
        """
        return self.pixelcnn.log_prob(code, None, self.conditioned_on(latent_code))

    def _start(self) -> tuple[int, int]:
        """Height and width that m starts from: doubled twice, they cover the grid."""
        return -(-self.grid[0] // 4), -(-self.grid[1] // 4)


def draw_codes(
    model: SecondStage,
    variables: Mapping[str, Any],
    key: jax.Array,
    latent_code: jax.Array,
    *,
    temperature: float = 1.0,
) -> jax.Array:
    """Codes of the first stage drawn given latents, int32 `[batch, height, width, codebooks]`.

    Args:
      model: a second stage.
      variables: its variables.
      key: a key of `jax.random`; see `pixelcnn_sampling.sample` for what is drawn by which.
      latent_code: int `[batch, latents]`.
      temperature: the logits are divided by it; above 0. 1 draws from the model itself.

    Raises:
      ValueError: the temperature is not positive.
    """
    features = model.apply(variables, latent_code, method="conditioned_on")
    return sample(
        model.pixelcnn,
        {"params": variables["params"]["pixelcnn"]},
        key,
        (latent_code.shape[0], *model.grid, model.pixelcnn.codebooks),
        features=features,
        temperature=temperature,
    )
