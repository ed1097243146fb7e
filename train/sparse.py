"""What a trained SC-VAE's codes hold: `python -m train.sparse --workdir W`.

Draws into `W/pictures`, and writes the figures to `W/sparse.json`:

- sparsity_curve.png: PSNR of reconstructions from the largest n entries of each position's code;
- atoms.png: what each atom draws, the most used first;
- atoms_of_patches.png: which atoms make up the code at one position of some test images;
- interpolation.png: from the code of one test image to that of another;
- edits.png: one atom's entries scaled, everywhere in an image.
"""

import json
from collections.abc import Sequence

import numpy as np
from absl import flags

from models.likelihoods import to_unit
from train import cli, latents, parallel, pictures, runs
from train.errors import UserError
from train.metrics.image import peak_signal_to_noise
from train.writers import write_whole

IMAGES = 512  # of the test split, for the curve and the use of atoms
SHOWN = 8
SCALES = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0)


def keep_largest(code: np.ndarray, entries: int) -> np.ndarray:
    """The code with all but the largest `entries` of each position at 0.

    Args:
      code: `[..., atoms]`; of equal entries the first are kept.
      entries: 0 or more.
    """
    order = np.argsort(-np.abs(code), axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    return np.where(rank < entries, code, np.zeros_like(code))


def sparsity_curve(
    run: runs.Run, images: np.ndarray, *, entries: Sequence[int]
) -> list[dict[str, float]]:
    """Quality of reconstructions from the largest entries of each position's code.

    Args:
      run: a trained SC-VAE.
      images: `[n, height, width, channels]`.
      entries: how many are kept at each position.

    Returns:
      For each of `entries`: "entries", "non_zeros" (entries other than 0 in an image's code, mean)
      and "psnr" (decibels, mean over images).
    """
    code = latents.encode(run, images)
    curve = []
    for count in entries:
        kept = keep_largest(code, count)
        psnr = peak_signal_to_noise(latents.decode(run, kept), to_unit(images))
        non_zeros = np.count_nonzero(kept) / len(kept)
        curve.append({"entries": count, "non_zeros": non_zeros, "psnr": float(np.mean(psnr))})
    return curve


def atom_pictures(run: runs.Run, atoms: Sequence[int], *, amplitude: float = 1.0) -> np.ndarray:
    """What atoms draw: the change of the image that one entry in the middle of an empty code makes.

    Args:
      run: a trained SC-VAE.
      atoms: which.
      amplitude: of the entry.

    Returns:
      `[len(atoms), height, width, channels]` around 0.5, the largest change of each being 0.5.
    """
    shape = latents.encode(run, latents.images(run, limit=1)).shape[1:]
    middle = tuple(size // 2 for size in shape[:-1])
    code = np.zeros((len(atoms) + 1, *shape), np.float32)
    for row, atom in enumerate(atoms):
        code[(row, *middle, atom)] = amplitude
    decoded = latents.decode(run, code)
    change = decoded[:-1] - decoded[-1]
    largest = np.max(np.abs(change), axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * change / np.maximum(largest, 1e-12)


def scale_atom(
    run: runs.Run, image: np.ndarray, *, atom: int, scales: Sequence[float]
) -> np.ndarray:
    """Images of the code with one atom's entries multiplied by each scale, at all positions.

    Args:
      run: a trained SC-VAE.
      image: `[height, width, channels]`.
      atom: which.
      scales: 1 leaves the code as it is, 0 takes the atom away.

    Returns:
      `[len(scales), height, width, channels]` in [0, 1].
    """
    code = np.repeat(latents.encode(run, image[None]), len(scales), axis=0)
    code[..., atom] *= np.reshape(scales, (-1,) + (1,) * (code.ndim - 2))
    return latents.decode(run, code)


def main(_: list[str]) -> None:
    """Draws the pictures of the run in `--workdir`."""
    run = runs.load(flags.FLAGS.workdir)
    if run.config.model.bottleneck.name != "sparse":
        raise UserError(
            f"{flags.FLAGS.workdir} has a bottleneck {run.config.model.bottleneck.name!r}; this "
            "command shows sparse codes: give it the folder of an SC-VAE, such as scvae_photos"
        )
    if not parallel.is_first_process():
        return
    path = runs.folder(flags.FLAGS.workdir)
    folder = path / "pictures"
    images = latents.images(run, limit=IMAGES)
    code = latents.encode(run, images)
    used = np.mean(code != 0, axis=tuple(range(code.ndim - 1)))
    most = int(np.max(np.count_nonzero(code, axis=-1)))
    counts = sorted(
        {0, *range(1, min(most, 8) + 1), *np.unique(np.geomspace(1, most, 12, dtype=int))}
    )
    curve = sparsity_curve(run, images, entries=[int(count) for count in counts])
    figures = {"step": run.step, "curve": curve, "atom_use": used.tolist()}
    write_whole(path / "sparse.json", json.dumps(figures, indent=2) + "\n")

    drawn = [_draw_curve(curve, folder / "sparsity_curve.png")]
    order = np.argsort(-used, kind="stable")[: int(np.count_nonzero(used))]
    drawn.append(folder / "atoms.png")
    title = f"{len(order)} of {len(used)} atoms are used, the most used first"
    pictures.image_grid(atom_pictures(run, order[:64]), drawn[-1], title=title)
    drawn.append(_draw_patches(run, images[:SHOWN], folder / "atoms_of_patches.png"))
    drawn.append(folder / "interpolation.png")
    weights = np.linspace(0, 1, SHOWN)
    pictures.rows(
        {
            f"{2 * i} to {2 * i + 1}": latents.interpolate(
                run, images[2 * i], images[2 * i + 1], weights=weights
            )
            for i in range(min(4, len(images) // 2))
        },
        drawn[-1],
        title="codes of two test images, and between",
    )
    drawn.append(folder / "edits.png")
    pictures.rows(
        {
            f"atom {atom}": scale_atom(run, images[0], atom=int(atom), scales=SCALES)
            for atom in order[:SHOWN]
        },
        drawn[-1],
        title="one atom's entries times " + ", ".join(f"{scale:g}" for scale in SCALES),
    )
    print(f"{'entries a position':>18}  {'in the image':>12}  {'PSNR, dB':>8}")
    for point in curve:
        print(f"{point['entries']:>18}  {point['non_zeros']:>12.1f}  {point['psnr']:>8.2f}")
    print("\npictures:", *map(str, drawn), sep="\n  ")


def _draw_curve(curve: list[dict[str, float]], path: object) -> object:
    figure, (axes,) = pictures.draw_panels(1, columns=1, size=(5.8, 3.4))
    axes.plot([p["non_zeros"] for p in curve], [p["psnr"] for p in curve], marker="o")
    axes.set_xlabel("entries of an image's code other than 0, the largest of each position kept")
    axes.set_ylabel("PSNR, dB")
    pictures.save_figure(figure, path)
    return path


def _draw_patches(run: runs.Run, images: np.ndarray, path: object, *, atoms: int = 6) -> object:
    """Each image with a frame around one position, and the atoms of its code by their entries."""
    code = latents.encode(run, images)
    grid = np.count_nonzero(code, axis=-1).reshape(len(code), -1)
    shape = code.shape[1:3]
    rows = {}
    for i, image in enumerate(images):
        place = np.unravel_index(int(np.argmax(grid[i])), shape)
        z = code[(i, *place)]
        strongest = np.argsort(-np.abs(z), kind="stable")[:atoms]
        drawn = atom_pictures(run, strongest)
        signed = 0.5 + (drawn - 0.5) * np.sign(z[strongest]).reshape(-1, 1, 1, 1)
        framed = _framed(pictures.drawable(image[None])[0], place, shape)
        rows[f"image {i}\n" + " ".join(f"{value:.2f}" for value in z[strongest][:3])] = (
            np.concatenate([framed[None], pictures.drawable(signed)])
        )
    title = "where a code has most entries, and its strongest atoms there"
    pictures.rows(rows, path, title=title)
    return path


def _framed(image: np.ndarray, place: tuple[int, ...], grid: tuple[int, ...]) -> np.ndarray:
    """A uint8 image with a red frame around the patch of a grid that `place` names."""
    top, left = (
        index * size // cells for index, size, cells in zip(place, image.shape, grid, strict=False)
    )
    high, wide = (size // cells for size, cells in zip(image.shape, grid, strict=False))
    image = image.copy()
    box = image[top : top + high, left : left + wide]
    for edge in (box[0], box[-1], box[:, 0], box[:, -1]):
        edge[:] = (255, 0, 0)
    return image


if __name__ == "__main__":
    cli.define_workdir("folder of a trained SC-VAE")
    cli.run(main)
