"""Small pictures as inline SVG: two histograms over each other, and a line of values with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REFERENCE, WINDOW, BAD, GREY = "#9aa5b1", "#0072B2", "#D55E00", "#6E6E6E"


def histogram(
    reference: NDArray[np.float64],
    window: NDArray[np.float64],
    names: Sequence[str],
    *,
    width: int = 240,
    height: int = 46,
) -> str:
    """Shares by bin: the reference in grey, the window in blue over it; each bin tells its name when hovered."""
    shares = [counts / max(counts.sum(), 1.0) for counts in (reference, window)]
    top, step = max(float(max(share.max() for share in shares)), 1e-9), width / len(names)
    parts = []
    for place, name in enumerate(names):
        told = f"{name}: {shares[0][place]:.1%} then, {shares[1][place]:.1%} now"
        bars = [share[place] / top * (height - 2) for share in shares]
        x = place * step
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f'<rect x="{x:.1f}" y="0" width="{step:.1f}" height="{height}" fill="transparent"/>'
            f"{_bar(x + 0.5, step - 1, bars[0], height, REFERENCE)}"
            f"{_bar(x + step * 0.25, step * 0.5, bars[1], height, WINDOW)}</g>"
        )
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _bar(x: float, width: float, tall: float, height: int, colour: str) -> str:
    width = max(width, 0.5)
    return f'<rect x="{x:.1f}" y="{height - tall:.1f}" width="{width:.1f}" height="{tall:.1f}" fill="{colour}"/>'


@dataclass(frozen=True, slots=True)
class Point:
    """One window: its name, the value with its bounds, that of a longer stretch up to it, what was promised, and an
    estimate; None where there is none."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    trailing: float | None
    promised: float | None
    estimated: float | None
    is_bad: bool


def series(points: Sequence[Point], *, width: int = 860, height: int = 210) -> str:
    """Values in time with their intervals, the trailing ones and the promise as lines, estimates as hollow circles."""
    numbers = [
        n for p in points for n in (p.value, p.low, p.high, p.trailing, p.promised, p.estimated) if n is not None
    ]
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    margin = (high - low) * 0.08 or 0.01
    low, high = low - margin, high + margin
    left, bottom = 52, 26
    step = (width - left - 10) / max(len(points), 1)

    def y(value: float) -> float:
        return 6 + (high - value) / (high - low) * (height - bottom - 6)

    parts = [
        f'<line x1="{left}" x2="{width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e4e4e4"/>'
        f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.3g}</text>'
        for tick in np.linspace(low + margin, high - margin, 4).tolist()
    ]
    lines = [
        f"{left + step * (n + 0.5):.1f},{y(p.trailing):.1f}" for n, p in enumerate(points) if p.trailing is not None
    ]
    path = " ".join(lines)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{WINDOW}" stroke-width="1.5"/>')
    seldom = max(1, len(points) // 12)
    for place, point in enumerate(points):
        x = left + step * (place + 0.5)
        colour = BAD if point.is_bad else WINDOW
        if point.promised is not None:
            level = y(point.promised)
            parts.append(
                f'<line x1="{x - step / 2:.1f}" x2="{x + step / 2:.1f}" y1="{level:.1f}" y2="{level:.1f}" '
                f'stroke="{GREY}" stroke-dasharray="5 3" stroke-width="1.5"/>'
            )
        if point.low is not None and point.high is not None:
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(point.low):.1f}" y2="{y(point.high):.1f}" stroke="{colour}" '
                'stroke-width="1.5"/>'
            )
        if point.estimated is not None:
            parts.append(
                _dot(x + 5, y(point.estimated), "white", GREY, f"{point.name}: estimated {point.estimated:.4f}")
            )
        if point.value is not None:
            parts.append(_dot(x, y(point.value), colour, colour, f"{point.name}: {point.value:.4f}"))
        if place % seldom == 0:
            parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{escape(point.name)}</text>')
    return f'<svg width="100%" viewBox="0 0 {width} {height}" role="img" class="series">{"".join(parts)}</svg>'


def _dot(x: float, y: float, fill: str, stroke: str, told: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{stroke}" stroke-width="1.5">'
        f"<title>{escape(told)}</title></circle>"
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of `lines`: a value for each place, nan where there is none, and where it is marked with what."""

    name: str
    colour: str
    values: Sequence[float]
    is_dashed: bool = False
    marks: Sequence[tuple[int, str, str]] = ()  # place, colour, what it tells
    ends: tuple[float, float] | None = None  # bounds of the last value


def lines(names: Sequence[str], drawn: Sequence[Line], *, width: int = 860, height: int = 240) -> str:
    """Lines over the same places, which are called `names`; a mark is a dot on its line."""
    numbers = np.array([number for line in drawn for number in (*line.values, *(line.ends or ()))], dtype=np.float64)
    if not np.isfinite(numbers).any():
        return ""
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    margin = (high - low) * 0.08 or 0.01
    low, high = low - margin, high + margin
    left, bottom = 52, 26
    step = (width - left - 10 - 3 * sum(line.ends is not None for line in drawn)) / max(len(names), 1)

    def point(place: int, value: float) -> tuple[float, float]:
        return left + step * (place + 0.5), 6 + (high - value) / (high - low) * (height - bottom - 6)

    parts = []
    for tick in np.linspace(low + margin, high - margin, 4).tolist():
        y = point(0, tick)[1]
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>'
        )
    for number, line in enumerate(drawn):
        points = [point(place, value) for place, value in enumerate(line.values) if np.isfinite(value)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="5 3"' if line.is_dashed else ""
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.5"{dashes}>'
            f"<title>{escape(line.name)}</title></polyline>"
        )
        if line.ends is not None:
            # Side by side, so that none hides another.
            at, ys = width - 2 - 3 * (len(drawn) - number), [point(0, bound)[1] for bound in line.ends]
            parts.append(f'<line x1="{at}" x2="{at}" y1="{ys[0]:.1f}" y2="{ys[1]:.1f}" stroke="{line.colour}"/>')
        for place, colour, told in line.marks:
            value = line.values[place]
            x, y = point(place, value if np.isfinite(value) else low + margin)
            parts.append(_dot(x, y, colour, colour, told))
    seldom = max(1, len(names) // 12)
    for place in range(0, len(names), seldom):
        x = point(place, 0.0)[0]
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{escape(names[place])}</text>')
    return f'<svg width="100%" viewBox="0 0 {width} {height}" role="img" class="series">{"".join(parts)}</svg>'
