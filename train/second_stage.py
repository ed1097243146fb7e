"""What a few latents hold of a whole frame: `python -m train.second_stage --workdir W`.

W is the run of a second stage, such as second_stage_pong: frames become codes by the run W was
trained on, these codes become W's few latents (of van den Oord et al. 2017, section 4.2: three of
K=512, 27 bits), and from these alone codes are drawn again, and decoded by the first run.

Prints
- bits of a frame: nominal, and the entropy of what all held-out frames use of each codebook;
and of some of these frames, evenly spaced,
- nats per code, -log p(codes | latents) over the number of codes, given the frame's own latents,
  beside those of another frame, and beside no latents at all: each position's codes by themselves,
  with their frequencies in training (unigram; each count raised by 1/2);
- PSNR, of the mean squared error over all of them, of what is drawn from their latents, beside
  what the first run makes of their true codes, another frame, and the mean training frame.

Writes `W/second_stage.json` and pictures/second_stage.png.
"""

import json
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from models.likelihoods import to_unit
from models.second_stage import draw_codes
from train import cli, latents, parallel, pictures, runs
from train.data import codes
from train.data.sources import load_source
from train.data.statistics import data_statistics
from train.data.transforms import make_transform
from train.errors import UserError
from train.metrics.codes import entropy_bits
from train.metrics.image import psnr_of_error
from train.writers import write_whole

FRAMES = 200  # of which codes are measured and drawn
GREEDY = 0.01  # temperature at which the likeliest code is all but certain
BATCH = 64
SHOWN = 8


class HeldOut(NamedTuple):
    """The test frames of the first run.

    Attributes:
      image: `[n, height, width, channels]`, as that run sees them.
      code: int32 `[n, *grid, codebooks]`, what it makes of them.
      latent_code: int32 `[n, latents]`, what the second stage makes of those.
    """

    image: np.ndarray
    code: np.ndarray
    latent_code: np.ndarray


def load_stages(workdir: str) -> tuple[runs.Run, runs.Run]:
    """The runs of the second stage in `workdir` and of the first.

    Raises:
      UserError: there is no second stage over another run's codes, or that run has moved on.
    """
    config = runs.read_config(workdir)
    place = codes.encoder_of(config.data)
    if not config.model.second_stage or not place:
        raise UserError(
            f"{workdir} is a run of {config.name}, no second stage over the codes of another run; "
            "give it one such as second_stage_pong"
        )
    codes.check_encoder(place, config.data.encoder_checksum)
    return runs.load(workdir), runs.load(place)


def held_out(second: runs.Run, first: runs.Run) -> HeldOut:
    """The test frames, their codes and the latents of these."""
    image = first.images()
    code = codes.load(codes.encoder_of(second.config.data))["test"]
    code = code[np.arange(len(code))]["code"]
    return HeldOut(image, code, latents_of(second, code))


def latents_of(second: runs.Run, code: np.ndarray) -> np.ndarray:
    """The latents of codes `[n, *grid, codebooks]`, int32 `[n, latents]`."""

    def squeeze(module: Any, code: jax.Array) -> jax.Array:
        return module.bottleneck(module.encode(code), train=False).code

    apply = jax.jit(partial(second.model.apply, method=squeeze))
    return latents.in_batches(apply, second.variables, code)


def nats_per_code(second: runs.Run, code: np.ndarray, latent_code: np.ndarray) -> np.ndarray:
    """-log p(codes | latents) over the number of codes, `[n]`."""
    shape, number = code.shape[1:], math.prod(code.shape[1:])

    def mean(variables: Any, both: jax.Array) -> jax.Array:
        code, latent = both[:, :number], both[:, number:]
        grids = code.reshape(-1, *shape)
        return -second.model.apply(variables, grids, latent, method="log_prob") / number

    both = np.concatenate([code.reshape(len(code), -1), latent_code], axis=1)
    return latents.in_batches(jax.jit(mean), second.variables, both)


def unigram_nats_per_code(train: np.ndarray, test: np.ndarray, *, codes: int) -> np.ndarray:
    """Nats per code of grids whose positions are independent, each with a table of its own, `[n]`.

    Args:
      train: int `[m, *grid, codebooks]`: the tables are its frequencies, each count raised by 1/2
        (Krichevsky & Trofimov 1981).
      test: int `[n, *grid, codebooks]`.
      codes: K.
    """
    train, test = (code.reshape(len(code), -1) for code in (train, test))
    nats = np.zeros(len(test))
    for seen, new in zip(train.T, test.T, strict=True):
        counts = np.bincount(seen, minlength=codes) + 0.5
        nats -= np.log(counts / counts.sum())[new]
    return nats / test.shape[1]


def drawn(
    second: runs.Run, latent_code: np.ndarray, *, temperature: float, seed: int = 0
) -> np.ndarray:
    """Codes of the first stage drawn given latents `[n, latents]`, int32 `[n, *grid, codebooks]`.

    Args:
      second: a run of a second stage.
      latent_code: of each grid to draw.
      temperature: of the draws.
      seed: of the random numbers; the same for the same place in `latent_code`.
    """
    parts = []
    for start in range(0, len(latent_code), BATCH):
        some = latent_code[start : start + BATCH]
        padded = np.concatenate([some, np.repeat(some[-1:], BATCH - len(some), axis=0)])
        key = jax.random.fold_in(jax.random.key(seed), start)
        code = draw_codes(second.model, second.variables, key, padded, temperature=temperature)
        parts.append(np.asarray(code)[: len(some)])
    return np.concatenate(parts)


def measure(
    second: runs.Run,
    first: runs.Run,
    frames: HeldOut,
    train_code: np.ndarray,
    mean_image: np.ndarray,
    *,
    samples: int,
    temperature: float,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the command prints, and rows of images by name.

    Args:
      second: the run of the second stage.
      first: the run of its codes.
      frames: held-out.
      train_code: codes of the training frames, `[m, *grid, codebooks]`.
      mean_image: of the training frames, in [0, 1].
      samples: frames to measure and draw, evenly spaced.
      temperature: of the draws that are not greedy.
    """
    # Half of all frames away: in another episode, as a rule.
    other = np.roll(np.arange(len(frames.code)), len(frames.code) // 2)
    K = second.model.bottleneck.codes
    uses = np.stack([np.bincount(column, minlength=K) for column in frames.latent_code.T])
    entropy = entropy_bits(uses)
    bits = {
        "nominal": uses.shape[0] * math.log2(K),
        "entropy_of_codebooks": entropy.tolist(),
        "entropy": float(entropy.sum()),
        "codes_in_use": (uses > 0).sum(axis=1).tolist(),
    }
    chosen = np.linspace(0, len(frames.code) - 1, min(samples, len(frames.code))).astype(int)
    image = np.asarray(to_unit(frames.image[chosen]))
    code, latent_code = frames.code[chosen], frames.latent_code[chosen]
    first_codes = second.model.pixelcnn.codes
    nats = {
        "own_latents": nats_per_code(second, code, latent_code),
        "latents_of_another_frame": nats_per_code(second, code, frames.latent_code[other[chosen]]),
        "unigram_of_each_position": unigram_nats_per_code(train_code, code, codes=first_codes),
    }
    rows = {
        "original": image,
        "first stage": latents.decode(first, code),
        "drawn": latents.decode(first, drawn(second, latent_code, temperature=temperature)),
        "greedy": latents.decode(first, drawn(second, latent_code, temperature=GREEDY)),
        "another frame": np.asarray(to_unit(frames.image[other[chosen]])),
        "mean frame": np.broadcast_to(mean_image, image.shape),
    }
    found = {
        "held_out": len(frames.code),
        "bits_per_frame": bits,
        "frames": len(chosen),
        "nats_per_code": {name: float(np.mean(each)) for name, each in nats.items()},
        "psnr": {name: psnr(row, image) for name, row in rows.items() if name != "original"},
    }
    return found, rows


def psnr(image: np.ndarray, true: np.ndarray) -> float:
    """Of the mean squared error over all images `[n, ...]` in [0, 1], dB."""
    error = np.square(image - true, dtype=np.float64).mean()
    return float(psnr_of_error(error))


def table(found: dict[str, Any]) -> str:
    """The figures, in rows."""
    bits = found["bits_per_frame"]
    each = " + ".join(f"{h:.2f}" for h in bits["entropy_of_codebooks"])
    lines = [
        f"{'bits per frame, nominal':32}{bits['nominal']:8.1f}",
        f"{'entropy of the codes in use':32}{bits['entropy']:8.2f}  = {each}",
        "nats per code of the first stage",
    ]
    for name, value in found["nats_per_code"].items():
        lines.append(f"  {name.replace('_', ' '):30}{value:8.4f}")
    lines.append("PSNR, dB")
    lines += [f"  {name:30}{value:8.2f}" for name, value in found["psnr"].items()]
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Measures and draws the second stage in `--workdir`."""
    workdir, samples, temperature = (
        getattr(flags.FLAGS, name) for name in ("workdir", "samples", "temperature")
    )
    second, first = load_stages(workdir)
    if not parallel.is_first_process():
        return
    data = first.config.data
    mean_image = data_statistics(
        load_source(data, "train"), make_transform(data, "train")
    ).mean_image
    train_code = codes.load(codes.encoder_of(second.config.data))["train"]
    found, rows = measure(
        second,
        first,
        held_out(second, first),
        train_code[np.arange(len(train_code))]["code"],
        mean_image,
        samples=samples,
        temperature=temperature,
    )
    found |= {"step": second.step, "temperature": temperature}
    path = runs.folder(workdir)
    write_whole(path / "second_stage.json", json.dumps(found, indent=2) + "\n")
    count = found["frames"]
    places = np.linspace(0, count - 1, min(SHOWN, count)).astype(int)
    nominal = f"{found['bits_per_frame']['nominal']:g} bits"
    shown = {
        "original": rows["original"],
        "first stage": rows["first stage"],
        f"{nominal}, drawn": rows["drawn"],
        f"{nominal}, greedy": rows["greedy"],
    }
    title = f"{second.config.name}: frames from {nominal}, temperature {temperature:g}"
    (path / "pictures").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as local:  # a bucket has no file names matplotlib knows
        file = Path(local) / "second_stage.png"
        pictures.rows({name: row[places] for name, row in shown.items()}, file, title=title)
        (path / "pictures" / file.name).write_bytes(file.read_bytes())
    name = second.config.name
    print(f"{name}, step {second.step}: {found['held_out']} held-out frames, {count} drawn")
    print(table(found))
    print("\npictures:", path / "pictures" / "second_stage.png", sep="\n  ")


if __name__ == "__main__":
    cli.define_workdir("folder of a trained second stage")
    flags.DEFINE_integer("samples", FRAMES, "frames to measure and draw", lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "of the draws", lower_bound=1e-6)
    cli.run(main)
