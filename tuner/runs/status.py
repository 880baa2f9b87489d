"""
status.json: what a run is doing, in one small file that is replaced at once.

    queued → preparing → running → completed | failed | stopped

A live state (preparing, running) whose process is gone reads as interrupted; see Run.status. A
queued run is new, or waits in line to be started or resumed; see queue.py.
"""

import json
import time
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from tuner.errors import RunError
from tuner.runs.atomic import replace_json

LIVE_STATES = ("preparing", "running")
ENDED_STATES = ("completed", "failed", "stopped", "interrupted")
STATES = ("queued", *LIVE_STATES, *ENDED_STATES)


class Status(TypedDict, total=False):
    """Where a run stands. What Run.status() returns has every key; changes have some.

    Attributes:
        state: One of STATES.
        reason: A sentence for the person: why it failed, what a stop left. Empty when all is well.
        pid: The process that trains, or last did.
        pid_started: Its start, Unix seconds: with the pid, it says which process is meant.
        pid_started_after_boot: The same, in seconds since the machine's boot.
        device: What it trains on.
        owner: Who created the run, where people sign in.
        public: Whether everybody who reaches the page may look at it.
        created: Unix seconds, as the two below.
        started: When the last process was started.
        finished: When the run reached an ended state; None before.
        step: Optimizer steps done.
        max_steps: Optimizer steps planned.
        resumed_from: The checkpoint's step at which the last process began; None for step 0.
        stop_asked: When somebody asked it to stop, Unix seconds.
        exit_code: Of the last process, where it is known.
        waiting_since: When it was put in line, Unix seconds; None for a run that is not in line.
        waiting_to: What it waits for there: "start" or "resume".
    """

    state: str
    reason: str
    pid: int | None
    pid_started: float | None
    pid_started_after_boot: float | None
    device: str | None
    owner: str | None
    public: bool
    created: float
    started: float | None
    finished: float | None
    step: int
    max_steps: int | None
    resumed_from: int | None
    stop_asked: float | None
    exit_code: int | None
    waiting_since: float | None
    waiting_to: Literal["start", "resume"] | None


def new_status(owner: str | None = None) -> Status:
    """The status of a run that was just made."""
    return Status(
        state="queued",
        reason="",
        pid=None,
        pid_started=None,
        pid_started_after_boot=None,
        device=None,
        owner=owner,
        public=False,
        created=time.time(),
        started=None,
        finished=None,
        step=0,
        max_steps=None,
        resumed_from=None,
        stop_asked=None,
        exit_code=None,
        waiting_since=None,
        waiting_to=None,
    )


def is_in_line(status: Status) -> bool:
    """Whether the run waits for its turn, rather than for somebody to start it."""
    return status["state"] == "queued" and status["waiting_since"] is not None


def changed(status: Status, changes: Status) -> Status:
    """Apply changes; entering an ended state sets `finished`, any other clears it.

    Whatever ends the waiting, be it a start, a stop or a failure, takes the run out of line.

    Raises:
        ValueError: A state or a key that does not exist: a mistake in the program.
    """
    unknown = set(changes) - set(Status.__annotations__)
    if unknown or changes.get("state", "queued") not in STATES:
        raise ValueError(f"A run's status cannot be changed to {changes}.")
    after: Status = {**status, **changes}
    if "state" in changes and "finished" not in changes:
        after["finished"] = _finished(status, after)
    if after["state"] != "queued":
        after["waiting_since"] = after["waiting_to"] = None
    return after


def read_status(path: Path) -> Status:
    """Read a status as it was written, whether or not its process is still there.

    Raises:
        RunError: There is no such file, or something else is in it.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path.parent} is not a run: it has no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict) or not _is_status(values):
        raise RunError(f"{path} does not hold a run's status.")
    return {**new_status(), **_known(values)}


def write_status(path: Path, status: Status) -> None:
    """Replace a status at once."""
    replace_json(path, status)


def _finished(before: Status, after: Status) -> float | None:
    if after["state"] not in ENDED_STATES:
        return None
    unchanged = before["state"] == after["state"]
    return before["finished"] if unchanged and before["finished"] else time.time()


def _is_status(values: dict[str, Any]) -> bool:
    numbers = (
        "pid",
        "pid_started",
        "pid_started_after_boot",
        "step",
        "max_steps",
        "waiting_since",
    )
    return (
        values.get("state") in STATES
        and isinstance(values.get("created"), (int, float))
        and isinstance(values.get("reason", ""), str)
        and all(isinstance(values.get(key) or 0, (int, float)) for key in numbers)
    )


def _known(values: dict[str, Any]) -> Status:
    """The keys of today: a newer version's are left out, rather than the run."""
    known = {key: values[key] for key in Status.__annotations__ if key in values}
    return cast(Status, known)
