"""The topographic bottleneck: sizes, losses, its draws and code, what a frame is decoded from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.gaussian_vae import normal_per_example
from models.topographic_vae import TopographicCapsules

S, C, D = 6, 2, 4
NOISE = {"sample": jax.random.key(1)}
KERNELS = {
    "none": {"kernel": "none"},
    "stationary": {"kernel": "stationary", "window": 3, "width": 2},
    "shifting": {"kernel": "shifting", "window": 3, "spread": 1},
    "predictive": {"kernel": "shifting", "window": 4, "spread": 1, "predictive": True},
    "torus": {"kernel": "torus", "width": 3},
}


def module(name, **options):
    return TopographicCapsules(capsules=C, places=D, mu=3.0, **(KERNELS[name] | options))


def features(name, batch=3):
    """Random means and log variances of z and u, of z alone for a VAE."""
    encoders = 1 if name == "none" else 2
    lead = (batch,) if name == "torus" else (batch, S)
    shape = (*lead, encoders, 2, C * D)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def variables(name):
    return {} if name == "none" else {"params": {"mu": jnp.float32(3.0)}}


@functools.partial(jax.jit, static_argnames=("name", "train", "noisy"))
def run(name, x, *, train=False, noisy=False):
    rngs = NOISE if noisy else None
    return module(name).apply(variables(name), x, train=train, rngs=rngs)


def split(x):
    """(mean, log variance) of each, float64 `[batch, (time,) C, D]`."""
    x = x.astype(np.float64).reshape(*x.shape[:-1], C, D)
    return [(x[..., i, 0, :, :], x[..., i, 1, :, :]) for i in range(x.shape[-4])]


def energy(name, square):
    """W u^2, tap by tap; frames, capsules and places go round."""
    taps = {
        "stationary": [(a, e) for a in (-1, 0, 1) for e in (0, 1)],  # an even width: one ahead
        "shifting": [(a, e) for a in (-1, 0, 1) for e in (-1, 0, 1) if abs(a - e) <= 1],
        "torus": [(a, e) for a in (-1, 0, 1) for e in (-1, 0, 1)],
    }[name]
    rows = -2 if name == "torus" else -3
    return sum(np.roll(square, (-a, -e), axis=(rows, -1)) for a, e in taps)


@pytest.mark.parametrize("name", ["none", "stationary", "shifting", "torus"])
def test_code_and_losses_are_those_of_numpy(name):
    x = features(name)
    output = run(name, x)
    posteriors = split(x)
    terms = ["kl_z", "kl_u"][: len(posteriors)]
    assert set(output.losses) == set(terms)
    for term, (mean, log_variance) in zip(terms, posteriors, strict=True):
        kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
        np.testing.assert_allclose(output.losses[term], kl.reshape(3, -1).sum(1), rtol=1e-5)
        assert output.losses[term].shape == (3,)
    z = posteriors[0][0]
    np.testing.assert_array_equal(output.latent, output.code)  # without noise
    if name == "none":
        np.testing.assert_allclose(output.code, z, rtol=1e-6)
        assert output.metrics == {}
        return
    u, log_variance = posteriors[1]
    expected = (z + 3) / np.sqrt(energy(name, u**2 + np.exp(log_variance)) + 1e-6)
    np.testing.assert_allclose(output.code, expected, rtol=2e-5)
    np.testing.assert_array_equal(output.metrics["mu"], np.full(3, 3, np.float32))


@pytest.mark.parametrize("name", ["none", "shifting", "torus"])
def test_the_latent_is_made_of_a_draw_of_z_and_of_u(name):
    x = features(name)
    noisy = run(name, x, train=True, noisy=True)
    np.testing.assert_array_equal(noisy.latent, run(name, x, noisy=True).latent)
    np.testing.assert_allclose(noisy.code, run(name, x).code, rtol=1e-6)
    assert (noisy.latent != noisy.code).all()
    # Without a spread, the draw is the mean: the decoder reads the t of z's and u's means.
    x[..., 1, :] = -70
    latent, posteriors = run(name, x, train=True, noisy=True).latent, split(x)
    expected = posteriors[0][0]
    if name != "none":
        expected = (expected + 3) / np.sqrt(energy(name, posteriors[1][0] ** 2) + 1e-6)
    np.testing.assert_allclose(latent, expected, rtol=2e-5)


def test_z_and_u_have_noise_of_their_own_for_each_example():
    x, m, key = features("shifting"), module("shifting"), jax.random.key(3)
    bound = m.bind(variables("shifting"))
    posteriors = bound.posteriors(x)
    drawn = bound.draw(posteriors, key)
    for i, (found, (mean, log_variance)) in enumerate(zip(drawn, split(x), strict=True)):
        noise = normal_per_example(jax.random.fold_in(key, i), (3, S, C, D))
        expected = mean + np.exp(log_variance / 2) * np.asarray(noise, np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    rows = jax.vmap(lambda p: bound.draw(p, key, axis_name="batch"), axis_name="batch")(
        jax.tree.map(lambda a: a[:, None], posteriors)
    )
    for found, expected in zip(rows, drawn, strict=True):
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_projected_tori_are_those_of_each_position():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(np.float32)
    projected = module("torus", project=True)
    started = projected.init(jax.random.key(0), x, train=False)
    output = projected.apply(started, x, train=False)
    dense = started["params"]["projection"]
    both = (x @ dense["kernel"] + dense["bias"]).reshape(12, 2, 2, C * D)
    alone = run("torus", both)
    np.testing.assert_allclose(output.code.reshape(12, C, D), alone.code, rtol=1e-4)
    assert output.latent.shape == (2, 3, 2, C * D)
    np.testing.assert_array_equal(output.latent.reshape(12, C, D), output.code.reshape(12, C, D))
    for name in ("kl_z", "kl_u"):
        wanted = alone.losses[name].reshape(2, 6).sum(1)
        np.testing.assert_allclose(output.losses[name], wanted, rtol=1e-4)


def test_a_predicted_frame_is_made_of_earlier_ones_alone():
    x = features("predictive")
    output = run("predictive", x)
    code, latent = np.asarray(output.code), np.asarray(output.latent)
    np.testing.assert_array_equal(latent[:, 0], code[:, 0])
    np.testing.assert_array_equal(latent[:, 1:], np.roll(code[:, :-1], 1, axis=-1))
    for frame in range(S):
        changed = x.copy()
        changed[:, frame:] += 1
        other = np.asarray(run("predictive", changed).latent)
        np.testing.assert_array_equal(other[:, 1 : frame + 1], latent[:, 1 : frame + 1])
        assert (other[:, frame + 1 : frame + 2] != latent[:, frame + 1 : frame + 2]).all()


def test_gradients_are_finite_where_the_energy_vanishes():
    x = np.zeros_like(features("shifting"))
    x[..., 1, :] = -100

    def loss(params, x):
        output = module("shifting").apply({"params": params}, x, train=True, rngs=NOISE)
        return sum(jnp.sum(v) for v in output.losses.values()) + jnp.sum(output.latent)

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))({"mu": 3.0}, x)):
        assert np.isfinite(gradient).all()


def build(shape, capsules, **bottleneck):
    encoders = 1 if bottleneck["kernel"] == "none" else 2
    return models.build(
        {
            "image_shape": shape,
            "data_variance": 1.0,
            "dtype": "float32",
            "remat": False,
            "likelihood": {"name": "bernoulli"},
            "backbone": {"name": "capsule_mlp", "units": capsules**2, "encoders": encoders},
            "bottleneck": {"name": "topographic", "capsules": capsules, "places": capsules}
            | bottleneck,
        }
    )


@pytest.mark.parametrize(
    ("shape", "capsules", "kernel", "count"),
    [
        ((28, 28, 3), 18, {"kernel": "shifting", "window": 13, "spread": 1}, 9_803_920),
        ((28, 28, 3), 18, {"kernel": "none"}, 3_338_172 + 3_127_575),
        ((64, 64, 1), 15, {"kernel": "shifting", "window": 5}, 9_716_177),
    ],
    ids=["mnist", "mnist, VAE", "dsprites"],
)
def test_the_release_has_as_many_parameters(shape, capsules, kernel, count):
    model = build(shape, capsules, **kernel)
    batch = {"image": jax.ShapeDtypeStruct((2, capsules, *shape), jnp.float32)}
    rngs = {"params": jax.random.key(0), **NOISE}
    output, shapes = jax.eval_shape(lambda b: model.init_with_output(rngs, b, train=True), batch)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    assert output.reconstruction.shape == (2, capsules, *shape)
    assert output.code.shape == (2, capsules, capsules, capsules)
    assert {loss.shape for loss in output.losses.values()} == {(2,)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shifting", {"kernel": "moving"}, "'moving'; known: none, stationary, shifting, torus"),
        ("stationary", {"width": 0}, "width is 0; kernel 'stationary' needs 1 or more"),
        ("none", {"capsules": 0}, "capsules is 0"),
        ("shifting", {"epsilon": 0.0}, "epsilon is 0.0; it must be above 0"),
        ("stationary", {"predictive": True}, "only 'shifting' has an order"),
        ("shifting", {"project": True}, "grids of single images have 'torus' or 'none'"),
    ],
)
def test_settings_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        TopographicCapsules(**({"capsules": C, "places": D} | KERNELS[name] | options))


def test_features_that_do_not_fit():
    with pytest.raises(ValueError, match=r"need \[batch, \(time,\) 2, 2, 8\].*units=8, encoders=2"):
        module("shifting").apply(variables("shifting"), features("none"), train=False)
    with pytest.raises(ValueError, match=r"'shifting' is for sequences of frames.*set data.frames"):
        module("shifting").apply(variables("shifting"), features("torus"), train=False)
    with pytest.raises(ValueError, match="'torus' is for single images"):
        module("torus").apply(variables("torus"), features("shifting"), train=False)
