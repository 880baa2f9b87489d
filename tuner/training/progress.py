"""How far long work is, told to a run's readers about once a second; and a stop answered in it."""

import time
from types import TracebackType
from typing import Literal, Self

from tuner.runs.events import EventWriter
from tuner.training.callbacks import StopRequest, heed

EVERY_SECONDS = 1.0


class Progress:
    """Writes progress events, and a last one where there was a first.

        with Progress(events, stop, "Reading orders.csv", "rows") as progress:
            for number, row in enumerate(rows): progress(number)

    Args:
        what: The work, as a line begins with it: "Downloading Qwen/Qwen3-0.6B".
        unit: Of `done` and `total`.
        total: How much it is in all; None where that is not known.
        at_once: Whether the first report is written, too. Else work of less than a second is not
            worth a word.
    """

    def __init__(
        self,
        events: EventWriter,
        stop: StopRequest,
        what: str,
        unit: Literal["bytes", "rows"],
        total: int | None = None,
        *,
        at_once: bool = False,
    ):
        self.events, self.stop, self.what, self.unit = events, stop, what, unit
        self._done, self._total = 0, total
        self._told: tuple[int, int | None] | None = None
        self._next = time.monotonic() + (0 if at_once else EVERY_SECONDS)

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say how much is done.

        Raises:
            StoppedBeforeTraining: Somebody asked to stop.
        """
        heed(self.stop)
        self._done, self._total = done, total or self._total
        if time.monotonic() >= self._next:
            self._tell()

    def _tell(self) -> None:
        self.events.write(
            "progress", what=self.what, done=self._done, total=self._total, unit=self.unit
        )
        self._told = (self._done, self._total)
        self._next = time.monotonic() + EVERY_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None and self._told not in (None, (self._done, self._total)):
            self._tell()
