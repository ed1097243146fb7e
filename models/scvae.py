"""SC-VAE (Xiao et al. 2025): the sparse code of the features on a dictionary as a bottleneck.

Source: "SC-VAE: Sparse Coding-based Variational Autoencoder with Learned ISTA", Pattern Recognition
161, https://arxiv.org/abs/2303.16666, and its released code (sotiraslab/SC-VAE).
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from bottlenecks import sparse
from bottlenecks.dictionaries import dct_dictionary, overcomplete_dct, spectral_norm_squared
from bottlenecks.learned_ista import ListaWeights, lista, published_scvae, start_lista
from bottlenecks.rotation import normalize
from models.autoencoder import BottleneckOutput

MODES = ("fista", "published", "paper_v2")


class SparseCoder(nn.Module):
    """A sparse code z of every position's features e on a dictionary D; the decoder reads z D^T.

    Losses, both `[batch]`, summed over the positions of an example: `latent` = 1/2 ||e - z D^T||^2
    and `l1` = alpha ||z||_1. They are nats, up to constants, of a Gaussian of variance 1 around the
    latent and of a Laplace prior of rate alpha: with all weights 1 the loss is -log p(x, e, z), and
    its part that is this module's is what the unrolled steps minimise over z.

    Metrics, all `[batch]`: `non_zeros`, the entries of an example's code that are not 0,
    `zero_fraction` of all its entries, and `hoyer`, their sparseness (1: one entry, 0: all alike).

    The modes:

    - "fista": T steps of FISTA from 0. D is learned from random directions, and its atoms have norm
      1 wherever it is used. Each example's features are scaled to a mean ||e||^2 of 1 over its
      positions. So the objective can be trained: small features do not evade it, and it cannot draw
      all features to 0, whose code nothing leaves again.
    - "published": the released code. D, from an overcomplete DCT, and c, from ||D||_2^2, are plain
      parameters; the first code is ST(e D, alpha / c), then come T steps of ISTA (T + 1 thresholds
      in all). Its loss has no L1 term (weight 0), and it takes the features as they are
      (`project=False`).
    - "paper_v2": the second version of the preprint, where the release is silent. D is the
      orthonormal DCT, fixed; the steps are LISTA's, with W_e, S and theta_t free from the start at
      ISTA. Without learning them, depth would do nothing: one threshold is the exact code.

    Attributes:
      depth: d, the length of a feature and of an atom. A square, unless the mode is "fista".
      atoms: K, the length of a code; `depth` if the mode is "paper_v2".
      penalty: alpha, in units of the features: the exact code is 0 where no |d_j^T e| exceeds it.
      iterations: T.
      mode: see above.
      project: put a linear layer to `depth` first; else the features must have that many.
      axis_name: unused, for nothing here is gathered over the batch.
      dtype: of the projection's arithmetic; codes, losses and metrics are float32 always.
    """

    depth: int
    atoms: int
    penalty: float
    iterations: int = 16
    mode: str = "fista"
    project: bool = True
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Refuses settings that cannot be."""
        if self.mode not in MODES:
            raise ValueError(f"bottleneck.mode is {self.mode!r}; known: {', '.join(MODES)}")
        for name, least in (("depth", 1), ("atoms", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"bottleneck.{name} is {getattr(self, name)}; it must be at least {least}"
                )
        if not self.penalty > 0:
            raise ValueError(
                f"bottleneck.penalty is {self.penalty}; it must be above 0, for it makes the zeros"
            )
        if self.mode != "fista" and (self.depth < 4 or math.isqrt(self.depth) ** 2 != self.depth):
            raise ValueError(
                f"bottleneck.depth is {self.depth}, but mode {self.mode!r} has cosines of square "
                "patches for atoms; it must be a square such as 16, 64 or 256"
            )
        if self.mode == "paper_v2" and self.atoms != self.depth:
            raise ValueError(
                f"bottleneck.atoms is {self.atoms}, but an orthonormal dictionary has as many as "
                f"bottleneck.depth, {self.depth}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> BottleneckOutput:
        """Codes `[batch, ..., features]`; the latent is `[batch, ..., depth]`.

        `code` is float32 `[batch, ..., atoms]`. `train` and `mask` change nothing: examples do not
        see each other.
        """
        del train, mask
        if self.project:
            features = nn.Dense(self.depth, dtype=self.dtype, name="project")(features)
        elif features.shape[-1] != self.depth:
            raise ValueError(
                f"the encoder gives {features.shape[-1]} features and bottleneck.depth is "
                f"{self.depth}; make them equal, or set bottleneck.project=True"
            )
        e = features.astype(jnp.float32)
        if self.mode == "fista":
            e = _unit_mean_square(e)
        self.sow("intermediates", "signals", e)  # for whoever asks, as the study of depth does
        coded = self._code(e)
        z = coded.code
        flat = z.reshape(z.shape[0], -1)
        axes = tuple(range(1, e.ndim))
        return BottleneckOutput(
            latent=coded.latent.astype(features.dtype),
            code=z,
            losses={
                "latent": 0.5 * jnp.sum(jnp.square(e - coded.latent), axis=axes),
                "l1": self.penalty * jnp.sum(jnp.abs(flat), axis=1),
            },
            metrics={
                "non_zeros": jnp.sum(flat != 0, axis=1, dtype=jnp.float32),
                "zero_fraction": sparse.zero_fraction(flat),
                "hoyer": sparse.hoyer(flat),
            },
        )

    def dictionary(self) -> jax.Array:
        """The atoms as columns, D `[depth, atoms]`, float32, as they are used."""
        if self.mode == "paper_v2":
            return dct_dictionary(math.isqrt(self.depth))
        return self._atoms(self.get_variable("params", "dictionary"))

    def look_up(self, code: jax.Array) -> jax.Array:
        """Latent `[..., depth]`, float32, of codes `[..., atoms]`: z D^T."""
        return jnp.matmul(code, self.dictionary().T, precision=jax.lax.Precision.HIGHEST)

    def _code(self, e: jax.Array) -> sparse.SparseCode:
        """The code of float32 `[..., depth]`, by the mode."""
        if self.mode == "paper_v2":
            D = self.dictionary()
            steps = {"penalty": self.penalty, "layers": self.iterations}
            weights = self.param("lista", lambda _: start_lista(D, **steps)._asdict())
            return lista(e, D, ListaWeights(**weights))
        D = self._atoms(self.param("dictionary", self._start))
        steps = {"penalty": self.penalty, "iterations": self.iterations}
        if self.mode == "published":
            c = self.param("c", lambda _: spectral_norm_squared(D))
            return published_scvae(e, D, **steps, c=c)
        # The step length changes how soon the code is found, not which: no gradient through it.
        c = spectral_norm_squared(jax.lax.stop_gradient(D))
        return sparse.fista(e, D, **steps, c=c)

    def _start(self, key: jax.Array) -> jax.Array:
        if self.mode == "published":
            # 23 frequencies for the 512 atoms of the release.
            frequencies = math.isqrt(self.atoms - 1) + 1
            return overcomplete_dct(
                side=math.isqrt(self.depth), frequencies=frequencies, atoms=self.atoms
            )
        return self._atoms(jax.random.normal(key, (self.depth, self.atoms), jnp.float32))

    def _atoms(self, dictionary: jax.Array) -> jax.Array:
        """The atoms of norm 1, except as published."""
        return dictionary if self.mode == "published" else normalize(dictionary.T).T


def _unit_mean_square(e: jax.Array) -> jax.Array:
    """`[batch, ..., depth]`, each example scaled: the mean of ||e||^2 over its positions is 1."""
    direction = normalize(e.reshape(e.shape[0], -1)).reshape(e.shape)
    return math.sqrt(math.prod(e.shape[1:-1])) * direction
