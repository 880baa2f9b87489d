"""
Curves in compact arrays, and a long curve in few points that still show its peaks.

    series = Series(["loss"])
    series.append(step=1, end=120, figures={"loss": 2.3})
    series.points("loss", series.since(0))       # [[1, 2.3]]

A run of 100,000 steps takes 6 MB this way; as dicts it would take a hundred.
"""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import compress, pairwise
from math import isnan, nan
from sys import float_info
from typing import Any

Point = tuple[int, float]
LARGEST = float_info.max
NUMBERS = (float, int)  # and not bool
MAX_STEP = 2**53  # what JavaScript counts exactly


def reduce(values: Sequence[float], limit: int) -> list[int]:
    """Choose at most `limit` of a curve's values, so that it looks the same.

    The values between the first and the last are cut into buckets of equal size; each bucket's
    minimum and maximum stay.

    Args:
        values: In order; no NaN.
        limit: At least 4.

    Returns:
        Indices into `values`, rising; the first and the last value's are among them.

    >>> reduce([5, 1, 9, 2, 3, 3, 7], limit=4)
    [0, 1, 2, 6]
    """
    count = len(values)
    if count <= limit:
        return list(range(count))
    buckets = (limit - 2) // 2
    borders = [1 + number * (count - 2) // buckets for number in range(buckets + 1)]
    kept = [0]
    for begin, end in pairwise(borders):
        bucket = values[begin:end]
        extremes = {bucket.index(min(bucket)), bucket.index(max(bucket))}
        kept += sorted(begin + index for index in extremes)
    return [*kept, count - 1]


class Series:
    """Figures by step, as the lines of events.jsonl bring them.

    Attributes:
        steps: One a line.
        ends: The byte of the file at which each line ends, so that "new since N" is a slice.
        columns: By name, a figure a line; NaN where there is none.
    """

    def __init__(self, names: Sequence[str]):
        self.steps = array("q")
        self.ends = array("q")
        self.columns = {name: array("d") for name in names}

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, step: int, end: int, figures: Mapping[str, Any]) -> None:
        """Add a line's figures. What is not a finite number counts as missing."""
        self.extend([step], [end], [figures])

    def extend(
        self, steps: Sequence[int], ends: Sequence[int], figures: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add many lines at once, which is several times as fast."""
        self.steps.extend(steps)
        self.ends.extend(ends)
        for name, column in self.columns.items():
            found: list[Any] = [line.get(name) for line in figures]
            column.extend(
                [
                    value if type(value) in NUMBERS and -LARGEST <= value <= LARGEST else nan
                    for value in found
                ]
            )

    def drop_after(self, step: int) -> None:
        """Forget the lines of later steps."""
        stays = [known <= step for known in self.steps]
        self.steps = array("q", compress(self.steps, stays))
        self.ends = array("q", compress(self.ends, stays))
        for name, column in self.columns.items():
            self.columns[name] = array("d", compress(column, stays))

    def since(self, end: int) -> int:
        """The index of the first line after byte `end` of the file."""
        return bisect_right(self.ends, end)

    def points(self, name: str, begin: int = 0) -> list[Point]:
        """A curve's points from the line `begin` on, without those that are missing."""
        column = self.columns[name]
        return [
            (step, value)
            for step, value in zip(self.steps[begin:], column[begin:], strict=True)
            if not isnan(value)
        ]

    def reduced(self, name: str, limit: int) -> list[Point]:
        """The whole curve in at most `limit` points; see reduce."""
        values = self.columns[name].tolist()
        known = [index for index, value in enumerate(values) if value == value]
        if len(known) < len(values):
            values = [values[index] for index in known]
        chosen = reduce(values, limit)
        return [(self.steps[known[index]], values[index]) for index in chosen]

    def spread(self, name: str, limit: int) -> list[float]:
        """At most `limit` values of a curve, evenly spaced, the last among them."""
        values = [value for _, value in self.points(name)]
        if len(values) <= limit:
            return values
        return [values[(number + 1) * len(values) // limit - 1] for number in range(limit)]

    def last(self, name: str) -> float | None:
        """A curve's last figure."""
        return next((value for value in reversed(self.columns[name]) if not isnan(value)), None)
