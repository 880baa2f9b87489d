"""
Who is answered next: the oldest request, and all that can share its pass.

Requests for one base are answered in one batch, up to MAX_ROWS rows. The oldest request is always
in the next batch, so nobody waits for ever behind a base that many others ask, nor behind small
requests that still fit where a large one does not.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from tuner.chat.voices import Base, Row, Voice

MAX_ROWS = 32
MAX_WAITING = 256


@dataclass(eq=False)
class Asked:
    """One request that is not answered yet.

    Attributes:
        rows: Answers to make; none only has the base loaded.
        scored: Instead of rows: messages, an answer, and the voices whose probabilities are asked.
        alone: Takes no others into its pass: scores, and what failed beside others.
        told: Some of an answer was sent.
        cancelled: Rows that nobody waits for any more.
    """

    id: str
    base: Base
    rows: tuple[Row, ...] = ()
    scored: tuple[list[dict[str, str]], str, list[Voice]] | None = None
    alone: bool = False
    told: bool = False
    cancelled: set[int] = field(default_factory=set)

    def cancel(self, row: int | None) -> None:
        """Let one row go, or all."""
        self.cancelled.update(range(len(self.rows)) if row is None else (row,))

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for any of its rows."""
        return bool(self.rows) and self.cancelled.issuperset(range(len(self.rows)))


class Waiting:
    """The requests that wait, filled by one thread and emptied by another."""

    def __init__(self) -> None:
        self._requests: list[Asked] = []
        self._changed = threading.Condition()

    def add(self, asked: Asked) -> bool:
        """Put one last; False when too many wait already."""
        with self._changed:
            if len(self._requests) >= MAX_WAITING:
                return False
            self._requests.append(asked)
            self._changed.notify()
            return True

    def remove(self, asked: Asked) -> bool:
        """Take one out that needs no answer any more; False when it does not wait."""
        with self._changed:
            waits = asked in self._requests
            if waits:
                self._requests.remove(asked)
            return waits

    def put_back(self, requests: Iterable[Asked]) -> None:
        """Put those that were taken first again, in their order."""
        with self._changed:
            self._requests[:0] = requests

    def next_batch(self, patience_seconds: float | None) -> list[Asked]:
        """Take the requests to be answered now; none when nothing comes in that time."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests, patience_seconds)
            batch = batch_of(self._requests)
            self._requests = [asked for asked in self._requests if asked not in batch]
            return batch


def batch_of(requests: list[Asked]) -> list[Asked]:
    """The oldest request and, oldest first, those that fit beside it.

    >>> one, other = (Base(model, None, "none") for model in "ab")
    >>> row = Row(Voice("base"), (), None)
    >>> queue = [Asked("1", one, (row,) * 30), Asked("2", other, (row,)),
    ...          Asked("3", one, (row,) * 3), Asked("4", one, (row,))]
    >>> [asked.id for asked in batch_of(queue)], [asked.id for asked in batch_of(queue[1:])]
    (['1', '4'], ['2'])
    """
    if not requests or requests[0].alone:
        return requests[:1]
    batch, rows = [], 0
    for asked in requests:
        fits = asked.base == requests[0].base and rows + len(asked.rows) <= MAX_ROWS
        if fits and not asked.alone:
            batch.append(asked)
            rows += len(asked.rows)
    return batch
