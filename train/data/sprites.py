"""dSprites as sequences in which one factor moves.

Source: Keller & Welling 2021, https://arxiv.org/abs/2109.01394, section 6, as released: of dSprites
(Matthey et al. 2017) the 5 largest scales, every second of the first 30 orientations and of the
first 30 places along x and y, with 3 shapes 50,625 images. A sequence starts at one of them and
moves one factor on by one value a frame, round and round.
"""

import functools
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.data import tfds_source
from train.data.random_access import Example
from train.errors import UserError

# What TFDS calls them, in the order of the file's latents_classes behind the colour; values used.
FACTORS = {
    "shape": "label_shape",
    "scale": "label_scale",
    "orientation": "label_orientation",
    "x": "label_x_position",
    "y": "label_y_position",
}
USED = {
    "shape": range(3),
    "scale": range(1, 6),
    "orientation": range(0, 30, 2),
    "x": range(0, 30, 2),
    "y": range(0, 30, 2),
}
SIZES = tuple(map(len, USED.values()))
MOVING = ("x", "y", "orientation", "scale")


class SpriteSequences:
    """Sequences by their factor and their first frame.

    An example holds "image" uint8 `[frames, 64, 64, 1]`, "label" the shape, "factor" which of
    `factors` moves, and "position" int32 `[frames]`, its value in each frame.

    Attributes:
      images: uint8 `[3, 5, 15, 15, 15, 64, 64]`, 0 or 255, in the order of `FACTORS`.
      starts: `[sequences, 6]`, number of the factor and the first frame's value of each factor.
      factors: names of the factors that move.
      frames: of a sequence.
    """

    def __init__(
        self, images: np.ndarray, starts: np.ndarray, factors: Sequence[str], frames: int
    ) -> None:
        self.images = images
        self.starts = starts
        self.factors = tuple(factors)
        self.frames = frames

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.starts)

    def __getitem__(self, index: int) -> Example:
        """One sequence."""
        factor, *start = self.starts[index]
        axis = list(FACTORS).index(self.factors[factor])
        values = [np.full(self.frames, value) for value in start]
        values[axis] = (start[axis] + np.arange(self.frames)) % SIZES[axis]
        return {
            "image": self.images[tuple(values)][..., None],
            "label": np.int32(start[0]),
            "factor": np.int32(factor),
            "position": values[axis].astype(np.int32),
        }


def load(
    place: str,
    factors: Sequence[str],
    frames: int,
    *,
    holdout: float,
    seed: int,
    data_dir: str = "",
) -> dict[str, SpriteSequences]:
    """Sequences of the dSprites in TFDS, or of those in a file.

    `place` is "dsprites", in TFDS's `data_dir`, or the path of a file: DeepMind's
    `dsprites_ndarray_*.npz`, or one of the same form with the images used. Reading all of TFDS's
    737,280 examples takes a minute or two, once in a process.

    There is one for each factor and each first image, so 50,625 of a factor. Those that are the
    same but for their start are one loop of images, and go to "train" or "test" together: for each
    factor the share `holdout` of its loops, by a permutation from `seed`, is for testing. A test
    sequence is therefore never trained on, from whatever start. Its single images are, as parts of
    loops of other factors: loops through all four factors connect all images of a shape, so that no
    image can be kept out without keeping out its shape. Test sequences come in a random order, the
    same every time, so that the first of them are a fair sample.

    Raises:
      UserError: no such file, another kind of file, nothing prepared by TFDS, or a factor that
        there is not.
    """
    if unknown := [name for name in factors if name not in MOVING] or not factors:
        raise UserError(
            f"the transformations are {tuple(factors)}, with {unknown or 'nothing'} in it; "
            f"expected some of {', '.join(MOVING)}"
        )
    if not 0 <= holdout < 1:
        raise UserError(f"data.holdout is {holdout}; expected a fraction from 0 up to 1")
    images = _from_tfds(data_dir) if place == "dsprites" else _from_file(place)
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    random = np.random.default_rng(seed)
    values = np.stack(np.meshgrid(*map(range, SIZES), indexing="ij"), axis=-1)
    # All of them, in one order: which loops are held out does not depend on what moves.
    orders = {name: random.permutation(values[..., 0].size // len(USED[name])) for name in MOVING}
    for number, name in enumerate(factors):
        axis, order = list(FACTORS).index(name), orders[name]
        loops = np.moveaxis(values, axis, 0).reshape(SIZES[axis], -1, len(SIZES))
        held = round(holdout * len(order))
        for part, chosen in (("test", order[:held]), ("train", np.sort(order[held:]))):
            starts = loops[:, chosen].reshape(-1, len(SIZES))
            parts[part].append(np.insert(starts, 0, number, axis=1))
    test = np.concatenate(parts["test"])
    found = {
        "train": np.concatenate(parts["train"]),
        "test": test[random.permutation(len(test))],
    }
    return {
        part: SpriteSequences(images, starts, factors, frames)
        for part, starts in found.items()
        if len(starts)
    }


@functools.lru_cache(maxsize=1)  # training and evaluation share one
def _from_tfds(data_dir: str) -> np.ndarray:
    """The images used, by factor, from TFDS."""
    used = {FACTORS[name]: values for name, values in USED.items()}
    found = tfds_source.chosen("dsprites", used, data_dir=data_dir)
    classes = np.stack([found[feature] for feature in used], axis=1)
    return _by_factor(found["image"][..., 0], classes, "tfds:dsprites")


@functools.lru_cache(maxsize=1)
def _from_file(place: str) -> np.ndarray:
    """The images used, by factor, from a file."""
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(
            f"sequences:{place}: no such file; expected dSprites as an .npz file, or "
            "sequences:dsprites for those of TFDS"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            images, classes = stored["imgs"], stored["latents_classes"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: cannot be read as dSprites ({' '.join(str(error).split())}); expected an "
            ".npz file with 'imgs' and 'latents_classes'"
        ) from error
    if classes.ndim != 2 or classes.shape[1] != 6 or images.shape != (len(classes), 64, 64):
        raise UserError(
            f"{path}: imgs are {images.shape} and latents_classes {classes.shape}; expected "
            "[n, 64, 64] and [n, 6]"
        )
    return _by_factor(images, classes[:, 1:], str(path))


def _by_factor(images: np.ndarray, classes: np.ndarray, where: str) -> np.ndarray:
    """The images used, uint8 `[3, 5, 15, 15, 15, 64, 64]`, 0 or 255.

    Args:
      images: `[n, 64, 64]`, above 0 where the sprite is.
      classes: int `[n, 5]`, values in the order of `FACTORS`.
      where: they come from, for errors.
    """
    used = np.logical_and.reduce(
        [np.isin(c, list(u)) for c, u in zip(classes.T, USED.values(), strict=True)]
    )
    rows = np.flatnonzero(used)
    rows = rows[np.lexsort(classes[rows].T[::-1])]
    if len(rows) != np.prod(SIZES) or len(np.unique(classes[rows], axis=0)) != len(rows):
        raise UserError(
            f"{where}: {len(rows)} images have the factors that are used; expected each of "
            f"{np.prod(SIZES)} once"
        )
    return ((images[rows] > 0) * np.uint8(255)).reshape(*SIZES, 64, 64)
