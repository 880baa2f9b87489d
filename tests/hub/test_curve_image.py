"""The curve of a card: what is drawn, and when nothing is."""

import io
import math

import numpy
import pytest
from PIL import Image, ImageColor

from tests.ui.telling import metric
from tuner.hub.curve_image import (
    HEIGHT,
    HELD_OUT,
    TRAIN,
    WIDTH,
    curve_png,
    curves_of,
    draw,
    nice_ticks,
    thinned,
)
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import RunStore


@pytest.fixture
def run(tmp_path):
    return RunStore(tmp_path).create(make_recipe({}), "bot")


def history(train=(), held_out=()):
    return [
        *({"kind": "metric", "step": step, "loss": loss} for step, loss in train),
        *({"kind": "eval", "step": step, "eval_loss": loss} for step, loss in held_out),
    ]


def where(png, colour):
    """Columns and rows of the pixels of about this colour, left of the labels."""
    pixels = numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)[:, :970]
    near = abs(pixels - numpy.array(ImageColor.getrgb(colour))).sum(axis=2) < 40
    rows, columns = numpy.nonzero(near)
    return columns, rows


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ((), ()),
        ([(1, 2.0)], ()),
        ([(1, 2.0)], [(0, 2.5)]),
        ([(1, None), (2, math.nan), (3, 1.0)], [(0, math.inf)]),
    ],
    ids=["nothing", "a point", "a point each", "no numbers"],
)
def test_without_two_points_on_a_line_there_is_no_image(train, held_out):
    assert curves_of(history(train, held_out)) == []


def test_a_run_without_events_has_no_image_and_one_with_two_steps_has(run):
    assert curve_png(run) is None
    with EventWriter(run.events_path) as events:
        metric(events, 1)
        metric(events, 2)
    png = curve_png(run)
    assert Image.open(io.BytesIO(png)).size == (WIDTH, HEIGHT)
    assert png == curve_png(run), "publishing again must change nothing"


def test_both_losses_are_drawn_on_white_and_fall_where_they_fell():
    train = [(step, 3 - step / 50) for step in range(1, 101)]
    png = draw(curves_of(history(train, [(0, 3.5), (50, 2.5), (100, 1.5)])))
    assert Image.open(io.BytesIO(png)).convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    for colour in (TRAIN, HELD_OUT):
        columns, rows = where(png, colour)
        left, right = columns < columns.min() + 20, columns > columns.max() - 20
        assert columns.max() - columns.min() > 700
        assert rows[left].max() < rows[right].min(), "a smaller loss is lower"


def test_a_single_training_point_stands_beside_the_held_out_line():
    found = curves_of(history([(4, 2.0)], [(0, 2.5), (4, 1.0)]))
    assert [curve.label for curve in found] == ["training", "held-out"]
    assert len(where(draw(found), TRAIN)[0])


def test_what_a_resume_did_over_again_is_drawn_once(run):
    with EventWriter(run.events_path) as events:
        for step, loss in ((1, 3.0), (2, 2.0), (3, 9.0)):
            metric(events, step, loss=loss)
        events.resume(2)
        metric(events, 3, loss=1.0)
    alone = history([(1, 3.0), (2, 2.0), (3, 1.0)])
    assert curve_png(run) == draw(curves_of(alone))


@pytest.mark.parametrize("loss", [0.0, 1.0, 1e-9, 4e6])
def test_a_loss_that_never_moved_is_a_line_too(loss):
    assert len(where(draw(curves_of(history([(1, loss), (2, loss)]))), TRAIN)[0]) > 700


def test_a_long_curve_keeps_its_peak_and_its_ends():
    points = [(step, 1.0 + (step == 5_000)) for step in range(1, 100_001)]
    kept = thinned(points, 600)
    assert len(kept) <= 600
    assert (5_000, 2.0) in kept and kept[0] == points[0] and kept[-1] == points[-1]


@pytest.mark.parametrize(("low", "high"), [(0.9, 2.3), (-1, 1), (0, 30_000), (1.2, 1.2), (0, 1e-7)])
def test_ticks_are_few_evenly_apart_and_reach_around_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low and ticks[-1] >= high
    assert numpy.allclose(numpy.diff(ticks), ticks[1] - ticks[0])
