from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.routing import published_capsules, squash


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def oracle(u, W, iterations=3):
    """The release in loops, float64: softmax over inputs, element-wise squash, batch mean."""
    images, inputs = u.shape[:2]
    votes = np.zeros((images, inputs, W.shape[1]))
    for n in range(images):
        for i in range(inputs):
            votes[n, i] = W[i] @ u[n, i]
    b = np.zeros(inputs)
    for iteration in range(iterations):
        c = np.exp(b) / np.sum(np.exp(b))
        s = [sum(c[i] * votes[n, i] for i in range(inputs)) for n in range(images)]
        v = np.array([x * np.abs(x) / (1 + x**2) for x in s])
        if iteration < iterations - 1:
            b = b + [np.mean([votes[n, i] @ v[n] for n in range(images)]) for i in range(inputs)]
    return np.linalg.norm(c[:, None] * votes, axis=-1), v, c


def test_golden_values():
    # Independent float64 rewrite of Riretta/CV_GAN@e177a3f: u = squash(sin(0 .. 11)), W = cos(0 ..
    # 11) as (i, out, in), 3 iterations.
    u = squash(jnp.sin(jnp.arange(12.0)).reshape(2, 3, 2))
    found = published_capsules(u, jnp.cos(jnp.arange(12.0)).reshape(3, 2, 2))
    c = [0.324892986174, 0.337180303451, 0.337926710375]
    n = [
        [0.151899943864, 0.189085461422, 0.193570544697],
        [0.082881925005, 0.22998545232, 0.18239481095],
    ]
    v = [[0.019927339957, 0.018081836649], [0.00775923644, 0.040595129339]]
    np.testing.assert_allclose(found.coupling, c, rtol=1e-6)
    np.testing.assert_allclose(found.latent, n, rtol=2e-6)
    np.testing.assert_allclose(found.capsule, v, rtol=1e-5)


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_agrees_with_loops_in_float64(iterations):
    u, W = random(0, 4, 7, 3), random(1, 7, 5, 3)
    found = published_capsules(u, W, iterations=iterations)
    for one, other in zip(found, oracle(np.float64(u), np.float64(W), iterations), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sum(found.coupling), 1, rtol=1e-6)


def test_an_image_depends_on_its_batch_but_for_one_iteration():
    # The release's flaw, kept: the agreement is averaged over the batch.
    u, W = random(0, 4, 7, 3), random(1, 7, 5, 3)
    changed = u.at[1:].mul(3)
    one, other = (published_capsules(x, W) for x in (u, changed))
    assert np.max(np.abs(one.latent[0] - other.latent[0])) > 1e-3
    one, other = (published_capsules(x, W, iterations=1) for x in (u, changed))
    np.testing.assert_array_equal(one.latent[0], other.latent[0])


def test_masked_images_have_no_part_in_the_agreement():
    u, W = random(0, 6, 7, 3), random(1, 7, 5, 3)
    padded = u.at[4:].set(jnp.nan)
    mask = jnp.array([1, 1, 1, 1, 0, 0])
    found, expected = published_capsules(padded, W, mask=mask), published_capsules(u[:4], W)
    np.testing.assert_allclose(found.coupling, expected.coupling, rtol=1e-6)
    np.testing.assert_allclose(found.latent[:4], expected.latent, rtol=1e-5)
    nobody = published_capsules(u, W, mask=jnp.zeros(6))
    np.testing.assert_allclose(nobody.coupling, np.full(7, 1 / 7), rtol=1e-6)


def test_gradients_agree_with_finite_differences():
    arrays, weight = (random(0, 3, 4, 2), random(1, 4, 3, 2)), np.float64(random(2, 3, 4))

    def f(u, W):
        return jnp.sum(jnp.float32(weight) * published_capsules(u, W).latent)

    found = jax.jit(jax.grad(f, argnums=(0, 1)))(*arrays)
    at = [np.float64(x) for x in arrays]
    for n in range(2):
        expected = np.zeros(at[n].shape)
        for i in np.ndindex(at[n].shape):
            step = np.zeros(at[n].shape)
            step[i] = 1e-5
            ends = []
            for sign in (1, -1):
                moved = [x + sign * step if m == n else x for m, x in enumerate(at)]
                ends.append(np.sum(weight * oracle(*moved)[0]))
            expected[i] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(found[n], expected, rtol=2e-4, atol=1e-5)


def test_zero_capsules_are_finite_in_value_and_gradient():
    W = random(1, 7, 5, 3)
    for u in (jnp.zeros((4, 7, 3)), random(0, 4, 7, 3).at[:, 2].set(0)):

        def f(u, W):
            found = published_capsules(u, W)
            return jnp.sum(found.latent) + jnp.sum(found.capsule), found

        gradients, found = jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True))(u, W)
        for leaf in jax.tree.leaves((gradients, found)):
            assert np.all(np.isfinite(leaf))


def test_bfloat16_computes_in_float32_jit_equals_eager_and_vmap_equals_loop():
    u, W = random(0, 2, 4, 7, 3), random(1, 7, 5, 3)
    narrow = published_capsules(u[0].astype(jnp.bfloat16), W.astype(jnp.bfloat16))
    wide = published_capsules(*(x.astype(jnp.bfloat16).astype(jnp.float32) for x in (u[0], W)))
    assert (narrow.latent.dtype, narrow.capsule.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_array_equal(narrow.coupling, wide.coupling)
    np.testing.assert_array_equal(narrow.latent, wide.latent.astype(jnp.bfloat16))
    mapped = jax.jit(jax.vmap(published_capsules, in_axes=(0, None)))(u, W)
    for n in range(2):
        eager, compiled = published_capsules(u[n], W), jax.jit(published_capsules)(u[n], W)
        for one, two, three in zip(eager, compiled, mapped, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(one, three[n], rtol=1e-5, atol=1e-7)


def test_devices_and_checkpoint_give_the_coupling_and_gradients_of_the_whole_batch(on_devices):
    u, W = random(0, 8, 7, 3), random(1, 7, 5, 3)
    mask = jnp.asarray(np.arange(8) != 5)

    def step(u, mask, axis_name=None, layer=published_capsules):
        def loss(u):
            found = layer(u, W, axis_name=axis_name, mask=mask)
            return jnp.sum(jnp.sin(9 * found.latent)), found

        gradient, found = jax.grad(loss, has_aux=True)(u)
        sums = jnp.sum(jnp.sin(gradient)), jnp.sum(gradient * u), jnp.sum(found.latent)
        return found.coupling, jax.lax.psum(sums, axis_name) if axis_name else sums

    many = on_devices(partial(step, axis_name="batch"), u, mask)
    one = jax.jit(step)(u, mask)
    again = jax.jit(partial(step, layer=jax.checkpoint(published_capsules)))(u, mask)
    for other in (many, again):
        for x, y in zip(jax.tree.leaves(other), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    # Without the axis's name each device has a coupling of its own, as the release.
    alone = jax.jit(jax.vmap(lambda u: published_capsules(u, W).coupling))(u.reshape(4, 2, 7, 3))
    assert np.max(np.std(alone, axis=0)) > 1e-3


@pytest.mark.parametrize(
    ("u", "W", "options", "message"),
    [
        ((4, 7), (7, 5, 3), {}, r"\(4, 7\) and \(7, 5, 3\)"),
        ((4, 7, 3), (7, 3, 5), {}, r"\(4, 7, 3\) and \(7, 3, 5\)"),
        ((4, 7, 3), (6, 5, 3), {}, r"\(6, 5, 3\)"),
        ((4, 7, 3), (7, 5, 3), dict(iterations=0), "got 0"),
        ((4, 7, 3), (7, 5, 3), dict(mask=jnp.ones((4, 7))), r"\(4,\), got \(4, 7\)"),
    ],
)
def test_wrong_arguments_raise(u, W, options, message):
    with pytest.raises(ValueError, match=message):
        published_capsules(jnp.zeros(u), jnp.zeros(W), **options)
