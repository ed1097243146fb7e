"""The sparse bottleneck as a module: its three modes, losses in nats, figures, and gradients."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from bottlenecks import dictionaries, sparse
from models.scvae import SparseCoder

KEYS = {"params": jax.random.key(0)}
SMALL = {
    "fista": {"depth": 3, "atoms": 7},
    "published": {"depth": 4, "atoms": 9, "mode": "published"},
    "paper_v2": {"depth": 4, "atoms": 4, "mode": "paper_v2"},
}


def features(*lead, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(*lead, width)).astype(np.float32)


def coder(mode="fista", **options):
    return SparseCoder(**{"penalty": 0.3, "iterations": 5, **SMALL[mode], **options})


def start(module, x):
    return jax.jit(lambda x: module.init(KEYS, x, train=True))(x)


def run(module, variables, x, **options):
    return jax.jit(lambda v, x: module.apply(v, x, train=True, **options))(variables, x)


def project(variables, x):
    """e, in float64."""
    dense = variables["params"]["project"]
    kernel, bias = (np.asarray(dense[n], np.float64) for n in ("kernel", "bias"))
    return np.asarray(x, np.float64) @ kernel + bias


def scaled(e):
    """Of each example, to a mean squared norm of 1, as "fista" takes its features."""
    axes = tuple(range(1, e.ndim))
    return e / np.sqrt((e**2).sum(-1, keepdims=True).mean(axes, keepdims=True))


def soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


# ---------------------------------------------------------------- golden values at full size

SIGNAL = np.sin(np.arange(256.0)).astype(np.float32)[None]


# Computed in float64 NumPy on the signal e_i = sin(i) and the released start (c = 7.41724):
# ||z||_0, ||z||_1, ||e - D z||^2. The recursion as published, and FISTA from 0 on the same D.
@pytest.mark.parametrize(
    ("mode", "penalty", "iterations", "non_zeros", "norm_1", "residual"),
    [
        ("published", 0.5, 16, 26, 26.0553759018, 5.8747324021),
        ("published", 3.0, 30, 4, 8.4794349735, 50.7240840028),
        ("fista", 0.5, 16, 22, 24.9778428481, 6.2921381766),
        ("fista", 3.0, 16, 4, 8.5126897158, 50.5257338695),
    ],
)
def test_golden_values(mode, penalty, iterations, non_zeros, norm_1, residual):
    # "fista" takes features of mean squared norm 1; with alpha scaled alike, so is the code.
    size = np.linalg.norm(SIGNAL) if mode == "fista" else 1.0
    module = SparseCoder(256, 512, penalty / size, iterations, mode, project=False)
    variables = start(module, SIGNAL)
    if mode == "published":
        assert set(variables["params"]) == {"dictionary", "c"}
        assert float(variables["params"]["c"]) == pytest.approx(7.417240881680698, rel=1e-5)
        np.testing.assert_array_equal(
            variables["params"]["dictionary"], dictionaries.overcomplete_dct()
        )
    else:
        # Atoms are of norm 1 in use, however long the parameter is.
        variables = {"params": {"dictionary": 2.5 * dictionaries.overcomplete_dct()}}
    output = run(module, variables, SIGNAL)
    assert output.code.shape == (1, 512)
    assert float(output.metrics["non_zeros"][0]) == non_zeros
    # float32 through up to 30 steps.
    np.testing.assert_allclose(output.losses["l1"] * size**2, penalty * norm_1, rtol=1e-4)
    np.testing.assert_allclose(output.losses["latent"] * size**2, 0.5 * residual, rtol=1e-4)


# ---------------------------------------------------------------- the modes against loops


def fista_by_hand(e, D, alpha, iterations):
    """Beck & Teboulle 2009, Eq. 4.1 to 4.3, for one signal."""
    c = np.linalg.norm(D, 2) ** 2
    z = y = np.zeros(D.shape[1])
    t = 1.0
    for _ in range(iterations):
        previous, z = z, soft(y + D.T @ (e - D @ y) / c, alpha / c)
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        y = z + (t - 1) / following * (z - previous)
        t = following
    return z


def published_by_hand(e, D, c, alpha, iterations):
    """The released recursion, with S: its first threshold is put on D^T e, not on D^T e / c."""
    y, S = D.T @ e, np.eye(D.shape[1]) - D.T @ D / c
    z = soft(y, alpha / c)
    for _ in range(iterations):
        z = soft(S @ z + y / c, alpha / c)
    return z


@pytest.mark.parametrize("mode", ["fista", "published", "paper_v2"])
def test_modes_by_hand(mode):
    module = coder(mode)
    x = features(3, 2, 2)
    variables = start(module, x)
    params = variables["params"]
    rng = np.random.default_rng(1)
    if mode == "fista":
        raw = rng.normal(size=(3, 7))
        params |= {"dictionary": jnp.asarray(raw, jnp.float32)}
        D = raw / np.linalg.norm(raw, axis=0)
    elif mode == "published":
        D = rng.normal(size=(4, 9))
        params |= {"dictionary": jnp.asarray(D, jnp.float32), "c": jnp.float32(20)}
    else:
        D = np.asarray(dictionaries.dct_dictionary(2), np.float64)
        np.testing.assert_allclose(D @ D.T, np.eye(4), atol=1e-6)
        weights = {"W_e": (4, 4), "S": (4, 4), "theta": (5,)}
        drawn = {name: 0.4 * rng.random(shape) for name, shape in weights.items()}
        params |= {"lista": jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn)}

    output = run(module, {"params": params}, x)
    e = project(variables, x)
    if mode == "fista":
        e = scaled(e)
    codes = np.zeros((*e.shape[:-1], D.shape[1]))
    for place in np.ndindex(e.shape[:-1]):
        if mode == "fista":
            codes[place] = fista_by_hand(e[place], D, 0.3, 5)
        elif mode == "published":
            codes[place] = published_by_hand(e[place], D, 20.0, 0.3, 5)
        else:
            for theta in drawn["theta"]:  # z+ = ST(W_e^T e + S^T z, theta_t)
                v = e[place] @ drawn["W_e"] + codes[place] @ drawn["S"]
                codes[place] = soft(v, theta)
    np.testing.assert_allclose(output.code, codes, atol=1e-5)
    np.testing.assert_allclose(output.latent, codes @ D.T, atol=1e-5)
    error = ((e - codes @ D.T) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(output.losses["latent"], error / 2, rtol=1e-4)
    np.testing.assert_allclose(output.losses["l1"], 0.3 * np.abs(codes).sum((1, 2, 3)), rtol=1e-4)
    module = module.bind({"params": params})
    np.testing.assert_allclose(module.dictionary(), D, atol=1e-6)
    np.testing.assert_allclose(module.look_up(output.code), output.latent, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 4])
def test_with_an_orthonormal_dictionary_depth_does_nothing_until_it_learns(iterations):
    module = coder("paper_v2", depth=16, atoms=16, iterations=iterations)
    x = features(5, width=16)
    variables = start(module, x)
    weights = variables["params"]["lista"]
    assert weights["theta"].shape == (iterations,)
    D = np.asarray(dictionaries.dct_dictionary(4), np.float64)
    output = run(module, variables, x)
    np.testing.assert_allclose(output.code, soft(project(variables, x) @ D, 0.3), atol=1e-5)

    def loss(params):
        return run(module, {"params": params}, x).losses["latent"].sum()

    grads = jax.grad(loss)(variables["params"])["lista"]
    assert grads["W_e"].any()
    assert grads["theta"].any()
    assert bool(grads["S"].any()) == (iterations > 1)


def test_the_release_has_23_frequencies_for_its_512_atoms():
    module = coder("published", depth=16, atoms=50)  # cut from the least square that holds 50
    dictionary = start(module, features(1))["params"]["dictionary"]
    np.testing.assert_array_equal(
        dictionary, dictionaries.overcomplete_dct(side=4, frequencies=8, atoms=50)
    )


# ---------------------------------------------------------------- the objective


def converged():
    """A coder whose codes are exact to rounding, its input, its features and its parameters."""
    module = coder(depth=4, atoms=7, iterations=400, project=False)
    x = 5 * features(6, 3, width=4)
    return module, x, scaled(x), start(module, x)


def test_losses_are_the_objective_that_the_code_minimises():
    module, x, e, variables = converged()
    output = run(module, variables, x)
    D = module.apply(variables, method="dictionary")
    expected = sparse.objective(e, D, output.code, penalty=0.3)
    total = output.losses["latent"] + output.losses["l1"]
    np.testing.assert_allclose(total, expected.sum(1), rtol=1e-5)
    assert float(sparse.duality_gap(e, D, output.code, penalty=0.3).max()) < 1e-5
    # A code other than 0 leaves a residual of norm alpha at least.
    one_position = run(module, variables, x.reshape(18, 1, 4))
    used = np.asarray(one_position.metrics["non_zeros"]) > 0
    assert used.sum() > 10
    assert (np.asarray(one_position.losses["latent"])[used] > 0.5 * 0.3**2 * (1 - 1e-4)).all()


def test_gradients_of_the_objective_are_those_at_its_minimum():
    module, x, e, variables = converged()

    def total(params, x):
        output = module.apply({"params": params}, x, train=True)
        return output.losses["latent"].sum() + output.losses["l1"].sum()

    of_params, of_x = jax.jit(jax.grad(total, (0, 1)))(variables["params"], x)
    output = run(module, variables, x)
    # By the envelope theorem, as if the code were given: dF/de = e - z D^T. What is left of it
    # before the features are scaled to a norm of sqrt(3) is orthogonal to each example's.
    r = np.asarray(e - output.latent, np.float64)
    along = (r * e).sum((1, 2), keepdims=True) / 3
    size = np.linalg.norm(x.reshape(6, -1), axis=1)[:, None, None]
    np.testing.assert_allclose(of_x, (r - along * e) * math.sqrt(3) / size, atol=1e-4)
    # dF/dD = -r^T z, of which the normalised atoms leave what is orthogonal to each of them.
    D = np.asarray(variables["params"]["dictionary"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(D, axis=0), 1, rtol=1e-6)
    pulls = -np.einsum("bnd,bnk->dk", r, np.asarray(output.code, np.float64))
    pulls -= D * (D * pulls).sum(0)
    np.testing.assert_allclose(of_params["dictionary"], pulls, atol=1e-3)


@pytest.mark.parametrize("mode", ["fista", "published", "paper_v2"])
def test_the_decoder_teaches_every_parameter(mode):
    module = coder(mode)
    x = features(8, 4)
    variables = start(module, x)

    def decode(params, x):
        latent = module.apply({"params": params}, x, train=True).latent
        return jnp.sum(jnp.sin(3 * latent))

    grads = jax.jit(jax.grad(decode, (0, 1)))(variables["params"], x)
    chex.assert_tree_all_finite(grads)
    assert all(bool(g.any()) for g in jax.tree.leaves(grads))
    # Central differences along the gradient, in float32.
    size = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    at = (variables["params"], jnp.asarray(x))
    ends = [
        float(decode(*jax.tree.map(lambda a, g, h=h: a + h * g / size, at, grads)))
        for h in (1e-2, -1e-2)
    ]
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize("mode", ["fista", "published", "paper_v2"])
def test_zero_features_and_zero_atoms_are_finite(mode):
    module = coder(mode)
    x = jnp.zeros((2, 3, 6))
    variables = start(module, x)
    if mode == "fista":
        raw = variables["params"]["dictionary"]
        variables["params"]["dictionary"] = raw.at[:, 0].set(0)

    def total(params, x):
        output = module.apply({"params": params}, x, train=True)
        return sum(v.sum() for v in output.losses.values()) + output.latent.sum(), output

    grads, output = jax.jit(jax.grad(total, (0, 1), has_aux=True))(variables["params"], x)
    chex.assert_tree_all_finite((grads, output))
    assert not output.code.any()
    np.testing.assert_array_equal(output.metrics["zero_fraction"], 1)


# ---------------------------------------------------------------- figures, masks, devices


def test_figures_are_of_each_example():
    module = coder()
    x = features(4, 2, 2)
    output = run(module, start(module, x), x)
    z = np.asarray(output.code, np.float64).reshape(4, -1)
    used = (z != 0).sum(1)
    assert len(set(used)) > 1
    np.testing.assert_array_equal(output.metrics["non_zeros"], used)
    np.testing.assert_allclose(output.metrics["zero_fraction"], 1 - used / 28, rtol=1e-6)
    root = math.sqrt(28)
    ratio = np.abs(z).sum(1) / np.sqrt((z**2).sum(1))
    np.testing.assert_allclose(output.metrics["hoyer"], (root - ratio) / (root - 1), rtol=1e-5)


@pytest.mark.parametrize("lead", [(4,), (4, 3, 2, 2)], ids=len)
def test_any_axes_between_batch_and_features(lead):
    module = coder()
    x = features(*lead)
    output = run(module, start(module, x), x)
    assert output.latent.shape == (*lead, 3)
    assert output.code.shape == (*lead, 7)
    assert all(v.shape == (4,) for v in (output.losses | output.metrics).values())


@pytest.mark.parametrize("mode", ["fista", "published", "paper_v2"])
def test_examples_do_not_see_each_other(mode):
    module = coder(mode, axis_name="batch")
    x = features(8, 3)
    variables = start(module, x)

    def train(x, mask=None):
        def total(params):
            output = module.apply({"params": params}, x, train=True, mask=mask)
            return sum(jnp.mean(v) for v in output.losses.values()), output

        return jax.grad(total, has_aux=True)(variables["params"])

    grads, whole = jax.jit(train)(x)

    def mean(x):
        grads, output = train(x)
        return jax.lax.pmean(grads, "batch"), output

    mapped = jax.pmap(mean, axis_name="batch", out_axes=(None, 0), devices=jax.local_devices()[:4])
    shared, parts = mapped(x.reshape(4, 2, 3, 6))
    chex.assert_trees_all_close(jax.device_get(shared), grads, rtol=1e-5, atol=1e-6)
    parts = jax.tree.map(lambda a, b: np.asarray(a).reshape(b.shape), parts, whole)
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)

    mask = np.repeat([1.0, 0.0], [5, 3]).astype(np.float32)
    padded = np.where(mask[:, None, None] > 0, x, np.nan).astype(np.float32)
    output = run(module, variables, padded, mask=mask)
    kept = jax.tree.map(lambda a: a[:5], output)
    expected = jax.tree.map(lambda a: a[:5], whole)
    chex.assert_trees_all_close(kept, expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- bfloat16, building, errors


@pytest.mark.parametrize("mode", ["fista", "published", "paper_v2"])
def test_bfloat16_features_keep_float32_codes(mode):
    options = {"depth": 4, "atoms": 4 if mode == "paper_v2" else 9, "project": False}
    x = jnp.asarray(features(16, 4, width=4), jnp.bfloat16)
    module = coder(mode, **options, dtype=jnp.bfloat16)
    variables = start(module, x)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half = run(module, variables, x)
    exact = run(module, variables, x.astype(jnp.float32))
    assert half.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.code, exact.code)
    np.testing.assert_array_equal(half.latent, exact.latent.astype(jnp.bfloat16))
    # Summed in float32 by both, but in another order.
    chex.assert_trees_all_close(half.losses, exact.losses, rtol=1e-6)
    figures = (*half.losses.values(), *half.metrics.values())
    assert {a.dtype for a in (half.code, *figures)} == {jnp.dtype("float32")}


def test_build_by_name():
    model = models.build(
        {
            "image_shape": (8, 8, 1),
            "backbone": {"name": "convnet", "widths": (4,), "last_width": 6},
            "bottleneck": {"name": "sparse", "depth": 4, "atoms": 8, "penalty": 0.1},
            "likelihood": {"name": "gaussian"},
            "data_variance": 0.1,
            "dtype": "float32",
            "remat": False,
        }
    )
    assert model.bottleneck == SparseCoder(4, 8, penalty=0.1, iterations=16, mode="fista")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "lista"}, "mode is 'lista'; known: fista, published, paper_v2"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"atoms": 1}, "atoms is 1; it must be at least 2"),
        ({"iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"penalty": 0.0}, r"penalty is 0\.0; it must be above 0"),
        ({"mode": "published", "depth": 8}, "depth is 8.*'published'.*a square such as 16, 64"),
        ({"mode": "paper_v2", "depth": 1}, "depth is 1.*'paper_v2'.*a square such as 16, 64"),
        ({"mode": "paper_v2", "depth": 4, "atoms": 7}, "atoms is 7, but an orthonormal.*depth, 4"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        SparseCoder(**{"depth": 4, "atoms": 7, "penalty": 0.3, **options})


def test_features_of_another_depth():
    with pytest.raises(ValueError, match=r"gives 6 features.*depth is 3.*project=True"):
        coder(project=False).init(KEYS, features(2), train=True)
