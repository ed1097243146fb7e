"""Sources that need no files of the user's, and the splits of all of them."""

import ml_collections
import numpy as np
import pytest
from PIL import Image

from train.data import Batches, InMemory, load_source, make_transform, photos
from train.errors import UserError


def config(**changes):
    data = {
        "source": "digits",
        "data_dir": "",
        "train": "train",
        "test": "test",
        "holdout": 0.2,
        "split_seed": 0,
        "image_shape": (8, 8, 1),
        "crop": "none",
        "flip": False,
        "binarise": "",
        "limit": 0,
    }
    return data | changes


def error_of(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def numbered(path, count):
    """An array file in which image i is filled with i: every example tells its place."""
    image = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 2, 2))
    np.save(path, image)
    return config(source=f"array:{path}", image_shape=(2, 2, 1))


def which(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_digits_are_sixteenths_with_labels():
    train, test = (load_source(config(), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    example = train[0]
    assert example["image"].shape == (8, 8, 1)
    assert example["image"].dtype == np.float32
    assert example["label"].dtype == np.int32
    values = np.unique(train[np.arange(len(train))]["image"])
    np.testing.assert_array_equal(values, np.arange(17) / 16)


def test_a_config_dict_serves_as_the_mapping():
    data = ml_collections.ConfigDict(config())
    assert len(load_source(data, "test")) == 359
    assert make_transform(data, "train") is None


def test_a_holdout_cuts_the_set_in_two(tmp_path):
    data = numbered(tmp_path / "a.npy", 100)
    train, test = (which(load_source(data, split)) for split in ("train", "test"))
    assert len(test) == 20
    assert sorted(train + test) == list(range(100))
    assert test == which(load_source(data, "test"))
    assert test != which(load_source(data | {"split_seed": 1}, "test"))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("train", range(100)),
        ("train[:40]", range(40)),
        ("train[40:]", range(40, 100)),
        ("train[10:20]", range(10, 20)),
        ("train[:80%]", range(80)),
        ("train[80%:]", range(80, 100)),
        ("train[-5:]", range(95, 100)),
        ("train[-5%:]", range(95, 100)),
        ("train[:3]+train[98:]", [0, 1, 2, 98, 99]),
    ],
)
def test_split_expressions(tmp_path, expression, expected):
    data = numbered(tmp_path / "a.npy", 100) | {"train": expression, "holdout": 0.0}
    assert which(load_source(data, "train")) == list(expected)


def test_slices_apply_after_the_holdout_and_the_limit_after_them(tmp_path):
    data = numbered(tmp_path / "a.npy", 100)
    train = which(load_source(data, "train"))
    later = data | {"train": "train[10:]", "limit": 7}
    assert which(load_source(later, "train")) == train[10:17]
    assert len(load_source(data | {"limit": 1000}, "train")) == 80


@pytest.mark.parametrize(
    ("changes", "split", "parts"),
    [
        ({"source": "digit"}, "train", ["'digit'", "'digits'", "'folder:PATH'"]),
        ({"source": "array:"}, "train", ["'array:'", "'array:PATH'"]),
        ({"source": "digits:8"}, "train", ["'digits:8'", "'digits'"]),
        ({"holdout": 0.0}, "test", ["'test'", "['train']", "data.holdout=0.1"]),
        ({"holdout": 1.0}, "test", ["1.0", "fraction"]),
        ({"train": "train[1:"}, "train", ["'train[1:'", "train[:40000]"]),
        ({"train": "valid"}, "train", ["'valid'", "['test', 'train']"]),
        ({"train": "train[5000:]"}, "train", ["'train[5000:]'", "1438"]),
        ({"train": "train[:5000]"}, "train", ["'train[:5000]'", "1438"]),
        ({"train": "train[5:5]"}, "train", ["'train[5:5]'"]),
        ({"image_shape": (28, 28, 1)}, "train", ["(8, 8, 1)", "(28, 28, 1)", "resize"]),
        ({"image_shape": (8, 8, 3)}, "train", ["(8, 8, 1)", "(8, 8, 3)", "channels"]),
        ({"image_shape": (9, 8, 1), "crop": "random"}, "train", ["8 x 8", "9 x 8", "resize"]),
        ({"image_shape": (8, 8)}, "train", ["(8, 8)", "(32, 32, 3)"]),
        ({"crop": "centre"}, "train", ["'centre'", "'random'"]),
    ],
)
def test_mistakes_are_told_in_one_line(changes, split, parts):
    message = error_of(load_source, config(**changes), split)
    assert all(part in message for part in parts), message


def photos_config(**changes):
    return config(source="photos", image_shape=(32, 32, 3), crop="random", **changes)


def test_photos_give_colour_crops():
    train, test = (load_source(photos_config(), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1336, 409)
    assert isinstance(test, InMemory)
    assert test[0]["image"].shape == (32, 32, 3)
    transform = make_transform(photos_config(), "train")
    batch = Batches(train, batch_size=16, seed=0, transform=transform)[0]
    assert batch["image"].shape == (16, 32, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert len({image.tobytes() for image in batch["image"]}) == 16
    assert make_transform(photos_config(), "test") is None
    grey = photos_config() | {"image_shape": (32, 32, 1)}
    assert load_source(grey, "test")[0]["image"].shape == (32, 32, 1)


def test_training_and_test_pixels_of_a_photo_are_apart(tmp_path, monkeypatch):
    # A picture whose colours are its coordinates, in place of the photographs.
    (tmp_path / "coordinates").mkdir()
    (tmp_path / "coordinates" / "__init__.py").touch()
    row, column = np.mgrid[:90, :200].astype(np.uint8)
    picture = np.stack([row, column, np.zeros_like(row)], axis=-1)
    Image.fromarray(picture).save(tmp_path / "coordinates" / "photo.png")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(photos, "PHOTOS", (("coordinates", "photo.png"),))

    def pixels(images):
        flat = images.reshape(-1, 3)
        return [(int(r), int(c)) for r, c, _ in flat]

    data = photos_config() | {"image_shape": (16, 16, 3)}
    train, test = (load_source(data, split) for split in ("train", "test"))
    assert len(train) == 90 * 150 // 256
    batches = Batches(train, batch_size=len(train), seed=0, transform=make_transform(data, "train"))
    seen = {p for step in range(20) for p in pixels(batches[step]["image"])}
    shown = pixels(test[np.arange(len(test))]["image"])
    assert len(shown) == len(set(shown)) == len(test) * 256  # the test crops do not overlap
    assert not seen & set(shown)
    assert max(column for _, column in seen) == 149
    assert min(column for _, column in shown) == 150


def test_photos_refuse_what_they_cannot_give():
    no_crop = photos_config() | {"crop": "none"}
    assert "data.crop='random'" in error_of(load_source, no_crop, "train")
    too_large = photos_config() | {"image_shape": (300, 300, 3)}
    assert "(300, 300, 3)" in error_of(load_source, too_large, "train")
    channels = photos_config() | {"image_shape": (32, 32, 4)}
    assert "(32, 32, 4)" in error_of(load_source, channels, "train")


def test_synthetic_images_are_the_same_every_time():
    data = config(source="synthetic", image_shape=(5, 4, 3))
    train, test = (load_source(data, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1024, 256)
    again = load_source(data, "train")
    np.testing.assert_array_equal(train[np.arange(1024)]["image"], again[np.arange(1024)]["image"])
    assert train[0]["image"].shape == (5, 4, 3)
    assert train[0]["image"].dtype == np.uint8
