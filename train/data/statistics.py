"""Mean image and variance of a data set: what a likelihood's scale and start values need."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from train.data.pipeline import gather
from train.data.random_access import InMemory, Source
from train.data.transforms import Transform

_SMALL = 2**30  # bytes of in-memory examples that are counted whole
_CHUNK = 512


class Statistics(NamedTuple):
    """Of images as numbers in [0, 1]: mean image `[height, width, channels]` and one variance."""

    mean_image: np.ndarray
    variance: float


def data_statistics(
    source: Source, transform: Transform | None, *, examples: int = 4096
) -> Statistics:
    """Mean of every sub-pixel, and the variance of all of them about their common mean, float64.

    The variance is the one that the VQ-VAE's error is divided by (van den Oord et al. 2017, in
    Sonnet's example: `np.var(images / 255)`). That example's 40,000 images, whose variance it
    prints as 0.06327039811675479, are TFDS's "train[:30000]+test": its "first 40,000" of
    "train+test" come interleaved from both files. "train[:40000]" has 0.06329653843376322.
    Small in-memory sources without a transform are counted whole, others by `examples` evenly
    spaced ones. A sequence counts as its frames.
    """
    whole = transform is None and isinstance(source, InMemory) and source.nbytes() < _SMALL
    count = len(source) if whole else min(examples, len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(np.int64)
    total = square = 0.0
    images = 0
    for image in _images(source, transform, indices):
        total = total + image.sum(axis=0)
        square += np.square(image).sum()
        images += len(image)
    mean_image = total / images
    mean = mean_image.mean()
    return Statistics(mean_image, float(square / (images * mean_image.size) - mean**2))


def _images(
    source: Source, transform: Transform | None, indices: np.ndarray
) -> Iterator[np.ndarray]:
    """Chunks of images, float64 in [0, 1]; of sequences, every frame."""
    for start in range(0, len(indices), _CHUNK):
        some = indices[start : start + _CHUNK]
        image = gather(source, some, transform, 0, some)["image"]
        image = image.reshape(-1, *image.shape[-3:])
        yield image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)
