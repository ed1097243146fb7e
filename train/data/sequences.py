"""Transforming digits: sequences in which one digit turns, grows, or changes its hue.

Source: Keller & Welling 2021, "Topographic VAEs learn Equivariant Capsules", NeurIPS,
https://arxiv.org/abs/2109.01394, section 6 and appendix A.8, as released
(akandykeller/TopographicVAE). A sequence is rendered when its digit is read: the digit stands in
the red channel, an affine warp about the middle turns and scales it, and its hue is shifted. What
leaves the frame is cut off, what comes in is black.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from train.data.random_access import Example, InMemory, image_size
from train.errors import UserError

# The lists of values; a sequence goes through one of them from a random start, round and round.
ANGLES = tuple(range(0, 360, 20))  # degrees
HUES = tuple(range(-180, 180, 20))  # degrees; 0 is red
SCALES = (
    *(0.60, 0.64, 0.68, 0.72, 0.76, 0.79, 0.83, 0.87, 0.91),
    *(0.95, 0.99, 1.03, 1.07, 1.11, 1.14, 1.18, 1.22, 1.26),
)
VALUES = 18
ATTRIBUTES = ("rotation", "scale", "hue", "perspective")
_RED, _UPRIGHT, _FULL_SIZE = HUES.index(0), ANGLES.index(0), VALUES


class Taps(NamedTuple):
    """A warp as four weighted pixels for each pixel of the result.

    Attributes:
      pixel: intp `[..., 4, pixels]`, of the flat image.
      weight: float32 `[..., 4, pixels]`, 0 for what lies outside.
    """

    pixel: np.ndarray
    weight: np.ndarray


def rotation_matrix(angle: float, scale: float, *, height: int, width: int) -> np.ndarray:
    """Where the pixel (x, y) of an image turned and scaled about (width/2, height/2) goes.

    As OpenCV's `getRotationMatrix2D`: counter-clockwise, y pointing down. The middle is that of
    the image's edges, half a pixel off that of its pixels: 180 degrees take pixel i of 28 to
    28 - i.

    Args:
      angle: degrees.
      scale: above 1 enlarges.
      height: pixels.
      width: pixels.

    Returns:
      `[3, 3]`, acting on (x, y, 1).
    """
    cos, sin = (scale * f(np.radians(angle)) for f in (np.cos, np.sin))
    x, y = width / 2, height / 2
    return np.array(
        [[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y], [0, 0, 1]]
    )


def perspective_matrix(angle: float, *, height: int, width: int) -> np.ndarray:
    """Where pixels go when the image's plane turns about its y and z axes, seen in perspective.

    M = A2 T(0, 0, f) R_y(angle) R_z(angle) A1 with the focal length f = diagonal / (2 sin angle),
    as released; 0 degrees is the identity, and 180, where f is infinite, is taken for 181.

    Args:
      angle: degrees.
      height: pixels.
      width: pixels.

    Returns:
      `[3, 3]`, acting on (x, y, 1) up to a factor.
    """
    if angle % 360 == 0:
        return np.eye(3)
    radians = np.radians(181 if angle == 180 else angle)
    cos, sin = np.cos(radians), np.sin(radians)
    f = np.hypot(height, width) / (2 * sin)
    centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1], [0, 0, 1]])
    turn_y = np.array([[cos, 0, -sin, 0], [0, 1, 0, 0], [sin, 0, cos, 0], [0, 0, 0, 1]])
    turn_z = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    away = np.eye(4)
    away[2, 3] = f
    project = np.array([[f, 0, width / 2, 0], [0, f, height / 2, 0], [0, 0, 1, 0]])
    return project @ away @ turn_y @ turn_z @ centre


def bilinear_taps(matrices: np.ndarray, *, height: int, width: int) -> Taps:
    """The pixels that an image warped by each matrix is interpolated from.

    Args:
      matrices: `[..., 3, 3]`, from the image to the result.
      height: pixels.
      width: pixels.
    """
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    points = np.linalg.inv(matrices) @ np.stack([x, y, np.ones_like(x)])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rounded, so that pixels that fall onto the image's last row do not fall beside it.
        x, y = np.round(points[..., :2, :] / points[..., 2:, :], 9).swapaxes(0, -2)
    x, y = (np.nan_to_num(np.clip(c, -2, max(height, width) + 2), nan=-2) for c in (x, y))
    left, top = np.floor(x), np.floor(y)
    pixel, weight = [], []
    for column, part_x in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, part_y in ((top, 1 - (y - top)), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            pixel.append(np.where(inside, row * width + column, 0))
            weight.append(np.where(inside, part_x * part_y, 0))
    return Taps(np.stack(pixel, -2).astype(np.intp), np.stack(weight, -2).astype(np.float32))


def hue_colours() -> np.ndarray:
    """The colour that each of `HUES` makes of pure red, float32 `[18, 3]`: hsv(hue, 1, 1).

    A shift of the hue takes a red of value v to v times this colour, exactly.
    """
    sixths = np.mod(np.array(HUES) / 60, 6)
    red = np.abs(sixths - 3) - 1
    green, blue = 2 - np.abs(sixths - 2), 2 - np.abs(sixths - 4)
    return np.clip(np.stack([red, green, blue], axis=1), 0, 1).astype(np.float32)


class Renderer:
    """Draws sequences of digits `[height, width, 1]`; all warps there are stand in a table."""

    def __init__(self, height: int, width: int, *, perspective: bool) -> None:
        size = {"height": height, "width": width}
        if perspective:
            matrices = [perspective_matrix(angle, **size) for angle in ANGLES]
        else:
            matrices = [
                rotation_matrix(angle, scale, **size)
                for angle in ANGLES
                for scale in (*SCALES, 1.0)
            ]
        self.shape = (height, width, 3)
        self.taps = bilinear_taps(np.stack(matrices), **size)
        self.colours = hue_colours()

    def __call__(self, digit: np.ndarray, warp: np.ndarray, hue: np.ndarray) -> np.ndarray:
        """Frames uint8 `[frames, height, width, 3]` of a uint8 digit.

        Args:
          digit: `[height, width, 1]`.
          warp: int `[frames]`, rows of the table of warps.
          hue: int `[frames]`, places in `HUES`.
        """
        if (warp == warp[0]).all():
            warp = warp[:1]
        pixels = digit.reshape(-1).astype(np.float32)
        tapped = pixels.take(self.taps.pixel[warp], mode="clip")  # faster than to raise
        grey = np.einsum("ftp,ftp->fp", tapped, self.taps.weight[warp])
        frames = np.empty((len(hue), grey.shape[1], 3), np.uint8)
        coloured = grey[:, None, :] * self.colours[hue][:, :, None]
        # Half up; the cast cuts off.
        np.add(coloured, np.float32(0.5), out=frames.swapaxes(1, 2), casting="unsafe")
        return frames.reshape(len(hue), *self.shape)


class Moving:
    """The transform of one digit into a sequence: what moves, from where, and what is held.

    One of `movements` is drawn for each sequence. A movement is one attribute, or several that move
    together, such as ("rotation", "hue"). Each goes through its list from a start of its own. Of
    rotation, scale and hue, those that do not move are held at a value drawn from their lists if
    one attribute moves alone; else the digit is upright, of its own size, and red.
    """

    def __init__(
        self, shape: tuple[int, int, int], frames: int, movements: Sequence[tuple[str, ...]]
    ) -> None:
        self.frames = np.arange(frames)
        self.movements = movements
        self.renderers = {
            turned: Renderer(*shape[:2], perspective=turned)
            for turned in {"perspective" in movement for movement in movements}
        }

    def __call__(self, example: Example, random: np.random.Generator) -> Example:
        """A digit's example as a sequence's.

        "image" is uint8 `[frames, height, width, 3]`, "factor" int32, which of the movements this
        is, "position" int32 `[frames]`, where in its list the first attribute of the movement is.
        The rest, such as "label", stays.
        """
        factor = int(random.integers(len(self.movements)))
        starts = random.integers(VALUES, size=len(ATTRIBUTES))
        moving = self.movements[factor]
        place = {"rotation": _UPRIGHT, "scale": _FULL_SIZE, "hue": _RED, "perspective": 0}
        for name, start in zip(ATTRIBUTES, starts, strict=True):
            if name in moving:
                place[name] = (start + self.frames) % VALUES
            elif len(moving) == 1:
                place[name] = start
        turned = "perspective" in moving
        warp = place["perspective"] if turned else place["rotation"] * (VALUES + 1) + place["scale"]
        warp, hue = (np.broadcast_to(x, self.frames.shape) for x in (warp, place["hue"]))
        return {
            **example,
            "image": self.renderers[turned](example["image"], warp, hue),
            "factor": np.int32(factor),
            "position": place[moving[0]].astype(np.int32),
        }


def movements_of(data: Mapping[str, Any], split: str) -> tuple[str, ...]:
    """What moves in a split's sequences, each of which shows one of these, by name.

    They are `data.transformations`, such as ("rotation", "scale", "hue"); "rotation+hue" are two
    that move together. In "test" they are `data.test_transformations`, if there are any.
    """
    other = data.get("test_transformations", ()) if split == "test" else ()
    return tuple(other or data["transformations"])


def make_transform(data: Mapping[str, Any], split: str) -> Moving:
    """The config's transform of digits into sequences of `data.frames` frames.

    Raises:
      UserError: no transformation or one that there is not, or images that are not in colour.
    """
    shape = image_size(data).shape
    if shape[2] != 3:
        raise UserError(
            f"data.image_shape is {shape}; transforming digits are in colour: set it to "
            f"{(*shape[:2], 3)}"
        )
    names = movements_of(data, split)
    movements = [tuple(name.split("+")) for name in names]
    unknown = {name for movement in movements for name in movement} - set(ATTRIBUTES)
    if unknown or not movements:
        raise UserError(
            f"the transformations of {split} sequences are {names}; expected some of "
            f"{', '.join(ATTRIBUTES)}, or such as 'rotation+hue' for those that move together"
        )
    for movement in movements:
        if "perspective" in movement and {"rotation", "scale"} & set(movement):
            raise UserError(
                f"{'+'.join(movement)!r} is no transformation of sequences; perspective goes "
                "alone, or with hue"
            )
    return Moving(shape, data["frames"], movements)


@functools.lru_cache(maxsize=1)  # training and evaluation share one
def small_digits(height: int, width: int) -> InMemory:
    """Scikit-learn's digits, enlarged to three quarters of the frame, uint8 `[n, h, w, 1]`.

    So there is room around them as around MNIST's, which fill 20 of 28 pixels. Bicubic.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    size = (round(0.75 * height), round(0.75 * width))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    image = np.zeros((len(digits.images), height, width, 1), np.uint8)
    for place, digit in zip(image, digits.images, strict=True):
        large = Image.fromarray((255 / 16 * digit).astype(np.float32)).resize(
            size[::-1], Image.Resampling.BICUBIC
        )
        place[top : top + size[0], left : left + size[1], 0] = np.clip(np.round(large), 0, 255)
    return InMemory({"image": image, "label": digits.target.astype(np.int32)})
