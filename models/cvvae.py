"""CV-VAE, the capsule VAE of CVGAN (Pucci et al. 2022): routed capsules as a bottleneck.

Source: Pucci, Micheloni, Foresti & Martinel, "CVGAN: Image Generation with Capsule Vector-VAE",
ICIAP 2022, https://doi.org/10.1007/978-3-031-06427-2_45, and its released code (Riretta/CV_GAN).
The routing is that of Sabour, Frosst & Hinton 2017, https://arxiv.org/abs/1710.09829.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from bottlenecks.routing import dynamic_routing, published_capsules, squash
from bottlenecks.votes import safe_root
from models.autoencoder import BottleneckOutput

MODES = ("agreement", "published")
GRADIENTS = ("all", "last")
_HIGHEST = jax.lax.Precision.HIGHEST
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class CapsuleRouter(nn.Module):
    """Capsules u_i of every position vote for J output capsules v_j; the decoder reads all v_j.

    There are no losses. Metrics, all `[batch]`: `coupling_entropy`, the entropy of the couplings
    over that of uniform ones (1: the routing does nothing); and in the mode "agreement"
    `capsule_length`, the mean of |v_j|, and `winners`, how many of the J capsules are the longest
    at one position of the image or more.

    Where the collection "intermediates" is asked for, it gets what is routed: `votes` u_hat_{j|i},
    `[batch, ..., P, J, depth]`; as published `capsules` u_i and `W`, as `published_capsules` takes
    them.

    The modes:

    - "agreement": ours. P capsules at every position, from a linear layer; each has its own W_ij,
      shared by all positions. The outputs compete for each input (Sabour et al. 2017), by the
      agreement of that position alone. `code` is v, float32 `[batch, ..., J, depth]`; the latent is
      v with its two last axes made one.
    - "published": as released. A strided convolution makes capsules of the whole grid, each with a
      W_i of its own. There is one output capsule, the softmax runs over the inputs, squash acts on
      single units, and the agreement is averaged over the batch: what an image is coded as depends
      on the images beside it (see `bottlenecks.routing.published_capsules`). The release takes each
      device's batch; with `axis_name` here it is the batch of all. `code` is the norm of every
      coupled vote, float32 `[batch, ceil(height / 2) + 1, ceil(width / 2) + 1, P]`, from which a
      transposed convolution and two 1x1 convolutions make a latent shaped as the features. The
      capsules stay at their random start, for no optimiser of the release has them.

    Attributes:
      primaries: P, input capsules at each position (of the strided convolution, as published).
      pose: numbers in an input capsule.
      outputs: J, output capsules; 1 as published.
      depth: numbers in an output capsule.
      iterations: of the routing; 1 is the plain average, in which nothing is routed.
      mode: see above.
      deviation: standard deviation of the first W.
      leaky: an input may go nowhere (see `dynamic_routing`).
      gradient: "all": through every iteration; "last": agreements are constants.
      train_capsules: False: all before the latent, W included, stays at its random start, in the
        collection "frozen". None: as the mode has it, "published" False and "agreement" True.
      axis_name: mapped axis whose devices share the batch; "agreement" needs none.
      dtype: of the linear layers' arithmetic; votes and routing are float32 always.
    """

    primaries: int = 16
    pose: int = 16
    outputs: int = 32
    depth: int = 16
    iterations: int = 3
    mode: str = "agreement"
    deviation: float = 1.0
    leaky: bool = False
    gradient: str = "all"
    train_capsules: bool | None = None
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses settings that cannot be."""
        for name, known in (("mode", MODES), ("gradient", GRADIENTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"bottleneck.{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        for name in ("primaries", "pose", "outputs", "depth", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"bottleneck.{name} is {getattr(self, name)}; it must be at least 1"
                )
        if not self.deviation > 0:
            raise ValueError(
                f"bottleneck.deviation is {self.deviation}; it must be above 0, or nothing starts"
            )
        if self.train_capsules not in (None, True, False):
            raise ValueError(
                f"bottleneck.train_capsules is {self.train_capsules!r}; it must be True, False or "
                "None, which leaves it to the mode"
            )
        if self.mode == "published" and (self.outputs, self.leaky, self.gradient) != (
            1,
            False,
            "all",
        ):
            raise ValueError(
                "bottleneck.mode 'published' is the release, which has outputs=1, leaky=False and "
                f"gradient='all'; found {self.outputs}, {self.leaky} and {self.gradient!r}"
            )
        if self.mode == "agreement" and self.outputs < 2:
            raise ValueError(
                "bottleneck.outputs is 1, for which nothing competes; mode 'agreement' needs at "
                "least 2"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> BottleneckOutput:
        """Routes `[batch, ..., features]`, as published `[batch, height, width, features]`.

        `mask` `[batch]`, 1 for real examples. `train` changes nothing.

        Raises:
          ValueError: published, and the features are no grid of even height and width.
        """
        del train
        if self.mode == "published":
            return self._published(features, mask)
        return self._agreement(features)

    @property
    def unit_axes(self) -> int:
        """Axes of the code that are units, not positions: capsules and their numbers."""
        return 2 if self.mode == "agreement" else 1

    def look_up(self, code: jax.Array) -> jax.Array:
        """The latent of a code, float32."""
        if self.mode == "agreement":
            return _concatenated(code)
        frozen = "params" if self._trained() else "frozen"
        layers = [self.get_variable(frozen, "ConvTranspose")]
        layers += [self.get_variable("params", name) for name in ("quant_conv", "post_quant_conv")]
        return _published_latent(code, layers)

    def _agreement(self, features: jax.Array) -> BottleneckOutput:
        P, J, d = self.primaries, self.outputs, self.depth
        width = features.shape[-1]
        project = self._weights(
            "project",
            lambda key: {
                "kernel": nn.initializers.lecun_normal()(key, (width, P * self.pose)),
                "bias": jnp.zeros(P * self.pose),
            },
        )
        W = self._weights(
            "W", lambda key: self.deviation * jax.random.normal(key, (P, self.pose, J, d))
        )
        u = squash(self._linear(features, project).reshape(*features.shape[:-1], P, self.pose))
        votes = jnp.einsum("...ip,ipjd->...ijd", u, W, precision=_HIGHEST)
        self.sow("intermediates", "votes", votes)
        routed = dynamic_routing(
            votes, iterations=self.iterations, leaky=self.leaky, gradient=self.gradient
        )
        v, c = routed.latent, jax.lax.stop_gradient(routed.coupling)
        if self.leaky:
            c = jnp.concatenate([c, 1 - jnp.sum(c, axis=-1, keepdims=True)], axis=-1)
        won = jax.nn.one_hot(capsule_index(v), J).reshape(v.shape[0], -1, J)
        return BottleneckOutput(
            latent=_concatenated(v).astype(features.dtype),
            code=v,
            losses={},
            metrics={
                "coupling_entropy": _per_example(relative_entropy(c)),
                "capsule_length": _per_example(jax.lax.stop_gradient(lengths(v))),
                "winners": jnp.sum(jnp.max(won, axis=1), axis=-1),
            },
        )

    def _published(self, features: jax.Array, mask: jax.Array | None) -> BottleneckOutput:
        if features.ndim != 4 or features.shape[1] % 2 or features.shape[2] % 2:
            raise ValueError(
                "mode 'published' takes features [batch, height, width, features] of even height "
                f"and width, got {features.shape}"
            )
        batch, _, _, width = features.shape
        P, pose = self.primaries, self.pose
        # PrimaryCaps: `pose` convolutions to P channels each, here as one.
        primary = self._weights(
            "PrimaryCaps", lambda key: _pytorch_start(key, (3, 3, width, pose * P), 9 * width)
        )
        maps = jax.lax.conv_general_dilated(
            features.astype(self.dtype),
            primary["kernel"].astype(self.dtype),
            window_strides=(2, 2),
            padding=((2, 2), (2, 2)),
            dimension_numbers=_LAYOUT,
        ) + primary["bias"].astype(self.dtype)
        grid = maps.shape[1:3]
        # Capsule i is (channel, y, x), its components come from one convolution each.
        u = maps.astype(jnp.float32).reshape(batch, *grid, pose, P)
        u = squash(u.transpose(0, 4, 1, 2, 3).reshape(batch, -1, pose), epsilon=2**-23)
        # DigitCaps.
        shape = (u.shape[1], self.depth, pose)
        W = self._weights("W", lambda key: self.deviation * jax.random.normal(key, shape))
        for name, value in (("capsules", u), ("W", W)):
            self.sow("intermediates", name, value)
        routed = published_capsules(
            u, W, iterations=self.iterations, axis_name=self.axis_name, mask=mask
        )
        n = routed.latent.reshape(batch, P, *grid).transpose(0, 2, 3, 1)
        layers = [
            # PyTorch counts the fan in of a transposed convolution over its outputs.
            self._weights(
                "ConvTranspose", lambda key: _pytorch_start(key, (2, 2, P, width), 4 * width)
            ),
            *(
                self.param(name, lambda key: _pytorch_start(key, (width, width), width))
                for name in ("quant_conv", "post_quant_conv")
            ),
        ]
        entropy = relative_entropy(jax.lax.stop_gradient(routed.coupling))
        return BottleneckOutput(
            latent=_published_latent(n, layers, self.dtype).astype(features.dtype),
            code=n,
            losses={},
            metrics={"coupling_entropy": jnp.full(batch, entropy)},
        )

    def _trained(self) -> bool:
        return self.mode == "agreement" if self.train_capsules is None else self.train_capsules

    def _weights(self, name: str, start: Callable[[chex.PRNGKey], Any]) -> Any:
        """Weights of the capsules, float32: parameters, or what no optimiser sees."""
        if self._trained():
            return self.param(name, start)
        return self.variable("frozen", name, lambda: start(self.make_rng("params"))).value

    def _linear(self, x: jax.Array, layer: dict[str, jax.Array]) -> jax.Array:
        """A dense layer in `dtype`; float32 comes out."""
        kernel, bias = (layer[name].astype(self.dtype) for name in ("kernel", "bias"))
        return (jnp.matmul(x.astype(self.dtype), kernel) + bias).astype(jnp.float32)


def lengths(capsules: chex.Array) -> jax.Array:
    """|v_j| of capsules `[..., J, depth]`, `[..., J]`; gradient 0 at a capsule of 0."""
    return safe_root(jnp.sum(jnp.square(capsules), axis=-1), at_zero=0.0)


def capsule_index(capsules: chex.Array) -> jax.Array:
    """argmax_j |v_j|, the longest of the capsules `[..., J, depth]`: int32 `[...]`, a map."""
    return jnp.argmax(lengths(capsules), axis=-1).astype(jnp.int32)


def relative_entropy(c: chex.Array) -> jax.Array:
    """Entropy of shares `[..., n]` over that of n equal ones, `[...]`; 1: nothing is routed."""
    entropy = jnp.sum(jax.scipy.special.entr(c), axis=-1)
    return entropy / math.log(c.shape[-1])


def _concatenated(v: jax.Array) -> jax.Array:
    """`[..., J, depth]` to `[..., J * depth]`."""
    return v.reshape(*v.shape[:-2], -1)


def _published_latent(
    n: jax.Array, layers: Sequence[dict[str, jax.Array]], dtype: Any = jnp.float32
) -> jax.Array:
    """ConvTranspose2d(k2, s2, p1) of the norms, then the 1x1 quant_conv and post_quant_conv.

    `[batch, rows, columns, P]` to `[batch, 2 rows - 2, 2 columns - 2, features]`.
    """
    up, *ones = jax.tree.map(lambda a: a.astype(dtype), layers)
    batch, rows, columns, _ = n.shape
    # Windows do not overlap: each place makes 2x2 pixels, of which the outermost are cut off.
    h = jnp.einsum("brci,yxio->brycxo", n.astype(dtype), up["kernel"])
    h = h.reshape(batch, 2 * rows, 2 * columns, -1)[:, 1:-1, 1:-1] + up["bias"]
    for layer in ones:
        h = jnp.matmul(h, layer["kernel"]) + layer["bias"]
    return h


def _pytorch_start(key: chex.PRNGKey, shape: tuple[int, ...], fan_in: int) -> dict[str, jax.Array]:
    """Kernel and bias as PyTorch starts them: uniform within +-1 / sqrt(fan in)."""
    keys, bound = jax.random.split(key), 1 / math.sqrt(fan_in)
    return {
        name: jax.random.uniform(k, size, jnp.float32, -bound, bound)
        for name, k, size in (("kernel", keys[0], shape), ("bias", keys[1], shape[-1:]))
    }


def _per_example(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
