"""Gated PixelCNN: the likelihood of a grid of codes, one position after another.

Sources:
  van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu 2016, "Conditional Image
    Generation with PixelCNN Decoders", https://arxiv.org/abs/1606.05328 (the layers).
  van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel Recurrent Neural Networks",
    https://arxiv.org/abs/1601.06759 (the order, and the ReLU layers before the softmax).
  Larochelle & Murray 2011, "The Neural Autoregressive Distribution Estimator", AISTATS (several
    codes at one position).

Positions come row by row, from left to right. No convolution is masked: the grid is moved down by
a row for the vertical stack and right by a column for the horizontal one, and both then see
themselves and what came before: the shift by padding and cropping of section 2.2.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class GatedLayer(nn.Module):
    """One layer of both stacks (section 2.2, Figure 2).

    Attributes:
      features: p, the feature maps of either stack.
      kernel: n, odd; the vertical stack sees ceil(n/2) rows of n, the horizontal ceil(n/2) columns.
      classes: of labels; 0 for none.
      located: whether a map of features, or a vector for all positions, goes in too.
      dtype: of the arithmetic.
    """

    features: int
    kernel: int
    classes: int = 0
    located: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """The convolutions, W_f and W_g of Eq. 2 side by side, and V_f and V_g of Eq. 4."""
        n, p = self.kernel, self.features
        self.vertical_conv = nn.Conv(
            2 * p, (n // 2 + 1, n), padding=((0, 0), (n // 2, n // 2)), dtype=self.dtype
        )
        self.vertical_to_horizontal = nn.Dense(2 * p, dtype=self.dtype)
        # Without a bias: what is added to it from the vertical stack has one.
        self.horizontal_kernel = self.param(
            "horizontal_kernel", nn.initializers.lecun_normal(), (n // 2 + 1, p, 2 * p)
        )
        self.residual = nn.Dense(p, dtype=self.dtype)
        if self.classes:
            start, shape = nn.initializers.normal(0.05), (self.classes, 2 * p)
            self.vertical_class = self.param("vertical_class", start, shape)
            self.horizontal_class = self.param("horizontal_class", start, shape)
        if self.located:
            # V * s, "an unmasked 1x1 convolution" (section 2.3); of a vector, V^T h of Eq. 4.
            self.vertical_map = nn.Dense(2 * p, use_bias=False, dtype=self.dtype)
            self.horizontal_map = nn.Dense(2 * p, use_bias=False, dtype=self.dtype)

    def __call__(
        self,
        v: jax.Array,
        h: jax.Array,
        label: jax.Array | None,
        features: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Both stacks, `[batch, height, width, p]` each, one layer on."""
        before = (self.kernel // 2, 0)
        seen = jnp.pad(v, ((0, 0), before, (0, 0), (0, 0)))
        v, from_vertical = self.vertical(seen, label, features)
        a = jax.lax.conv_general_dilated(
            h,
            self.horizontal_kernel[None].astype(self.dtype),
            window_strides=(1, 1),
            padding=((0, 0), before),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return v, self.residual(_gate(a + from_vertical)) + h

    def vertical(
        self, v: jax.Array, label: jax.Array | None, features: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The vertical stack's next layer, and what the horizontal one takes from it.

        Args:
          v: `[batch, floor(n/2) + rows, width, p]`: the rows, and those above them that they see.
          label: int `[batch]`, or None without classes.
          features: s, `[batch, rows, width, any]`, or h, `[batch, 1, 1, any]`; None if it is not
            `located`.

        Returns:
          `[batch, rows, width, p]` and `[batch, rows, width, 2p]`, the latter with the class and
          the features in it.
        """
        a = self.vertical_conv(v)
        if self.classes:
            a += _class_bias(self.vertical_class, label, a.dtype)
        if self.located:
            a += self.vertical_map(features)
        from_vertical = self.vertical_to_horizontal(a)
        if self.classes:
            from_vertical += _class_bias(self.horizontal_class, label, a.dtype)
        if self.located:
            from_vertical += self.horizontal_map(features)
        return _gate(a), from_vertical

    def column(self, h: jax.Array, from_vertical: jax.Array) -> jax.Array:
        """The horizontal stack's next layer at one position, `[batch, p]`.

        Args:
          h: `[batch, ceil(n/2), p]`, the position and those left of it.
          from_vertical: `[batch, 2p]`.
        """
        # One product, for a convolution with a single output takes two to three times as long.
        kernel = self.horizontal_kernel.astype(self.dtype).reshape(-1, 2 * self.features)
        a = h.reshape(h.shape[0], -1) @ kernel + from_vertical
        return self.residual(_gate(a)) + h[:, -1]


class GatedPixelCNN(nn.Module):
    """Autoregressive prior over grids of codes, optionally given a class or features of positions.

    Takes codes, int `[batch, height, width]` or `[batch, height, width, codebooks]`, of any height
    and width. A position sees all of the past if layers * floor(kernel / 2) is at least the larger
    of height - 1 and width - 1: no spot is blind (section 2.2).

    Codes at one position are drawn one after another. The ReLU layer before the softmax is that of
    a NADE over them: codebook j adds to it the embeddings of codes 0 .. j-1, which all later
    codebooks share, and has a softmax layer of its own.

    A code or a label outside its range makes NaN, for a compiled program cannot refuse it.

    Attributes:
      codes: K, the values of a code.
      layers: of both stacks.
      features: p, the feature maps of either stack.
      codebooks: codes per position.
      kernel: n, odd, 3 or more.
      output_features: of the ReLU layer before the softmax.
      classes: of labels; 0 for an unconditional prior.
      located: whether a map of features of the positions, s of section 2.3, is given too; or a
        vector for all of them, the h of Eq. 4, which is a map of one position.
      dtype: of the convolutions; logits and probabilities are float32.

    Raises:
      ValueError: a size that cannot be.
    """

    codes: int
    layers: int
    features: int
    codebooks: int = 1
    kernel: int = 5
    output_features: int = 512
    classes: int = 0
    located: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses sizes that cannot be."""
        for name in ("codes", "layers", "features", "codebooks", "kernel", "output_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"prior.{name} is {getattr(self, name)}; it must be at least 1")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"prior.kernel is {self.kernel}; it must be odd, and at least 3")
        if self.classes < 0:
            raise ValueError(f"prior.classes is {self.classes}; it must be 0 (none) or more")
        super().__post_init__()

    @property
    def conditions(self) -> tuple[str, ...]:
        """Entries of a batch that `log_prob` takes after the codes."""
        return ("label",) if self.classes else ()

    def setup(self) -> None:
        """Embeddings, layers, and the two layers after them."""
        K, p = self.codes, self.features
        start = nn.initializers.normal(0.05)
        # Their sum, over the codebooks, is a 1x1 convolution of the codes written as one-hots.
        self.embedding = self.param("embedding", nn.initializers.normal(1), (self.codebooks, K, p))
        self.stack = [
            GatedLayer(p, self.kernel, self.classes, self.located, self.dtype, name=f"layer_{i}")
            for i in range(self.layers)
        ]
        self.output = nn.Dense(self.output_features, dtype=self.dtype)
        if self.codebooks > 1:
            self.earlier = self.param(
                "earlier", start, (self.codebooks - 1, K, self.output_features)
            )
        self.logits_kernel = self.param(
            "logits_kernel",
            nn.initializers.lecun_normal(batch_axis=0),
            (self.codebooks, self.output_features, K),
        )
        self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.codebooks, K))

    def __call__(
        self,
        code: jax.Array,
        label: jax.Array | None = None,
        features: jax.Array | None = None,
    ) -> jax.Array:
        """Logits, float32 `[*code.shape, codes]`: of each code, given those before it.

        Args:
          code: int `[batch, height, width]` (one codebook) or `[batch, height, width, codebooks]`.
          label: int `[batch]`, the class of each grid; None for an unconditional prior.
          features: `[batch, height, width, any]` of the positions, or `[batch, 1, 1, any]` of all
            of them; None if it is not `located`.

        Raises:
          ValueError: shape or type of the codes, labels or features does not fit; labels without
            classes, or classes without labels; and so with features.
        """
        shape = jnp.shape(code)
        self.check(shape, label, features)
        code = jnp.asarray(code)
        if not jnp.issubdtype(code.dtype, jnp.integer):
            raise ValueError(f"codes must be whole numbers, found {code.dtype}; give int32")
        code = code.reshape(*shape[:3], self.codebooks)
        u = self.output_layer(self.stacks(self.embed(code), label, features))[..., None, :]
        if self.codebooks > 1:
            earlier = [rows_of(self.earlier[j], code[..., j]) for j in range(self.codebooks - 1)]
            seen = jnp.cumsum(jnp.stack(earlier, axis=-2), axis=-2).astype(u.dtype)
            u = jnp.concatenate([u, u + seen], axis=-2)
        logits = [self.codebook_logits(u[..., j, :], j) for j in range(self.codebooks)]
        return jnp.stack(logits, axis=-2).reshape(*shape, self.codes)

    def log_prob(
        self,
        code: jax.Array,
        label: jax.Array | None = None,
        features: jax.Array | None = None,
    ) -> jax.Array:
        """Log-probability of each grid, float32 `[batch]`, in nats per example.

        Args and errors: those of `__call__`.
        """
        log_p = jax.nn.log_softmax(self(code, label, features))
        code = jnp.asarray(code)
        chosen = jnp.take_along_axis(log_p, code[..., None], axis=-1, mode="clip")[..., 0]
        inside = (code >= 0) & (code < self.codes)
        return jnp.sum(jnp.where(inside, chosen, jnp.nan), axis=tuple(range(1, code.ndim)))

    def check(
        self,
        shape: tuple[int, ...],
        label: jax.Array | None,
        features: jax.Array | None = None,
    ) -> None:
        """Raises ValueError unless codes of this shape, labels and features fit the prior."""
        with_codebooks = len(shape) == 4 and shape[3] == self.codebooks
        if not (with_codebooks or (len(shape) == 3 and self.codebooks == 1)) or 0 in shape[1:]:
            last = "[batch, height, width] or " if self.codebooks == 1 else ""
            raise ValueError(
                f"codes have the shape {shape}; expected {last}[batch, height, width, "
                f"{self.codebooks}], for the prior has codebooks={self.codebooks}"
            )
        if (label is not None) != (self.classes > 0):
            raise ValueError(
                f"the prior has classes={self.classes} and labels were "
                f"{'not ' if label is None else ''}given; give labels if there are classes only"
            )
        if label is not None:
            label = jnp.asarray(label)
            if label.shape != shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
                raise ValueError(
                    f"labels are {label.dtype} {label.shape}; expected whole numbers {shape[:1]}, "
                    "one for each grid of codes"
                )
        found = None if features is None else jnp.shape(features)
        fitting = ((*shape[:3],), (shape[0], 1, 1))
        if (found is not None) != self.located or (found and found[:-1] not in fitting):
            whole, one = ((*fit, "any") for fit in fitting)
            wanted = f"{whole} or {one} expected" if self.located else "it takes none"
            raise ValueError(f"the features of positions are {found}; {wanted}")

    def embed(self, code: jax.Array) -> jax.Array:
        """Embeddings `[..., p]` of the codes `[..., codebooks]` at a position."""
        rows = [rows_of(self.embedding[j], code[..., j]) for j in range(self.codebooks)]
        return sum(rows).astype(self.dtype)

    def stacks(
        self,
        x: jax.Array,
        label: jax.Array | None = None,
        features: jax.Array | None = None,
    ) -> jax.Array:
        """The horizontal stack's last layer, for embeddings `[batch, height, width, p]`."""
        v = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        h = jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
        for layer in self.stack:
            v, h = layer(v, h, label, features)
        return h

    def output_layer(self, h: jax.Array) -> jax.Array:
        """What goes into the ReLU before the softmax, `[..., output_features]`."""
        return self.output(nn.relu(h))

    def condition(self, u: jax.Array, code: jax.Array, j: int) -> jax.Array:
        """`u` of `output_layer` for the codebooks after j, given the code `[...]` of codebook j."""
        return u + rows_of(self.earlier[j], code).astype(u.dtype)

    def codebook_logits(self, u: jax.Array, j: int) -> jax.Array:
        """Logits of codebook j, float32 `[..., codes]`."""
        u = nn.relu(u).astype(jnp.float32)
        product = jnp.dot(u, self.logits_kernel[j], precision=jax.lax.Precision.HIGHEST)
        return product + self.logits_bias[j]

    def next_row(
        self,
        above: tuple[jax.Array, ...],
        v: jax.Array,
        label: jax.Array | None,
        features: jax.Array | None,
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """One row of the vertical stack, from what each layer keeps of the rows above it.

        Args:
          above: for each layer, the last floor(n/2) rows that went into it,
            `[batch, floor(n/2), width, p]`.
          v: embeddings of the row above, `[batch, 1, width, p]`.
          label: as of `__call__`.
          features: of the row, `[batch, 1, width, any]`, or of all, `[batch, 1, 1, any]`; or None.

        Returns:
          `above` for the row after, and what the horizontal stack takes, for each layer
          `[batch, 1, width, 2p]`.
        """
        kept, taken = [], []
        for layer, rows in zip(self.stack, above, strict=True):
            seen = jnp.concatenate([rows, v], axis=1)
            v, from_vertical = layer.vertical(seen, label, features)
            kept.append(seen[:, 1:])
            taken.append(from_vertical)
        return tuple(kept), tuple(taken)

    def next_column(
        self, left: tuple[jax.Array, ...], h: jax.Array, from_vertical: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """One position of the horizontal stack, from what each layer keeps of those left of it.

        Args:
          left: for each layer, the last floor(n/2) columns that went into it,
            `[batch, floor(n/2), p]`.
          h: embedding of the position to the left, `[batch, p]`.
          from_vertical: for each layer `[batch, 2p]`.

        Returns:
          `left` for the position after, and `output_layer` of this one, `[batch, output_features]`.
        """
        kept = []
        for layer, columns, a in zip(self.stack, left, from_vertical, strict=True):
            seen = jnp.concatenate([columns, h[:, None]], axis=1)
            h = layer.column(seen, a)
            kept.append(seen[:, 1:])
        return tuple(kept), self.output_layer(h)


def _gate(a: jax.Array) -> jax.Array:
    """Eq. 2, tanh(a_f) * sigmoid(a_g): `[..., 2p]` to `[..., p]`."""
    f, g = jnp.split(a, 2, axis=-1)
    return jnp.tanh(f) * nn.sigmoid(g)


def _class_bias(table: jax.Array, label: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """V^T h of Eq. 4 for a one-hot h, `[batch, 1, 1, 2p]`."""
    return rows_of(table, label)[:, None, None].astype(dtype)


def rows_of(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of a table, NaN where there is no such row: a clipped index would pass for a code."""
    inside = (index >= 0) & (index < table.shape[0])
    rows = jnp.take(table, index, axis=0, mode="clip")
    return jnp.where(inside[..., None], rows, jnp.nan)
