"""Video continued from its first frames, in codes alone: `python -m train.video --workdir W`.

W is the run of a prior over video, such as video_pong. It sees as many frames as it was trained to
(van den Oord et al. 2017, section 4.4: six), and draws the ten after them, each from those before
it, without a look at a pixel; the run whose codes they are then decodes them, frame by frame.

Prints, for frames after the last seen one of held-out episodes, whose actions are given,
- PSNR, of the mean squared error over all windows;
- the share of codes that are the true ones, and of those where the truth has left the last seen
  frame: standing still gets none of these;
drawn from the prior and nearly greedily, beside the last seen frame, copied, what the true codes
decode to, and with `--against` another prior, such as one without actions.

Then control, of games with a paddle: from the same pasts, with the same random numbers, actions
that would move the own paddle one way, the other way, or not. Its place is read in the decoded
pixels, by a detector that is held against the RAM here too; the share of moves that are as told is
beside chance, 1/3.

Writes `W/video.json`, and pictures: video.png, video.gif and, of control, control.png.
"""

import json
from typing import Any

import numpy as np
from absl import flags

from train import cli, forecast, parallel, pictures, runs, steering
from train.continuation import Footage, continue_codes, decode, held_out, load_prior
from train.data import codes
from train.data.windows import window_starts
from train.errors import UserError
from train.metrics.image import psnr_of_error
from train.writers import write_whole

UNSEEN = 10  # frames drawn
WINDOWS = 200
GREEDY = 0.01  # temperature at which the likeliest code is all but certain
SHOWN = 4


def by_horizon(
    image: np.ndarray, true: np.ndarray, code: np.ndarray | None, true_code: np.ndarray
) -> dict[str, list[float]]:
    """Figures of drawn frames for each frame after the last seen one.

    Args:
      image: drawn, `[n, frames, height, width, channels]` in [0, 1].
      true: likewise.
      code: drawn, `[n, frames, *grid, codebooks]`; None for what has no codes.
      true_code: `[n, 1 + frames, *grid, codebooks]`, from the last seen frame on.

    Returns:
      "psnr", dB, of the mean squared error over windows and pixels; "accuracy", the share of codes
      that are the true ones; "changed_accuracy", of those that differ from the last seen frame's.
    """
    error = np.square(image - true).mean(axis=(0, 2, 3, 4))
    found = {"psnr": psnr_of_error(error).tolist()}
    if code is not None:
        last, truth = true_code[:, :1], true_code[:, 1:]
        right, changed = code == truth, truth != last
        axes = (0, *range(2, code.ndim))
        found["accuracy"] = right.mean(axis=axes).tolist()
        changes = np.maximum(changed.sum(axis=axes), 1)
        found["changed_accuracy"] = ((right & changed).sum(axis=axes) / changes).tolist()
    return found


def continuations(
    named: dict[str, runs.Run],
    encoder: runs.Run,
    footage: Footage,
    *,
    windows: int,
    temperature: float,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures by horizon of each prior and of what needs none; images of whole windows by name.

    Args:
      named: priors by the name that their rows get.
      encoder: the run of their codes.
      footage: held-out.
      windows: how many are drawn from, evenly spaced.
      temperature: of the draws that are not greedy.
    """
    seen = next(iter(named.values())).config.data.frames - 1
    arrays = footage.arrays
    starts = window_starts(arrays["episode"], arrays["frame"], seen + UNSEEN)
    if not len(starts):
        raise UserError(f"no held-out episode has {seen + UNSEEN} frames")
    starts = starts[np.linspace(0, len(starts) - 1, min(windows, len(starts))).astype(int)]
    rows = starts[:, None] + np.arange(seen + UNSEEN)
    code, true = arrays["code"][rows], footage.images(rows)
    past = code[:, :seen]
    action = arrays["action"][rows[:, :-1]] if "action" in arrays else None
    images = {"truth": true, "true codes": decode(encoder, code)}
    figures = {}

    def measure(name: str, image: np.ndarray, drawn: np.ndarray | None) -> None:
        figures[name] = by_horizon(image, true[:, seen:], drawn, code[:, seen - 1 :])

    measure("true codes", images["true codes"][:, seen:], code[:, seen:])
    last = np.repeat(code[:, seen - 1 : seen], UNSEEN, axis=1)
    measure("last seen frame", np.repeat(true[:, seen - 1 : seen], UNSEEN, axis=1), last)
    for name, run in named.items():
        for way, degree in (("drawn", temperature), ("greedy", GREEDY)):
            drawn = continue_codes(run, past, action, frames=UNSEEN, temperature=degree)
            image = decode(encoder, drawn)
            measure(f"{name}, {way}", image, drawn)
            images[f"{name}, {way}"] = np.concatenate([true[:, :seen], image], axis=1)
    return {"windows": len(starts), "seen": seen, "by_horizon": figures}, images


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """The figures by horizon, in rows."""
    width = max(map(len, figures))
    lines = []
    for figure, form in (("psnr", "7.2f"), ("accuracy", "7.3f"), ("changed_accuracy", "7.3f")):
        horizon = "".join(f"{h + 1:>7}" for h in range(UNSEEN))
        lines.append(f"{figure.replace('_', ' ') + ', frame':{width}}{horizon}")
        for name, row in figures.items():
            lines.append(f"{name:{width}}" + "".join(format(x, form) for x in row[figure]))
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Measures and draws the continuations of the prior in `--workdir`."""
    workdir, against = flags.FLAGS.workdir, flags.FLAGS.against
    named = {"prior": load_prior(workdir)}
    if against:
        named["against"] = load_prior(against)
        for name in ("source", "frames", "encoder_checksum"):
            ours, theirs = (run.config.data[name] for run in named.values())
            if ours != theirs:
                raise UserError(
                    f"--against has data.{name}={theirs!r}, and --workdir {ours!r}; both must be "
                    "of the same codes"
                )
    if not parallel.is_first_process():
        return
    run = named["prior"]
    place = codes.encoder_of(run.config.data)
    encoder = runs.load(place)
    footage = held_out(encoder, place)
    options = {"windows": flags.FLAGS.samples, "temperature": flags.FLAGS.temperature}
    found, images = continuations(named, encoder, footage, **options)
    source, moved = encoder.config.data.source, {}
    if source.startswith("game:"):
        found["control"], moved = steering.control(named, encoder, footage, **options)
    found |= {"step": run.step, "temperature": flags.FLAGS.temperature}
    path = runs.folder(workdir)
    write_whole(path / "video.json", json.dumps(found, indent=2) + "\n")
    drawn = draw(images, moved, path / "pictures", seen=found["seen"], title=run.config.name)
    print(
        f"{run.config.name}, step {run.step}: {found['windows']} windows of held-out episodes, "
        f"{found['seen']} frames seen, temperature {flags.FLAGS.temperature:g}"
    )
    print(table(found["by_horizon"]))
    if "control" in found:
        print("", steering.table(found["control"], list(named)), sep="\n")
    else:
        print(f"\ncontrol: not tested; {source} is no game with a paddle to steer")
    print("\npictures:", *map(str, drawn), sep="\n  ")


def draw(
    images: dict[str, np.ndarray],
    moved: dict[str, np.ndarray],
    folder: Any,
    *,
    seen: int,
    title: str,
) -> list[Any]:
    """Pictures of windows: the truth above what was drawn, and one past with every action.

    Args:
      images: whole windows by name, as `continuations` gives them.
      moved: likewise, as `control` does; without any, there is no picture of it.
      folder: for the pictures.
      seen: frames, which have a white border, and drawn ones another.
      title: above the pictures.
    """
    names = [name for name in images if name == "truth" or name.endswith("drawn")]
    shown = np.linspace(0, len(images["truth"]) - 1, SHOWN + 2).astype(int)[1:-1]
    borders = {name: len(images["truth"][0]) if name == "truth" else seen for name in names}
    cells = {
        f"{name} {i + 1}": forecast.marked(images[name][row], seen=borders[name])
        for i, row in enumerate(shown)
        for name in names
    }
    drawn = [folder / "video.png", folder / "video.gif"]
    pictures.rows(cells, drawn[0], title=f"{title}; framed: drawn")
    strips = list(cells.values())
    forecast.animate([strips[i :: len(names)] for i in range(len(names))], drawn[1])
    if not moved:
        return drawn
    drawn.append(folder / "control.png")
    middle = len(next(iter(moved.values()))) // 2
    told = {name: forecast.marked(image[middle], seen=seen) for name, image in moved.items()}
    pictures.rows(told, drawn[2], title=f"{title}; framed: drawn, by action")
    return drawn


if __name__ == "__main__":
    cli.define_workdir("folder of a trained prior over video")
    flags.DEFINE_string("against", "", "folder of another prior over the same codes")
    flags.DEFINE_integer("samples", WINDOWS, "windows to draw from", lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "of the draws", lower_bound=1e-6)
    cli.run(main)
