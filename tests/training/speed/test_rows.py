"""Rows of every length, packed, padded and accumulated, with and without trained tokens."""

import pytest
import torch

from tests.training.speed.tiny_trainers import (
    ROWS,
    Step,
    differences,
    levers_with,
    our_step,
    plain_step,
    row,
    tiny,
)
from tuner.levers import LEVERS

# About the numbers at which attention fills a row up, and begins another block of it.
LENGTHS = [2, 63, 64, 65, 127, 128, 129, 255, 257, 513]
OF_ALL_LENGTHS = [row(length, (length + 1) // 2) for length in LENGTHS]
# Few trained tokens beside many, so that micro-batches in whatever order have unequal numbers.
UNEVEN = [row(30, 1), row(9, 2), row(90, 60), row(3, 3), row(77, 1), row(50, 0)]
UNEVEN += [row(41, 40), row(12, 9)]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_batch_of_one_row_takes_the_step_of_a_plain_script(tmp_path, length):
    rows = [row(length, (length + 1) // 2)]
    ours = our_step(tiny(), rows, tmp_path, levers="auto")
    assert max(differences(ours, plain_step(tiny(), rows, tmp_path))) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3"])
@pytest.mark.parametrize("micro_batch_size", [len(LENGTHS), 1])
def test_rows_of_all_lengths_at_once_and_one_after_the_other_do(tmp_path, family, micro_batch_size):
    theirs = plain_step(tiny(family), OF_ALL_LENGTHS, tmp_path, micro_batch_size)
    settings = {"levers": "auto", "micro_batch_size": micro_batch_size}
    ours = our_step(tiny(family), OF_ALL_LENGTHS, tmp_path, **settings)
    assert max(differences(ours, theirs)) < 1e-5


def test_a_row_of_one_token_has_nothing_to_predict_and_changes_nothing_beside_others(tmp_path):
    without = our_step(tiny(), ROWS, tmp_path, levers="none")
    ours = our_step(tiny(), [row(1, 1), *ROWS, row(1, 1)], tmp_path, levers="auto")
    assert max(differences(ours, without)) < 1e-5


@pytest.mark.parametrize("rows", [[row(12, 0), row(40, 0)], [row(1, 1)], [row(513, 0)]], ids=len)
@pytest.mark.parametrize("lever", [*LEVERS, "auto", "none"])
def test_a_batch_that_trains_nothing_has_no_loss_and_no_gradient(tmp_path, lever, rows):
    levers = lever if lever in ("auto", "none") else sorted(levers_with(lever, tiny()).on)
    step = our_step(tiny(), rows, tmp_path, levers=levers)
    assert step.loss == 0
    assert step.gradients and all(not gradient.any() for gradient in step.gradients.values())


@pytest.mark.parametrize("lever", LEVERS)
def test_answers_of_a_stop_token_only_take_the_same_step(tmp_path, lever):
    rows = [row(length, 1) for length in (40, 3, 33, 64)]
    levers = sorted(levers_with(lever, tiny()).on)
    ours = our_step(tiny(), rows, tmp_path, levers=levers)
    assert max(differences(ours, plain_step(tiny(), rows, tmp_path))) < 1e-5


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_a_token_weighs_the_same_in_whichever_micro_batch_it_is(tmp_path, micro_batch_size):
    at_once = our_step(tiny(), UNEVEN, tmp_path, levers="none")
    apart = {"micro_batch_size": micro_batch_size}
    for levers in ("none", "auto"):
        step = our_step(tiny(), UNEVEN, tmp_path, levers=levers, **apart)
        assert max(differences(step, at_once)) < 1e-5


@pytest.mark.parametrize("lever", LEVERS)
def test_each_lever_weighs_accumulated_tokens_so(tmp_path, lever):
    at_once = our_step(tiny(), UNEVEN, tmp_path, levers="none")
    levers = sorted(levers_with(lever, tiny()).on)
    step = our_step(tiny(), UNEVEN, tmp_path, levers=levers, micro_batch_size=2)
    assert max(differences(step, at_once)) < 1e-5


def packed(tmp_path, levers: str, max_length: int, micro_batch_size: int, sequences: int) -> Step:
    settings = {"packing": True, "max_length": max_length, "batch_size": sequences}
    settings |= {"levers": levers, "micro_batch_size": micro_batch_size}
    return our_step(tiny(), ROWS, tmp_path, **settings)


@pytest.mark.parametrize("micro_batch_size", [2, 1])
def test_packed_rows_take_the_step_that_they_take_apart(tmp_path, micro_batch_size):
    apart = our_step(tiny(), ROWS, tmp_path, levers="none")
    for levers in ("none", "auto"):  # 276 tokens in two sequences of 256
        step = packed(tmp_path, levers, 256, micro_batch_size, sequences=2)
        assert max(differences(step, apart)) < 1e-5


def test_packed_rows_that_are_cut_take_the_step_that_trl_takes(tmp_path):
    theirs, ours = (packed(tmp_path, levers, 64, 1, sequences=1) for levers in ("none", "auto"))
    assert max(differences(ours, theirs)) < 1e-5


def test_a_row_does_not_see_the_row_before_it(tmp_path):
    """The rows' own gradients add up, weighted by their trained tokens."""
    rows = [row(61, 20), row(33, 12)]
    together = our_step(tiny(), rows, tmp_path, levers="auto")
    apart = [our_step(tiny(), [one], tmp_path, levers="auto") for one in rows]
    parts = list(zip(apart, (20, 12), strict=True))
    loss = sum(count * step.loss for step, count in parts) / 32
    mean = {
        name: torch.stack([count * step.gradients[name] / 32 for step, count in parts]).sum(0)
        for name in together.gradients
    }
    assert max(differences(together, Step(loss, mean))) < 1e-5


def test_a_row_has_the_positions_that_it_has_alone_however_many_come_before_it(tmp_path):
    """Rotary embedding sees distances only; this one turns by less where a row is too long."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    # Of 276 tokens in all, 130 in the longest row.
    shape = {"rope_parameters": rope, "max_position_embeddings": 140}
    theirs, ours = (
        our_step(tiny(**shape), ROWS, tmp_path, levers=levers) for levers in ("none", "auto")
    )
    assert max(differences(ours, theirs)) < 1e-5
