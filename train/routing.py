"""What the routed capsules of a run do: `python -m train.routing --workdir W`.

For a CV-VAE or CVGAN (Pucci et al. 2022) draws into `W/pictures`, of test images:

- capsule_maps.png: images, their reconstructions and index maps, the longest capsule argmax_j |v_j|
  at each position;
- capsule_scales.png: an image decoded again with one capsule at all positions 0, 0.5, 1, 1.5 and 2
  times as long, and what its absence takes away;
- capsule_draws.png: the same absence over several images;
- coupling.png: the coupling coefficients c_ij of some positions after each iteration;
- patch_logits.png, of a run with an adversary: what the discriminator holds of each patch of the
  images and of their reconstructions.

Prints, and writes to `W/routing.json`, the entropy of the couplings over that of uniform ones after
each iteration (1: nothing is routed), and for each capsule how often it is the longest, its mean
length, and the error that its absence adds to the reconstruction.

The layer as released has one output capsule: no index maps there, and what is scaled are its input
capsules' norms, a map of each of its P channels. What clusters have in common with labels is told
by `train.clusters`.
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

from bottlenecks.routing import dynamic_routing, published_capsules
from models.cvvae import CapsuleRouter, capsule_index, lengths, relative_entropy
from models.likelihoods import to_unit
from train import cli, latents, parallel, routing_pictures, runs
from train.errors import UserError
from train.writers import write_whole

IMAGES = 128  # drawn from the first of the test split
FIRST = 2000
SHOWN = 8  # images in a picture
DRAWN = 16  # capsules in a picture, those that draw most
FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0)
POSITIONS = 3  # whose couplings are drawn


class Couplings(NamedTuple):
    """Coupling coefficients after each iteration of the routing.

    Attributes:
      entropy: `[iterations]`, over that of uniform ones, the mean over images and positions.
      largest: `[iterations]`, the largest share of an input capsule, its mean likewise, times the
        number of shares: 1 where they are uniform.
      shown: `[n, iterations, I, J]`, of the most routed position of each of the first images; as
        published `[1, iterations, P, rows * columns]`, the one coupling of the batch.
    """

    entropy: np.ndarray
    largest: np.ndarray
    shown: np.ndarray


def check_capsules(run: runs.Run) -> None:
    """Refuses runs without routed capsules.

    Raises:
      UserError: names the run and one that would do.
    """
    if not isinstance(run.model.bottleneck, CapsuleRouter):
        raise UserError(
            f"{run.config.name} routes no capsules; give it the folder of a CV-VAE or CVGAN, such "
            "as cvvae_digits"
        )


def couplings(run: runs.Run, images: np.ndarray) -> Couplings:
    """Routes images `[n, height, width, channels]` once for every number of iterations.

    The coupling after r iterations is the last one of a routing of r (Sabour et al. 2017, procedure
    1): c_ij = softmax_j(b_ij), uniform for r = 1.
    """
    bottleneck = run.model.bottleneck
    if bottleneck.mode == "published":
        c = np.asarray(_published_couplings(run.model)(run.variables, images))
        return Couplings(
            entropy=np.asarray(relative_entropy(c)),
            largest=c.max(axis=-1) * c.shape[-1],
            shown=c.reshape(1, len(c), bottleneck.primaries, -1),
        )
    function = _couplings(run.model)
    entropy, largest, most_routed = [], [], []
    for start in range(0, len(images), latents.BATCH):
        c = np.asarray(function(run.variables, images[start : start + latents.BATCH]))
        of_each = np.asarray(relative_entropy(c)).mean(axis=-1)  # [n, iterations, positions]
        entropy.append(of_each.mean(axis=-1))
        largest.append(c.max(axis=-1).mean(axis=(2, 3)) * c.shape[-1])
        place = of_each[:, -1].argmin(axis=-1)
        most_routed.append(c[np.arange(len(c)), :, place][:POSITIONS])
    return Couplings(
        entropy=np.concatenate(entropy).mean(axis=0),
        largest=np.concatenate(largest).mean(axis=0),
        shown=np.concatenate(most_routed)[:POSITIONS],
    )


def _routed(module: nn.Module, variables: Any, image: jax.Array) -> dict[str, jax.Array]:
    """What the bottleneck routes of images."""
    _, seen = module.apply(variables, {module.key: image}, train=False, mutable=["intermediates"])
    return {name: value[0] for name, value in seen["intermediates"]["bottleneck"].items()}


@functools.cache
def _couplings(model: nn.Module) -> Any:
    """`(variables, images) -> [n, iterations, positions, I, J]`, with a leak `J + 1`."""
    bottleneck = model.bottleneck

    def found(variables: Any, image: jax.Array) -> jax.Array:
        votes = _routed(model, variables, image)["votes"]
        votes = votes.reshape(len(image), -1, *votes.shape[-3:])
        each = [
            dynamic_routing(votes, iterations=r + 1, leaky=bottleneck.leaky).coupling
            for r in range(bottleneck.iterations)
        ]
        c = jnp.stack(each, axis=1)
        if bottleneck.leaky:
            c = jnp.concatenate([c, 1 - jnp.sum(c, axis=-1, keepdims=True)], axis=-1)
        return c

    return jax.jit(found)


@functools.cache
def _published_couplings(model: nn.Module) -> Any:
    """`(variables, images) -> [iterations, I]`, of all the images as one batch."""

    def found(variables: Any, image: jax.Array) -> jax.Array:
        routed = _routed(model, variables, image)
        each = [
            published_capsules(routed["capsules"], routed["W"], iterations=r + 1).coupling
            for r in range(model.bottleneck.iterations)
        ]
        return jnp.stack(each)

    return jax.jit(found)


def scaled(run: runs.Run, code: np.ndarray, factors: tuple[float, ...] = FACTORS) -> np.ndarray:
    """Images of codes in which one capsule is longer or shorter than it was, at all positions.

    Args:
      run: a run with routed capsules.
      code: `[n, positions..., J, depth]`, v; as published the norms `[n, rows, columns, P]`.
      factors: of its length; 0 switches it off, 1 leaves the code as it is.

    Returns:
      `[n, J, factors, height, width, channels]` in [0, 1].
    """
    axis = -1 if run.model.bottleneck.mode == "published" else -2
    J = code.shape[axis]
    gains = np.ones((J, len(factors), J), np.float32)
    gains[np.arange(J), :, np.arange(J)] = factors
    places = (1,) * (code.ndim - 1 + axis)
    gains = gains.reshape(J, len(factors), *places, J, *(1,) * (-1 - axis))
    decoded = [latents.decode(run, (one * gains).reshape(-1, *one.shape)) for one in code]
    return np.stack(decoded).reshape(len(code), J, len(factors), *decoded[0].shape[1:])


def absences(
    run: runs.Run, images: np.ndarray, code: np.ndarray, *, shown: int = SHOWN
) -> tuple[np.ndarray, np.ndarray]:
    """Switches each capsule off, in one image after the other.

    Args:
      run: a run with routed capsules.
      images: `[n, height, width, channels]` in [0, 1].
      code: of these images; see `scaled`.
      shown: how many of the images the second result is of.

    Returns:
      The mean squared error of the reconstruction without a capsule, less that with it, `[J]`; and
      what the capsule adds to the image, `[shown, J, height, width, channels]`.
    """
    errors, added = [], []
    for number, (image, one) in enumerate(zip(images, code, strict=True)):
        without, whole = scaled(run, one[None], (0.0, 1.0))[0].swapaxes(0, 1)
        errors.append(
            np.square(without - image).mean(axis=(1, 2, 3))
            - np.square(whole - image).mean(axis=(1, 2, 3))
        )
        if number < shown:
            added.append(whole - without)
    return np.mean(errors, axis=0), np.stack(added)


def in_use(code: np.ndarray) -> dict[str, np.ndarray]:
    """How capsules v `[n, positions..., J, depth]` are used, each `[J]`.

    longest: share of the positions at which it is the longest; length: mean of |v_j|.
    """
    J = code.shape[-2]
    index = np.asarray(capsule_index(code)).ravel()
    return {
        "longest": np.bincount(index, minlength=J) / index.size,
        "length": np.asarray(lengths(code)).reshape(-1, J).mean(axis=0),
    }


def main(_: list[str]) -> None:
    """Measures and draws the routing of the run in `--workdir`."""
    workdir = flags.FLAGS.workdir
    path = runs.folder(workdir)
    run = runs.load(workdir)
    check_capsules(run)
    if not parallel.is_first_process():
        return
    images = latents.images(run, limit=FIRST)
    # Drawn, for neighbours may be parts of one photograph.
    images = images[np.random.default_rng(0).permutation(len(images))[:IMAGES]]
    shown = np.asarray(to_unit(images))
    name = f"{run.config.name}, step {run.step}"
    print(f"{name}: {len(images)} test images")
    found: dict[str, Any] = {"step": run.step, "examples": len(images)}
    # Drawn beside, then copied: a workdir in a bucket has no file names that matplotlib knows.
    with tempfile.TemporaryDirectory() as local:
        folder = Path(local)
        found |= _coupling(run, images, folder, name)
        found |= _capsules(run, shown, latents.encode(run, images), folder, name)
        if run.config.adversary.loss:
            found |= _patch_logits(run, workdir, shown, folder, name)
        (path / "pictures").mkdir(parents=True, exist_ok=True)
        drawn = sorted(folder.glob("*.png"))
        for file in drawn:
            (path / "pictures" / file.name).write_bytes(file.read_bytes())
    write_whole(path / "routing.json", json.dumps(found, indent=2) + "\n")
    print("\npictures:", *(path / "pictures" / file.name for file in drawn), sep="\n  ")


def _coupling(run: runs.Run, images: np.ndarray, folder: Path, name: str) -> dict[str, Any]:
    found = couplings(run, images)
    print(f"{'iteration':>12}{'entropy of the couplings':>26}{'largest share':>15}   1: uniform")
    for r, (entropy, largest) in enumerate(zip(found.entropy, found.largest, strict=True)):
        print(f"{r + 1:>12}{entropy:>26.5f}{largest:>15.3f}")
    routing_pictures.couplings(
        found.shown,
        folder / "coupling.png",
        entropy=found.entropy,
        published=run.model.bottleneck.mode == "published",
        title=f"{name}: coupling coefficients",
    )
    return {"entropy": found.entropy.tolist(), "largest_share": found.largest.tolist()}


def _capsules(
    run: runs.Run, images: np.ndarray, code: np.ndarray, folder: Path, name: str
) -> dict[str, Any]:
    """Index maps, and what capsules draw."""
    again = latents.decode(run, code[:SHOWN])
    worth, added = absences(run, images, code)
    values = {"worth": worth}
    if run.model.bottleneck.mode == "published":
        print("as published: one output capsule, so there are no index maps")
    else:
        values = {**in_use(code), **values}
        J = code.shape[-2]
        index = np.asarray(capsule_index(code[:SHOWN]))
        routing_pictures.index_maps(
            images[:SHOWN],
            again,
            index,
            folder / "capsule_maps.png",
            clusters=J,
            title=f"{name}: the longest of {J} capsules at each position",
        )
    order = np.argsort(-worth, kind="stable")[:DRAWN]
    print(f"{'capsule':>12}" + "".join(f"{head:>12}" for head in values))
    for j in order:
        print(f"{j:>12}" + "".join(f"{value[j]:>12.5f}" for value in values.values()))
    routing_pictures.scales(
        scaled(run, code[:1])[0][order],
        folder / "capsule_scales.png",
        capsules=order.tolist(),
        factors=FACTORS,
        title=f"{name}: one capsule at a time, longer or shorter",
    )
    routing_pictures.draws(
        images[:SHOWN],
        again,
        added[:, order],
        folder / "capsule_draws.png",
        capsules=order.tolist(),
        title=f"{name}: what each capsule adds to the image (grey: nothing)",
    )
    return {"capsules": {key: value.tolist() for key, value in values.items()}}


def _patch_logits(
    run: runs.Run, workdir: str, images: np.ndarray, folder: Path, name: str
) -> dict[str, Any]:
    """The discriminator's maps.

    It judges real images and reconstructions apart, as in training: the statistics of a whole batch
    may tell it which of the two it sees.
    """
    if run.step <= run.config.adversary.start:
        print(f"the adversary starts after step {run.config.adversary.start}: not trained yet")
        return {}
    discriminate = runs.load_discriminator(workdir)
    again = latents.reconstruct(run, images)
    real, fake = (np.asarray(discriminate(x)) for x in (images, again))
    told = float(np.mean(real > 0)), float(np.mean(fake < 0))
    print(
        f"patch logits: real {real.mean():.3f}, reconstructed {fake.mean():.3f}; of the patches "
        f"{told[0]:.1%} and {told[1]:.1%} are told right"
    )
    routing_pictures.patch_logits(
        [images[:SHOWN], again[:SHOWN]],
        [real[:SHOWN], fake[:SHOWN]],
        folder / "patch_logits.png",
        stride=2**run.config.adversary.layers,
        title=f"{name}: patch logits",
    )
    return {
        "patch_logits": {"real": float(real.mean()), "reconstructed": float(fake.mean())},
        "told_right": {"real": told[0], "reconstructed": told[1]},
    }


if __name__ == "__main__":
    cli.define_workdir("folder of a trained CV-VAE or CVGAN")
    cli.run(main)
