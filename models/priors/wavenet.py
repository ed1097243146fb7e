"""WaveNet: the likelihood of a sequence, one value after another, by dilated causal convolutions.

van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior & Kavukcuoglu 2016,
"WaveNet: A Generative Model for Raw Audio", https://arxiv.org/abs/1609.03499.

It serves twice in section 4.3 of van den Oord et al. 2017: as the decoder of speech, whose values
are the 256 levels of mu-law (section 2.2), told the latents and the speaker; and as the prior of
the codes, whose values are the codes.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class WaveNet(nn.Module):
    """Gated residual layers, kernel 2, whose dilation doubles from layer to layer (Figure 4).

    Takes values, int `[batch, time]` or `[batch, time, 1]`. The sequence is moved on by one, so
    that a position sees those before it alone: `receptive_field()` of them.

    What is told of a sequence moves the gates (Eq. 2 and the two after it): a class, of the whole
    sequence (global conditioning); and features of stretches of it, each repeated over its stretch
    (local conditioning). A value or a class outside its range makes NaN, for a compiled program
    cannot refuse it.

    The parameters of all layers are stacked, so that a draw takes one product for all that they
    see of the past.

    Attributes:
      codes: K, the values that there are.
      layers: of each cycle; their dilations are 1, 2, ..., 2^(layers - 1).
      cycles: how often these are gone through.
      features: C, residual channels, and channels of a gate.
      skip_features: channels of the skip connections' sum, and of the layer after it.
      classes: of labels; 0 for none.
      local_features: of the local conditioning; 0 for none.
      ordered: the values are levels of a quantity, and it is given beside their embedding.
      codebooks: codes at a position; one alone is modelled.
      dtype: of the layers' arithmetic; logits and probabilities are float32.

    Raises:
      ValueError: a size that cannot be.
    """

    codes: int
    layers: int
    features: int
    cycles: int = 1
    skip_features: int = 128
    classes: int = 0
    local_features: int = 0
    ordered: bool = False
    codebooks: int = 1
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses sizes that cannot be."""
        for name in ("codes", "layers", "features", "cycles", "skip_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"wavenet.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("classes", "local_features"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"wavenet.{name} is {getattr(self, name)}; it must be 0 (none) or more"
                )
        if self.codebooks != 1:
            raise ValueError(
                f"wavenet.codebooks is {self.codebooks}; it models one code at each position"
            )
        super().__post_init__()

    @property
    def conditions(self) -> tuple[str, ...]:
        """What of a batch `log_prob` takes after the codes, when this is a prior."""
        return ("label",) if self.classes else ()

    def dilations(self) -> tuple[int, ...]:
        """Of every layer, from the input on."""
        return tuple(2**i for i in range(self.layers)) * self.cycles

    def receptive_field(self) -> int:
        """How many values before a position it sees."""
        return sum(self.dilations()) + 1

    def setup(self) -> None:
        """Embedding, stacked layers, and the two layers after the skip connections (Figure 4)."""
        L, C, S = len(self.dilations()), self.features, self.skip_features
        stacked = nn.initializers.lecun_normal(batch_axis=0)
        zeros = nn.initializers.zeros
        # Where the level tells what matters, its embedding starts small beside it.
        start = nn.initializers.normal(0.1 if self.ordered else 1)
        self.embedding = self.param("embedding", start, (self.codes, C))
        if self.ordered:
            self.level = self.param("level", nn.initializers.normal(1), (C,))
        # W_f and W_g side by side, for the value a dilation ago and for the present one.
        self.past_kernel = self.param("past_kernel", stacked, (L, C, 2 * C))
        self.present_kernel = self.param("present_kernel", stacked, (L, C, 2 * C))
        self.gate_bias = self.param("gate_bias", zeros, (L, 2 * C))
        self.residual_kernel = self.param("residual_kernel", stacked, (L, C, C))
        self.residual_bias = self.param("residual_bias", zeros, (L, C))
        self.skip_kernel = self.param("skip_kernel", nn.initializers.lecun_normal(), (L * C, S))
        self.skip_bias = self.param("skip_bias", zeros, (S,))
        if self.classes:
            start = nn.initializers.normal(0.05)
            self.class_bias = self.param("class_bias", start, (self.classes, L, 2 * C))
        if self.local_features:
            start = nn.initializers.lecun_normal()
            self.local_kernel = self.param("local_kernel", start, (self.local_features, L * 2 * C))
        self.output = nn.Dense(S, dtype=self.dtype)
        self.logits = nn.Dense(self.codes, precision=jax.lax.Precision.HIGHEST)

    def __call__(
        self, code: jax.Array, label: jax.Array | None = None, local: jax.Array | None = None
    ) -> jax.Array:
        """Logits, float32 `[*code.shape, codes]`: of each value, given those before it.

        Args:
          code: int `[batch, time]` or `[batch, time, 1]`.
          label: int `[batch]`, the class of each sequence; None without classes.
          local: `[batch, stretches, local_features]`; stretches divide the time evenly.

        Raises:
          ValueError: a shape or type does not fit, or conditioning is missing or not expected.
        """
        shape = jnp.shape(code)
        self.check(shape, label, local)
        code = jnp.asarray(code)
        if not jnp.issubdtype(code.dtype, jnp.integer):
            raise ValueError(f"codes must be whole numbers, found {code.dtype}; give int32")
        batch, time = shape[:2]
        h = _moved(self.embed(code.reshape(batch, time)), 1)
        told = self.conditioning(label, local)  # [stretches, layers, batch, 2C]
        stretches = told.shape[0]
        gated = []
        for i, dilation in enumerate(self.dilations()):
            # One product for both taps of the convolution.
            seen = jnp.concatenate([_moved(h, dilation), h], axis=-1)
            kernel = jnp.concatenate([self.past_kernel[i], self.present_kernel[i]])
            a = seen @ kernel.astype(h.dtype)
            a = a.reshape(batch, stretches, time // stretches, -1)
            a = a + jnp.moveaxis(told[:, i], 0, 1)[:, :, None]
            z = _gate(a).reshape(batch, time, -1)
            gated.append(z)
            h = self.residual(h, z, i)
        skip = jnp.concatenate(gated, axis=-1) @ self.skip_kernel.astype(h.dtype)
        return self.head(skip).reshape(*shape, self.codes)

    def log_prob(
        self, code: jax.Array, label: jax.Array | None = None, local: jax.Array | None = None
    ) -> jax.Array:
        """Log-probability of each sequence, float32 `[batch]`, in nats per example.

        Args and errors: those of `__call__`.
        """
        nats = self.nats(code, label, local)
        return -jnp.sum(nats, axis=tuple(range(1, nats.ndim)))

    def nats(
        self, code: jax.Array, label: jax.Array | None = None, local: jax.Array | None = None
    ) -> jax.Array:
        """-log p of each value given those before it, float32, shaped as the code.

        Args and errors: those of `__call__`.
        """
        logits = self(code, label, local)
        code = jnp.asarray(code)
        chosen = jnp.take_along_axis(logits, code[..., None], axis=-1, mode="clip")[..., 0]
        nats = jax.nn.logsumexp(logits, axis=-1) - chosen
        return jnp.where((code >= 0) & (code < self.codes), nats, jnp.nan)

    def check(
        self, shape: tuple[int, ...], label: jax.Array | None, local: jax.Array | None
    ) -> None:
        """Raises ValueError unless codes of this shape and what is told of them fit the model."""
        fits = len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)
        if not fits or 0 in shape[1:]:
            raise ValueError(
                f"codes have the shape {shape}; expected [batch, time] or [batch, time, 1]"
            )
        for name, given, there in (
            ("classes", label, self.classes),
            ("local_features", local, self.local_features),
        ):
            if (given is not None) != (there > 0):
                thing = "labels were" if name == "classes" else "local features were"
                raise ValueError(
                    f"the wavenet has {name}={there} and {thing} "
                    f"{'not ' if given is None else ''}given; give them if it has some only"
                )
        if label is not None:
            label = jnp.asarray(label)
            if label.shape != shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
                raise ValueError(
                    f"labels are {label.dtype} {label.shape}; expected whole numbers {shape[:1]}, "
                    "one for each sequence"
                )
        if local is not None:
            found = jnp.shape(local)
            wanted = (shape[0], self.local_features)
            if len(found) != 3 or (found[0], found[2]) != wanted or not found[1]:
                raise ValueError(
                    f"local features have the shape {found}; expected [{shape[0]}, stretches, "
                    f"{self.local_features}]"
                )
            if shape[1] % found[1]:
                raise ValueError(
                    f"{found[1]} local features do not divide {shape[1]} positions evenly"
                )

    def embed(self, code: jax.Array) -> jax.Array:
        """Embeddings `[..., C]` of values `[...]`, NaN where there is no such value."""
        h = jnp.take(self.embedding, code, axis=0, mode="clip")
        if self.ordered:
            h += (2 * code[..., None] / (self.codes - 1) - 1) * self.level
        inside = (code >= 0) & (code < self.codes)
        return jnp.where(inside[..., None], h, jnp.nan).astype(self.dtype)

    def conditioning(self, label: jax.Array | None, local: jax.Array | None) -> jax.Array:
        """What is added before each gate, `[stretches, layers, batch, 2C]`; batch 1 if untold."""
        told = self.gate_bias[None, :, None]
        if label is not None:
            rows = jnp.take(self.class_bias, label, axis=0, mode="clip")  # V^T h
            inside = (label >= 0) & (label < self.classes)
            rows = jnp.where(inside[:, None, None], rows, jnp.nan)
            told = told + jnp.moveaxis(rows, 0, 1)[None]
        if local is not None:
            # V * y as a 1x1 convolution, before y is repeated: the same, at a stretch's cost.
            y = local.astype(self.dtype) @ self.local_kernel.astype(self.dtype)
            y = y.reshape(*y.shape[:2], *self.gate_bias.shape)  # [batch, stretches, layers, 2C]
            told = told + jnp.transpose(y, (1, 2, 0, 3))
        return told.astype(self.dtype)

    def residual(self, h: jax.Array, z: jax.Array, i: int) -> jax.Array:
        """`h` one layer on, from the gated units z of layer i."""
        return (
            h + z @ self.residual_kernel[i].astype(h.dtype) + self.residual_bias[i].astype(h.dtype)
        )

    def head(self, skip: jax.Array) -> jax.Array:
        """Logits, float32 `[..., codes]`, from the sum of the skip connections."""
        u = self.output(nn.relu(skip + self.skip_bias.astype(skip.dtype)))
        return self.logits(nn.relu(u).astype(jnp.float32))

    def next_position(
        self, past: jax.Array, h: jax.Array, told: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """One position, from what each layer saw a dilation ago.

        Args:
          past: `[layers, batch, C]`, what went into each layer a dilation before this position.
          h: embedding of the value before, `[batch, C]`.
          told: of this position's stretch, `[layers, batch, 2C]`.

        Returns:
          What goes into each layer now, `[layers, batch, C]`, and the logits `[batch, codes]`.
        """
        a = jnp.einsum("lbc,lcd->lbd", past, self.past_kernel.astype(h.dtype)) + told
        seen, gated = [], []
        for i in range(len(self.dilations())):
            seen.append(h)
            z = _gate(a[i] + h @ self.present_kernel[i].astype(h.dtype))
            gated.append(z)
            h = self.residual(h, z, i)
        skip = jnp.concatenate(gated, axis=-1) @ self.skip_kernel.astype(h.dtype)
        return jnp.stack(seen), self.head(skip)


def _moved(h: jax.Array, by: int) -> jax.Array:
    """`[batch, time, C]` moved to later times, zeros in front."""
    return jnp.pad(h, ((0, 0), (by, 0), (0, 0)))[:, : h.shape[1]]


def _gate(a: jax.Array) -> jax.Array:
    """Eq. 2, tanh(a_f) * sigmoid(a_g): `[..., 2C]` to `[..., C]`."""
    f, g = jnp.split(a, 2, axis=-1)
    return jnp.tanh(f) * nn.sigmoid(g)
