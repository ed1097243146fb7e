"""The Frechet distance between images and their reconstructions, as a network's features see them.

Source: Heusel, Ramsauer, Unterthiner, Nessler & Hochreiter 2017, "GANs Trained by a Two Time-Scale
Update Rule Converge to a Local Nash Equilibrium", https://arxiv.org/abs/1706.08500, Eq. 6.

With the features of FID's Inception-v3 it is the FID of reconstructions, rFID. Without a file of
its weights a random network stands in: its number, `frechet_random_features`, ranks runs on the
same images, and compares with nothing else.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.inception import inception_features
from models.likelihoods import to_unit
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask
from train.weights import load_inception

WIDTHS = (32, 64, 64)
_HIGHEST = jax.lax.Precision.HIGHEST


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017, Eq. 6).

    |m_1 - m_2|^2 + Tr C_1 + Tr C_2 - 2 Tr (C_1 C_2)^(1/2), in float64. The last trace is the sum of
    the roots of the eigenvalues of C_1^(1/2) C_2 C_1^(1/2), which is symmetric and has those of
    C_1 C_2: no imaginary parts, and covariances may be singular.

    Args:
      mean: `[d]`.
      covariance: `[d, d]`, symmetric, no eigenvalue below 0 but by rounding.
      other_mean: `[d]`.
      other_covariance: `[d, d]`.

    Returns:
      In squared units of the features, 0 or more.

    Raises:
      ValueError: shapes that do not fit.
    """
    arrays = [np.asarray(a, np.float64) for a in (mean, covariance, other_mean, other_covariance)]
    d = arrays[0].size
    if [a.shape for a in arrays] != [(d,), (d, d), (d,), (d, d)]:
        raise ValueError(
            f"means are [d] and covariances [d, d], got {', '.join(str(a.shape) for a in arrays)}"
        )
    m1, C1, m2, C2 = arrays
    values, vectors = np.linalg.eigh(C1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ C2 @ root)
    shared = np.sum(np.sqrt(np.maximum(eigenvalues, 0)))
    distance = np.sum(np.square(m1 - m2)) + np.trace(C1) + np.trace(C2) - 2 * shared
    return float(max(distance, 0.0))


def random_features(images: jax.Array) -> jax.Array:
    """Features of a network that learned nothing, the same in every run.

    3x3 convolutions of stride 2 and ReLU, of `WIDTHS` channels, weights of He et al. 2015 from seed
    0, no biases; then the mean over positions.

    Args:
      images: `[batch, height, width, channels]` in [0, 1].

    Returns:
      `[batch, d]`, float32.
    """
    h, rng = 2 * images.astype(jnp.float32) - 1, np.random.default_rng(0)
    for width in WIDTHS:
        shape = (3, 3, h.shape[-1], width)
        kernel = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:3]))
        h = jax.lax.conv_general_dilated(
            h,
            jnp.asarray(kernel, jnp.float32),
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=_HIGHEST,
        )
        h = jax.nn.relu(h)
    return jnp.mean(h, axis=(1, 2))


def frechet_evaluator(*, inception: str = "") -> Evaluator:
    """Compares the features of all images with those of all reconstructions, clipped to [0, 1].

    Of each, the sum of the features and of their products with each other is gathered: exact for
    any batches and devices. Frames of sequences count one by one. Covariances are over n - 1.

    Summary: `rfid`, or without a file `frechet_random_features`, see `random_features`.

    Args:
      inception: file of Inception-v3's weights, see `train/weights.py`; "": none.

    Raises:
      UserError: the file cannot be read; of the summary, fewer than two images.
    """
    name, see = "frechet_random_features", random_features
    if inception:
        name, see = "rfid", functools.partial(inception_features, load_inception(inception))

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        output = model.apply(variables, batch, train=False, rngs={"sample": key})
        image, mask = to_unit(batch["image"]), example_mask(batch)
        frames = image.reshape(-1, *image.shape[-3:])
        mask = jnp.repeat(mask, len(frames) // len(mask))
        again = jnp.clip(output.reconstruction.astype(jnp.float32), 0, 1).reshape(frames.shape)
        return {
            "count": mask.sum(),
            **_moments("image", see(frames), mask),
            **_moments("reconstruction", see(again), mask),
        }

    def summary(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        gaussians = [_gaussian(totals, images) for images in ("image", "reconstruction")]
        return {name: frechet_distance(*gaussians[0], *gaussians[1])}

    return Evaluator(sums, summary)


def _moments(name: str, features: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums `[d]` and `[d, d]` over the rows whose mask is 1."""
    f = jnp.where(mask[:, None] > 0, features, 0.0)
    return {
        f"{name}_sum": f.sum(axis=0),
        f"{name}_products": jnp.einsum("nd,ne->de", f, f, precision=_HIGHEST),
    }


def _gaussian(totals: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of what has been summed up."""
    n = float(totals["count"])
    if n < 2:
        raise UserError(f"a Frechet distance needs two images or more, found {n:.0f}")
    mean = np.asarray(totals[f"{name}_sum"], np.float64) / n
    products = np.asarray(totals[f"{name}_products"], np.float64)
    return mean, (products - n * np.outer(mean, mean)) / (n - 1)
