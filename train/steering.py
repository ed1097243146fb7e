"""Whether a game's own paddle goes where actions say, in frames that a prior over video draws."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from train import latents, runs
from train.continuation import Footage, continue_codes, decode
from train.data.games import FIELD, GAMES
from train.data.windows import window_starts
from train.metrics.paddles import paddle_of, paddle_places

HELD = 4  # frames for which an action is held: Pong's paddle crosses half the field in them
MOVED = 8  # of the emulator's pixels: less is standing still
STOOD = 4  # of the emulator's pixels from one frame to the next: less is standing
ROOM = 24  # of the emulator's pixels, from either end of the paddle's way, at the start


class Way(NamedTuple):
    """One of the ways a paddle can be told to go: its name, the action, and its RAM byte's sign."""

    name: str
    action: int
    sign: int


def control(
    named: dict[str, runs.Run],
    encoder: runs.Run,
    footage: Footage,
    *,
    windows: int,
    temperature: float,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Whether the own paddle moves as the actions say; images of all windows by prior and way.

    Windows whose paddle has room on either side are continued for `HELD` frames with each action,
    by the same random numbers. A move is the paddle's way from the last seen frame to the last
    drawn one, in decoded pixels. Beside it stands what the game does where an action was held.
    Both are told apart by whether the paddle stood before: a moving one does not stop at once.

    Args: as of `video.continuations`.
    """
    source = encoder.config.data.source
    paddle, game = paddle_of(source), GAMES[source.partition(":")[2].partition("/")[0]]
    smaller, larger = paddle.ways
    ways = (Way(smaller, game.smaller, -1), Way(larger, game.larger, 1), Way("still", 0, 0))
    arrays = footage.arrays
    place = arrays["ram"][:, game.paddle].astype(float)
    decoded = latents.decode(encoder, arrays["code"])
    true = footage.images(np.arange(len(place)))
    low, high = game.places
    free = (place > low + ROOM) & (place < high - ROOM)
    stood = np.abs(np.diff(place, prepend=place[0])) <= STOOD
    found: dict[str, Any] = {
        "held": HELD,
        "moved": MOVED,
        "chance": 1 / len(ways),
        "ways": [way.name for way in ways],
        "detector_true": _detector(paddle_places(true, paddle) - place),
        "detector_decoded": _detector(paddle_places(decoded, paddle) - place),
        "game": _in_the_game(arrays, place, free, stood, ways),
    }
    seen = next(iter(named.values())).config.data.frames - 1
    starts = window_starts(arrays["episode"], arrays["frame"], seen)
    starts = starts[free[starts + seen - 1]]
    starts = starts[np.linspace(0, len(starts) - 1, min(windows, len(starts))).astype(int)]
    rows = starts[:, None] + np.arange(seen)
    before = paddle_places(decoded[rows[:, -1]], paddle)
    standing = stood[rows[:, -1]]
    found["windows"] = len(starts)
    images = {}
    for name, run in named.items():
        found[name] = {}
        for way in ways:
            action = np.full((len(rows), seen + HELD - 1), way.action)
            action[:, : seen - 1] = arrays["action"][rows[:, :-1]]
            options = {"frames": HELD, "temperature": temperature}
            image = decode(encoder, continue_codes(run, arrays["code"][rows], action, **options))
            move = paddle_places(image[:, -1], paddle) - before
            found[name][way.name] = _shares(move, way, standing)
            images[f"{name}: {way.name}"] = np.concatenate([decoded[rows], image], axis=1)
    return found, images


def as_told(move: np.ndarray, sign: int) -> np.ndarray:
    """Whether moves, in the emulator's pixels, go the way of the sign, or for 0 nowhere, bool.

    Less than `MOVED` is nowhere. A paddle that is not found (NaN) is not as told.
    """
    return np.abs(move) <= MOVED if sign == 0 else move * sign > MOVED


def _detector(error: np.ndarray) -> dict[str, float]:
    """How far from the RAM's places the detector's are, in the emulator's pixels."""
    size = np.abs(error[~np.isnan(error)])
    return {
        "mean_absolute_error": _mean(size),
        "within_moved": _mean(size < MOVED),
        "not_found": _mean(np.isnan(error)),
    }


def _in_the_game(
    arrays: dict[str, np.ndarray],
    place: np.ndarray,
    free: np.ndarray,
    stood: np.ndarray,
    ways: Sequence[Way],
) -> dict[str, Any]:
    """Moves where the player held an action, by the RAM; `free`: places that have room."""
    # One frame more, before the first, of which `stood` tells.
    starts = window_starts(arrays["episode"], arrays["frame"], HELD + 2) + 1
    starts = starts[free[starts]]
    held = arrays["action"][starts[:, None] + np.arange(HELD)]
    found = {}
    for way in ways:
        of_way = starts[(held == way.action).all(axis=1)]
        found[way.name] = _shares(place[of_way + HELD] - place[of_way], way, stood[of_way])
    return found


def _shares(move: np.ndarray, way: Way, standing: np.ndarray) -> dict[str, Any]:
    """Share of moves as told, their mean and number: all, and by whether the paddle stood."""
    groups = {"all": np.ones(len(move), bool), "standing": standing, "moving": ~standing}
    return {
        name: {
            "as_told": _mean(as_told(move[group], way.sign)),
            "mean_move": _mean(move[group & ~np.isnan(move)]),
            "count": int(group.sum()),
        }
        for name, group in groups.items()
    }


def _mean(values: np.ndarray) -> float:
    """The mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def table(found: dict[str, Any], names: Sequence[str]) -> str:
    """The shares of moves as told, in rows, under a line that says how places were read."""
    off = found["detector_decoded"]["mean_absolute_error"]
    rows = [(name, group) for group in ("standing", "moving") for name in ("game", *names)]
    width = max(len(f"{name}, {group} before") for name, group in rows)
    lines = [
        f"control: {found['windows']} windows, {HELD} frames; in decoded frames the paddle is "
        f"found {off:.1f} of {FIELD} pixels off the RAM's place, on average",
        f"{'as told':{width}}" + "".join(f"{way:>8}" for way in (*found["ways"], "mean")),
    ]
    for name, group in rows:
        shares = [found[name][way][group]["as_told"] for way in found["ways"]]
        shown = "".join(f"{share:8.3f}" for share in (*shares, float(np.mean(shares))))
        lines.append(f"{f'{name}, {group} before':{width}}{shown}")
    return "\n".join([*lines, f"{'chance':{width}}{found['chance']:>{8 * 4}.3f}"])
