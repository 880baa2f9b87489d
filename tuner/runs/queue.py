"""
The line before a machine: one run at work at a time, the others wait for their turn.

    enqueue(store, run)              its place: 1 is the next
    position(store, run)             its place now; 0 for a run that is not in line
    leave(run)                       cancels
    Dispatcher(store).start()        starts whoever is next, in a thread, for as long as we live

A machine's runs are those of one store. Whoever waits has it in status.json, so the line is what
the folder says: an app that was killed goes on with it when it is back, and of two apps on one
folder either may move it, one at a time. A run that a shell started (`python -m tuner train`,
which does not wait) keeps the line waiting like any other; it is found by its pid.

Not covered: a folder without locks (a mounted bucket) that several apps dispatch for; several
devices of one machine, and several machines that share a folder: they are one line.
"""

import builtins
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

import psutil

from tuner.errors import RunError, TunerError
from tuner.runs import launch
from tuner.runs.atomic import locked
from tuner.runs.launch import leave
from tuner.runs.run import Run
from tuner.runs.status import LIVE_STATES, Status, is_in_line, read_status
from tuner.runs.store import RunStore

__all__ = ["Dispatcher", "advance", "enqueue", "leave", "position", "waiting"]

TICK_SECONDS = 1.0
CLOSE_SECONDS = 5.0
OLD_SECONDS = 1.0
LATER = 1e-6  # seconds; a Unix time of today is exact to a quarter of that


def enqueue(store: RunStore, run: Run, *, resume: bool = False) -> int:
    """Put a run at the end of the line.

    Args:
        resume: It will go on from its last checkpoint, rather than begin.

    Returns:
        Its place; 1 is the next.

    Raises:
        RunError: It is in line or at work already, cannot be started or resumed (see launch.py),
            or this cannot be written down.
    """
    try:
        with locked(store.root), locked(run.dir):
            _require_outside(run)
            launch.require_startable(run, resume)
            before = _line(store)
            # After the last in line, also where the clock was set back since.
            since = max([time.time(), *(at + LATER for at, _ in before)])
            launch.record(run, _waiting(since, resume))
            return len(before) + 1
    except OSError as error:
        raise RunError(f"Run {run.id} cannot be put in line: {error.strerror}.") from None


def waiting(store: RunStore) -> builtins.list[Run]:
    """The runs in line, the next one first."""
    return [run for _, run in _line(store)]


def position(store: RunStore, run: Run) -> int:
    """A run's place in line: 1 is the next, 0 is not in it."""
    ids = [other.id for other in waiting(store)]
    return ids.index(run.id) + 1 if run.id in ids else 0


def advance(store: RunStore) -> Run | None:
    """Start the next in line, if no run is at work.

    One that cannot be started has failed, and the one behind it is next.

    Returns:
        The run that was started.

    Raises:
        OSError: The folder cannot be read.
    """
    if not store.root.is_dir():  # no run was made yet
        return None
    with locked(store.root):  # two apps on one folder: the second finds this one's run at work
        if any(_at_work(Run(store.root / run_id)) for run_id in store.ids()):
            return None
        return next(filter(_started, waiting(store)), None)


class Dispatcher:
    """Moves a store's line along, in a thread of its own.

    Any number may do so for one folder. What they start does not end with them.

    Args:
        tick_seconds: How often it looks; a look that finds nothing to do takes less than a
            millisecond with 300 runs.
        before_start: Called with the run that is next, just before it is started, to make room for
            it on the machine. What it raises must be one of ours.
    """

    def __init__(
        self,
        store: RunStore,
        tick_seconds: float = TICK_SECONDS,
        before_start: Callable[[Run], None] | None = None,
    ):
        self.store, self.tick_seconds = store, tick_seconds
        self._before_start = before_start
        self._glance = Glance(store)
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def wake(self) -> None:
        """Look now: a run was put in line."""
        self._wake.set()

    def close(self) -> None:
        """End. Runs at work go on, and those in line wait for the next dispatcher."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            # A disk that is full or gone may be back at the next look, and the line with it.
            with suppress(OSError, RunError, psutil.Error):
                if self._glance.line_can_move():
                    self._move()
            self._wake.wait(self.tick_seconds)

    def _move(self) -> None:
        if self._before_start and (following := waiting(self.store)):
            # Not under the line's lock: letting go of a model may take seconds.
            with suppress(TunerError):  # the run itself will say what is wrong with it
                self._before_start(following[0])
        advance(self.store)


class Stand(Enum):
    """What a run is to the line: there is more to a run's state than this."""

    REST = 0
    WAITS = 1
    AT_WORK = 2


class Glance:
    """Whether there is anything to do, from as few reads as may be.

    A status is read again only when its file was replaced: a process that is gone stays gone. Those
    at work are asked every time.
    """

    def __init__(self, store: RunStore):
        self.store = store
        self._files: dict[str, str] = {}  # making 300 paths takes longer than 300 looks
        self._seen: dict[str, tuple[tuple[int, int], Stand]] = {}

    def line_can_move(self) -> bool:
        """Whether some run waits and none is at work."""
        ids = self.store.ids()
        stands = [self._stand(run_id) for run_id in ids]
        if len(self._files) > len(ids):  # some were deleted
            self._files.clear()
            self._seen.clear()
        return Stand.WAITS in stands and Stand.AT_WORK not in stands

    def _stand(self, run_id: str) -> Stand:
        if run_id not in self._files:
            self._files[run_id] = str(Run(self.store.root / run_id).status_path)
        try:
            file = os.stat(self._files[run_id])  # noqa: PTH116 (a Path's takes a fifth longer)
            version = (file.st_mtime_ns, file.st_ino)
            seen = self._seen.get(run_id)
            if seen and seen[0] == version:
                return seen[1]
            stand = _stand(Run(self.store.root / run_id))
        except (OSError, RunError):  # deleted meanwhile, or no longer a run
            return Stand.REST
        # A file that was replaced a moment ago may be again, with the same time and inode.
        if stand != Stand.AT_WORK and time.time() - file.st_mtime > OLD_SECONDS:
            self._seen[run_id] = (version, stand)
        return stand


def _stand(run: Run) -> Stand:
    if _at_work(run):
        return Stand.AT_WORK
    return Stand.WAITS if is_in_line(read_status(run.status_path)) else Stand.REST


def _at_work(run: Run) -> bool:
    """Whether it trains, or its process is there still: that holds memory until it is gone."""
    try:
        return run.status()["state"] in LIVE_STATES or run.is_process_alive()
    except RunError:  # its status is lost, or the run is
        return False


def _line(store: RunStore) -> builtins.list[tuple[float, Run]]:
    """Since when each run waits, in order."""
    found = []
    for run_id in store.ids():
        run = Run(store.root / run_id)
        with suppress(RunError):
            status = read_status(run.status_path)
            if is_in_line(status) and status["waiting_since"] is not None:
                found.append((status["waiting_since"], run))
    return sorted(found, key=lambda pair: (pair[0], pair[1].id))


def _waiting(since: float, resume: bool) -> Status:
    return Status(
        state="queued",
        reason="",
        stop_asked=None,
        exit_code=None,
        waiting_since=since,
        waiting_to="resume" if resume else "start",
    )


def _require_outside(run: Run) -> None:
    if is_in_line(read_status(run.status_path)):
        raise RunError(f"Run {run.id} waits in line already.")


def _started(run: Run) -> bool:
    """Start a run whose turn it is; where that cannot be, it failed."""
    try:
        resume = read_status(run.status_path)["waiting_to"] == "resume"
        launch.start(run, resume=resume)
    except (OSError, RunError) as error:
        with suppress(OSError, RunError):  # deleted, or the disk is full: it goes on waiting
            _fail(run, str(error))
        return False
    return True


def _fail(run: Run, reason: str) -> None:
    with locked(run.dir):
        if is_in_line(read_status(run.status_path)):  # else a shell was faster
            launch.record(run, Status(state="failed", reason=reason))
