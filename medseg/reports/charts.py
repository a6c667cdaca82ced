"""Charts as SVG text: box plots, agreement of volumes, calibration and curves over steps.

Colours come from the page's style sheet, so that they follow its light and dark themes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 40


@dataclass(frozen=True)
class Axis:
    """Values from low to high along a length of pixels.

    Args:
        low, high: values at the ends.
        start, stop: pixels at the ends.
    """

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """About five round numbers."""
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        step = 10 ** math.floor(math.log10(span / 4))
        step = next(step * m for m in (1, 2, 5, 10) if span / (step * m) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


@dataclass(frozen=True)
class Sample:
    """One column of a box plot: its name, the class of its colour, and (case, value) pairs."""

    name: str
    colour: int
    values: Sequence[tuple[str, float]]


def box_plot(samples: Sequence[Sample], *, title: str, unit: str, bounded: bool) -> str:
    """A box (quartiles, median), whiskers (to 1.5 box lengths) and every value of each sample.

    Args:
        samples: columns, left to right.
        title: what is shown.
        unit: of the values; "" for none.
        bounded: values lie in [0, 1].
    """
    numbers = [value for sample in samples for _, value in sample.values if math.isfinite(value)]
    if not numbers:
        return ""
    top = 1.0 if bounded else max(numbers) * 1.04 or 1.0
    low = _floor(min(numbers), top) if bounded else min(0.0, min(numbers) * 1.04)
    y = Axis(low, top, HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(y, unit or title)]
    slot = (WIDTH - _LEFT - _RIGHT) / len(samples)
    for n, sample in enumerate(samples):
        values = sorted((v, case) for case, v in sample.values if math.isfinite(v))
        middle = _LEFT + slot * (n + 0.5)
        half = min(26.0, slot * 0.3)
        parts.append(
            f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - _BOTTOM + 16}" '
            f'text-anchor="middle">{escape(_short(sample.name, slot))}</text>'
        )
        if not values:
            continue
        only = np.array([v for v, _ in values])
        first, median, third = np.percentile(only, (25, 50, 75))
        reach = 1.5 * (third - first)
        lowest, highest = only[only >= first - reach].min(), only[only <= third + reach].max()
        box = f'class="box c{sample.colour}"'
        parts += [
            f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" '
            f'y1="{y.at(lowest):.1f}" y2="{y.at(highest):.1f}"/>',
            f'<rect {box} x="{middle - half:.1f}" width="{2 * half:.1f}" '
            f'y="{y.at(third):.1f}" height="{max(1.0, y.at(first) - y.at(third)):.1f}"/>',
            f'<line class="median" x1="{middle - half:.1f}" x2="{middle + half:.1f}" '
            f'y1="{y.at(median):.1f}" y2="{y.at(median):.1f}"/>',
        ]
        for rank, (value, case) in enumerate(values):
            # Spread evenly by rank, so that equal values stay apart.
            aside = ((rank * 7) % 11 - 5) / 5 * half * 0.8
            parts.append(
                _dot(middle + aside, y.at(value), sample.colour, f"{case}: {value:.4g} {unit}")
            )
    return _svg(parts, title)


def agreement_plot(
    points: Sequence[tuple[str, float, float]],
    *,
    title: str,
    colour: int,
    mean: float,
    limits: tuple[float, float],
    unit: str = "ml",
) -> str:
    """Difference against mean of two quantities, with the mean difference and the limits of
    agreement.

    Args:
        points: case, mean and difference.
        title: what is shown.
        colour: of the points.
        mean, limits: of the differences.
        unit: of all these.

    Source: Bland and Altman 1986, Lancet 327(8476):307.
    """
    if not points:
        return ""
    xs, ys = [p[1] for p in points], [p[2] for p in points]
    known = [v for v in (*ys, mean, *limits, 0.0) if math.isfinite(v)]
    room = (max(known) - min(known)) * 0.08 or 1.0
    x = Axis(min(0.0, *xs), max(xs) * 1.03 or 1.0, _LEFT, WIDTH - _RIGHT)
    y = Axis(min(known) - room, max(known) + room, HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(y, f"prediction - reference, {unit}"), _bottom(x, f"mean of both, {unit}")]
    lines = ((mean, "mean"), *((limit, "limit") for limit in limits))
    for value, kind in lines:
        if math.isfinite(value):
            parts.append(
                f'<line class="{kind}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" '
                f'y1="{y.at(value):.1f}" y2="{y.at(value):.1f}"/>'
                f'<text class="tick" x="{WIDTH - _RIGHT - 2}" y="{y.at(value) - 3:.1f}" '
                f'text-anchor="end">{value:+.3g}</text>'
            )
    for case, a, b in points:
        parts.append(_dot(x.at(a), y.at(b), colour, f"{case}: {b:+.4g} {unit} at {a:.4g} {unit}"))
    return _svg(parts, title)


def reliability_plot(
    curves: Mapping[str, tuple[int, Sequence[tuple[float, float, float]]]], *, title: str
) -> str:
    """Share of right voxels against confidence; the area of a point grows with its voxels.

    Args:
        curves: per model its colour and (confidence, share right, share of voxels) per bin.
        title: what is shown.
    """
    x = Axis(0.0, 1.0, _LEFT, WIDTH - _RIGHT)
    y = Axis(0.0, 1.0, HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(y, "share that is right"), _bottom(x, "confidence")]
    parts.append(
        f'<line class="limit" x1="{x.at(0):.1f}" y1="{y.at(0):.1f}" '
        f'x2="{x.at(1):.1f}" y2="{y.at(1):.1f}"/>'
    )
    for name, (colour, points) in curves.items():
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b, _ in points)
        parts.append(f'<polyline class="curve c{colour}" points="{path}"/>')
        for a, b, share in points:
            note = f"{name}: {b:.3f} right at {a:.3f}, {share:.2%} of the voxels"
            parts.append(_dot(x.at(a), y.at(b), colour, note, radius=2 + 6 * math.sqrt(share)))
    return _svg(parts, title)


def line_plot(
    curves: Mapping[str, tuple[int, Sequence[tuple[float, float]]]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    log: bool = False,
) -> str:
    """Curves over a common axis.

    Args:
        curves: per name its colour and (x, y) points.
        title, x_title, y_title: what is shown.
        log: logarithmic y axis; values that are not positive are left out.
    """
    shown = {
        name: (
            colour,
            [
                (a, math.log10(b) if log else b)
                for a, b in points
                if math.isfinite(b) and (b > 0 or not log)
            ],
        )
        for name, (colour, points) in curves.items()
    }
    every = [point for _, points in shown.values() for point in points]
    if not every:
        return ""
    lows, highs = np.min(every, axis=0), np.max(every, axis=0)
    room = (highs[1] - lows[1]) * 0.05 or 0.05 * abs(highs[1]) or 1.0
    x = Axis(float(lows[0]), float(highs[0]), _LEFT, WIDTH - _RIGHT)
    y = Axis(float(lows[1] - room), float(highs[1] + room), HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(y, y_title, power=log), _bottom(x, x_title)]
    for name, (colour, points) in shown.items():
        thinned = points[:: max(1, len(points) // 600)]
        if len(points) > 1 and thinned[-1] != points[-1]:
            thinned = [*thinned, points[-1]]
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in thinned)
        parts.append(
            f'<polyline class="curve c{colour}" points="{path}"><title>{escape(name)}</title>'
            "</polyline>"
        )
        if len(points) == 1:
            parts.append(_dot(x.at(points[0][0]), y.at(points[0][1]), colour, name))
    return _svg(parts, title)


def legend(names: Mapping[str, int]) -> str:
    """Names with the colour of each, as HTML."""
    items = "".join(
        f'<li><span class="key c{colour}"></span>{escape(name)}</li>'
        for name, colour in names.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _svg(parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _frame(y: Axis, title: str, *, power: bool = False) -> str:
    parts = []
    for value in y.ticks():
        label = f"{10**value:.2g}" if power else f"{value:.6g}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" '
            f'y1="{y.at(value):.1f}" y2="{y.at(value):.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y.at(value) + 4:.1f}" '
            f'text-anchor="end">{label}</text>'
        )
    middle = (y.start + y.stop) / 2
    parts.append(
        f'<text class="axis" transform="translate(12 {middle:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(_short(title, 1.05 * (y.start - y.stop)))}</text>'
    )
    return "".join(parts)


def _bottom(x: Axis, title: str) -> str:
    parts = [
        f'<text class="tick" x="{x.at(value):.1f}" y="{HEIGHT - _BOTTOM + 15}" '
        f'text-anchor="middle">{value:.6g}</text>'
        for value in x.ticks()
    ]
    parts.append(
        f'<text class="axis" x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(title)}</text>'
    )
    return "".join(parts)


def _dot(x: float, y: float, colour: int, note: str, *, radius: float = 2.6) -> str:
    return (
        f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{escape(note)}</title></circle>"
    )


def _floor(lowest: float, top: float) -> float:
    """A round number below the values, so that differences near 1 are seen."""
    return max(0.0, math.floor((lowest - 0.05 * (top - lowest)) * 10) / 10)


def _short(name: str, slot: float) -> str:
    most = max(3, int(slot / 6.5))
    return name if len(name) <= most else f"{name[: most - 1]}…"
