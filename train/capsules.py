"""What the units of a Topographic VAE share: `python -m train.capsules --workdir W`.

Draws into `W/pictures`, after Keller & Welling 2021, https://arxiv.org/abs/2109.01394, and what
their release logs:

- capsule_weights.png: W, as the model applies it;
- capsule_covariance.png: correlations of t^2 over test examples, between the units of a frame, and
  of sequences also between the frames and places of a capsule, the mean over capsules. Below are
  those of draws from the prior: what W does whatever was learned;
- of single images on a torus, as in Figure 3: torus_images.png, the test image at which each unit
  is largest, and torus_classes.png, the class that each unit tells from the others.

t is one draw for each example, as released. Neighbours on the torus that tell the same class are
counted, beside the same units in random orders. That they agree more often than those is W's doing,
for neighbours share most of their energy; that units tell a class at all is learned. The figures go
to `W/capsules.json`.

Capsules rolled into frames that were not seen are drawn by `train.forecast`.
"""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from train import capsule_pictures, cli, latents, parallel, pictures, runs
from train.errors import UserError
from train.metrics import topography
from train.writers import write_whole

SEQUENCES = 500  # of the test split
IMAGES = 10_000  # of a torus
ORDERS = 1000  # random ones, of the units


class Draws(NamedTuple):
    """One draw of the capsules t for each example.

    Attributes:
      posterior: `[n, (frames,) capsules, places]`, of z and u given the images.
      prior: likewise, of standard normal z and u through the same W and mu.
    """

    posterior: np.ndarray
    prior: np.ndarray


class Torus(NamedTuple):
    """What the units of a torus stand for.

    Attributes:
      best: int `[capsules, places]`, the example at which |t| is largest.
      told: int `[capsules, places]`, the class that the unit tells from the others, -1 for none.
      agreement: share of neighbours that tell the same class, of those that both tell one.
        NaN where there are none.
      in_random_order: `[ORDERS]`, the same of the units in random orders.
    """

    best: np.ndarray
    told: np.ndarray
    agreement: float
    in_random_order: np.ndarray


def draw(run: runs.Run, images: np.ndarray) -> Draws:
    """Draws the capsules of images, or of sequences `[n, frames, height, width, channels]`.

    Raises:
      UserError: the run's model has no capsules.
    """
    if not hasattr(run.model.bottleneck, "student_t"):
        raise UserError(
            f"{run.config.name} has no capsules to look at; give it the folder of a Topographic "
            "VAE, such as topographic_vae_digits"
        )

    drawn = _drawer(run.model)
    parts = [
        drawn(run.variables, images[start : start + latents.BATCH], jax.random.key(start))
        for start in range(0, len(images), latents.BATCH)
    ]
    return Draws(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@functools.cache
def _drawer(model: nn.Module) -> Any:
    """`(variables, images, key) -> [posterior, prior]`."""

    def both(module: nn.Module, image: jax.Array, key: jax.Array) -> list[jax.Array]:
        bottleneck = module.bottleneck
        q = bottleneck.posteriors(module.encode(image))
        # A posterior of mean 0 and log variance 0 is the prior.
        return [
            bottleneck.student_t(*bottleneck.draw(posteriors, jax.random.fold_in(key, i)))
            for i, posteriors in enumerate((q, jax.tree.map(jnp.zeros_like, q)))
        ]

    return jax.jit(lambda variables, image, key: model.apply(variables, image, key, method=both))


def shared(t: np.ndarray) -> tuple[list[np.ndarray], dict[str, float]]:
    """How t^2 of a unit goes with that of others.

    Args:
      t: `[n, (S,) C, D]`.

    Returns:
      Correlations to draw: between units `[C D, C D]`, and of sequences between frames and places
      of a capsule `[S D, S D]`, and the mean of those by distance `[S, D]`. And single figures. Of
      a torus: next_unit, the mean of both directions, and opposite_unit, half of both axes away.
      Of sequences: next_place; next_frame, of the same place in two frames that follow each other,
      and next_frame_and_place, of a place and the next one in the next frame; other_capsules, the
      mean absolute value.
    """
    C, D = t.shape[-2:]
    units = topography.covariance_of_units(t)
    if t.ndim == 3:
        by = topography.by_offset(units, C, D)
        near = (by[0, 1 % D] + by[1 % C, 0]) / 2
        return [units], {"next_unit": near, "opposite_unit": by[C // 2, D // 2]}
    S = t.shape[1]
    over_time = topography.covariance_over_time(t)
    by = topography.by_offset(over_time, S, D)
    others = np.kron(1 - np.eye(C), np.ones((D, D)))
    return [units, over_time, by], {
        "next_place": by[0, 1 % D],
        "next_frame": by[1 % S, 0],
        "next_frame_and_place": by[1 % S, 1 % D],
        "other_capsules": (np.abs(units) * others).sum() / max(others.sum(), 1),
    }


def on_torus(t: np.ndarray, label: np.ndarray) -> Torus:
    """What the units of t `[n, capsules, places]` stand for; label is int `[n]`."""
    flat = t.reshape(len(t), -1)
    told = topography.told_classes(topography.selectivity(flat, label)).reshape(t.shape[1:])
    random = np.random.default_rng(0)
    orders = [random.permutation(told.ravel()).reshape(told.shape) for _ in range(ORDERS)]
    return Torus(
        best=np.abs(flat).argmax(axis=0).reshape(told.shape),
        told=told,
        agreement=topography.agreement(told),
        in_random_order=np.array([topography.agreement(order) for order in orders]),
    )


def main(_: list[str]) -> None:
    """Measures and draws the capsules of the run in `--workdir`."""
    path = runs.folder(flags.FLAGS.workdir)
    run = runs.load(flags.FLAGS.workdir)
    if not parallel.is_first_process():
        return
    frames, bottleneck = run.config.data.frames, run.model.bottleneck
    examples = latents.examples(run, limit=SEQUENCES if frames else IMAGES)
    draws = draw(run, examples["image"])
    found: dict[str, Any] = {"step": run.step, "examples": len(draws.posterior)}
    found["kernel"] = bottleneck.kernel
    print(f"{run.config.name}, step {run.step}: {found['examples']} test examples")

    (path / "pictures").mkdir(parents=True, exist_ok=True)
    # Drawn beside, then copied: a workdir in a bucket has no file names that matplotlib knows.
    with tempfile.TemporaryDirectory() as local:
        folder = Path(local)
        if bottleneck.kernel == "none":
            print("kernel none: t = z, there is no W")
        else:
            found |= _weights(run, folder)
        found |= _covariance(run, draws, folder)
        if not frames and "label" in examples:
            found |= _torus(run, draws.posterior, examples, folder)
        drawn = sorted(folder.glob("*.png"))
        for file in drawn:
            (path / "pictures" / file.name).write_bytes(file.read_bytes())
    write_whole(path / "capsules.json", json.dumps(found, indent=2) + "\n")
    print("\npictures:", *(path / "pictures" / file.name for file in drawn), sep="\n  ")


def _weights(run: runs.Run, folder: Path) -> dict[str, Any]:
    w = topography.weights(run.model.bottleneck, run.config.data.frames)
    taps = topography.taps(w)
    mu = float(run.variables["params"]["bottleneck"]["mu"])
    print(f"kernel {run.model.bottleneck.kernel}: {len(taps)} taps; mu {mu:.2f}")
    capsule_pictures.weights(
        w,
        taps,
        folder / "capsule_weights.png",
        rows="frame" if run.config.data.frames else "capsule",
        title=f"{run.config.name}, kernel {run.model.bottleneck.kernel}: {len(taps)} taps",
    )
    return {"mu": mu, "taps": taps.tolist()}


def _covariance(run: runs.Run, draws: Draws, folder: Path) -> dict[str, Any]:
    (matrices, values), (null, null_values) = map(shared, draws)
    print(f"{'correlation of t^2':22}{'posterior':>10}  {'prior':>10}")
    for name, value in values.items():
        print(f"{name:22}{value:>10.4f}  {null_values[name]:>10.4f}")
    capsule_pictures.covariance(
        {"test examples": matrices, "prior": null},
        folder / "capsule_covariance.png",
        places=run.model.bottleneck.places,
        title=f"{run.config.name}: correlations of t^2, the diagonal 0",
    )
    return {"correlation": {"posterior": values, "prior": null_values}}


def _torus(
    run: runs.Run, t: np.ndarray, examples: dict[str, np.ndarray], folder: Path
) -> dict[str, Any]:
    torus = on_torus(t, examples["label"])
    name = run.config.name
    names = [str(label) for label in np.unique(examples["label"])]
    found: dict[str, Any] = {"classes": names, "told": torus.told.tolist()}
    print(f"{(torus.told >= 0).sum()} of {torus.told.size} units tell a class")
    if np.isfinite(torus.agreement):
        low, middle, high = np.nanquantile(torus.in_random_order, (0.025, 0.5, 0.975)).tolist()
        print(
            f"of neighbours that both do, {torus.agreement:.3f} tell the same; in random order "
            f"{middle:.3f}, 95 % from {low:.3f} to {high:.3f}"
        )
        found["agreement"] = torus.agreement
        found["agreement_in_random_order"] = {"low": low, "median": middle, "high": high}
    pictures.image_grid(
        examples["image"][torus.best.ravel()],
        folder / "torus_images.png",
        columns=torus.best.shape[1],
        title=f"{name}: the test image at which each unit's |t| is largest",
    )
    capsule_pictures.classes(
        torus.told,
        folder / "torus_classes.png",
        names=names,
        title=f"{name}: class that a unit tells, d' of {topography.THRESHOLD} or more",
    )
    return found


if __name__ == "__main__":
    cli.define_workdir("folder of a trained Topographic VAE")
    cli.run(main)
