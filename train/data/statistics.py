"""What is measured of the training data before a run: images' mean and variance, codes' use."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from train.data.pipeline import gather
from train.data.random_access import InMemory, Source
from train.data.transforms import Transform
from train.errors import UserError

_SMALL = 2**30  # bytes of in-memory examples that are counted whole
_CHUNK = 512


class Statistics(NamedTuple):
    """Of images as numbers in [0, 1]: mean image `[height, width, channels]` and one variance."""

    mean_image: np.ndarray
    variance: float


def code_statistics(
    source: Source,
    transform: Transform | None,
    *,
    shape: tuple[int, ...],
    codes: int,
    section: str = "model.prior",
    classes: int = 0,
    actions: int = 0,
    examples: int = 4096,
) -> np.ndarray:
    """Uses of each code, int64 `[codebooks, codes]`; checks on the way that a model fits the codes.

    In-memory sources without a transform are counted whole, others by evenly spaced examples.

    Args:
        source: of examples with "code", whole numbers `shape`.
        transform: the config's.
        shape: (*grid, codebooks).
        codes: K, the values of a code.
        section: of the config, which says so.
        classes: of "label"; 0 if labels do not matter.
        actions: of "action"; 0 if actions do not matter.
        examples: how many, at most, where not all are counted.

    Raises:
        UserError: codes of another shape or outside 0 .. K - 1; labels or actions that are missing,
            or outside their range.
    """
    whole = transform is None and isinstance(source, InMemory)
    count = len(source) if whole else min(examples, len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(np.int64)
    counts = np.zeros((shape[-1], codes), np.int64)
    for start in range(0, count, _CHUNK):
        some = indices[start : start + _CHUNK]
        batch = gather(source, some, transform, 0, some)
        code = batch["code"]
        if code.shape[1:] != shape:
            raise UserError(
                f"the data's codes are {code.shape[1:]}, model.code_shape is {shape}; set "
                f"model.code_shape={code.shape[1:]}"
            )
        _check_range("codes", code, codes, f"{section}.codes")
        for size, name, field in ((classes, "label", "classes"), (actions, "action", "actions")):
            if size and name not in batch:
                raise UserError(
                    f"{section}.{field} is {size}, but the data have no {name}s; set it to 0"
                )
            if size:
                _check_range(f"{name}s", batch[name], size, f"{section}.{field}")
        for number, uses in enumerate(counts):
            uses += np.bincount(code[..., number].ravel(), minlength=codes)
    return counts


def _check_range(what: str, values: np.ndarray, size: int, field: str) -> None:
    """Refuses values outside 0 .. size - 1."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= size:
        raise UserError(
            f"the data's {what} go from {low} to {high}, but {field} is {size}; they must lie in "
            f"0 .. {size - 1}"
        )


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
