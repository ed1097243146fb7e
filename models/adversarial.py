"""What an adversary needs: a discriminator of patches, the losses of both players, their balance.

Sources:
  Esser, Rombach & Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis",
    https://arxiv.org/abs/2012.09841, and its released code (CompVis/taming-transformers).
  Isola, Zhu, Zhou & Efros 2017, "Image-to-Image Translation with Conditional Adversarial
    Networks", https://arxiv.org/abs/1611.07004 (the discriminator).
  Mescheder, Geiger & Nowozin 2018, "Which Training Methods for GANs do actually Converge?",
    https://arxiv.org/abs/1801.04406 (`r1_penalty`).

D(x) is a map of logits, one for each patch: above 0 where the patch looks real.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn


class PatchDiscriminator(nn.Module):
    """PatchGAN as VQGAN has it: 4x4 convolutions, a logit for each overlapping patch.

    Takes images `[batch, height, width, channels]`, about [-1, 1]; gives float32 `[batch, rows,
    columns]`: 30x30 for images of 256x256 and 3 layers, 62x62 for 2. While training, the batch's
    own statistics normalise it, so real and generated images are to be given apart. The running
    ones, in the collection "batch_stats", serve with `train=False` alone.

    Attributes:
      layers: of stride 2; two of stride 1 follow, the last of which gives the logits.
      width: of the first layer; it doubles with each, up to eight times.
      axis_name: mapped axis over which the batch's statistics are gathered, so that n devices give
        what one gives with the whole batch. None: of each device's images, as in the release.
      dtype: of the convolutions; statistics and logits are float32.
    """

    layers: int = 3
    width: int = 64
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Refuses sizes below 1."""
        for name in ("layers", "width"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a discriminator is {getattr(self, name)}; it must be at least 1"
                )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: chex.Array, *, train: bool) -> chex.Array:
        """D(x).

        Raises:
          ValueError: the images are too small to hold a patch.
        """
        least = 3 * 2**self.layers
        if images.ndim != 4 or min(images.shape[1:3]) < least:
            raise ValueError(
                f"a discriminator of {self.layers} layers takes [batch, height, width, channels] "
                f"of at least {least}x{least}, got {images.shape}; take fewer layers"
            )
        h = images.astype(self.dtype)
        for i in range(self.layers + 1):
            width = self.width * min(2**i, 8)
            stride = 2 if i < self.layers else 1
            # Where a normalisation follows, its offset is the bias.
            h = self._conv(h, width, f"conv_{i}", stride=stride, bias=i == 0)
            if i > 0:
                h = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    dtype=self.dtype,
                    scale_init=_around_one,
                    axis_name=self.axis_name if not self.is_initializing() else None,
                    use_fast_variance=False,
                    name=f"norm_{i}",
                )(h)
            h = nn.leaky_relu(h, 0.2)
        return self._conv(h, 1, "logits", stride=1, bias=True)[..., 0].astype(jnp.float32)

    def _conv(self, x: jax.Array, width: int, name: str, *, stride: int, bias: bool) -> jax.Array:
        bound = 1 / math.sqrt(16 * x.shape[-1])  # PyTorch's start of a bias, which VQGAN leaves
        return nn.Conv(
            width,
            (4, 4),
            (stride, stride),
            ((1, 1), (1, 1)),
            use_bias=bias,
            kernel_init=nn.initializers.normal(0.02),
            bias_init=lambda key, shape, dtype: jax.random.uniform(
                key, shape, dtype, -bound, bound
            ),
            dtype=self.dtype,
            name=name,
        )(x)


def _around_one(key: chex.PRNGKey, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


# ---------------------------------------------------------------- losses of the two players


def hinge_discriminator_loss(real: chex.Array, fake: chex.Array) -> jax.Array:
    """1/2 max(0, 1 - D(x)) + 1/2 max(0, 1 + D(x_hat)), averaged over patches.

    Args:
      real: D(x) of real images, `[batch, ...]`.
      fake: D(x_hat) of generated ones, alike.

    Returns:
      `[batch]`, float32: 1 where D is 0 everywhere, 0 where it is sure and right.
    """
    return 0.5 * (_patch_mean(nn.relu(1 - real)) + _patch_mean(nn.relu(1 + fake)))


def hinge_generator_loss(fake: chex.Array) -> jax.Array:
    """-D(x_hat), averaged over patches: `[batch, ...]` to float32 `[batch]`.

    VQGAN's release has it beside either loss of the discriminator.
    """
    return _patch_mean(-fake)


def non_saturating_discriminator_loss(real: chex.Array, fake: chex.Array) -> jax.Array:
    """1/2 -log sigmoid(D(x)) + 1/2 -log sigmoid(-D(x_hat)), averaged over patches, in nats.

    Goodfellow et al. 2014, and "vanilla" in VQGAN's release. Arguments and result as those of
    `hinge_discriminator_loss`; log 2 where D is 0 everywhere.
    """
    return 0.5 * (_patch_mean(nn.softplus(-real)) + _patch_mean(nn.softplus(fake)))


def non_saturating_generator_loss(fake: chex.Array) -> jax.Array:
    """-log sigmoid(D(x_hat)), averaged over patches, in nats: `[batch, ...]` to `[batch]`."""
    return _patch_mean(nn.softplus(-fake))


class AdversarialLoss(NamedTuple):
    """What the two players minimise.

    Attributes:
      discriminator: `(real, fake) -> [batch]`.
      generator: `(fake) -> [batch]`.
    """

    discriminator: Callable[[chex.Array, chex.Array], jax.Array]
    generator: Callable[[chex.Array], jax.Array]


ADVERSARIAL_LOSSES = {
    "hinge": AdversarialLoss(hinge_discriminator_loss, hinge_generator_loss),
    "non_saturating": AdversarialLoss(
        non_saturating_discriminator_loss, non_saturating_generator_loss
    ),
}


def r1_penalty(discriminate: Callable[[chex.Array], chex.Array], real: chex.Array) -> jax.Array:
    """1/2 |dD(x)/dx|^2 of the real images, R_1 with gamma = 1 (Mescheder et al. 2018, Eq. 9).

    Args:
      discriminate: `[batch, ...] -> [batch, ...]`, D(x), whose mean over patches is differentiated.
        With the batch's statistics inside, an image's gradient is that of all logits.
      real: `[batch, ...]`, x.

    Returns:
      `[batch]`, float32.
    """
    slope = jax.grad(lambda x: jnp.sum(_patch_mean(discriminate(x))))(real)
    return 0.5 * jnp.sum(jnp.square(slope.astype(jnp.float32)), axis=tuple(range(1, slope.ndim)))


# ---------------------------------------------------------------- the balance of the two losses


def adaptive_weight(
    nll_gradient: chex.Array, g_gradient: chex.Array, *, delta: float = 1e-4, most: float = 1e4
) -> jax.Array:
    """VQGAN's lambda (Esser et al. 2021, Eq. 7): the adversary pulls as hard as the rest.

    Args:
      nll_gradient: of the reconstruction's loss, with respect to the decoder's last kernel.
      g_gradient: of the generator's loss, likewise; the shape of the other.
      delta: 1e-4 in the release, 1e-6 in the paper.
      most: limit of lambda.

    Returns:
      `[]`, float32: |nll_gradient| / (|g_gradient| + delta), in [0, most]. No gradient goes
      through it. Average the gradients over devices first, and it is that of the whole batch;
      the release takes each device's own.

    Raises:
      ValueError: the two differ in shape.
    """
    if jnp.shape(nll_gradient) != jnp.shape(g_gradient):
        raise ValueError(
            "the two gradients are of one kernel; got "
            f"{jnp.shape(nll_gradient)} and {jnp.shape(g_gradient)}"
        )
    nll, g = (
        jnp.sqrt(jnp.sum(jnp.square(jax.lax.stop_gradient(x).astype(jnp.float32))))
        for x in (nll_gradient, g_gradient)
    )
    return jnp.clip(nll / (g + delta), 0, most)


def kernel_gradient(
    pullback: Callable[[Any], tuple[Any, ...]], cotangent: Any, path: Sequence[str]
) -> jax.Array:
    """The gradient of one kernel, for what its loss gives as gradient of the network's outputs.

    `outputs, pullback = jax.vjp(network, params)` is one pass forward, and each call of `pullback`
    one backward. Under `jit` only what is used of a call is computed: for the kernel of the last
    layer that is this layer alone, without another pass through the decoder.

    Args:
      pullback: see above.
      cotangent: shaped as the outputs.
      path: names from the top of `params` to the kernel.

    Raises:
      ValueError: no such path; the names found at the first that is absent are listed.
    """
    (found,) = pullback(cotangent)
    for depth, name in enumerate(path):
        if name not in found:
            raise ValueError(
                f"params have no {'/'.join(path)}; {'/'.join(path[:depth]) or 'they'} has "
                f"{', '.join(found)}"
            )
        found = found[name]
    return found


def _patch_mean(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
