from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.topographic import (
    roll_capsules,
    shifting_energy,
    stationary_energy,
    student_t,
    torus_energy,
)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Oracle: every tap of the kernel, float64 ---------------------------------------------------------


def energy_by_taps(u, taps, window, width, wraps=True):
    """v[l, c, i] = sum over (a, e) of u[l + window // 2 - a, c, i + width // 2 - e]^2."""
    frames, _, places = u.shape
    u, v = np.float64(u), np.zeros(u.shape)
    for frame in range(frames):
        for place in range(places):
            for a, e in taps:
                other = frame + window // 2 - a
                if wraps or other >= 0:
                    v[frame, :, place] += (
                        u[other % frames, :, (place + width // 2 - e) % places] ** 2
                    )
    return v


def band(window, spread):
    return [(a, e) for a in range(window) for e in range(window) if abs(a - e) <= spread]


def future_zeroed(window, spread):
    """Taps at frame offset window // 2 - a of 0 or less, place offset no larger."""
    return [(a, e) for a, e in band(window, spread) if window // 2 - a <= 0 and e >= a]


def full(window, width):
    return [(a, e) for a in range(window) for e in range(width)]


# window, spread, taps: Keller & Welling 2021 as released; MNIST, S = C = D = 18, L = 1/2, 13/36,
# 5/36 with K = 3, and dSprites, S = C = D = 15, L = 1/2, 1/3, 1/6 with K = 1.
RELEASED = [(18, 18, 1, 52), (18, 13, 1, 37), (18, 5, 1, 13), (15, 15, 0, 15), (15, 10, 0, 10)]
RELEASED += [(15, 5, 0, 5)]


@pytest.mark.parametrize(("size", "window", "spread", "taps"), RELEASED)
def test_shifting_energy_of_the_released_models(size, window, spread, taps):
    u = random(0, size, 2, size)
    assert len(band(window, spread)) == taps
    found = shifting_energy(u, window=window, spread=spread)
    expected = energy_by_taps(u, band(window, spread), window, window)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # All ones: each v counts its taps.
    ones = shifting_energy(jnp.ones((size, 1, size)), window=window, spread=spread)
    np.testing.assert_array_equal(ones, np.full((size, 1, size), taps))


@pytest.mark.parametrize(("window", "spread"), [(1, 0), (2, 1), (3, 2), (4, 3), (7, 2), (9, 0)])
@pytest.mark.parametrize("shape", [(5, 1, 7), (6, 2, 4)])  # shorter than the window, S != D
def test_shifting_energy_of_any_kernel(window, spread, shape):
    u = random(1, *shape)
    found = shifting_energy(u, window=window, spread=spread)
    expected = energy_by_taps(u, band(window, spread), window, window)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("window", "spread", "taps"),
    [(18, 1, 17), (18, 0, 9), (9, 1, 9), (1, 0, 1), (2, 0, 1), (12, 3, 18), (5, 2, 6)],
)
def test_causal_energy(window, spread, taps):
    # The release of "Predictive Coding with Topographic VAEs": 18 x 18, K = 3, has nine ones on the
    # diagonal and eight below it.
    u = random(0, 7, 2, 6)
    assert len(future_zeroed(window, spread)) == taps
    found = shifting_energy(u, window=window, spread=spread, causal=True)
    expected = energy_by_taps(u, future_zeroed(window, spread), window, window, wraps=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_causal_energy_does_not_see_the_future():
    u = random(0, 9, 2, 9)
    changed = u.at[4:].set(5.0)
    for window in (5, 18):
        before, after = (
            shifting_energy(x, window=window, spread=1, causal=True) for x in (u, changed)
        )
        np.testing.assert_array_equal(before[:4], after[:4])
        assert np.all(before[4] != after[4])


# BubbleVAE of MNIST and dSprites, L = 0, an even kernel.
@pytest.mark.parametrize(("window", "width"), [(5, 3), (5, 5), (1, 3), (4, 2)])
def test_stationary_energy(window, width):
    u = random(0, 6, 2, 7)
    found = stationary_energy(u, window=window, width=width)
    expected = energy_by_taps(u, full(window, width), window, width)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    ones = stationary_energy(jnp.ones((6, 1, 7)), window=window, width=width)
    np.testing.assert_array_equal(ones, np.full((6, 1, 7), window * width))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_torus_energy(width):
    u = random(0, 2, 6, 8)  # the oracle's capsules in front
    expected = energy_by_taps(np.moveaxis(u, 0, 1), full(width, width), width, width)
    np.testing.assert_allclose(torus_energy(u, width=width), np.moveaxis(expected, 1, 0), rtol=1e-6)


def test_small_energies_beside_large_ones_keep_their_digits():
    # Differences of running sums would lose them: 1e4^2 and 1e-2^2 are 12 digits apart.
    u = random(0, 18, 1, 18) * jnp.where(jnp.arange(18) < 3, 1e4, 1e-2)[:, None, None]
    found = shifting_energy(u, window=5, spread=1)
    expected = energy_by_taps(u, band(5, 1), 5, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_energy_of_a_rolled_sequence_is_the_rolled_energy():
    u = random(0, 2, 6, 3, 8)
    rolled = jnp.roll(u, (2, 3), axis=(1, 3))
    found = shifting_energy(rolled, window=5, spread=1)
    expected = jnp.roll(shifting_energy(u, window=5, spread=1), (2, 3), axis=(1, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_student_t_by_hand():
    t = student_t(jnp.array([1.0, -4.0]), jnp.array([4.0, 1.0]), jnp.float32(3), epsilon=5.0)
    np.testing.assert_allclose(t.latent, [4 / 3, -1 / np.sqrt(6)], rtol=1e-6)


def test_roll_capsules():
    t = jnp.arange(4.0)[None]
    np.testing.assert_array_equal(roll_capsules(t, 1), [[3, 0, 1, 2]])
    np.testing.assert_array_equal(jax.jit(roll_capsules)(t, jnp.int32(-1)), [[1, 2, 3, 0]])


ENERGIES = [
    partial(shifting_energy, window=4, spread=1),
    partial(shifting_energy, window=4, causal=True),
    partial(stationary_energy, window=3, width=2),
    partial(torus_energy, width=3),
]
each = pytest.mark.parametrize("energy", ENERGIES)


def latent(energy, z, u, mu):
    return student_t(z, energy(u), mu).latent


@each
def test_gradients_agree_with_finite_differences(energy):
    arrays = random(0, 3, 2, 4), random(1, 3, 2, 4), jnp.float32(0.7)
    weight = np.float64(random(2, 3, 2, 4))

    def f(*arrays):
        return jnp.sum(jnp.float32(weight) * latent(energy, *arrays))

    found = jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*arrays)
    # The taps of each unit, from the energies of single units: exact, since W u^2 is linear in u^2.
    units = jnp.eye(24).reshape(24, 3, 2, 4)
    taps = np.float64(jax.jit(jax.vmap(energy))(units)).reshape(24, 24)

    def reference(z, u, mu):
        v = (np.square(u).reshape(-1) @ taps).reshape(u.shape)
        return np.sum(weight * (z + mu) / np.sqrt(v + 1e-6))

    at = [np.float64(x) for x in arrays]
    for n in range(3):
        expected = np.zeros(at[n].shape)
        for i in np.ndindex(at[n].shape):
            step = np.zeros(at[n].shape)
            step[i] = 1e-6
            ends = [
                reference(*(x + s * step * (m == n) for m, x in enumerate(at))) for s in (1, -1)
            ]
            expected[i] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(found[n], expected, rtol=1e-4, atol=1e-4)


@each
def test_zero_energy_is_finite_in_value_and_gradient(energy):
    zeros = jnp.zeros((3, 2, 4))

    def f(z, u, mu):
        return jnp.sum(jnp.square(latent(energy, z, u, mu)))

    value, gradients = jax.value_and_grad(f, argnums=(0, 1, 2))(zeros, zeros, jnp.float32(30))
    assert np.all([np.all(np.isfinite(x)) for x in (value, *gradients)])


@each
def test_bfloat16_sums_in_float32(energy):
    z, u = random(0, 3, 2, 4).astype(jnp.bfloat16), random(1, 3, 2, 4).astype(jnp.bfloat16)
    wide = energy(u.astype(jnp.float32))
    assert energy(u).dtype == jnp.float32
    np.testing.assert_array_equal(energy(u), wide)
    t = student_t(z, energy(u), jnp.bfloat16(2)).latent
    assert t.dtype == jnp.bfloat16
    expected = student_t(z.astype(jnp.float32), wide, jnp.float32(2)).latent
    np.testing.assert_array_equal(t, expected.astype(jnp.bfloat16))


@each
def test_jit_equals_eager_vmap_equals_loop_and_checkpoint_gives_the_gradient(energy):
    z, u, mu = random(0, 5, 3, 2, 4), random(1, 5, 3, 2, 4), jnp.float32(2)
    t = partial(latent, energy)
    eager, compiled = t(z, u, mu), jax.jit(t)(z, u, mu)
    mapped = jax.jit(jax.vmap(t, in_axes=(0, 0, None)))(z, u, mu)
    loop = np.stack([t(*one, mu) for one in zip(z, u, strict=True)])
    for other in (compiled, mapped, loop):
        np.testing.assert_allclose(eager, other, rtol=1e-6)
    once, again = (
        jax.jit(jax.grad(lambda u, f=f: jnp.sum(jnp.sin(f(z, u, mu)))))(u)
        for f in (t, jax.checkpoint(t))
    )
    np.testing.assert_allclose(once, again, rtol=1e-6, atol=1e-7)


@each
def test_mean_and_gradient_on_devices_are_those_of_one(energy, on_devices):
    z, u, mu = random(0, 8, 3, 2, 4), random(1, 8, 3, 2, 4), jnp.float32(2)

    def mean(z, u, axis_name=None):
        value, gradient = jax.value_and_grad(lambda u: jnp.mean(jnp.sin(latent(energy, z, u, mu))))(
            u
        )
        pair = value, jnp.mean(jnp.square(gradient) * u)
        return jax.lax.pmean(pair, axis_name) if axis_name else pair

    many = on_devices(partial(mean, axis_name="batch"), z, u)
    value, square = jax.jit(mean)(z, u)
    np.testing.assert_allclose(many[0], value, rtol=1e-5)
    # A device's mean is over a quarter of the batch, so its gradient is four times as large.
    np.testing.assert_allclose(many[1], 16 * square, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shifting_energy(jnp.zeros((3, 4)), window=3), r"\[\.\.\., S, C, D\].*\(3, 4\)"),
        (lambda: shifting_energy(jnp.zeros((3, 1, 4), jnp.int32), window=3), "int32"),
        (lambda: shifting_energy(jnp.zeros((3, 1, 4)), window=0), "got 0"),
        (lambda: shifting_energy(jnp.zeros((3, 1, 4)), window=3, spread=3), r"0 \.\. 2.*got 3"),
        (lambda: shifting_energy(jnp.zeros((3, 1, 4)), window=3, spread=-1), "got -1"),
        (
            lambda: shifting_energy(jnp.zeros((3, 1, 4)), window=3, spread=2, causal=True),
            r"0 \.\. 1.*got 2",
        ),
        (lambda: stationary_energy(jnp.zeros((3, 1, 4)), window=3, width=0), "got 0"),
        (lambda: stationary_energy(jnp.zeros((3, 4)), window=3, width=1), r"\(3, 4\)"),
        (lambda: torus_energy(jnp.zeros(4), width=3), r"\(4,\)"),
        (lambda: torus_energy(jnp.zeros((4, 4)), width=0), "got 0"),
        (lambda: student_t(jnp.zeros(3), jnp.zeros(4), jnp.float32(0)), r"\(4,\) for \(3,\)"),
        (lambda: student_t(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3)), r"got \(3,\)"),
        (lambda: student_t(jnp.zeros(3), jnp.zeros(3), jnp.float32(0), epsilon=0), "got 0"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
