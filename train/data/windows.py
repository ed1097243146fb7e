"""Windows of consecutive frames, for priors over a frame's codes given those before it."""

import numpy as np

from train.data.random_access import Example, InMemory
from train.errors import UserError


class Windows:
    """Each example is a frame's codes and what came before it in its episode.

    "code" is int32 `[*grid, codebooks]`, "past" the p frames before, `[p, *grid, codebooks]`, the
    last one last, and "action", where the frames have any, what was chosen on seeing each of them,
    int32 `[p]`. What was chosen on seeing the frame itself shows only after it.
    """

    def __init__(self, arrays: dict[str, np.ndarray], starts: np.ndarray, frames: int) -> None:
        self.arrays = arrays
        self.starts = starts
        self.frames = frames

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.starts)

    def __getitem__(self, index: int) -> Example:
        """One example."""
        start = int(self.starts[index])
        last = start + self.frames - 1
        example = {"code": self.arrays["code"][last], "past": self.arrays["code"][start:last]}
        if "action" in self.arrays:
            example["action"] = self.arrays["action"][start:last]
        return example


def of_frames(source: InMemory, frames: int, name: str) -> Windows:
    """All windows of a source of frames, one for each frame that has enough before it.

    Args:
        source: of examples with "code", "episode" and "frame".
        frames: of a window, at least 2.
        name: of the source, for messages.

    Raises:
        UserError: the examples are no frames of episodes, or windows have fewer than 2.
    """
    if frames < 2:
        raise UserError(f"data.frames is {frames}; a window of {name} has at least 2 frames")
    arrays = source[np.arange(len(source))]
    if not {"episode", "frame"} <= set(arrays):
        raise UserError(
            f"data.frames is {frames}, but the examples of {name} are {', '.join(sorted(arrays))}, "
            "with no episode and frame; windows are of a run on frames in order, as a game's"
        )
    arrays = {key: arrays[key] for key in ("code", "action", "episode", "frame") if key in arrays}
    starts = window_starts(arrays["episode"], arrays["frame"], frames)
    return Windows(arrays, starts, frames)


def window_starts(episode: np.ndarray, frame: np.ndarray, frames: int) -> np.ndarray:
    """Where `frames` consecutive frames of one episode begin, int `[windows]`.

    Args:
        episode: int `[n]`, of each frame.
        frame: int `[n]`, its number in the episode.
        frames: of a window.
    """
    follows = (np.diff(episode) == 0) & (np.diff(frame) == 1)
    # How many frames of the window do not follow the one before.
    breaks = np.concatenate([[0], np.cumsum(~follows)])
    last = np.arange(frames - 1, len(episode))
    first = last - (frames - 1)
    return first[breaks[last] == breaks[first]]
