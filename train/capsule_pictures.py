"""Pictures of what the units of capsules share, as PNG files."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.pictures import GREY, draw_panels, save_figure


def weights(
    w: np.ndarray, taps: np.ndarray, path: str | os.PathLike[str], *, rows: str, title: str = ""
) -> None:
    """Draws which energies a unit takes up, and W as a matrix.

    Args:
        w: `[rows, places, rows, places]`, from u^2 at the last two to v at the first two.
        taps: int `[taps, 2]`, rows and places away from the unit.
        path: of the PNG file.
        rows: what the rows are, "frame" or "capsule".
        title: above the picture.
    """
    figure, (near, matrix) = draw_panels(2, columns=2, size=(5.2, 5.0))
    low, high = taps.min(axis=0) - 1, taps.max(axis=0) + 1
    grid = np.zeros(high - low + 1)
    grid[tuple((taps - low).T)] = 1
    near.imshow(
        grid,
        cmap="Blues",
        vmax=1.4,
        extent=(low[1] - 0.5, high[1] + 0.5, high[0] + 0.5, low[0] - 0.5),
    )
    for edge in np.arange(low[0], high[0]) + 0.5:
        near.axhline(edge, color=GREY, linewidth=0.2)
    for edge in np.arange(low[1], high[1]) + 0.5:
        near.axvline(edge, color=GREY, linewidth=0.2)
    _whole_numbers(near)
    near.plot(0, 0, "o", color="black", markersize=4)
    near.set_xlabel("place away from the unit (dot)")
    near.set_ylabel(f"{rows} away from it")
    size = w.shape[0] * w.shape[1]
    matrix.imshow(w.reshape(size, size), cmap="Blues", vmax=1.4, interpolation="nearest")
    _count_rows(matrix, w.shape[1], w.shape[0])
    matrix.set_xlabel(f"{rows} of u^2, its places within")
    matrix.set_ylabel(f"{rows} of v, its places within")
    _finish(figure, path, title)


def covariance(
    found: Mapping[str, Sequence[np.ndarray]],
    path: str | os.PathLike[str],
    *,
    places: int,
    title: str = "",
) -> None:
    """Draws correlations, a row for each name and a column for each matrix; of a torus, one row.

    A matrix has one scale for all names, up to the strongest 0.5 % of it and at least 0.1.

    Args:
        found: name to correlations as `train.capsules.shared` gives them: `[C D, C D]`, and of
            sequences `[S D, S D]` and `[S, D]`.
        path: of the PNG file.
        places: D, of a capsule.
        title: above the picture.
    """
    columns = len(next(iter(found.values())))
    figure, panels = draw_panels(len(found) * columns, columns=max(columns, 2), size=(4.4, 3.9))
    axes = iter(panels)
    limits = [
        max(np.quantile(np.abs(np.stack(same)), 0.995), 0.1)
        for same in zip(*found.values(), strict=True)
    ]
    for name, matrices in found.items():
        for number, (matrix, limit) in enumerate(zip(matrices, limits, strict=True)):
            panel = next(axes)
            shown = panel.imshow(
                matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
            )
            figure.colorbar(shown, ax=panel, shrink=0.8).ax.tick_params(labelsize=7)
            if number < 2:
                rows = "capsule" if number == 0 else "frame"
                _count_rows(panel, places, len(matrix) // places)
                panel.set_xlabel(f"{rows}, its places within")
                panel.set_ylabel(f"{rows}, its places within")
            else:
                panel.set_xlabel("places on")
                panel.set_ylabel("frames on")
                _whole_numbers(panel)
            what = ("units", "frames, mean over capsules", "mean by distance")[number]
            panel.set_title(f"{name}: {what}", fontsize=9)
    _finish(figure, path, title)


def classes(
    told: np.ndarray, path: str | os.PathLike[str], *, names: Sequence[str], title: str = ""
) -> None:
    """Draws the class that each unit of a torus tells, white for none.

    Args:
        told: int `[capsules, places]`, of `names`; -1 for none.
        path: of the PNG file.
        names: of the classes.
        title: above the picture.
    """
    figure, (axes,) = draw_panels(1, columns=1, size=(0.32 * told.shape[1], 0.32 * told.shape[0]))
    colours = 10 if len(names) <= 10 else 20
    axes.imshow(
        np.ma.masked_less(told, 0) % colours,
        cmap=f"tab{colours}",
        vmin=-0.5,
        vmax=colours - 0.5,
        interpolation="nearest",
    )
    for (row, column), c in np.ndenumerate(told):
        if c >= 0:
            axes.text(column, row, names[c], ha="center", va="center", fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    _finish(figure, path, title)


def _count_rows(axes: Axes, places: int, rows: int) -> None:
    """Numbers the capsules or frames of a matrix of units, with lines between them."""
    shown = range(0, rows, max(1, rows // 9))
    axes.set_xticks([places * (row + 0.5) - 0.5 for row in shown], shown)
    axes.set_yticks([places * (row + 0.5) - 0.5 for row in shown], shown)
    for row in range(1, rows):
        axes.axhline(places * row - 0.5, color=GREY, linewidth=0.2)
        axes.axvline(places * row - 0.5, color=GREY, linewidth=0.2)


def _whole_numbers(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))


def _finish(figure: Figure, path: str | os.PathLike[str], title: str) -> None:
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
