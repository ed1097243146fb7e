"""Natural images that need no download: the photographs in scikit-image and scikit-learn."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.random_access import Example, ImageSize, InMemory, Source
from train.errors import UserError

# motorcycle_right shows the same scene as motorcycle_left from beside it, so it is left out: its
# training part would hold what the other's test part shows.
PHOTOS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


def load(_place: str, size: ImageSize) -> dict[str, Source]:
    """Crops of seven photographs: "train" from their left three quarters, "test" from the rest.

    A vertical cut through every photograph, rather than crops set aside at random, because random
    crops of one picture overlap: no pixel is in both splits, and both show all seven scenes. The
    two are alike (one sky, one fur), so a test score here says how well the textures of these
    scenes were learned, not how the model fares on new ones.

    An example of "train" is a whole left part, from which the transform takes a crop at a place
    drawn for every (seed, element); its length is nominal, the number of crops that would cover
    the area once, and a photograph has as many of them as its area gives. "test" is the fixed grid
    of crops that fit into the right parts without overlap. Photographs too small for a crop are
    left out.

    Raises:
        UserError: where no photograph is large enough, or the crop is not "random".
    """
    height, width, channels = size.shape
    if size.crop != "random":
        raise UserError(f"data.crop is {size.crop!r}; photos are cropped: set data.crop='random'")
    if channels not in (1, 3):
        raise UserError(f"data.image_shape is {size.shape}; photos have 1 or 3 channels")
    train, test = zip(*[_parts(*photo, channels) for photo in PHOTOS], strict=True)
    train = [part for part in train if _covers(part, height, width)]
    test = [part for part in test if _covers(part, height, width)]
    if not train or not test:
        raise UserError(
            f"data.image_shape is {size.shape}, more than any photograph's test part holds: "
            "photos allow about 128 x 128"
        )
    crops = [
        part[top : top + height, left : left + width]
        for part in test
        for top in range(0, part.shape[0] - height + 1, height)
        for left in range(0, part.shape[1] - width + 1, width)
    ]
    return {"train": _Parts(train, height * width), "test": InMemory({"image": np.stack(crops)})}


def _parts(package: str, path: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The training and the test part of a photograph, uint8 `[height, width, channels]`."""
    # Read as files: importing skimage.data would ask for pooch, which only downloads need.
    folder = Path(importlib.util.find_spec(package).origin).parent
    with Image.open(folder / path) as photo:
        image = np.asarray(photo.convert("RGB" if channels == 3 else "L"))
    image = image.reshape(*image.shape[:2], channels)
    cut = image.shape[1] * 3 // 4
    return image[:, :cut], image[:, cut:]


def _covers(part: np.ndarray, height: int, width: int) -> bool:
    return part.shape[0] >= height and part.shape[1] >= width


class _Parts:
    """Parts of photographs, each as many times as crops would cover it."""

    def __init__(self, parts: list[np.ndarray], crop_area: int) -> None:
        self.parts = parts
        copies = [part.shape[0] * part.shape[1] // crop_area for part in parts]
        self.which = np.repeat(np.arange(len(parts)), copies)

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.parts[self.which[index]]}
