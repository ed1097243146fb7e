"""Likelihoods of an image given what the decoder puts out.

The decoder's output is `[..., height, width, output_channels]`, the image
`[..., height, width, channels]`, uint8 0..255 or floating in [0, 1]. Everything is computed in
float32, and the negative log-likelihood stays unreduced: nats per sub-pixel.
"""

import dataclasses
import math
from typing import ClassVar, Protocol

import chex
import jax
import jax.numpy as jnp


class Likelihood(Protocol):
    """What a model asks of a likelihood."""

    discrete: ClassVar[bool]
    """Whether the nats are of a probability mass (else of a density over [0, 1] units)."""

    def output_channels(self, image_channels: int) -> int:
        """Channels the decoder must put out for an image with `image_channels` channels."""
        ...

    def nats(self, output: chex.Array, image: chex.Array) -> chex.Array:
        """Negative log-likelihood, float32 `[..., height, width, channels]`, in nats.

        Leading axes of `output` and `image` broadcast (several samples of one image, say).

        Raises:
          ValueError: height, width or channels of the two do not fit.
        """
        ...

    def mean(self, output: chex.Array) -> chex.Array:
        """Mean image, float32 `[..., height, width, channels]`, in units of [0, 1]."""
        ...

    def sample(self, key: chex.PRNGKey, output: chex.Array) -> chex.Array:
        """One image drawn, float32 `[..., height, width, channels]`, in units of [0, 1]."""
        ...


def to_unit(image: chex.Array) -> chex.Array:
    """Image in [0, 1], float32 of the same shape: uint8 is divided by 255, floats stay.

    Raises:
      ValueError: neither uint8 nor floating.
    """
    image = jnp.asarray(image)
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0
    if jnp.issubdtype(image.dtype, jnp.floating):
        return image.astype(jnp.float32)
    raise ValueError(
        f"an image must be uint8 (0..255) or floating (in [0, 1]), found {image.dtype}; "
        "convert it where it is read"
    )


def _check(output: chex.Array, image: chex.Array, per_channel: int) -> None:
    """Raises ValueError unless `output` has `per_channel` numbers for each sub-pixel of `image`."""
    found, wanted = jnp.shape(output), jnp.shape(image)
    if len(found) < 3 or len(wanted) < 3:
        raise ValueError(
            f"output {found} and image {wanted} must both be [..., height, width, channels]"
        )
    if found[-3:] != (*wanted[-3:-1], wanted[-1] * per_channel):
        raise ValueError(
            f"output {found} does not fit image {wanted}: expected height, width and channels "
            f"({wanted[-3]}, {wanted[-2]}, {wanted[-1] * per_channel}), i.e. {per_channel} "
            "output channel(s) per image channel; build the decoder with output_channels()"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Gaussian with one fixed variance for every sub-pixel, in squared units of [0, 1].

    The output is centred as the encoder's input is: mean = output + 0.5. With the variance of the
    data, twice the nats are the mean squared error over the variance, plus a constant: the
    reconstruction loss of van den Oord's VQ-VAE example in Sonnet.

    Raises:
      ValueError: variance not positive and finite.
    """

    variance: float
    discrete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the variance."""
        if not (self.variance > 0 and math.isfinite(self.variance)):
            raise ValueError(
                f"the Gaussian's variance must be positive and finite, found {self.variance}; "
                "it is in squared units of [0, 1], e.g. the variance of the pixels"
            )

    def output_channels(self, image_channels: int) -> int:
        """One channel, the centred mean, per image channel."""
        return image_channels

    def nats(self, output: chex.Array, image: chex.Array) -> chex.Array:
        """Negative log density of the image, nats per sub-pixel; see `Likelihood.nats`."""
        _check(output, image, 1)
        error = to_unit(image) - self.mean(output)
        return 0.5 * (error**2 / self.variance + math.log(2 * math.pi * self.variance))

    def mean(self, output: chex.Array) -> chex.Array:
        """The mean, `output + 0.5`; not clipped, so it may leave [0, 1]."""
        return jnp.asarray(output, jnp.float32) + 0.5

    def sample(self, key: chex.PRNGKey, output: chex.Array) -> chex.Array:
        """Mean plus noise; not clipped, so it may leave [0, 1]."""
        mean = self.mean(output)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + math.sqrt(self.variance) * noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laplace:
    """Laplace density with one fixed scale b for every sub-pixel, in units of [0, 1].

    The output is centred: its mean is output + 0.5. With b = 1/2 the nats are |x - mean| of images
    in [-1, 1], without a constant: VQGAN's reconstruction loss as released.

    Raises:
      ValueError: scale not positive and finite.
    """

    scale: float
    discrete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the scale."""
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(
                f"the Laplace density's scale must be positive and finite, found {self.scale}; "
                "it is in units of [0, 1], e.g. 0.5"
            )

    def output_channels(self, image_channels: int) -> int:
        """One channel, the centred mean, per image channel."""
        return image_channels

    def nats(self, output: chex.Array, image: chex.Array) -> chex.Array:
        """Negative log density of the image, nats per sub-pixel; see `Likelihood.nats`."""
        _check(output, image, 1)
        error = to_unit(image) - self.mean(output)
        return jnp.abs(error) / self.scale + math.log(2 * self.scale)

    def mean(self, output: chex.Array) -> chex.Array:
        """The mean, `output + 0.5`; not clipped, so it may leave [0, 1]."""
        return jnp.asarray(output, jnp.float32) + 0.5

    def sample(self, key: chex.PRNGKey, output: chex.Array) -> chex.Array:
        """Mean plus noise; not clipped, so it may leave [0, 1]."""
        mean = self.mean(output)
        return mean + self.scale * jax.random.laplace(key, mean.shape, mean.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """Independent coin per sub-pixel; the output is its logit.

    Images between 0 and 1 are taken as probabilities, and the nats are then a cross-entropy.
    """

    discrete: ClassVar[bool] = True

    def output_channels(self, image_channels: int) -> int:
        """One logit per image channel."""
        return image_channels

    def nats(self, output: chex.Array, image: chex.Array) -> chex.Array:
        """-x log p - (1 - x) log(1 - p), nats per sub-pixel; see `Likelihood.nats`."""
        _check(output, image, 1)
        logits = jnp.asarray(output, jnp.float32)
        # With p = sigmoid(logit) this is log(1 + e^logit) - x logit, which cannot overflow.
        return jax.nn.softplus(logits) - to_unit(image) * logits

    def mean(self, output: chex.Array) -> chex.Array:
        """Probability of a one."""
        return jax.nn.sigmoid(jnp.asarray(output, jnp.float32))

    def sample(self, key: chex.PRNGKey, output: chex.Array) -> chex.Array:
        """Zeros and ones, as float32."""
        return jax.random.bernoulli(key, self.mean(output)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categorical:
    """Softmax over the `levels` values of a sub-pixel, level k standing for k / (levels - 1).

    The output's last axis is laid out as [channels, levels]. A floating image is rounded to the
    nearest level.

    Raises:
      ValueError: fewer than two levels.
    """

    levels: int = 256
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the levels."""
        if not (isinstance(self.levels, int) and self.levels >= 2):
            raise ValueError(
                f"the categorical's levels must be a whole number from 2 up, found {self.levels!r};"
                " 8-bit images have 256"
            )

    def output_channels(self, image_channels: int) -> int:
        """`levels` logits per image channel."""
        return image_channels * self.levels

    def nats(self, output: chex.Array, image: chex.Array) -> chex.Array:
        """Negative log probability of the image's level, nats per sub-pixel."""
        _check(output, image, self.levels)
        logits, level = self._logits(output), self._level(image)
        # Samples in front of `output` that `image` does not have (or the other way round).
        leading = jnp.broadcast_shapes(logits.shape[:-1], level.shape)
        logits = jnp.broadcast_to(logits, (*leading, self.levels))
        level = jnp.broadcast_to(level, leading)[..., None]
        chosen = jnp.take_along_axis(logits, level, axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    def mean(self, output: chex.Array) -> chex.Array:
        """Expected level over levels - 1."""
        probability = jax.nn.softmax(self._logits(output), axis=-1)
        level = jnp.arange(self.levels, dtype=jnp.float32)
        return jnp.sum(probability * level, axis=-1) / (self.levels - 1)

    def sample(self, key: chex.PRNGKey, output: chex.Array) -> chex.Array:
        """A level drawn for each sub-pixel, over levels - 1."""
        level = jax.random.categorical(key, self._logits(output), axis=-1)
        return level.astype(jnp.float32) / (self.levels - 1)

    def _logits(self, output: chex.Array) -> chex.Array:
        """Output as `[..., channels, levels]`."""
        output = jnp.asarray(output, jnp.float32)
        channels, rest = divmod(output.shape[-1], self.levels)
        if rest or not channels:
            raise ValueError(
                f"output {output.shape} must have a multiple of {self.levels} channels, one for "
                "each level; build the decoder with output_channels()"
            )
        return output.reshape(*output.shape[:-1], channels, self.levels)

    def _level(self, image: chex.Array) -> chex.Array:
        """Level of each sub-pixel, int32."""
        image = jnp.asarray(image)
        if image.dtype == jnp.uint8 and self.levels == 256:
            return image.astype(jnp.int32)
        return jnp.round(to_unit(image) * (self.levels - 1)).astype(jnp.int32)


LIKELIHOODS = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "bernoulli": Bernoulli,
    "categorical": Categorical,
}


def build_likelihood(name: str, **options: float) -> Likelihood:
    """The likelihood called `name`, a key of `LIKELIHOODS`, with its options.

    Raises:
      ValueError: unknown name, unknown or missing option, or an option out of range.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"no likelihood is called {name!r}; there are {', '.join(LIKELIHOODS)}")
    kind = LIKELIHOODS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [option for option in options if option not in fields]:
        raise ValueError(
            f"likelihood {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(fields) or 'none'}"
        )
    missing = [
        field.name
        for field in fields.values()
        if field.default is dataclasses.MISSING and field.name not in options
    ]
    if missing:
        raise ValueError(f"likelihood {name!r} needs the option {', '.join(map(repr, missing))}")
    return kind(**options)
