"""Windows of consecutive frames: none over the end of an episode, actions that came before."""

import numpy as np
import pytest

from train.data import InMemory
from train.data.windows import of_frames, window_starts
from train.errors import UserError

# Two episodes, and a frame left out of the second, as by a split.
EPISODE = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
FRAME = np.array([0, 1, 2, 3, 0, 1, 3, 4, 5])
FRAMES = {
    "code": np.arange(9, dtype=np.int32).reshape(9, 1, 1, 1),
    "action": 10 + np.arange(9, dtype=np.int32),
    "episode": EPISODE,
    "frame": FRAME,
    "ram": np.zeros((9, 128), np.uint8),
}


@pytest.mark.parametrize(
    ("frames", "starts"), [(2, [0, 1, 2, 4, 6, 7]), (3, [0, 1, 6]), (4, [0]), (5, []), (20, [])]
)
def test_windows_are_of_consecutive_frames_of_one_episode(frames, starts):
    assert window_starts(EPISODE, FRAME, frames).tolist() == starts


def test_a_window_is_a_frame_with_its_past_and_what_was_done_in_it():
    windows = of_frames(InMemory(FRAMES), 3, "codes:W")
    assert len(windows) == 3
    example = windows[2]
    assert sorted(example) == ["action", "code", "past"]
    assert example["code"].ravel().tolist() == [8]
    assert example["past"].shape == (2, 1, 1, 1)
    assert example["past"].ravel().tolist() == [6, 7]
    assert example["action"].tolist() == [16, 17]  # not what was chosen on seeing the frame itself


def test_rows_of_a_split_are_what_windows_are_of():
    windows = of_frames(InMemory(FRAMES, rows=np.arange(4, 9)), 2, "codes:W")
    assert [int(windows[i]["code"].item()) for i in range(3)] == [5, 7, 8]


def test_what_has_no_windows_is_refused():
    still = InMemory({name: FRAMES[name] for name in ("code", "action")})
    with pytest.raises(UserError, match="examples of codes:W are action, code, with no episode"):
        of_frames(still, 3, "codes:W")
    with pytest.raises(UserError, match=r"data.frames is 1; a window of codes:W has at least 2"):
        of_frames(InMemory(FRAMES), 1, "codes:W")
