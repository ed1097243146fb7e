import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bottlenecks import nearest_codeword


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def oracle(features, codebook):
    """Every distance in float64; np.argmin gives the first minimum."""
    difference = features.astype(np.float64)[..., None, :] - codebook.astype(np.float64)
    distance = np.sum(difference**2, axis=-1)
    return np.argmin(distance, axis=-1), np.min(distance, axis=-1)


@pytest.mark.parametrize(
    ("shape", "codes", "tile"),
    [
        ((200, 7), 256, 128),  # whole tiles
        ((200, 7), 300, 128),  # a padded last tile
        ((200, 7), 5, 128),  # fewer codes than a tile
        ((200, 7), 5, 1),
        ((4, 3, 6, 2), 50, 7),
        ((3,), 10, 4),  # one vector
        ((20, 1), 1, 128),  # one code, one dimension
        ((0, 3), 4, 2),  # no vector
    ],
)
def test_agrees_with_float64_oracle(shape, codes, tile):
    features, codebook = random(0, *shape), random(1, codes, shape[-1])
    found = nearest_codeword(jnp.asarray(features), jnp.asarray(codebook), tile=tile)
    index, distance = oracle(features, codebook)
    assert found.index.dtype == jnp.int32
    assert found.distance.dtype == jnp.float32
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)


@pytest.mark.parametrize("tile", [1, 2, 3, 4, 6, 128])
def test_sonnet_vqvae_case_with_exact_ties(tile):
    # google-deepmind/sonnet@26b0518 sonnet/src/conformance/goldens.py, case vqvae (D=4, K=6): its
    # codebook [D, K] and inputs count 0, 1, 2 ... row by row. Codes computed from Eq. 1 in float64;
    # rows 2 and 3 lie exactly between two codes.
    codebook = jnp.arange(24.0).reshape(4, 6).T
    features = jnp.arange(24.0).reshape(2, 3, 4)
    found = nearest_codeword(features, codebook, tile=tile)
    np.testing.assert_array_equal(found.index, [[0, 0, 0], [4, 5, 5]])


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 8])
def test_lowest_index_wins_within_and_across_tiles(tile):
    codebook = jnp.array([[9.0, 9], [1, 0], [-1, 0], [1, 0], [0, 1], [0, -1], [1, 0], [-1, 0]])
    found = nearest_codeword(jnp.array([[0.0, 0], [3, 0], [-3, 0], [0, -3]]), codebook, tile=tile)
    np.testing.assert_array_equal(found.index, [1, 1, 2, 5])


@pytest.mark.parametrize("rows", [1, 3, 7, 11, 12])
def test_blocks_of_rows_change_nothing(rows):
    features, codebook = jnp.asarray(random(0, 3, 4, 5)), jnp.asarray(random(1, 9, 5))
    whole = jax.jit(nearest_codeword)(features, codebook)
    found = jax.jit(functools.partial(nearest_codeword, tile=4, rows=rows))(features, codebook)
    for field, expected in zip(found, whole, strict=True):
        np.testing.assert_array_equal(field, expected)
    assert found.index.dtype == jnp.int32


def test_blocks_of_rows_run_under_shard_map_and_stay_where_jit_has_spread_them():
    features, codebook = jnp.asarray(random(0, 48, 5)), jnp.asarray(random(1, 9, 5))
    f = functools.partial(nearest_codeword, rows=5)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    split, same = PartitionSpec("batch"), PartitionSpec()
    mapped = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(split, same), out_specs=split))
    spread = jax.jit(functools.partial(nearest_codeword, rows=12))
    x = jax.device_put(features, NamedSharding(mesh, split))
    e = jax.device_put(codebook, NamedSharding(mesh, same))
    expected = oracle(np.asarray(features), np.asarray(codebook))[0]
    for g in (mapped, spread):
        np.testing.assert_array_equal(jax.block_until_ready(g(x, e)).index, expected)
    # No device sees the vectors of another.
    text = spread.lower(x, e).compile().as_text()
    assert "while" in text
    assert not re.search("all-gather|all-to-all|all-reduce|collective-permute", text)


def test_padding_of_the_last_tile_never_wins():
    # The tile is filled up with zeros, to which these features are nearest of all.
    codebook = 100 + random(0, 5, 3)
    found = nearest_codeword(jnp.zeros((4, 3)), jnp.asarray(codebook), tile=4)
    np.testing.assert_array_equal(found.index, oracle(np.zeros((4, 3)), codebook)[0])


def test_distance_keeps_its_digits_far_from_the_origin():
    # ||x||^2 - 2 x.e + ||e||^2 in float32 would give 0 here, or worse a negative number.
    codebook = jnp.array([[1000.0, 1000.0]])
    found = nearest_codeword(codebook + 0.0625, codebook)
    np.testing.assert_array_equal(found.distance, [2 * 0.0625**2])


def test_bfloat16_chooses_as_its_float32_values():
    features, codebook = jnp.asarray(random(0, 2000, 8)), jnp.asarray(random(1, 256, 8))
    features, codebook = features.astype(jnp.bfloat16), codebook.astype(jnp.bfloat16)
    expected, _ = oracle(*(np.asarray(x.astype(jnp.float32)) for x in (features, codebook)))
    np.testing.assert_array_equal(nearest_codeword(features, codebook).index, expected)
    # What arithmetic in bfloat16 would choose is something else.
    score = features @ codebook.T - jnp.sum(codebook**2, axis=-1)[None] / 2
    assert np.mean(np.argmax(score, axis=-1) != expected) > 0.01


def test_nan_gives_an_index_in_range_and_a_nan_distance():
    features, codebook = jnp.asarray(random(0, 6, 3)), jnp.asarray(random(1, 5, 3))
    bad = features.at[2, 1].set(jnp.nan).at[4].set(jnp.inf)
    clean, found = (nearest_codeword(x, codebook, tile=2) for x in (features, bad))
    assert np.all((found.index >= 0) & (found.index < 5))
    assert np.isnan(found.distance[2])
    others = np.array([0, 1, 3, 5])
    np.testing.assert_array_equal(found.index[others], clean.index[others])


def test_no_gradient_flows():
    features, codebook = jnp.asarray(random(0, 6, 3)), jnp.asarray(random(1, 5, 3))
    gradients = jax.grad(lambda x, e: jnp.sum(nearest_codeword(x, e).distance), argnums=(0, 1))
    for gradient in gradients(features, codebook):
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_never_forms_the_table_of_distances_and_multiplies_in_full_precision():
    features, codebook = jnp.zeros((64, 4), jnp.bfloat16), jnp.zeros((64, 4), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda x, e: nearest_codeword(x, e, tile=8))(features, codebook)
    everything = list(equations(jaxpr.jaxpr))
    assert max(v.aval.size for q in everything for v in q.outvars) == 64 * 8
    jaxpr = jax.make_jaxpr(lambda x, e: nearest_codeword(x, e, tile=8, rows=16))(features, codebook)
    assert max(v.aval.size for q in equations(jaxpr.jaxpr) for v in q.outvars) == 64 * 4
    products = [q for q in everything if q.primitive.name == "dot_general"]
    assert len(products) == 1
    assert products[0].params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    assert {v.aval.dtype for v in products[0].invars} == {jnp.dtype(jnp.float32)}


def test_memory_at_a_batch_of_images_and_many_codes():
    # 128 images of 32 x 32 latents against 65536 codes: all distances would fill 34 GB. What XLA
    # plans beyond inputs and outputs are copies of vectors and codewords, 50 MB, and the scores,
    # two of 4 MB each; nothing runs.
    shapes = [jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (131072, 65536)]
    plan = jax.jit(nearest_codeword).lower(*shapes).compile().memory_analysis()
    assert 0 < plan.temp_size_in_bytes < 100e6


def test_jit_equals_eager_and_vmap_equals_loop():
    features, codebooks = jnp.asarray(random(0, 3, 40, 4)), jnp.asarray(random(1, 3, 11, 4))

    def f(x, e):
        return nearest_codeword(x, e, tile=4)

    eager, compiled = f(features[0], codebooks[0]), jax.jit(f)
    loop = [compiled(x, e) for x, e in zip(features, codebooks, strict=True)]
    mapped = jax.jit(jax.vmap(f))(features, codebooks)
    for field in ("index", "distance"):
        stacked = np.stack([getattr(one, field) for one in loop])
        np.testing.assert_allclose(getattr(mapped, field), stacked, rtol=1e-6)
        np.testing.assert_allclose(getattr(eager, field), stacked[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("features", "codebook", "message"),
    [
        (jnp.zeros((5, 3)), jnp.zeros((7, 4)), r"\(5, 3\).*\(7, 4\)"),
        (jnp.zeros((5, 3)), jnp.zeros((0, 3)), r"\(5, 3\).*\(0, 3\)"),
        (jnp.zeros((5, 0)), jnp.zeros((7, 0)), r"\(5, 0\).*\(7, 0\)"),
        (jnp.zeros((5, 3)), jnp.zeros((2, 7, 3)), r"\(5, 3\).*\(2, 7, 3\)"),
        (jnp.zeros(()), jnp.zeros((7, 3)), r"\(\).*\(7, 3\)"),
        (jnp.zeros((5, 3), jnp.int32), jnp.zeros((7, 3)), "int32"),
        (jnp.zeros((5, 3)), jnp.zeros((7, 3), jnp.int32), "int32"),
    ],
)
def test_wrong_arrays_raise(features, codebook, message):
    with pytest.raises(ValueError, match=message):
        nearest_codeword(features, codebook)


def test_wrong_tile_raises():
    for option in ("tile", "rows"):
        with pytest.raises(ValueError, match=f"{option}.*got 0"):
            nearest_codeword(jnp.zeros((5, 3)), jnp.zeros((7, 3)), **{option: 0})
