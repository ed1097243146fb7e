"""Soft thresholds, ISTA and FISTA."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.dictionaries import dct_dictionary, overcomplete_dct, spectral_norm_squared
from bottlenecks.sparse import fista, ista, objective, soft_threshold


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small():
    """Signals [6, 2, 5] and a dictionary [5, 8]."""
    return jnp.asarray(random(0, 6, 2, 5)), jnp.asarray(random(1, 5, 8))


def oracle(e, D, penalty, iterations, *, fast, non_negative=False):
    """One signal, float64, entry by entry."""
    e, D = np.asarray(e, np.float64), np.asarray(D, np.float64)
    c = np.linalg.norm(D, 2) ** 2
    z = np.zeros(D.shape[1])
    y, t = z.copy(), 1.0
    for _ in range(iterations):
        v = y + D.T @ (e - D @ y) / c
        new = np.zeros_like(z)
        for i, x in enumerate(v):
            if x > penalty / c:
                new[i] = x - penalty / c
            elif x < -penalty / c and not non_negative:
                new[i] = x + penalty / c
        after = (1 + np.sqrt(1 + 4 * t**2)) / 2
        y = new + (t - 1) / after * (new - z) if fast else new
        z, t = new, after
    return z


# The threshold -----------------------------------------------------------------------------------


def test_soft_threshold_and_its_gradient_at_the_kink():
    v = jnp.array([-3.0, -1, -0.5, 0, 0.5, 1, 3])
    np.testing.assert_array_equal(soft_threshold(v, 1.0), [-2, 0, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(soft_threshold(v, 1.0, non_negative=True), [0, 0, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(soft_threshold(v, 0.0), v)
    each = jax.vmap(jax.grad(soft_threshold, argnums=(0, 1)), in_axes=(0, None))
    to_v, to_t = each(v, 1.0)
    np.testing.assert_array_equal(to_v, [1, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(to_t, [1, 0, 0, 0, 0, 0, -1])
    positive = jax.grad(lambda x, t: soft_threshold(x, t, non_negative=True), argnums=(0, 1))
    np.testing.assert_array_equal(
        np.array(jax.vmap(positive, (0, None))(v, 1.0))[:, 5:], [[0, 1], [0, -1]]
    )
    np.testing.assert_array_equal(jax.grad(soft_threshold)(0.0, 0.0), 0)


def test_soft_threshold_broadcasts_keeps_the_dtype_and_passes_nan_on():
    v = jnp.asarray(random(0, 3, 4)).astype(jnp.bfloat16)
    threshold = jnp.array([0.0, 0.5, 1, 9])
    found = soft_threshold(v, threshold)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[:, 0], v[:, 0])
    np.testing.assert_array_equal(found[:, 3], np.zeros(3))
    assert np.isnan(soft_threshold(jnp.array(jnp.nan), 1.0))


# The solvers -------------------------------------------------------------------------------------


def test_tiny_example():
    # Worked out in float64 NumPy: L = 2 exactly, and FISTA's first two steps are ISTA's.
    D, e = jnp.array([[1, 0, 0.6], [0, 1, 0.8]]), jnp.array([1, 0.5])
    slow = ista(e, D, penalty=0.1, iterations=3, keep_iterates=True)
    fast = fista(e, D, penalty=0.1, iterations=3, keep_iterates=True)
    expected = [[0.45, 0.2, 0.45], [0.54, 0.12, 0.46], [0.582, 0.076, 0.47]]
    np.testing.assert_allclose(slow.iterates, expected, rtol=1e-6)
    np.testing.assert_allclose(fast.iterates[:2], expected[:2], rtol=1e-6)
    np.testing.assert_allclose(
        fast.code, [0.593833648055, 0.063602844894, 0.472817535251], rtol=1e-6
    )
    np.testing.assert_array_equal(slow.code, slow.iterates[-1])
    np.testing.assert_allclose(slow.latent, slow.code @ D.T, rtol=1e-6)
    optimum = fista(e, D, penalty=0.1, iterations=200).code
    np.testing.assert_allclose(optimum, [0.5625, 0, 0.5625], atol=1e-6)


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize(("solver", "fast"), [(ista, False), (fista, True)])
def test_agrees_with_a_loop_in_float64(solver, fast, non_negative):
    e, D = small()
    found = solver(e, D, penalty=0.3, iterations=15, non_negative=non_negative)
    for place in np.ndindex(e.shape[:-1]):
        expected = oracle(e[place], D, 0.3, 15, fast=fast, non_negative=non_negative)
        np.testing.assert_allclose(found.code[place], expected, atol=1e-5)
    assert found.iterates is None


@pytest.mark.parametrize(
    ("penalty", "solver", "steps", "nonzero", "norm", "value"),
    [
        (0.5, ista, 16, 26, 24.9431898674, 16.1071532112),
        (0.5, fista, 16, 22, 24.9778428481, 15.6349905123),
        (3.0, fista, 16, 4, 8.5126897158, 50.8009360821),
    ],
)
def test_a_sine_on_the_dictionary_of_scvae(penalty, solver, steps, nonzero, norm, value):
    # e_i = sin(i), i = 0 .. 255, c = ||D||^2: computed in float64 NumPy.
    e, D = jnp.sin(jnp.arange(256.0)), overcomplete_dct()
    z = solver(e, D, penalty=penalty, iterations=steps).code
    assert jnp.sum(z != 0) == nonzero
    np.testing.assert_allclose(jnp.sum(jnp.abs(z)), norm, rtol=2e-6)
    np.testing.assert_allclose(objective(e, D, z, penalty=penalty), value, rtol=2e-6)


def test_an_orthonormal_dictionary_needs_one_step():
    D, e = dct_dictionary(4), jnp.asarray(random(0, 3, 16))
    expected = soft_threshold(e @ D, 0.4)
    for solver in (ista, fista):
        for iterations in (1, 7):
            code = solver(e, D, penalty=0.4, iterations=iterations).code
            np.testing.assert_allclose(code, expected, atol=2e-6)


def test_a_penalty_above_every_correlation_gives_zero():
    e, D = small()
    penalty = jnp.max(jnp.abs(e @ D)) * 1.0001
    assert not np.any(fista(e, D, penalty=penalty, iterations=5).code)


def test_ista_never_increases_the_objective():
    e, D = small()
    iterates = ista(e, D, penalty=0.2, iterations=40, keep_iterates=True).iterates
    F = jax.vmap(lambda z: objective(e, D, z, penalty=0.2))(iterates)
    assert np.all(np.diff(F, axis=0) <= 1e-6 * F[:-1])  # rounding of float32
    assert np.all(F[-1] < F[0])


def test_start_continues_and_zero_iterations_return_it():
    e, D = small()
    half = ista(e, D, penalty=0.2, iterations=4).code
    whole = ista(e, D, penalty=0.2, iterations=8).code
    np.testing.assert_allclose(
        ista(e, D, penalty=0.2, iterations=4, start=half).code, whole, atol=1e-6
    )
    np.testing.assert_array_equal(fista(e, D, penalty=0.2, iterations=0, start=half).code, half)


def test_penalties_of_their_own():
    e, D = small()
    penalty = jnp.linspace(0.1, 0.8, 12).reshape(6, 2, 1)
    found = ista(e, D, penalty=penalty, iterations=9).code
    for place in np.ndindex(6, 2):
        expected = oracle(e[place], D, float(penalty[place][0]), 9, fast=False)
        np.testing.assert_allclose(found[place], expected, atol=1e-5)


def test_bfloat16_solves_the_problem_of_its_float32_values():
    e, D = (x.astype(jnp.bfloat16) for x in small())
    found = fista(e, D, penalty=0.3, iterations=20)
    wide = fista(e.astype(jnp.float32), D.astype(jnp.float32), penalty=0.3, iterations=20)
    assert found.code.dtype == found.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.code, wide.code.astype(jnp.bfloat16))
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))


def weighed(e, D, alpha):
    code = fista(e, D, penalty=alpha, iterations=10).code
    return jnp.sum(code * jnp.asarray(random(3, 8)).reshape(*(1,) * (code.ndim - 1), 8))


def test_gradients_are_finite_differences_and_the_same_recomputed():
    e, D = small()
    e, alpha = e[0, 0], jnp.float32(0.3)
    gradients = jax.jit(jax.grad(weighed, argnums=(0, 1, 2)))(e, D, alpha)
    again = jax.jit(jax.grad(jax.checkpoint(weighed), argnums=(0, 1, 2)))(e, D, alpha)
    for one, other in zip(gradients, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    def value(e, D, alpha):
        z = oracle(e, D, alpha, 10, fast=True)
        return z @ random(3, 8).astype(np.float64)

    h = 1e-5  # the oracle is float64: differences are good to about 1e-9
    arguments = [np.asarray(x, np.float64) for x in (e, D, alpha)]
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in arguments]
                moved[which][place] += sign * h
                ends.append(value(*moved))
            expected = (ends[0] - ends[1]) / (2 * h)
            np.testing.assert_allclose(np.asarray(gradient)[place], expected, atol=2e-4)


def test_gradients_at_zero_signals_and_atoms_are_finite():
    D = jnp.asarray(random(1, 5, 8)).at[:, 2].set(0)
    for gradient in jax.grad(weighed, argnums=(0, 1, 2))(jnp.zeros((3, 5)), D, jnp.float32(0.3)):
        assert np.all(np.isfinite(gradient))


def test_jit_equals_eager_and_vmap_equals_loop():
    e, D = small()

    def f(e):
        return fista(e, D, penalty=0.3, iterations=6).code

    loop = np.stack([f(x) for x in e])
    np.testing.assert_allclose(jax.jit(f)(e), f(e), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(f)(e), loop, atol=1e-6)


def test_on_devices_as_on_one(on_devices):
    e, D = jnp.asarray(random(0, 8, 5)), jnp.asarray(random(1, 5, 8))
    c = spectral_norm_squared(D)

    def f(e, axis_name=None):
        value, gradient = jax.value_and_grad(
            lambda e: jnp.sum(fista(e, D, penalty=0.3, iterations=6, c=c).code ** 2)
        )(e)
        total = jnp.sum(gradient, axis=0)
        if axis_name is None:
            return value, total
        return jax.lax.psum((value, total), axis_name)

    for one, many in zip(f(e), on_devices(lambda e: f(e, "batch"), e), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(signals=jnp.zeros((3, 4))), r"\(3, 4\).*\(5, 8\)"),
        (dict(dictionary=jnp.zeros(5)), r"\(5,\)"),
        (dict(dictionary=jnp.zeros((5, 8), jnp.int32)), "int32"),
        (dict(signals=jnp.zeros((3, 5), jnp.int32)), "int32"),
        (dict(iterations=-1), "got -1"),
        (dict(start=jnp.zeros((3, 7))), r"\(3, 8\), got \(3, 7\)"),
        (dict(penalty=jnp.zeros(7)), r"\(3, 8\), got \(7,\)"),
        (dict(c=jnp.ones(2)), r"\(2,\)"),
    ],
)
def test_wrong_arguments_raise(change, message):
    arguments = dict(
        signals=jnp.zeros((3, 5)), dictionary=jnp.zeros((5, 8)), penalty=0.1, iterations=2
    )
    with pytest.raises(ValueError, match=message):
        ista(**(arguments | change))


# The benchmark of the literature -----------------------------------------------------------------

# NMSE in dB at 16, 50, 100 and 300 steps, ISTA then FISTA: float64 NumPy with c = ||D||^2.
NMSE = {
    0.4: ([-5.76, -7.29, -7.39, -7.39], [-7.57, -7.39, -7.39, -7.39]),
    0.2: ([-6.19, -10.62, -11.70, -11.80], [-10.88, -11.82, -11.80, -11.80]),
    0.1: ([-5.27, -10.61, -15.22, -16.79], [-10.08, -16.63, -16.80, -16.80]),
    0.05: ([-4.30, -7.82, -12.90, -21.93], [-7.29, -22.16, -22.17, -22.17]),
    0.02: ([-3.51, -5.13, -7.33, -17.64], [-4.88, -21.15, -29.55, -29.69]),
    0.01: ([-3.22, -4.11, -5.23, -9.87], [-3.98, -11.31, -33.71, -35.55]),
}


def test_reproduces_ista_and_fista_on_the_data_of_alista():
    folder = Path(os.environ.get("BOTTLENECKS_DATA", "")) / "alista"
    if "BOTTLENECKS_DATA" not in os.environ or not folder.exists():
        pytest.skip("BOTTLENECKS_DATA has no folder alista/ (D.mat of VITA-Group/ALISTA)")
    from scipy.io import loadmat

    D = jnp.asarray(loadmat(folder / "D.mat")["D"], jnp.float32)
    x = jnp.asarray(np.load(folder / "xtest_n500_p10.npy").T, jnp.float32)
    e = jnp.matmul(x, D.T, precision="highest")
    c = spectral_norm_squared(D)
    np.testing.assert_allclose(c, 5.679439737332048, rtol=2e-6)

    def error(solver, penalty):
        found, z, done = [], jnp.zeros_like(x), 0
        for steps in (16, 50, 100, 300):
            if solver is ista:  # goes on from where it was
                z = ista(e, D, penalty=penalty, iterations=steps - done, c=c, start=z).code
            else:
                z = fista(e, D, penalty=penalty, iterations=steps, c=c).code
            done = steps
            found.append(10 * jnp.log10(jnp.sum((z - x) ** 2) / jnp.sum(x**2)))
        return jnp.stack(found)

    compiled = jax.jit(error, static_argnums=0)
    for penalty, (slow, fast) in NMSE.items():
        np.testing.assert_allclose(compiled(ista, penalty), slow, atol=0.02)
        np.testing.assert_allclose(compiled(fista, penalty), fast, atol=0.02)
