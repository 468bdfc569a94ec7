"""Line and stacked charts as inline SVG: pure functions from numbers to markup, without scripts, fonts or files.

Colours are CSS classes (`s0`, `s1`, ...) that the page defines for light and dark. Long series are thinned to the
extremes of equal buckets, so that a one-step spike among 100,000 steps is still drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 210
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 26
BUCKETS = 300
HOVERS = 60
COLOURS = 8
LARGEST = 1e100  # values beyond are drawn here, where arithmetic on them cannot overflow
DOTS = 12
LETTER_ROOM, LETTER_HEIGHT = 22, 12  # pixels

Points = Sequence[tuple[float, float]]
"""(step, value) in rising order of steps; values finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One of several lines that are told apart by a letter at their ends and a colour.

    raw: drawn faintly beneath. band: (step, lowest, highest) around the line.
    """

    letter: str
    colour: int
    points: Points
    raw: Points = ()
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """Maps data to pixels. log: the vertical axis shows powers of ten."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool = False
    right: int = RIGHT

    def x(self, step: float) -> float:
        share = (step - self.x_low) / ((self.x_high - self.x_low) or 1)
        return LEFT + share * (WIDTH - LEFT - self.right)

    def y(self, value: float) -> float:
        if self.log:
            value = math.log10(value)
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def line_chart(lines: Mapping[str, Points], *, title: str, log: bool = False) -> Markup:
    """One chart of several named lines over the same steps (or other numbers); a single long line on a linear axis
    also gets its running mean.

    log asks for a logarithmic axis and is ignored when a value is not clearly positive.
    """
    lines = {label: _bounded(points) for label, points in lines.items()}
    drawn = {label: thin(points) for label, points in lines.items() if points}
    if not drawn:
        return Markup("")
    values = [value for points in drawn.values() for _, value in points]
    steps = [step for points in drawn.values() for step, _ in points]
    log = log and min(values) > 1 / LARGEST
    scaled = [math.log10(value) for value in values] if log else values
    low, high = _padded(min(scaled), max(scaled))
    frame = Frame(min(steps), max(steps), low, high, log)
    parts = list(_axes(frame))
    single = len(drawn) == 1
    for index, (label, points) in enumerate(drawn.items()):
        smooth = running_mean(lines[label]) if single and not log else None
        parts.append(_path(frame, points, f"line s{index % COLOURS}{' raw' if smooth else ''}", label))
        if smooth:
            parts.append(_path(frame, thin(smooth), f"line s{index % COLOURS}", f"{label}, running mean"))
    parts += _hovers(frame, drawn)
    return _svg(parts, title)


def overlaid_chart(traces: Sequence[Trace], *, title: str, log: bool = False) -> Markup:
    """Lines of several runs over the same steps (or other numbers), each with its letter where it ends.

    log: as of `line_chart`. Letters that would cover one another are moved apart.
    """
    traces = [trace for trace in traces if trace.points]
    if not traces:
        return Markup("")
    values = [value for trace in traces for points in (trace.points, trace.raw) for _, value in _bounded(points)]
    values += [min(max(end, -LARGEST), LARGEST) for trace in traces for _, *ends in trace.band for end in ends]
    log = log and min(values) > 1 / LARGEST
    low, high = _padded(*(math.log10(end) if log else end for end in (min(values), max(values))))
    steps = [step for trace in traces for points in (trace.points, trace.raw) for step, _ in points]
    frame = Frame(min(steps), max(steps), low, high, log, LETTER_ROOM)
    parts = list(_axes(frame))
    parts += [_band(frame, trace) for trace in traces if trace.band]
    parts += [
        _path(frame, thin(_bounded(trace.raw)), f"line s{trace.colour} raw", trace.letter)
        for trace in traces
        if trace.raw
    ]
    drawn = {trace.letter: thin(_bounded(trace.points)) for trace in traces}
    parts += [_path(frame, drawn[trace.letter], f"line s{trace.colour}", trace.letter) for trace in traces]
    ends = [(frame.x(step), frame.y(value)) for step, value in (drawn[trace.letter][-1] for trace in traces)]
    for trace, (x, y) in zip(traces, moved_apart(ends), strict=True):
        parts.append(
            Markup('<text class="letter s{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                trace.colour, x + 5, y + 4, trace.letter
            )
        )
    parts += _hovers(frame, drawn)
    return _svg(parts, title)


def moved_apart(places: Points) -> list[tuple[float, float]]:
    """Pixels (x, y) of labels, moved up or down until those of one column are LETTER_HEIGHT apart and in the chart."""
    order = sorted(range(len(places)), key=lambda index: places[index][1])
    moved = list(places)
    for before, index in pairwise(order):
        near = abs(moved[index][0] - moved[before][0]) < LETTER_ROOM
        lowest = moved[before][1] + LETTER_HEIGHT if near else 0.0
        moved[index] = (moved[index][0], max(moved[index][1], lowest))
    beyond = max(0.0, max((y for _, y in moved), default=0.0) - (HEIGHT - BOTTOM))
    return [(x, y - beyond) for x, y in moved]


def stacked_chart(layers: Mapping[str, Points], *, title: str) -> Markup:
    """Layers stacked on one another, from the first at the bottom; each bucket of steps shows its means.

    Values are amounts: negative ones count as 0.
    """
    names = [name for name, points in layers.items() if points]
    steps = sorted({step for name in names for step, _ in layers[name]})
    if not steps:
        return Markup("")
    values = {name: dict(_bounded(layers[name], low=0.0)) for name in names}
    size = math.ceil(len(steps) / BUCKETS)
    groups = [steps[start : start + size] for start in range(0, len(steps), size)]
    middles = [fmean(group) for group in groups]
    sums = [0.0] * len(groups)
    bands = []
    for name in names:
        below = sums
        sums = [
            base + fmean(values[name].get(step, 0.0) for step in group)
            for base, group in zip(below, groups, strict=True)
        ]
        bands.append((name, below, sums))
    frame = Frame(middles[0], middles[-1], 0.0, max(max(sums) * 1.05, 1 / LARGEST))
    parts = list(_axes(frame))
    for index, (name, below, above) in enumerate(bands):
        upper = [(frame.x(step), frame.y(value)) for step, value in zip(middles, above, strict=True)]
        lower = [(frame.x(step), frame.y(value)) for step, value in zip(middles, below, strict=True)]
        if len(middles) == 1:  # one step has no width of its own
            upper, lower = [(LEFT, upper[0][1]), (WIDTH - RIGHT, upper[0][1])], [(LEFT, lower[0][1])]
            lower.append((WIDTH - RIGHT, lower[0][1]))
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
        parts.append(
            Markup('<polygon class="area s{}" points="{}"><title>{}</title></polygon>').format(
                index % COLOURS, corners, name
            )
        )
    return _svg(parts, title)


def thin(points: Points) -> list[tuple[float, float]]:
    """At most 2 x BUCKETS points: the smallest and the largest of each of equal buckets, in order of steps."""
    if len(points) <= 2 * BUCKETS:
        return list(points)
    size = math.ceil(len(points) / BUCKETS)
    kept = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        ends = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def running_mean(points: Points) -> list[tuple[float, float]] | None:
    """Mean of the last fifteenth of the series at each point, or None for fewer than 20 points."""
    if len(points) < 20:
        return None
    window = max(3, len(points) // 15)
    means, total = [], 0.0
    for index, (step, value) in enumerate(points):
        total += value
        if index >= window:
            total -= points[index - window][1]
        means.append((step, total / min(index + 1, window)))
    return means


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    gap = power * next(factor for factor in (1, 2, 5, 10) if rough <= factor * power * (1 + 1e-9))
    first = math.ceil(low / gap - 1e-9)
    return [round(index * gap, 12) for index in range(first, math.floor(high / gap + 1e-9) + 1)]


def short_number(value: float) -> str:
    """A number for an axis or a table: 12k, 0.35, 1.2e-06."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:.4g}"


def _bounded(points: Points, *, low: float = -LARGEST) -> list[tuple[float, float]]:
    return [(step, min(max(value, low), LARGEST)) for step, value in points]


def _padded(low: float, high: float) -> tuple[float, float]:
    space = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - space, high + space


def _axes(frame: Frame) -> Iterator[Markup]:
    if frame.log:
        lowest, highest = math.ceil(frame.y_low), math.floor(frame.y_high)
        powers = range(lowest, highest + 1, max(1, (highest - lowest) // 5))
        ticks = [10.0**power for power in powers] or [10 ** ((frame.y_low + frame.y_high) / 2)]
    else:
        ticks = nice_ticks(frame.y_low, frame.y_high)
    for value in ticks:
        y = frame.y(value)
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            LEFT, WIDTH - frame.right, y, y
        )
        yield Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 6, y + 4, short_number(value)
        )
    whole = frame.x_low == int(frame.x_low) and frame.x_high == int(frame.x_high) and frame.x_high - frame.x_low > 1
    for step in nice_ticks(frame.x_low, frame.x_high, count=6):
        if step == int(step) or not whole:
            yield Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                frame.x(step), HEIGHT - 8, short_number(step)
            )


def _path(frame: Frame, points: Points, classes: str, label: str) -> Markup:
    """A line, and dots where there are so few points that the line alone would hide how few."""
    places = [(frame.x(step), frame.y(value)) for step, value in points]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(classes, corners, label)
    dots = [
        Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(classes.split()[1], x, y)
        for x, y in (places if len(places) <= DOTS else [])
    ]
    return line + Markup("").join(dots)


def _band(frame: Frame, trace: Trace) -> Markup:
    """The area between the lowest and the highest; of a long one the extremes of equal buckets."""
    lows = thin(_bounded([(step, low) for step, low, _ in trace.band]))
    highs = thin(_bounded([(step, high) for step, _, high in trace.band]))
    corners = " ".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in [*lows, *reversed(highs)])
    return Markup('<polygon class="band area s{}" points="{}"/>').format(trace.colour, corners)


def _hovers(frame: Frame, lines: Mapping[str, Points]) -> Iterator[Markup]:
    """Invisible columns whose tooltip gives the values there: reading a chart without a script."""
    steps = sorted({step for points in lines.values() for step, _ in points})
    values = {label: dict(points) for label, points in lines.items()}
    stride = math.ceil(len(steps) / HOVERS)
    width = (WIDTH - LEFT - frame.right) / math.ceil(len(steps) / stride)
    for step in steps[::stride]:
        told = ", ".join(f"{label} {short_number(known[step])}" for label, known in values.items() if step in known)
        yield Markup(
            '<rect class="hover" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}: {}</title></rect>'
        ).format(frame.x(step) - width / 2, TOP, width, HEIGHT - TOP - BOTTOM, _step(step), told)


def _step(step: float) -> str:
    """Steps are whole numbers; what is not is another quantity."""
    return f"step {step:.0f}" if step == int(step) else short_number(step)


def _svg(parts: Sequence[Markup], title: str) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, escape(title))
    return head + Markup("").join(parts) + Markup("</svg>")
