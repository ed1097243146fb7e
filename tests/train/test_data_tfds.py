"""TFDS sets prepared as array_record, where they are at hand, and what is told where not."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from train.data import InMemory, data_statistics, load_source, tfds_source
from train.errors import UserError

_BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "tfds"
DATA_DIR = os.environ.get("TFDS_DATA_DIR") or (str(_BESIDE) if _BESIDE.is_dir() else "")


def config(name, **changes):
    data = {"source": f"tfds:{name}", "data_dir": DATA_DIR, "image_shape": (32, 32, 3)}
    return data | changes


def needs(name):
    prepared = DATA_DIR and (Path(DATA_DIR) / name).is_dir()
    return pytest.mark.skipif(
        not prepared, reason=f"no {name} in TFDS_DATA_DIR: prepare it by tfds build"
    )


def error_of(data, split="train"):
    with pytest.raises(UserError) as caught:
        load_source(data, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


@needs("cifar10")
def test_cifar10_has_the_published_variance():
    before = "tensorflow" in sys.modules  # other tests may have brought it
    # Sonnet's VQ-VAE example prints the variance of its 40,000 training images. They are the first
    # of tfds.load(split="train+test"), which reads both files in turns, 16 examples each: all of
    # the test set is among them.
    source = load_source(config("cifar10", train="train[:30000]+test"), "train")
    assert isinstance(source, InMemory)
    assert len(source) == 40000
    np.testing.assert_allclose(
        data_statistics(source, None).variance, 0.06327039811675479, rtol=1e-11
    )
    assert source[0]["label"].dtype == np.int32
    assert source[0]["image"].shape == (32, 32, 3)
    assert ("tensorflow" in sys.modules) == before


@needs("cifar10")
def test_large_sets_are_read_at_access(monkeypatch):
    data = config("cifar10", train="train[40000:]", limit=600)
    held = load_source(data, "train")
    monkeypatch.setattr(tfds_source, "SMALL", 0)
    read = load_source(data, "train")
    assert not isinstance(read, InMemory)
    assert len(read) == len(held) == 600
    for index in (0, 599):
        for name in ("image", "label"):
            np.testing.assert_array_equal(read[index][name], held[index][name])
    first = load_source(config("cifar10", train="train[:2]"), "train")
    assert (first[0]["image"] != read[0]["image"]).any()


@needs("mnist")
def test_grey_images_keep_their_channel_axis():
    data = config("mnist", image_shape=(28, 28, 1), limit=100)
    source = load_source(data, "test")
    assert source[np.arange(100)]["image"].shape == (100, 28, 28, 1)
    assert source.arrays["image"].max() == 255


@needs("cifar10")
def test_mistakes_in_a_prepared_set_are_told_in_one_line(monkeypatch):
    message = error_of(config("cifar10", train="trian"))
    assert all(part in message for part in ["'trian'", "train (50000", "test (10000"])
    assert "60000" in error_of(config("cifar10", train="train[:60000]"))
    assert "'train['" in error_of(config("cifar10", train="train["))
    message = error_of(config("cifar10", image_shape=(28, 28, 3)))
    assert all(part in message for part in ["tfds:cifar10", "(32, 32, 3)", "(28, 28, 3)"])
    monkeypatch.setattr(tfds_source, "SMALL", 0)
    source = load_source(config("cifar10", image_shape=(64, 64, 3), crop="random"), "train")
    with pytest.raises(UserError, match=r"example 3.*32 x 32.*64 x 64"):
        source[3]


def test_sets_not_prepared_say_how_to_prepare_them(tmp_path, monkeypatch, caplog):
    data = config("cifar10", data_dir=str(tmp_path))
    message = error_of(data)
    way_out = f"tfds build cifar10 --file_format=array_record --data_dir={tmp_path}"
    assert all(part in message for part in [f"{tmp_path}/cifar10", "bottlenecks[tfds]", way_out])
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded or created
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert way_out in error_of(data | {"data_dir": ""})
    assert not caplog.records


def test_unknown_names_are_told(tmp_path):
    data = config("cifar11", data_dir=str(tmp_path))
    assert "cifar11" in error_of(data)
    assert "nonsense" in error_of(config("cifar10/nonsense", data_dir=str(tmp_path)))
    assert "9.9.9" in error_of(config("cifar10:9.9.9", data_dir=str(tmp_path)))
    assert "bad name" in error_of(config("bad name", data_dir=str(tmp_path)))
    assert "'tfds:'" in error_of(config("", data_dir=str(tmp_path)))
