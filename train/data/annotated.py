"""Photographs with human segmentations, in the layout of BSDS500.

Source: Arbelaez, Maire, Fowlkes and Malik 2011, "Contour Detection and Hierarchical Image
Segmentation", IEEE TPAMI 33(5).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.files import read_image
from train.errors import UserError

_TRUTH_FOLDERS = ("ground_truth", "groundTruth")


class Place(NamedTuple):
    """The files of one photograph: the image and its annotations."""

    image: Path
    truth: Path


class Annotated(NamedTuple):
    """One photograph and what people drew on it.

    Attributes:
      name: the file's, without extension.
      image: uint8 `[height, width, 3]`.
      truths: for each person a map `[height, width]`, whole numbers: the region of a pixel.
    """

    name: str
    image: np.ndarray
    truths: tuple[np.ndarray, ...]


def find_annotated(folder: str) -> list[Place]:
    """The photographs under a folder, in sorted order.

    They are `images/NAME.jpg`, with annotations in `ground_truth/NAME.mat` (or `groundTruth`, as
    the archive of the data set calls it); both may have the same sub-folders, such as `val`.

    Raises:
      UserError: no such folder, no photograph in it, or one without annotations.
    """
    place = Path(folder).expanduser()
    truth = next((place / name for name in _TRUTH_FOLDERS if (place / name).is_dir()), None)
    if not (place / "images").is_dir() or truth is None:
        raise UserError(
            f"{folder}: expected folders images/ (NAME.jpg) and ground_truth/ (NAME.mat) in it, as "
            "of BSDS500"
        )
    images = sorted((place / "images").rglob("*.jpg"))
    if not images:
        raise UserError(f"{folder}: no .jpg file in images/")
    places = [
        Place(image, truth / image.relative_to(place / "images").with_suffix(".mat"))
        for image in images
    ]
    for image, annotations in places:
        if not annotations.is_file():
            raise UserError(f"{image} has no annotations: expected them in {annotations}")
    return places


def read_annotated(place: Place) -> Annotated:
    """Reads one photograph and its annotations.

    The .mat file holds a cell array `groundTruth` with one cell for each person, a structure
    whose field `Segmentation` is the map.

    Raises:
      UserError: naming the file, where it cannot be read or holds something else.
    """
    image = read_image(place.image, 3)
    truths = _read_truths(place.truth)
    for person, truth in enumerate(truths, 1):
        if truth.shape != image.shape[:2] or truth.dtype.kind not in "iu" or truth.min() < 0:
            raise UserError(
                f"{place.truth}: the map of person {person} is {truth.dtype} {list(truth.shape)}; "
                f"expected whole numbers from 0, {list(image.shape[:2])} as {place.image.name}"
            )
    return Annotated(place.image.stem, image, truths)


def _read_truths(path: Path) -> tuple[np.ndarray, ...]:
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=["groundTruth"])
    except Exception as error:  # damaged files make the reader raise nearly anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable .mat file ({reason}); fetch it again") from error
    try:
        people = found["groundTruth"].ravel()
        truths = tuple(np.asarray(person["Segmentation"][0, 0]) for person in people)
    except (KeyError, IndexError, ValueError) as error:
        truths = ()
        reason = f": {error}"
    else:
        reason = ": it is empty"
    if not truths:
        raise UserError(
            f"{path}: expected a cell array groundTruth of structures with a field Segmentation, "
            f"as in BSDS500{reason}"
        )
    return truths
