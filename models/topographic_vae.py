"""Topographic VAE (Keller and Welling 2021): capsules of Student-t variables that roll over time.

Source: "Topographic VAEs learn Equivariant Capsules", NeurIPS, https://arxiv.org/abs/2109.01394, as
released (akandykeller/TopographicVAE); the predictive variant is "Predictive Coding with
Topographic Variational Autoencoders", ICCV workshops 2021 (akandykeller/PCTVAE).
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bottlenecks import gaussian
from bottlenecks.topographic import (
    roll_capsules,
    shifting_energy,
    stationary_energy,
    student_t,
    torus_energy,
)
from models.autoencoder import BottleneckOutput
from models.gaussian_vae import normal_per_example

# Each kernel of W, and the options that it needs.
KERNELS = {
    "none": (),
    "stationary": ("window", "width"),
    "shifting": ("window",),
    "torus": ("width",),
}


class Posterior(NamedTuple):
    """A diagonal Gaussian q(. | x).

    Attributes:
      mean: float32 `[batch, (time,) capsules, places]`.
      log_variance: float32, like mean.
    """

    mean: jax.Array
    log_variance: jax.Array


class Posteriors(NamedTuple):
    """Of the two kinds of latent variables; `u` is None in a VAE, which has z alone."""

    z: Posterior
    u: Posterior | None


class TopographicCapsules(nn.Module):
    """Capsules t = (z + mu) / sqrt(W u^2 + epsilon) of Gaussians z and u with standard priors.

    Losses `kl_z` and `kl_u`, `[batch]`: KL(q(z|x) || N(0, I)) and the same of u, in nats per
    example, summed over units and frames. Metric `mu`, `[batch]`: the learned mean, alike for all.
    The decoder sees t alone. Training and evaluation decode a draw, from the random stream
    "sample"; applied without that stream and with `train=False`, the latent is that of the code.

    `code` is the t of the mean of z and the mean energy W E[u^2] = W (mean^2 + variance). The
    energy of u's mean would vanish wherever q(u|x) is the prior, and t would explode there.

    With `project`, an addition to the paper, means and log variances come from a linear layer at
    every position of a grid of features, and each position has a torus of its own: single images,
    and any encoder and decoder of grids. Nothing is carried from one position to another, and there
    is no time.

    The kernels of W:

    - "none": t = z, without u and mu. A VAE.
    - "stationary": `window` frames x `width` places, all ones: energy stays where it is. This is
      BubbleVAE, and with a window of 1 the TVAE with L = 0.
    - "shifting": `window` frames x `window` places, ones up to `spread` beside the diagonal: energy
      moves on by one place a frame. TVAE; L is window / (2 S) for S frames, K 2 spread + 1.
    - "torus": `width` x `width` units, all ones, on one torus of capsules x places units, for
      single images. TVAE-2D.

    With `predictive`, the energy of a frame comes from itself and earlier frames, and frame l + 1
    is decoded from frame l's capsules, rolled on by one place: from frames up to l alone. The first
    frame, which nothing precedes, is decoded from its own capsules. All frames are scored, and the
    loss is a bound of the whole sequence's likelihood. The release goes round instead: it decodes
    the first frame from the last one, and first frames see last ones in W.

    Attributes:
      capsules: C, of a frame.
      places: D, of a capsule.
      kernel: see above.
      window: frames of the kernel.
      width: places of the kernel.
      spread: half the width of the band.
      mu: where the mean starts.
      epsilon: added to the energy.
      predictive: see above; for the kernel "shifting".
      project: see above; for the kernels "torus" and "none".
      axis_name: mapped axis; noise is drawn per example of the whole batch, whatever the number of
        devices that share it.
      dtype: of the projection's arithmetic; all else is float32.
    """

    unit_axes: ClassVar[int] = 2  # capsules and places

    capsules: int
    places: int
    kernel: str
    window: int = 0
    width: int = 0
    spread: int = 0
    mu: float = 30.0
    epsilon: float = 1e-6
    predictive: bool = False
    project: bool = False
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses settings that cannot be."""
        if self.kernel not in KERNELS:
            raise ValueError(f"bottleneck.kernel is {self.kernel!r}; known: {', '.join(KERNELS)}")
        for name in ("capsules", "places", *KERNELS[self.kernel]):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"bottleneck.{name} is {getattr(self, name)}; kernel {self.kernel!r} needs 1 "
                    "or more"
                )
        if not self.epsilon > 0:
            raise ValueError(f"bottleneck.epsilon is {self.epsilon}; it must be above 0")
        if self.predictive and self.kernel != "shifting":
            raise ValueError(
                f"bottleneck.predictive is True with kernel {self.kernel!r}; only 'shifting' has "
                "an order of frames"
            )
        if self.project and self.kernel not in ("torus", "none"):
            raise ValueError(
                f"bottleneck.project is True with kernel {self.kernel!r}; grids of single images "
                "have 'torus' or 'none'"
            )
        super().__post_init__()

    def setup(self) -> None:
        """The one parameter, and the projection."""
        if self.project:
            self.projection = nn.Dense(2 * self._encoders() * self._units(), dtype=self.dtype)
        if self.kernel != "none":
            self.mean = self.param("mu", nn.initializers.constant(self.mu), (), jnp.float32)

    def posteriors(self, features: jax.Array) -> Posteriors:
        """The posteriors of z and u.

        Args:
          features: `[batch, (time,) encoders, 2, capsules * places]`, as the backbone
            "capsule_mlp" gives them: means and log variances; to be projected, `[batch, ...,
            features]`.

        Raises:
          ValueError: the features or their frames do not fit the capsules.
        """
        encoders, units = self._encoders(), self._units()
        if self.project:
            both = self.projection(features)
            return self._split(both.reshape(*both.shape[:-1], encoders, 2, units))
        if features.ndim < 4 or features.shape[-3:] != (encoders, 2, units):
            raise ValueError(
                f"the encoder gives {features.shape}, and {self.capsules} capsules of "
                f"{self.places} places with kernel {self.kernel!r} need [batch, (time,) "
                f"{encoders}, 2, {units}]: use the backbone 'capsule_mlp' with units={units}, "
                f"encoders={encoders}"
            )
        if self.kernel != "none" and (features.ndim == 4) != (self.kernel == "torus"):
            kind = "single images" if self.kernel == "torus" else "sequences of frames"
            raise ValueError(
                f"kernel {self.kernel!r} is for {kind}, and these are not: set data.frames"
            )
        return self._split(features)

    def _split(self, both: jax.Array) -> Posteriors:
        """Posteriors of `[..., encoders, 2, capsules * places]`."""
        both = both.astype(jnp.float32).reshape(*both.shape[:-1], self.capsules, self.places)
        z, *u = (
            Posterior(both[..., i, 0, :, :], both[..., i, 1, :, :]) for i in range(self._encoders())
        )
        return Posteriors(z, *(u or [None]))

    def _encoders(self) -> int:
        """Kinds of latent variables: z and u, or z alone."""
        return 1 if self.kernel == "none" else 2

    def _units(self) -> int:
        return self.capsules * self.places

    def energy(self, u: jax.Array) -> jax.Array:
        """W u^2, float32 `[..., (time,) capsules, places]`, u likewise."""
        if self.kernel == "stationary":
            return stationary_energy(u, window=self.window, width=self.width)
        if self.kernel == "torus":
            return torus_energy(u, width=self.width)
        return shifting_energy(u, window=self.window, spread=self.spread, causal=self.predictive)

    def student_t(self, z: jax.Array, u: jax.Array | None = None) -> jax.Array:
        """The capsules t, float32 `[..., (time,) capsules, places]`, z and u likewise."""
        if self.kernel == "none":
            return z
        return student_t(z, self.energy(u), self.mean, epsilon=self.epsilon).latent

    def mean_capsules(self, posteriors: Posteriors) -> jax.Array:
        """The code: the t of z's mean and of u's mean energy."""
        z, u = posteriors
        if u is None:
            return z.mean
        # Its square is E[u^2].
        root = jnp.sqrt(jnp.square(u.mean) + jnp.exp(u.log_variance))
        return self.student_t(z.mean, root)

    def draw_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Capsules t of this shape, `[n, ..., capsules, places]`, of draws of z and u."""
        z, u = jax.random.normal(key, (2, *shape))
        return self.student_t(z, None if self.kernel == "none" else u)

    def look_up(self, code: jax.Array) -> jax.Array:
        """What the decoder reads of the capsules t: themselves, or those of the frame before.

        Of projected ones, all units of a position: `[batch, ..., capsules * places]`.
        """
        if self.project:
            return code.reshape(*code.shape[:-2], self._units())
        if not self.predictive:
            return code
        before = roll_capsules(code[..., :-1, :, :], 1)
        return jnp.concatenate([code[..., :1, :, :], before], axis=-3)

    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> BottleneckOutput:
        """One reparameterised draw of z and u per example; latent and code have t's shape."""
        del mask
        posteriors = self.posteriors(features)
        code = self.mean_capsules(posteriors)
        losses, metrics = {"kl_z": _nats(posteriors.z)}, {}
        if posteriors.u is not None:
            losses["kl_u"] = _nats(posteriors.u)
            metrics["mu"] = jnp.full_like(losses["kl_u"], self.mean)
        t = code
        if train or self.has_rng("sample"):
            axis_name = None if self.is_initializing() else self.axis_name
            t = self.student_t(*self.draw(posteriors, self.make_rng("sample"), axis_name=axis_name))
        return BottleneckOutput(self.look_up(t), code, losses, metrics)

    def draw(
        self, posteriors: Posteriors, key: jax.Array, *, axis_name: str | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """One draw of z and of u per example, as `student_t` takes them.

        Args:
          posteriors: as `posteriors` gives them.
          key: of the noise; a row's depends on its place in the batch.
          axis_name: mapped axis over whose devices the batch is spread.
        """

        def one(q: Posterior, number: int) -> jax.Array:
            noise = normal_per_example(
                jax.random.fold_in(key, number), q.mean.shape, axis_name=axis_name
            )
            return gaussian.sample(q.mean, q.log_variance, noise).latent

        z, u = posteriors
        return one(z, 0), None if u is None else one(u, 1)


def _nats(q: Posterior) -> jax.Array:
    """KL(q || N(0, I)) of each example, `[batch]`."""
    kl = gaussian.kl_standard_normal(q.mean, q.log_variance)
    return jnp.sum(kl, axis=tuple(range(1, kl.ndim)))
