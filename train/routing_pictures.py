"""Pictures of routed capsules and of a discriminator's patches, as PNG files."""

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator

from train import pictures
from train.pictures import draw_panels, save_figure

GREATEST = 64  # an index map has as many colours


def index_maps(
    images: np.ndarray,
    again: np.ndarray,
    index: np.ndarray,
    path: str | os.PathLike[str],
    *,
    clusters: int,
    title: str = "",
) -> None:
    """Draws images, their reconstructions and the cluster of each position.

    Args:
        images: `[n, height, width, channels]` in [0, 1].
        again: alike, the reconstructions.
        index: int `[n, rows, columns]`, from 0; all positions in one row if `[n, positions]`.
        path: of the PNG file.
        clusters: how many there are; the colour of a number depends on it.
        title: above the picture.
    """
    painted = _enlarged(colours(clusters)[_grid(index)], images.shape[1:3])
    cells = np.stack([_rgb(images), _rgb(again), painted], axis=1)
    labels = ["image", "again", "cluster"]
    pictures.side_by_side(cells, path, column_labels=labels, title=title)


def scales(
    images: np.ndarray,
    path: str | os.PathLike[str],
    *,
    capsules: Sequence[int],
    factors: Sequence[float],
    title: str = "",
) -> None:
    """Draws an image with one capsule scaled at a time, a row for each; last, what it adds.

    Args:
        images: `[capsules, factors, height, width, channels]` in [0, 1].
        path: of the PNG file.
        capsules: the number of each row's.
        factors: of its length; 0 and 1 are among them.
        title: above the picture.
    """
    added = images[:, factors.index(1)] - images[:, factors.index(0)]
    cells = np.concatenate([_rgb(images), _around_grey(_rgb(added))[:, None]], axis=1)
    pictures.draw_cells(
        pictures.drawable(cells.reshape(-1, *cells.shape[2:])).reshape(cells.shape),
        path,
        title=title,
        row_labels=[f"capsule {j}" for j in capsules],
        column_labels=[*(f"x {factor:g}" for factor in factors), "x 1 - x 0"],
    )


def draws(
    images: np.ndarray,
    again: np.ndarray,
    added: np.ndarray,
    path: str | os.PathLike[str],
    *,
    capsules: Sequence[int],
    title: str = "",
) -> None:
    """Draws what each capsule adds to several images, a column for each, on one scale.

    Args:
        images: `[n, height, width, channels]` in [0, 1].
        again: alike, the reconstructions.
        added: `[n, capsules, height, width, channels]`, with a capsule less without it.
        path: of the PNG file.
        capsules: the number of each column's.
        title: above the picture.
    """
    cells = np.stack([_rgb(images), _rgb(again)], axis=1)
    cells = np.concatenate([cells, _around_grey(_rgb(added))], axis=1)
    labels = ["image", "again", *(f"capsule {j}" for j in capsules)]
    pictures.side_by_side(cells, path, column_labels=labels, title=title)


def couplings(
    shown: np.ndarray,
    path: str | os.PathLike[str],
    *,
    entropy: np.ndarray,
    published: bool,
    title: str = "",
) -> None:
    """Draws couplings times the number of shares, a row for each position, on one scale.

    Args:
        shown: `[n, iterations, I, J]`, c_ij; as published c_i of channels and places.
        path: of the PNG file.
        entropy: `[iterations]`, relative to uniform ones, for the headings.
        published: the shares of all inputs sum to 1, not those of each.
        title: above the picture.
    """
    relative = shown * (shown[0, 0].size if published else shown.shape[-1])
    n, iterations = relative.shape[:2]
    figure, panels = draw_panels(n * iterations, columns=iterations, size=(3.6, 2.9))
    limit = max(float(relative.max()), 1.0 + 1e-3)
    for number, axes in enumerate(panels):
        row, r = divmod(number, iterations)
        image = axes.imshow(
            relative[row, r],
            cmap="Blues",
            vmin=0,
            vmax=limit,
            interpolation="nearest",
            aspect="auto",
        )
        axes.set_ylabel("channel" if published else f"position {row + 1}: input i")
        axes.set_xlabel("place" if published else "output j")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        if row == 0:
            axes.set_title(f"iteration {r + 1}: entropy {entropy[r]:.4f}", fontsize=9)
    bar = figure.colorbar(image, ax=panels, shrink=0.8)
    bar.set_label("share, 1: uniform", size=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def patch_logits(
    images: Sequence[np.ndarray],
    logits: Sequence[np.ndarray],
    path: str | os.PathLike[str],
    *,
    stride: int,
    title: str = "",
) -> None:
    """Draws real images and reconstructions, each beside the logits of its patches, on one scale.

    Args:
        images: real and reconstructed, each `[n, height, width, channels]` in [0, 1].
        logits: of both, each `[n, rows, columns]`.
        path: of the PNG file.
        stride: pixels from the middle of one patch to the next. A logit is drawn in the middle of
            its patch, the outermost ones up to the edge.
        title: above the picture.
    """
    limit = max(np.quantile(np.abs(np.stack(logits)), 0.99), 1e-3)
    cells = []
    for image, logit in zip(images, logits, strict=True):
        painted = colormaps["RdBu"]((np.clip(logit / limit, -1, 1) + 1) / 2)[..., :3]
        painted = painted.repeat(stride, 1).repeat(stride, 2)
        margins = [
            (size - have) / 2
            for size, have in zip(image.shape[1:3], painted.shape[1:3], strict=True)
        ]
        around = [(math.floor(m), math.ceil(m)) for m in margins]
        cells += [_rgb(image), np.pad(painted, ((0, 0), *around, (0, 0)), mode="edge")]
    labels = ["image", "D", "again", "D"]
    title = f"{title}, from {-limit:.2g} (red: not real) to {limit:.2g} (blue)"
    pictures.side_by_side(np.stack(cells, axis=1), path, column_labels=labels, title=title)


def colours(clusters: int) -> np.ndarray:
    """A colour for each cluster, `[clusters, 3]` in [0, 1]; from 64 on they come again."""
    if clusters <= 10:
        return np.array(colormaps["tab10"].colors[:clusters])
    if clusters <= 20:
        return np.array(colormaps["tab20"].colors[:clusters])
    # Neighbouring numbers are told apart.
    wheel = colormaps["gist_rainbow"](np.linspace(0, 1, GREATEST))[:, :3]
    return wheel[(37 * np.arange(clusters)) % GREATEST]


def _grid(index: np.ndarray) -> np.ndarray:
    return index.reshape(len(index), 1, -1) if index.ndim == 2 else index


def _enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps `[n, rows, columns, 3]` in whole cells of images of a size."""
    rows = np.arange(size[0]) * maps.shape[1] // size[0]
    columns = np.arange(size[1]) * maps.shape[2] // size[1]
    return maps[:, rows][:, :, columns]


def _rgb(images: np.ndarray) -> np.ndarray:
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def _around_grey(change: np.ndarray) -> np.ndarray:
    """Differences as images, grey where there is none, the greatest 1 % cut off."""
    return 0.5 + 0.5 * change / max(np.quantile(np.abs(change), 0.99), 1e-3)
