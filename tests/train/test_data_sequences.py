"""Transforming digits: warps and hues by loops and known cases; what moves, what is held out."""

import colorsys

import numpy as np
import pytest

from train.data import Batches, data_statistics, load_source, make_transform
from train.data.sequences import (
    ANGLES,
    HUES,
    SCALES,
    Renderer,
    bilinear_taps,
    hue_colours,
    perspective_matrix,
    rotation_matrix,
)
from train.errors import UserError

DIGITS = {
    "source": "sequences:digits",
    "image_shape": (16, 16, 3),
    "frames": 18,
    "transformations": ("rotation", "scale", "hue"),
    "holdout": 0.2,
}


def warp(image, matrix):
    """An image `[height, width]` warped by the taps of one matrix."""
    pixel, weight = bilinear_taps(matrix, height=image.shape[0], width=image.shape[1])
    return (image.reshape(-1)[pixel] * weight).sum(0).reshape(image.shape)


def noise(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def test_half_a_turn_takes_pixel_i_to_28_minus_i():
    image = noise(28, 28)
    turned = warp(image, rotation_matrix(180, 1, height=28, width=28))
    np.testing.assert_allclose(turned[1:, 1:], image[:0:-1, :0:-1], atol=1e-6)
    assert (turned[0] == 0).all()
    assert (turned[:, 0] == 0).all()


def test_a_quarter_turn_is_counter_clockwise():
    image = np.zeros((28, 28), np.float32)
    image[14, 20] = 1  # right of the middle
    turned = warp(image, rotation_matrix(90, 1, height=28, width=28))
    assert np.unravel_index(turned.argmax(), turned.shape) == (8, 14)  # above it


def test_warps_are_those_of_a_loop():
    image = noise(7, 9)
    for matrix in (
        rotation_matrix(20, 1.26, height=7, width=9),
        rotation_matrix(200, 0.6, height=7, width=9),
        perspective_matrix(40, height=7, width=9),
    ):
        expected, inverse = np.zeros((7, 9)), np.linalg.inv(matrix)
        for y in range(7):
            for x in range(9):
                u, v, w = inverse @ (x, y, 1)
                u, v = u / w, v / w
                for row in range(7):
                    for column in range(9):
                        near = max(0, 1 - abs(u - column)) * max(0, 1 - abs(v - row))
                        expected[y, x] += near * image[row, column]
        np.testing.assert_allclose(warp(image, matrix), expected, atol=1e-5)


def test_perspective_of_a_point_by_hand():
    size = {"height": 28, "width": 20}
    np.testing.assert_array_equal(perspective_matrix(0, **size), np.eye(3))
    for angle in (20, 180, 340):
        cos, sin = (f(np.radians(181 if angle == 180 else angle)) for f in (np.cos, np.sin))
        focal = np.sqrt(28**2 + 20**2) / (2 * sin)
        x, y, z = 3 - 10, 25 - 14, 1  # the image's plane is at 1
        x, y = cos * x - sin * y, sin * x + cos * y  # about z
        x, z = cos * x - sin * z, sin * x + cos * z  # about y
        expected = focal * x / (z + focal) + 10, focal * y / (z + focal) + 14
        u, v, w = perspective_matrix(angle, **size) @ (3, 25, 1)
        np.testing.assert_allclose((u / w, v / w), expected, rtol=1e-9)


def test_hues_are_those_of_hsv():
    assert len(HUES) == len(ANGLES) == len(SCALES) == 18
    assert sorted(SCALES) == list(SCALES)
    assert (SCALES[0], SCALES[-1], SCALES[13]) == (0.6, 1.26, 1.11)
    for hue, colour in zip(HUES, hue_colours(), strict=True):
        np.testing.assert_allclose(colour, colorsys.hsv_to_rgb(hue / 360 % 1, 1, 1), atol=1e-6)


def test_frames_are_warped_and_then_coloured():
    draw = Renderer(16, 16, perspective=False)
    digit = (255 * noise(16, 16, 1)).astype(np.uint8)
    angle, scale, hue = 4, 15, np.array([9, 12])
    frames = draw(digit, np.full(2, angle * 19 + scale), hue)
    assert frames.dtype == np.uint8
    matrix = rotation_matrix(ANGLES[angle], SCALES[scale], height=16, width=16)
    grey = warp(digit[..., 0].astype(np.float32), matrix)
    expected = [grey[..., None] * np.array(rgb) for rgb in ((1, 0, 0), (1, 1, 0))]  # red, yellow
    np.testing.assert_allclose(frames, expected, atol=0.501)
    still = draw(digit, np.array([18, 18]), np.array([9, 9]))
    np.testing.assert_array_equal(still[0, ..., 0], digit[..., 0])  # upright, of its own size


@pytest.fixture(scope="module")
def moving():
    """200 sequences of one digit, a smooth spot beside the middle, by the config's transform."""
    transform = make_transform(DIGITS, "train")
    y, x = np.mgrid[:16, :16]
    digit = (200 * np.exp(-((x - 9.5) ** 2 + (y - 6.5) ** 2) / 8)).astype(np.uint8)
    example = {"image": digit[..., None], "label": np.int32(4)}
    return [transform(example, np.random.default_rng(seed)) for seed in range(200)]


def test_one_attribute_moves_and_the_others_are_held(moving):
    counts = np.bincount([example["factor"] for example in moving])
    assert counts.shape == (3,)
    assert (counts > 45).all()
    starts = [set(), set(), set()]
    for example in moving:
        image = example["image"]
        assert image.shape == (18, 16, 16, 3)
        assert (example["label"], example["position"].dtype) == (4, np.int32)
        starts[example["factor"]].add(int(example["position"][0]))
        np.testing.assert_array_equal(np.diff(example["position"]) % 18, 1)
        colour = image.max(axis=(1, 2)).astype(float)
        hue = [colorsys.rgb_to_hsv(*c)[0] for c in colour]
        grey = image.max(axis=-1).astype(float)
        mass = grey.sum(axis=(1, 2))
        if example["factor"] == 2:
            found = np.mod(np.round(np.array(hue) * 18), 18)
            np.testing.assert_array_equal(found, (example["position"] - 9) % 18)
            assert (grey == grey[0]).all()
            continue
        np.testing.assert_allclose(np.exp(2j * np.pi * np.array(hue)).std(), 0, atol=0.05)
        if example["factor"] == 0:
            assert mass.max() < 1.25 * mass.min()
            y, x = np.mgrid[:16, :16] - 8
            away = [np.angle((g * (x - 1j * y)).sum()) for g in grey]
            turned = np.mod(np.degrees(away - away[0]) / 20 + 0.5, 18) // 1
            np.testing.assert_array_equal(turned, np.arange(18))
        else:
            assert mass.argmin() == example["position"].tolist().index(0)
            assert mass[example["position"] == 17] > 3.5 * mass.min()  # (1.26 / 0.6)^2 is 4.4
    assert all(len(seen) > 14 for seen in starts)


def test_attributes_that_move_together():
    data = DIGITS | {"transformations": ("rotation+hue", "hue+perspective")}
    transform = make_transform(data, "train")
    digit = {"image": np.zeros((16, 16, 1), np.uint8)}
    digit["image"][3:13, 8] = 100  # something of it stays in sight
    digit["image"][3:8, 8] = 200
    y, x = np.mgrid[:16, :16] - 8
    seen = {0: [], 1: []}
    for seed in range(40):
        example = transform(digit, np.random.default_rng(seed))
        image = example["image"]
        hue = [colorsys.rgb_to_hsv(*c.astype(float))[0] for c in image.max(axis=(1, 2))]
        start = round(hue[0] * 18 + 9) % 18
        seen[int(example["factor"])].append((example["position"][0], start))
        if example["factor"] == 0:
            grey = image.max(axis=-1).astype(float)
            away = np.angle([(g * (x - 1j * y)).sum() for g in grey]) - np.pi / 2
            turned = np.mod(np.round(np.degrees(away) / 20), 18)
            np.testing.assert_array_equal(turned, example["position"])
    rotation, hue = np.array(seen[0]).T
    assert (rotation != hue).mean() > 0.5  # each from a start of its own
    position, hue = np.array(seen[1]).T
    np.testing.assert_array_equal(position, hue)  # that of the one named first


def test_test_sequences_may_move_otherwise():
    data = DIGITS | {"test_transformations": ("rotation+hue",)}
    digit = {"image": np.full((16, 16, 1), 200, np.uint8)}
    for seed in range(3):
        test, train = (
            make_transform(data, split)(digit, np.random.default_rng(seed))
            for split in ("test", "train")
        )
        colours = [len(np.unique(example["image"][:, 8, 8], axis=0)) for example in (test, train)]
        assert colours == [18, 18 if train["factor"] == 2 else 1]
        assert test["factor"] == 0
        expected = make_transform(DIGITS, "test")(digit, np.random.default_rng(seed))
        np.testing.assert_array_equal(train["image"], expected["image"])
    with pytest.raises(UserError, match=r"of test sequences are \('shear',\); expected some"):
        make_transform(data | {"test_transformations": ("shear",)}, "test")


def test_no_digit_is_in_both_splits():
    train, test = (load_source(DIGITS, split) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert not set(train.rows) & set(test.rows)
    image = test[0]["image"]
    assert (image.shape, image.dtype) == ((16, 16, 1), np.uint8)
    border = np.ones((16, 16), bool)
    border[2:14, 2:14] = False
    assert (train.arrays["image"][:, border] == 0).all()


def test_batches_depend_on_seed_and_step_alone():
    source, transform = load_source(DIGITS, "train"), make_transform(DIGITS, "train")
    first = Batches(source, batch_size=4, seed=1, transform=transform)
    batches = [first[step] for step in range(3)]
    again = Batches(source, batch_size=4, seed=1, transform=make_transform(DIGITS, "train"))
    for step in (2, 0):
        for name, array in again[step].items():
            np.testing.assert_array_equal(array, batches[step][name])
    assert batches[0]["image"].shape == (4, 18, 16, 16, 3)
    assert {n: a.shape for n, a in batches[0].items() if n != "image"} == {
        "label": (4,),
        "factor": (4,),
        "position": (4, 18),
    }


def test_statistics_count_every_frame():
    source, transform = load_source(DIGITS, "test"), make_transform(DIGITS, "test")
    found = data_statistics(source, transform, examples=8)
    assert found.mean_image.shape == (16, 16, 3)
    assert 0.01 < found.variance < 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "data.frames is 0; sequences have frames"),
        ({"source": "digits"}, "single images have data.frames=0"),
        ({"source": "sequences:"}, "expected 'digits'"),
        ({"image_shape": (16, 16, 1)}, r"in colour: set it to \(16, 16, 3\)"),
        ({"transformations": ()}, r"expected some of rotation, scale, hue, perspective"),
        ({"transformations": ("hue", "shear")}, "shear"),
        ({"transformations": ("scale+perspective",)}, "perspective goes alone, or with hue"),
        ({"crop": "random"}, "nothing of this is done to sequences"),
    ],
)
def test_what_cannot_be_is_told(changes, message):
    data = DIGITS | changes
    with pytest.raises(UserError, match=message):
        load_source(data, "train"), make_transform(data, "train")
