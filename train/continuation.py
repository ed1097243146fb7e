"""Frames of codes drawn after those seen, by the run of a prior over video, and decoded."""

from typing import NamedTuple

import jax
import numpy as np

from models.likelihoods import to_unit
from models.priors import sample_frames
from train import latents, runs
from train.data import Source, Transform, codes, load_source, make_transform
from train.data.pipeline import gather
from train.errors import UserError

BATCH = 64


class Footage(NamedTuple):
    """Held-out frames of videos, in order.

    Attributes:
      source: of frames, which may be too many to hold all their images.
      transform: theirs.
      arrays: "code" `[n, *grid, codebooks]`, "episode", "frame" `[n]`, and of a game "action" and
        "ram", `[n, ...]`.
    """

    source: Source
    transform: Transform | None
    arrays: dict[str, np.ndarray]

    def images(self, rows: np.ndarray) -> np.ndarray:
        """The frames with these numbers, `[*rows.shape, height, width, channels]` in [0, 1]."""
        image = gather(self.source, rows.ravel(), self.transform, 0, rows.ravel())["image"]
        return np.asarray(to_unit(image)).reshape(*rows.shape, *image.shape[1:])


def load_prior(workdir: str) -> runs.Run:
    """The run of a prior over video; raises UserError where it is none, or its encoder changed."""
    run = runs.load(workdir)
    if run.config.model.prior.get("name", "") != "video":
        raise UserError(
            f"{workdir} is a run of {run.config.name}, no prior over video; give it one such as "
            "video_pong"
        )
    data = run.config.data
    if not codes.encoder_of(data):
        raise UserError(f"{workdir}: its data are {data.source!r}; expected the codes of a run")
    codes.check_encoder(codes.encoder_of(data), data.encoder_checksum)
    return run


def held_out(encoder: runs.Run, workdir: str) -> Footage:
    """The test frames of a run on videos, and their codes."""
    split = codes.load(workdir)["test"]
    data = encoder.config.data
    arrays = split[np.arange(len(split))]
    return Footage(load_source(data, "test"), make_transform(data, "test"), arrays)


def continue_codes(
    run: runs.Run,
    past: np.ndarray,
    action: np.ndarray | None,
    *,
    frames: int,
    temperature: float,
    seed: int = 0,
) -> np.ndarray:
    """Frames of codes drawn after those seen, int32 `[n, frames, *grid, codebooks]`.

    Args:
      run: of a prior over video.
      past: `[n, p, *grid, codebooks]`.
      action: `[n, p + frames - 1]`; left alone by a prior without actions, which needs none.
      frames: how many to draw.
      temperature: of each draw.
      seed: of the random numbers; the same for the same place in `past`.
    """
    net = run.model.net
    variables = {"params": run.variables["params"]["net"]}
    parts = []
    for start in range(0, len(past), BATCH):
        rows = np.minimum(np.arange(start, start + min(BATCH, len(past))), len(past) - 1)
        drawn = sample_frames(
            net,
            variables,
            jax.random.fold_in(jax.random.key(seed), start),
            past[rows],
            frames=frames,
            action=action[rows] if net.actions else None,
            temperature=temperature,
        )
        parts.append(np.asarray(drawn)[: len(past) - start])
    return np.concatenate(parts)


def decode(encoder: runs.Run, code: np.ndarray) -> np.ndarray:
    """Images `[n, frames, height, width, channels]` in [0, 1] of codes, each decoded alone."""
    images = latents.decode(encoder, code.reshape(-1, *code.shape[2:]))
    return images.reshape(*code.shape[:2], *images.shape[1:])
