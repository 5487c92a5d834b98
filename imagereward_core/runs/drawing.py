"""Curves and intervals as SVG, for reports and WebUI. Colours are the page's own: `--refl-line`, `currentColor`."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from .measures import Curve

WIDTH, HEIGHT = 280, 130
LEFT, TOP, BOTTOM = 6, 18, 20  # room for the axis' numbers above and below


def figures(curves: Sequence[Curve]) -> str:
    """All curves, each a `<figure>` with its title and where it began and stands."""
    return "".join(figure(curve) for curve in curves)


def figure(curve: Curve) -> str:
    """One curve on its axis: a band of the standard error, the line, a dashed line where it started, and the place that
    is drawn out.
    """
    bottom, top = curve.axis
    first, last = curve.points[0][0], curve.points[-1][0]

    def place(x: float, y: float) -> str:
        across = LEFT + (x - first) / ((last - first) or 1) * (WIDTH - 2 * LEFT)
        down = HEIGHT - BOTTOM - (y - bottom) / ((top - bottom) or 1) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    start, end = curve.points[0][1], curve.points[-1][1]
    line = " ".join(place(x, y) for x, y, _ in curve.points)
    above = [place(x, y + error) for x, y, error in curve.points]
    below = [place(x, y - error) for x, y, error in reversed(curve.points)]
    band = any(error for _, _, error in curve.points)
    colour = "var(--refl-line, #2a78d6)"
    began = place(first, start).split(",")[1]
    x, y = place(last, end).split(",")
    parts = [
        f'<polygon points="{" ".join(above + below)}" fill="{colour}" fill-opacity="0.2"/>' if band else "",
        f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{began}" y2="{began}" stroke="currentColor"'
        ' stroke-opacity="0.35" stroke-dasharray="3 3"/>',
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
        _mark(curve, place) if curve.mark is not None else "",
        *(_dot(place(*point[:2]), colour) for point in (curve.points if curve.along != "update" else ())),
        f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>',
        _word(LEFT, 12, curve.text(top)),
        _word(LEFT, HEIGHT - 6, curve.text(bottom)),
        _word(WIDTH - LEFT, HEIGHT - 6, f"{curve.along} {last:g}", end=True),
    ]
    caption = f"{html.escape(curve.title)}: {curve.text(start)} → {curve.text(end)}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{caption}">{"".join(parts)}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def interval(low: float, middle: float, high: float, span: float) -> str:
    """An interval and its middle on an axis from -span to span, with a line at 0: one row of a table. `<svg>` that
    stands alone, so that a page can read it as XML.
    """
    width, height = 160, 16

    def place(value: float) -> float:
        return 4 + (min(max(value / (span or 1), -1), 1) + 1) / 2 * (width - 8)

    colour = "var(--refl-line, #2a78d6)"
    y = height / 2
    ends = "".join(
        f'<line x1="{place(x):.1f}" x2="{place(x):.1f}" y1="{y - 4}" y2="{y + 4}" stroke="{colour}" stroke-width="2"/>'
        for x in (low, high)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="{middle:+.2f}, from {low:+.2f} to {high:+.2f}">'
        f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="0" y2="{height}" stroke="currentColor"'
        ' stroke-opacity="0.35" stroke-dasharray="3 3"/>'
        f'<line x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        f'{ends}<circle cx="{place(middle):.1f}" cy="{y}" r="4" fill="{colour}"/></svg>'
    )


def _dot(at: str, colour: str) -> str:
    x, y = at.split(",")
    return f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>'


def _mark(curve: Curve, place: Callable[[float, float], str]) -> str:
    """A line through the place that is drawn out, with its number."""
    x = place(curve.mark or 0.0, 0.0).split(",")[0]
    line = f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="currentColor" stroke-width="1.5"/>'
    return line + f'<text x="{x}" y="12" font-size="10" fill="currentColor" text-anchor="middle">{curve.mark:g}</text>'


def _word(x: float, y: float, text: str, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}" font-size="10" fill="currentColor"{anchor}>{html.escape(text)}</text>'
