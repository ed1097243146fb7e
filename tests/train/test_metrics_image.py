"""PSNR and SSIM against scikit-image, and their sums over a data set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.metrics
from scipy.ndimage import gaussian_filter

from train.errors import UserError
from train.metrics.image import (
    image_evaluator,
    mean_image_baseline,
    mean_squared_error,
    peak_signal_to_noise,
    structural_similarity,
)


class Copier:
    """A model whose reconstruction is a known function of the image."""

    def apply(self, variables, batch, *, train, rngs):
        class Output:
            reconstruction = variables["scale"] * batch["image"].astype(jnp.float32) / 255

        return Output


def pictures(*shape, seed=0):
    """Smooth images with flat dark and flat bright parts, where float32 SSIM loses most."""
    rng = np.random.default_rng(seed)
    x = gaussian_filter(rng.normal(size=shape), sigma=(0,) * (len(shape) - 3) + (1, 1, 0))
    return np.clip(0.5 + 1.5 * x, 0, 1)


def noisy(image, seed=1):
    noise = np.random.default_rng(seed).normal(size=image.shape)
    return np.clip(image + 0.1 * noise, 0, 1)


@pytest.mark.parametrize("shape", [(32, 32, 3), (11, 17, 1), (40, 23, 2)])
def test_ssim_equals_skimage(shape):
    image = pictures(4, *shape)
    for other in (noisy(image), 0.9 * image, 1 - image, image):
        expected = [
            skimage.metrics.structural_similarity(
                a,
                b,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1,
                channel_axis=-1,
            )
            for a, b in zip(image, other, strict=True)
        ]
        found = jax.jit(structural_similarity)(jnp.float32(image), jnp.float32(other))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def ssim_float64(a, b, radius):
    """SSIM of one channel with scipy's Gaussian filter, cut to `radius`, away from the border.

    scikit-image's win_size moves only the border that it leaves out; its Gaussian stays 11 wide.
    """

    def mean(x):
        x = gaussian_filter(x, 1.5, radius=radius)
        return x[radius : len(x) - radius, radius : x.shape[1] - radius]

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.0001, 0.0009
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


@pytest.mark.parametrize(
    ("side", "radius"), [((8, 8), 3), ((10, 30), 4), ((3, 5), 1), ((16, 16), 5)]
)
def test_ssim_window_shrinks_to_the_largest_odd_size_that_fits(side, radius):
    image = pictures(5, *side, 1)
    other = noisy(image)
    expected = [
        ssim_float64(a[..., 0], b[..., 0], radius) for a, b in zip(image, other, strict=True)
    ]
    found = jax.jit(structural_similarity)(jnp.float32(image), jnp.float32(other))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_psnr_equals_skimage_and_is_capped():
    image = pictures(3, 8, 8, 3)
    other = noisy(image)
    expected = [
        skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1)
        for a, b in zip(image, other, strict=True)
    ]
    found = peak_signal_to_noise(jnp.float32(image), jnp.float32(other))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(peak_signal_to_noise(jnp.ones((8, 8, 1)), jnp.ones((8, 8, 1))), 80)


def test_one_image_has_no_leading_axis():
    image = jnp.float32(pictures(12, 12, 3))
    assert mean_squared_error(image, image).shape == ()
    similarity = jax.jit(structural_similarity)(image, image)
    assert similarity.shape == ()
    np.testing.assert_allclose(similarity, 1, rtol=1e-6)


def run(evaluator, image, size, model=None, variables=None):
    """Sums over padded batches; the padding's NaN reaches the reconstruction."""
    totals = {}
    step = jax.jit(lambda v, b: evaluator.sums(model, v, b, jax.random.key(0)))
    for first in range(0, len(image), size):
        rows = image[first : first + size]
        pad = size - len(rows)
        batch = {
            "image": np.concatenate([rows, np.zeros((pad, *rows.shape[1:]), rows.dtype)]),
            "mask": np.r_[np.ones(len(rows)), np.zeros(pad)].astype(np.float32),
        }
        mask = batch["mask"].reshape(-1, *[1] * (image.ndim - 1))
        scale = np.where(mask > 0, np.float32(1.2), np.nan)
        for name, value in step({"scale": scale}, batch).items():
            totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
    return evaluator.summary(totals)


@pytest.mark.parametrize("shape", [(8, 8, 1), (3, 8, 8, 2)], ids=["images", "sequences"])
def test_evaluator_is_exact_for_any_batch_split(shape):
    image = np.round(255 * pictures(10, *shape)).astype(np.uint8)
    evaluator = image_evaluator(data_variance=0.07)
    whole, parts = (run(evaluator, image, size, Copier()) for size in (10, 4))
    assert set(whole) == {"mse", "nmse", "psnr", "ssim"}
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=2e-6, err_msg=name)
    # The reconstruction is clipped to [0, 1] before it is compared.
    unit = image / 255
    errors = np.square(np.clip(1.2 * unit, 0, 1) - unit).mean(axis=(-3, -2, -1))
    np.testing.assert_allclose(whole["mse"], errors.mean(), rtol=1e-5)
    np.testing.assert_allclose(whole["nmse"], errors.mean() / 0.07, rtol=1e-5)
    np.testing.assert_allclose(whole["psnr"], (-10 * np.log10(errors)).mean(), rtol=1e-5)


def test_without_a_data_variance_there_is_no_nmse():
    image = np.full((2, 8, 8, 1), 100, np.uint8)
    assert "nmse" not in run(image_evaluator(), image, 2, Copier())
    with pytest.raises(UserError, match="data_variance is 0"):
        image_evaluator(data_variance=0)


def test_mean_image_baseline_on_its_own_data_has_the_variance_around_it():
    image = np.round(255 * pictures(10, 8, 8, 1)).astype(np.uint8)
    unit = image / 255
    mean = unit.mean(axis=0)
    summary = run(mean_image_baseline(mean, data_variance=unit.var()), image, 4)
    np.testing.assert_allclose(summary["mse"], np.square(unit - mean).mean(), rtol=1e-5)
    assert 0 < summary["nmse"] <= 1
    assert set(summary) == {"mse", "nmse", "psnr", "ssim"}
    video = image.reshape(5, 2, 8, 8, 1)
    np.testing.assert_allclose(
        run(mean_image_baseline(mean), video, 2)["mse"], summary["mse"], rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"\[8, 8, 1\] and the mean image \[4, 4, 1\]"):
        run(mean_image_baseline(mean[:4, :4]), image, 4)
