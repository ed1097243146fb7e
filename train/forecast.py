"""Frames that a Topographic VAE has not seen: `python -m train.forecast --workdir W`.

Encodes the first frames of test sequences and nothing of the rest, takes the capsules of one seen
frame, rolls them on by one place a frame, and compares what is decoded with the true frames. The
frames that are not encoded stand in W u^2 with the energy of their prior, E[u^2] = 1. The release's
traversals roll the first frame's capsules after the encoder of u has seen the whole sequence.

The frame that is rolled is the last of those whose window holds most seen frames: so the
capsules of TVAE with L = 13/36 and 13 seen frames come from a window that is all seen.

Prints mean squared errors on the unseen frames, over all sequences and by what moves, beside
- kept: the same capsules, not rolled;
- the last seen frame, copied, and the mean of the seen frames;
- seen whole: the reconstruction of those frames from all frames, which is no forecast;
- and rolled and kept of another run with `--against`, such as the VAE's.

Writes `W/forecast.json`, and pictures of sequences above what the rolled capsules give, in which a
frame around an image marks what was not seen: forecast.png, where their reconstruction from all
frames stands between, and forecast.gif.
"""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn
from PIL import Image

from bottlenecks.topographic import roll_capsules
from models.likelihoods import to_unit
from train import cli, latents, parallel, pictures, runs
from train.data.sequences import movements_of
from train.errors import UserError
from train.writers import write_whole

SEQUENCES = 500  # of the test split
UNSEEN = 5  # frames, unless --seen says otherwise: the release's traversals have as many
SHOWN = 6
MARK = (224, 123, 40)  # the colour of the frame around unseen images


class Forecast(NamedTuple):
    """Sequences made from one seen frame's capsules.

    Attributes:
      rolled: `[n, frames, height, width, channels]` in [0, 1]; the frames before that one are
        rolled back.
      kept: likewise, not rolled: all frames alike.
      frame: the one that they are made from.
    """

    rolled: np.ndarray
    kept: np.ndarray
    frame: int


def forecast(run: runs.Run, seen: np.ndarray, *, frames: int) -> Forecast:
    """All frames of sequences of which only the first are given.

    Args:
      run: a trained Topographic VAE of sequences.
      seen: `[n, seen frames, height, width, channels]`, the first frames.
      frames: of the whole sequences.

    Raises:
      UserError: the run's model has no capsules, or is not of sequences.
      ValueError: more frames are seen than there are.
    """
    if not hasattr(run.model.bottleneck, "student_t") or not run.config.data.frames:
        raise UserError(
            f"{run.config.name} has no capsules of sequences to roll; give it the folder of a "
            "Topographic VAE, such as topographic_vae_digits"
        )
    if not 1 <= seen.shape[1] <= frames:
        raise ValueError(f"{seen.shape[1]} of {frames} frames are seen; expected 1 to {frames}")
    frame = rolled_frame(run.model.bottleneck, seen.shape[1], frames)
    both = latents.in_batches(_forecaster(run.model, frame, frames), run.variables, seen)
    return Forecast(rolled=both[:, 0], kept=both[:, 1], frame=frame)


def rolled_frame(bottleneck: Any, seen: int, frames: int) -> int:
    """The last of the seen frames whose window in W holds most seen frames."""
    if bottleneck.kernel == "none":
        return seen - 1
    # Whose energy comes from which frame: one seen frame at a time.
    each = np.broadcast_to(
        np.eye(seen, frames, dtype=np.float32)[:, :, None, None],
        (seen, frames, bottleneck.capsules, bottleneck.places),
    )
    reached = np.asarray(bottleneck.energy(jnp.asarray(each)))[:, :seen].max(axis=(2, 3)) > 0
    held = reached.sum(axis=0)
    return int(np.flatnonzero(held == held.max())[-1])


@functools.cache
def _forecaster(model: nn.Module, frame: int, frames: int) -> Any:
    """`(variables, seen) -> [n, 2, frames, ...]`, rolled and kept."""

    def both(module: nn.Module, image: jax.Array) -> jax.Array:
        posteriors = module.bottleneck.posteriors(module.encode(image))
        # A posterior of mean 0 and log variance 0 is the prior.
        unseen = ((0, 0), (0, frames - image.shape[1]), (0, 0), (0, 0))
        posteriors = jax.tree.map(lambda x: jnp.pad(x, unseen), posteriors)
        t = module.bottleneck.mean_capsules(posteriors)[:, frame]
        steps = range(-frame, frames - frame)
        rolled = jnp.stack([roll_capsules(t, step) for step in steps], axis=1)
        kept = jnp.repeat(t[:, None], frames, axis=1)
        decoded = module.decode(jnp.stack([rolled, kept], axis=1), lead=3)
        return jnp.clip(module.likelihood.mean(decoded), 0, 1)

    return jax.jit(lambda variables, image: model.apply(variables, image, method=both))


def errors(made: np.ndarray, images: np.ndarray, *, seen: int) -> np.ndarray:
    """Mean squared error of each unseen frame, in squared units of [0, 1].

    Args:
      made: `[n, frames, height, width, channels]` in [0, 1].
      images: the true sequences, likewise or uint8.
      seen: the first frames that are not scored.

    Returns:
      `[n, frames - seen]`.
    """
    square = np.square(made[:, seen:] - np.asarray(to_unit(images[:, seen:])))
    return square.mean(axis=(2, 3, 4))


def baselines(images: np.ndarray, *, seen: int) -> dict[str, np.ndarray]:
    """What needs no model: the last seen frame and the mean of the seen ones, for every frame."""
    unit = np.asarray(to_unit(images))
    return {
        "last seen frame": np.broadcast_to(unit[:, seen - 1 : seen], unit.shape),
        "mean of seen": np.broadcast_to(unit[:, :seen].mean(axis=1, keepdims=True), unit.shape),
    }


def compare(
    named: dict[str, runs.Run], images: np.ndarray, factor: np.ndarray, *, seen: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Forecast]]:
    """Scores of every run's forecasts and of the baselines, and the forecasts.

    Args:
      named: runs by the name that their rows get.
      images: true sequences `[n, frames, height, width, channels]`.
      factor: `[n]`, what moves.
      seen: how many frames are encoded.

    Returns:
      For each row "all", the mean squared error over unseen frames, "by_factor", one for each, and
      "by_frame", one for each unseen frame; and each run's forecasts.
    """
    frames = images.shape[1]
    made, forecasts = baselines(images, seen=seen), {}
    for name, run in named.items():
        forecasts[name] = forecast(run, images[:, :seen], frames=frames)
        made[f"{name} rolled"] = forecasts[name].rolled
        made[f"{name} kept"] = forecasts[name].kept
        made[f"{name} seen whole"] = latents.reconstruct(run, images)
    rows = {}
    for name, sequences in made.items():
        error = errors(sequences, images, seen=seen)
        rows[name] = {
            "all": float(error.mean()),
            "by_factor": [float(error[factor == f].mean()) for f in np.unique(factor)],
            "by_frame": error.mean(axis=0).tolist(),
        }
    return rows, forecasts


def marked(images: np.ndarray, *, seen: int) -> np.ndarray:
    """A sequence `[frames, ...]` as uint8 with a border, white for the first `seen` images."""
    drawn = pictures.drawable(images)
    bordered = np.pad(drawn, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    for image in bordered[seen:]:
        for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
            edge[:] = MARK
    return bordered


def animate(
    sequences: Sequence[Sequence[np.ndarray]], path: str | os.PathLike[str], *, zoom: int = 4
) -> None:
    """Writes a GIF of sequences side by side, in rows.

    Args:
      sequences: rows of uint8 `[frames, height, width, 3]`, all of one shape.
      path: of the GIF.
      zoom: each pixel becomes as many squared.
    """
    rows = [np.concatenate(row, axis=2) for row in sequences]  # side by side
    frames = np.concatenate(rows, axis=1).repeat(zoom, axis=1).repeat(zoom, axis=2)
    first, *rest = (Image.fromarray(frame) for frame in frames)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=200, loop=0)


def table(rows: dict[str, dict[str, Any]], factors: Sequence[str]) -> str:
    """The rows' errors over all sequences and by factor, times 1000."""
    width = max(map(len, rows))
    heads = "".join(f"  {name:>12}" for name in ("all", *factors))
    lines = [f"{'1000 x MSE':{width}}{heads}"]
    for name, row in rows.items():
        values = "".join(f"  {1000 * x:>12.3f}" for x in (row["all"], *row["by_factor"]))
        lines.append(f"{name:{width}}{values}")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Scores and draws the forecasts of the run in `--workdir`."""
    workdirs = {"model": flags.FLAGS.workdir}
    if flags.FLAGS.against:
        workdirs["other"] = flags.FLAGS.against
    named = {name: runs.load(workdir) for name, workdir in workdirs.items()}
    data = [run.config.data.to_dict() for run in named.values()]
    for tested in data:
        tested["test_transformations"] = movements_of(tested, "test")
    for name in ("source", "test", "frames", "test_transformations", "holdout", "split_seed"):
        if data[0][name] != data[-1][name]:
            raise UserError(
                f"--against has data.{name}={data[-1][name]!r}, and --workdir {data[0][name]!r}; "
                "both must be of the same test sequences"
            )
    run = named["model"]
    frames = run.config.data.frames
    seen = flags.FLAGS.seen if flags.FLAGS.seen is not None else max(frames - UNSEEN, 1)
    if frames and not 1 <= seen < frames:
        raise UserError(f"--seen is {seen}; the sequences have {frames} frames: give 1 to fewer")
    if not parallel.is_first_process():
        return
    examples = latents.examples(run, limit=SEQUENCES)
    images, factor = examples["image"], examples.get("factor", np.zeros(0))
    rows, forecasts = compare(named, images, factor, seen=seen)

    path = runs.folder(flags.FLAGS.workdir)
    movements = movements_of(run.config.data, "test")
    factors = [movements[f] for f in np.unique(factor)]
    found = {"step": run.step, "sequences": len(images), "seen": seen, "frames": frames}
    found |= {"rolled_frame": forecasts["model"].frame, "factors": factors, "mse": rows}
    write_whole(path / "forecast.json", json.dumps(found, indent=2) + "\n")
    # One sequence of each factor, then the next of each.
    rank = np.array([np.sum(factor[:i] == factor[i]) for i in range(len(factor))])
    shown = np.lexsort([factor, rank])[:SHOWN]
    true = [marked(images[i], seen=seen) for i in shown]
    whole = [marked(made, seen=frames) for made in latents.reconstruct(run, images[shown])]
    made = [marked(forecasts["model"].rolled[i], seen=seen) for i in shown]
    drawn = [path / "pictures" / f"forecast.{kind}" for kind in ("png", "gif")]
    title = f"{run.config.name}: capsules of frame {forecasts['model'].frame + 1}, rolled"
    named_rows = {}
    for i, (above, between, below) in enumerate(zip(true, whole, made, strict=True)):
        named_rows[f"{movements[factor[shown[i]]]} {i + 1}"] = above
        named_rows[f"seen whole {i + 1}"] = between
        named_rows[f"rolled {i + 1}"] = below
    pictures.rows(named_rows, drawn[0], title=f"{title}; framed: not seen")
    animate([true, made], drawn[1])
    print(
        f"{run.config.name}, step {run.step}: {len(images)} test sequences, the first {seen} of "
        f"{frames} frames seen, capsules of frame {forecasts['model'].frame + 1} rolled"
    )
    print(table(rows, factors))
    print("\npictures:", *map(str, drawn), sep="\n  ")


if __name__ == "__main__":
    cli.define_workdir("folder of a trained Topographic VAE")
    flags.DEFINE_string("against", "", "folder of another run on the same sequences")
    flags.DEFINE_integer("seen", None, f"frames encoded; by default all but {UNSEEN}")
    cli.run(main)
