"""A batch shared out among threads: where it is cut, how gradients meet, and what goes wrong."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.training.speed.tiny_trainers import (
    ROWS,
    Rows,
    Step,
    Watch,
    differences,
    our_step,
    our_trainer,
    recipe_of,
    row,
    tiny,
)
from tuner.training.speed.context_parallel import _pool, cut, summed_in_parallel
from tuner.training.speed.row_collator import Costs, Piece, RowCollator

WEIGHT = torch.tensor([2.0, 3.0], requires_grad=True)
NOT_USED = torch.ones(1, requires_grad=True)
PATIENCE = 60  # seconds; what is tested takes milliseconds


@contextmanager
def threads(count: int) -> Iterator[None]:
    """That many for torch, of the two that all tests here have."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("costs", "parts", "step", "wanted"),
    [
        ([1] * 7, 1, 1, [7]),
        ([1] * 100, 4, 1, [25] * 4),
        ([1, 1, 1, 3], 2, 1, [3, 1]),
        ([3, 1, 1, 1], 2, 1, [1, 3]),
        ([1, 2, 3, 4, 5, 6], 3, 1, [4, 1, 1]),  # sums of 10, 5 and 6; goals are 7 and 14
        ([1] * 96, 2, 16, [48, 48]),
        ([1] * 100, 3, 16, [32, 32, 36]),  # the last one has the rest
        ([1000] + [1] * 63, 4, 16, [16] * 4),  # a step at least, of what costs little
        ([1] * 63 + [1000], 4, 16, [16] * 4),
        ([1, 1, 1, 1000], 4, 1, [1] * 4),
        ([1] * 64 + [0.5] * 64, 2, 16, [48, 80]),
    ],
)
def test_a_cut_is_where_costs_are_even_and_a_multiple_of_the_step(costs, parts, step, wanted):
    assert cut(torch.tensor(costs, dtype=torch.float32), parts, step) == wanted


def test_stretches_of_any_costs_have_all_tokens_and_cost_the_same_but_for_a_step():
    for seed in range(50):
        numbers = torch.Generator().manual_seed(seed)
        size, parts, power = (
            int(torch.randint(low, high, (), generator=numbers))
            for low, high in ((600, 1200), (2, 9), (0, 5))
        )
        costs, step = torch.rand(size, generator=numbers) + 1, 2**power
        lengths = cut(costs, parts, step)
        assert sum(lengths) == size and len(lengths) == parts and min(lengths) >= step
        assert not any(length % step for length in lengths[:-1])
        sums = torch.stack([stretch.sum() for stretch in costs.split(lengths)])
        assert (sums - costs.sum() / parts).abs().max() <= (step + 2) * costs.max()


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


@pytest.mark.parametrize(("parts", "given", "cores"), [(2, 2, 1), (2, 4, 2), (4, 4, 1)])
def test_each_part_has_its_thread_its_cores_and_what_held_outside(parts, given, cores):
    seen = []
    together = threading.Barrier(parts, timeout=PATIENCE)

    def watched(batch: dict[str, Any]) -> torch.Tensor:
        together.wait()  # breaks where one ends before the other begins
        cast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        seen.append((threading.get_ident(), torch.get_num_threads(), cast))
        return loss_of(batch)

    batches = [{"x": torch.ones(2)}] * parts
    with threads(given):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert not summed_in_parallel(watched, batches, [WEIGHT]).requires_grad
        assert summed_in_parallel(watched, batches, [WEIGHT]).requires_grad
        assert {own for _, own, _ in seen} == {cores} and torch.get_num_threads() == given
    assert len({thread for thread, _, _ in seen[:parts]} - {threading.get_ident()}) == parts
    assert [cast for _, _, (cast, _) in seen] == [True] * parts + [False] * parts
    assert {precision for _, _, (_, precision) in seen[:parts]} == {torch.bfloat16}


def test_what_another_thread_sets_changes_no_parts_cores():
    pool = _pool(2, 3)  # no other test has it
    started = threading.Barrier(3, timeout=PATIENCE)
    waiting = [pool.submit(started.wait) for _ in range(2)]
    started.wait()
    with threads(5):
        for future in waiting:
            future.result()
        together = threading.Barrier(2, timeout=PATIENCE)
        found = [pool.submit(lambda: (together.wait(), torch.get_num_threads())) for _ in range(2)]
        assert [future.result()[1] for future in found] == [3, 3]


def test_a_single_part_stays_where_it_is():
    seen = []

    def watched(batch: dict[str, Any]) -> torch.Tensor:
        seen.append(threading.get_ident())
        return loss_of(batch)

    summed_in_parallel(watched, [{"x": torch.ones(2)}], [WEIGHT])
    assert seen == [threading.get_ident()]


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


class Seen(NamedTuple):
    """A step, and the parts that went through the model in it: a thread and its pieces."""

    step: Step
    parts: list[tuple[int, list[Piece]]]


def watched_step(rows: Rows, folder: Path, collator: Any = None, **settings: Any) -> Seen:
    watch, parts = Watch(), []
    trainer = our_trainer(tiny(), recipe_of(rows, **settings), folder, rows, [watch])
    trainer.data_collator = collator or trainer.data_collator
    trainer.model.get_base_model().base_model.register_forward_pre_hook(
        lambda _, args, kwargs: parts.append((threading.get_ident(), kwargs["pieces"])),
        with_kwargs=True,
    )
    trainer.train()
    return Seen(Step(watch.loss, watch.gradients), parts)


def cuts(seen: Seen) -> int:
    return sum(piece.goes_on for _, pieces in seen.parts for piece in pieces)


THREE = [row(130, 64), row(90, 20), row(150, 3)]  # whichever three of the six: parts for four
SIX = [*THREE, row(257, 1), row(100, 40), row(95, 0)]
BATCHES: dict[str, tuple[Rows, int, dict[str, Any]]] = {  # rows, micro-batches, settings
    "one row": ([row(300, 150)], 1, {}),
    "three rows": (THREE, 1, {}),
    "layers again in the backward": (THREE, 1, {"gradient_checkpointing": True}),
    "rows one after the other": ([row(300, 20), row(256, 200)], 2, {"micro_batch_size": 1}),
    "accumulated": (SIX, 2, {"micro_batch_size": 3, "gradient_checkpointing": True}),
    "packed": (ROWS, 1, {"packing": True, "max_length": 256, "batch_size": 2}),
}


@pytest.mark.parametrize("batch", BATCHES)
def test_rows_that_are_cut_take_the_step_that_they_take_whole(tmp_path, batch):
    rows, count, settings = BATCHES[batch]
    plain = settings if batch == "packed" else {"batch_size": len(rows)}
    wanted = our_step(tiny(), rows, tmp_path, levers="none", **plain)
    for parts in (2, 4):
        with threads(parts):
            seen = watched_step(rows, tmp_path, levers="auto", **settings)
        assert len(seen.parts) == parts * count and cuts(seen) >= parts // 2
        assert len({thread for thread, _ in seen.parts} - {threading.get_ident()}) == parts
        assert max(differences(seen.step, wanted)) < 1e-5


def test_a_part_of_padding_only_changes_nothing(tmp_path):
    # Of 160 tokens 138 are the row's; the last but one costs all, so that the cut is behind it.
    rows = [row(138, 1)]
    collator = RowCollator(0, few_lengths=True, threads=2, costs=Costs(trained=1e9))
    assert collator(rows)["part_lengths"] == [144, 16]
    seen = watched_step(rows, tmp_path, collator, levers="auto")
    assert sorted(len(pieces) for _, pieces in seen.parts) == [0, 1]
    wanted = our_step(tiny(), rows, tmp_path, levers="none")
    assert max(differences(seen.step, wanted)) < 1e-5


@pytest.mark.parametrize("parts", [2, 4])
def test_the_same_rows_give_the_same_step_to_the_last_bit(tmp_path, parts):
    with threads(parts):
        one, other = (watched_step(SIX, tmp_path, levers="auto") for _ in range(2))
    assert cuts(one) == cuts(other) > 0 and one.step.loss == other.step.loss
    for name, gradient in one.step.gradients.items():
        assert torch.equal(gradient, other.step.gradients[name])


def test_evaluated_rows_have_the_loss_that_they_have_whole(tmp_path):
    rows = [row(40, 12), row(290, 80), row(130, 20)]
    seen: list[Piece] = []

    def held_out_loss(levers: str) -> float:
        recipe = recipe_of(rows, levers=levers)
        trainer = our_trainer(tiny(), recipe, tmp_path, rows, evaluation=rows)
        trainer.model.get_base_model().base_model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.extend(kwargs.get("pieces", ())), with_kwargs=True
        )
        return float(trainer.evaluate()["eval_loss"])

    assert held_out_loss("auto") == pytest.approx(held_out_loss("none"), rel=1e-6)
    assert any(piece.goes_on for piece in seen)
