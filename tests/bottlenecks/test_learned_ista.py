import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.dictionaries import (
    analytic_weights,
    dct_dictionary,
    overcomplete_dct,
    spectral_norm_squared,
)
from bottlenecks.learned_ista import (
    CoupledWeights,
    ListaWeights,
    StepWeights,
    TiedWeights,
    alista,
    lista,
    lista_cp,
    published_scvae,
    select_support,
    start_alista,
    start_lista,
    start_lista_cp,
    start_tilista,
    tilista,
)
from bottlenecks.sparse import ista, objective, soft_threshold

LAYERS = 5


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small():
    """Signals [6, 5] and a dictionary [5, 8] of unit columns."""
    D = random(1, 5, 8)
    return jnp.asarray(random(0, 6, 5)), jnp.asarray(D / np.linalg.norm(D, axis=0))


def networks():
    """Each network and weights for it that are not ISTA's."""
    theta = jnp.abs(jnp.asarray(random(2, LAYERS))) * 0.2
    gamma = 0.5 + jnp.abs(jnp.asarray(random(3, LAYERS)))
    W = jnp.asarray(random(4, LAYERS, 5, 8)) * 0.3
    S = jnp.asarray(random(5, LAYERS, 8, 8)) * 0.2
    return {
        "lista": (lista, ListaWeights(W, S, theta)),
        "lista shared": (lista, ListaWeights(W[0], S[0], theta)),
        "lista_cp": (lista_cp, CoupledWeights(W, theta)),
        "lista_cp per atom": (lista_cp, CoupledWeights(W[0], jnp.outer(theta, jnp.arange(8.0)))),
        "tilista": (tilista, TiedWeights(W[0], gamma, theta)),
        "alista": (alista, StepWeights(gamma, theta)),
    }


NAMES = list(networks())


def oracle(name, e, D, weights, percent):
    """One signal as a column, float64, layer by layer; codes after each layer."""
    w = {k: np.asarray(v, np.float64) for k, v in weights._asdict().items()}
    b, A = np.asarray(e, np.float64), np.asarray(D, np.float64)
    if name == "alista":
        M = np.linalg.inv(A @ A.T)
        w["W"] = np.stack([M @ a / (a @ M @ a) for a in A.T], axis=1)
    x, codes = np.zeros(A.shape[1]), []
    for k in range(len(w["theta"])):
        own = {
            n: v[k] if v.ndim == (3 if n in ("W", "W_e", "S") else 1) else v for n, v in w.items()
        }
        theta = np.broadcast_to(w["theta"][k], x.shape)
        if name.startswith("lista_cp"):
            v = x + own["W"].T @ (b - A @ x)
        elif name.startswith("lista"):
            v = own["W_e"].T @ b + own["S"].T @ x
        else:
            v = x + own["gamma"] * own["W"].T @ (b - A @ x)
        p, p_max = percent
        selected = int(np.round((len(x) - 1) * min(p * (k + 1), p_max) / 100))
        largest = np.argsort(-np.abs(v))[:selected]
        x = np.array(
            [
                0
                if abs(v[i]) <= theta[i]
                else v[i]
                if i in largest
                else v[i] - np.sign(v[i]) * theta[i]
                for i in range(len(v))
            ]
        )
        codes.append(x)
    return np.stack(codes)


@pytest.mark.parametrize("percent", [(0.0, 0.0), (10.0, 40.0)])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_a_loop_in_float64(name, percent):
    e, D = small()
    network, weights = networks()[name]
    p, p_max = percent
    found = network(e, D, weights, p=p, p_max=p_max, keep_iterates=True)
    for i in range(len(e)):
        expected = oracle(name, e[i], D, weights, percent)
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(found.iterates[:, i], expected, atol=1e-5 * scale)
    np.testing.assert_array_equal(found.code, found.iterates[-1])
    np.testing.assert_allclose(found.latent, found.code @ D.T, rtol=1e-5, atol=1e-5)


def test_starts_equal_ista():
    e, D = small()
    options = dict(penalty=0.1, layers=LAYERS)
    expected = ista(e, D, penalty=0.1, iterations=LAYERS, keep_iterates=True).iterates
    for network, weights in (
        (lista, start_lista(D, **options)),
        (lista, start_lista(D, **options, tied=False)),
        (lista_cp, start_lista_cp(D, **options)),
        (tilista, start_tilista(D, **options)),
    ):
        found = network(e, D, weights, keep_iterates=True).iterates
        np.testing.assert_allclose(found, expected, atol=1e-6)
    found = alista(e, D, start_alista(D, **options), analytic=D, keep_iterates=True).iterates
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert start_lista(D, **options, tied=False).S.shape == (LAYERS, 8, 8)


def test_start_continues_where_layers_stopped():
    e, D = small()
    network, weights = networks()["lista_cp"]
    first = network(e, D, jax.tree.map(lambda w: w[:2], weights)).code
    whole = network(e, D, weights).code
    rest = network(e, D, jax.tree.map(lambda w: w[2:], weights), start=first).code
    np.testing.assert_allclose(rest, whole, atol=1e-5)


def test_selected_entries_are_not_shrunk_and_the_choice_has_no_gradient():
    v = jnp.array([0.2, -3, 1.0, 2, -0.9])
    np.testing.assert_allclose(select_support(v, 0.5, 0), soft_threshold(v, 0.5))
    np.testing.assert_allclose(select_support(v, 0.5, 2), [0, -3, 0.5, 2, -0.4], rtol=1e-6)
    np.testing.assert_allclose(select_support(v, 2.5, 2), [0, -3, 0, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(select_support(jnp.zeros(5), 0.5, 2), jnp.zeros(5))
    to_v, to_theta = jax.jacobian(select_support, argnums=(0, 1))(v, 0.5, 2)
    np.testing.assert_array_equal(to_v, np.diag([0, 1, 1, 1, 1]))
    np.testing.assert_array_equal(to_theta, [0, 0, -1, 0, 1])


def test_selection_agrees_with_a_sort_with_ties_and_tiny_values():
    v = random(0, 50, 40)
    v[:, ::7] = np.round(v[:, ::7])
    v[3] *= 1e-38
    for selected in (0, 1, 17, 39):
        found = select_support(jnp.asarray(v), 0.3, selected)
        size = np.abs(v)
        limit = np.sort(size, axis=1)[:, ::-1][:, selected, None]
        shrunk = np.where(size > np.float32(0.3), v - np.sign(v) * np.float32(0.3), 0)
        expected = np.where((size > limit) & (size > np.float32(0.3)), v, shrunk)
        np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_threshold_below_zero_acts_as_zero():
    e, D = small()
    network, weights = networks()["lista_cp"]
    below = weights._replace(theta=weights.theta.at[1].set(-0.5))
    zero = weights._replace(theta=weights.theta.at[1].set(0))
    np.testing.assert_array_equal(network(e, D, below).code, network(e, D, zero).code)


# SC-VAE's recursion ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("penalty", "iterations", "nonzero", "norm", "residual", "value"),
    [
        (0.5, 16, 26, 26.0553759018, 5.8747324021, 15.9650541519),
        (0.5, 30, 23, 25.4063112263, 6.1239522020, 15.7651317142),
        (3.0, 16, 4, 8.5630645979, 50.2526392200, 50.8155134038),
        (3.0, 30, 4, 8.4794349735, 50.7240840028, 50.8003469219),
    ],
)
def test_published_recursion(penalty, iterations, nonzero, norm, residual, value):
    # e_i = sin(i), i = 0 .. 255, the initial D and c of sotiraslab/SC-VAE@0b3111c, its loop run in
    # float64 NumPy.
    e, D = jnp.sin(jnp.arange(256.0)), overcomplete_dct()
    found = published_scvae(e, D, penalty=penalty, iterations=iterations)
    assert jnp.sum(found.code != 0) == nonzero
    np.testing.assert_allclose(jnp.sum(jnp.abs(found.code)), norm, rtol=2e-6)
    np.testing.assert_allclose(jnp.sum((e - found.latent) ** 2), residual, rtol=5e-6)
    np.testing.assert_allclose(objective(e, D, found.code, penalty=penalty), value, rtol=2e-6)


def test_published_recursion_is_that_with_the_lateral_matrix():
    e, D = small()
    c = 1.3 * spectral_norm_squared(D)
    y, S, theta = e @ D, jnp.eye(8) - D.T @ D / c, 0.2 / c
    z = soft_threshold(y, theta)
    for _ in range(7):
        z = soft_threshold(z @ S + y / c, theta)
    found = published_scvae(e, D, penalty=0.2, iterations=7, c=c).code
    np.testing.assert_allclose(found, z, atol=2e-6)
    orthonormal = dct_dictionary(3)
    e = jnp.asarray(random(0, 2, 9))
    for iterations in (0, 4):
        found = published_scvae(e, orthonormal, penalty=0.2, iterations=iterations, c=1.0).code
        np.testing.assert_allclose(found, soft_threshold(e @ orthonormal, 0.2), atol=2e-6)


# As functions ------------------------------------------------------------------------------------

SELECT = dict(p=10.0, p_max=40.0)


def weighed(network, e, D, weights):
    code = network(e, D, weights, **SELECT).code
    return jnp.sum(code * jnp.asarray(random(6, 6, 8))[: len(code)])


@pytest.mark.parametrize("name", ["lista", "lista_cp", "alista"])
def test_gradients_are_finite_differences_and_the_same_recomputed(name):
    e, D = small()
    network, weights = networks()[name]

    def f(weights, e):
        return weighed(network, e, D, weights)

    gradients = jax.jit(jax.grad(f, argnums=(0, 1)))(weights, e)
    again = jax.jit(jax.grad(jax.checkpoint(f), argnums=(0, 1)))(weights, e)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, again
    )

    def value(weights, e):
        codes = [oracle(name, row, D, weights, (10.0, 40.0))[-1] for row in e]
        return np.sum(np.stack(codes) * random(6, 6, 8))

    # Along one random direction in each array; the oracle is float64.
    for which in range(len(weights) + 1):
        arrays = [np.asarray(x, np.float64) for x in (*weights, e)]
        direction = np.random.default_rng(which).normal(size=arrays[which].shape)
        ends = []
        for h in (1e-6, -1e-6):
            moved = list(arrays)
            moved[which] = arrays[which] + h * direction
            ends.append(value(type(weights)(*moved[:-1]), moved[-1]))
        gradient = (*gradients[0], gradients[1])[which]
        found = np.sum(np.asarray(gradient, np.float64) * direction)
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-6, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_zero_signals_are_finite(name):
    _, D = small()
    network, weights = networks()[name]
    f = jax.value_and_grad(lambda w, e: weighed(network, e, D, w), argnums=(0, 1))
    value, gradients = f(weights, jnp.zeros((6, 5)))
    np.testing.assert_array_equal(value, 0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


def test_jit_vmap_and_bfloat16():
    e, D = small()
    network, weights = networks()["lista_cp"]

    def f(e):
        return network(e, D, weights, **SELECT).code

    together = f(e)
    np.testing.assert_allclose(jax.jit(f)(e), together, atol=1e-5)
    np.testing.assert_allclose(np.stack([f(x) for x in e]), together, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(f)(e), together, atol=1e-5)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (e, D, weights))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    found = network(*half, **SELECT)
    assert found.code.dtype == found.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.code, network(*wide, **SELECT).code.astype(jnp.bfloat16))


def test_on_devices_as_on_one(on_devices):
    _, D = small()
    e = jnp.asarray(random(0, 8, 5))
    network, weights = networks()["tilista"]

    def f(e, axis_name=None):
        value, gradient = jax.value_and_grad(
            lambda e: jnp.sum(network(e, D, weights, **SELECT).code ** 2)
        )(e)
        total = jnp.sum(gradient, axis=0)
        return (value, total) if axis_name is None else jax.lax.psum((value, total), axis_name)

    for one, many in zip(f(e), on_devices(lambda e: f(e, "batch"), e), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, D, w: lista_cp(e[:, :4], D, w), r"\(6, 4\).*\(5, 8\)"),
        (lambda e, D, w: lista_cp(e, D, w._replace(W=w.W[:2])), r"\(5, 5, 8\).*got \(2, 5, 8\)"),
        (lambda e, D, w: lista_cp(e, D, w._replace(theta=jnp.ones(()))), r"got \(\)"),
        (lambda e, D, w: lista_cp(e, D, w._replace(theta=jnp.ones((5, 3)))), r"got \(5, 3\)"),
        (lambda e, D, w: lista_cp(e, D, w, p=-1.0), "p=-1.0"),
        (lambda e, D, w: lista_cp(e, D, w, start=jnp.zeros((6, 7))), r"\(6, 8\), got \(6, 7\)"),
        (lambda e, D, w: start_lista(D, penalty=0.1, layers=0), "got 0"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(*small(), networks()["lista_cp"][1])


def test_analytic_weights_of_the_dictionary_of_alista():
    folder = Path(os.environ.get("BOTTLENECKS_DATA", "")) / "alista"
    if "BOTTLENECKS_DATA" not in os.environ or not folder.exists():
        pytest.skip("BOTTLENECKS_DATA has no folder alista/ (D.mat of VITA-Group/ALISTA)")
    from scipy.io import loadmat

    A = loadmat(folder / "D.mat")["D"]
    W = np.asarray(analytic_weights(jnp.asarray(A, jnp.float32)), np.float64)
    # ||W^T D||_F^2 in float64 of the closed form; 1002.27118 for the W.npy there made feasible.
    np.testing.assert_allclose(np.sum((W.T @ A) ** 2), 1002.27093, rtol=1e-6)
    np.testing.assert_allclose(np.sum(W * A, axis=0), np.ones(500), rtol=1e-5)
