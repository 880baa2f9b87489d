"""Rows are drawn and held out by seed and content: the same everywhere, never on both sides."""

import numpy as np
import pytest

from tuner.data.splitting import drawn, first_of_each, held_out_count, split


def keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 63, count, dtype=np.uint64)


def everything(count: int) -> np.ndarray:
    return np.arange(count)


@pytest.mark.parametrize(
    ("rows", "fraction", "expected"),
    [
        (0, 0.05, 0),
        (3, 0.05, 0),
        (4, 0.05, 1),
        (12, 0.05, 4),
        (24, 0.05, 8),
        (100, 0.05, 8),
        (1000, 0.05, 50),
        (1000, 0.2, 200),
        (100_000, 0.05, 500),
        (100, 0.9, 33),
        (100, 0, 0),
    ],
)
def test_the_share_held_out_has_a_floor_a_ceiling_and_never_exceeds_a_third(
    rows, fraction, expected
):
    assert held_out_count(rows, fraction)[0] == expected
    sides = split(keys(rows), everything(rows), fraction, seed=1)
    assert len(sides.held_out) == expected
    assert sorted([*sides.train, *sides.held_out]) == list(range(rows))


@pytest.mark.parametrize(("rows", "said"), [(3, "none is held out"), (10, "3 are held out rather")])
def test_so_few_rows_come_with_a_warning(rows, said):
    assert said in split(keys(rows), everything(rows), 0.05, seed=1).warnings[0]
    assert split(keys(100), everything(100), 0.05, seed=1).warnings == []


def test_rows_of_one_group_are_never_on_both_sides():
    groups = keys(300)[np.random.default_rng(1).integers(0, 300, 1000)]
    sides = split(groups, everything(1000), 0.1, seed=5)
    assert not set(groups[sides.train]) & set(groups[sides.held_out])
    assert 80 <= len(sides.held_out) <= 100


def test_one_prompt_for_all_rows_still_holds_some_out_and_says_so():
    sides = split(np.zeros(100, dtype=np.uint64), everything(100), 0.1, seed=5)
    assert len(sides.held_out) == 10
    assert "the same prompt" in sides.warnings[0]


def test_the_split_depends_on_the_seed_and_on_nothing_else():
    groups = keys(1000)
    one, same = (split(groups, everything(1000), 0.05, seed=3) for _ in range(2))
    other = split(groups, everything(1000), 0.05, seed=4)
    assert (one.held_out == same.held_out).all()
    assert set(one.held_out) != set(other.held_out)


def test_the_order_of_rows_in_the_file_does_not_matter():
    groups = keys(1000)
    shuffled = np.random.default_rng(7).permutation(groups)
    held_out = set(groups[split(groups, everything(1000), 0.05, seed=3).held_out])
    assert held_out == set(shuffled[split(shuffled, everything(1000), 0.05, seed=3).held_out])


def test_the_split_is_the_same_on_every_machine():
    sides = split(np.arange(40, dtype=np.uint64), everything(40), 0.2, seed=42)
    assert sides.held_out.tolist() == [9, 10, 12, 13, 23, 30, 34, 36]


def test_drawing_keeps_the_order_and_takes_what_was_asked_for():
    contents, rows = keys(1000), everything(1000)[::2]
    some = drawn(contents, rows, 100, seed=1)
    assert len(some) == 100
    assert (np.diff(some) > 0).all()
    assert set(some) <= set(rows)
    assert (drawn(contents, rows, 100, seed=2) != some).any()
    assert (drawn(contents, rows, None, seed=1) == rows).all()


def test_drawing_fewer_takes_a_part_of_drawing_more():
    contents, rows = keys(1000), everything(1000)
    assert set(drawn(contents, rows, 50, 1)) < set(drawn(contents, rows, 100, 1))


def test_held_out_rows_are_not_the_drawn_ones_by_construction():
    contents = keys(1000)
    half = set(drawn(contents, everything(1000), 500, seed=1))
    held_out = split(contents, everything(1000), 0.2, seed=1).held_out
    assert 70 < len(half & set(held_out)) < 130


def test_the_first_of_each_content_is_kept():
    assert first_of_each(np.array([5, 3, 5, 9, 3, 1], dtype=np.uint64)).tolist() == [0, 1, 3, 5]
