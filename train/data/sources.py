"""From the config's `data` section to a source: which data set, which split of it."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from train.data import (
    audio,
    codes,
    files,
    games,
    moving_digits,
    photos,
    sequences,
    sprites,
    tfds_source,
    windows,
)
from train.data.random_access import ImageSize, InMemory, Source, Subset, image_size, select
from train.errors import UserError

__all__ = ["InMemory", "Source", "Subset", "load_source"]


def load_source(data: Mapping[str, Any], split: str) -> Source:
    """The examples of `data.source` that `data.train` or `data.test` names, `split` saying which.

    `data.source` is one of
      "digits"       scikit-learn's 1,797 handwritten digits, 8 x 8 x 1, float32 sixteenths;
      "photos"       colour photographs that come with scikit-image and scikit-learn;
      "tfds:NAME"    a prepared data set of TensorFlow Datasets, read without TensorFlow: images, or
                     frames of videos and episodes, in order;
      "folder:PATH"  image files; sub-folders are labels, or "train" and "test" at the top, splits;
      "array:PATH"   images in a .npy or .npz file;
      "game:NAME"    frames of "pong" or "breakout", played by a policy seeded by `data.split_seed`;
      "moving:mnist", "moving:digits"    frames of two bouncing digits (see `moving_digits`);
      "audio:PATH"   recordings at `data.sample_rate` (see `audio`);
      "codes:W"      the discrete codes of the data of the trained run in W, with its splits; with
                     `data.frames`, windows of as many frames of an episode (see `windows`);
      "synthetic"    noise, 1,024 + 256 images: to try a machine out;
      "sequences:digits", "sequences:mnist"    digits that `data.transformations` move through
                     `data.frames` frames (see `sequences`); the sources give the still digits;
      "sequences:dsprites", "sequences:PATH"    dSprites as TFDS prepared them, or in an .npz file,
                     in loops of one factor (see `sprites`).
    `data.train` and `data.test` are split expressions: "train", "test", "train[:40000]",
    "train[80%:]", and sums of them. A source without a test split of its own (digits, arrays, most
    folders) gives up the fraction `data.holdout` of its examples as "test", drawn by a permutation
    from `data.split_seed`; what remains is "train". `data.limit`, if not 0, keeps only the first.

    Raises:
        UserError: an unknown source or split, an empty split, images that cannot become
            `data.image_shape`, and whatever is wrong with the files.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    kind, _, place = data["source"].partition(":")
    size = image_size(data)
    expression = data.get(split, split)
    limit = data.get("limit", 0)
    frames = data.get("frames", 0)
    if kind != "codes" and (kind == "sequences") != (frames > 0):
        raise UserError(
            f"data.source is {data['source']!r} and data.frames is {frames}; sequences have "
            "frames, at least 1, and single images have data.frames=0"
        )
    if data["source"] == "sequences:mnist":
        still = {**data, "source": "tfds:mnist", "frames": 0}
        return load_source({**still, "image_shape": (*size.shape[:2], 1)}, split)
    if kind == "tfds" and place:
        source = tfds_source.load(
            place, expression, size, data_dir=data.get("data_dir", ""), limit=limit
        )
    elif kind == "audio" and place:
        parts = audio.load(place, data["sample_rate"], data_dir=data.get("data_dir", ""))
        if "test" not in parts:
            parts = _hold_out(parts, data.get("holdout", 0.0), data.get("split_seed", 0))
        source = _cut(parts, expression, data["source"])
    elif kind == "codes" and place:
        parts = codes.load(place, checksum=data.get("encoder_checksum", 0))
        source = _cut(parts, expression, data["source"])
        if frames:
            source = windows.of_frames(source, frames, data["source"])
    elif kind == "game" and place:
        parts = games.load(
            place, size, seed=data.get("split_seed", 0), data_dir=data.get("data_dir", "")
        )
        source = _cut(parts, expression, data["source"])
    elif kind == "moving" and place:
        options = {"seed": data.get("split_seed", 0), "data_dir": data.get("data_dir", "")}
        parts = moving_digits.load(place, size, expression, **options)
        source = _cut(parts, expression, data["source"])
    elif kind == "sequences" and place:
        source = _cut(_sequences(place, data, size, split), expression, data["source"])
    elif kind in _SOURCES and bool(place) == (kind in ("folder", "array")):
        parts = _SOURCES[kind](place, size)
        if "test" not in parts:
            parts = _hold_out(parts, data.get("holdout", 0.0), data.get("split_seed", 0))
        source = _cut(parts, expression, data["source"])
    else:
        raise UserError(
            f"data.source is {data['source']!r}; expected 'digits', 'photos', 'synthetic', "
            "'tfds:NAME', 'folder:PATH', 'array:PATH', 'audio:PATH', 'game:NAME', 'moving:mnist', "
            "'moving:digits', 'codes:W', 'sequences:mnist', 'sequences:digits', "
            "'sequences:dsprites' or 'sequences:PATH'"
        )
    if 0 < limit < len(source):
        source = select(source, np.arange(limit))
    if len(source) == 0:
        raise UserError(f"data.{split}={expression!r} of {data['source']} has no example")
    # Others check what they read or draw.
    if isinstance(source, InMemory) and not frames and kind != "codes":
        size.check(source.arrays["image"].shape[1:], data["source"])
    return source


def _hold_out(parts: dict[str, Source], holdout: float, seed: int) -> dict[str, Source]:
    """Cut the one part "train" in two, by a permutation: `holdout` of it becomes "test"."""
    if not 0 <= holdout < 1:
        raise UserError(f"data.holdout is {holdout}; expected a fraction from 0 up to 1")
    if holdout == 0:
        return parts
    everything = parts["train"]
    order = np.random.default_rng(seed).permutation(len(everything))
    first = round(holdout * len(everything))
    return {
        "test": select(everything, np.sort(order[:first])),
        "train": select(everything, np.sort(order[first:])),
    }


def _sequences(
    place: str, data: Mapping[str, Any], size: ImageSize, split: str
) -> dict[str, Source]:
    """The parts of transforming digits, still, or of dSprites in loops."""
    seed, holdout = data.get("split_seed", 0), data.get("holdout", 0.0)
    if place == "digits":
        return _hold_out({"train": sequences.small_digits(*size.shape[:2])}, holdout, seed)
    size.check((64, 64, 1), data["source"])
    return sprites.load(
        place,
        sequences.movements_of(data, split),
        data["frames"],
        holdout=holdout,
        seed=seed,
        data_dir=data.get("data_dir", ""),
    )


_SPLIT = re.compile(r"(?P<name>\w+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def _cut(parts: dict[str, Source], expression: str, where: str) -> Source:
    """What a split expression such as "train[:80%]" names; the grammar is that of TFDS."""
    pieces = [_SPLIT.fullmatch(piece.strip()) for piece in expression.split("+")]
    names = {piece["name"] for piece in pieces if piece}
    if None in pieces or len(names) != 1:
        raise UserError(
            f"split {expression!r} of {where}: expected a form such as 'train', 'train[:40000]', "
            "'train[80%:]' or a sum of slices of one split"
        )
    name = names.pop()
    if name not in parts:
        way_out = "; data.holdout=0.1 would set a tenth aside as 'test'" if name == "test" else ""
        raise UserError(f"split {name!r} of {where}: found only {sorted(parts)}{way_out}")
    source = parts[name]
    count = len(source)
    indices = []
    for piece in pieces:
        start = _position(piece["start"] or "0", count)
        stop = _position(piece["stop"] or "100%", count)
        if not 0 <= start < stop <= count:
            raise UserError(f"split {piece[0]!r} of {where}: {name!r} has {count} examples")
        indices.append(np.arange(start, stop))
    return select(source, np.concatenate(indices))


def _position(text: str, count: int) -> int:
    """An end of a slice, in examples; negative ones count from the end, percents are rounded."""
    position = round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)
    return position + count if position < 0 else position


def _digits(_place: str, _size: ImageSize) -> dict[str, Source]:
    """Scikit-learn's digits: counts 0 to 16 of set pixels in 4 x 4 blocks (UCI optdigits)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = (digits.images / 16).astype(np.float32)[..., np.newaxis]
    return {"train": InMemory({"image": image, "label": digits.target.astype(np.int32)})}


def _synthetic(_place: str, size: ImageSize) -> dict[str, Source]:
    """Uniform noise of the shape asked for, the same every time."""
    random = np.random.default_rng(0)
    return {
        name: InMemory({"image": random.integers(0, 256, (count, *size.shape), dtype=np.uint8)})
        for name, count in (("train", 1024), ("test", 256))
    }


_SOURCES: dict[str, Callable[[str, ImageSize], dict[str, Source]]] = {
    "digits": _digits,
    "photos": photos.load,
    "folder": files.load_folder,
    "array": files.load_array,
    "synthetic": _synthetic,
}
