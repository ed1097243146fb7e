"""Lookup-free quantisation and its entropies."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.scalar_quantization import lfq_latent, lookup_free_quantize


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def some_mask(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape) < 0.6, jnp.float32)


lfq = jax.jit(lookup_free_quantize, static_argnames=("inverse_temperature", "joint_bits"))


def probabilities(features, inverse_temperature):
    """q(c|z) of all 2^d codes from the distances, float64, unfactorised. Bit 0 turns fastest."""
    z = np.float64(features)
    codes = np.array([c[::-1] for c in itertools.product([-1.0, 1.0], repeat=z.shape[-1])])
    distance = np.sum((z[..., None, :] - codes) ** 2, axis=-1)
    weight = np.exp(-inverse_temperature * (distance - np.min(distance, axis=-1, keepdims=True)))
    return weight / np.sum(weight, axis=-1, keepdims=True), codes


def entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)


def test_index_by_bits_by_hand():
    # Yu et al. 2023, section 3.1: Index(z) = sum_i 2^(i-1) 1{z_i > 0}; 0 itself counts as -1.
    found = lfq(jnp.array([[0.5, -2.0, 3.0], [0.0, 1e-3, -1.0], [-1.0, -1.0, -1.0]]))
    np.testing.assert_array_equal(found.index, [1 + 4, 2, 0])
    np.testing.assert_array_equal(found.latent, [[1, -1, 1], [-1, 1, -1], [-1, -1, -1]])
    np.testing.assert_allclose(
        found.commitment_loss, [0.25 + 1 + 4, 1 + 0.999**2 + 0, 0], rtol=1e-6
    )
    np.testing.assert_array_equal(lfq_latent(found.index, bits=3), found.latent)


@pytest.mark.parametrize("inverse_temperature", [0.3, 2.0, 100.0])
@pytest.mark.parametrize("bits", [1, 5, 8])
def test_entropies_agree_with_all_codes_in_float64(bits, inverse_temperature):
    features, mask = random(0, 6, 5, bits), some_mask(1, 6, 5)
    found = lfq(features, inverse_temperature=inverse_temperature, mask=mask)
    p, codes = probabilities(features, inverse_temperature)
    m = np.float64(mask)[..., None]
    best = np.argmax(p, axis=-1)  # the nearest code is the sign
    np.testing.assert_array_equal(found.index, best)
    np.testing.assert_array_equal(found.latent, codes[best])
    np.testing.assert_allclose(found.token_entropy, entropy(p), rtol=1e-5, atol=1e-6)
    mean = np.sum(p * m, axis=(0, 1)) / np.sum(m)
    np.testing.assert_allclose(found.batch_entropy, entropy(mean), rtol=1e-5)
    np.testing.assert_allclose(
        found.entropy_loss, found.token_entropy - found.batch_entropy, rtol=1e-5, atol=1e-6
    )


def test_fewer_joint_bits_bound_the_batch_entropy_from_above():
    features = random(0, 40, 7)
    exact = lfq(features, inverse_temperature=0.5).batch_entropy
    p, codes = probabilities(features, 0.5)
    mean = np.mean(p, axis=0)
    previous = exact
    for joint in (4, 2, 1):
        found = lfq(features, inverse_temperature=0.5, joint_bits=joint).batch_entropy
        expected = 0
        for first in range(0, 7, joint):
            group = codes[:, first : first + joint]
            values = np.unique(group, axis=0)
            shares = [np.sum(mean[np.all(group == v, axis=1)]) for v in values]
            expected += entropy(np.array(shares))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert found > previous
        previous = found


def test_as_many_bits_as_are_enumerated_and_many_more():
    features = random(0, 4, 20)
    found = lfq(features, inverse_temperature=1000.0)
    np.testing.assert_allclose(found.batch_entropy, np.log(4), rtol=1e-3)  # four sure codes
    wide = jnp.concatenate([features, features[:, :11]], axis=1)
    found = lfq(wide, joint_bits=8)
    np.testing.assert_array_equal(lfq_latent(found.index, bits=31), found.latent)
    assert np.min(found.index) >= 0


def test_gradients_agree_with_finite_differences():
    features, mask, w = random(0, 7, 3), some_mask(1, 7), random(2, 7)

    def f(x, fields):
        found = lfq(x, inverse_temperature=0.7, mask=mask)
        return sum(jnp.sum(w * getattr(found, field)) for field in fields)

    def reference(x, fields):
        p, codes = probabilities(x, 0.7)
        m = np.float64(mask)[:, None]
        mean = np.sum(p * m, axis=0) / np.sum(m)
        values = {
            "token_entropy": entropy(p),
            "batch_entropy": entropy(mean),
            "commitment_loss": np.sum((x - codes[np.argmax(p, axis=-1)]) ** 2, axis=-1),
        }
        return sum(np.sum(np.float64(w) * values[field]) for field in fields)

    for field in ("token_entropy", "batch_entropy", "commitment_loss"):
        gradient = jax.grad(f)(features, (field,))
        x, expected = np.float64(features), np.zeros(features.shape)
        for i in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i] = 1e-5
            expected[i] = (reference(x + step, (field,)) - reference(x - step, (field,))) / 2e-5
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5, err_msg=field)
    straight = jax.grad(lambda x: jnp.sum(features * lfq(x).latent))(features)
    np.testing.assert_allclose(straight, features)


@pytest.mark.parametrize("masked", [False, True])
def test_batch_entropy_and_its_gradient_on_devices_are_those_of_one(on_devices, masked):
    features, mask = random(0, 12, 5, 4), some_mask(1, 12, 5).at[:3].set(0)
    scale = jnp.ones((1, 1, 4))

    def f(x, m, axis_name="batch"):
        def loss(scale):
            found = lookup_free_quantize(
                x * scale,
                inverse_temperature=0.4,
                axis_name=axis_name,
                mask=m if masked else None,
            )
            return jnp.mean(found.entropy_loss), found

        # As a training step does: the gradient of the device's mean, then the mean over devices.
        varying = scale + 0 * x[:1, :1]
        gradient, found = jax.grad(loss, has_aux=True)(varying)
        if axis_name:
            gradient = jax.lax.pmean(gradient, axis_name)
        return found.batch_entropy, gradient

    one = jax.jit(functools.partial(f, axis_name=None))(features, mask)
    for a, b in zip(on_devices(f, features, mask), one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_bfloat16_chooses_as_its_float32_values():
    features = random(0, 300, 12).astype(jnp.bfloat16)
    found, wide = lfq(features), lfq(features.astype(jnp.float32))
    assert found.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))
    for field in found._fields[1:]:
        np.testing.assert_array_equal(getattr(found, field), getattr(wide, field))


@pytest.mark.parametrize("kind", ["zeros", "large", "all masked", "masked NaN"])
def test_edges_are_finite_in_value_and_gradient(kind):
    features, mask = jnp.zeros((4, 3)), jnp.ones(4)
    if kind == "large":
        features = jnp.full((4, 3), 1e15)
    if kind == "all masked":
        mask = jnp.zeros(4)
    if kind == "masked NaN":
        features, mask = features.at[1].set(jnp.nan), mask.at[1].set(0)

    def f(x):
        found = lfq(x, mask=mask)
        if kind == "masked NaN":
            return found.batch_entropy, found.batch_entropy
        return jnp.sum(found.entropy_loss + found.commitment_loss), found

    gradient, found = jax.grad(f, has_aux=True)(features)
    for leaf in jax.tree.leaves((gradient, found)):
        assert np.all(np.isfinite(leaf))
    if kind == "zeros":  # every code is as likely
        np.testing.assert_allclose(found.batch_entropy, 3 * np.log(2), rtol=1e-6)
    if kind == "all masked":
        assert found.batch_entropy == 0


def test_jit_vmap_and_checkpoint():
    features = random(0, 3, 6, 4)

    def f(x):
        return lookup_free_quantize(x, inverse_temperature=0.5)

    def loss(x):
        found = f(x)
        return jnp.sum(found.entropy_loss + found.commitment_loss)

    loop = [lfq(x, inverse_temperature=0.5) for x in features]
    eager, mapped = f(features[0]), jax.jit(jax.vmap(f))(features)
    for a, b, c in zip(mapped, zip(*loop, strict=True), eager, strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c, b[0], rtol=1e-5, atol=1e-6)
    expected = jax.jit(jax.grad(loss))(features[0])
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(features[0])
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lfq(jnp.zeros((5, 32))), r"\(5, 32\)"),
        (lambda: lfq(jnp.zeros(())), r"\(\)"),
        (lambda: lfq(jnp.zeros((5, 3), jnp.int32)), "int32"),
        (lambda: lfq(jnp.zeros((5, 21))), "for 21 bits"),
        (lambda: lfq(jnp.zeros((5, 3)), joint_bits=0), "got 0"),
        (lambda: lfq(jnp.zeros((5, 3)), inverse_temperature=0.0), r"got 0\.0"),
        (lambda: lfq(jnp.zeros((5, 3)), mask=jnp.ones(4)), r"\(5,\), got \(4,\)"),
        (lambda: lfq_latent(jnp.zeros(5), bits=3), "float32"),
        (lambda: lfq_latent(jnp.zeros(5, jnp.int32), bits=32), "got 32"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
