"""The nearest codeword as one Pallas kernel. Its speed on an accelerator is unmeasured.

Nothing chooses it: `nearest_codeword` is what the package uses everywhere.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from bottlenecks.nearest import Nearest, check_features


def nearest_codeword_pallas(
    features: chex.Array,
    codebook: chex.Array,
    *,
    tile: int = 128,
    rows: int = 256,
    interpret: bool = False,
) -> Nearest:
    """What `nearest_codeword` finds, with scores that never leave the chip. For TPU.

    Checked in interpret mode, and that it lowers for TPU; neither its speed nor its results have
    been seen on one. It does not lower for GPU. Each program of the grid holds `rows` vectors and
    the whole codebook, which has to fit in the vector memory.

    Args:
      features: floating `[..., D]`, z_e.
      codebook: floating `[K, D]`, e.
      tile: codewords compared at a time.
      rows: vectors of one program.
      interpret: run the kernel step by step as JAX operations, on any platform.

    Returns:
      A `Nearest`, as `nearest_codeword` gives.

    Raises:
      ValueError: if the shapes do not fit, an array is not floating, or tile or rows < 1.
    """
    check_features(features, codebook)
    if tile < 1 or rows < 1:
        raise ValueError(f"tile and rows are 1 or more, got {tile} and {rows}.")
    x = jax.lax.stop_gradient(features).astype(jnp.float32)
    e = jax.lax.stop_gradient(codebook).astype(jnp.float32)
    flat = x.reshape(-1, x.shape[-1])
    padded = jnp.pad(flat, ((0, -flat.shape[0] % rows), (0, 0)))
    tiles = jnp.pad(e, ((0, -e.shape[0] % tile), (0, 0)))
    half_norm = jnp.pad(
        0.5 * jnp.sum(e * e, axis=-1), (0, tiles.shape[0] - e.shape[0]), constant_values=jnp.inf
    )
    found = pl.pallas_call(
        functools.partial(_kernel, tile=tile),
        grid=(padded.shape[0] // rows,),
        in_specs=[
            pl.BlockSpec((rows, x.shape[-1]), lambda i: (i, 0)),
            pl.BlockSpec(tiles.shape, lambda i: (0, 0)),
            pl.BlockSpec((1, tiles.shape[0]), lambda i: (0, 0)),
        ],
        out_specs=pl.BlockSpec((rows, 1), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((padded.shape[0], 1), jnp.int32),
        interpret=interpret,
    )(padded, tiles, half_norm[None])
    index = found[: flat.shape[0], 0].reshape(x.shape[:-1])
    return Nearest(index=index, distance=jnp.sum(jnp.square(x - e[index]), axis=-1))


def _kernel(
    x_ref: jax.Ref, e_ref: jax.Ref, half_norm_ref: jax.Ref, index_ref: jax.Ref, *, tile: int
) -> None:
    """The best of `[rows]` vectors, tile after tile, lowest index first."""
    x = x_ref[...]
    rows = x.shape[0]
    column = jax.lax.broadcasted_iota(jnp.int32, (rows, tile), 1)

    def compare(t: chex.Array, best: tuple[chex.Array, chex.Array]) -> tuple:
        best_score, best_index = best
        here = pl.ds(t * tile, tile)
        score = jax.lax.dot_general(
            x,
            e_ref[here, :],
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        score = score - half_norm_ref[:, here]
        highest = jnp.max(score, axis=1, keepdims=True)
        first = jnp.min(jnp.where(score == highest, column, tile), axis=1, keepdims=True)
        better = highest > best_score
        index = jnp.where(better, t * tile + first, best_index)
        return jnp.where(better, highest, best_score), index

    start = jnp.full((rows, 1), -jnp.inf), jnp.zeros((rows, 1), jnp.int32)
    index_ref[...] = jax.lax.fori_loop(0, e_ref.shape[0] // tile, compare, start)[1]
