import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from bottlenecks.partition import (
    block_diagonal,
    block_mean_floor,
    partition_of_units,
    split_partitions,
    upsample,
)

PARTITIONS, OUTPUTS = (4, 3, 1), (2, 5, 3)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layer(*lead, seed=0):
    return random(seed, *lead, 8), random(seed + 1, 3, 4, 5), random(seed + 2, 3, 5)


heads = partial(block_diagonal, partitions=PARTITIONS, outputs=OUTPUTS)


def heads_oracle(h, kernels, biases):
    """A loop over parts, float64."""
    h, kernels, biases = (np.float64(x) for x in (h, kernels, biases))
    start, results = 0, []
    for k, (size, width) in enumerate(zip(PARTITIONS, OUTPUTS, strict=True)):
        part = h[..., start : start + size]
        results.append(part @ kernels[k, :size, :width] + biases[k, :width])
        start += size
    return np.concatenate(results, axis=-1)


# Parts -------------------------------------------------------------------------------------------


def test_split_and_partition_of_units():
    h = jnp.arange(16.0).reshape(2, 8)
    parts = split_partitions(h, PARTITIONS)
    np.testing.assert_array_equal(parts[1], [[4, 5, 6], [12, 13, 14]])
    np.testing.assert_array_equal(jnp.concatenate(parts, axis=-1), h)
    np.testing.assert_array_equal(partition_of_units(PARTITIONS), [0, 0, 0, 0, 1, 1, 1, 2])
    for k, part in enumerate(parts):
        np.testing.assert_array_equal(part, h[:, partition_of_units(PARTITIONS) == k])


def test_block_diagonal_agrees_with_a_loop_over_parts():
    h, kernels, biases = layer(2, 3)
    expected = heads_oracle(h, kernels, biases)
    np.testing.assert_allclose(heads(h, kernels, biases), expected, rtol=1e-5, atol=1e-6)


def test_a_part_depends_on_its_own_slice_alone():
    h, kernels, biases = layer()
    jacobian = np.asarray(jax.jacobian(heads)(h, kernels, biases))
    same = partition_of_units(OUTPUTS)[:, None] == partition_of_units(PARTITIONS)
    np.testing.assert_array_equal(jacobian[~same], 0)
    assert np.all(jacobian[same] != 0)


def test_padding_has_no_gradient_and_no_say():
    h, kernels, biases = layer(6)
    weight = random(9, 6, 10)
    to_kernels, to_biases = jax.grad(
        lambda *x: jnp.sum(weight * jnp.tanh(heads(h, *x))), argnums=(0, 1)
    )(kernels, biases)
    real = np.zeros(kernels.shape, bool)
    for k in range(3):
        real[k, : PARTITIONS[k], : OUTPUTS[k]] = True
    np.testing.assert_array_equal(to_kernels[~real], 0)
    assert np.all(to_kernels[real] != 0)
    np.testing.assert_array_equal(to_biases[~real[:, 0]], 0)
    assert np.all(to_biases[real[:, 0]] != 0)
    # 4 x 2 + 3 x 5 + 1 x 3 weights and 2 + 5 + 3 biases are all that is trained.
    assert np.sum(real) + np.sum(real[:, 0]) == 26 + 10
    other = heads(h, jnp.where(real, kernels, 7), jnp.where(real[:, 0], biases, 7))
    np.testing.assert_array_equal(other, heads(h, kernels, biases))


def test_heads_of_the_released_script_count_as_its_parameters():
    # 2 -> 5 -> 2 -> 2: 33 and 4 -> 10 -> 4 -> 4: 114, from the write-up's MNIST script.
    count = dict.fromkeys(range(2), 0)
    for before, after in (((2, 4), (5, 10)), ((5, 10), (2, 4)), ((2, 4), (2, 4))):
        shape = (2, max(before), max(after))
        gradient = jax.grad(
            lambda kernels, biases, before=before, after=after: jnp.sum(
                block_diagonal(
                    jnp.ones(sum(before)), kernels, biases, partitions=before, outputs=after
                )
            ),
            argnums=(0, 1),
        )(jnp.zeros(shape), jnp.zeros((shape[0], shape[2])))
        for k in count:
            count[k] += sum(int(np.count_nonzero(x[k])) for x in gradient)
    assert count == {0: 33, 1: 114}


def test_linear_heads_after_a_full_dense_layer_restrict_nothing():
    # For any partition there are weights with the mean of one linear head: h = B x with B free, so
    # B_k = A_k^-1 M_k gives M for any invertible A_k.
    features, M = random(0, 20, 7), np.float64(random(1, 8, 7))
    kernels = random(2, 3, 4, 4)
    B = np.concatenate(
        [
            np.linalg.inv(np.float64(kernels[k, :size, :size].T))
            @ M[partition_of_units(PARTITIONS) == k]
            for k, size in enumerate(PARTITIONS)
        ]
    )
    h = jnp.float32(np.float64(features) @ B.T)
    found = block_diagonal(h, kernels, jnp.zeros((3, 4)), partitions=PARTITIONS)
    np.testing.assert_allclose(found, np.float64(features) @ M.T, rtol=1e-3, atol=1e-4)


# Up-sampling -------------------------------------------------------------------------------------


def bilinear_oracle(y, factor):
    """Pixel p of the large image lies at (p + 1/2) / factor - 1/2, held within the small one."""

    def along(x, axis):
        small = x.shape[axis]
        place = np.clip((np.arange(small * factor) + 0.5) / factor - 0.5, 0, small - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, small - 1)
        share = (place - low).reshape([-1 if n == axis else 1 for n in range(x.ndim)])
        return (1 - share) * np.take(x, low, axis) + share * np.take(x, high, axis)

    return along(along(np.float64(y), y.ndim - 3), y.ndim - 2)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_upsampling_agrees_with_its_oracles(factor):
    y = random(0, 2, 3, 4, 2)
    nearest = upsample(y, factor)
    np.testing.assert_array_equal(nearest, np.asarray(y).repeat(factor, 1).repeat(factor, 2))
    resized = jax.image.resize(y, nearest.shape, "nearest")
    np.testing.assert_array_equal(nearest, resized)
    bilinear = upsample(y, factor, method="bilinear")
    np.testing.assert_allclose(bilinear, bilinear_oracle(y, factor), rtol=1e-5, atol=1e-6)


def test_bilinear_by_hand():
    # torch.nn.functional.interpolate(scale_factor=2, mode="bilinear", align_corners=False) of 0, 4:
    # 0, 1, 3, 4.
    y = jnp.array([0.0, 4.0]).reshape(1, 2, 1)
    np.testing.assert_allclose(
        upsample(y, 2, method="bilinear")[..., 0], [[0, 1, 3, 4]] * 2, atol=1e-6
    )


def test_gradient_of_upsampling_is_its_transpose():
    y, weight = random(0, 3, 4, 2), random(1, 6, 8, 2)
    for method in ("nearest", "bilinear"):
        gradient = jax.grad(lambda y, m=method: jnp.sum(weight * upsample(y, 2, method=m)))(y)
        other = random(2, 3, 4, 2)
        np.testing.assert_allclose(
            jnp.sum(gradient * other),
            jnp.sum(weight * upsample(other, 2, method=method)),
            rtol=1e-4,
        )


def test_no_image_of_fewer_pixels_is_below_the_floor_and_the_block_means_reach_it():
    x = random(0, 5, 6, 8, 3)
    means = x.reshape(5, 3, 2, 4, 2, 3).mean(axis=(2, 4))
    floor = block_mean_floor(x, 2)

    def error(y):
        return jnp.mean(jnp.square(x - upsample(y, 2)), axis=(1, 2, 3))

    np.testing.assert_allclose(error(means), floor, rtol=1e-5)
    # The error is quadratic in y: 0 gradient at the means is the one minimum.
    gradient = jax.grad(lambda y: jnp.sum(error(y)))(means)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    for seed in range(5):
        assert np.all(error(means + 0.1 * random(seed, *means.shape)) > floor)


def floor_oracle(x, factor):
    blocks = [
        np.var(np.float64(x[a : a + factor, b : b + factor]), axis=(0, 1))
        for a in range(0, x.shape[0], factor)
        for b in range(0, x.shape[1], factor)
    ]
    return np.mean(blocks)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_floor_of_digits(factor):
    images = np.float32(load_digits().images[:50, ..., None] / 16)
    expected = [floor_oracle(x, factor) for x in images]
    np.testing.assert_allclose(block_mean_floor(jnp.asarray(images), factor), expected, rtol=1e-5)


MNIST = Path(os.environ.get("BOTTLENECKS_DATA", "")) / "tfds" / "mnist"


@pytest.mark.skipif(not MNIST.is_dir(), reason="no tfds/mnist in the folder BOTTLENECKS_DATA")
@pytest.mark.parametrize(
    ("split", "mean", "variance", "floors"),
    [
        ("train", 0.1306605, 0.0949304, {2: 0.0164702, 4: 0.0416948, 7: 0.0632999}),
        ("test", 0.1325146, 0.0963980, {2: 0.0163589, 4: 0.0416462, 7: 0.0636590}),
    ],
)
def test_floor_of_mnist(split, mean, variance, floors):
    # Computed in float64 NumPy from the idx files.
    from train.data.sources import load_source

    source = load_source(
        dict(source="tfds:mnist", data_dir=str(MNIST.parent), image_shape=(28, 28, 1)), split
    )
    images = np.float32(source.arrays["image"]) / 255
    np.testing.assert_allclose(np.mean(images, dtype=np.float64), mean, rtol=1e-6)
    centred = np.square(np.float64(images) - np.mean(images, dtype=np.float64))
    np.testing.assert_allclose(np.mean(centred), variance, rtol=1e-6)
    for factor, floor in floors.items():
        found = np.mean(jax.jit(block_mean_floor, static_argnums=1)(images, factor), dtype=float)
        np.testing.assert_allclose(found, floor, rtol=3e-6)  # seven digits are given


# Under transformations ---------------------------------------------------------------------------


def everything(h, kernels, biases):
    """All of it on images of 5 x 2 x 1 made by the heads."""
    y = heads(h, kernels, biases).reshape(*h.shape[:-1], 5, 2, 1)
    return upsample(y, 2), upsample(y, 3, method="bilinear"), block_mean_floor(upsample(y, 2), 2)


def test_jit_equals_eager_vmap_equals_loop_and_checkpoint_gives_the_gradient():
    h, kernels, biases = layer(4)
    eager = everything(h, kernels, biases)
    loop = [np.stack(x) for x in zip(*(everything(x, kernels, biases) for x in h), strict=True)]
    mapped = jax.jit(jax.vmap(everything, in_axes=(0, None, None)))(h, kernels, biases)
    for other in (jax.jit(everything)(h, kernels, biases), loop, mapped):
        for one, two in zip(eager, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)

    def loss(f, *x):
        return sum(jnp.sum(jnp.sin(y)) for y in f(*x))

    once, again = (
        jax.jit(jax.grad(partial(loss, f), argnums=(0, 1, 2)))(h, kernels, biases)
        for f in (everything, jax.checkpoint(everything))
    )
    for one, other in zip(once, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_agree_with_finite_differences():
    h, kernels, biases = layer(2)
    weight = np.float64(random(5, 2, 10))
    found = jax.grad(
        lambda *x: jnp.sum(jnp.float32(weight) * jnp.square(heads(*x))), argnums=(0, 1, 2)
    )(h, kernels, biases)
    at = [np.float64(x) for x in (h, kernels, biases)]
    for n in range(3):
        expected = np.zeros(at[n].shape)
        for i in np.ndindex(at[n].shape):
            step = np.zeros(at[n].shape)
            step[i] = 1e-5
            ends = []
            for sign in (1, -1):
                moved = [x + sign * step if m == n else x for m, x in enumerate(at)]
                ends.append(np.sum(weight * heads_oracle(*moved) ** 2))
            expected[i] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(found[n], expected, rtol=1e-4, atol=1e-4)


def test_means_and_gradients_on_devices_are_those_of_one(on_devices):
    h, kernels, biases = layer(8)

    def gradient(h, axis_name=None):
        def loss(h):
            large, smooth, _ = everything(h, kernels, biases)
            return jnp.mean(jnp.sin(large)) + jnp.mean(jnp.sin(smooth))

        value, to_h = jax.value_and_grad(loss)(h)
        pair = value, jnp.mean(to_h * h)
        return jax.lax.pmean(pair, axis_name) if axis_name else pair

    many, one = on_devices(partial(gradient, axis_name="batch"), h), jax.jit(gradient)(h)
    np.testing.assert_allclose(many[0], one[0], rtol=1e-5, atol=1e-7)
    # A device's mean is over a quarter of the batch.
    np.testing.assert_allclose(many[1], 4 * one[1], rtol=1e-4, atol=1e-7)


def test_bfloat16_computes_in_float32():
    narrow = [x.astype(jnp.bfloat16) for x in layer(4)]
    wide = [x.astype(jnp.float32) for x in narrow]
    assert heads(*narrow).dtype == jnp.bfloat16
    np.testing.assert_array_equal(heads(*narrow), heads(*wide).astype(jnp.bfloat16))
    y = random(0, 3, 4, 2).astype(jnp.bfloat16)
    for method in ("nearest", "bilinear"):
        found = upsample(y, 2, method=method)
        expected = upsample(y.astype(jnp.float32), 2, method=method).astype(jnp.bfloat16)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(found, expected)
    x = upsample(y, 2, method="bilinear")
    assert block_mean_floor(x, 2).dtype == jnp.float32
    np.testing.assert_array_equal(
        block_mean_floor(x, 2), block_mean_floor(x.astype(jnp.float32), 2)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_partitions(jnp.zeros((2, 7)), PARTITIONS), r"8.*\(4, 3, 1\).*\(2, 7\)"),
        (lambda: split_partitions(jnp.zeros(3), ()), r"got \(\)"),
        (lambda: partition_of_units((3, 0)), r"got \(3, 0\)"),
        (lambda: heads(jnp.zeros(7), *layer()[1:]), r"\(7,\)"),
        (lambda: heads(*layer()[:2], jnp.zeros((3, 4))), r"biases is \(3, 5\), got \(3, 4\)"),
        (lambda: heads(layer()[0], jnp.zeros((3, 5, 4)), layer()[2]), r"kernels is \(3, 4, 5\)"),
        (lambda: heads(jnp.zeros(8, jnp.int32), *layer()[1:]), "int32"),
        (
            lambda: block_diagonal(*layer(), partitions=PARTITIONS, outputs=(2, 5)),
            "expected 3, got 2",
        ),
        (lambda: upsample(jnp.zeros((3, 4)), 2), r"\(3, 4\)"),
        (lambda: upsample(jnp.zeros((3, 4, 1)), 0), "got 0"),
        (lambda: upsample(jnp.zeros((3, 4, 1)), 2, method="cubic"), "'cubic'"),
        (lambda: block_mean_floor(jnp.zeros((6, 8, 1)), 4), "6 and 8; got 4"),
        (lambda: block_mean_floor(jnp.zeros((6, 8, 1), jnp.uint8), 2), "uint8"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
