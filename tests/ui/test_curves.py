"""Few points that still show a long curve's peaks, whatever the curve."""

import random
from itertools import pairwise
from math import inf, nan

import pytest

from tuner.ui.curves import Series, reduce


def walks():
    """Curves of many lengths and shapes, the same in every run."""
    chance = random.Random(7)
    for length in (0, 1, 2, 3, 4, 5, 7, 99, 1000, 4321):
        yield [chance.gauss(0, 1) for _ in range(length)]
        yield [float(chance.randrange(3)) for _ in range(length)]
        yield [1.0] * length
        yield [0.0] * (length // 2) + [9.0] * (length > 0) + [0.0] * (length // 2)


@pytest.mark.parametrize("limit", [4, 5, 10, 99, 2000])
def test_a_reduced_curve_has_no_more_points_than_asked_in_their_order(limit):
    for values in walks():
        kept = reduce(values, limit)
        assert len(kept) <= max(limit, 0)
        assert kept == sorted(set(kept))


@pytest.mark.parametrize("limit", [4, 5, 10, 99, 2000])
def test_a_reduced_curve_keeps_its_first_and_last_its_highest_and_lowest_value(limit):
    for values in filter(None, walks()):
        kept = [values[index] for index in reduce(values, limit)]
        assert (kept[0], kept[-1]) == (values[0], values[-1])
        assert (min(kept), max(kept)) == (min(values), max(values))


def test_every_bucket_keeps_its_minimum_and_maximum():
    chance = random.Random(3)
    values = [chance.random() for _ in range(10_002)]
    kept = set(reduce(values, 2_002))
    for begin in range(1, 10_001, 10):  # 1,000 buckets of ten
        bucket = range(begin, begin + 10)
        assert min(bucket, key=values.__getitem__) in kept
        assert max(bucket, key=values.__getitem__) in kept


def test_a_curve_that_is_short_enough_stays_whole():
    for values in walks():
        assert reduce(values, len(values) + 4) == list(range(len(values)))


@pytest.mark.parametrize(
    "bad", [None, nan, inf, -inf, "2.5", True, [1], 10**400], ids=lambda bad: str(bad)[:9]
)
def test_what_is_no_finite_number_is_missing_from_its_curve_only(bad):
    series = Series(["loss", "grad_norm"])
    series.append(1, 100, {"loss": bad, "grad_norm": 0.5})
    series.append(2, 200, {"loss": 2.5})
    assert series.points("loss") == [(2, 2.5)]
    assert series.points("grad_norm") == [(1, 0.5)]
    assert (series.last("loss"), series.last("grad_norm")) == (2.5, 0.5)


def test_lines_since_a_byte_are_those_that_end_after_it():
    series = Series(["loss"])
    for step in range(1, 5):
        series.append(step, 100 * step, {"loss": step})
    assert [series.since(end) for end in (-1, 0, 99, 100, 399, 400, 999)] == [0, 0, 0, 1, 3, 4, 4]


def test_later_steps_are_dropped_wherever_they_stand():
    series = Series(["loss"])
    for step in (1, 2, 9, 3, 8, 4):
        series.append(step, 10 * step, {"loss": step})
    series.drop_after(4)
    assert series.points("loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_a_spark_is_spread_evenly_and_ends_where_the_curve_does():
    series = Series(["loss"])
    for step in range(1, 1001):
        series.append(step, step, {"loss": step})
    spark = series.spread("loss", 40)
    assert (len(spark), spark[0], spark[-1]) == (40, 25.0, 1000.0)
    assert {after - before for before, after in pairwise(spark)} == {25.0}
