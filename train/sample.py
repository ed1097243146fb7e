"""Draws from a trained prior, decoded: `python -m train.sample --workdir PRIOR --labels 3,7`.

Ancestral sampling (van den Oord et al. 2017, section 3.3): codes from the prior, and images from
the decoder of the run whose codes it was trained on.
"""

import io
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from models import priors
from train import cli, latents, parallel, pictures, runs
from train.data.codes import check_encoder, encoder_of
from train.errors import UserError

MOST_CLASSES = 20  # drawn of when no labels are named


def make_decoder(prior: runs.Run) -> Callable[[np.ndarray], np.ndarray]:
    """What turns a prior's codes `[n, *grid, codebooks]` into what they stand for, in [0, 1].

    Raises:
      UserError: the prior's encoder is not there any more, or has been trained further since.
    """
    place = encoder_of(prior.config.data)
    if not place:
        levels = prior.config.data.levels
        return lambda code: (np.asarray(code) / (levels - 1)).astype(np.float32)
    check_encoder(place, prior.config.data.encoder_checksum)
    run = runs.load(place)
    return lambda code: latents.decode(run, np.asarray(code))


def of_speech(config: ConfigDict) -> bool:
    """Whether a prior's codes are of speech, which `train.speak` draws."""
    place = encoder_of(config.data)
    return bool(place) and bool(runs.read_config(place).model.speech)


def draw_codes(
    prior: runs.Run,
    count: int,
    *,
    label: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Codes drawn from a prior, int32 `[count, *grid, codebooks]`.

    The same for the same seed, whatever other labels are drawn of.

    Args:
      prior: a trained run.
      count: how many.
      label: their class; None for a prior without classes.
      temperature: of the softmax; 1 draws from the prior itself.
      seed: of the draws.
    """
    net, variables = prior.model.net, {"params": prior.variables["params"]["net"]}
    key = jax.random.fold_in(jax.random.key(seed), 0 if label is None else label)
    rows = min(count, latents.BATCH)
    labels = None if label is None else jnp.full((rows,), label, jnp.int32)
    shape = (rows, *prior.config.model.code_shape)
    parts = [
        priors.sample(
            net,
            variables,
            jax.random.fold_in(key, number),
            shape,
            label=labels,
            temperature=temperature,
        )
        for number in range(math.ceil(count / rows))
    ]
    return np.concatenate(parts)[:count]


def labels_of(prior: runs.Run, text: str) -> list[int | None]:
    """The classes that `--labels` names, all of them where it is empty; [None] without classes.

    Raises:
      UserError: a label that is none of the prior's, or too many classes to draw of each.
    """
    classes = prior.config.model.prior.get("classes", 0)
    if not classes:
        if text:
            raise UserError(f"--labels is {text!r}, but {prior.config.name} has no classes")
        return [None]
    if not text:
        if classes > MOST_CLASSES:
            raise UserError(
                f"{prior.config.name} has {classes} classes: name some, as --labels=3,7"
            )
        return list(range(classes))
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not word.isascii() or not word.isdigit() or int(word) >= classes:
            raise UserError(
                f"--labels is {text!r}; {word!r} must be a whole number in 0 .. {classes - 1}, for "
                f"{prior.config.name} has {classes} classes"
            )
    return list(dict.fromkeys(map(int, words)))


def draw_samples(
    prior: runs.Run,
    labels: Sequence[int | None],
    count: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """`count` draws of each of the labels: "code", "image" in [0, 1] and, with classes, "label"."""
    decode = make_decoder(prior)
    options = {"temperature": temperature, "seed": seed}
    code = np.concatenate([draw_codes(prior, count, label=one, **options) for one in labels])
    drawn = {"code": code, "image": decode(code)}
    if labels[0] is not None:
        drawn["label"] = np.repeat(np.array(labels, np.int32), count)
    return drawn


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"--{name} is {value:g}; it must be finite and above 0")


def main(_: list[str]) -> None:
    """Draws a picture for each class, and writes all draws to samples.npz."""
    for name in ("temperature", "samples"):
        _check_positive(name, getattr(flags.FLAGS, name))
    if flags.FLAGS.seed < 0:
        raise UserError(f"--seed is {flags.FLAGS.seed}; it must be 0 or more")
    workdir = flags.FLAGS.workdir
    if not runs.read_config(workdir).model.prior:
        raise UserError(f"{workdir} holds no prior, of which alone one can draw; name a prior's")
    prior = runs.load(workdir)
    if "past" in prior.model.net.conditions:
        raise UserError(
            f"{workdir} holds a prior over video, which draws from a past; python -m train.video "
            "gives it one"
        )
    if of_speech(prior.config):
        raise UserError(f"{workdir} is a prior of speech; draw it with python -m train.speak")
    if not parallel.is_first_process():
        return
    count, temperature = flags.FLAGS.samples, flags.FLAGS.temperature
    labels = labels_of(prior, flags.FLAGS.labels)
    drawn = draw_samples(prior, labels, count, temperature=temperature, seed=flags.FLAGS.seed)
    path = runs.folder(workdir)
    archive = io.BytesIO()
    np.savez(archive, **drawn)
    (path / "samples.npz").write_bytes(archive.getvalue())
    (path / "pictures").mkdir(exist_ok=True)
    files = [path / "samples.npz"]
    for number, label in enumerate(labels):
        of, title = ("", "") if label is None else (f"_{label}", f"class {label}, ")
        files.append(path / "pictures" / f"samples{of}.png")
        pictures.image_grid(
            drawn["image"][number * count : (number + 1) * count],
            files[-1],
            title=f"{prior.config.name}: {title}temperature {temperature:g}",
        )
    print(*files, sep="\n")


if __name__ == "__main__":
    cli.define_workdir("folder of a trained prior")
    flags.DEFINE_string("labels", "", "classes to draw of, as 3,7; all of them by default")
    flags.DEFINE_float("temperature", 1.0, "of the softmax: below 1 likelier codes, above 1 rarer")
    flags.DEFINE_integer("samples", 16, "draws of each class")
    flags.DEFINE_integer("seed", 0, "of the draws")
    cli.run(main)
