"""Pictures of a run, as PNG files: images in grids, and how codes, units and losses behave.

Images are `[..., height, width, channels]`, uint8 or floating in [0, 1] (clipped to it), with one
channel (drawn in grey) or three. Small ones are enlarged in whole pixels. Nothing here uses
pyplot, so that no state is left behind, and a file is written whole or not at all.
"""

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from train.errors import UserError

DPI = 100
CELL = 72  # pixels: an image is enlarged until its longer side has about as many
GAP = 4  # pixels between two images
MARGIN = 10  # pixels around the picture
BLUE, ORANGE, GREY = "#2a6fbb", "#e07b28", "#8a8a8a"


def reconstructions(
    originals: np.ndarray,
    reconstructions: np.ndarray,
    path: str | os.PathLike[str],
    *,
    columns: int = 8,
    title: str = "",
) -> None:
    """Draws each row of originals with its reconstructions in the row below.

    Args:
        originals: `[n, height, width, channels]`.
        reconstructions: like `originals`.
        path: of the PNG file.
        columns: images in a row.
        title: above the picture.

    Raises:
        ValueError: the two differ in shape, or are no images.
    """
    above, below = drawable(originals), drawable(reconstructions)
    if above.shape != below.shape:
        raise ValueError(
            f"originals are {list(np.shape(originals))} and reconstructions "
            f"{list(np.shape(reconstructions))}; expected the same shape"
        )
    columns = min(columns, len(above))
    blocks = math.ceil(len(above) / columns)
    cells = np.full((2 * blocks, columns, *above.shape[1:]), 255, np.uint8)
    for i in range(len(above)):
        row, column = divmod(i, columns)
        cells[2 * row, column], cells[2 * row + 1, column] = above[i], below[i]
    labels = ["original", "reconstruction"] * blocks
    draw_cells(cells, path, title=title, row_labels=labels, rows_together=2)


def image_grid(
    images: np.ndarray, path: str | os.PathLike[str], *, columns: int = 8, title: str = ""
) -> None:
    """Draws images row by row.

    Args:
        images: `[n, height, width, channels]`.
        path: of the PNG file.
        columns: images in a row.
        title: above the picture.

    Raises:
        ValueError: these are no images.
    """
    images = drawable(images)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cells = np.full((rows * columns, *images.shape[1:]), 255, np.uint8)
    cells[: len(images)] = images
    draw_cells(cells.reshape(rows, columns, *images.shape[1:]), path, title=title)


def rows(
    images: Mapping[str, np.ndarray], path: str | os.PathLike[str], *, title: str = ""
) -> None:
    """Draws a row of images for each name.

    Args:
        images: row label to `[n, height, width, channels]`, the same n, height and width for all.
        path: of the PNG file.
        title: above the picture.

    Raises:
        ValueError: these are no images, or the rows differ in shape.
    """
    cells = [drawable(row) for row in images.values()]
    if len({row.shape for row in cells}) > 1:
        raise ValueError(f"rows are {[row.shape for row in cells]}; expected the same shape")
    draw_cells(np.stack(cells), path, title=title, row_labels=list(images))


def side_by_side(
    images: np.ndarray,
    path: str | os.PathLike[str],
    *,
    column_labels: Sequence[str],
    title: str = "",
) -> None:
    """Draws a row for each subject and a column for each way of showing it.

    Args:
        images: `[rows, columns, height, width, channels]`.
        path: of the PNG file.
        column_labels: what stands above each column.
        title: above the picture.

    Raises:
        ValueError: these are no images, or the labels do not fit them.
    """
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[1] != len(column_labels):
        raise ValueError(
            f"images are {list(images.shape)} with {len(column_labels)} labels; expected "
            "[rows, columns, height, width, channels] and a label for each column"
        )
    cells = drawable(images.reshape(-1, *images.shape[2:]))
    cells = cells.reshape(*images.shape[:2], *cells.shape[1:])
    draw_cells(cells, path, title=title, column_labels=column_labels)


def traversals(
    images: np.ndarray,
    path: str | os.PathLike[str],
    *,
    units: Sequence[int],
    kl: Sequence[float],
    values: Sequence[float],
    title: str = "",
) -> None:
    """Draws what the decoder makes of one latent unit moved at a time: a row per unit.

    The unit with the largest KL to the prior comes first.

    Args:
        images: `[units, values, height, width, channels]`.
        path: of the PNG file.
        units: number of the unit of each row, for the label.
        kl: mean KL of these units, nats.
        values: what the unit is set to in each column, such as -3..3.
        title: above the picture.

    Raises:
        ValueError: these are no images, or units, kl and values do not fit them.
    """
    shape = np.shape(images)
    if len(shape) != 5 or shape[:2] != (len(units), len(values)) or len(kl) != len(units):
        raise ValueError(
            f"images {list(shape)} with {len(units)} units, {len(kl)} kl and {len(values)} values; "
            "expected images [units, values, height, width, channels] and one kl for each unit"
        )
    cells = drawable(np.reshape(images, (-1, *shape[2:])))
    cells = cells.reshape(*shape[:2], *cells.shape[1:])
    order = np.argsort(-np.asarray(kl, np.float64), kind="stable")
    draw_cells(
        cells[order],
        path,
        title=title,
        row_labels=[f"unit {units[i]}\n{kl[i]:.2f} nats" for i in order],
        column_labels=[f"{value:+g}" if value else "0" for value in values],
    )


def codebook_use(counts: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Draws the share of the tokens that each code has, the most used first, per codebook.

    Args:
        counts: `[codebooks, K]` or `[K]`, uses of each code.
        path: of the PNG file.

    Raises:
        ValueError: the counts have another rank, or a codebook is never used.
    """
    counts = np.asarray(counts, np.float64)
    counts = counts[None] if counts.ndim == 1 else counts
    if counts.ndim != 2 or not (counts.sum(axis=1) > 0).all():
        raise ValueError(
            f"counts {list(counts.shape)}; expected [codebooks, K] with some use of each codebook"
        )
    codebooks, codes = counts.shape
    figure, panels = draw_panels(codebooks, columns=2, size=(5.4, 2.9))
    for number, (axes, count) in enumerate(zip(panels, counts, strict=True)):
        share = np.sort(count / count.sum())[::-1]
        perplexity = math.exp(-(share * np.log(np.where(share > 0, share, 1))).sum())
        axes.stairs(100 * share, np.arange(codes + 1), fill=True, color=BLUE)
        axes.axhline(100 / codes, color=ORANGE, linewidth=1.2, linestyle="--")
        axes.text(
            codes, 100 / codes, "even use ", color=ORANGE, ha="right", va="bottom", fontsize=8
        )
        which = f"codebook {number + 1}: " if codebooks > 1 else ""
        axes.set_title(
            f"{which}perplexity {perplexity:.1f} of {codes}, {(count > 0).sum()} codes used",
            fontsize=10,
        )
        axes.set_xlim(0, codes)
        axes.set_ylim(0, 115 * share[0])
        axes.set_xlabel("codes, the most used first")
        axes.set_ylabel("% of tokens")
    save_figure(figure, path)


def kl_per_unit(kl: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Draws the KL to the prior of each latent unit, the largest first.

    Args:
        kl: `[units]`, means over the data, nats.
        path: of the PNG file.

    Raises:
        ValueError: not one axis.
    """
    kl = np.asarray(kl, np.float64)
    if kl.ndim != 1 or not kl.size:
        raise ValueError(f"kl is {list(kl.shape)}; expected [units]: flatten the positions")
    figure, (axes,) = draw_panels(1, columns=1, size=(5.8, 3.2))
    axes.stairs(np.sort(kl)[::-1], np.arange(kl.size + 1) + 0.5, fill=True, color=BLUE)
    axes.set_title(f"{kl.sum():.1f} nats in {kl.size} units", fontsize=10)
    axes.set_xlim(0.5, kl.size + 0.5)
    axes.set_ylim(0, max(1.05 * kl.max(), 1e-3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("units, the largest first")
    axes.set_ylabel("KL to the prior, nats")
    save_figure(figure, path)


def training_curves(
    metrics_jsonl_path: str | os.PathLike[str], path: str | os.PathLike[str]
) -> None:
    """Draws every metric of a run over its steps, one panel each and one line per split.

    A metric that is positive throughout and spans more than a factor of 20 gets a log axis. A line
    cut short by a kill, values that are not finite, and an earlier value of the same step are left
    out.

    Args:
        metrics_jsonl_path: lines `{"step", "split", name: value}`.
        path: of the PNG file.

    Raises:
        UserError: there is no such file, or nothing in it.
    """
    curves = _read_curves(Path(metrics_jsonl_path))
    figure, panels = draw_panels(len(curves), columns=4, size=(3.5, 2.5))
    last = max(max(points) for splits in curves.values() for points in splits.values())
    colours = {"train": BLUE, "test": ORANGE}
    lines = {}
    for axes, (name, splits) in zip(panels, curves.items(), strict=True):
        for split, points in splits.items():
            steps, values = zip(*sorted(points.items()), strict=True)
            # One evaluation is no line, and few are easily overlooked.
            few = {"marker": "o", "markersize": 3} if len(steps) < 20 else {}
            (lines[split],) = axes.plot(
                steps, values, color=colours.get(split, GREY), linewidth=1.5, **few
            )
        values = [value for points in splits.values() for value in points.values()]
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.ticklabel_format(axis="y", scilimits=(-3, 5), useOffset=False)
            axes.yaxis.offsetText.set_size(8)
        axes.set_xlim(0, max(1.03 * last, 1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_title(textwrap.fill(name.replace("_", " "), 32), fontsize=10)
        axes.set_xlabel("step")
    figure.legend(
        lines.values(), lines, loc="outside upper left", ncols=len(lines), frameon=False, fontsize=9
    )
    save_figure(figure, path)


def _read_curves(path: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Gives name -> split -> step -> value."""
    if not path.is_file():
        raise UserError(f"no file {path}; expected the metrics.jsonl of a run")
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        for name, value in line.items():
            if name not in ("step", "split") and math.isfinite(value):
                curves.setdefault(name, {}).setdefault(line["split"], {})[line["step"]] = value
    if not curves:
        raise UserError(f"{path} has no metrics; expected lines with step, split and values")
    return curves


def drawable(images: np.ndarray) -> np.ndarray:
    """Gives images as uint8 `[n, height, width, 3]`."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images are {list(images.shape)}; expected [n, height, width, channels] with 1 or 3 "
            "channels"
        )
    if images.dtype != np.uint8:
        images = np.nan_to_num(np.asarray(images, np.float32), nan=0, posinf=1, neginf=0)
        images = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def draw_cells(
    cells: np.ndarray,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    rows_together: int = 1,
) -> None:
    """Draws uint8 cells `[rows, columns, height, width, 3]`, a pixel of them in whole pixels."""
    rows, columns, height, width, _ = cells.shape
    zoom = max(1, round(CELL / max(height, width)))
    cells = cells.repeat(zoom, axis=2).repeat(zoom, axis=3)
    height, width = height * zoom, width * zoom

    longest = max((len(line) for label in row_labels for line in label.split("\n")), default=0)
    left = 96 + 7 * max(longest - 14, 0) if row_labels else MARGIN
    top = MARGIN + (26 if title else 0) + (18 if column_labels else 0)
    # Groups of rows that belong together stand further apart.
    between = GAP if rows_together == 1 else 4 * GAP
    tops = [top + i * (height + GAP) + i // rows_together * (between - GAP) for i in range(rows)]
    canvas_height = tops[-1] + height + MARGIN
    canvas_width = max(left + columns * (width + GAP) - GAP, left + 9 * len(title)) + MARGIN
    canvas = np.full((canvas_height, canvas_width, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            x = left + column * (width + GAP)
            canvas[tops[row] : tops[row] + height, x : x + width] = cells[row, column]

    figure = Figure(figsize=(canvas_width / DPI, canvas_height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.figimage(canvas)

    def write(x: float, y: float, text: str, **style: object) -> None:
        figure.text(x / canvas_width, 1 - y / canvas_height, text, **style)

    if title:
        write(left, MARGIN + 8, title, fontsize=11, va="center")
    for label, y in zip(row_labels, tops, strict=False):
        write(left - 8, y + height / 2, label, fontsize=8, ha="right", va="center")
    for column, label in enumerate(column_labels):
        x = left + column * (width + GAP) + width / 2
        write(x, top - 4, label, fontsize=8, ha="center", va="bottom")
    save_figure(figure, path)


def draw_panels(
    count: int, *, columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with `count` panels of a size in inches, in at most `columns` columns."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.remove()
    for axes in panels[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors="#444444", labelsize=8)
        axes.xaxis.label.set_size(8)
        axes.yaxis.label.set_size(8)
    return figure, panels[:count]


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the PNG beside its place and then moves it there: never half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=DPI)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
