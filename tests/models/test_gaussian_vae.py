"""The Gaussian bottleneck as a module: its KL, its noise, its posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors

from models.gaussian_vae import GaussianBottleneck, normal_per_example

NOISE = {"sample": jax.random.key(1)}


def features(*lead, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(*lead, width)).astype(np.float32)


def start(module, x, *, spread=1.0):
    variables = module.init({"params": jax.random.key(0), **NOISE}, x, train=True)
    return jax.tree.map(lambda p: spread * p, variables)


def posterior(variables, x):
    """Mean and log variance, in float64."""
    dense = variables["params"]["posterior"]
    kernel, bias = (np.asarray(dense[n], np.float64) for n in ("kernel", "bias"))
    return np.split(np.asarray(x, np.float64) @ kernel + bias, 2, axis=-1)


@pytest.mark.parametrize("lead", [(5,), (5, 2, 3), (5, 2, 2, 2)], ids=len)
def test_posterior_and_kl_are_those_of_numpy(lead):
    module = GaussianBottleneck(depth=4)
    x = features(*lead)
    variables = start(module, x, spread=2.0)
    mean, log_variance = posterior(variables, x)
    found = module.apply(variables, x, method="posterior")
    for ours, theirs in zip(found, (mean, log_variance), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    output = module.apply(variables, x, train=True, rngs=NOISE)
    # Kingma and Welling 2014, appendix B, summed over every unit of an example.
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    np.testing.assert_allclose(output.losses["kl"], kl.reshape(5, -1).sum(1), rtol=1e-4)
    assert set(output.losses) == {"kl"}
    assert output.losses["kl"].shape == (5,)
    np.testing.assert_allclose(output.code, mean, rtol=1e-4, atol=1e-5)
    assert output.latent.shape == output.code.shape == (*lead, 4)


def test_the_latent_is_a_draw_from_the_posterior():
    module = GaussianBottleneck(depth=3)
    x = np.broadcast_to(features(1), (20_000, 6))
    variables = start(module, x, spread=1.5)
    mean, log_variance = posterior(variables, x[:1])
    latent = np.asarray(module.apply(variables, x, train=True, rngs=NOISE).latent)
    sigma = np.exp(0.5 * log_variance)
    standard = (latent - mean) / sigma
    # 20,000 draws: a mean has a standard error of 0.007, a variance one of 0.01.
    np.testing.assert_allclose(standard.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(standard.var(0), 1, atol=0.04)
    off_diagonal = np.corrcoef(standard.T) - np.eye(3)
    assert np.abs(off_diagonal).max() < 0.03


def test_training_and_evaluation_draw_alike_and_without_noise_the_mean_is_decoded():
    module = GaussianBottleneck(depth=4)
    x = features(5)
    variables = start(module, x)
    trained = module.apply(variables, x, train=True, rngs=NOISE)
    evaluated = module.apply(variables, x, train=False, rngs=NOISE)
    np.testing.assert_array_equal(trained.latent, evaluated.latent)
    assert (trained.latent != trained.code).all()
    other = module.apply(variables, x, train=True, rngs={"sample": jax.random.key(2)})
    assert (other.latent != trained.latent).all()
    mean = module.apply(variables, x, train=False)
    np.testing.assert_array_equal(mean.latent, mean.code)
    np.testing.assert_array_equal(mean.losses["kl"], trained.losses["kl"])
    with pytest.raises(errors.InvalidRngError):
        module.apply(variables, x, train=True)


def test_noise_belongs_to_an_example_not_to_a_device():
    x = features(8, 3)
    module = GaussianBottleneck(depth=4)
    variables = start(module, x)
    whole = module.apply(variables, x, train=True, rngs=NOISE)
    assert len(np.unique((whole.latent - whole.code).round(4))) > 90  # no two draws are shared
    apart = GaussianBottleneck(depth=4, axis_name="batch")
    for devices in (2, 4):
        parts = jax.vmap(
            lambda x: apart.apply(variables, x, train=True, rngs=NOISE), axis_name="batch"
        )(x.reshape(devices, -1, 3, 6))
        np.testing.assert_allclose(parts.latent.reshape(8, 3, 4), whole.latent, rtol=1e-6)
    # A model is made, and its parameters drawn, outside of any mapped axis.
    jax.tree.map(np.testing.assert_array_equal, start(apart, x), variables)


def test_noise_of_an_example_does_not_depend_on_how_many_there_are():
    key = jax.random.key(0)
    few, many = (np.asarray(normal_per_example(key, (n, 2, 3))) for n in (3, 7))
    np.testing.assert_array_equal(few, many[:3])
    assert many.dtype == np.float32


def test_gradients_are_those_of_the_elbo():
    module = GaussianBottleneck(depth=2)
    x = features(3)
    variables = start(module, x)

    def loss(params):
        output = module.apply({"params": params}, x, train=True, rngs=NOISE)
        return jnp.sum(jnp.square(output.latent)) + jnp.sum(output.losses["kl"])

    found = jax.grad(loss)(variables["params"])["posterior"]["bias"]
    mean, log_variance = posterior(variables, x)
    latent = np.asarray(module.apply(variables, x, train=True, rngs=NOISE).latent)
    of_mean = 2 * latent + mean
    # z = mean + sigma noise, so dz / dlog_variance = (z - mean) / 2.
    of_log_variance = latent * (latent - mean) + 0.5 * (np.exp(log_variance) - 1)
    expected = np.concatenate([of_mean.sum(0), of_log_variance.sum(0)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_the_projection_alone():
    module = GaussianBottleneck(depth=4, dtype=jnp.bfloat16)
    x = features(5)
    variables = start(module, x)
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    output = module.apply(variables, x, train=True, rngs=NOISE)
    assert output.code.dtype == output.latent.dtype == output.losses["kl"].dtype == jnp.float32
    exact = GaussianBottleneck(depth=4).apply(variables, x, train=True, rngs=NOISE)
    np.testing.assert_allclose(output.losses["kl"], exact.losses["kl"], rtol=0.05)
    assert (output.code != exact.code).any()


def test_depth_is_at_least_one():
    with pytest.raises(ValueError, match="depth is 0; it must be at least 1"):
        GaussianBottleneck(depth=0)


def test_the_latent_of_a_code_is_the_code():
    code = jnp.ones((2, 3))
    assert GaussianBottleneck(depth=3).look_up(code) is code
