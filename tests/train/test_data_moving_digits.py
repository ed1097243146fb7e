"""Bouncing digits: where they go, how they are drawn, whose digits a split has."""

import math

import numpy as np
import pytest

from train.data import load_source
from train.data.moving_digits import DIGIT, MovingDigits, corners_of
from train.data.sequences import small_digits
from train.data.windows import window_starts
from train.errors import UserError


def config(place="digits/10", **changes):
    return {"source": f"moving:{place}", "image_shape": (64, 64, 1)} | changes


def one_path(y, x, angle):
    """A digit's corners one after another, by the rule in words: step, then mind the walls."""
    v = [0.1 * math.sin(angle), 0.1 * math.cos(angle)]
    place, corners = [y, x], []
    for _ in range(20):
        for axis in (0, 1):
            place[axis] += v[axis]
            if place[axis] <= 0:
                place[axis], v[axis] = 0.0, -v[axis]
            elif place[axis] >= 1:
                place[axis], v[axis] = 1.0, -v[axis]
        corners.append([int(36 * place[0]), int(36 * place[1])])
    return corners


def test_digits_go_straight_and_turn_back_at_walls():
    random = np.random.default_rng(0)
    start, angle = random.random((50, 2, 2)), 2 * np.pi * random.random((50, 2))
    found = corners_of(start, 0.1 * np.stack([np.sin(angle), np.cos(angle)], axis=-1))
    assert found.shape == (50, 20, 2, 2)
    for s in range(50):
        for d in range(2):
            assert found[s, :, d].tolist() == one_path(*start[s, d], angle[s, d])
    # To the right by an eighth, from the middle: at the wall in frame 4, for that frame only.
    right = corners_of(np.array([[0.5, 0.5]]), np.array([[0, 0.125]]))
    assert right[:6, 0].tolist() == [[18, x] for x in (22, 27, 31, 36, 31, 27)]
    assert (found.min(), found.max()) == (0, 36)


def test_a_frame_is_the_larger_of_its_digits():
    random = np.random.default_rng(0)
    digits = random.integers(1, 256, size=(3, DIGIT, DIGIT), dtype=np.uint8)
    corners = np.array([[[[0, 0], [10, 20]], [[36, 36], [0, 36]]]])
    source = MovingDigits(digits, np.array([[2, 1]]), corners)
    assert len(source) == 2
    expected = np.zeros((64, 64), np.uint8)
    expected[:28, :28] = digits[2]
    expected[10:38, 20:48] = np.maximum(expected[10:38, 20:48], digits[1])
    np.testing.assert_array_equal(source[0]["image"][..., 0], expected)
    last = source[1]
    assert (int(last["episode"]), int(last["frame"])) == (0, 1)
    np.testing.assert_array_equal(last["image"][36:, 36:, 0], digits[2])


def test_sequences_follow_from_seed_split_and_number_alone():
    source = load_source(config(), "train")
    assert len(source) == 200
    assert len(load_source(config(), "test")) == 40
    more = load_source(config("digits/12", train="train[:200]"), "train")
    other = load_source(config(split_seed=1), "train")
    for index in (0, 45, 199):
        example = source[index]
        assert (int(example["episode"]), int(example["frame"])) == divmod(index, 20)
        np.testing.assert_array_equal(more[index]["image"], example["image"])
        assert (other[index]["image"] != example["image"]).any()
    examples = [source[i] for i in range(200)]
    places = (np.array([e[key] for e in examples]) for key in ("episode", "frame"))
    assert len(window_starts(*places, 7)) == 10 * 14


def test_no_digit_is_in_two_splits():
    train, test = (load_source(config(), split).source for split in ("train", "test"))
    digits = small_digits(DIGIT, DIGIT).arrays["image"][..., 0]
    np.testing.assert_array_equal(test.digits, digits[4::5])
    np.testing.assert_array_equal(train.digits[:8], digits[[0, 1, 2, 3, 5, 6, 7, 8]])
    assert len(train.digits) + len(test.digits) == len(digits)
    assert train.chosen.max() < len(train.digits)


@pytest.mark.parametrize(
    ("place", "changes", "expected"),
    [
        ("letters", {}, "moving:letters: there are 'mnist' and 'digits'; 'moving:digits/500'"),
        ("digits/0", {}, "has 500 training sequences"),
        ("", {}, "'moving:digits'"),
        ("digits", {"image_shape": (32, 32, 1)}, r"set data.image_shape=\(64, 64, 1\)"),
        ("digits", {"image_shape": (32, 32, 1), "crop": "random"}, r"\(64, 64, 1\)"),
        ("digits", {"train": "published"}, r"'published' of moving:digits: found only \['test'"),
    ],
)
def test_mistakes_are_told_in_one_line(place, changes, expected):
    with pytest.raises(UserError, match=expected) as caught:
        load_source(config(place, **changes), "train")
    assert "\n" not in str(caught.value)
