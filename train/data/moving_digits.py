"""Moving MNIST: two digits that bounce about in a frame, drawn when a frame is read.

Source: Srivastava, Mansimov & Salakhutdinov 2015, "Unsupervised Learning of Video Representations
using LSTMs", https://arxiv.org/abs/1502.04681, as released: the paper draws the magnitude of a
velocity from a range, the release moves every digit by a tenth of the way between the walls.
"""

import functools
import re
from collections.abc import Callable

import numpy as np

from train.data import sequences, tfds_source
from train.data.random_access import Example, ImageSize, Source
from train.errors import UserError

SEQUENCES = 2_000  # of "train"; "test" has a fifth as many
FRAMES = 20
SHAPE = (64, 64, 1)
DIGIT = 28  # height and width
STEP = 0.1  # of the way between the walls, from one frame to the next
_TOGETHER = 2


class MovingDigits:
    """Frames of sequences, in order; each is drawn when it is read.

    "image" is uint8 `[64, 64, 1]`, where digits overlap the larger value; "episode" and "frame"
    are int32: the sequence, and the frame in it.
    """

    def __init__(self, digits: np.ndarray, chosen: np.ndarray, corners: np.ndarray) -> None:
        """Takes uint8 `[n, 28, 28]`, int `[sequences, 2]`, `[sequences, frames, 2, (y, x)]`."""
        self.digits = digits
        self.chosen = chosen
        self.corners = corners

    def __len__(self) -> int:
        """The number of frames of all sequences."""
        return self.corners.shape[0] * self.corners.shape[1]

    def __getitem__(self, index: int) -> Example:
        """One frame."""
        episode, frame = divmod(int(index), self.corners.shape[1])
        image = np.zeros(SHAPE, np.uint8)
        for digit, (y, x) in zip(self.chosen[episode], self.corners[episode, frame], strict=True):
            under = image[y : y + DIGIT, x : x + DIGIT, 0]
            np.maximum(under, self.digits[digit], out=under)
        return {"image": image, "episode": np.int32(episode), "frame": np.int32(frame)}


def load(
    place: str, size: ImageSize, expression: str, *, seed: int, data_dir: str = ""
) -> dict[str, Source]:
    """Sequences of 20 frames: "train" and "test", of digits that the other has not.

    `place` is "mnist", MNIST as TFDS prepared it, whose splits these are, or "digits",
    scikit-learn's, enlarged, every fifth of which is for "test". There are 2,000 sequences and 400,
    or with the number of training sequences "mnist/500", 500 and 100. A sequence's digits, where
    they start and where they go are drawn by a NumPy Generator of (`seed`, split, sequence).

    "mnist" has a third split where `expression` asks for it: "published", the authors' 10,000 test
    sequences as TFDS prepared them (`moving_mnist`).

    Raises:
        UserError: no such digits, another image shape, or MNIST is not prepared.
    """
    found = re.fullmatch(r"(\w+)(?:/([1-9]\d*))?", place)
    if not found or found[1] not in _DIGITS:
        raise UserError(
            f"moving:{place}: there are {' and '.join(map(repr, _DIGITS))}; 'moving:digits/500' "
            "has 500 training sequences"
        )
    size._replace(crop="none").check(SHAPE, f"moving:{place}")
    train = int(found[2] or SEQUENCES)
    digits = _DIGITS[found[1]](data_dir)
    parts: dict[str, Source] = {}
    for number, (split, count) in enumerate({"train": train, "test": max(1, train // 5)}.items()):
        of_split = digits[split]
        chosen, corners = _draw(len(of_split), count, seed=(seed, number))
        parts[split] = MovingDigits(of_split, chosen, corners)
    if found[1] == "mnist" and expression.strip().startswith("published"):
        parts["published"] = tfds_source.load("moving_mnist", "test", size, data_dir=data_dir)
    return parts


def _draw(digits: int, count: int, *, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which digits each of `count` sequences shows, and where; see `MovingDigits`."""
    chosen = np.empty((count, _TOGETHER), np.int64)
    start = np.empty((count, _TOGETHER, 2))
    angle = np.empty((count, _TOGETHER))
    for sequence in range(count):
        random = np.random.default_rng([*seed, sequence])
        chosen[sequence] = random.integers(digits, size=_TOGETHER)
        start[sequence] = random.random((_TOGETHER, 2))
        angle[sequence] = 2 * np.pi * random.random(_TOGETHER)
    velocity = STEP * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return chosen, corners_of(start, velocity)


def corners_of(start: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """The pixels where digits' upper left corners are, int16 `[..., 20, digits, 2]`.

    A digit moves before the first frame is drawn. One that reaches a wall stays there for a frame
    and turns back.

    Args:
        start: `[..., digits, (y, x)]`, 0 and 1 being the walls.
        velocity: likewise, per frame.
    """
    corners = []
    for _ in range(FRAMES):
        start = start + velocity
        velocity = np.where((start <= 0) | (start >= 1), -velocity, velocity)
        start = np.clip(start, 0, 1)
        corners.append(((SHAPE[0] - DIGIT) * start).astype(np.int16))  # cut off, not rounded
    return np.stack(corners, axis=-3)


@functools.lru_cache(maxsize=1)  # training and evaluation share them
def _mnist(data_dir: str) -> dict[str, np.ndarray]:
    """MNIST's two splits, uint8 `[n, 28, 28]`."""
    size = ImageSize((DIGIT, DIGIT, 1), "none")
    return {
        split: tfds_source.load("mnist", split, size, data_dir=data_dir).arrays["image"][..., 0]
        for split in ("train", "test")
    }


def _small(_data_dir: str) -> dict[str, np.ndarray]:
    """Scikit-learn's digits, likewise."""
    image = sequences.small_digits(DIGIT, DIGIT).arrays["image"][..., 0]
    test = np.arange(len(image)) % 5 == 4
    return {"train": image[~test], "test": image[test]}


_DIGITS: dict[str, Callable[[str], dict[str, np.ndarray]]] = {"mnist": _mnist, "digits": _small}
