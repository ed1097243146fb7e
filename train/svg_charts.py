"""Line charts as inline SVG, for pages that need nothing else: colours come from the page's style.

A series is drawn in the CSS colour `--c0`, `--c1` and so on; axes and text in the page's own.
"""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 46
COLOURS = 10


class Series(NamedTuple):
    """One line, or one point.

    Attributes:
      name: for whoever points at it.
      colour: number of its colour.
      x: `[n]`, ascending.
      y: `[n]`, means.
      low: `[n]`, the range's lower end; None: no range is drawn.
      high: like low, its upper end.
    """

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str, log_x: bool = False) -> str:
    """An `<svg>` of the series over common axes.

    Args:
      series: at least one, with at least one finite point.
      x_label: under the axis.
      y_label: beside the axis.
      log_x: x in powers of two; all x are above 0.

    Raises:
      ValueError: nothing to draw, or x that has no logarithm.
    """
    xs = np.concatenate([np.asarray(s.x, float) for s in series]) if series else np.zeros(0)
    ys = (
        np.concatenate(
            [np.asarray(v, float) for s in series for v in (s.y, s.low, s.high) if v is not None]
        )
        if series
        else np.zeros(0)
    )
    if not xs.size or not np.isfinite(ys).all() or not np.isfinite(xs).all():
        raise ValueError(f"{len(series)} series with {xs.size} points; expected finite points")
    if log_x and xs.min() <= 0:
        raise ValueError(f"x starts at {xs.min()}, which has no logarithm")
    along = _Axis(np.log2(xs) if log_x else np.append(xs, 0), LEFT, WIDTH - RIGHT, whole=log_x)
    up = _Axis(ys, HEIGHT - BOTTOM, TOP)

    def x_at(value: float) -> float:
        return along.at(math.log2(value) if log_x else value)

    parts = [_grid(along, up, log_x)]
    for one in series:
        parts.append(_drawn(one, x_at, up.at))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 8, x_label, anchor="middle"))
    height = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {height:.1f})"'
    parts.append(_text(14, height, y_label, anchor="middle", more=turned))
    label = html.escape(f"{y_label} over {x_label}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


class _Axis:
    """Where values lie along one axis, and which are written beside it."""

    def __init__(
        self, values: np.ndarray, start: float, end: float, *, whole: bool = False
    ) -> None:
        low, high = float(np.min(values)), float(np.max(values))
        room = 0.04 * (high - low) or 0.5
        self.ticks = [
            float(tick)
            for tick in MaxNLocator(6, integer=whole).tick_values(low, high)
            if low - room <= tick <= high + room
        ]
        self._low, self._high = low - room, high + room
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _grid(along: _Axis, up: _Axis, log_x: bool) -> str:
    parts = []
    for tick in up.ticks:
        y = up.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:.6g}", anchor="end"))
    for tick in along.ticks:
        x = along.at(tick)
        value = f"{2**tick:g}" if log_x else f"{tick:,.6g}"
        parts.append(_text(x, HEIGHT - BOTTOM + 16, value, anchor="middle"))
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return "".join(parts)


def _drawn(one: Series, x_at: object, y_at: object) -> str:
    """The range, the line and the points of a series."""
    colour = f"var(--c{one.colour % COLOURS})"
    xs, ys = [x_at(x) for x in one.x], [y_at(y) for y in one.y]
    parts = []
    if one.low is not None and len(xs) > 1:
        ends = [*zip(xs, map(y_at, one.high), strict=True)]
        ends += reversed([*zip(xs, map(y_at, one.low), strict=True)])
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in ends)
        parts.append(f'<polygon points="{corners}" fill="{colour}" opacity="0.18"/>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    radius = 4.5 if len(xs) == 1 else 2.6
    for x, y, at, value in zip(xs, ys, one.x, one.y, strict=True):
        told = html.escape(f"{one.name}: {value:.5g} at {at:,.5g}")
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}">'
            f"<title>{told}</title></circle>"
        )
    return "".join(parts)


def _text(x: float, y: float, text: str, *, anchor: str, more: str = "") -> str:
    written = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{written}</text>'
