"""Pictures of what the partitions of a latent do, as PNG files; images are as in `pictures`."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from train.pictures import (
    BLUE,
    GREY,
    ORANGE,
    draw_cells,
    draw_panels,
    drawable,
    save_figure,
)


def strips(
    images: np.ndarray,
    path: str | os.PathLike[str],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    rows_together: int = 1,
    title: str = "",
) -> None:
    """Draws a strip of images in each row.

    Args:
        images: `[rows, columns, height, width, channels]`.
        path: of the PNG file.
        rows: what stands beside each row.
        columns: what stands above each column.
        rows_together: after so many rows a wider gap follows.
        title: above the picture.

    Raises:
        ValueError: these are no images, or the labels are not as many.
    """
    shape = np.shape(images)
    if len(shape) != 5 or shape[:2] != (len(rows), len(columns)):
        raise ValueError(
            f"images {list(shape)} with {len(rows)} and {len(columns)} labels; expected images "
            "[rows, columns, height, width, channels] and a label for each row and column"
        )
    cells = drawable(np.reshape(images, (-1, *shape[2:])))
    draw_cells(
        cells.reshape(*shape[:2], *cells.shape[1:]),
        path,
        title=title,
        row_labels=rows,
        column_labels=columns,
        rows_together=rows_together,
    )


def effect_maps(
    maps: np.ndarray, path: str | os.PathLike[str], *, columns: Sequence[str], title: str = ""
) -> None:
    """Draws where each partition changes the image: black nowhere, white where any does most.

    Args:
        maps: `[K, height, width, channels]`, mean absolute changes; channels are averaged.
        path: of the PNG file.
        columns: what stands above each map.
        title: above the picture.

    Raises:
        ValueError: these are no images, or the labels are not as many.
    """
    maps = np.asarray(maps, np.float64).mean(axis=-1, keepdims=True)
    strips(
        maps[None] / max(maps.max(), 1e-12), path, rows=("change",), columns=columns, title=title
    )


def effects(
    kl: np.ndarray,
    effect: np.ndarray,
    null: np.ndarray,
    path: str | os.PathLike[str],
    *,
    sizes: Sequence[int],
) -> None:
    """Draws each partition's KL to the prior, and its effect beside that of random groups of units.

    Args:
        kl: `[K]`, means over the images, nats.
        effect: `[K]`, mean absolute change of the image when the partition is drawn anew.
        null: `[groups, K]`, the same for random groups of as many units.
        path: of the PNG file.
        sizes: units of each partition.

    Raises:
        ValueError: the shapes do not fit.
    """
    kl, effect, null = (np.asarray(x, np.float64) for x in (kl, effect, null))
    K = len(sizes)
    if kl.shape != (K,) or effect.shape != (K,) or null.ndim != 2 or null.shape[1] != K:
        raise ValueError(
            f"kl is {list(kl.shape)}, effect {list(effect.shape)} and null {list(null.shape)} for "
            f"{K} partitions; expected [{K}], [{K}] and [groups, {K}]"
        )
    figure, panels = draw_panels(2, columns=2, size=(4.2, 3.0))
    places = np.arange(K)
    panels[0].bar(places, kl, color=BLUE)
    panels[0].set_title(f"{kl.sum():.1f} nats in {sum(sizes)} units", fontsize=10)
    panels[0].set_ylabel("KL to the prior, nats")
    panels[1].bar(places, effect, color=BLUE)
    low, middle, high = np.quantile(null, (0.025, 0.5, 0.975), axis=0)
    panels[1].errorbar(
        places, middle, yerr=(middle - low, high - middle), fmt="o", color=ORANGE, capsize=4
    )
    panels[1].set_title("drawn anew; orange: 95 % of random groups", fontsize=10)
    panels[1].set_ylabel("mean change of a value in [0, 1]")
    for axes in panels:
        axes.set_xlabel("partition (units)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xticks(places, [f"{k} ({size})" for k, size in enumerate(sizes)])
        axes.axhline(0, color=GREY, linewidth=0.8)
    save_figure(figure, path)
