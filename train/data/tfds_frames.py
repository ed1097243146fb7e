"""Frames in order of data sets of TFDS whose examples are videos or episodes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from train.data.random_access import Example, Source
from train.errors import UserError


class Frames:
    """Frames of videos or episodes, in order, held as they are stored and decoded when read.

    "image" is uint8 `[height, width, channels]`, scaled whole where the stored frames are of
    another size, by antialiased bicubic interpolation; "action" int32, of episodes, what was chosen
    on seeing the frame; "episode" and "frame" int32, counted from 0.
    """

    def __init__(
        self,
        stored: list[bytes],
        arrays: dict[str, np.ndarray],
        decode: Callable[[bytes], np.ndarray],
        size: tuple[int, int],
    ) -> None:
        """Takes encoded images, the rest of the examples, int32 `[n]`, and (height, width)."""
        self.stored = stored
        self.arrays = arrays
        self.decode = decode
        self.size = size

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.stored)

    def __getitem__(self, index: int) -> Example:
        """One frame."""
        image = self.decode(self.stored[index])
        if image.shape[:2] != self.size:
            pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            scaled = pixels.resize(self.size[::-1], Image.Resampling.BICUBIC)
            image = np.asarray(scaled).reshape(*self.size, -1)
        return {"image": image} | {name: array[index] for name, array in self.arrays.items()}


def described(features: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """The feature of a frame, and decoders that leave frames as they are stored.

    A video is "image_sequence", as in TFDS's moving_mnist; an episode has "steps" with "pixels"
    among what is observed, as in RL Unplugged's DeepMind Lab (Gulcehre et al. 2021).

    Args:
        features: of the set.
        name: of the set, for messages.

    Raises:
        UserError: steps without pixels.
    """
    import tensorflow_datasets as tfds

    skip = tfds.decode.SkipDecoding()
    if "image_sequence" in features:
        skip.decode_batch_example_np = skip.decode_example_np  # which it lacks
        return features["image_sequence"].feature, {"image_sequence": skip}
    try:
        return features["steps"].feature["observation"]["pixels"], {"steps": skip}
    except (KeyError, TypeError) as error:
        raise UserError(f"tfds:{name}: no 'pixels' among what its steps observe") from error


def read(episodes: Source, image: Any, size: tuple[int, int], *, limit: int = 0) -> Frames:
    """All frames of the examples of a set, or the first.

    Args:
        episodes: the examples, whose frames are not decoded.
        image: the feature of a frame.
        size: height and width that frames are scaled to.
        limit: of the frames; 0: all.
    """
    stored: list[bytes] = []
    action: list[int] = []
    lengths = []
    for number in range(len(episodes)):
        example = episodes[number]
        if "steps" in example:
            frames = example["steps"]["observation"]["pixels"]
            action.extend(example["steps"]["action"])
        else:
            frames = example["image_sequence"]
        stored.extend(frames)
        lengths.append(len(frames))
        if 0 < limit <= len(stored):
            break
    arrays = {
        "episode": np.repeat(np.arange(len(lengths)), lengths),
        "frame": np.concatenate([np.arange(length) for length in lengths]),
    }
    if action:
        arrays["action"] = np.array(action)
    kept = slice(limit or None)
    arrays = {name: array[kept].astype(np.int32) for name, array in arrays.items()}
    return Frames(stored[kept], arrays, image.decode_example_np, size)
