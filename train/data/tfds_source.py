"""Data sets prepared by TensorFlow Datasets as array_record files, read without TensorFlow."""

import functools
import logging
import os
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from train.data import tfds_frames
from train.data.random_access import Example, ImageSize, InMemory, Source
from train.errors import UserError

SMALL = 2**30  # bytes; decoded sets up to this size are held in memory
FRAMES_SIZE = 2**35  # bytes of frames, as they are stored, that are held in memory at most
_CHUNK = 500  # examples that one thread decodes at a time

log = logging.getLogger("train")


def load(name: str, split: str, size: ImageSize, *, data_dir: str = "", limit: int = 0) -> Source:
    """The examples of a prepared data set's split; small sets are decoded once, into memory.

    `name` and `split` are as TFDS takes them ("cifar10", "imagenet_resized/64x64",
    "train[:40000]"). `data_dir` is where TFDS keeps its data; "" is the environment's
    TFDS_DATA_DIR, or ~/tensorflow_datasets. Nothing is ever downloaded: preparing a set needs
    TensorFlow, reading it does not.

    Of a set of videos (moving_mnist) or of episodes (rlu_dmlab_*) the examples are all their
    frames in order, `tfds_frames.Frames`; `split` counts videos or episodes, `limit` frames.

    Raises:
        UserError: unknown name or split, a set not prepared or prepared in another format, no
            image in it.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    if {"image_sequence", "steps"} & set(features):
        return _frames(builder, name, split, size, data_dir=data_dir, limit=limit)
    if "image" not in features or len(features["image"].shape) != 3:
        raise UserError(f"tfds:{name}: no feature 'image' among {sorted(features)}")
    examples = _examples(builder, name, split, data_dir)
    import tensorflow_datasets as tfds

    labelled = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
    if features["image"].np_dtype != np.uint8:
        raise UserError(f"tfds:{name}: images are {features['image'].np_dtype}; uint8 expected")
    count = min(limit, len(examples)) if limit else len(examples)
    source = _OnDisk(examples, count, labelled=labelled, size=size, name=f"tfds:{name}")
    shape = features["image"].shape
    small = None not in shape and count * np.prod(shape) < SMALL
    return source.decoded() if small and count else source


def chosen(
    name: str, used: Mapping[str, Collection[int]], *, data_dir: str = ""
) -> dict[str, np.ndarray]:
    """The examples of the split "train" whose labels have certain values.

    The others are read, but their images are not decoded: about a tenth of a millisecond each.

    Args:
        name: of the prepared data set, as `load` takes it.
        used: feature to the values that it may have.
        data_dir: as in `load`.

    Returns:
        "image" `[n, height, width, channels]` and those features, int `[n]`.

    Raises:
        UserError: as `load`, or the set has no such features.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    if missing := {"image", *used} - set(features):
        raise UserError(f"tfds:{name}: no {sorted(missing)} among {sorted(features)}")
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = _examples(builder, name, "train", data_dir, decoders=decoders)
    found: dict[str, list] = {"image": [], **{feature: [] for feature in used}}
    for start in range(0, len(examples), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(examples)))
        for raw in examples.__getitems__(list(rows)):
            if all(int(raw[feature]) in values for feature, values in used.items()):
                found["image"].append(features["image"].decode_example_np(raw["image"]))
                for feature in used:
                    found[feature].append(int(raw[feature]))
    return {feature: np.array(values) for feature, values in found.items()}


def waveforms(name: str, *, data_dir: str = "") -> tuple[list[np.ndarray], list[str], int]:
    """Every recording of the split "train" of a set such as spoken_digit.

    Returns:
        Waveforms, int16 `[samples]` each, the names of their files, and samples a second.

    Raises:
        UserError: as `load`, or the set has no features "audio" and "audio/filename".
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    if missing := {"audio", "audio/filename"} - set(features):
        raise UserError(f"tfds:{name}: no {sorted(missing)} among {sorted(features)}")
    examples = _examples(builder, name, "train", data_dir)
    found = [examples[i] for i in range(len(examples))]
    names = [bytes(example["audio/filename"]).decode() for example in found]
    rate = int(features["audio"].sample_rate)
    return [np.asarray(example["audio"], np.int16) for example in found], names, rate


def _prepared(name: str, data_dir: str) -> Any:
    """The builder of a prepared set; raises UserError where there is none."""
    _quieten_absl()
    import tensorflow_datasets as tfds

    try:
        known = _moving_mnist() if name == "moving_mnist" else functools.partial(tfds.builder, name)
        builder = known(data_dir=_folder(data_dir))
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"tfds:{name}: TFDS knows no data set of this name; "
            "see https://www.tensorflow.org/datasets/catalog/overview"
        ) from error
    except (ValueError, AssertionError) as error:  # a version or a configuration that is not there
        raise UserError(f"tfds:{name}: {_one_line(error)}") from error
    except ImportError as error:
        raise UserError(f"tfds:{name}: {_one_line(error)}; {_prepare(name, data_dir)}") from error
    if not builder.is_prepared():
        raise UserError(
            f"tfds:{name}: nothing prepared in {builder.data_dir}; prepare it: "
            f"{_prepare(name, data_dir)}"
        )
    return builder


@functools.cache
def _moving_mnist() -> Any:
    """A builder that reads what TFDS's own of that name prepared; that one imports TensorFlow."""
    import tensorflow_datasets as tfds

    class MovingMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "moving_mnist"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            image = tfds.features.Image(shape=(64, 64, 1))
            # A video is stored as a sequence of images.
            features = tfds.features.FeaturesDict(
                {"image_sequence": tfds.features.Sequence(image, length=20)}
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, *_: Any) -> Any:
            raise TypeError("reads what TFDS prepared; prepare with TFDS itself")

        _generate_examples = _split_generators

    return MovingMnist


def _folder(data_dir: str) -> str | None:
    # Read here and not by TFDS, which looks at the environment only while it is imported.
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "")) or None


def _prepare(name: str, data_dir: str) -> str:
    """How to prepare a set, in words."""
    folder = _folder(data_dir)
    return f"pip install 'bottlenecks[tfds]', then tfds build {name} --file_format=array_record" + (
        f" --data_dir={folder}" if folder else ""
    )


def _examples(builder: Any, name: str, split: str, data_dir: str, **options: Any) -> Source:
    """A split's examples as TFDS gives them; raises UserError where it cannot be read."""
    splits = builder.info.splits
    found = ", ".join(f"{each} ({splits[each].num_examples} examples)" for each in splits)
    try:
        return builder.as_data_source(split=split, **options)
    except ValueError as error:
        raise UserError(
            f"tfds:{name}: split {split!r} cannot be read ({_one_line(error)}); found {found}"
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"tfds:{name}: {builder.data_dir} holds {builder.info.file_format.value} files, "
            f"array_record expected; remove it, then {_prepare(name, data_dir)}"
        ) from error


class _OnDisk:
    """Examples decoded at each access."""

    def __init__(
        self, examples: Source, count: int, *, labelled: bool, size: ImageSize, name: str
    ) -> None:
        self.examples = examples
        self.count = count
        self.labelled = labelled
        self.size = size
        self.name = name

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        example = self._example(self.examples[index])
        self.size.check(example["image"].shape, f"{self.name}, example {index}")
        return example

    def _example(self, raw: dict) -> Example:
        label = {"label": np.int32(raw["label"])} if self.labelled else {}
        return {"image": raw["image"]} | label

    def decoded(self) -> InMemory:
        """All examples in memory: a decoder's 0.15 ms an example is paid once, not every epoch."""
        self.size.check(self[0]["image"].shape, self.name)
        count = len(self)
        arrays = {
            key: np.empty((count, *np.shape(value)), value.dtype) for key, value in self[0].items()
        }

        def decode(start: int) -> None:
            rows = range(start, min(start + _CHUNK, count))
            for row, raw in zip(rows, self.examples.__getitems__(list(rows)), strict=True):
                for key, value in self._example(raw).items():
                    arrays[key][row] = value

        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(decode, range(0, count, _CHUNK)))
        return InMemory(arrays)


def _frames(
    builder: Any, name: str, split: str, size: ImageSize, *, data_dir: str, limit: int
) -> tfds_frames.Frames:
    """The frames of videos or episodes."""
    if size.crop != "none":
        raise UserError(
            f"tfds:{name}: data.crop is {size.crop!r}, but frames are scaled whole: set "
            "data.crop='none'"
        )
    image, decoders = tfds_frames.described(builder.info.features, name)
    size._replace(crop="resize").check(image.shape, f"tfds:{name}")
    episodes = _examples(builder, name, split, data_dir, decoders=decoders)
    if not limit:
        _check_frames_fit(builder, name, split, len(episodes))
    log.info("reading %d episodes of tfds:%s", len(episodes), name)
    return tfds_frames.read(episodes, image, size.shape[:2], limit=limit)


def _check_frames_fit(builder: Any, name: str, split: str, episodes: int) -> None:
    """Refuses a split whose episodes are too large to be held in memory."""
    whole = builder.info.splits[re.match(r"\w+", split)[0]]
    each = whole.num_bytes / max(whole.num_examples, 1)
    if each * episodes > FRAMES_SIZE:
        fit = int(FRAMES_SIZE // each)
        raise UserError(
            f"tfds:{name}: {split!r} has {episodes} episodes, {each * episodes / 2**30:.0f} GiB; "
            f"{FRAMES_SIZE / 2**30:.0f} GiB are held in memory at most: ask for some {fit}, as in "
            f"'train[:{fit}]'"
        )


def _one_line(error: Exception) -> str:
    """An error's message up to the first line break, without its final stop."""
    return str(error).strip().splitlines()[0].rstrip(".: ")


class _Quiet(logging.Filter):
    """Drops two warnings of TFDS: that Pillow decodes, and what our own error says better."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (
            message.startswith("OpenCV is not installed")
            or (message.startswith("Variant folder") and "dataset_info.json" in message)
        )


_quiet = _Quiet()


def _quieten_absl() -> None:
    logging.getLogger("absl").addFilter(_quiet)  # adding it again does nothing
