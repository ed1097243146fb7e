"""Frames played here and now: what the pixels show against what the RAM says."""

import logging
import sys

import numpy as np
import pytest

from train.data import InMemory, data_statistics, games, load_source
from train.errors import UserError

EVERY = np.arange(300)


def config(tmp_path, **changes):
    data = {
        "source": "game:pong/300",
        "data_dir": str(tmp_path),
        "image_shape": (32, 32, 1),
        "split_seed": 0,
    }
    return data | changes


@pytest.fixture(scope="module")
def played():
    """A few hundred whole frames of both games."""
    return {
        name: games.play(name, 600, shape=(160, 160, 1), seed=(3, 0))
        for name in ("pong", "breakout")
    }


def column_of(name, arrays):
    """`column_of(...)(factor)`: where the RAM shows it, with the factor's values there."""
    names = [factor.name for factor in games.GAMES[name].factors]

    def column(factor):
        i = names.index(factor)
        shown = arrays["factors_shown"][:, i]
        return shown, arrays["factors"][shown, i]

    return column


def first(mask, axis):
    """Row or column in which each image's mask begins, `[images, height, width] -> [images]`."""
    return mask.any(axis=3 - axis).argmax(axis=1)


def assert_agree(mask, axis, shown, values):
    """The mask has pixels where the factor is shown, and they lie where the factor says."""
    np.testing.assert_array_equal(mask.any(axis=(1, 2)), shown)
    assert len(values) > 100
    assert len(np.unique(values)) > 20
    assert np.corrcoef(first(mask[shown], axis), values)[0, 1] > 0.99


def test_pong_is_what_its_ram_says(played):
    arrays = played["pong"]
    image, column = arrays["image"][..., 0], column_of("pong", arrays)
    ball, own, opponent = (image == level for level in (236, 147, 148))
    assert_agree(ball, 1, *column("ball_y"))
    assert_agree(ball, 2, *column("ball_x"))
    assert_agree(own[:, :, 80:], 1, *column("own_paddle_y"))
    assert_agree(opponent[:, :, :80], 1, *column("opponent_paddle_y"))
    for factor, byte in (("own_score", 14), ("opponent_score", 13)):
        assert not column(factor)[0].any()  # the scores are not in the image
        assert np.all(np.diff(arrays["ram"][:, byte].astype(int)) >= 0)
    assert 1 <= arrays["ram"][-1, [13, 14]].sum() < 22
    assert 0.5 < column("ball_x")[0].mean() < 0.95


def test_breakout_is_what_its_ram_says(played):
    arrays = played["breakout"]
    image, column = arrays["image"][..., 0], column_of("breakout", arrays)
    red = image == 110  # the ball, the paddle and the topmost bricks
    red[:, :, :8] = red[:, :, 152:] = False  # the walls' feet
    ball, paddle = red.copy(), red[:, 155:159]
    ball[:, :29] = ball[:, 155:159] = False
    shown, y = column("ball_y")
    _, x = column("ball_x")
    clear = (y > 90) & (y < 180) & (x < 201)  # away from bricks, paddle and wall
    seen = np.flatnonzero(shown)[clear]
    assert_agree(ball[seen], 1, np.ones(len(seen), bool), y[clear])
    assert_agree(ball[seen], 2, np.ones(len(seen), bool), x[clear])
    assert not ball[~shown, :155].any()
    # A ball that touches the paddle lengthens it.
    apart = ~(shown & (arrays["ram"][:, 101] > 170))
    _, place = column("paddle_x")
    assert_agree(paddle[apart], 2, np.ones(apart.sum(), bool), place[apart])


def test_the_same_seed_plays_the_same(played):
    shape = (160, 160, 1)
    again = games.play("pong", 600, shape=shape, seed=(3, 0))
    assert again.keys() == played["pong"].keys()
    for name, array in played["pong"].items():
        assert array.dtype == again[name].dtype
        assert array.tobytes() == again[name].tobytes(), name
    # A longer play begins with a shorter one.
    shorter = games.play("pong", 50, shape=shape, seed=(3, 0))
    np.testing.assert_array_equal(shorter["image"], again["image"][:50])
    other = games.play("pong", 600, shape=shape, seed=(3, 1))
    assert (other["ram"] != again["ram"]).any(axis=1).mean() > 0.9


def test_episodes_are_apart(monkeypatch):
    monkeypatch.setattr(games, "EPISODE", 40)
    arrays = games.play("breakout", 100, shape=(10, 10, 1), seed=(0, 0))
    np.testing.assert_array_equal(arrays["episode"], np.arange(100) // 40)
    np.testing.assert_array_equal(arrays["frame"], np.arange(100) % 40)
    a, b = arrays["action"][:40], arrays["action"][40:80]
    assert (a != b).any()


def test_actions_vary_and_the_paddle_follows(played):
    for name, arrays in played.items():
        uses = np.bincount(arrays["action"], minlength=4)
        assert len(uses) == 4  # NOOP FIRE RIGHT LEFT
        assert np.all(uses > np.array([0.1, 0.002, 0.1, 0.1]) * len(arrays["action"]))
        game = games.GAMES[name]
        there = arrays["ram"][:, game.absent] > 0
        ball, paddle = (arrays["ram"][there, b].astype(int) for b in (game.ball, game.paddle))
        distance = np.abs(ball - paddle - game.middle)
        assert np.median(distance) < 0.7 * np.median(
            np.abs(ball - np.random.default_rng(0).permutation(paddle) - game.middle)
        )


@pytest.mark.parametrize("shape", [(160, 160, 3), (32, 80, 3), (20, 20, 1)])
def test_images_are_means_of_blocks(shape):
    screen = random_screen(shape[2])
    found = games._reduced(screen, shape)
    field = screen[34:194].reshape(160, 160, -1).astype(float)
    rows, columns = 160 // shape[0], 160 // shape[1]
    blocks = field.reshape(shape[0], rows, shape[1], columns, shape[2]).mean(axis=(1, 3))
    assert found.shape == shape
    assert found.dtype == np.uint8
    assert np.abs(found - blocks).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("shape", [(84, 84, 3), (84, 80, 1)])
def test_images_of_other_sizes_are_means_of_areas(shape):
    screen = random_screen(shape[2])
    found = games._reduced(screen, shape)
    # Each pixel in as many parts as there are of the image's: blocks of these are whole again.
    field = screen[34:194].reshape(160, 160, -1).astype(float)
    for axis, size in enumerate(shape[:2]):
        parts = np.repeat(field, size, axis=axis)
        field = np.moveaxis(parts, axis, 0).reshape(size, 160, *np.delete(parts.shape, axis))
        field = np.moveaxis(field.mean(axis=1), 0, axis)
    assert found.shape == shape
    assert found.dtype == np.uint8
    assert np.abs(found - field).max() <= 0.5 + 1e-3


def random_screen(channels):
    screen = np.random.default_rng(0).integers(0, 256, (210, 160, 3), dtype=np.uint8)
    return screen if channels == 3 else screen[..., 0]


def test_both_splits_are_sources_and_are_kept(tmp_path, monkeypatch):
    data = config(tmp_path)
    train, test = (load_source(data, split) for split in ("train", "test"))
    assert isinstance(train, InMemory)
    assert (len(train), len(test)) == (300, 60)
    batch = train[np.array([3, 1])]
    shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert shapes == {
        "image": ("uint8", (2, 32, 32, 1)),
        "action": ("int32", (2,)),
        "ram": ("uint8", (2, 128)),
        "factors": ("int32", (2, 6)),
        "factors_shown": ("bool", (2, 6)),
        "episode": ("int32", (2,)),
        "frame": ("int32", (2,)),
    }
    assert data_statistics(train, None).variance > 0
    assert len(list(tmp_path.iterdir())) == 2

    def never(*_, **__):
        raise AssertionError("played again")

    with monkeypatch.context() as patch:
        patch.setattr(games, "play", never)
        again = load_source(data | {"train": "train[:100]"}, "train")
        np.testing.assert_array_equal(again[EVERY[:100]]["image"], train[EVERY[:100]]["image"])
        assert len(load_source(data | {"limit": 7}, "test")) == 7
    other = load_source(data | {"split_seed": 1}, "train")
    assert (other[EVERY]["image"] != train[EVERY]["image"]).any()
    colour = load_source(data | {"image_shape": (16, 16, 3)}, "test")
    assert colour[0]["image"].shape == (16, 16, 3)


def test_the_cache_is_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_source(config(tmp_path, data_dir="", source="game:breakout/5"), "test")
    kept = list((tmp_path / "cache" / "bottlenecks" / "games").iterdir())
    assert len(kept) == 2
    assert all(path.suffix == ".npz" for path in kept)


@pytest.mark.parametrize("damage", ["cut", "bits", "empty", "other"])
def test_a_damaged_cache_is_made_again(tmp_path, caplog, damage):
    data = config(tmp_path, source="game:pong/40")
    before = load_source(data, "train")[EVERY[:40]]
    (path,) = tmp_path.glob("*train*")
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "other":
        np.savez(path, image=np.zeros(3))
    else:
        path.write_bytes(
            {
                "cut": whole[:middle],
                "bits": whole[:middle] + bytes(50) + whole[middle + 50 :],
                "empty": b"",
            }[damage]
        )
    with caplog.at_level(logging.WARNING, logger="train"):
        after = load_source(data, "train")[EVERY[:40]]
    assert "is damaged and made again" in caplog.text
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert path.read_bytes() == whole  # nothing in it depends on the clock


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": "game:chess"}, "game:chess: there are 'pong' and 'breakout'"),
        ({"source": "game:pong/0"}, "'game:pong/5000' has 5000 training frames"),
        ({"source": "game:"}, "'game:NAME'"),
        ({"image_shape": (64, 161, 1)}, r"heights and widths of at most 160, in 1 or 3 channels"),
        ({"image_shape": (32, 32, 4)}, r"\(32, 32, 4\)"),
        ({"crop": "random"}, "data.crop is 'random'"),
        ({"data_dir": "/proc/no"}, "/proc/no cannot be written: .* set data.data_dir"),
        ({"train": "train[:301]"}, "300 examples"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, changes, expected):
    with pytest.raises(UserError, match=expected) as caught:
        load_source(config(tmp_path, **changes), "train")
    assert "\n" not in str(caught.value)


def test_a_missing_ale_py_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match=r"pip install 'bottlenecks\[games\]'"):
        load_source(config(tmp_path), "train")
    assert list(tmp_path.iterdir()) == []
