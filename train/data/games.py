"""Atari games played by a seeded policy: frames, actions, and what the emulator's RAM says is true.

The games come with ale-py (Bellemare et al. 2013, "The Arcade Learning Environment").
"""

import functools
import logging
import os
import re
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from train.data.random_access import ImageSize, InMemory, Source
from train.errors import UserError

FRAMES = 20_000  # of "train"; "test" has a fifth as many
EPISODE = 1_000  # frames after which an episode ends, if the game does not end it
FRAME_SKIP = 4  # the emulator's frames for which an action is held
FIELD = 160  # rows and columns of the play field
_TOP = 34  # its first row on the screen: above are the scores, below a margin

_NO_OPS = 120  # of the emulator's frames
_FOLLOWING = 0.6  # share of the policy's moods that follow the ball
_MOOD = 20  # longest mood, in frames
_AIM = 10  # pixels by which following is off the paddle's middle, at most
_SERVE = 0.1  # chance a frame of pressing the button while there is no ball
_NOOP, _FIRE = 0, 1  # the same in both games' action sets

# A change of what is played or of how it is stored takes a new number.
_FORMAT = 1

log = logging.getLogger("train")


class Factor(NamedTuple):
    """Something true of a frame.

    Attributes:
      name: of what it is.
      byte: the RAM byte that holds it.
      shown: (byte, low, high): the play field shows it where `low <= RAM[byte] < high`.
    """

    name: str
    byte: int
    shown: tuple[int, int, int]


class Game(NamedTuple):
    """What there is to know of a game.

    Attributes:
      factors: in the order of an example's "factors".
      ball: RAM byte of the ball's place along the paddle's axis; `absent` is 0 without a ball.
      absent: RAM byte of the ball's y.
      paddle: RAM byte of the own paddle's place, `places` the least and the largest.
      middle: ball's byte less paddle's byte where the paddle's middle meets the ball.
      smaller, larger: the actions that make the paddle's byte smaller and larger.
    """

    factors: tuple[Factor, ...]
    ball: int
    absent: int
    paddle: int
    places: tuple[int, int]
    middle: int
    smaller: int
    larger: int


ALWAYS = (0, 0, 256)
NEVER = (0, 0, 0)
# In units of the screen's pixels, but for the scores: row or column is the byte less a constant.
# The scores stand above the play field, so no image shows them. Balls and Pong's opponent are drawn
# beyond the field too: the limits are where a part of them is inside. Breakout's ball is rarely
# hidden there by the wall, or lost in a brick or paddle of its own colour.
_PONG_BALL = (54, 45, 256)
_BREAKOUT_BALL = (101, 1, 185)
GAMES = {
    "pong": Game(
        factors=(
            Factor("ball_x", 49, _PONG_BALL),
            Factor("ball_y", 54, _PONG_BALL),
            Factor("own_paddle_y", 51, ALWAYS),
            Factor("opponent_paddle_y", 50, (50, 34, 256)),
            Factor("own_score", 14, NEVER),
            Factor("opponent_score", 13, NEVER),
        ),
        ball=54,
        absent=54,
        paddle=51,
        places=(38, 203),
        middle=6,
        smaller=2,
        larger=3,
    ),
    "breakout": Game(
        factors=(
            Factor("ball_x", 99, _BREAKOUT_BALL),
            Factor("ball_y", 101, _BREAKOUT_BALL),
            Factor("paddle_x", 72, ALWAYS),
        ),
        ball=99,
        absent=101,
        paddle=72,
        places=(55, 191),
        middle=9,
        smaller=3,
        larger=2,
    ),
}


def load(place: str, size: ImageSize, *, seed: int, data_dir: str = "") -> dict[str, Source]:
    """Frames of a game: "train" and "test", from episodes that were played apart.

    `place` is "pong" or "breakout", 20,000 and 4,000 frames, or with the number of training frames
    "pong/5000" (5,000 and 1,000). An example is a frame:
      "image"          the play field without the scores, uint8; 160 x 160 pixels, each the mean of
                       the area it covers where `data.image_shape` is smaller, such as (84, 84, 3);
                       1 channel is the luminance;
      "action"         int32, what was chosen on seeing this frame: its place in the minimal action
                       set, which is NOOP FIRE RIGHT LEFT (RIGHTFIRE LEFTFIRE, in Pong);
      "ram"            uint8 [128], the emulator's memory;
      "factors"        int32 [factors], named by `factor_names`;
      "factors_shown"  bool [factors], whether the image shows them: there is not always a ball;
                       while there is none, its factors are whatever the RAM holds;
      "episode", "frame"  int32, counted from 0: a sequence is consecutive frames of an episode.

    An action is held for 4 frames and never repeated by chance ("sticky"). An episode starts from
    the switched-on machine with NOOP for 4 to 120 of the emulator's frames. The policy is in one of
    two moods, for 1 to 20 frames at a time: in 60 % of them it follows the ball, up to 10 pixels
    off the paddle's middle, otherwise it goes to a place drawn uniformly; while there is no ball,
    it presses the button in 10 % of the frames. Everything is drawn by NumPy Generators of (`seed`,
    split, episode), so that the same seed gives the same frames.

    The factors are as the game has them, not independent: the opponent of Pong keeps up with the
    ball, so that its paddle's y is nearly a function of the ball's, and the own paddle follows too,
    more loosely. Some images of "test" are in "train" as well, above all those without a ball.

    What has been played is kept as .npz files under `data_dir`, or else in
    $XDG_CACHE_HOME/bottlenecks/games or ~/.cache/bottlenecks/games.

    Raises:
      UserError: no such game, an image shape larger than the field, a crop, ale-py is not
        installed, or the folder cannot be written.
    """
    name, frames = _parsed(place)
    _check_size(size, place)
    if data_dir:
        folder = epath.Path(data_dir).expanduser()
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = epath.Path(cache).expanduser() / "bottlenecks" / "games"
    counts = {"train": frames, "test": max(1, frames // 5)}
    parts = {}
    for number, (split, count) in enumerate(counts.items()):
        shape = "x".join(map(str, size.shape))
        path = folder / f"{name}_{split}{count}_{shape}_seed{seed}_v{_FORMAT}.npz"
        arrays = _read(path, (count, *size.shape))
        if arrays is None:
            log.info("playing %d frames of %s for %r, kept in %s", count, name, split, path)
            arrays = play(name, count, shape=size.shape, seed=(seed, number))
            _write(path, arrays)
        parts[split] = InMemory(arrays)
    return parts


def factor_names(place: str) -> tuple[str, ...]:
    """What an example's "factors" are, in their order; `place` as in `load`."""
    return tuple(factor.name for factor in GAMES[_parsed(place)[0]].factors)


def play(
    name: str, frames: int, *, shape: tuple[int, int, int], seed: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Plays episode after episode until there are `frames` frames; see `load`.

    Args:
      name: of the game, in `GAMES`.
      frames: how many.
      shape: (height, width, channels) of the images; sizes up to 160, channels 1 or 3.
      seed: an episode's generator is seeded by these and its number.

    Returns:
      An example's arrays, stacked: `[frames, ...]`.

    Raises:
      UserError: ale-py is not installed.
    """
    game = GAMES[name]
    emulator = _emulator(name)
    actions = emulator.getMinimalActionSet()
    start = emulator.cloneSystemState()
    screen = emulator.getScreenGrayscale if shape[2] == 1 else emulator.getScreenRGB
    image = np.empty((frames, *shape), np.uint8)
    ram = np.empty((frames, 128), np.uint8)
    action, episode, frame = np.empty((3, frames), np.int32)
    n = e = 0
    while n < frames:
        random = np.random.default_rng([*seed, e])
        emulator.restoreSystemState(start)
        for _ in range(random.integers(FRAME_SKIP, _NO_OPS + 1)):
            emulator.act(actions[_NOOP])
        policy = _Policy(game, random)
        for f in range(EPISODE):
            if n == frames or emulator.game_over():
                break
            image[n] = _reduced(screen(), shape)
            ram[n] = emulator.getRAM()
            action[n], episode[n], frame[n] = policy(ram[n]), e, f
            for _ in range(FRAME_SKIP):
                emulator.act(actions[action[n]])
            n += 1
        e += 1
    factors = ram[:, [factor.byte for factor in game.factors]].astype(np.int32)
    byte, low, high = np.array([factor.shown for factor in game.factors]).T
    return {
        "image": image,
        "action": action,
        "ram": ram,
        "factors": factors,
        "factors_shown": (low <= ram[:, byte]) & (ram[:, byte] < high),
        "episode": episode,
        "frame": frame,
    }


class _Policy:
    """Follows the ball in some moods and goes to a place in the others."""

    def __init__(self, game: Game, random: np.random.Generator) -> None:
        self.game = game
        self.random = random
        self.left = 0

    def __call__(self, ram: np.ndarray) -> int:
        """The action to take, from what is in the RAM."""
        game, random = self.game, self.random
        if self.left == 0:
            self.left = int(random.integers(1, _MOOD + 1))
            self.follows = random.random() < _FOLLOWING
            self.off = int(random.integers(-_AIM, _AIM + 1))
            self.place = int(random.integers(game.places[0], game.places[1] + 1))
        self.left -= 1
        ball = ram[game.absent] > 0
        if not ball and random.random() < _SERVE:
            return _FIRE
        if self.follows and not ball:
            return _NOOP
        target = int(ram[game.ball]) - game.middle + self.off if self.follows else self.place
        ahead = target - int(ram[game.paddle])
        if abs(ahead) <= FRAME_SKIP:
            return _NOOP
        return game.larger if ahead > 0 else game.smaller


def _emulator(name: str) -> Any:
    """The switched-on machine with the game in it, an `ale_py.ALEInterface`."""
    try:
        import ale_py
        from ale_py import roms
    except ImportError as error:
        raise UserError(
            f"game:{name}: ale-py is not installed; pip install 'bottlenecks[games]'"
        ) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", 0)  # decides what is in the RAM when it is switched on
    emulator.setInt("frame_skip", 1)  # `play` skips, so that an episode starts at any frame
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(roms.get_rom_path(name))
    return emulator


def _parsed(place: str) -> tuple[str, int]:
    """The game's name and the number of training frames."""
    found = re.fullmatch(r"(\w+)(?:/([1-9]\d*))?", place)
    if not found or found[1] not in GAMES:
        raise UserError(
            f"game:{place}: there are {' and '.join(map(repr, GAMES))}; 'game:pong/5000' has "
            "5000 training frames"
        )
    return found[1], int(found[2] or FRAMES)


def _check_size(size: ImageSize, place: str) -> None:
    height, width, channels = size.shape
    if size.crop != "none":
        raise UserError(
            f"game:{place}: data.crop is {size.crop!r}, but frames are reduced whole: "
            "set data.crop='none'"
        )
    if max(height, width) > FIELD or channels not in (1, 3):
        raise UserError(
            f"game:{place}: data.image_shape is {size.shape}; the field of {FIELD} x {FIELD} is "
            f"reduced to heights and widths of at most {FIELD}, in 1 or 3 channels"
        )


def _reduced(screen: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The play field, each pixel the rounded mean of the area it covers."""
    field = screen[_TOP : _TOP + FIELD]
    height, width, _ = shape
    if FIELD % height == FIELD % width == 0:  # whole blocks, by whole numbers
        image = Image.fromarray(field).reduce((FIELD // width, FIELD // height))
        return np.asarray(image).reshape(shape)
    rows = _shares(height) @ field.reshape(FIELD, -1).astype(np.float32)
    image = _shares(width) @ rows.reshape(height, FIELD, -1)
    return np.rint(image).astype(np.uint8).reshape(shape)


@functools.cache
def _shares(size: int) -> np.ndarray:
    """Shares of a line's pixels in each of `size` equal stretches of it, float32 `[size, 160]`."""
    ends, pixel = np.linspace(0, FIELD, size + 1)[:, None], np.arange(FIELD)
    covered = np.minimum(ends[1:], pixel + 1) - np.maximum(ends[:-1], pixel)
    return (np.maximum(covered, 0) * size / FIELD).astype(np.float32)


def _read(path: epath.Path, shape: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """What is kept in a file, or None where it is not there or not whole."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if arrays["image"].shape == shape:
            return arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    log.warning("%s is damaged and made again", path)
    return None


def _write(path: epath.Path, arrays: dict[str, np.ndarray]) -> None:
    """Keeps arrays in a file, so that a reader sees all of it or nothing."""
    # Its own name for every process: two that play at once write the same, one after the other.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written: {error.strerror or error}; set data.data_dir to a "
            "folder for what is played"
        ) from error
