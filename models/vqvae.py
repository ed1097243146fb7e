"""VQ-VAE (van den Oord, Vinyals, Kavukcuoglu 2017): the nearest codeword as a bottleneck."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from bottlenecks import quantization as vq
from models.autoencoder import BottleneckOutput

UPDATES = ("ema", "loss")
STARTS = ("uniform", "data", "kmeans")


class VectorQuantizer(nn.Module):
    """One or several codebooks, each quantising its own slice of the projected features.

    Losses, both `[batch]`, in squared units: summed over the depth D and averaged over the N
    latents of an example (Eq. 3 and the sentence after it).
    `commitment` = ||z_e - sg[e]||^2, and with `codebook_update="loss"` `codebook` =
    ||sg[z_e] - e||^2. Multiply by 1/D to compare with code that averages over D as well.

    Attributes:
      codes: K, the number of codewords in each codebook.
      depth: D, the length of a codeword.
      codebooks: codes per position; position p's features are cut into this many slices.
      codebook_update: "loss": codewords are parameters moved by the codebook term of Eq. 3;
        "ema": exponential moving averages (appendix A.1), in the collection "codebook".
      decay: gamma of Eq. 6 to 8.
      epsilon: Laplace smoothing of the counts, an addition to the paper; 0 is the paper.
      debias: start the averages at zero and divide by 1 - gamma^t, as the authors' released code
        does; codes not met in the first batch fall to the origin.
      start: "uniform": U(+-sqrt(3 / D)); "data": rows of the first batch; "kmeans": k-means of it.
      revive_below: codes whose average count falls below this become random features of the
        batch (0: never). Needs "ema".
      axis_name: mapped axis over which training statistics are summed.
      dtype: of the projection's arithmetic; distances and statistics are float32 always.
    """

    codes: int
    depth: int
    codebooks: int = 1
    codebook_update: str = "ema"
    decay: float = 0.99
    epsilon: float = 1e-5
    debias: bool = False
    start: str = "kmeans"
    revive_below: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses settings that cannot be."""
        for name in ("codes", "depth", "codebooks"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"bottleneck.{name} is {getattr(self, name)}; it must be at least 1"
                )
        if self.codebook_update not in UPDATES:
            raise ValueError(
                f"bottleneck.codebook_update is {self.codebook_update!r}; "
                f"known: {', '.join(UPDATES)}"
            )
        if self.start not in STARTS:
            raise ValueError(f"bottleneck.start is {self.start!r}; known: {', '.join(STARTS)}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"bottleneck.decay is {self.decay}; it must be in [0, 1)")
        if self.revive_below and self.codebook_update != "ema":
            raise ValueError(
                "bottleneck.revive_below works on EMA counts: set codebook_update='ema', or 0"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> BottleneckOutput:
        """Quantises `[batch, ..., features]`; the latent is `[batch, ..., codebooks * depth]`.

        `code` is int32 `[batch, ..., codebooks]`. `mask` `[batch]`, 1 for real examples.
        """
        projected = nn.Dense(self.codebooks * self.depth, dtype=self.dtype, name="project")(
            features
        )
        # [codebooks, batch, ..., depth]: each codebook has its own slice of the features.
        z_e = jnp.moveaxis(
            projected.reshape(*projected.shape[:-1], self.codebooks, self.depth), -2, 0
        )
        token_mask = None
        if mask is not None:
            token_mask = jnp.broadcast_to(
                mask.reshape(-1, *[1] * (z_e.ndim - 3)), z_e.shape[1:-1]
            ).astype(jnp.float32)
        codebook, state = self._codebook(z_e, token_mask)
        quantized = jax.vmap(vq.quantize)(z_e, codebook)
        metrics = {}
        if train and not self.is_initializing():
            metrics = self._learn(state, z_e, quantized.index, token_mask)

        commitment = _mean_over_latents(quantized.commitment_loss)
        losses = {"commitment": commitment}
        if self.codebook_update == "loss":
            losses["codebook"] = _mean_over_latents(quantized.codebook_loss)
        latent = jnp.moveaxis(quantized.latent, 0, -2).reshape(projected.shape)
        return BottleneckOutput(
            latent=latent,
            code=jnp.moveaxis(quantized.index, 0, -1),
            losses=losses,
            metrics={name: jnp.full(commitment.shape, v) for name, v in metrics.items()},
        )

    def look_up(self, code: jax.Array) -> jax.Array:
        """Latent `[..., codebooks * depth]` of codes `[..., codebooks]`, int32."""
        codebook = self.codebook()
        parts = [codebook[i][code[..., i]] for i in range(self.codebooks)]
        return jnp.concatenate(parts, axis=-1)

    def codebook(self) -> jax.Array:
        """The codewords, `[codebooks, codes, depth]`, float32."""
        if self.codebook_update == "loss":
            return self.get_variable("params", "codebook")
        return self.get_variable("codebook", "state").codebook

    def _codebook(
        self, z_e: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, nn.Variable | None]:
        """Codewords to quantise with, and the EMA state they live in."""
        if self.codebook_update == "loss":
            return self.param("codebook", lambda key: self._start(key, z_e, mask).codebook), None
        state = self.variable("codebook", "state", lambda: self._start_state(z_e, mask))
        return state.value.codebook, state

    def _start(self, key: jax.Array, z_e: jax.Array, mask: jax.Array | None) -> vq.KMeans:
        """First codewords, and how many features of the first batch each stands for."""
        # `init` sees the whole first batch on one device, so the start is the same on any number.
        rows = jax.lax.stop_gradient(z_e)
        keys = jax.random.split(key, self.codebooks)
        if self.start == "kmeans":
            return jax.vmap(lambda k, x: vq.kmeans(k, x, self.codes, mask=mask))(keys, rows)
        if self.start == "data":
            codebook = jax.vmap(lambda k, x: vq.sample_rows(k, x, self.codes, mask=mask))(
                keys, rows
            )
        else:
            limit = math.sqrt(3 / self.depth)
            shape = (self.codebooks, self.codes, self.depth)
            codebook = jax.random.uniform(key, shape, minval=-limit, maxval=limit)
        return vq.KMeans(codebook.astype(jnp.float32), jnp.ones(codebook.shape[:-1]))

    def _start_state(self, z_e: jax.Array, mask: jax.Array | None) -> vq.CodebookState:
        start = self._start(self.make_rng("params"), z_e, mask)
        # A cluster that k-means left empty still counts as one, or its code would be 0 / 0.
        counts = jnp.maximum(start.counts, 1.0)
        return jax.vmap(lambda e, n: vq.start_codebook(e, count=n, debias=self.debias))(
            start.codebook, counts
        )

    def _learn(
        self,
        state: nn.Variable | None,
        z_e: jax.Array,
        index: jax.Array,
        mask: jax.Array | None,
    ) -> dict[str, jax.Array]:
        """Updates the averages from the batch of all devices; returns figures of the batch."""
        z_e = jax.lax.stop_gradient(z_e)
        counts = jax.vmap(
            lambda i: vq.code_counts(i, self.codes, axis_name=self.axis_name, mask=mask)
        )(index)
        metrics = {"perplexity": jnp.mean(jax.vmap(vq.perplexity)(counts))}
        if state is None or not self.is_mutable_collection("codebook"):
            return metrics
        # Quantised with the old codewords, and only then moved them.
        new = jax.vmap(
            lambda s, x, i: vq.update_codebook(
                s,
                x,
                i,
                decay=self.decay,
                epsilon=self.epsilon,
                debias=self.debias,
                axis_name=self.axis_name,
                mask=mask,
            )
        )(state.value, z_e, index)
        if self.revive_below:
            # "shared" is the same key on every device, so that all revive the same codes alike.
            keys = jax.random.split(self.make_rng("shared"), self.codebooks)
            new, revived = jax.vmap(
                lambda k, s, x: vq.revive_dead_codes(
                    k, s, x, threshold=self.revive_below, axis_name=self.axis_name, mask=mask
                )
            )(keys, new, z_e)
            metrics["revived"] = jnp.sum(revived).astype(jnp.float32)
        state.value = new
        return metrics


def _mean_over_latents(loss: jax.Array) -> jax.Array:
    """`[codebooks, batch, ...]` to `[batch]`."""
    return jnp.mean(loss, axis=(0, *range(2, loss.ndim)))
