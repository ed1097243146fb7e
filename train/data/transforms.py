"""What is done to an example between source and batch: crop, flip, binarise, noise, motion."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from train.data import audio, sequences
from train.data.random_access import Example, image_size
from train.errors import UserError

Transform = Callable[[Example, np.random.Generator], Example]


def make_transform(data: Mapping[str, Any], split: str) -> Transform | None:
    """The config's treatment of one example, as a function of it and its own random numbers.

    None where nothing is to be done, so that batches of an in-memory source are one fancy index.
    `data.crop`: "random" cuts `data.image_shape` out at a random place, in "test" from the centre;
    "resize" first scales the image so that it just covers `image_shape`. `data.flip` mirrors left
    and right by a fair coin, in "train" only. `data.binarise` "stochastic" draws every sub-pixel
    from a Bernoulli with the image's value in [0, 1] as its mean (Salakhutdinov & Murray 2008):
    float32 0 or 1. `data.noise` is the standard deviation of Gaussian noise added in [0, 1] units
    and cut to that range, in "train" only; the noisy image is input and target. In evaluation the
    generator is seeded by the example's index alone, so the test images are the same every time.
    `data.levels`, if not 0, turns "image" into "code", int32 0 .. levels - 1, the nearest each.
    Digits of a source of sequences become sequences, as `sequences.make_transform` says, and
    nothing else is done to those. Of recordings it makes crops, as `audio.make_transform` says.

    Raises:
        UserError: on unknown values of the options; the transform itself, where an image does not
            come out with `data.image_shape`.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    if data["source"].startswith("audio:"):
        return audio.make_transform(data, split)
    shape, crop = image_size(data)
    binarise = data.get("binarise", "")
    if binarise not in ("", "stochastic"):
        raise UserError(f"data.binarise is {binarise!r}; expected '' or 'stochastic'")
    levels = data.get("levels", 0)
    codes = data["source"].startswith("codes:")
    if data.get("frames", 0) or codes:
        flip, noise = data.get("flip", False), data.get("noise", 0.0)
        if crop != "none" or flip or binarise or noise or levels:
            raise UserError(
                f"data.crop is {crop!r}, data.flip {flip}, data.binarise {binarise!r}, data.noise "
                f"{noise}, data.levels {levels}; nothing of this is done to "
                f"{'codes' if codes else 'sequences'}"
            )
        drawn = data["source"] in ("sequences:mnist", "sequences:digits")
        return sequences.make_transform(data, split) if drawn else None
    train = split == "train"
    flip = train and bool(data.get("flip", False))
    noise = np.float32(data.get("noise", 0.0) if train else 0.0)
    if data["source"] == "photos" and not train:
        crop = "none"  # the test set is a grid of crops already
    if crop == "none" and not flip and not binarise and not noise and not levels:
        return None

    def transform(example: Example, random: np.random.Generator) -> Example:
        image = example["image"]
        if crop == "resize":
            image = _cover(image, shape)
        if crop != "none":
            image = _crop(image, shape, random if train else None)
        if flip and random.random() < 0.5:
            image = image[:, ::-1]
        if binarise:
            scale = 255 if image.dtype == np.uint8 else 1
            draws = random.random(image.shape, np.float32) * np.float32(scale)
            image = (draws < image).astype(np.float32)
        if noise:
            unit = np.float32(255 if image.dtype == np.uint8 else 1)
            noisy = image / unit + noise * random.standard_normal(image.shape, np.float32)
            image = np.clip(noisy, 0, 1)
        if image.shape != shape:
            raise UserError(f"found an image of shape {image.shape}, data.image_shape is {shape}")
        if levels:
            rest = {name: value for name, value in example.items() if name != "image"}
            return {**rest, "code": quantised(image, levels)}
        return {**example, "image": image}

    return transform


def quantised(image: np.ndarray, levels: int) -> np.ndarray:
    """The nearest of `levels` values, from 0 for black to levels - 1 for white, int32.

    Args:
        image: uint8, or floating in [0, 1].
        levels: 2 or more.
    """
    unit = image / 255.0 if image.dtype == np.uint8 else image
    return np.rint(unit * (levels - 1)).astype(np.int32)


def _crop(
    image: np.ndarray, shape: tuple[int, int, int], random: np.random.Generator | None
) -> np.ndarray:
    """The window of `shape` at a random place, or without random numbers at the centre."""
    spare = [found - wanted for found, wanted in zip(image.shape[:2], shape[:2], strict=True)]
    if min(spare) < 0:
        raise UserError(
            f"found an image of {image.shape[0]} x {image.shape[1]}, smaller than data.image_shape "
            f"{shape}: set data.crop='resize'"
        )
    if random is None:
        top, left = (size // 2 for size in spare)
    else:
        top, left = (int(random.integers(0, size + 1)) for size in spare)
    return image[top : top + shape[0], left : left + shape[1]]


def _cover(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The image scaled, by antialiased bicubic interpolation, to the smallest size that covers."""
    height, width = image.shape[:2]
    scale = max(shape[0] / height, shape[1] / width)
    size = (max(round(height * scale), shape[0]), max(round(width * scale), shape[1]))
    if size == (height, width):
        return image
    # One channel at a time: Pillow has no mode for float colours or for other channel counts.
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
            (size[1], size[0]), Image.Resampling.BICUBIC
        )
        for channel in range(image.shape[2])
    ]
    resized = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    return resized if image.dtype == np.uint8 else np.clip(resized, 0, 1)
