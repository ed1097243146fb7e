"""The Pallas kernel, interpreted, against the search the package uses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.nearest import nearest_codeword
from bottlenecks.nearest_pallas import nearest_codeword_pallas


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnames=("tile", "rows"))
def kernel(features, codebook, tile=8, rows=16):
    return nearest_codeword_pallas(features, codebook, tile=tile, rows=rows, interpret=True)


@pytest.mark.parametrize(
    ("shape", "codes", "dtype"),
    [
        ((32, 5), 16, jnp.float32),  # whole blocks, whole tiles
        ((3, 7, 5), 21, jnp.float32),  # padded ones
        ((5,), 3, jnp.float32),
        ((40, 6), 30, jnp.bfloat16),
    ],
)
def test_agrees_with_the_scan_and_with_float64(shape, codes, dtype):
    features, codebook = random(0, *shape).astype(dtype), random(1, codes, shape[-1]).astype(dtype)
    found, expected = kernel(features, codebook), nearest_codeword(features, codebook)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-6)
    x, e = (np.float64(a.astype(jnp.float32)) for a in (features, codebook))
    distance = np.sum((x[..., None, :] - e) ** 2, axis=-1)
    np.testing.assert_array_equal(found.index, np.argmin(distance, axis=-1))


@pytest.mark.parametrize("tile", [1, 2, 3, 8])
def test_lowest_index_wins_and_nan_stays_in_range(tile):
    codebook = jnp.array([[9.0, 9], [1, 0], [-1, 0], [1, 0], [0, 1], [0, -1], [1, 0], [-1, 0]])
    features = jnp.array([[0.0, 0], [3, 0], [-3, 0], [0, -3], [jnp.nan, 0]])
    np.testing.assert_array_equal(kernel(features, codebook, tile=tile).index, [1, 1, 2, 5, 0])


def test_lowers_for_tpu():
    shapes = [jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (1024, 512)]
    lowered = jax.jit(nearest_codeword_pallas).trace(*shapes).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(7, 4\)"):
        kernel(jnp.zeros((5, 3)), jnp.zeros((7, 4)))
    with pytest.raises(ValueError, match="got 0 and 16"):
        kernel(jnp.zeros((5, 3)), jnp.zeros((7, 3)), tile=0)
