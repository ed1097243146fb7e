import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

from bottlenecks import gaussian

MEANS = (-3.0, 0.0, 0.25, 2.0)
LOG_VARIANCES = (-6.0, -1.0, 0.0, 1.5)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("log_variance", LOG_VARIANCES)
def test_kl_agrees_with_the_integral_of_scipy_densities(mean, log_variance):
    # Reference: scipy.integrate.quad of q log(q / p) with scipy.stats.norm densities.
    q, p = scipy.stats.norm(mean, np.exp(log_variance / 2)), scipy.stats.norm()
    reach = 12 * np.exp(log_variance / 2)
    expected, _ = quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), mean - reach, mean + reach, points=[mean]
    )
    kl = gaussian.kl_standard_normal(jnp.float32([mean]), jnp.float32([log_variance]))
    np.testing.assert_allclose(kl, [expected], rtol=2e-6, atol=1e-7)


def test_log_density_agrees_with_scipy():
    # Reference: scipy.stats.norm.logpdf, float64.
    x, mean, log_variance = random(0, 50, 3), random(1, 50, 3), 2 * random(2, 50, 3)
    expected = scipy.stats.norm.logpdf(
        *(np.asarray(a, np.float64) for a in (x, mean)),
        np.exp(np.asarray(log_variance, np.float64) / 2),
    )
    found = gaussian.log_density(x, mean, log_variance)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_log_density_broadcasts():
    x, mean, log_variance = random(0, 5, 4, 3), random(1, 4, 3), random(2, 3)
    found = gaussian.log_density(x, mean, log_variance)
    expected = [gaussian.log_density(one, mean, jnp.tile(log_variance, (4, 1))) for one in x]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-6)


def test_sample_is_mean_plus_sigma_noise():
    drawn = gaussian.sample(
        jnp.array([1.0, -2.0, 3.0]), jnp.log(jnp.array([4.0, 1.0, 0.25])), jnp.array([0.5, 0, -2])
    )
    np.testing.assert_allclose(drawn.latent, [2.0, -2.0, 2.0], rtol=1e-6)
    # By hand: (mean^2 + sigma^2 - 1 - ln sigma^2) / 2.
    expected = [(1 + 4 - 1 - np.log(4)) / 2, 4 / 2, (9 + 0.25 - 1 - np.log(0.25)) / 2]
    np.testing.assert_allclose(drawn.kl, expected, rtol=1e-6)


def test_kl_is_the_expected_log_ratio_of_samples():
    mean, log_variance = jnp.array([[0.7, -1.2]]), jnp.array([[-1.0, 0.5]])
    noise = random(0, 200_000, 2)
    drawn = jax.vmap(lambda n: gaussian.sample(mean[0], log_variance[0], n))(noise)
    ratio = gaussian.log_density(drawn.latent, mean, log_variance) - gaussian.log_density(
        drawn.latent, jnp.zeros((1, 1)), jnp.zeros((1, 1))
    )
    error = np.std(ratio, axis=0) / np.sqrt(len(noise))
    assert np.all(np.abs(np.mean(ratio, axis=0) - drawn.kl[0]) < 5 * error)


def test_kl_keeps_its_digits_near_the_standard_normal():
    log_variance = np.float32(1e-3)
    kl = gaussian.kl_standard_normal(jnp.zeros(1), jnp.full(1, log_variance))
    exact = (np.expm1(np.float64(log_variance)) - np.float64(log_variance)) / 2
    # exp(log_variance) - 1 in float32 would be off by about a tenth.
    np.testing.assert_allclose(kl, [exact], rtol=1e-3)
    np.testing.assert_array_equal(
        gaussian.kl_standard_normal(jnp.zeros(3), jnp.zeros(3)), [0.0] * 3
    )


def test_gradients_agree_with_finite_differences_of_float64_formulas():
    mean, log_variance, noise = random(0, 6), random(1, 6), random(2, 6)
    weight = random(3, 6)

    def f(mean, log_variance):
        drawn = gaussian.sample(mean, log_variance, noise)
        density = gaussian.log_density(drawn.latent, jnp.zeros(1), log_variance)
        return jnp.sum(weight * drawn.latent + drawn.kl + density)

    def reference(mean, log_variance):
        latent = mean + np.exp(log_variance / 2) * np.float64(noise)
        kl = (mean**2 + np.exp(log_variance) - 1 - log_variance) / 2
        density = scipy.stats.norm.logpdf(latent, 0, np.exp(log_variance / 2))
        return np.sum(np.float64(weight) * latent + kl + density)

    found = jax.grad(f, argnums=(0, 1))(mean, log_variance)
    point = [np.float64(mean), np.float64(log_variance)]
    for i in range(2):
        for j in range(6):
            step = np.zeros((2, 6))
            step[i, j] = 1e-5
            expected = (reference(*(point + step)) - reference(*(point - step))) / 2e-5
            np.testing.assert_allclose(found[i][j], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("log_variance", [-1e30, -1e4, -100.0, 100.0, 1e4, 1e30])
def test_extreme_log_variances_are_finite_in_value_and_gradient(log_variance):
    mean, noise = jnp.array([0.0, 1.0]), jnp.array([0.0, 1.5])

    def f(mean, log_variance):
        drawn = gaussian.sample(mean, log_variance, noise)
        density = gaussian.log_density(mean, mean, log_variance)
        return jnp.sum(drawn.latent) + jnp.sum(drawn.kl) + jnp.sum(density), (drawn, density)

    extreme = jnp.full(2, log_variance)
    gradient, values = jax.grad(f, argnums=(0, 1), has_aux=True)(mean, extreme)
    for leaf in jax.tree.leaves((gradient, values)):
        assert np.all(np.isfinite(leaf))
    assert np.all(values[0].kl > 10)


def test_bfloat16_computes_in_float32_and_returns_the_latent_in_bfloat16():
    arrays = [random(i, 40).astype(jnp.bfloat16) for i in range(3)]
    drawn, wide = (gaussian.sample(*a) for a in (arrays, [a.astype(jnp.float32) for a in arrays]))
    assert drawn.latent.dtype == jnp.bfloat16
    assert drawn.kl.dtype == jnp.float32
    np.testing.assert_array_equal(drawn.kl, wide.kl)
    np.testing.assert_array_equal(drawn.latent, wide.latent.astype(jnp.bfloat16))
    density = gaussian.log_density(*arrays)
    assert density.dtype == jnp.float32


def test_jit_and_vmap_and_devices_agree_with_a_plain_call():
    mean, log_variance, noise = random(0, 4, 5), random(1, 4, 5), random(2, 4, 5)
    plain = gaussian.sample(mean, log_variance, noise)
    for transform in (jax.jit, jax.vmap, jax.pmap):
        mapped = jax.block_until_ready(transform(gaussian.sample)(mean, log_variance, noise))
        for found, expected in zip(mapped, plain, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (gaussian.sample, [(4, 3), (4, 3), (3,)]),
        (gaussian.sample, [(4, 3), (4, 1), (4, 3)]),
        (gaussian.kl_standard_normal, [(4, 3), (3,)]),
        (gaussian.log_density, [(4, 3), (4, 2), (4, 3)]),
    ],
)
def test_wrong_shapes_raise_and_are_named(function, shapes):
    with pytest.raises(ValueError, match="Shapes must") as raised:
        function(*map(jnp.zeros, shapes))
    for shape in shapes:
        assert str(shape) in str(raised.value)


def test_integers_raise():
    with pytest.raises(ValueError, match="int32"):
        gaussian.kl_standard_normal(jnp.zeros(3, jnp.int32), jnp.zeros(3))
