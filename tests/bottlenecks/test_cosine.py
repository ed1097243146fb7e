"""Codes chosen by direction: unit features, unit codewords."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.quantization import (
    kmeans,
    normalize,
    quantize,
    start_codebook,
    update_codebook,
)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def unit(x):
    x = np.float64(x)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


cosine_quantize = jax.jit(functools.partial(quantize, cosine=True))


def test_chooses_the_largest_cosine():
    features, codebook = 5 * random(0, 4, 50, 6), random(1, 20, 6)
    codebook = codebook * jnp.arange(1.0, 21)[:, None]  # lengths do not matter
    found = cosine_quantize(features, codebook)
    cosines = unit(features) @ unit(codebook).T
    np.testing.assert_array_equal(found.index, np.argmax(cosines, axis=-1))
    np.testing.assert_allclose(found.latent, unit(codebook)[found.index], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.commitment_loss, 2 - 2 * np.max(cosines, -1), atol=1e-5)
    np.testing.assert_array_equal(found.codebook_loss, found.commitment_loss)
    # Compiled with the search and by itself, the division may round differently.
    np.testing.assert_allclose(found.latent, normalize(codebook)[found.index], rtol=1e-6)


def test_gradients_pass_through_the_division_by_the_norm():
    features, codebook, w = random(0, 8, 3), random(1, 5, 3), random(2, 8, 3)
    index = cosine_quantize(features, codebook).index

    def straight_through(x, e):
        return jnp.sum(w * cosine_quantize(x, e).latent)

    def losses(x, e):
        found = cosine_quantize(x, e)
        return jnp.sum(3 * found.commitment_loss + 2 * found.codebook_loss)

    # The latent's gradient is that of w . x / ||x||: (w - (w.u) u) / ||x||.
    u, norm = unit(features), np.linalg.norm(features, axis=-1, keepdims=True)
    to_features, to_codebook = jax.grad(straight_through, argnums=(0, 1))(features, codebook)
    expected = (w - np.sum(w * u, -1, keepdims=True) * u) / norm
    np.testing.assert_allclose(to_features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(to_codebook, np.zeros_like(codebook))

    def error(x, e):
        return np.sum((unit(x) - unit(e)[index]) ** 2)

    def finite_difference(f, point):
        gradient = np.zeros_like(point)
        for i in np.ndindex(point.shape):
            step = np.zeros_like(point)
            step[i] = 1e-5
            gradient[i] = (f(point + step) - f(point - step)) / 2e-5
        return gradient

    x, e = np.float64(features), np.float64(codebook)
    to_features, to_codebook = jax.grad(losses, argnums=(0, 1))(features, codebook)
    expected = 3 * finite_difference(lambda x: error(x, e), x)
    np.testing.assert_allclose(to_features, expected, rtol=1e-4, atol=1e-5)
    expected = 2 * finite_difference(lambda e: error(x, e), e)
    np.testing.assert_allclose(to_codebook, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_chooses_as_its_float32_values():
    features = random(0, 500, 8).astype(jnp.bfloat16)
    codebook = random(1, 64, 8).astype(jnp.bfloat16)
    found = cosine_quantize(features, codebook)
    wide = cosine_quantize(features.astype(jnp.float32), codebook.astype(jnp.float32))
    np.testing.assert_array_equal(found.index, wide.index)
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))
    np.testing.assert_array_equal(found.commitment_loss, wide.commitment_loss)


@pytest.mark.parametrize("features", [np.zeros((3, 2)), np.full((3, 2), 1e30)])
@pytest.mark.parametrize("codebook", [np.zeros((4, 2)), np.eye(2)])
def test_edges_are_finite_in_value_and_gradient(features, codebook):
    def f(x, e):
        found = cosine_quantize(x, e)
        terms = found.codebook_loss + found.commitment_loss
        return jnp.sum(terms) + jnp.sum(found.latent), found

    gradient = jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True))
    for leaf in jax.tree.leaves(gradient(jnp.float32(features), jnp.float32(codebook))):
        assert np.all(np.isfinite(leaf))


def oracle_step(state, features, index, mask, decay):
    """Eq. 6 and 7 with unit vectors, code by code in float64; e = m / ||m||."""
    codebook, count, total = (x.copy() for x in state)
    for i in range(len(codebook)):
        chosen = (index == i) & (mask > 0)
        count[i] = decay * count[i] + (1 - decay) * np.sum(chosen)
        total[i] = decay * total[i] + (1 - decay) * np.sum(unit(features[chosen]), axis=0)
        if np.any(chosen):
            codebook[i] = unit(total[i])
    return codebook, count, total


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.0}, {"debias": True}])
def test_hundred_masked_steps_agree_with_float64(options):
    debias = options.get("debias", False)
    state = start_codebook(normalize(random(0, 6, 3)), debias=debias)
    expected = tuple(np.float64(x) for x in state[:3])
    step = jax.jit(functools.partial(update_codebook, decay=0.9, cosine=True, **options))
    generator = np.random.default_rng(1)
    for t in range(100):
        features = np.float32(generator.normal(size=(5, 2, 3)) + 0.02 * t)
        index = np.int32(generator.integers(0, 4 if t < 30 else 5, size=(5, 2)))
        mask = np.float32((generator.uniform(size=(5, 2)) < 0.7) * (t != 50))
        features[mask == 0] = np.nan
        state = step(state, features, index, mask=mask)
        expected = oracle_step(expected, features, index, mask, 0.9)
        for found, value in zip(state, expected, strict=False):
            np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(state.codebook, axis=-1), 1, rtol=1e-5)


def test_features_that_cancel_leave_the_code():
    state = start_codebook(jnp.eye(2), debias=True)  # the sums start at 0
    features = jnp.array([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
    index = jnp.array([0, 0, 1])
    new = update_codebook(state, features, index, cosine=True, debias=True)
    np.testing.assert_array_equal(new.codebook, state.codebook)


def test_kmeans_start_and_updates_on_devices_are_those_of_one(on_devices):
    features = random(0, 12, 5, 3) * 10
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=(12, 5)) < 0.7, jnp.float32)

    def f(x, m, axis_name="batch"):
        options = dict(axis_name=axis_name, mask=m)
        start = kmeans(jax.random.key(0), normalize(x), 7, **options)
        state = start_codebook(normalize(start.codebook), count=start.counts)
        for _ in range(2):
            index = quantize(x, state.codebook, cosine=True).index
            state = update_codebook(state, x, index, cosine=True, decay=0.5, **options)
        return state

    one = jax.jit(functools.partial(f, axis_name=None))(features, mask)
    many = on_devices(f, features, mask)
    for a, b in zip(many, one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
