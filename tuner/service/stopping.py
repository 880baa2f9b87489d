"""
Stop every run at work, because the machine is about to go.

    stop_runs(store, "The Space restarts.")

They finish their step at the same time, each as `launch.stop` does, and keep their adapter and a
checkpoint; a last copy on its way to the Hub is waited for. Runs in line stay there. Nothing
resumes what was stopped: hardware may cost, and whoever wants it to go on says so.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tuner.errors import RunError
from tuner.runs import launch
from tuner.runs.atomic import locked
from tuner.runs.pushes import is_being_pushed
from tuner.runs.run import Run
from tuner.runs.status import LIVE_STATES, Status
from tuner.runs.store import RunStore

GRACE_SECONDS = 25.0  # containers are killed 30 seconds after SIGTERM unless told otherwise
POLL_SECONDS = 0.1


def stop_runs(store: RunStore, because: str, grace_seconds: float = GRACE_SECONDS) -> list[Run]:
    """Stop what is at work, and wait for it.

    Args:
        because: A sentence for whoever looks at the run later.
        grace_seconds: How long a run may take before it is killed, and it and its copy together.

    Returns:
        The runs that were at work.
    """
    until = time.monotonic() + grace_seconds
    at_work = [run for run in store.list() if _is_at_work(run)]
    if at_work:
        with ThreadPoolExecutor(len(at_work)) as threads:
            for run in at_work:
                threads.submit(_stop, run, because, grace_seconds)
    _wait_for_copies(at_work, until)
    return at_work


def _wait_for_copies(runs: Sequence[Run], until: float) -> None:
    """Who copies a run to the Hub ends by itself soon after the run (hub/saves.py)."""
    while any(map(is_being_pushed, runs)) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def _is_at_work(run: Run) -> bool:
    try:
        return run.status()["state"] in LIVE_STATES
    except RunError:  # deleted meanwhile, or no longer a run
        return False


def _stop(run: Run, because: str, grace_seconds: float) -> None:
    # It may end by itself in this moment, or be deleted, or the disk be full.
    with suppress(RunError, OSError):
        status = launch.stop(run, grace_seconds)
        if status["state"] != "stopped":
            return
        onward = "Resume it to go on." if run.last_checkpoint() else ""
        reason = f"{because} {status['reason']} {onward}".strip()
        with locked(run.dir):
            launch.record(run, Status(state="stopped", reason=reason))
