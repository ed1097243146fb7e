"""Unit vectors and the rotation trick."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.quantization import normalize, quantize
from bottlenecks.rotation import rotate_and_rescale


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def rotation_oracle(z_e, q):
    """The rotation in the plane of z_e and q, float64, from an orthonormal basis of that plane.

    Not the reflections of the paper: cos and sin of the angle, written in the basis a, b.
    """
    z_e, q = np.float64(z_e), np.float64(q)
    a = z_e / np.linalg.norm(z_e)
    unit_q = q / np.linalg.norm(q)
    b = unit_q - (a @ unit_q) * a
    b /= np.linalg.norm(b)
    cos, sin = a @ unit_q, b @ unit_q
    in_plane = (cos - 1) * (np.outer(a, a) + np.outer(b, b)) + sin * (
        np.outer(b, a) - np.outer(a, b)
    )
    return np.linalg.norm(q) / np.linalg.norm(z_e) * (np.eye(len(a)) + in_plane)


def as_matrix(z_e, q):
    """lambda R: the linear map's columns."""
    return jax.vmap(lambda v: rotate_and_rescale(v, z_e, q))(jnp.eye(z_e.shape[0])).T


# Unit vectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_normalize_agrees_with_float64_where_squares_do_not_fit(scale):
    x = random(0, 4, 5) * scale
    expected = np.float64(x) / np.linalg.norm(np.float64(x), axis=-1, keepdims=True)
    np.testing.assert_allclose(normalize(x), expected, rtol=1e-6)


def test_gradient_of_normalize_agrees_with_finite_differences():
    x, w = random(0, 5), random(1, 5)
    gradient = jax.grad(lambda x: w @ normalize(x))(x)
    x, w = np.float64(x), np.float64(w)
    steps = 1e-6 * np.eye(5)
    f = [w @ (y / np.linalg.norm(y)) for y in [*(x + steps), *(x - steps)]]
    np.testing.assert_allclose(gradient, (np.array(f[:5]) - f[5:]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_a_zero_vector_has_no_direction_and_no_gradient():
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(normalize(x)))(jnp.zeros(3))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_normalize_keeps_the_dtype():
    x = random(0, 4, 5).astype(jnp.bfloat16)
    found = normalize(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, normalize(x.astype(jnp.float32)).astype(jnp.bfloat16))


# Rotations ---------------------------------------------------------------------------------------


def test_agrees_with_cosine_and_sine_in_the_plane():
    build = jax.jit(as_matrix)
    for seed in range(5):
        z_e, q = random(seed, 6), 3 * random(10 + seed, 6)
        found = np.float64(build(z_e, q))
        np.testing.assert_allclose(found, rotation_oracle(z_e, q), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found @ np.float64(z_e), q, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tilt", [0.0, 1e-6, 1e-4, 1e-3, 1e-2])
def test_turns_a_vector_to_its_opposite_and_near_it(tilt):
    z_e = random(0, 5)
    q = -2 * z_e + tilt * jnp.linalg.norm(z_e) * normalize(random(1, 5))
    found = np.float64(as_matrix(z_e, q))
    # Between e + q too short for float32 and a true half turn, an error of the root of rounding.
    np.testing.assert_allclose(found @ np.float64(z_e), q, atol=2e-3)
    R = found * np.linalg.norm(z_e) / np.linalg.norm(q)
    np.testing.assert_allclose(R @ R.T, np.eye(5), atol=2e-3)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=2e-3)  # a rotation, not a reflection


def test_the_same_direction_only_rescales():
    z_e = random(0, 5)
    np.testing.assert_allclose(as_matrix(z_e, 3 * z_e), 3 * np.eye(5), rtol=1e-5, atol=1e-6)


def test_one_dimension_turns_the_sign():
    np.testing.assert_allclose(as_matrix(jnp.array([2.0]), jnp.array([3.0])), [[1.5]])
    np.testing.assert_allclose(as_matrix(jnp.array([2.0]), jnp.array([-3.0])), [[-1.5]])


def test_without_a_direction_it_is_the_identity():
    zero, x = jnp.zeros(3), random(0, 3)
    for z_e, q in ((zero, x), (x, zero), (zero, zero)):
        np.testing.assert_array_equal(as_matrix(z_e, q), np.eye(3))


# The rotation trick ------------------------------------------------------------------------------


def test_changes_gradients_alone():
    features, codebook, w = random(0, 3, 4, 5), random(1, 7, 5), random(2, 3, 4, 5)

    def f(x, e, rotation):
        found = quantize(x, e, rotation=rotation)
        return jnp.sum(w * found.latent), found

    gradients = jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True), static_argnums=2)
    (to_features, to_codebook), found = gradients(features, codebook, True)
    (straight, _), plain = gradients(features, codebook, False)
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    np.testing.assert_array_equal(to_codebook, np.zeros_like(codebook))
    assert np.max(np.abs(to_features - straight)) > 0.1
    # Fifty et al. 2024, section 4: the gradient reaches z_e as (lambda R)^T times what reached q.
    for place in np.ndindex(3, 4):
        q = codebook[found.index[place]]
        expected = rotation_oracle(features[place], q).T @ np.float64(w[place])
        np.testing.assert_allclose(to_features[place], expected, rtol=1e-4, atol=1e-5)
    # Its angle to the feature is the angle of the decoder's gradient to the codeword.
    z_e, g, q = features[0, 0], to_features[0, 0], codebook[found.index[0, 0]]
    angle = normalize(z_e) @ normalize(g)
    np.testing.assert_allclose(angle, normalize(q) @ normalize(w[0, 0]), rtol=1e-4)


@pytest.mark.parametrize(
    ("features", "codebook"),
    [
        (np.zeros((4, 3)), np.zeros((5, 3))),
        (np.zeros((4, 3)), np.eye(3)),
        (np.eye(3), np.zeros((2, 3))),
        (np.eye(3), -np.eye(3)[:1]),  # the first is opposite to its codeword
        (np.full((4, 3), 1e18), np.full((2, 3), -1e18)),
        (np.full((4, 3), 1e-30), np.full((2, 3), 1e18)),  # lambda overflows
        (np.full((4, 1), 1.0), np.full((2, 1), -1.0)),
    ],
)
@pytest.mark.parametrize("cosine", [False, True])
def test_edges_are_finite_in_value_and_gradient(features, codebook, cosine):
    def f(x, e):
        found = quantize(x, e, rotation=True, cosine=cosine)
        terms = found.codebook_loss + found.commitment_loss
        return 1e-12 * (jnp.sum(terms) + jnp.sum(found.latent)), found

    features, codebook = jnp.float32(features), jnp.float32(codebook)
    gradients, found = jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True))(features, codebook)
    for leaf in jax.tree.leaves(found):
        assert np.all(np.isfinite(leaf))
    for gradient in gradients:
        assert not np.any(np.isnan(gradient))


def test_bfloat16_checkpoint_and_vmap_have_the_same_gradient():
    features, codebook = random(0, 2, 6, 4).astype(jnp.bfloat16), random(1, 5, 4)

    def f(x):
        return jnp.sum(jnp.square(quantize(x, codebook, rotation=True).latent))

    mapped = jax.jit(jax.vmap(jax.grad(f)))(features)
    assert mapped.dtype == jnp.bfloat16
    for x, gradient in zip(features, mapped, strict=True):
        expected = jax.grad(f)(x)
        np.testing.assert_array_equal(jax.grad(jax.checkpoint(f))(x), expected)
        # One unit in the last place of bfloat16, for the order of sums may differ.
        np.testing.assert_allclose(np.float32(gradient), np.float32(expected), rtol=2**-7)
        wide = jax.grad(f)(x.astype(jnp.float32))
        np.testing.assert_allclose(np.float32(expected), wide, rtol=2**-6, atol=1e-2)
