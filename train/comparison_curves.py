"""How runs that are compared came to their ends: their figures at every evaluated step.

Read from each run's `metrics.jsonl`, so that nothing is measured again.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from train import pictures
from train.comparison_tables import Columns, by_system, cell
from train.errors import UserError
from train.writers import read_lines, write_whole

NOTES = "Mean and standard deviation over seeds, on the test split, after each evaluated step."


# What a page shows where a comparison names nothing: of the test split, and of training batches.
TESTED: Columns = (("PSNR, dB", "psnr", 2), ("SSIM", "ssim", 4))
TRAINED: Columns = (("NMSE of training batches", "nmse", 4),)


class Curve(NamedTuple):
    """One run's figures over its steps.

    Attributes:
      system: what the run is called, its seed apart.
      seed: of the run.
      values: step to figure by name.
    """

    system: str
    seed: int
    values: dict[int, dict[str, float]]


def read(workdir: epath.Path, system: str, *, seed: int, split: str = "test") -> Curve:
    """A run's figures on a split, the last of each step; none where it has written none."""
    lines = read_lines(workdir / "metrics.jsonl")
    values = {line.pop("step"): line for line in lines if line.pop("split") == split}
    return Curve(system, seed, dict(sorted(values.items())))


def markdown(curves: Sequence[Curve], columns: Columns) -> str:
    """For each figure a table: a row a step, a column a system; "-" where there is none."""
    systems = by_system(curves)
    heads = ["step", *(f"{name} ({len(runs)})" for name, runs in systems.items())]
    parts = []
    for head, name, digits in columns:
        lines = [head, "", "| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
        for step in _steps(curves, name):
            at = [_at(runs, step, name) for runs in systems.values()]
            cells = [str(step), *(cell(values, digits) for values in at)]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, NOTES + " In brackets: seeds."])


def write(workdir: epath.Path, curves: Sequence[Curve], columns: Columns) -> None:
    """Writes `comparison_curves.md`, and `.csv` with a line for each run and step.

    Raises:
      UserError: a run has no figures.
    """
    for curve in curves:
        if not curve.values:
            raise UserError(
                f"{curve.system}, seed {curve.seed}, was never evaluated; let it come to its end"
            )
    write_whole(workdir / "comparison_curves.md", markdown(curves, columns) + "\n")
    names = [name for _, name, _ in columns]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["system", "seed", "step", *names])
    for curve in curves:
        for step, values in curve.values.items():
            found = [values.get(name, "") for name in names]
            if any(value != "" for value in found):
                table.writerow([curve.system, curve.seed, step, *found])
    write_whole(workdir / "comparison_curves.csv", text.getvalue())


def draw(curves: Sequence[Curve], columns: Columns, path: epath.Path) -> None:
    """Draws a panel for each figure: of each system the mean over seeds, and their range."""
    figure, panels = pictures.draw_panels(len(columns), columns=3, size=(4.4, 3.2))
    systems = by_system(curves)
    lines = {}
    for axes, (head, name, _) in zip(panels, columns, strict=True):
        for number, (system, runs) in enumerate(systems.items()):
            steps, found = over_steps(runs, name)
            colour = f"C{number % 10}"
            (lines[system],) = axes.plot(
                steps, [np.mean(values) for values in found], color=colour, marker="o", markersize=3
            )
            low, high = [min(values) for values in found], [max(values) for values in found]
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        axes.set_title(head, fontsize=10)
    labels = [f"{system}, {len(systems[system])} seeds" for system in lines]
    figure.legend(lines.values(), labels, loc="outside upper left", ncols=4, frameon=False)
    pictures.save_figure(figure, path)


def over_steps(curves: Sequence[Curve], name: str) -> tuple[list[int], list[list[float]]]:
    """Steps at which a figure is known, and at each its values over the runs that have it."""
    steps = _steps(curves, name)
    return steps, [_at(curves, step, name) for step in steps]


def _steps(curves: Sequence[Curve], name: str) -> list[int]:
    """Steps at which any run has the figure."""
    return sorted(
        {step for curve in curves for step, values in curve.values.items() if name in values}
    )


def _at(curves: Sequence[Curve], step: int, name: str) -> list[float]:
    """The figure at a step, of the runs that have it."""
    values = [curve.values.get(step, {}).get(name, math.nan) for curve in curves]
    return [value for value in values if not math.isnan(value)]
