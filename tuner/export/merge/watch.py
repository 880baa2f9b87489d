"""
How far a merge is, told as messages.

    stages = Stages(tell)
    with stages.watched("Writing the weights", total, lambda: bytes_in(folder)):
        model.save_pretrained(folder)

Loading and writing do not tell by themselves: what they did so far is measured several times a
second, in memory and on the disk.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

Tell = Callable[[Mapping[str, Any]], None]

TELL_SECONDS = 0.25


class Stages:
    """Tells stages, and bytes where they are known.

    Args:
        tell: Sends one message.
    """

    def __init__(self, tell: Tell):
        self._tell = tell

    def told(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Say how far a stage is."""
        figures = {"done_bytes": done, "total_bytes": total}
        self._tell({"kind": "progress", "stage": stage, **figures})

    @contextmanager
    def watched(self, stage: str, total: int, measure: Callable[[], int]) -> Iterator[None]:
        """Say so all the time while something goes on; it never goes back."""
        over = threading.Event()

        def watch() -> None:
            done = 0
            while not over.wait(TELL_SECONDS):
                done = max(done, min(measure(), total))
                self.told(stage, done, total)

        self.told(stage, 0, total)
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.told(stage, total, total)


def memory_since_now() -> Callable[[], int]:
    """Measures the bytes that this process holds more than it does now."""
    process = psutil.Process()
    before = process.memory_info().rss
    return lambda: int(process.memory_info().rss - before)


def bytes_in(folder: Path) -> int:
    """Bytes of the weights in a folder so far."""
    found = 0
    for path in folder.glob("*.safetensors"):
        with suppress(OSError):  # it is being renamed
            found += path.stat().st_size
    return found
