"""What a comparison comes to: means and spreads over seeds, in tables and a picture."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from train import pictures
from train.metrics import rate
from train.writers import write_whole

# Head of a column, name of its figure, digits after the point.
Columns = tuple[tuple[str, str, int], ...]
COLUMNS: Columns = (
    ("PSNR, dB", "psnr", 2),
    ("SSIM", "ssim", 4),
    ("NMSE", "nmse", 4),
    ("entries", "entries", 0),
    ("not 0", "non_zeros", 0),
    ("nominal bits", "nominal_bits", 0),
    ("bits", "bits", 0),
    ("PSNR at these bits", "psnr_at_bits", 2),
)
NOTES = f"""\
Mean and standard deviation over seeds; figures per image, of a sequence entries and bits of all its
frames. "not 0": entries of the code other than 0. Nominal bits: log2 K for each index; where there
is a KL, that, in bits. Bits: the code rounded so far that at most {rate.UNSEEN_LOSS} dB is lost,
then one histogram for each unit (of capsules, each number of each) over images and positions, of
which the entropy is taken: a 0 counts as the common value it is. Indices likewise, unrounded."""
EVALUATED = "Mean and standard deviation over seeds; figures of the runs' own evaluations."


def by_system(measured: Sequence[Any]) -> dict[str, list[Any]]:
    """The runs of each system, in the order in which the systems first appear."""
    systems: dict[str, list[Any]] = {}
    for run in measured:
        systems.setdefault(run.system, []).append(run)
    return systems


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of the sample; NaN from one value) of a figure over seeds."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def cell(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation of a figure over seeds; "-" where there is none."""
    if not len(values):
        return "-"
    mean, deviation = spread(values)
    text = "-" if math.isnan(mean) else f"{mean:.{digits}f}"
    return text if math.isnan(deviation) else f"{text} ± {deviation:.{digits}f}"


def markdown(measured: Sequence[Any], columns: Columns = COLUMNS, notes: str = NOTES) -> str:
    """The table, with notes on how its figures came about under it."""
    heads = ["system", "seeds", *(head for head, _, _ in columns)]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for system, members in by_system(measured).items():
        cells = [system, str(len(members))]
        for _, name, digits in columns:
            cells.append(cell([run.values.get(name, math.nan) for run in members], digits))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + notes


def write(
    workdir: epath.Path,
    measured: Sequence[Any],
    columns: Columns = COLUMNS,
    notes: str = NOTES,
) -> None:
    """Writes `comparison.md`, `.csv` (a line a run) and `.jsonl` (with the curves)."""
    write_whole(workdir / "comparison.md", markdown(measured, columns, notes) + "\n")
    names = list(dict.fromkeys(name for run in measured for name in run.values))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["system", "seed", *names])
    for run in measured:
        table.writerow([run.system, run.seed, *(run.values.get(name, "") for name in names)])
    write_whole(workdir / "comparison.csv", text.getvalue())
    lines = [
        json.dumps(
            {"system": run.system, "seed": run.seed}
            | {name: None if math.isnan(value) else value for name, value in run.values.items()}
            | {"curve": [point._asdict() for point in run.curve]}
        )
        for run in measured
    ]
    write_whole(workdir / "comparison.jsonl", "\n".join(lines) + "\n")


def draw_rates(measured: Sequence[Any], path: epath.Path) -> None:
    """Draws PSNR over bits: a line for each run of a real code, a point for one of indices."""
    figure, (axes,) = pictures.draw_panels(1, columns=1, size=(6.4, 4.2))
    for number, (system, members) in enumerate(by_system(measured).items()):
        for run in members:
            bits, psnr = zip(*[(p.bits, p.psnr) for p in run.curve if p.bits > 0], strict=True)
            axes.plot(
                bits,
                psnr,
                color=f"C{number}",
                marker="o",
                markersize=4 if len(bits) > 1 else 7,
                linewidth=1.2,
                label=system if run is members[0] else None,
            )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("bits an image, by the entropy of the rounded code")
    axes.set_ylabel("PSNR, dB")
    axes.legend(frameon=False, fontsize=9)
    pictures.save_figure(figure, path)
