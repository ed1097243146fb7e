"""What each partition of a trained latent does to images: `python -m train.partitions --workdir W`.

Draws into `W/pictures`: strips in which one partition is scaled while the others are held (as in
figures 6 and 8 of PartitionVAE's write-up, https://arxiv.org/abs/2302.03689), traversals, swaps
between two images, where in the image each partition acts, and its KL.

A scaled partition changes an image whatever it stands for. So the effect of each is given beside
that of random groups of as many units: where the two are alike, the partitions name nothing.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath

from bottlenecks.gaussian import kl_standard_normal
from bottlenecks.partition import partition_of_units
from train import cli, parallel, partition_pictures, runs
from train.data.pipeline import gather
from train.data.sources import load_source
from train.data.transforms import make_transform
from train.errors import UserError

IMAGES = 64  # of the test split, evenly spaced
GROUPS = 100  # random groups of units beside each partition
FACTORS = (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
DEVIATIONS = (-3, -2, -1, 0, 1, 2, 3)
PAIRS = 6  # of images that swap partitions
STRIPS = 3  # images whose partitions are scaled

Decode = Callable[[np.ndarray], np.ndarray]


class Latents(NamedTuple):
    """Posteriors of some images, and what decodes them.

    Attributes:
      mean: `[images, units]`.
      log_variance: `[images, units]`.
      decode: `[n, units] -> [n, height, width, channels]`, mean images in [0, 1].
      decode_parts: `[n, units] -> [n, K, height, width, channels]` of an additive decoder: the mean
        of the n outputs, and on it what each partition adds to its own mean; else None.
      partitions: sizes d_1 .. d_K.
    """

    mean: np.ndarray
    log_variance: np.ndarray
    decode: Decode
    decode_parts: Decode | None
    partitions: tuple[int, ...]


def main(_: list[str]) -> None:
    """Draws the pictures of the run in `--workdir` and prints a table."""
    workdir = runs.folder(flags.FLAGS.workdir)
    run = runs.load(workdir)
    latents = encode(run)
    kl, effect, null, drawn = draw(workdir / "pictures", latents, title=run.config.name)
    if not parallel.is_first_process():
        return
    low, high = np.quantile(null, (0.025, 0.975), axis=0)
    print(f"{run.config.name}, step {run.step}: {len(latents.mean)} test images")
    print("partition  units  KL, nats  mean change of a value when drawn anew (random groups)")
    for k, size in enumerate(latents.partitions):
        print(f"{k:9}  {size:5}  {kl[k]:8.2f}  {effect[k]:.5f} ({low[k]:.5f} to {high[k]:.5f})")
    print("\npictures:", *map(str, drawn), sep="\n  ")


def encode(run: runs.Run) -> Latents:
    """Posteriors of test images of a run.

    Raises:
      UserError: its bottleneck has no partitions, or has them at every position.
    """
    model, variables, config = run.model, run.variables, run.config
    partitions = getattr(model.bottleneck, "partitions", None)
    if partitions is None:
        raise UserError(
            f"the bottleneck of {config.name} is {type(model.bottleneck).__name__}, which has no "
            "partitions; take a run whose model.bottleneck.name is 'partition'"
        )
    if model.bottleneck.grid:
        raise UserError(
            f"the partitions of {config.name} are at every position of a grid; these pictures are "
            "of partitions of a whole image: model.bottleneck.grid=False"
        )
    source = load_source(config.data, "test")
    rows = np.linspace(0, len(source) - 1, min(IMAGES, len(source))).astype(int)
    images = gather(source, rows, make_transform(config.data, "test"), 0, rows)["image"]
    mean, log_variance = jax.jit(
        lambda v, x: model.apply(
            v, x, method=lambda model, x: model.bottleneck.posterior(model.encode(x))
        )
    )(variables, images)

    def decode(v: Any, z: jax.Array) -> jax.Array:
        return model.likelihood.mean(model.apply(v, z, method="decode"))

    def decode_parts(v: Any, z: jax.Array) -> jax.Array:
        parts = model.apply(v, z, method=lambda model, z: model.decoder.parts(z))
        middle = model.apply(v, z, method="decode").mean(axis=0)
        return model.likelihood.mean(middle + parts - parts.mean(axis=0))

    compiled = jax.jit(decode)
    parts = jax.jit(decode_parts) if hasattr(model.decoder, "parts") else None
    return Latents(
        np.asarray(mean),
        np.asarray(log_variance),
        lambda z: np.asarray(compiled(variables, z)),
        None if parts is None else lambda z: np.asarray(parts(variables, z)),
        tuple(partitions),
    )


# ---------------------------------------------------------------- latents


def scaled(mean: np.ndarray, partitions: tuple[int, ...]) -> np.ndarray:
    """One mean `[units]` with one partition times each factor: `[K, factors, units]`."""
    part = partition_of_units(partitions)
    mine = part == np.arange(len(partitions))[:, None]  # [K, units]
    factors = np.asarray(FACTORS, np.float32)[None, :, None]
    return np.where(mine[:, None], factors * mean, mean).astype(np.float32)


def swapped(mean: np.ndarray, other: np.ndarray, partitions: tuple[int, ...]) -> np.ndarray:
    """One mean `[units]` with one partition of another's: `[K, units]`."""
    mine = partition_of_units(partitions) == np.arange(len(partitions))[:, None]
    return np.where(mine, other, mean).astype(np.float32)


def traversed(at: np.ndarray, means: np.ndarray, partitions: tuple[int, ...]) -> np.ndarray:
    """A mean `[units]` with one partition moved along the axis on which `means` vary most.

    Returns:
      `[K, deviations, units]`: the partition stands at its mean over `means` `[images, units]` plus
      so many standard deviations of its first principal component; the others are those of `at`.
    """
    part, rows = partition_of_units(partitions), []
    for k in range(len(partitions)):
        own = means[:, part == k].astype(np.float64)
        centre = own.mean(axis=0)
        _, sizes, axes = np.linalg.svd(own - centre, full_matrices=False)
        step = axes[0] * sizes[0] / np.sqrt(len(own))
        row = np.tile(at, (len(DEVIATIONS), 1)).astype(np.float32)
        row[:, part == k] = centre + np.outer(DEVIATIONS, step)
        rows.append(row)
    return np.stack(rows)


def drawn_anew(latents: Latents, units: np.ndarray, seed: int) -> np.ndarray:
    """The means with some units drawn from the posterior of the next image: `[images, units]`.

    Args:
      latents: of the images.
      units: bool `[units]`, which ones.
      seed: of the noise.
    """
    noise = np.random.default_rng(seed).standard_normal(latents.mean.shape)
    draws = latents.mean + np.exp(0.5 * latents.log_variance) * noise
    other = np.roll(draws, 1, axis=0)
    return np.where(units, other, latents.mean).astype(np.float32)


# ---------------------------------------------------------------- measures


def effect_maps(latents: Latents) -> np.ndarray:
    """Where each partition acts: `[K, height, width, channels]`.

    Mean absolute change of the decoded image, in units of [0, 1], when the partition is drawn from
    the posterior of another image.
    """
    base = latents.decode(latents.mean)
    part = partition_of_units(latents.partitions)
    return np.stack(
        [
            np.abs(latents.decode(drawn_anew(latents, part == k, 0)) - base).mean(axis=0)
            for k in range(len(latents.partitions))
        ]
    )


def null_effects(latents: Latents) -> np.ndarray:
    """The mean of the effect map for random groups of units of the same sizes: `[GROUPS, K]`."""
    base = latents.decode(latents.mean)
    part, rng = partition_of_units(latents.partitions), np.random.default_rng(0)
    found = np.empty((GROUPS, len(latents.partitions)))
    for g in range(GROUPS):
        shuffled = rng.permutation(part)
        for k in range(len(latents.partitions)):
            changed = latents.decode(drawn_anew(latents, shuffled == k, g))
            found[g, k] = np.abs(changed - base).mean()
    return found


# ---------------------------------------------------------------- pictures


def draw(
    folder: epath.Path, latents: Latents, *, title: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[epath.Path]]:
    """Draws everything into a folder.

    Returns:
      KL of each partition `[K]` nats, its effect `[K]`, that of random groups `[GROUPS, K]`, and
      the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Drawn beside, then copied: a workdir in a bucket has no file names that matplotlib knows.
    with tempfile.TemporaryDirectory() as local:
        kl, effect, null = _draw(Path(local), latents, title)
        drawn = sorted(Path(local).glob("*.png"))
        for file in drawn:
            (folder / file.name).write_bytes(file.read_bytes())
    return kl, effect, null, [folder / file.name for file in drawn]


def _draw(folder: Path, latents: Latents, title: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, _, decode, decode_parts, sizes = latents
    K = len(sizes)
    names = [f"partition {k}\n{size} unit{'s' * (size > 1)}" for k, size in enumerate(sizes)]

    def images(z: np.ndarray) -> np.ndarray:
        shown = decode(z.reshape(-1, z.shape[-1]))
        return shown.reshape(*z.shape[:-1], *shown.shape[1:])

    several = mean[:: max(1, len(mean) // STRIPS)][:STRIPS]
    partition_pictures.strips(
        images(np.concatenate([scaled(z, sizes) for z in several])),
        folder / "partition_scaling.png",
        rows=names * len(several),
        columns=[f"x {factor:g}" for factor in FACTORS],
        rows_together=K,
        title=f"{title}: one partition of a test image scaled, the others held",
    )
    partition_pictures.strips(
        images(traversed(several[0], mean, sizes)),
        folder / "partition_traversals.png",
        rows=names,
        columns=[f"{value:+} sd" if value else "mean" for value in DEVIATIONS],
        title=f"{title}: one partition moved along its first principal axis",
    )
    first, second = mean[:PAIRS], mean[len(mean) // 2 :][:PAIRS]
    pairs = [np.stack([a, b, *swapped(a, b, sizes)]) for a, b in zip(first, second, strict=False)]
    partition_pictures.strips(
        images(np.stack(pairs)),
        folder / "partition_swaps.png",
        rows=[f"pair {i}" for i in range(len(pairs))],
        columns=["a", "b", *(f"a, {k} of b" for k in range(K))],
        title=f"{title}: image a with one partition of image b",
    )
    if decode_parts is not None:
        parts = np.concatenate([decode(mean)[:, None], decode_parts(mean)], axis=1)
        parts = parts[:: max(1, len(mean) // PAIRS)][:PAIRS]
        partition_pictures.strips(
            parts,
            folder / "partition_parts.png",
            rows=[f"image {i}" for i in range(len(parts))],
            columns=["all", *map(str, range(K))],
            title=f"{title}: what each partition adds to the mean",
        )
    maps, null = effect_maps(latents), null_effects(latents)
    effect = maps.mean(axis=(1, 2, 3))
    partition_pictures.effect_maps(
        maps,
        folder / "partition_effects.png",
        columns=[f"{k}" for k in range(K)],
        title=f"{title}: where each partition acts",
    )
    per_unit = np.asarray(kl_standard_normal(mean, latents.log_variance)).mean(axis=0)
    kl = np.bincount(partition_of_units(sizes), per_unit)
    partition_pictures.effects(kl, effect, null, folder / "partition_kl.png", sizes=sizes)
    return kl, effect, null


if __name__ == "__main__":
    cli.define_workdir("folder of the run to look at")
    cli.run(main)
