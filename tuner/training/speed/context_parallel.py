"""
A batch's tokens shared out among threads, each of which takes its own through forward and backward.

    lengths = cut(costs, parts, step)
    links = links_of(parts)                     # what neighbours hand each other
    summed = summed_in_parallel(loss_of, batches, weights)

torch shares every operation out among all cores, which wait for each other at its end; on a small
model there are thousands of ends a step, and what lies between operations keeps one core only.
Tokens meet nowhere but in attention. So each core takes a stretch of the batch; where a cut goes
through a row, the earlier part hands its keys and values to the later one, layer by layer, and gets
their gradients back (row_attention.py). All parts take equally long, of however few rows the batch
is. Gradients of the weights are added up once a batch, in the order of the parts.
Between machines this is known as context parallelism: https://arxiv.org/abs/2310.01889. Here it is
within a process, over one copy of the weights. Measured in docs/EXPERIMENTS.md.
Not covered: GPUs; batches of few tokens, each operation of which all cores work on.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import torch

Batch = dict[str, Any]
LossOf = Callable[[Batch], torch.Tensor]
Gradients = Sequence[torch.Tensor | None]
Part = tuple[torch.Tensor, Gradients]  # a loss and its gradients


class NeighbourError(Exception):
    """A part waits for one that has failed."""


class Link:
    """Between two parts: keys and values of a row that both have a piece of, and the gradients.

    Both go through the model's layers in the same order, so a queue is all it takes.
    """

    def __init__(self) -> None:
        self._forward: SimpleQueue[Any] = SimpleQueue()
        self._backward: SimpleQueue[Any] = SimpleQueue()

    def give(self, *states: torch.Tensor) -> None:
        """Hand keys and values to the later part."""
        self._forward.put(states)

    def take(self) -> tuple[torch.Tensor, ...]:
        """Keys and values of the earlier part, once they are there."""
        return _taken(self._forward)

    def give_back(self, *gradients: torch.Tensor) -> None:
        """Hand their gradients to the earlier part."""
        self._backward.put(gradients)

    def take_back(self) -> tuple[torch.Tensor, ...]:
        """Gradients from the later part, once they are there."""
        return _taken(self._backward)

    def sever(self) -> None:
        """Let nobody wait any more: one of the two has failed."""
        for queue in (self._forward, self._backward):
            queue.put(None)


def cut(costs: torch.Tensor, parts: int, step: int = 1) -> list[int]:
    """Lengths of stretches that cost about the same.

    Args:
        costs: Of each token.
        parts: Stretches; each is at least a step long.
        step: What lengths are multiples of, except for the last one's rest.

    >>> cut(torch.ones(96), 2, 16), cut(torch.tensor([1.0, 1, 1, 3]), 2)
    ([48, 48], [3, 1])
    """
    reached = costs.cumsum(0)
    goals = reached[-1] * torch.arange(1, parts) / parts
    ends = torch.searchsorted(reached, goals).add(1).div(step).round().long() * step
    bounds = [0]
    for after, end in zip(range(parts - 1, 0, -1), ends.tolist(), strict=True):
        bounds.append(min(max(end, bounds[-1] + step), len(costs) - after * step))
    return [end - start for start, end in zip(bounds, [*bounds[1:], len(costs)], strict=True)]


def links_of(parts: int) -> list[tuple[Link | None, Link | None]]:
    """What each part of several is linked by: to the one before it, and to the one after."""
    links = [None, *(Link() for _ in range(parts - 1)), None]
    return list(pairwise(links))


def summed_in_parallel(
    loss_of: LossOf, batches: Sequence[Batch], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The sum of the losses of several parts of a batch, computed at the same time.

    Args:
        loss_of: Called once a part, in a thread of its own.
        batches: The parts. What they have as `links` is severed when one fails.
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

        losses, gradients = zip(*_all(part, batches), strict=True)
        ctx.gradients = functools.reduce(_added, gradients)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        found = [gradient for gradient in ctx.gradients if gradient is not None]
        if found:
            torch._foreach_mul_(found, upstream)
        return None, None, None, *ctx.gradients


def _all(part: Callable[[Batch], Part], batches: Sequence[Batch]) -> list[Part]:
    """Results in the order of the parts. An error waits for the other threads to end."""

    def part_or_severed(batch: Batch) -> Part:
        try:
            return part(batch)
        except BaseException:
            for link in filter(None, batch.get("links", ())):
                link.sever()
            raise

    pool = _pool(len(batches), torch.get_num_threads() // len(batches))
    futures = [pool.submit(part_or_severed, batch) for batch in batches]
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, NeighbourError)):
        raise error  # the one that the others fail for
    return [future.result() for future in futures]


@functools.cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay, since torch remembers by thread how many cores an operation may take."""
    return ThreadPoolExecutor(workers, "part", _take_cores, (threads,))


def _take_cores(count: int) -> None:
    # A thread that torch has not asked yet would have what another sets after this.
    torch.get_num_threads()
    torch.set_num_threads(count)


def _added(totals: Gradients, more: Gradients) -> Gradients:
    """Sums of two parts' gradients; the first's are changed."""
    pairs = list(zip(totals, more, strict=True))
    both = [(total, own) for total, own in pairs if total is not None and own is not None]
    if both:
        torch._foreach_add_([total for total, _ in both], [own for _, own in both])
    return [own if total is None else total for total, own in pairs]


def _taken(queue: "SimpleQueue[Any]") -> tuple[torch.Tensor, ...]:
    states: tuple[torch.Tensor, ...] | None = queue.get()
    if states is None:
        raise NeighbourError
    return states
