"""Finite scalar quantisation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.scalar_quantization import finite_scalar_quantize, fsq_latent


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def fsq(features, levels):
    return jax.jit(finite_scalar_quantize, static_argnames="levels")(features, levels=levels)


def bound(z, L):
    """Mentzer et al. 2023, A.1, one number at a time in float64."""
    half_width = (L - 1) * (1 - 1e-3) / 2
    offset = 0.0 if L % 2 else 0.5
    return np.tanh(z + np.tan(offset / half_width)) * half_width - offset


def oracle(features, levels):
    latent, index = np.empty(features.shape), np.empty(features.shape[:-1], np.int64)
    for place in np.ndindex(features.shape[:-1]):
        total, weight = 0, 1
        for i, L in enumerate(levels):
            digit = int(np.round(bound(np.float64(features[place][i]), L)))
            latent[place][i] = digit / (L // 2)
            total += (digit + L // 2) * weight
            weight *= L
        index[place] = total
    return latent, index


def test_the_released_example():
    # google-research/google-research fsq/fsq.ipynb: levels 3, 5, 4 and z = (0.25, 0.6, -7); the
    # code by hand from the listing: tanh(0.25) * 0.999 = 0.24, tanh(0.6) * 1.998 = 1.07 and
    # tanh(-7 + 0.35) * 1.4985 - 0.5 = -2.0, so digits 1, 3, 0 and index 1 + 3 * 3 + 15 * 0.
    found = fsq(jnp.array([0.25, 0.6, -7.0]), (3, 5, 4))
    np.testing.assert_array_equal(found.latent, [0.0, 0.5, -1.0])
    assert found.index == 10
    assert found.index.dtype == jnp.int32


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3, 4), (7,), (1000, 1000, 2)])
def test_agrees_with_a_loop_in_float64(levels):
    features = 2 * random(0, 20, 5, len(levels))
    found = fsq(features, levels)
    latent, index = oracle(features, levels)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.latent, latent, rtol=1e-6)


@pytest.mark.parametrize("levels", [(8, 6, 5), (2, 3, 4), (4, 2)])
def test_codes_and_indices_are_one_to_one_and_all_reached(levels):
    index = jnp.arange(np.prod(levels), dtype=jnp.int32)
    latent = fsq_latent(index, levels=levels)
    half = np.array(levels) // 2
    digits = [range(-(L // 2), L - L // 2) for L in levels]
    # The first number turns fastest.
    expected = np.array([d[::-1] for d in itertools.product(*digits[::-1])]) / half
    np.testing.assert_allclose(latent, expected, rtol=1e-6)
    assert np.max(np.abs(latent)) == 1
    # Features that tanh brings to the middle of each step come back as their own code.
    half_width = (np.array(levels) - 1) * (1 - 1e-3) / 2
    offset = np.where(np.array(levels) % 2 == 0, 0.5, 0)
    inner = np.clip((expected * half + offset) / half_width, -0.9999, 0.9999)
    features = np.float32(np.arctanh(inner) - np.tan(offset / half_width))
    found = fsq(jnp.asarray(features), levels)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.latent, latent)  # to the last bit


def test_gradient_is_that_of_the_bound():
    levels, features, w = (8, 5, 4), random(0, 6, 3), random(1, 6, 3)
    gradient = jax.grad(lambda x: jnp.sum(w * fsq(x, levels).latent))(features)
    x = np.float64(features)
    for i, L in enumerate(levels):
        slope = (bound(x[:, i] + 1e-6, L) - bound(x[:, i] - 1e-6, L)) / 2e-6 / (L // 2)
        np.testing.assert_allclose(gradient[:, i], w[:, i] * slope, rtol=1e-4, atol=1e-6)


def test_indices_of_bfloat16_features_are_exact():
    # In bfloat16 an index above 256 cannot be said; the largest here is 63999.
    levels = (8, 8, 8, 5, 5, 5)
    features = (3 * random(0, 500, 6)).astype(jnp.bfloat16)
    found, wide = fsq(features, levels), fsq(features.astype(jnp.float32), levels)
    assert found.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.index, wide.index)
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))
    assert np.max(found.index) > 32768


def test_the_largest_product_fits_int32():
    levels = (1000, 1000, 1000, 2)  # 2e9 of at most 2147483647
    found = fsq(jnp.full((1, 4), 50.0), levels)
    assert found.index[0] == 1999999999
    np.testing.assert_array_equal(fsq_latent(found.index, levels=levels), found.latent)


def test_edges_are_finite_and_in_range():
    levels = (8, 5, 2)
    features = jnp.array([[0.0, 0, 0], [jnp.inf, -jnp.inf, 1e30], [-1e30, 1e30, -1e30]])
    gradient, found = jax.grad(
        lambda x: (jnp.sum(fsq(x, levels).latent), fsq(x, levels)), has_aux=True
    )(features)
    np.testing.assert_array_equal(found.index, [4 + 8 * 2 + 40 * 1, 7 + 0 + 40, 8 * 4])
    for leaf in (gradient, found.latent):
        assert np.all(np.isfinite(leaf))
    bad = fsq(jnp.full((1, 3), jnp.nan), levels)
    assert 0 <= bad.index[0] < 80


def test_jit_vmap_and_checkpoint():
    features, levels = random(0, 3, 4, 2), (8, 5)

    def f(x):
        return finite_scalar_quantize(x, levels=levels)

    def loss(x):
        return jnp.sum(jnp.sin(f(x).latent))

    mapped, whole, eager = jax.jit(jax.vmap(f))(features), jax.jit(f)(features), f(features)
    for a, b, c in zip(mapped, whole, eager, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(c, b)
    expected = jax.jit(jax.grad(loss))(features)
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(features)
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


def test_on_devices_it_is_that_of_one(on_devices):
    features, w = random(0, 8, 2), random(1, 8, 2)

    def f(x, w, axis_name="batch"):
        gradient, found = jax.grad(
            lambda x: (jnp.sum(w * fsq(x, (8, 5)).latent), fsq(x, (8, 5))), has_aux=True
        )(x)
        everything = (found.latent, found.index.astype(jnp.float32), gradient)
        sums = jax.tree.map(jnp.sum, everything)
        return jax.lax.psum(sums, axis_name) if axis_name else sums

    for a, b in zip(on_devices(f, features, w), f(features, w, None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fsq(jnp.zeros((5, 3)), (8, 5)), r"\[\.\.\., 2\].*\(5, 3\)"),
        (lambda: fsq(jnp.zeros(()), (8, 5)), r"\(\)"),
        (lambda: fsq(jnp.zeros((5, 2), jnp.int32), (8, 5)), "int32"),
        (lambda: fsq(jnp.zeros((5, 0)), ()), r"got \(\)"),
        (lambda: fsq(jnp.zeros((5, 2)), (8, 1)), r"got \(8, 1\)"),
        (lambda: fsq(jnp.zeros((5, 2)), (8, 5.0)), r"got \(8, 5\.0\)"),
        (lambda: fsq(jnp.zeros((5, 1)), (1001,)), r"got \(1001,\)"),
        (lambda: fsq(jnp.zeros((5, 4)), (1000, 1000, 1000, 3)), "3000000000"),
        (lambda: fsq_latent(jnp.zeros(5), levels=(8, 5)), "float32"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
