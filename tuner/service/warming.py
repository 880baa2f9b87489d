"""
Keep a training process warm while the machine has nothing to do (runs/spare.py).

    warmth = Warmth(store)
    warmth.start()          a thread, for as long as we live
    warmth.close()

The imports take a core for seconds and the process 530 MB from then on. So it is begun when
the machine has been idle for a while, after the page's first visit as after a run; never beside
training; and it is let go where memory becomes scarce.

    TUNER_SPARE=0           none; every run then begins with its imports
"""

import os
import threading
from collections.abc import Callable

import psutil

from tuner.device import cpu_limits, training_refused
from tuner.errors import RunError
from tuner.runs import launch
from tuner.runs.run import Run
from tuner.runs.status import LIVE_STATES
from tuner.runs.store import RunStore

SWITCH = "TUNER_SPARE"
LOOK_SECONDS = 2.0
IDLE_LOOKS = 2  # as many in a row
IDLE_PERCENT = 30.0  # of all cores
SCARCE_BYTES = 2 * 2**30


class Warmth:
    """Warms `launch.spare` when it costs nobody anything.

    Args:
        look_seconds: How often it looks whether that is so.
        is_idle: Whether the machine had little to do since the last look.
    """

    def __init__(
        self,
        store: RunStore,
        look_seconds: float = LOOK_SECONDS,
        is_idle: Callable[[], bool] | None = None,
    ):
        self.store, self.look_seconds = store, look_seconds
        self._is_idle = is_idle or _is_machine_idle
        self._idle_looks = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="warmth", daemon=True)

    def start(self) -> None:
        """Begin, where a spare process is wanted at all."""
        if os.environ.get(SWITCH) != "0" and not training_refused():
            self._is_idle()  # it tells of the time since it was last asked
            self._thread.start()

    def close(self) -> None:
        """End, and let the process go that waits."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        launch.spare.close()

    def _work(self) -> None:
        # One that died by itself would do so again.
        while not launch.spare.broken and not self._closed.wait(self.look_seconds):
            self._look()

    def _look(self) -> None:
        if launch.spare.is_waiting():
            if _is_memory_scarce():
                launch.spare.close()
            return
        self._idle_looks = self._idle_looks + 1 if self._is_idle() else 0
        if self._idle_looks >= IDLE_LOOKS and not _is_memory_scarce() and not self._is_at_work():
            launch.warm_spare()

    def _is_at_work(self) -> bool:
        try:
            return any(map(_is_live, self.store.list()))
        except OSError:  # the folder is away
            return True


def _is_live(run: Run) -> bool:
    try:
        return run.status()["state"] in LIVE_STATES
    except RunError:  # deleted meanwhile, or no longer a run
        return False


def _is_machine_idle() -> bool:
    return psutil.cpu_percent() < IDLE_PERCENT


def _is_memory_scarce() -> bool:
    _, available, _ = cpu_limits()
    return available < SCARCE_BYTES
