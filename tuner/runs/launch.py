"""
Start, follow, stop and resume runs, each in a process of its own.

The process belongs to nobody: it is its own session, writes to files only, and goes on when the
terminal or the page that started it is gone. This is where "where" will be decided: this machine
today; several GPUs, machines, or a rented one will run the same command and write the same files.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tuner.errors import RunError
from tuner.runs.events import Event
from tuner.runs.redact import redact
from tuner.runs.store import LIVE_STATES, Run, Status

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.2
LOG_TAIL_BYTES = 2000

# Children of this process, so that none is left as a zombie while we live.
_children: dict[int, subprocess.Popen[bytes]] = {}


def command(run: Run, resume: bool) -> list[str]:
    """What runs. A list, never a shell line: no name in it can be taken for a command."""
    return [sys.executable, "-m", "tuner.training", str(run.dir.resolve())] + (
        ["--resume"] if resume else []
    )


def start(run: Run, *, resume: bool = False) -> int:
    """Start the training process and return its pid.

    Raises:
        RunError: The run is already live.
    """
    if run.status()["state"] in LIVE_STATES:
        raise RunError(f"Run {run.id} is already {run.status()['state']}.")
    # Said before the process exists, so that nothing it says is overwritten; its pid comes after.
    run.update_status(
        state="preparing",
        reason="",
        started=time.time(),
        finished=None,
        exit_code=None,
        pid=None,
        pid_started=None,
    )
    with run.log_path.open("ab") as log:
        process = subprocess.Popen(
            command(run, resume),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(),
        )
    _children[process.pid] = process
    run.update_status(pid=process.pid, pid_started=_create_time(process.pid))
    return process.pid


def wait(
    run: Run,
    on_event: Callable[[Event], None] | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> Status:
    """Follow a run until its process has ended, and return its final status.

    Args:
        on_event: Called for each event from now on.
    """
    offset = 0
    while True:
        ended = not _is_running(run)  # asked before reading: events written meanwhile are read
        events, offset = run.events(offset)
        for event in events if on_event else []:
            on_event(event)  # type: ignore[misc]
        if ended:
            return _final_status(run)
        time.sleep(poll_seconds)


def stop(run: Run, grace_seconds: float = 60.0) -> Status:
    """Ask a run to stop after its step and keep its adapter; kill it if it does not.

    Raises:
        RunError: The run is not live.
    """
    status = run.status()
    if status["state"] not in LIVE_STATES:
        raise RunError(f"Run {run.id} is {status['state']}; there is nothing to stop.")
    pid = int(status["pid"] or 0)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while _is_running(run):
        if time.monotonic() > deadline:
            return _kill(run, pid, grace_seconds)
        time.sleep(POLL_SECONDS / 2)
    return _final_status(run)


def resume(run: Run) -> int:
    """Start a run again at its last checkpoint.

    Raises:
        RunError: It is live, completed, or has no checkpoint.
    """
    state = run.status()["state"]
    if state in LIVE_STATES:
        raise RunError(f"Run {run.id} is already {state}.")
    if state == "completed":
        raise RunError(f"Run {run.id} completed; there is nothing to resume.")
    if run.last_checkpoint() is None:
        raise RunError(
            f"Run {run.id} has no checkpoint yet. Start it again: "
            f"python -m tuner train --recipe {run.recipe_path}"
        )
    return start(run, resume=True)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",  # train.log is read while it is written
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _create_time(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _is_running(run: Run) -> bool:
    """Whether the process is there; its written state may already be a final one."""
    status = run.written_status()
    pid = status.get("pid")
    child = _children.get(pid) if pid else None
    if child is not None:
        return child.poll() is None
    started = status.get("pid_started")
    return bool(pid) and _create_time(int(pid or 0)) == started and not _is_zombie(int(pid or 0))


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _final_status(run: Run) -> Status:
    """The status of a run whose process has ended, also where it could not say so itself."""
    status = run.written_status()
    child = _children.pop(status.get("pid") or 0, None)
    if status["state"] not in LIVE_STATES:
        return status
    if child is not None and child.returncode > 0:
        reason = f"The process failed: {_log_tail(run)}"
        run.update_status(state="failed", reason=reason, exit_code=1)
    return run.status()


def _kill(run: Run, pid: int, grace_seconds: float) -> Status:
    os.killpg(pid, signal.SIGKILL)  # its own session: the group is the process and its children
    if child := _children.pop(pid, None):
        child.wait()
    last = run.last_checkpoint()
    left = f"checkpoint step-{last[0]} is kept" if last else "no checkpoint was saved yet"
    reason = f"Killed: it did not stop within {grace_seconds:.0f} s; {left}."
    run.update_status(state="stopped", reason=reason)
    return run.status()


def _log_tail(run: Run) -> str:
    with run.log_path.open("rb") as log:
        log.seek(max(0, run.log_path.stat().st_size - LOG_TAIL_BYTES))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return redact(lines[-1]) if lines else "it wrote nothing to train.log"
