"""Rows shared out among threads: who takes what, how gradients meet, and what goes wrong."""

import threading
from typing import Any

import pytest
import torch

from tests.training.speed.tiny_trainers import ROWS, our_step, our_trainer, recipe_of, row, tiny
from tuner.training.speed.parallel_rows import shares, summed_in_parallel
from tuner.training.speed.row_attention import RowCollator, parts_of

WEIGHT = torch.tensor([2.0, 3.0], requires_grad=True)
NOT_USED = torch.ones(1, requires_grad=True)


@pytest.mark.parametrize(
    ("lengths", "threads", "wanted"),
    [
        ([100, 90, 80, 70], 1, [[0, 1, 2, 3]]),
        ([100, 90, 80, 70], 2, [[0, 3], [1, 2]]),
        ([500, 90, 80, 70], 2, [[0], [1, 2, 3]]),
        ([100, 90, 80], 2, [[0, 1, 2]]),  # one of two shares would be a single row
        ([100, 90, 80, 70], 8, [[0, 3], [1, 2]]),  # four threads each
        ([100, 90, 80, 70], 3, [[0, 1, 2, 3]]),  # three cannot be halved
        ([50] * 8, 4, [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ([], 2, [[]]),
    ],
)
def test_every_share_is_about_as_long_and_has_two_rows_to_go_round(lengths, threads, wanted):
    assert shares(lengths, threads) == wanted


def test_parts_of_a_batch_hold_each_row_once_with_its_own_positions_and_targets():
    batch = RowCollator(0, few_lengths=True, threads=2)(ROWS)
    parts = parts_of(batch)
    assert len(parts) == 2 and batch["tokens"] == sum(len(one["input_ids"]) for one in ROWS)
    found = []
    for part in parts:
        start = 0
        for length in part["row_lengths"]:
            piece = slice(start, start + length)
            ids, labels = (part[name][0, piece].tolist() for name in ("input_ids", "labels"))
            assert part["position_ids"][0, piece].tolist() == list(range(length))
            assert part["shift_labels"][0, piece].tolist() == [*labels[1:], -100]
            found.append({"input_ids": ids, "labels": labels})
            start += length
        assert not part["input_ids"][0, start:].any() and part["input_ids"].shape[1] % 32 == 0
        assert set(part["labels"][0, start:].tolist()) <= {-100}
    assert sorted(found, key=str) == sorted(ROWS, key=str)


def loss_of(batch: dict[str, Any]) -> torch.Tensor:
    return (WEIGHT * batch["x"]).square().sum()


def test_losses_and_gradients_are_those_of_one_after_the_other():
    batches = [{"x": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([3.0, -1.0])}]
    loss = summed_in_parallel(loss_of, batches, [WEIGHT, NOT_USED])
    one_by_one = sum(map(loss_of, batches))
    assert loss.item() == one_by_one.item() == 85.0
    (loss / 4).backward()
    assert torch.equal(WEIGHT.grad, torch.autograd.grad(one_by_one / 4, WEIGHT)[0])
    assert NOT_USED.grad is None
    WEIGHT.grad = None


def test_each_part_has_its_thread_its_cores_and_what_held_outside():
    seen = []
    together = threading.Barrier(2, timeout=60)

    def watched(batch: dict[str, Any]) -> torch.Tensor:
        together.wait()  # breaks where one ends before the other begins
        cast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        seen.append((threading.get_ident(), torch.get_num_threads(), cast))
        return loss_of(batch)

    batches = [{"x": torch.ones(2)}] * 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not summed_in_parallel(watched, batches, [WEIGHT]).requires_grad
    assert summed_in_parallel(watched, batches, [WEIGHT]).requires_grad
    assert len({thread for thread, _, _ in seen[:2]} - {threading.get_ident()}) == 2
    assert {threads for _, threads, _ in seen} == {1} and torch.get_num_threads() == 2
    assert [cast for _, _, (cast, _) in seen] == [True, True, False, False]
    assert {precision for _, _, (_, precision) in seen[:2]} == {torch.bfloat16}


def test_an_error_in_one_thread_is_raised_when_no_other_is_at_work():
    ended = threading.Event()

    def fails(batch: dict[str, Any]) -> torch.Tensor:
        if batch["fails"]:
            raise RuntimeError("no memory")
        threading.Event().wait(0.3)
        ended.set()
        return loss_of({"x": torch.ones(2)})

    with pytest.raises(RuntimeError, match="no memory"):
        summed_in_parallel(fails, [{"fails": True}, {"fails": False}], [WEIGHT])
    assert ended.is_set()


def test_the_same_rows_give_the_same_step_to_the_last_bit(tmp_path):
    one, other = (our_step(tiny(), ROWS, tmp_path, levers="auto") for _ in range(2))
    assert one.loss == other.loss
    assert all(torch.equal(one.gradients[name], other.gradients[name]) for name in one.gradients)


@pytest.mark.parametrize("gradient_checkpointing", [True, False])
def test_a_trainers_batch_goes_to_both_threads(tmp_path, gradient_checkpointing):
    recipe = recipe_of(levers="auto", gradient_checkpointing=gradient_checkpointing)
    trainer = our_trainer(tiny(), recipe, tmp_path)
    threads = set()
    trainer.model.get_input_embeddings().register_forward_hook(
        lambda *_: threads.add(threading.get_ident())
    )
    trainer.train()
    assert len(threads) == 2 and threading.get_ident() not in threads


def test_evaluated_rows_have_the_loss_that_they_have_one_by_one(tmp_path):
    rows = [row(40, 12), row(90, 80), row(130, 20)]

    def held_out_loss(levers: str) -> float:
        recipe = recipe_of(rows, levers=levers)
        trainer = our_trainer(tiny(), recipe, tmp_path, rows, evaluation=rows)
        return float(trainer.evaluate()["eval_loss"])

    assert held_out_loss("auto") == pytest.approx(held_out_loss("none"), rel=1e-6)
