"""Crop, resize, flip, binarise and noise, one at a time; statistics of what comes out."""

import numpy as np
import pytest

from train.data import EvaluationBatches, InMemory, data_statistics, make_transform
from train.errors import UserError


def config(**changes):
    data = {"source": "digits", "image_shape": (4, 4, 1), "crop": "none", "flip": False}
    return data | {"binarise": "", "noise": 0.0} | changes


def apply(data, split, image, seed=0):
    transform = make_transform(data, split)
    return transform({"image": image, "label": np.int32(3)}, np.random.default_rng(seed))


def coordinates(height, width):
    return (np.arange(height)[:, None] * 16 + np.arange(width)).astype(np.uint8)[..., None]


def test_nothing_to_do_is_no_transform():
    assert make_transform(config(), "train") is None
    assert make_transform(config(flip=True), "test") is None
    assert make_transform(config(flip=True), "train") is not None


def test_crops_are_random_in_training_and_central_in_test():
    data, image = config(crop="random"), coordinates(6, 9)
    corners = {int(apply(data, "train", image, seed)["image"][0, 0, 0]) for seed in range(300)}
    assert corners == {16 * top + left for top in range(3) for left in range(6)}
    out = apply(data, "test", image)
    np.testing.assert_array_equal(out["image"], image[1:5, 2:6])
    assert out["label"] == 3


def test_resizing_covers_and_then_crops():
    data = config(crop="resize", image_shape=(8, 4, 3))
    bright = np.full((20, 30, 3), 200, np.uint8)
    out = apply(data, "train", bright)["image"]
    assert out.shape == (8, 4, 3)
    assert out.dtype == np.uint8
    assert (out == 200).all()
    # A left-to-right ramp of height 8 and width 16 after scaling: the middle 4 columns.
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], 32, axis=0)
    out = apply(config(crop="resize", image_shape=(8, 4, 1)), "test", ramp)["image"]
    assert out.dtype == np.float32
    expected = (np.arange(6, 10) + 0.5) / 16 * 64 / 63 - 0.5 / 63
    np.testing.assert_allclose(out[3, :, 0], expected, atol=0.01)
    assert out.min() >= 0
    assert out.max() <= 1


def test_flips_are_fair_and_for_training_only():
    data, image = config(flip=True), coordinates(4, 4)
    flipped = [(apply(data, "train", image, s)["image"] != image).any() for s in range(400)]
    assert 160 < sum(flipped) < 240
    mirrored = apply(data, "train", image, flipped.index(True))["image"]
    np.testing.assert_array_equal(mirrored, image[:, ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_binarising_draws_with_the_images_mean(dtype):
    data = config(binarise="stochastic", image_shape=(200, 200, 1))
    for level in (0, 51, 255):
        value = level if dtype == np.uint8 else level / 255
        out = apply(data, "train", np.full((200, 200, 1), value, dtype))["image"]
        assert out.dtype == np.float32
        assert set(np.unique(out)) <= {0.0, 1.0}
        np.testing.assert_allclose(out.mean(), level / 255, atol=0.01)  # 5 sigma
        if level in (0, 255):
            assert (out == level / 255).all()


def test_binarised_test_images_are_the_same_every_time():
    images = np.random.default_rng(0).random((7, 4, 4, 1), np.float32)
    transform = make_transform(config(binarise="stochastic"), "test")
    source = InMemory({"image": images})
    small, large = (EvaluationBatches(source, batch_size=n, transform=transform) for n in (2, 7))
    pieces = np.concatenate([batch["image"] for batch in small])[:7]
    np.testing.assert_array_equal(pieces, large[0]["image"])
    assert len({image.tobytes() for image in pieces}) == 7


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_noise_is_for_training_only_and_stays_in_range(dtype):
    data = config(noise=0.01, image_shape=(200, 200, 1))
    assert make_transform(data, "test") is None
    for level in (0, 102, 255):
        value = level if dtype == np.uint8 else np.float32(level / 255)
        out = apply(data, "train", np.full((200, 200, 1), value, dtype))["image"]
        assert out.dtype == np.float32
        if level == 102:
            np.testing.assert_allclose(out.mean(), 0.4, atol=3e-4)  # 6 sigma
            np.testing.assert_allclose(out.std(), 0.01, rtol=0.02)
        else:  # half of it is cut off: E max(n, 0) = sd / sqrt(2 pi)
            np.testing.assert_allclose(abs(out.mean() - level / 255), 0.003989, rtol=0.03)
            assert out.min() >= 0
            assert out.max() <= 1


def test_wrong_options_and_wrong_shapes_are_told():
    for changes, part in [({"binarise": "fixed"}, "'fixed'"), ({"crop": "left"}, "'left'")]:
        with pytest.raises(UserError, match=part):
            make_transform(config(**changes), "train")
    with pytest.raises(UserError, match=r"\(4, 5, 1\).*\(4, 4, 1\)"):
        apply(config(flip=True), "train", coordinates(4, 5))
    with pytest.raises(UserError, match="3 x 9"):
        apply(config(crop="random"), "train", coordinates(3, 9))


def test_statistics_are_those_of_all_sub_pixels():
    images = np.random.default_rng(0).integers(0, 256, (1000, 4, 4, 3), dtype=np.uint8)
    found = data_statistics(InMemory({"image": images}), None)
    unit = images / 255
    assert found.mean_image.dtype == np.float64
    np.testing.assert_allclose(found.mean_image, unit.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, unit.var(), rtol=1e-12)
    floating = data_statistics(InMemory({"image": unit.astype(np.float32)}), None)
    np.testing.assert_allclose(floating.variance, unit.var(), rtol=1e-6)


def test_statistics_of_some_are_evenly_spaced_and_repeatable():
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 1), np.uint8)
    transform = make_transform(config(flip=True), "train")
    source = InMemory({"image": images})
    some = data_statistics(source, transform, examples=4)
    np.testing.assert_allclose(some.mean_image, np.full((4, 4, 1), 49.5 / 255), rtol=1e-12)
    binary = make_transform(config(binarise="stochastic"), "train")
    first, second = (data_statistics(source, binary) for _ in range(2))
    np.testing.assert_array_equal(first.mean_image, second.mean_image)
