"""Where a game's own paddle is, read in images: from its pixels alone, so in drawn ones too."""

from typing import NamedTuple

import numpy as np

from train.data.games import FIELD
from train.errors import UserError

_ABOVE = 8 / 255  # what is less above the background is not the paddle


class Paddle(NamedTuple):
    """How the own paddle of a game lies in the play field, in the emulator's pixels.

    Attributes:
      axis: along which it moves: 0, down the rows, or 1, along the columns.
      across: first pixel and the one after the last across that axis, and
      along: along it, within which nothing but paddle and ball is ever drawn.
      offset: the paddle's RAM byte less the place of its middle in the field.
      ways: what a smaller and a larger byte look like.
    """

    axis: int
    across: tuple[int, int]
    along: tuple[int, int]
    offset: float
    ways: tuple[str, str]


PADDLES = {
    "pong": Paddle(0, across=(140, 144), along=(0, 160), offset=39.0, ways=("up", "down")),
    "breakout": Paddle(1, across=(155, 159), along=(8, 152), offset=39.0, ways=("left", "right")),
}


def paddle_of(source: str) -> Paddle:
    """The paddle of the game in a data source such as "game:pong/5000"; UserError without one."""
    kind, _, place = source.partition(":")
    name = place.partition("/")[0]
    if kind != "game" or name not in PADDLES:
        known = ", ".join(f"game:{game}" for game in PADDLES)
        raise UserError(f"data.source is {source!r}; a paddle is known of {known}")
    return PADDLES[name]


def paddle_places(images: np.ndarray, paddle: Paddle) -> np.ndarray:
    """Where the paddle is, in units of its RAM byte (the emulator's pixels), float `[n]`.

    The middle of the brightness above the background: half of it lies on either side, which the
    ball beside it hardly moves. NaN where nothing is brighter.

    Args:
      images: frames `[n, height, width, 1]` in [0, 1].
      paddle: of the game that they are of.
    """
    image = np.asarray(images, np.float64)[..., 0]
    background = np.median(image, axis=(1, 2), keepdims=True)
    above = np.where(image - background > _ABOVE, image - background, 0)
    if paddle.axis == 1:
        above = above.swapaxes(1, 2)
    block = FIELD / above.shape[1]
    rows = slice(int(paddle.along[0] / block), int(np.ceil(paddle.along[1] / block)))
    columns = slice(int(paddle.across[0] / block), int(np.ceil(paddle.across[1] / block)))
    weight = above[:, rows, columns].sum(axis=2)
    total = np.cumsum(weight, axis=1)
    half = total[:, -1:] / 2
    row = np.argmax(total >= half, axis=1)
    here = np.take_along_axis(weight, row[:, None], axis=1)
    before = np.take_along_axis(total, row[:, None], axis=1) - here
    inside = (half - before) / np.where(here > 0, here, 1)
    place = (rows.start + row + inside[:, 0]) * block + paddle.offset
    return np.where(half[:, 0] > 0, place, np.nan)
