"""Likelihoods against float64 oracles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from models.likelihoods import Bernoulli, Categorical, Gaussian, Laplace, build_likelihood, to_unit

ALL = [
    Gaussian(variance=0.06),
    Laplace(scale=0.2),
    Bernoulli(),
    Categorical(),
    Categorical(levels=5),
]
SHAPE = (2, 4, 3, 3)


def draw(likelihood, seed=0, scale=1.0):
    """A decoder output and a uint8 image that fit."""
    rng = np.random.default_rng(seed)
    channels = likelihood.output_channels(SHAPE[-1])
    output = scale * rng.normal(size=(*SHAPE[:-1], channels)).astype(np.float32)
    return output, rng.integers(0, 256, SHAPE).astype(np.uint8)


def test_to_unit():
    image = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(to_unit(image), np.arange(256) / 255, rtol=1e-6)
    half = jnp.array([0.0, 0.25, 1.0], jnp.bfloat16)
    assert to_unit(half).dtype == jnp.float32
    np.testing.assert_array_equal(to_unit(half), [0.0, 0.25, 1.0])
    with pytest.raises(ValueError, match=r"uint8.*floating.*found int32"):
        to_unit(np.zeros(3, np.int32))


@pytest.mark.parametrize("variance", [1e-4, 0.06327039811675479, 1.0])
def test_gaussian_is_the_normal_density(variance):
    likelihood = Gaussian(variance=variance)
    output, image = draw(likelihood)
    oracle = -scipy.stats.norm.logpdf(
        image / 255.0, output.astype(np.float64) + 0.5, np.sqrt(variance)
    )
    np.testing.assert_allclose(likelihood.nats(output, image), oracle, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(likelihood.mean(output), output + np.float32(0.5))


def test_gaussian_one_standard_deviation_away():
    likelihood = Gaussian(variance=0.01)
    output = jnp.full((1, 1, 1, 1), 0.1)  # mean 0.6
    nats = likelihood.nats(output, jnp.full((1, 1, 1, 1), 0.5))
    np.testing.assert_allclose(nats, 0.5 * (1 + np.log(2 * np.pi * 0.01)), rtol=1e-5)


def test_gaussian_twice_the_nats_are_mse_over_variance_plus_a_constant():
    variance = 0.06327039811675479  # of CIFAR-10, in the authors' example
    likelihood = Gaussian(variance=variance)
    output, image = draw(likelihood, scale=0.2)
    mse = np.mean((image / 255.0 - 0.5 - output) ** 2)
    constant = np.log(2 * np.pi * variance)
    found = 2 * np.mean(likelihood.nats(output, image)) - constant
    np.testing.assert_allclose(found, mse / variance, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_laplace_is_the_density(scale):
    likelihood = Laplace(scale=scale)
    output, image = draw(likelihood)
    oracle = -scipy.stats.laplace.logpdf(image / 255.0, output.astype(np.float64) + 0.5, scale)
    np.testing.assert_allclose(likelihood.nats(output, image), oracle, rtol=2e-5, atol=2e-5)
    if scale == 0.5:  # VQGAN's loss of images in [-1, 1]
        error = np.abs(image / 127.5 - 1 - 2 * output.astype(np.float64))
        np.testing.assert_allclose(likelihood.nats(output, image), error, rtol=2e-5, atol=2e-5)


def test_bernoulli_of_black_and_white():
    output, image = draw(Bernoulli(), scale=3.0)
    image = (image > 127).astype(np.float32)
    oracle = -scipy.stats.bernoulli.logpmf(
        image.astype(int), scipy.special.expit(output.astype(np.float64))
    )
    np.testing.assert_allclose(Bernoulli().nats(output, image), oracle, rtol=1e-5, atol=1e-6)


def test_bernoulli_of_grey_is_the_cross_entropy():
    output, image = draw(Bernoulli(), scale=3.0)
    x, logit = image / 255.0, output.astype(np.float64)
    oracle = -x * scipy.special.log_expit(logit) - (1 - x) * scipy.special.log_expit(-logit)
    np.testing.assert_allclose(Bernoulli().nats(output, image), oracle, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Bernoulli().mean(output), scipy.special.expit(logit), rtol=1e-5)


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_categorical_is_the_softmax(levels):
    likelihood = Categorical(levels=levels)
    output, image = draw(likelihood, scale=2.0)
    logits = output.astype(np.float64).reshape(*SHAPE, levels)  # [..., channels, levels]
    level = np.round(image / 255.0 * (levels - 1)).astype(int)
    log_p = scipy.special.log_softmax(logits, axis=-1)
    oracle = -np.take_along_axis(log_p, level[..., None], -1)[..., 0]
    np.testing.assert_allclose(likelihood.nats(output, image), oracle, rtol=1e-5, atol=1e-5)
    floating = (image / 255.0).astype(np.float32)
    chex.assert_trees_all_equal(likelihood.nats(output, floating), likelihood.nats(output, image))
    mean = np.sum(np.exp(log_p) * np.arange(levels), -1) / (levels - 1)
    np.testing.assert_allclose(likelihood.mean(output), mean, rtol=1e-5)


@pytest.mark.parametrize("levels", [2, 7, 256])
def test_categorical_sums_to_one(levels):
    likelihood = Categorical(levels=levels)
    output, _ = draw(likelihood, scale=4.0)
    values = jnp.arange(levels) / (levels - 1)
    nats = jax.vmap(lambda value: likelihood.nats(output, jnp.full(SHAPE, value)))(values)
    np.testing.assert_allclose(np.exp(-np.float64(nats)).sum(0), 1.0, rtol=1e-5)


def test_bernoulli_sums_to_one():
    output, _ = draw(Bernoulli(), scale=4.0)
    mass = sum(np.exp(-Bernoulli().nats(output, jnp.full(SHAPE, x))) for x in (0.0, 1.0))
    np.testing.assert_allclose(mass, 1.0, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_shapes_types_and_jit(likelihood):
    output, image = draw(likelihood)
    half = jnp.asarray(output, jnp.bfloat16)
    for out in (output, half):
        for value in (
            likelihood.nats(out, image),
            likelihood.mean(out),
            likelihood.sample(jax.random.key(0), out),
        ):
            assert value.shape == SHAPE
            assert value.dtype == jnp.float32
    np.testing.assert_allclose(
        jax.jit(likelihood.nats)(output, image), likelihood.nats(output, image), rtol=1e-5
    )
    # bf16 outputs are read as the float32 numbers they are.
    exact = likelihood.nats(half.astype(jnp.float32), image)
    chex.assert_trees_all_equal(likelihood.nats(half, image), exact)


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_leading_axes_broadcast(likelihood):
    outputs = jnp.stack([draw(likelihood, seed)[0] for seed in range(3)])
    _, image = draw(likelihood)
    nats = likelihood.nats(outputs, image)
    assert nats.shape == (3, *SHAPE)
    for i in range(3):
        np.testing.assert_allclose(nats[i], likelihood.nats(outputs[i], image), rtol=1e-6)
    assert likelihood.nats(outputs[0, 0], image).shape == SHAPE


@pytest.mark.parametrize("likelihood", ALL, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_gradients_are_finite(likelihood, scale):
    output, image = draw(likelihood, scale=scale)
    value, grad = jax.value_and_grad(lambda out: likelihood.nats(out, image).sum())(output)
    assert np.isfinite(value)
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_samples_have_the_mean(likelihood):
    output = draw(likelihood)[0][:1, :2]
    keys = jax.random.split(jax.random.key(1), 2000)
    samples = jax.vmap(lambda key: likelihood.sample(key, output))(keys)
    # The standard error of a mean of 2000 values in [0, 1] is below 0.5 / sqrt(2000) = 0.011.
    np.testing.assert_allclose(samples.mean(0), likelihood.mean(output), atol=0.055)
    if isinstance(likelihood, Gaussian):
        np.testing.assert_allclose(samples.var(0), likelihood.variance, rtol=0.2)
    if isinstance(likelihood, Bernoulli | Categorical):
        levels = getattr(likelihood, "levels", 2)
        np.testing.assert_allclose(samples * (levels - 1), jnp.round(samples * (levels - 1)), 1e-5)


def test_discrete():
    assert [likelihood.discrete for likelihood in ALL] == [False, False, True, True, True]
    assert Categorical().output_channels(3) == 768


def test_build():
    assert build_likelihood("gaussian", variance=0.5) == Gaussian(variance=0.5)
    assert build_likelihood("bernoulli") == Bernoulli()
    assert build_likelihood("categorical", levels=16) == Categorical(levels=16)
    with pytest.raises(ValueError, match=r"'normal'.*gaussian, laplace, bernoulli, categorical"):
        build_likelihood("normal")
    with pytest.raises(ValueError, match=r"'gaussian' has no option 'sigma'.*variance"):
        build_likelihood("gaussian", sigma=1.0)
    with pytest.raises(ValueError, match=r"'gaussian' needs the option 'variance'"):
        build_likelihood("gaussian")


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), float("inf")])
def test_variance_must_be_positive(variance):
    with pytest.raises(ValueError, match=f"positive and finite, found {variance}"):
        Gaussian(variance=variance)


@pytest.mark.parametrize("levels", [1, 0, 2.5])
def test_levels_must_be_two_or_more(levels):
    with pytest.raises(ValueError, match=f"from 2 up, found {levels}"):
        Categorical(levels=levels)


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_shapes_must_fit(likelihood):
    output, image = draw(likelihood)
    wrong = image[..., :2]
    with pytest.raises(ValueError, match=r"output \(2, 4, 3, \d+\) .* image \(2, 4, 3, 2\)"):
        likelihood.nats(output, wrong)
    with pytest.raises(ValueError, match=r"output \(2, 4, 3, \d+\) .* image \(2, 3, 3, 3\)"):
        likelihood.nats(output, image[:, :3])
    with pytest.raises(ValueError, match="must both be"):
        likelihood.nats(output, image[0, 0])


def test_categorical_mean_of_wrong_channels():
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 9\).*multiple of 4"):
        Categorical(levels=4).mean(jnp.zeros((1, 2, 2, 9)))
