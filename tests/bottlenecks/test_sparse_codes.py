"""What a code is worth, and the solver that is told how good a code to find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import sparse_encode

from bottlenecks.dictionaries import overcomplete_dct
from bottlenecks.sparse import (
    duality_gap,
    fista,
    hoyer,
    ista,
    objective,
    sparse_code,
    zero_fraction,
)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tokens(count):
    """Signals of 5% of SC-VAE's atoms, with noise, and the dictionary."""
    rng = np.random.default_rng(0)
    D = overcomplete_dct()
    z = (rng.random((count, 512)) < 0.05) * 3 * rng.normal(size=(count, 512))
    e = z @ np.asarray(D, np.float64).T + 0.1 * rng.normal(size=(count, 256))
    return jnp.asarray(e, jnp.float32), D


def objective64(e, D, z, penalty):
    e, D, z = (np.asarray(x, np.float64) for x in (e, D, z))
    return 0.5 * np.sum((e - z @ D.T) ** 2, axis=-1) + penalty * np.sum(np.abs(z), axis=-1)


def optimum(e, D, penalty):
    """scikit-learn's lasso_cd, whose alpha is the penalty of the plain sum of squares."""
    e, D = np.asarray(e, np.float64), np.asarray(D, np.float64)
    z = sparse_encode(e, D.T, algorithm="lasso_cd", alpha=penalty, max_iter=5000)
    return objective64(e, D, z, penalty)


# Measures ----------------------------------------------------------------------------------------


def test_objective_and_gap_of_the_tiny_example():
    # Worked out in float64 NumPy.
    D, e = jnp.array([[1, 0, 0.6], [0, 1, 0.8]]), jnp.array([1, 0.5])
    z = jnp.array(
        [[0.45, 0.2, 0.45], [0.54, 0.12, 0.46], [0.582, 0.076, 0.47], [0.5625, 0, 0.5625]]
    )
    e = jnp.broadcast_to(e, (4, 2))
    F, gap = objective(e, D, z, penalty=0.1), duality_gap(e, D, z, penalty=0.1)
    np.testing.assert_allclose(F, [0.151, 0.129, 0.1232, 0.11875], rtol=1e-6)
    expected = [0.06694387755102, 0.03076039697542543, 0.011175778546712839, 0]
    np.testing.assert_allclose(gap, expected, atol=1e-7)


def test_gap_bounds_the_excess_and_tends_to_zero():
    e, D = jnp.asarray(random(0, 6, 2, 5)), jnp.asarray(random(1, 5, 8))
    best = objective64(e, D, fista(e, D, penalty=0.3, iterations=3000).code, 0.3)
    for iterations in (0, 1, 10, 300):
        z = ista(e, D, penalty=0.3, iterations=iterations).code
        gap = duality_gap(e, D, z, penalty=0.3)
        assert gap.shape == (6, 2)
        assert np.all(gap >= 0)
        assert np.all(gap >= objective64(e, D, z, 0.3) - best - 1e-5)
    assert np.all(
        duality_gap(e, D, fista(e, D, penalty=0.3, iterations=3000).code, penalty=0.3) < 1e-4
    )


def test_measures_of_sparsity():
    codes = jnp.array([[0.0, 1, 0, 0], [2, 2, 2, 2], [3, 0, -4, 0], [3e-30, 0, -4e-30, 0]])
    np.testing.assert_allclose(hoyer(codes), [1, 0, 0.6, 0.6], atol=1e-6)
    np.testing.assert_array_equal(zero_fraction(codes), [0.75, 0, 0.5, 0.5])
    value, gradient = jax.value_and_grad(hoyer)(jnp.zeros(4))
    np.testing.assert_array_equal(value, 1)
    np.testing.assert_array_equal(gradient, np.zeros(4))
    z, h = np.array([0.5, -0.2, 0.9]), 1e-3

    def oracle(z):
        return (np.sqrt(3) - np.abs(z).sum() / np.sqrt((z**2).sum())) / (np.sqrt(3) - 1)

    expected = [(oracle(z + h * i) - oracle(z - h * i)) / (2 * h) for i in np.eye(3)]
    found = jax.grad(hoyer)(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        hoyer(jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"\(3, 8\).*got \(3, 7\)"):
        objective(jnp.zeros((3, 5)), jnp.zeros((5, 8)), jnp.zeros((3, 7)), penalty=0.1)


# Against scikit-learn ----------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.5, 3.0])
def test_minimum_is_that_of_coordinate_descent(penalty):
    e, D = tokens(24)
    best = optimum(e, D, penalty)
    z = fista(e, D, penalty=penalty, iterations=600).code
    np.testing.assert_allclose(objective64(e, D, z, penalty), best, rtol=1e-6)
    z = sparse_code(e, D, penalty=penalty, tolerance=1e-6).code
    np.testing.assert_allclose(objective64(e, D, z, penalty), best, rtol=1e-6)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4])
def test_sparse_code_stops_within_its_tolerance(tolerance):
    e, D = tokens(24)
    found = sparse_code(e, D, penalty=0.5, tolerance=tolerance)
    F = objective64(e, D, found.code, 0.5)
    best = optimum(e, D, 0.5)
    assert 0 < np.sum(F - best) <= tolerance * np.sum(F)
    np.testing.assert_allclose(found.latent, np.asarray(found.code) @ np.asarray(D).T, atol=1e-4)
    # It stops as soon as it can: a hundredth of the tolerance takes longer.
    more = sparse_code(e, D, penalty=0.5, tolerance=tolerance / 100).code
    assert np.sum(objective64(e, D, more, 0.5)) < np.sum(F)


def test_hard_problems_end_too():
    # Atoms of norms 0.1 to 10, more entries than dimensions: a step length is often taken back.
    scale = jnp.exp(1.2 * jnp.asarray(random(2, 1, 24)))
    e, D = jnp.asarray(random(0, 16, 8)), jnp.asarray(random(1, 8, 24)) * scale
    z = sparse_code(e, D, penalty=0.05, tolerance=1e-4, max_iterations=20_000).code
    F, best = objective64(e, D, z, 0.05), optimum(e, D, 0.05)
    assert np.sum(F - best) <= 1.1e-4 * np.sum(F)  # the gap itself is a float32 number


def test_non_negative_codes():
    e, D = jnp.asarray(random(0, 10, 5)), jnp.asarray(random(1, 5, 8))
    found = sparse_code(e, D, penalty=0.3, tolerance=1e-6, non_negative=True).code
    expected = fista(e, D, penalty=0.3, iterations=2000, non_negative=True).code
    assert np.all(found >= 0)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(
        objective64(e, D, found, 0.3), objective64(e, D, expected, 0.3), rtol=1e-5
    )


# The solver as a function ------------------------------------------------------------------------

SMALL = (random(0, 6, 5), random(1, 5, 8))


def small_code(e, D, alpha=0.3):
    return sparse_code(e, D, penalty=alpha, tolerance=1e-6).code


def weighed(e, D, alpha):
    return jnp.sum(small_code(e, D, alpha) * jnp.asarray(random(3, 6, 8)))


def test_gradient_is_that_of_the_minimiser():
    e, D = map(jnp.asarray, SMALL)
    arguments = (e, D, jnp.float32(0.3))
    gradients = jax.jit(jax.grad(weighed, argnums=(0, 1, 2)))(*arguments)

    def value(e, D, alpha):
        z = sparse_encode(e, D.T, algorithm="lasso_lars", alpha=alpha)
        return np.sum(z * random(3, 6, 8))

    h = 1e-5  # lars is exact in float64
    exact = [np.asarray(x, np.float64) for x in arguments]
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in exact]
                moved[which][place] += sign * h
                ends.append(value(*moved[:2], float(moved[2])))
            expected = (ends[0] - ends[1]) / (2 * h)
            np.testing.assert_allclose(np.asarray(gradient)[place], expected, rtol=2e-3, atol=2e-3)


def test_gradient_is_that_of_many_unrolled_steps_forwards_and_recomputed():
    e, D = map(jnp.asarray, SMALL)
    unrolled = jax.grad(
        lambda e: jnp.sum(
            fista(e, D, penalty=0.3, iterations=2000).code * jnp.asarray(random(3, 6, 8))
        )
    )
    found = jax.grad(weighed)(e, D, 0.3)
    np.testing.assert_allclose(found, unrolled(e), atol=2e-3)
    again = jax.grad(jax.checkpoint(weighed))(e, D, 0.3)
    np.testing.assert_allclose(again, found, atol=1e-5)
    direction = jnp.asarray(random(4, 6, 5))
    _, slope = jax.jvp(lambda e: weighed(e, D, 0.3), (e,), (direction,))
    np.testing.assert_allclose(slope, jnp.sum(found * direction), rtol=1e-4)


def test_zeros_are_finite():
    D = jnp.asarray(random(1, 5, 8)).at[:, 2].set(0)
    for e, dictionary in ((jnp.zeros((6, 5)), D), (jnp.asarray(random(0, 6, 5)), 0 * D)):
        value, gradients = jax.value_and_grad(weighed, argnums=(0, 1, 2))(
            e, dictionary, jnp.float32(0.3)
        )
        np.testing.assert_array_equal(value, 0)
        assert all(np.all(np.isfinite(x)) for x in gradients)


def test_jit_vmap_and_bfloat16():
    e, D = map(jnp.asarray, SMALL)
    together, loop = small_code(e, D), np.stack([small_code(x, D) for x in e])
    # A step more or less at 1e-6 of the objective, which is flat to second order: 1e-3 of the code.
    np.testing.assert_allclose(jax.jit(small_code)(e, D), together, atol=1e-3)
    np.testing.assert_allclose(jax.vmap(small_code, (0, None))(e, D), loop, atol=1e-3)
    np.testing.assert_allclose(loop, together, atol=1e-3)
    half = sparse_code(e.astype(jnp.bfloat16), D.astype(jnp.bfloat16), penalty=0.3)
    wide = sparse_code(*(x.astype(jnp.bfloat16).astype(jnp.float32) for x in (e, D)), penalty=0.3)
    assert half.code.dtype == half.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.code, wide.code.astype(jnp.bfloat16))


def test_on_devices_as_on_one(on_devices):
    e, D = jnp.asarray(random(0, 8, 5)), jnp.asarray(random(1, 5, 8))

    def f(e, axis_name=None):
        value, gradient = jax.value_and_grad(lambda e: jnp.sum(small_code(e, D) ** 2))(e)
        total = jnp.sum(gradient, axis=0)
        return (value, total) if axis_name is None else jax.lax.psum((value, total), axis_name)

    for one, many in zip(f(e), on_devices(lambda e: f(e, "batch"), e), strict=True):
        # Each device stops by its own gap, at 1e-6 of the objective.
        np.testing.assert_allclose(many, one, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(signals=jnp.zeros((3, 4))), r"\(3, 4\).*\(5, 8\)"),
        (dict(tolerance=-1.0), "got -1.0"),
        (dict(max_iterations=-1), "and -1"),
        (dict(penalty=jnp.zeros(7)), r"\(3, 8\), got \(7,\)"),
    ],
)
def test_wrong_arguments_raise(change, message):
    arguments = dict(signals=jnp.zeros((3, 5)), dictionary=jnp.zeros((5, 8)), penalty=0.1)
    with pytest.raises(ValueError, match=message):
        sparse_code(**(arguments | change))
