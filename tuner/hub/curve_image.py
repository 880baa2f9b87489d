"""
A run's curve as an image: the loss on what it trains on and on what was held out, by step.

    png = curve_png(run)     # None where there are no two points to join

Drawn with Pillow from the run's events, on white, with a font that comes with Pillow: the same file
on every machine, so that publishing a run again changes nothing. It is drawn twice as large and
made smaller, since Pillow's lines have stairs.
"""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tuner.runs.events import Event, current_history
from tuner.runs.run import Run

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1200, 600  # pixels of the image
SCALE = 2
LEFT, RIGHT, TOP, BOTTOM = 110, 230, 70, 90
TEXT, SMALL = 26, 22
INK, QUIET, GRID = "#1b212b", "#55606e", "#e3e7ec"
TRAIN, HELD_OUT = "#1d4ed8", "#2b3340"  # as on the page: the accent, and nearly ink, dashed
DASH, GAP = 14, 9
FAINT = "#bfd2fe"  # the points themselves, where they are so many that only their mean can be read
MOST_POINTS = 600  # of a curve; more would fall on the same pixels
MANY_POINTS, MEANS = 100, 50
TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One line: points by step, rising."""

    label: str
    colour: str
    dashed: bool
    points: list[Point]

    @property
    def shown(self) -> list[Point]:
        """The line that is read: the points, or the means of many."""
        return self.points if len(self.points) <= MANY_POINTS else means(self.points, MEANS)


def curve_png(run: Run) -> bytes | None:
    """Draw a run's losses.

    Returns:
        A PNG, the same for the same events; None where no curve has two points.
    """
    curves = curves_of(current_history(run.events()[0]))
    return draw(curves) if curves else None


def curves_of(history: Iterable[Event]) -> list[Curve]:
    """The curves that have something to show; none unless one has two points."""
    train: dict[int, float] = {}
    held_out: dict[int, float] = {}
    for event in history:
        if event["kind"] == "metric":
            _keep(train, event["step"], event.get("loss"))
        elif event["kind"] == "eval":
            _keep(held_out, event["step"], event.get("eval_loss"))
    found = [
        Curve("training", TRAIN, False, sorted(train.items())),
        Curve("held-out", HELD_OUT, True, sorted(held_out.items())),
    ]
    return [c for c in found if c.points] if any(len(c.points) > 1 for c in found) else []


def thinned(points: Sequence[tuple[float, float]], limit: int) -> list[Point]:
    """At most `limit` points with the ends, and of each stretch between the lowest and highest.

    >>> thinned([(1, 5), (2, 1), (3, 9), (4, 2), (5, 3), (6, 3), (7, 7)], 4)
    [(1, 5), (2, 1), (3, 9), (7, 7)]
    """
    if len(points) <= limit:
        return list(points)
    inner, buckets = points[1:-1], (limit - 2) // 2
    kept = [points[0]]
    for number in range(buckets):
        bucket = inner[number * len(inner) // buckets : (number + 1) * len(inner) // buckets]
        ends = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]


def means(points: Sequence[Point], count: int) -> list[Point]:
    """The mean of each of `count` equal stretches, at its last step; begun at the first point.

    >>> means([(0, 9.0), (1, 2.0), (2, 4.0), (3, 6.0), (4, 8.0)], 2)
    [(0, 9.0), (2, 3.0), (4, 7.0)]
    """
    borders = [1 + number * (len(points) - 1) // count for number in range(count + 1)]
    stretches = [points[begin:end] for begin, end in pairwise(borders)]
    return [points[0], *((s[-1][0], sum(loss for _, loss in s) / len(s)) for s in stretches)]


def nice_ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """Round numbers that span a range.

    >>> nice_ticks(0.9, 2.3)
    [0.5, 1.0, 1.5, 2.0, 2.5]
    """
    rough = (high - low) / (count - 1) or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def draw(curves: Sequence[Curve]) -> bytes:
    """The image of curves, as PNG."""
    # Pillow takes a moment to import, and only who publishes needs it.
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    sheet = _Sheet(ImageDraw.Draw(image), curves)
    sheet.axes()
    for curve in curves:
        sheet.curve(curve)
    sheet.labels()
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(file, "PNG", optimize=True)
    return file.getvalue()


class _Sheet:
    """Where figures lie on the image."""

    def __init__(self, pen: "ImageDraw", curves: Sequence[Curve]):
        self.pen, self.curves = pen, curves
        steps = [step for curve in curves for step, _ in curve.points]
        losses = [loss for curve in curves for _, loss in curve.points]
        self.losses = nice_ticks(min(losses), max(losses))
        self.steps = (min(0, *steps), max(steps)) if len(steps) > 1 else (0, max(steps))
        self.right, self.bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(self, step: float) -> float:
        first, last = self.steps
        return LEFT + (step - first) / ((last - first) or 1) * (self.right - LEFT)

    def y(self, loss: float) -> float:
        low, high = self.losses[0], self.losses[-1]
        return self.bottom - (loss - low) / (high - low) * (self.bottom - TOP)

    def axes(self) -> None:
        for loss in self.losses:
            self.line([(LEFT, self.y(loss)), (self.right, self.y(loss))], GRID, 2)
            self.write(LEFT - 14, self.y(loss), f"{loss:g}", QUIET, SMALL, "rm")
        for step in self._step_ticks():
            self.write(self.x(step), self.bottom + 16, f"{step:,.0f}", QUIET, SMALL, "mt")
        self.line([(LEFT, self.bottom), (self.right, self.bottom)], QUIET, 2)
        self.write(LEFT, TOP - 24, "Loss", INK, TEXT, "lb")
        self.write(self.right, self.bottom + 52, "optimizer step", QUIET, SMALL, "rt")

    def curve(self, curve: Curve) -> None:
        path = self.path(curve.shown)
        if curve.shown != curve.points:
            self.line(self.path(thinned(curve.points, MOST_POINTS)), FAINT, 2)
        if curve.dashed:
            for dash in dashes(path, DASH, GAP):
                self.line(dash, curve.colour, 4)
        else:
            self.line(path, curve.colour, 4)
        if curve.dashed or len(path) == 1:
            for point in path if len(path) <= 60 else path[-1:]:
                self.dot(point, curve.colour)

    def path(self, points: Iterable[Point]) -> list[Point]:
        return [(self.x(step), self.y(loss)) for step, loss in points]

    def labels(self) -> None:
        """Each curve's name and last figure at its end, never one over the other."""
        least = float(TOP)
        for curve in sorted(self.curves, key=lambda curve: -curve.shown[-1][1]):
            loss = curve.shown[-1][1]
            place = max(self.y(loss), least)
            words = f"{curve.label} {loss:.3g}"
            self.write(self.right + 18, place, words, curve.colour, TEXT, "lm")
            least = place + TEXT + 8

    def line(self, path: Sequence[Point], colour: str, width: int) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in path]
        self.pen.line(scaled, fill=colour, width=width * SCALE, joint="curve")

    def dot(self, centre: Point, colour: str, radius: int = 6) -> None:
        x, y = centre
        box = [
            (x - radius) * SCALE,
            (y - radius) * SCALE,
            (x + radius) * SCALE,
            (y + radius) * SCALE,
        ]
        self.pen.ellipse(box, fill=colour)

    def write(self, x: float, y: float, words: str, colour: str, size: int, anchor: str) -> None:
        from PIL import ImageFont

        font = ImageFont.load_default(size * SCALE)
        self.pen.text((x * SCALE, y * SCALE), words, fill=colour, font=font, anchor=anchor)

    def _step_ticks(self) -> list[float]:
        first, last = self.steps
        return [tick for tick in nice_ticks(first, last) if first <= tick <= last and tick % 1 == 0]


def dashes(path: Sequence[Point], dash: float, gap: float) -> Iterable[list[Point]]:
    """Cut a path into dashes, whose rhythm goes on around its corners.

    >>> [[(round(x), round(y)) for x, y in d] for d in dashes([(0, 0), (10, 0), (20, 0)], 8, 4)]
    [[(0, 0), (8, 0)], [(12, 0), (20, 0)]]
    """
    drawing, left, piece = True, dash, [path[0]]
    for start, end in pairwise(path):
        length, done = math.dist(start, end), 0.0
        while length - done > left:
            done += left
            share = done / length
            cut = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
            if drawing:
                yield [*piece, cut]
            drawing, left, piece = not drawing, gap if drawing else dash, [cut]
        left -= length - done
        piece.append(end)
    if drawing and len(piece) > 1:
        yield piece


def _keep(points: dict[int, float], step: Any, loss: Any) -> None:
    if type(step) is int and type(loss) in (int, float) and math.isfinite(loss):
        points[step] = loss
