"""A prior of frames of codes, given the frames before and what was done in them.

p(z_1 .. z_T) = prod_t p(z_t | z_{t-p} .. z_{t-1}, a_{t-p} .. a_{t-1}): van den Oord et al. 2017,
"Neural Discrete Representation Learning", https://arxiv.org/abs/1711.00937, section 4.4, fit such a
prior to the codes of DM-Lab's frames, without telling its layers. Here each frame has a gated
PixelCNN given the past location by location (van den Oord et al. 2016,
https://arxiv.org/abs/1606.05328, section 2.3: h is the past, m a small convolutional network and
s = m(h) its features at each position). Layers and sizes are ours.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.backbones.convnet import ResidualLayer
from models.priors.pixelcnn import GatedPixelCNN, rows_of
from models.priors.pixelcnn_sampling import sample_unchecked


class VideoPrior(nn.Module):
    """Likelihood of a frame of codes given those before it and, optionally, actions.

    Of the frames before it, p, as many are seen as are given, the same number every time. The
    action of a frame is what was chosen on seeing it: it shows from the next frame on.

    An action outside its range makes NaN, as a code does.

    Attributes:
      codes: K, the values of a code.
      layers: of the PixelCNN's stacks.
      features: feature maps of either stack.
      actions: how many there are; 0 for a prior without actions.
      codebooks: codes per position.
      kernel: of the PixelCNN, odd, 3 or more.
      output_features: of its ReLU layer before the softmax.
      past_embedding: features that a code of the past becomes.
      past_features: of s, at each position.
      past_layers: residual layers of m: with its first convolution they see past_layers + 1
        positions to each side.
      dtype: of the convolutions; logits and probabilities are float32.

    Raises:
      ValueError: a size that cannot be.
    """

    codes: int
    layers: int
    features: int
    actions: int = 0
    codebooks: int = 1
    kernel: int = 3
    output_features: int = 128
    past_embedding: int = 16
    past_features: int = 64
    past_layers: int = 2
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses sizes that cannot be."""
        for name, least in (
            ("actions", 0),
            ("past_embedding", 1),
            ("past_features", 1),
            ("past_layers", 0),
        ):
            if getattr(self, name) < least:
                found = getattr(self, name)
                raise ValueError(f"prior.{name} is {found}; it must be at least {least}")
        super().__post_init__()
        self.frame_prior()

    @property
    def conditions(self) -> tuple[str, ...]:
        """Entries of a batch that `log_prob` takes after the codes."""
        return ("past", "action") if self.actions else ("past",)

    def frame_prior(self) -> GatedPixelCNN:
        """The PixelCNN of one frame; its parameters are those of "frame"."""
        return GatedPixelCNN(
            codes=self.codes,
            layers=self.layers,
            features=self.features,
            codebooks=self.codebooks,
            kernel=self.kernel,
            output_features=self.output_features,
            located=True,
            dtype=self.dtype,
            parent=None,
        )

    def setup(self) -> None:
        """The PixelCNN, and the network m."""
        c = self.past_features
        self.frame = self.frame_prior()
        shape = (self.codebooks, self.codes, self.past_embedding)
        self.embedding = self.param("embedding", nn.initializers.normal(1), shape)
        self.past_conv = nn.Conv(c, (3, 3), dtype=self.dtype)
        if self.actions:
            start = nn.initializers.normal(1)
            self.action_embedding = self.param("action_embedding", start, (self.actions, c))
            self.action_dense = nn.Dense(c, use_bias=False, dtype=self.dtype)
        self.residual = [
            ResidualLayer(c // 2 or 1, dtype=self.dtype, name=f"residual_{i}")
            for i in range(self.past_layers)
        ]

    def __call__(
        self, code: jax.Array, past: jax.Array, action: jax.Array | None = None
    ) -> jax.Array:
        """Logits, float32 `[batch, height, width, codebooks, codes]`, of each code of a frame.

        Args:
          code: the frame, int `[batch, height, width, codebooks]`.
          past: the frames before it, the last one last, int `[batch, p, *code.shape[1:]]`.
          action: what was chosen on seeing each of them, int `[batch, p]`; None without actions.

        Raises:
          ValueError: shapes or types do not fit, or actions for a prior without, or none for one
            with actions.
        """
        return self.frame(code, None, self.located_features(past, action))

    def log_prob(
        self, code: jax.Array, past: jax.Array, action: jax.Array | None = None
    ) -> jax.Array:
        """Log-probability of each frame, float32 `[batch]`, in nats per frame.

        Args and errors: those of `__call__`.
        """
        return self.frame.log_prob(code, None, self.located_features(past, action))

    def located_features(self, past: jax.Array, action: jax.Array | None) -> jax.Array:
        """The past's features s = m(h), `[batch, height, width, past_features]`; see `__call__`."""
        self.check(past, action)
        past = jnp.asarray(past)
        embedded = sum(rows_of(self.embedding[j], past[..., j]) for j in range(self.codebooks))
        # The frames beside one another: [batch, height, width, p * past_embedding].
        embedded = jnp.moveaxis(embedded, 1, 3)
        h = self.past_conv(embedded.reshape(*embedded.shape[:3], -1).astype(self.dtype))
        if self.actions:
            embedded = rows_of(self.action_embedding, jnp.asarray(action))
            # Alike at every position.
            h += self.action_dense(embedded.reshape(len(past), -1).astype(self.dtype))[
                :, None, None
            ]
        for layer in self.residual:
            h = layer(h)
        return nn.relu(h)

    def check(self, past: jax.Array, action: jax.Array | None) -> None:
        """Raises ValueError unless past and actions fit the prior."""
        shape, kind = jnp.shape(past), jnp.asarray(past).dtype
        if len(shape) != 5 or shape[4] != self.codebooks or not jnp.issubdtype(kind, jnp.integer):
            raise ValueError(
                f"the past is {kind} {shape}; expected whole numbers [batch, p, height, width, "
                f"{self.codebooks}]"
            )
        if (action is not None) != (self.actions > 0):
            raise ValueError(
                f"the prior has actions={self.actions} and actions were "
                f"{'not ' if action is None else ''}given; give them if there are any only"
            )
        if action is not None:
            found, kind = jnp.shape(action), jnp.asarray(action).dtype
            if found != shape[:2] or not jnp.issubdtype(kind, jnp.integer):
                raise ValueError(
                    f"actions are {kind} {found}; expected whole numbers {shape[:2]}, one for each "
                    "frame of the past"
                )


def sample_frames(
    model: VideoPrior,
    variables: Mapping[str, Any],
    key: jax.Array,
    past: jax.Array,
    *,
    frames: int,
    action: jax.Array | None = None,
    temperature: float = 1.0,
) -> jax.Array:
    """Frames of codes drawn one after another, int32 `[batch, frames, height, width, codebooks]`.

    Each is drawn by `pixelcnn_sampling.sample` with the key fold_in(key, number of the frame), and
    is then the last of the past of the next: nothing but codes goes in or out.

    Args:
      model: the prior.
      variables: its variables, {"params": ...}.
      key: a key of `jax.random`.
      past: the frames to start from, int `[batch, p, height, width, codebooks]`.
      frames: how many to draw.
      action: int `[batch, p + frames - 1]`, chosen on seeing each frame of the past and each
        drawn one but the last; None without actions.
      temperature: the logits are divided by it; above 0. 1 draws from the prior itself.

    Raises:
      ValueError: past or actions do not fit the model, or the temperature is not positive.
    """
    p = jnp.shape(past)[1] if jnp.ndim(past) == 5 else 0
    if action is not None and jnp.shape(action) != (len(past), p + frames - 1):
        raise ValueError(
            f"actions are {jnp.shape(action)}; expected {(len(past), p + frames - 1)}, of the past "
            "and all frames to draw but the last"
        )
    model.check(past, None if action is None else action[:, :p])
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be finite and above 0")
    return _sample_frames(model, frames, variables, key, jnp.asarray(past), action, temperature)


@partial(jax.jit, static_argnums=(0, 1))
def _sample_frames(
    model: VideoPrior,
    frames: int,
    variables: Mapping[str, Any],
    key: jax.Array,
    past: jax.Array,
    action: jax.Array | None,
    temperature: jax.Array,
) -> jax.Array:
    """A scan over frames."""
    p = past.shape[1]
    of_frame = {"params": variables["params"]["frame"]}

    def next_frame(past: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = None
        if action is not None:
            seen = jax.lax.dynamic_slice_in_dim(action, number, p, axis=1)
        s = model.apply(variables, past, seen, method="located_features")
        code = sample_unchecked(
            model.frame_prior(),
            (past.shape[0], *past.shape[2:]),
            of_frame,
            jax.random.fold_in(key, number),
            None,
            s,
            temperature,
        )
        return jnp.concatenate([past[:, 1:], code[:, None].astype(past.dtype)], axis=1), code

    _, code = jax.lax.scan(next_frame, past, jnp.arange(frames))
    return jnp.moveaxis(code, 0, 1)
