"""How close reconstructions are to images: MSE, NMSE, PSNR and SSIM, on images in [0, 1]."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.likelihoods import to_unit
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask, masked_sums, mean_floats

# Below this mean squared error the PSNR stays at 80 dB, so that an exact copy counts as finite.
SMALLEST_MSE = 1e-8


def mean_squared_error(image: jax.Array, other: jax.Array) -> jax.Array:
    """Averages the squared difference over rows, columns and channels.

    Args:
        image: `[..., height, width, channels]`.
        other: like `image`.

    Returns:
        `[...]`, squared units of the image.
    """
    return jnp.square(image - other).mean(axis=(-3, -2, -1))


def peak_signal_to_noise(image: jax.Array, other: jax.Array) -> jax.Array:
    """Gives the PSNR of images with peak 1: -10 log10 MSE, at most 80 dB.

    Args:
        image: `[..., height, width, channels]` in [0, 1].
        other: like `image`.

    Returns:
        `[...]`, decibels.
    """
    return -10 * jnp.log10(jnp.maximum(mean_squared_error(image, other), SMALLEST_MSE))


def psnr_of_error(mean_squared: np.ndarray) -> np.ndarray:
    """Gives the PSNR at a mean squared error, of whatever mean it is, for a peak of 1.

    In NumPy and as precise as its input, for means over more than an image that are taken on the
    host; `peak_signal_to_noise` is of one image each, on the device.

    Args:
        mean_squared: `[...]`, squared units of [0, 1].

    Returns:
        `[...]`, decibels, at most 80.
    """
    return -10 * np.log10(np.maximum(mean_squared, SMALLEST_MSE))


def structural_similarity(image: jax.Array, other: jax.Array) -> jax.Array:
    """Compares images by SSIM, averaged over windows and channels.

    The window is 11x11 Gaussian with a standard deviation of 1.5 pixels, at the positions where it
    lies wholly inside the image. Where an image is smaller than 11 pixels the window is cut to the
    largest odd size that fits (7x7 for 8x8 digits) and its weights again sum to 1.

    Args:
        image: `[..., height, width, channels]` in [0, 1].
        other: like `image`.

    Returns:
        `[...]`, at most 1.

    Source:
        Wang, Bovik, Sheikh and Simoncelli 2004, "Image Quality Assessment: From Error Visibility
        to Structural Similarity", Eqs. 13-17, K1 = 0.01, K2 = 0.03, L = 1.
    """
    side = min(11, image.shape[-3], image.shape[-2])
    radius = (side - 1) // 2
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 1.5) ** 2)
    weights /= weights.sum()

    def window_mean(x: jax.Array) -> jax.Array:
        # The Gaussian is separable: a weighted sum of shifted rows, then of shifted columns.
        for axis in (-3, -2):
            positions = x.shape[axis] - 2 * radius
            x = sum(
                float(w) * jax.lax.slice_in_dim(x, k, k + positions, axis=axis % x.ndim)
                for k, w in enumerate(weights)
            )
        return x

    c1, c2 = 0.01**2, 0.03**2
    # Variances do not see a shift, and float32 keeps more of a centred image's.
    shift = image.mean(axis=(-3, -2), keepdims=True)
    x, y = image - shift, other - shift
    mx, my = window_mean(x), window_mean(y)  # Eq. 14, less the shift
    variance_x = window_mean(x * x) - mx * mx  # Eq. 15
    variance_y = window_mean(y * y) - my * my
    covariance = window_mean(x * y) - mx * my  # Eq. 16
    mean_x, mean_y = mx + shift, my + shift
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )  # Eq. 13
    return similarity.mean(axis=(-3, -2, -1))  # Eq. 17


def _comparison_sums(
    image: jax.Array, reconstruction: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Sums mse, psnr and ssim over the examples; of a sequence, each is the mean of its frames."""
    image = to_unit(image)
    reconstruction = jnp.clip(reconstruction.astype(jnp.float32), 0, 1)
    frames = {
        "mse": mean_squared_error(image, reconstruction),
        "psnr": peak_signal_to_noise(image, reconstruction),
        "ssim": structural_similarity(image, reconstruction),
    }
    examples = {name: x.reshape(x.shape[0], -1).mean(axis=1) for name, x in frames.items()}
    return masked_sums(examples, mask)


def _comparison_summary(
    totals: Mapping[str, np.ndarray], data_variance: float | None
) -> dict[str, float]:
    summary = mean_floats(totals)
    if data_variance is not None:
        summary["nmse"] = summary["mse"] / data_variance
    return summary


def _check_variance(data_variance: float | None) -> None:
    if data_variance is not None and not data_variance > 0:
        raise UserError(
            f"data_variance is {data_variance}; expected the variance of the training images' "
            "sub-pixels in [0, 1], a positive number, or None for no nmse"
        )


def image_evaluator(*, data_variance: float | None = None) -> Evaluator:
    """Compares the model's reconstructions, clipped to [0, 1], with the images.

    Summary: means over the examples of `mse` (squared units of [0, 1], per sub-pixel), `psnr` (dB,
    of each image, then averaged), `ssim`; and `nmse` = mse / data_variance where that is given.

    Args:
        data_variance: variance of the training images' sub-pixels in [0, 1]; an nmse of 1 is then
            what a single constant would reach.

    Raises:
        UserError: the variance is not positive.
    """
    _check_variance(data_variance)

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        output = model.apply(variables, batch, train=False, rngs={"sample": key})
        return _comparison_sums(batch["image"], output.reconstruction, example_mask(batch))

    return Evaluator(sums, lambda totals: _comparison_summary(totals, data_variance))


def mean_image_baseline(
    mean_image: np.ndarray | jax.Array, *, data_variance: float | None = None
) -> Evaluator:
    """Measures what `image_evaluator` does, for one answer to every image: the mean image.

    The floor that any model has to beat. Its `sums` need no model: pass None for model, variables
    and key.

    Args:
        mean_image: `[height, width, channels]` in [0, 1], the training split's mean.
        data_variance: as in `image_evaluator`.

    Raises:
        UserError: the variance is not positive.
        ValueError: the batch's images have another shape than the mean image.
    """
    _check_variance(data_variance)
    mean_image = np.asarray(mean_image, np.float32)

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        del model, variables, key
        shape = batch["image"].shape
        if shape[-3:] != mean_image.shape:
            raise ValueError(
                f"images are {list(shape[-3:])} and the mean image {list(mean_image.shape)}; "
                "expected the same [height, width, channels]: take the mean of this data set"
            )
        answer = jnp.zeros(shape, jnp.float32) + mean_image.reshape(
            (1,) * (len(shape) - 3) + mean_image.shape
        )
        return _comparison_sums(batch["image"], answer, example_mask(batch))

    return Evaluator(sums, lambda totals: _comparison_summary(totals, data_variance))
