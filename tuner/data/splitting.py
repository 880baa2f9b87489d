"""
Which rows are used, and which of them are held out: by seed and by content, never by chance.

Rows are ordered by a hash of their content and the seed, so the same rows are drawn and held out on
every machine, in every Python, and wherever they stand in the file.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_HELD_OUT = 8
MAX_HELD_OUT = 500
MIN_ROWS_TO_SPLIT = 4

Keys = NDArray[np.uint64]
Indices = NDArray[np.intp]

_DRAW, _HOLD_OUT = 0x6472, 0x686F  # different orders for different questions


class Split(NamedTuple):
    """Row indices of each side, ascending, and what a person should know about it."""

    train: Indices
    held_out: Indices
    warnings: list[str]


def first_of_each(keys: Keys) -> Indices:
    """Indices of the first row with each content, ascending."""
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def drawn(keys: Keys, rows: Indices, max_rows: int | None, seed: int) -> Indices:
    """At most max_rows of the rows, ascending."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    order = np.argsort(_mixed(keys[rows], seed, _DRAW), kind="stable")
    return np.sort(rows[order[:max_rows]])


def split(groups: Keys, rows: Indices, fraction: float, seed: int) -> Split:
    """Hold out a share of the rows, whole groups at a time.

    Args:
        groups: N group keys: rows with the same prompt, whatever their answers, share one.
        rows: The M rows to split, ascending.
        fraction: Share to hold out; at least 8 rows, at most 500, never more than a third.
    """
    count, warnings = held_out_count(len(rows), fraction)
    chosen = _whole_groups(groups[rows], count, seed)
    if count and not chosen.any():
        # One prompt for all rows: then rows are all that can be told apart.
        warnings.append(
            "Nearly all rows have the same prompt, so the held-out rows share it with training."
        )
        chosen = _whole_groups(np.arange(len(rows), dtype=np.uint64), count, seed)
    return Split(rows[~chosen], rows[chosen], warnings)


def held_out_count(rows: int, fraction: float) -> tuple[int, list[str]]:
    """How many rows to hold out, and a warning where it is not what was asked for.

    >>> held_out_count(1000, 0.05), held_out_count(100_000, 0.05)[0]
    ((50, []), 500)
    """
    if fraction == 0:
        return 0, []
    if rows < MIN_ROWS_TO_SPLIT:
        return 0, [f"With {rows} rows none is held out: there is no measure of over-fitting."]
    count = min(MAX_HELD_OUT, max(MIN_HELD_OUT, round(rows * fraction)))
    if count <= rows // 3:
        return count, []
    third = rows // 3
    return third, [
        f"With {rows} rows, {third} are held out rather than {count}: at most a third. "
        "Evaluation on so few rows is noisy."
    ]


def _whole_groups(groups: Keys, count: int, seed: int) -> NDArray[np.bool_]:
    """A mask of about `count` rows, never more, such that no group is on both sides."""
    keys, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(keys), dtype=bool)
    left = count
    for index in np.argsort(_mixed(keys, seed, _HOLD_OUT), kind="stable"):
        if left == 0:
            break
        if sizes[index] <= left:
            chosen[index] = True
            left -= int(sizes[index])
    return chosen[group_of_row]


def _mixed(keys: Keys, seed: int, purpose: int) -> Keys:
    """splitmix64 (https://prng.di.unimi.it/splitmix64.c) of key, seed and purpose."""
    salt = (seed * 0x9E3779B97F4A7C15 + purpose) % (1 << 64)
    mixed = keys ^ np.uint64(salt)
    mixed = mixed + np.uint64(0x9E3779B97F4A7C15)  # wraps around, as it should
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
