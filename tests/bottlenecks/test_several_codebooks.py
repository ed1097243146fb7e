import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.quantization import (
    kmeans,
    quantize,
    revive_dead_codes,
    start_codebook,
    update_codebook,
)
from bottlenecks.several_codebooks import product_quantize, residual_quantize, split


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def nearest(x, e):
    """Every distance in float64; np.argmin gives the first minimum."""
    distance = np.sum((np.float64(x)[..., None, :] - np.float64(e)) ** 2, axis=-1)
    return np.argmin(distance, axis=-1), np.min(distance, axis=-1)


compiled_product = jax.jit(product_quantize, static_argnames=("tile", "cosine", "rotation"))
compiled_residual = jax.jit(residual_quantize, static_argnames="tile")


# Product codes -----------------------------------------------------------------------------------


def test_product_agrees_with_a_loop_over_slices():
    features, codebooks = random(0, 4, 5, 6), random(1, 3, 7, 2)
    found = compiled_product(features, codebooks, tile=4)
    assert found.latent.shape == features.shape
    for g in range(3):
        x = features[..., 2 * g : 2 * g + 2]
        np.testing.assert_array_equal(split(features, 3)[g], x)
        index, distance = nearest(x, codebooks[g])
        np.testing.assert_array_equal(found.index[..., g], index)
        np.testing.assert_array_equal(found.latent[..., 2 * g : 2 * g + 2], codebooks[g][index])
        np.testing.assert_allclose(found.codebook_loss[..., g], distance, rtol=1e-5)
        np.testing.assert_allclose(found.commitment_loss[..., g], distance, rtol=1e-5)


@pytest.mark.parametrize("options", [{"cosine": True}, {"rotation": True}])
def test_product_passes_the_options_on(options):
    features, codebooks, w = random(0, 10, 6), random(1, 2, 7, 3), random(2, 10, 6)

    def product(x):
        found = compiled_product(x, codebooks, **options)
        return jnp.sum(w * found.latent) + jnp.sum(found.commitment_loss)

    def slices(x):
        total = 0.0
        for g in range(2):
            part = slice(3 * g, 3 * g + 3)
            found = quantize(x[:, part], codebooks[g], **options)
            total += jnp.sum(w[:, part] * found.latent) + jnp.sum(found.commitment_loss)
        return total

    value, gradient = jax.value_and_grad(product)(features)
    expected, expected_gradient = jax.jit(jax.value_and_grad(slices))(features)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


# Residual codes ----------------------------------------------------------------------------------


def test_one_level_is_plain_quantization():
    features, codebook, w = random(0, 30, 4), random(1, 9, 4), random(2, 30, 4)

    def f(one_level, x, e):
        found = residual_quantize(x, e[None]) if one_level else quantize(x, e)
        terms = jnp.sum(found.codebook_loss) + 3 * jnp.sum(found.commitment_loss)
        return jnp.sum(w * found.latent) + terms, found

    gradient = jax.jit(jax.grad(f, argnums=(1, 2), has_aux=True), static_argnums=0)
    gradients, found = gradient(True, features, codebook)
    expected_gradients, expected = gradient(False, features, codebook)
    np.testing.assert_array_equal(found.latent, expected.latent)
    for field in ("index", "codebook_loss", "commitment_loss"):
        np.testing.assert_array_equal(getattr(found, field)[..., 0], getattr(expected, field))
    np.testing.assert_array_equal(found.residuals[0], features)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_residual_agrees_with_a_loop_over_levels():
    features = random(0, 4, 5, 6)
    codebooks = random(1, 3, 7, 6) * jnp.array([1.0, 0.5, 0.25])[:, None, None]
    found = compiled_residual(features, codebooks, tile=4)
    left, total = np.float64(features), 0.0
    for level in range(3):
        np.testing.assert_allclose(found.residuals[level], left, atol=1e-6)
        index, distance = nearest(left, codebooks[level])
        np.testing.assert_array_equal(found.index[..., level], index)
        np.testing.assert_allclose(found.codebook_loss[..., level], distance, rtol=1e-5)
        np.testing.assert_allclose(found.commitment_loss[..., level], distance, rtol=1e-5)
        left = left - codebooks[level][index]
        total = total + codebooks[level][index]
    # To the last bit: what the decoder sees when the codes are looked up later.
    np.testing.assert_array_equal(found.latent, total)


def test_residual_gradients_reach_what_they_should():
    features, codebooks = random(0, 6, 3), random(1, 2, 5, 3)
    w, weight = random(2, 6, 3), random(3, 6, 2)
    index = compiled_residual(features, codebooks).index
    chosen = np.stack([np.float64(codebooks[k])[index[:, k]] for k in range(2)], axis=1)
    x, v = np.float64(features)[:, None], np.float64(weight)[..., None]
    so_far = np.cumsum(chosen, axis=1)

    def gradients(f):
        loss = jax.grad(lambda x, e: f(compiled_residual(x, e)), argnums=(0, 1))
        return loss(features, codebooks)

    to_features, to_codebooks = gradients(lambda found: jnp.sum(w * found.latent))
    np.testing.assert_allclose(to_features, w)  # straight through, once and not once a level
    np.testing.assert_array_equal(to_codebooks, np.zeros_like(codebooks))
    # Lee et al. 2022: ||z - sg[sum of the codewords down to l]||^2 for every level l.
    to_features, to_codebooks = gradients(lambda found: jnp.sum(weight * found.commitment_loss))
    expected = np.sum(2 * v * (x - so_far), axis=1)
    np.testing.assert_allclose(to_features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(to_codebooks, np.zeros_like(codebooks))
    # Each codebook learns from its own level alone.
    to_features, to_codebooks = gradients(lambda found: jnp.sum(weight * found.codebook_loss))
    np.testing.assert_array_equal(to_features, np.zeros_like(features))
    expected = np.zeros_like(codebooks, dtype=np.float64)
    for level in range(2):
        np.add.at(expected[level], index[:, level], (2 * v * (so_far - x))[:, level])
    np.testing.assert_allclose(to_codebooks, expected, rtol=1e-4, atol=1e-5)
    to_features, to_codebooks = gradients(lambda found: jnp.sum(found.residuals))
    np.testing.assert_array_equal(to_features, np.zeros_like(features))
    np.testing.assert_array_equal(to_codebooks, np.zeros_like(codebooks))


# Both --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_all_levels_learn_at_once_and_on_devices_as_on_one(on_devices, residual):
    features = random(0, 12, 5, 6)
    codebooks = random(1, 3, 7, 6 if residual else 2)
    mask = jnp.asarray(np.random.default_rng(2).uniform(size=(12, 5)) < 0.6, jnp.float32)
    mask = mask.at[:3].set(0)  # the first device has nothing to add

    def step(x, m, axis_name="batch"):
        states = jax.vmap(start_codebook)(codebooks)
        learn = functools.partial(update_codebook, decay=0.5, axis_name=axis_name, mask=m)
        for _ in range(2):
            if residual:
                found = residual_quantize(x, states.codebook)
                seen = found.residuals
            else:
                found, seen = product_quantize(x, states.codebook), split(x, 3)
            states = jax.vmap(learn)(states, seen, jnp.moveaxis(found.index, -1, 0))
        return states

    one = jax.jit(functools.partial(step, axis_name=None))(features, mask)
    for a, b in zip(on_devices(step, features, mask), one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    # One level after the other.
    states = [start_codebook(e) for e in codebooks]
    update = jax.jit(functools.partial(update_codebook, decay=0.5))
    for _ in range(2):
        left = features
        for k in range(3):
            x = left if residual else features[..., 2 * k : 2 * k + 2]
            found = quantize(x, states[k].codebook)
            left = x - found.latent
            states[k] = update(states[k], x, found.index, mask=mask)
    for k in range(3):
        np.testing.assert_allclose(one.codebook[k], states[k].codebook, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.count[k], states[k].count, rtol=1e-5)


def test_start_and_revival_of_all_levels_on_devices_are_those_of_one(on_devices):
    features = random(0, 12, 5, 4)
    mask = jnp.asarray(np.random.default_rng(2).uniform(size=(12, 5)) < 0.6, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)

    def f(x, m, axis_name="batch"):
        over = dict(axis_name=axis_name, mask=m)
        slices = split(x, 2)
        start = jax.vmap(lambda key, x: kmeans(key, x, 5, iterations=3, **over))(keys, slices)
        states = jax.vmap(lambda e, n: start_codebook(e, count=n))(start.codebook, start.counts)
        states = states._replace(count=states.count.at[0, 2].set(0.1).at[1, 0].set(0.2))
        revive = functools.partial(revive_dead_codes, threshold=0.5, **over)
        return jax.vmap(revive)(keys, states, slices)

    one = jax.jit(functools.partial(f, axis_name=None))(features, mask)
    np.testing.assert_array_equal(one.count, [1, 1])
    many = on_devices(f, features, mask)
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("f", [compiled_product, compiled_residual])
def test_bfloat16_chooses_as_its_float32_values(f):
    depth = 8 if f is compiled_product else 16
    features = random(0, 200, 16).astype(jnp.bfloat16)
    codebooks = random(1, 2, 32, depth).astype(jnp.bfloat16)
    found, wide = f(features, codebooks), f(*(x.astype(jnp.float32) for x in (features, codebooks)))
    assert found.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))
    for field in found._fields[1:]:
        np.testing.assert_array_equal(getattr(found, field), getattr(wide, field))


@pytest.mark.parametrize("f", [product_quantize, residual_quantize])
def test_jit_vmap_checkpoint_and_zeros(f):
    depth = 2 if f is product_quantize else 4
    features, codebooks = random(0, 2, 10, 4), random(1, 2, 3, 6, depth)
    features = jnp.tile(features, (1, 1, 3))[..., :6] if f is product_quantize else features
    eager, compiled = f(features[0], codebooks[0]), jax.jit(f)
    loop = [compiled(x, e) for x, e in zip(features, codebooks, strict=True)]
    mapped = jax.jit(jax.vmap(f))(features, codebooks)
    for a, b, c in zip(mapped, zip(*loop, strict=True), eager, strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c, b[0], rtol=1e-5, atol=1e-6)

    def loss(x, e):
        found = f(x, e)
        terms = jnp.sum(found.commitment_loss) + jnp.sum(found.codebook_loss)
        return terms + jnp.sum(jnp.sin(found.latent))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    again = jax.jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))
    for a, b in zip(
        gradient(features[0], codebooks[0]), again(features[0], codebooks[0]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    for leaf in gradient(jnp.zeros_like(features[0]), jnp.zeros_like(codebooks[0])):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("f", [product_quantize, residual_quantize])
@pytest.mark.parametrize(
    ("features", "codebooks", "message"),
    [
        (jnp.zeros((5, 7)), jnp.zeros((2, 4, 3)), r"\(5, 7\).*\(2, 4, 3\)"),
        (jnp.zeros((5, 6)), jnp.zeros((4, 3)), r"\(5, 6\).*\(4, 3\)"),
        (jnp.zeros((5, 0)), jnp.zeros((0, 4, 3)), r"\(0, 4, 3\)"),
        (jnp.zeros(()), jnp.zeros((2, 4, 3)), r"\(\)"),
    ],
)
def test_wrong_shapes_raise(f, features, codebooks, message):
    with pytest.raises(ValueError, match=message):
        f(features, codebooks)


def test_wrong_dtypes_raise():
    with pytest.raises(ValueError, match="int32"):
        product_quantize(jnp.zeros((5, 6), jnp.int32), jnp.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match="int32"):
        residual_quantize(jnp.zeros((5, 3)), jnp.zeros((2, 4, 3), jnp.int32))
