"""dSprites in loops: which images, which values, what is held out; on a file of the same form."""

import io
import itertools
import os
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from train.data import load_source, make_transform, sprites
from train.data.sprites import SIZES
from train.errors import UserError

FACTORS = ("x", "y", "orientation", "scale")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file whose images say which factors they have, in a random order and with others mixed in.

    Pixel (i, j) of the first row block is bit j of factor i's value.
    """
    used = list(itertools.product(range(3), range(1, 6), *[range(0, 30, 2)] * 3))
    others = [(0, 0, 0, 0, 0), (1, 2, 30, 0, 0), (1, 2, 3, 0, 0), (2, 5, 0, 0, 31)]
    classes = np.array(used + others, np.int16)
    classes = classes[np.random.default_rng(0).permutation(len(classes))]
    images = np.zeros((len(classes), 64, 64), np.uint8)
    images[:, :5, :6] = (classes[:, :, None] >> np.arange(6)) & 1
    place = tmp_path_factory.mktemp("data") / "sprites.npz"
    np.savez_compressed(place, imgs=images, latents_classes=np.insert(classes, 0, 0, axis=1))
    return place


def config(path, **changes):
    data = {"source": f"sequences:{path}", "image_shape": (64, 64, 1), "frames": 15}
    return data | {"transformations": FACTORS, "holdout": 0.1} | changes


@pytest.fixture(scope="module")
def parts(path):
    return {split: load_source(config(path), split) for split in ("train", "test")}


def factors(image):
    """Factors that an image of the file says it has: `[..., 5]`, shape to y, as stored."""
    return ((image[..., :5, :6, 0] // 255) << np.arange(6)).sum(axis=-1)


def starts(part):
    """The factor and the first image of each sequence."""
    return part.source.starts[part.indices]


def loops(part, names=FACTORS):
    """The factor of each sequence and the values of the others."""
    factor, *fixed = starts(part).T
    fixed = np.stack(fixed, axis=1)
    axes = {"x": 3, "y": 4, "orientation": 2, "scale": 1}
    fixed[np.arange(len(fixed)), np.array([axes[name] for name in names])[factor]] = -1
    return np.c_[factor, fixed]


def test_a_sequence_moves_one_factor_round_and_round(parts):
    source = parts["train"]
    for index in np.random.default_rng(0).integers(len(source), size=40):
        example = source[int(index)]
        assert (example["image"].shape, example["image"].dtype) == ((15, 64, 64, 1), np.uint8)
        assert set(np.unique(example["image"])) <= {0, 255}
        found = factors(example["image"].astype(np.int64))
        axis = {"x": 3, "y": 4, "orientation": 2, "scale": 1}[FACTORS[example["factor"]]]
        values = found[:, axis]
        # Scales are 1 .. 5, the rest every second of 0 .. 28.
        position = values - 1 if axis == 1 else values // 2
        np.testing.assert_array_equal(position, example["position"])
        np.testing.assert_array_equal(np.diff(position) % SIZES[axis], 1)
        assert (np.delete(found, axis, axis=1) == np.delete(found[0], axis)).all()
        assert example["label"] == found[0, 0]
    assert make_transform(config("x.npz"), "train") is None


def test_every_image_starts_a_sequence_of_each_factor(parts):
    found = np.concatenate([starts(part) for part in parts.values()])
    assert len(found) == 4 * 50_625
    assert len(np.unique(found, axis=0)) == len(found)


def test_no_loop_is_in_both_splits(parts):
    train, test = (np.unique(loops(parts[split]), axis=0) for split in ("train", "test"))
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == len(train) + len(test)
    assert len(train) + len(test) == 3 * 3375 + 10_125
    counts = np.bincount(starts(parts["test"])[:, 0]) / 50_625
    np.testing.assert_allclose(counts, 0.1, atol=0.001)  # of each factor alike
    # The first are a fair sample.
    first = starts(parts["test"])[:2000]
    assert (np.bincount(first[:, 0]) > 400).all()
    assert (np.bincount(first[:, 1]) > 550).all()


def test_test_sequences_may_move_otherwise(path, parts):
    others = config(path, test_transformations=("orientation", "x"))
    np.testing.assert_array_equal(starts(load_source(others, "train")), starts(parts["train"]))
    test = load_source(others, "test")
    assert test[0]["factor"] in (0, 1)
    # The loops held out are the same ones, whatever else moves.
    found, expected = loops(test, ("orientation", "x")), loops(parts["test"])
    for number, name in enumerate(("orientation", "x")):
        mine = np.unique(found[found[:, 0] == number, 1:], axis=0)
        theirs = np.unique(expected[expected[:, 0] == FACTORS.index(name), 1:], axis=0)
        np.testing.assert_array_equal(mine, theirs)


def test_the_split_is_the_same_every_time(path, parts):
    expected = starts(parts["test"])
    np.testing.assert_array_equal(starts(load_source(config(path), "test")), expected)
    other = starts(load_source(config(path, split_seed=1), "test"))
    assert (other != expected).any()


def test_what_cannot_be_is_told(path, tmp_path):
    for changes, message in (
        ({"source": "sequences:absent.npz"}, "absent.npz: no such file"),
        ({"image_shape": (32, 32, 1)}, r"set data.image_shape=\(64, 64, 1\)"),
        ({"transformations": ("x", "shape")}, r"\['shape'\] in it; expected some of x, y"),
        ({"holdout": 1.0}, "data.holdout is 1.0"),
        ({"holdout": 0.0}, "data.holdout=0.1 would set"),
    ):
        with pytest.raises(UserError, match=message):
            load_source(config(path, **changes), "test")
    broken = tmp_path / "broken.npz"
    np.savez(broken, imgs=np.zeros((4, 64, 64), np.uint8))
    with pytest.raises(UserError, match="'imgs' and 'latents_classes'"):
        load_source(config(broken), "train")
    np.savez(broken, imgs=np.zeros((4, 64, 64), np.uint8), latents_classes=np.zeros((4, 6), int))
    with pytest.raises(UserError, match="expected each of 50625 once"):
        load_source(config(broken), "train")


# ---------------------------------------------------------------- dSprites of TFDS


class Rows(list):
    """Examples as TFDS's data sources give them."""

    def __getitems__(self, keys):
        return [self[key] for key in keys]


class Prepared:
    """The builder of dSprites with some examples: labels, and images in PNG."""

    def __init__(self, classes, images):
        values = {"shape": 3, "scale": 6, "orientation": 40, "x_position": 32, "y_position": 32}
        labels = {f"label_{k}": tfds.features.ClassLabel(num_classes=n) for k, n in values.items()}
        image = tfds.features.Image(shape=(64, 64, 1))
        features = tfds.features.FeaturesDict({"image": image, **labels})
        self.info = types.SimpleNamespace(features=features, splits={})
        self.rows = Rows(
            {"image": png(image), **dict(zip(labels, row, strict=True))}
            for row, image in zip(classes, images, strict=True)
        )

    def is_prepared(self):
        return True

    def as_data_source(self, split, decoders):
        assert split == "train"
        assert isinstance(decoders["image"], tfds.decode.SkipDecoding)
        return self.rows


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def few(monkeypatch):
    """36 images are used; classes and images of these and of others, in a random order."""
    used = {
        "shape": range(2),
        "scale": range(1, 4),
        "orientation": (0, 2),
        "x": (0, 2, 4),
        "y": (0,),
    }
    monkeypatch.setattr(sprites, "USED", used)
    monkeypatch.setattr(sprites, "SIZES", (2, 3, 2, 3, 1))
    sprites._from_tfds.cache_clear()
    rows = [*itertools.product(*used.values()), (0, 0, 0, 0, 0), (1, 1, 1, 0, 0), (2, 1, 0, 0, 0)]
    classes = np.random.default_rng(0).permutation(rows)
    images = np.zeros((len(classes), 64, 64), np.uint8)
    images[:, :5, :6] = (classes[:, :, None] >> np.arange(6)) & 1
    yield classes, images
    sprites._from_tfds.cache_clear()


def test_the_sprites_of_tfds_are_those_of_a_file(few, tmp_path, monkeypatch):
    classes, images = few
    np.savez(tmp_path / "few.npz", imgs=images, latents_classes=np.insert(classes, 0, 0, axis=1))
    asked = []

    def builder(name, data_dir):
        asked.append((name, data_dir))
        return Prepared(classes, images)

    monkeypatch.setattr(tfds, "builder", builder)
    options = {"holdout": 0.5, "seed": 0, "data_dir": "/data"}
    for _ in range(2):
        found = sprites.load("dsprites", ("x", "scale"), 4, **options)
    assert asked == [("dsprites", "/data")]  # read once
    expected = sprites.load(str(tmp_path / "few.npz"), ("x", "scale"), 4, **options)
    for split, part in expected.items():
        np.testing.assert_array_equal(found[split].images, part.images)
        np.testing.assert_array_equal(found[split].starts, part.starts)
    assert found["train"].images.shape == (2, 3, 2, 3, 1, 64, 64)
    example = found["test"][0]
    assert set(np.unique(example["image"])) == {0, 255}
    assert len(np.unique(factors(example["image"].astype(np.int64)), axis=0)) == 3
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: Prepared(classes[3:], images[3:]))
    with pytest.raises(UserError, match=r"tfds:dsprites: 3\d images have the factors"):
        sprites.load("dsprites", ("x",), 4, holdout=0.5, seed=0)


def test_sprites_that_tfds_has_not_prepared(tmp_path):
    data = config("dsprites", data_dir=str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_source(data, "train")
    way_out = f"tfds build dsprites --file_format=array_record --data_dir={tmp_path}"
    assert str(caught.value).endswith(way_out)


def test_the_re_rendered_sprites():
    data = os.environ.get("BOTTLENECKS_DATA", "")
    path = Path(data) / "dsprites_rerendered" / "topographic_subset.npz"
    if not data or not path.is_file():
        pytest.skip("BOTTLENECKS_DATA names no folder with dsprites_rerendered in it")
    example = load_source(config(path), "test")[0]
    assert set(np.unique(example["image"])) == {0, 255}
    assert 50 < np.count_nonzero(example["image"][0]) < 1500
