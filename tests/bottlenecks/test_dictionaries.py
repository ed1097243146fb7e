import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.dictionaries import (
    analytic_weights,
    coherence,
    dct_dictionary,
    overcomplete_dct,
    spectral_norm_squared,
)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_overcomplete_dct_is_that_of_scvae():
    # Computed in float64 from init_dct(16, 23) of sotiraslab/SC-VAE@0b3111c.
    D = overcomplete_dct()
    assert D.shape == (256, 512)
    assert D.dtype == jnp.float32
    found = [D[0, 0], D[0, 1], D[17, 100], D[255, 511]]
    expected = [0.0625, 0.074418618673993, 0.044388323623005, -0.034659695129545]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(D), 16, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(D**2, axis=0), np.ones(512), rtol=1e-5)
    np.testing.assert_allclose(spectral_norm_squared(D), 7.417240881680698, rtol=2e-6)
    np.testing.assert_allclose(coherence(D), 0.8612709657749469, rtol=1e-5)


def test_overcomplete_dct_agrees_with_a_loop():
    side, frequencies = 3, 5
    atoms = np.empty((side, frequencies))
    for k in range(frequencies):
        v = np.array([np.cos(np.pi * k * t / frequencies) for t in range(side)])
        v = v - v.mean() if k else v
        atoms[:, k] = v / np.sqrt(np.sum(v**2))
    D = overcomplete_dct(side=side, frequencies=frequencies, atoms=21)
    assert D.shape == (9, 21)
    for column in range(21):
        k, kk = divmod(column, frequencies)
        for a in range(side):
            for b in range(side):
                expected = atoms[b, k] * atoms[a, kk]
                np.testing.assert_allclose(D[side * a + b, column], expected, atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_dct_is_orthonormal_and_that_of_scipy(side):
    from scipy.fft import dctn

    D = dct_dictionary(side)
    np.testing.assert_allclose(D @ D.T, np.eye(side**2), atol=1e-6)
    patch = np.random.default_rng(0).normal(size=(side, side))
    expected = dctn(patch, norm="ortho").ravel()
    np.testing.assert_allclose(patch.astype(np.float32).ravel() @ D, expected, atol=2e-5)
    np.testing.assert_allclose(spectral_norm_squared(D), 1, rtol=1e-5)


def test_coherence_agrees_with_a_loop_and_ignores_empty_atoms():
    D = random(0, 4, 7).at[:, 2].set(0)
    A = np.asarray(D, np.float64)
    pairs = [(i, j) for i in range(7) for j in range(i) if 2 not in (i, j)]
    cosines = [
        abs(A[:, i] @ A[:, j]) / np.linalg.norm(A[:, i]) / np.linalg.norm(A[:, j]) for i, j in pairs
    ]
    np.testing.assert_allclose(coherence(D), max(cosines), rtol=1e-5)
    assert np.all(np.isfinite(jax.grad(coherence)(D)))


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (1, 5)])
def test_spectral_norm_and_its_gradient(shape):
    D = random(1, *shape)
    A = np.asarray(D, np.float64)
    u, s, v = np.linalg.svd(A)
    value, gradient = jax.value_and_grad(spectral_norm_squared)(D)
    np.testing.assert_allclose(value, s[0] ** 2, rtol=1e-5)
    # d sigma^2 = 2 sigma u^T dD v.
    np.testing.assert_allclose(gradient, 2 * s[0] * np.outer(u[:, 0], v[0]), rtol=1e-4, atol=1e-4)


def test_analytic_weights_solve_their_problem():
    D = random(2, 5, 9)
    W = np.asarray(analytic_weights(D), np.float64)
    A = np.asarray(D, np.float64)
    np.testing.assert_allclose(np.sum(W * A, axis=0), np.ones(9), rtol=1e-5)
    for i in range(9):
        # Stationary: the gradient 2 A A^T w_i is a multiple of a_i.
        gradient = A @ A.T @ W[:, i]
        along = A[:, i] * (gradient @ A[:, i]) / (A[:, i] @ A[:, i])
        np.testing.assert_allclose(gradient, along, atol=1e-4)
    unit = A / np.sum(A**2, axis=0)
    assert np.sum((W.T @ A) ** 2) < np.sum((unit.T @ A) ** 2)
    assert np.all(np.isfinite(analytic_weights(D.at[:, 3].set(0))))


def test_analytic_weights_of_an_orthonormal_dictionary_are_itself():
    D = dct_dictionary(3)
    np.testing.assert_allclose(analytic_weights(D), D, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dct_dictionary(0), "got 0"),
        (lambda: overcomplete_dct(atoms=530), "529, got 530"),
        (lambda: overcomplete_dct(side=1, frequencies=2, atoms=3), "side=1"),
        (lambda: coherence(jnp.zeros((3, 1))), r"\(3, 1\)"),
        (lambda: spectral_norm_squared(jnp.zeros(3)), r"\(3,\)"),
        (lambda: spectral_norm_squared(jnp.zeros((3, 2), jnp.int32)), "int32"),
        (lambda: analytic_weights(jnp.zeros((3, 2))), r"\(3, 2\)"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
