"""A comparison as one page that opens from disk: `comparison.html`, with no script and no network.

Tables, charts (inline SVG) and pictures (PNG in the page itself) follow the reader's light or dark
setting.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from train import comparison_curves, pictures
from train.comparison_tables import COLUMNS, NOTES, Columns, by_system, cell, spread
from train.page_style import STYLE
from train.svg_charts import COLOURS, Series, line_chart
from train.writers import write_whole

USE: Columns = (
    ("active units", "active_units", 1),
    ("codes used", "used_codes", 1),
    ("perplexity of the codes", "perplexity", 1),
    ("atoms used", "used_atoms", 1),
    ("entries not 0", "non_zeros", 1),
    ("of all entries", "entries", 0),
    ("capsules that win somewhere", "winners", 2),
    ("entries that vary", "varying", 1),
)
USE_NOTES = """\
Per image, mean over the test split. Active units: units of a Gaussian latent whose posterior mean
varies over the images with a variance above 0.01 (Burda et al. 2016). Codes and atoms used: those
that occur at all. Entries that vary: entries of the code whose variance over the images is above a
hundredth of the mean of all entries' variances; of indices, those that are not always the same."""
PROBE_NOTES = """\
Logistic regression on standardised features, fitted to the first {train} training images and tested
on {test} test images. Of indices the codewords are the features. Beside it: the same on raw pixels,
and chance, which always says the most frequent class."""
COST_NOTES = """\
Seconds are the median of a training step on the machine that made this page ({where}), with the
data ready; parameters are all numbers that the optimiser moves."""


class Shown(NamedTuple):
    """Pictures of one system, of its first run.

    Attributes:
      reconstructions: `[n, height, width, channels]` of the originals.
      between: `[steps, height, width, channels]`, from the first original to the second; or None.
      moved: label to `[values, height, width, channels]`: the first original's code with one entry
        set to several values.
    """

    reconstructions: np.ndarray
    between: np.ndarray | None
    moved: Mapping[str, np.ndarray]


class Page(NamedTuple):
    """All that a page shows; what is empty or None has no section.

    Attributes:
      title: of the comparison.
      lead: one sentence on data, steps and seeds.
      measured: runs with `system`, `seed`, `values` and `curve`.
      columns: of the first table.
      notes: under it.
      curves: figures of runs at every evaluated step, in groups of (columns, curves).
      originals: test images `[n, height, width, channels]`.
      shown: pictures by system.
      probe: "raw pixels" and "chance" to accuracy, "train" and "test" to numbers of images.
      where: what the steps were timed on.
    """

    title: str
    lead: str
    measured: Sequence[Any]
    columns: Columns = COLUMNS
    notes: str = NOTES
    curves: Sequence[tuple[Columns, Sequence[comparison_curves.Curve]]] = ()
    originals: np.ndarray | None = None
    shown: Mapping[str, Shown] | None = None
    probe: Mapping[str, float] | None = None
    where: str = ""


def write(path: epath.Path, page: Page) -> None:
    """Writes the page as one file."""
    systems = by_system(page.measured)
    colours = {system: number for number, system in enumerate(systems)}
    sections = [
        _table("Results", systems, colours, page.columns, page.notes),
        _curves(page, colours),
        _rate_distortion(systems, colours),
        _pictures(page, colours),
        _between(page, colours),
        _moved(page, colours),
        _table("How the latent is used", systems, colours, USE, USE_NOTES),
        _probe(page, systems, colours),
        _cost(page, systems, colours),
    ]
    body = "\n".join(section for section in sections if section)
    title = html.escape(page.title)
    write_whole(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{html.escape(page.lead)}</p>
{body}
</main>
</body>
</html>
""",
    )


def _section(title: str, body: str, notes: str = "") -> str:
    under = f'<p class="notes">{html.escape(notes)}</p>' if notes else ""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{body}\n{under}\n</section>"


def _name(system: str, colours: Mapping[str, int]) -> str:
    """A system's name after a mark of its colour."""
    mark = f'<i class="mark" style="background:var(--c{colours[system] % COLOURS})"></i>'
    return mark + html.escape(system)


def _rows(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table whose rows are (head as HTML, cells as text)."""
    top = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads)
    lines = [
        f'<tr><th scope="row">{head}</th>'
        + "".join(f"<td>{html.escape(text)}</td>" for text in cells)
        + "</tr>"
        for head, cells in rows
    ]
    body = "\n".join(lines)
    head = f"<thead><tr>{top}</tr></thead>"
    return f'<div class="wide"><table>\n{head}\n<tbody>\n{body}\n</tbody></table></div>'


def _values(members: Sequence[Any], name: str) -> list[float]:
    """A figure of a system's runs, of those that have it."""
    found = [run.values.get(name, np.nan) for run in members]
    return [value for value in found if not np.isnan(value)]


def _table(
    title: str,
    systems: Mapping[str, Sequence[Any]],
    colours: Mapping[str, int],
    columns: Columns,
    notes: str,
) -> str:
    """Figures of the systems, without the columns that none of them has."""
    kept = [column for column in columns if any(_values(m, column[1]) for m in systems.values())]
    if not kept:
        return ""
    rows = [
        (
            _name(system, colours),
            [str(len(members))]
            + [cell(_values(members, name), digits) for _, name, digits in kept],
        )
        for system, members in systems.items()
    ]
    return _section(title, _rows(["system", "seeds", *(head for head, _, _ in kept)], rows), notes)


def _legend(systems: Sequence[str], colours: Mapping[str, int]) -> str:
    names = "".join(f"<li>{_name(system, colours)}</li>" for system in systems)
    return f'<ul class="legend">{names}</ul>'


def _curves(page: Page, colours: Mapping[str, int]) -> str:
    charts = []
    for columns, curves in page.curves:
        for head, name, _ in columns:
            series = []
            for system, runs in by_system(curves).items():
                steps, found = comparison_curves.over_steps(runs, name)
                if steps:
                    low, high = [min(v) for v in found], [max(v) for v in found]
                    mean = [float(np.mean(v)) for v in found]
                    series.append(Series(system, colours[system], steps, mean, low, high))
            if any(len(one.x) > 1 for one in series):
                charts.append(line_chart(series, x_label="step", y_label=head))
    if not charts:
        return ""
    body = _legend(list(colours), colours) + f'<div class="charts">{"".join(charts)}</div>'
    return _section("Over the steps of training", body, "Lines: means over seeds; shades: ranges.")


def _rate_distortion(systems: Mapping[str, Sequence[Any]], colours: Mapping[str, int]) -> str:
    series = []
    for system, members in systems.items():
        for run in members:
            points = sorted((p.bits, p.psnr) for p in run.curve if p.bits > 0)
            if points:
                bits, psnr = zip(*points, strict=True)
                series.append(Series(system, colours[system], bits, psnr))
    if not series:
        return ""
    chart = line_chart(
        series, x_label="bits an image, entropy of the rounded code", y_label="PSNR, dB", log_x=True
    )
    body = _legend(list(systems), colours) + f'<div class="charts">{chart}</div>'
    notes = (
        "One line for each run: its code rounded ever more coarsely, from right to left. A code of "
        "indices is not rounded, and is one point."
    )
    return _section("Rate and distortion", body, notes)


def _pictures(page: Page, colours: Mapping[str, int]) -> str:
    if not page.shown or page.originals is None:
        return ""
    rows = [("originals", _strip(page.originals, "the originals"))]
    for system, shown in page.shown.items():
        strip = _strip(shown.reconstructions, f"reconstructions by {system}")
        rows.append((_name(system, colours), strip))
    return _section("The same test images through every bottleneck", _gallery(rows))


def _between(page: Page, colours: Mapping[str, int]) -> str:
    rows = [
        (_name(system, colours), _strip(shown.between, f"interpolation by {system}"))
        for system, shown in (page.shown or {}).items()
        if shown.between is not None
    ]
    notes = (
        "Codes in even steps from the first image's to the second's. Between indices the codewords "
        "are mixed, which gives latents that no index stands for."
    )
    return _section("From one image to another", _gallery(rows), notes) if rows else ""


def _moved(page: Page, colours: Mapping[str, int]) -> str:
    rows = []
    for system, shown in (page.shown or {}).items():
        for label, images in shown.moved.items():
            head = f"{_name(system, colours)}<br><small>{html.escape(label)}</small>"
            rows.append((head, _strip(images, f"{label} of {system} moved")))
    notes = (
        "The first image's code with one entry changed. Of numbers: the entries that vary most "
        "over the images, from two standard deviations below their mean to two above. Of indices: "
        "one position's code swapped for those that occur most often."
    )
    return _section("One entry of the code at a time", _gallery(rows), notes) if rows else ""


def _gallery(rows: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f'<tr><th scope="row">{head}</th><td>{strip}</td></tr>' for head, strip in rows)
    return f'<div class="wide"><table class="gallery"><tbody>{lines}</tbody></table></div>'


def _strip(images: np.ndarray, alt: str) -> str:
    """Images side by side as one PNG in the page, enlarged in whole pixels."""
    cells = pictures.drawable(images)
    n, height, width, _ = cells.shape
    gap = max(1, width // 16)
    strip = np.zeros((height, n * (width + gap) - gap, 4), np.uint8)  # gaps are transparent
    for i, image in enumerate(cells):
        left = i * (width + gap)
        strip[:, left : left + width, :3] = image
        strip[:, left : left + width, 3] = 255
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    zoom = max(1, round(64 / width))
    size = f'width="{zoom * strip.shape[1]}" height="{zoom * height}"'
    return f'<img {size} alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _probe(page: Page, systems: Mapping[str, Sequence[Any]], colours: Mapping[str, int]) -> str:
    if not page.probe:
        return ""
    rows = [
        (_name(system, colours), [_percent(_values(members, "probe_accuracy"))])
        for system, members in systems.items()
    ]
    rows += [(name, [_percent([page.probe[name]])]) for name in ("raw pixels", "chance")]
    notes = PROBE_NOTES.format(train=int(page.probe["train"]), test=int(page.probe["test"]))
    return _section("What a linear probe reads", _rows(["features", "accuracy"], rows), notes)


def _percent(values: Sequence[float]) -> str:
    mean, deviation = spread(100 * np.asarray(values)) if len(values) else (np.nan, np.nan)
    if np.isnan(mean):
        return "-"
    return f"{mean:.1f} %" + ("" if np.isnan(deviation) else f" ± {deviation:.1f}")


def _cost(page: Page, systems: Mapping[str, Sequence[Any]], colours: Mapping[str, int]) -> str:
    rows = []
    for system, members in systems.items():
        seconds, parameters = (_values(members, n) for n in ("seconds_per_step", "parameters"))
        if seconds and parameters:
            rows.append(
                (_name(system, colours), [f"{1000 * seconds[0]:.3g}", f"{int(parameters[0]):,}"])
            )
    if not rows:
        return ""
    table = _rows(["system", "milliseconds a step", "parameters"], rows)
    return _section("What training costs", table, COST_NOTES.format(where=page.where))
