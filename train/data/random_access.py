"""The protocol of a source, its two general forms, and the check of an image's size."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from train.errors import UserError

Example = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to examples: all that batches ask of a data set."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> Example:
        """One example; "image" is `[(frames,) height, width, channels]`, uint8 or in [0, 1]."""


class InMemory:
    """Arrays whose first axis counts examples; takes an index, or an array of them for a batch.

    `rows`, where given, says which rows of the arrays are the examples, and in which order: so a
    subset copies nothing, and a memory-mapped file stays on disk until it is read.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, rows: np.ndarray | None = None) -> None:
        self.arrays = dict(arrays)
        sizes = {name: len(array) for name, array in self.arrays.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"arrays of one length expected, found {sizes}")
        self.rows = np.arange(next(iter(sizes.values()))) if rows is None else np.asarray(rows)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.rows)

    def __getitem__(self, index: int | np.ndarray) -> Example:
        """One example, or for an array of indices a batch of them."""
        rows = self.rows[index]
        return {name: np.asarray(array[rows]) for name, array in self.arrays.items()}

    def nbytes(self) -> int:
        """Size of the examples in bytes."""
        per_example = sum(array.nbytes // max(len(array), 1) for array in self.arrays.values())
        return per_example * len(self)


class Subset:
    """Some examples of another source, in the order of `indices`."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self.source = source
        self.indices = np.asarray(indices)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        """One example."""
        return self.source[int(self.indices[index])]


def select(source: Source, indices: np.ndarray) -> InMemory | Subset:
    """The examples at `indices`, in that order; in-memory sources stay in memory."""
    if isinstance(source, InMemory):
        return InMemory(source.arrays, rows=source.rows[indices])
    return Subset(source, indices)


class ImageSize(NamedTuple):
    """What an image must be to become one of `shape` by `crop`."""

    shape: tuple[int, int, int]
    crop: str

    def check(self, found: tuple[int, ...], name: str) -> None:
        """Refuse an image of shape `found` that cannot become `shape`.

        Raises:
            UserError: naming the image, its shape, the shape wanted and the way out.
        """
        height, width, channels = self.shape
        wanted = f"data.image_shape is {self.shape}"
        if len(found) != 3 or found[2] != channels:
            raise UserError(
                f"{name}: found an image of shape {found}, but {wanted} (height, width, channels): "
                f"set data.image_shape to the number of channels that the data has"
            )
        if self.crop == "none" and found != self.shape:
            raise UserError(
                f"{name}: found an image of shape {found}, but {wanted}: "
                f"set data.image_shape={found}, or data.crop='resize'"
            )
        if self.crop == "random" and (found[0] < height or found[1] < width):
            raise UserError(
                f"{name}: found an image of {found[0]} x {found[1]}, smaller than the crop of "
                f"{height} x {width}: make data.image_shape smaller, or set data.crop='resize'"
            )


def image_size(data: Mapping[str, Any]) -> ImageSize:
    """The config's `image_shape` and `crop`, checked.

    Raises:
        UserError: on a shape that is not (height, width, channels), or an unknown crop.
    """
    shape = tuple(int(size) for size in data["image_shape"])
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(
            f"data.image_shape is {shape}; expected (height, width, channels), such as (32, 32, 3)"
        )
    crop = data.get("crop", "none")
    if crop not in ("none", "random", "resize"):
        raise UserError(f"data.crop is {crop!r}; expected 'none', 'random' or 'resize'")
    return ImageSize(shape, crop)
