"""
A batch's rows shared out among threads, each of which takes its own through forward and backward.

    summed = summed_in_parallel(loss_of, batches, weights)

torch shares every operation out among all cores, which wait for each other at its end; on a small
model there are thousands of ends a step, and what lies between operations keeps one core only.
Rows do not need each other: here cores meet once a batch, where their gradients are added up, in
the order of the batches. It is data parallelism within a process, over one copy of the weights.
Measured in docs/EXPERIMENTS.md.
Not covered: GPUs; batches of few rows, each of which all cores work on.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

from tuner.levers import share_count

Batch = dict[str, Any]
LossOf = Callable[[Batch], torch.Tensor]
Part = tuple[torch.Tensor, Sequence[torch.Tensor | None]]  # a loss and its gradients


def shares(lengths: Sequence[int], threads: int) -> list[list[int]]:
    """Indices of rows by the thread that takes them, every share about equally long.

    The longest row first, each to the share that has least (Graham 1969,
    https://doi.org/10.1137/0117039): in random batches of four, two shares are 6 to 10% longer than
    half, of eight 2%.

    Args:
        lengths: Of the rows, in tokens.
        threads: That there are; where they are more than shares, several work on each.

    >>> shares([300, 200, 90, 20], 2), shares([300, 200], 2)
    ([[0], [1, 2, 3]], [[0, 1]])
    """
    number = share_count(len(lengths), threads)
    found: list[list[int]] = [[] for _ in range(number)]
    sums = [0] * number
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        least = sums.index(min(sums))
        found[least].append(row)
        sums[least] += lengths[row]
    return [sorted(share) for share in found]


def summed_in_parallel(
    loss_of: LossOf, batches: Sequence[Batch], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The sum of the losses of several batches, computed at the same time.

    Args:
        loss_of: Called once a batch, in a thread of its own.
        weights: All that trains. Their gradients are made here already, and await `backward`.
    """
    if len(batches) == 1:
        return loss_of(batches[0])
    summed: torch.Tensor = _Parallel.apply(loss_of, batches, torch.is_grad_enabled(), *weights)
    return summed


class _Parallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loss_of: LossOf,
        batches: Sequence[Batch],
        is_training: bool,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        precision = torch.get_autocast_dtype("cpu")
        is_cast = torch.is_autocast_enabled("cpu")

        def part(batch: Batch) -> Part:
            with (
                torch.set_grad_enabled(is_training),  # what holds in a thread holds in no other
                torch.autocast("cpu", precision, enabled=is_cast, cache_enabled=False),
            ):
                loss = loss_of(batch)
            if not is_training:
                return loss, ()
            return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

        pool = _pool(len(batches), torch.get_num_threads() // len(batches))
        losses, gradients = zip(*_all(pool, part, batches), strict=True)
        ctx.gradients = [_sum(of_one) for of_one in zip(*gradients, strict=True)]
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        scaled = (None if g is None else g.mul_(upstream) for g in ctx.gradients)
        return None, None, None, *scaled


def _all(
    pool: ThreadPoolExecutor, part: Callable[[Batch], Part], batches: Sequence[Batch]
) -> list[Part]:
    """Results in the order of the batches. An error waits for the other threads to end."""
    futures = [pool.submit(part, batch) for batch in batches]
    errors = [future.exception() for future in futures]
    for error in filter(None, errors):
        raise error
    return [future.result() for future in futures]


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay, since torch remembers by thread how many cores an operation may take."""
    return ThreadPoolExecutor(workers, "rows", torch.set_num_threads, (threads,))


def _sum(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    total = None
    for gradient in gradients:
        if gradient is not None:
            total = gradient if total is None else total.add_(gradient)
    return total
