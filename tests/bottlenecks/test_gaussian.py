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


# Two Gaussians -----------------------------------------------------------------------------------


def kl_oracle(mean, log_variance, mean_2, log_variance_2):
    variance, variance_2 = np.exp(log_variance), np.exp(log_variance_2)
    return 0.5 * (
        log_variance_2 - log_variance + (variance + (mean - mean_2) ** 2) / variance_2 - 1
    )


@pytest.mark.parametrize("p", [(0.5, 1.0), (-2.0, -3.0), (0.0, 0.0)])
@pytest.mark.parametrize("q", [(-3.0, -6.0), (0.25, 1.5)])
def test_kl_of_two_gaussians_agrees_with_the_integral_of_scipy_densities(q, p):
    # Reference as above; the formula in float64 is checked by the same integral.
    first, second = (scipy.stats.norm(m, np.exp(v / 2)) for m, v in (q, p))
    reach = 12 * first.std()
    expected, _ = quad(
        lambda z: first.pdf(z) * (first.logpdf(z) - second.logpdf(z)),
        q[0] - reach,
        q[0] + reach,
        points=[q[0]],
    )
    found = gaussian.kl_divergence(*(jnp.float32([x]) for x in (*q, *p)))
    np.testing.assert_allclose(found, [expected], rtol=2e-6)
    np.testing.assert_allclose(kl_oracle(*q, *p), expected, rtol=1e-7)


def test_kl_to_the_standard_normal_is_the_special_case_and_to_itself_is_zero():
    mean, log_variance = random(0, 50), random(1, 50)
    zeros = jnp.zeros(50)
    np.testing.assert_array_equal(
        gaussian.kl_divergence(mean, log_variance, zeros, zeros),
        gaussian.kl_standard_normal(mean, log_variance),
    )
    same = gaussian.kl_divergence(mean, log_variance, mean, log_variance)
    np.testing.assert_array_equal(same, zeros)


def test_kl_gradients_agree_with_finite_differences_of_the_float64_formula():
    arrays = [random(seed, 5) for seed in range(4)]
    weight = random(4, 5)
    found = jax.jit(
        jax.grad(lambda *x: jnp.sum(weight * gaussian.kl_divergence(*x)), argnums=range(4))
    )(*arrays)
    for n in range(4):
        ends = [
            kl_oracle(*(np.float64(x) + step * (m == n) for m, x in enumerate(arrays)))
            for step in (1e-6, -1e-6)
        ]
        expected = np.float64(weight) * (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(found[n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [-1e30, -100.0, 100.0, 1e30])
@pytest.mark.parametrize("second", [-1e30, 1e30])
def test_kl_of_extreme_variances_is_finite_in_value_and_gradient(first, second):
    arrays = [jnp.float32([x]) for x in (1.0, first, -0.5, second)]
    value, gradient = jax.value_and_grad(
        lambda *x: gaussian.kl_divergence(*x)[0], argnums=range(4)
    )(*arrays)
    for leaf in jax.tree.leaves((value, gradient)):
        assert np.all(np.isfinite(leaf))
    assert value > -1e-6


# Free bits ---------------------------------------------------------------------------------------


def test_free_bits_by_hand():
    # Means 2 and 0.5 against lambda = 1: the first group keeps its KL, the second is free.
    kl = jnp.array([[1.0, 0.0], [3.0, 1.0]])
    found, gradient = jax.value_and_grad(
        lambda kl: jnp.mean(jnp.sum(gaussian.free_bits(kl, nats=1.0), axis=-1))
    )(kl)
    assert found == 2 + 1
    np.testing.assert_array_equal(gradient, [[0.5, 0], [0.5, 0]])
    np.testing.assert_array_equal(gaussian.free_bits(kl, nats=1.0), [[1, 1], [3, 1]])


@pytest.mark.parametrize("nats", [0.0, 0.5, 1.0])
def test_the_mean_of_free_bits_is_the_value_of_the_paper(nats):
    # sum_j max(lambda, mean of KL_j), leading axes [4, 3], and of the rows that the mask keeps.
    kl = jnp.square(random(0, 4, 3, 6)) * jnp.linspace(0.2, 2, 6)[None, None]
    mask = jnp.asarray(np.random.default_rng(1).random((4, 3)) < 0.6)
    dirty = jnp.where(mask[..., None], kl, jnp.nan)  # padding may hold anything
    for given, keep in ((kl, None), (dirty, mask)):
        rows = np.float64(kl)[np.ones((4, 3), bool) if keep is None else np.asarray(keep)]
        found = np.asarray(gaussian.free_bits(given, nats=nats, mask=keep))
        kept = found[np.ones((4, 3), bool) if keep is None else np.asarray(keep)]
        expected = np.maximum(nats, rows.mean(axis=0))
        np.testing.assert_allclose(kept.mean(axis=0), expected, rtol=1e-6)
    everything_free = gaussian.free_bits(kl, nats=nats, mask=jnp.zeros((4, 3)))
    np.testing.assert_allclose(everything_free, np.full((4, 3, 6), nats), atol=1e-7)


def test_free_bits_on_devices_are_those_of_one(on_devices):
    # The first device alone would keep what the whole batch makes free, and the other way round.
    kl = jnp.concatenate([jnp.tile(jnp.array([3.0, 6.0]), (2, 1)), jnp.full((6, 2), 0.2)])
    mask = jnp.asarray(np.arange(8) != 7)

    def mean(kl, mask, axis_name=None):
        def local(kl):
            found = gaussian.free_bits(kl, nats=1.0, axis_name=axis_name, mask=mask)
            return jnp.sum(jnp.where(mask[:, None], found, 0), axis=0)

        gradient = jax.grad(lambda kl: jnp.sum(local(kl)))(kl)
        pair = local(kl), jnp.sum(gradient, axis=0)
        return jax.lax.psum(pair, axis_name) if axis_name else pair

    many = on_devices(lambda kl, mask: mean(kl, mask, "batch"), kl, mask)
    one = mean(kl, mask)
    np.testing.assert_allclose(one[0], [7, 2 * 6 + 5 * 0.2], rtol=1e-6)
    np.testing.assert_array_equal(one[1], [0, 7])
    for found, expected in zip(many, one, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_kl_and_free_bits_under_jit_vmap_checkpoint_and_in_bfloat16():
    arrays = [random(seed, 3, 4, 5) for seed in range(4)]

    def f(*arrays):
        return gaussian.free_bits(gaussian.kl_divergence(*arrays), nats=1.0)

    eager = f(*arrays)
    np.testing.assert_allclose(jax.jit(f)(*arrays), eager, rtol=1e-6)
    mapped = jax.jit(jax.vmap(f))(*arrays)
    for n in range(3):
        np.testing.assert_allclose(mapped[n], f(*(x[n] for x in arrays)), rtol=1e-6)
    once, again = (
        jax.jit(jax.grad(lambda *x, g=g: jnp.sum(g(*x)), argnums=range(4)))(*arrays)
        for g in (f, jax.checkpoint(f))
    )
    for one, other in zip(once, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    narrow = [x.astype(jnp.bfloat16) for x in arrays]
    wide = [x.astype(jnp.float32) for x in narrow]
    assert f(*narrow).dtype == jnp.float32
    np.testing.assert_array_equal(f(*narrow), f(*wide))


def test_wrong_arguments_of_kl_and_free_bits_raise():
    zeros = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"Shapes must.*mean_2 \(3,\)"):
        gaussian.kl_divergence(zeros, zeros, zeros[0], zeros)
    for call, message in (
        (lambda: gaussian.free_bits(zeros, nats=-1), "got -1"),
        (lambda: gaussian.free_bits(jnp.float32(1), nats=1), "scalar"),
        (lambda: gaussian.free_bits(jnp.zeros(3, jnp.int32), nats=1), "int32"),
        (lambda: gaussian.free_bits(zeros, nats=1, mask=jnp.ones(3)), r"\(4,\), got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
