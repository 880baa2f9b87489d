"""
Start, follow, stop and resume the process that trains a run:

    start(run)                      python -m tuner.training RUN_DIR, detached
    wait(run, on_event=print)       until it ends
    stop(run)                       SIGTERM; it finishes its step, saves and says so
    leave(run)                      out of line, where it waited (queue.py) and has not begun
    warm_spare()                    have the imports of the next process done beforehand (spare.py)

The process outlives whoever started it, and writes to files only. Whoever comes later finds it by
the pid in status.json: a page that was restarted needs nothing else to follow or stop it. Its exit
code, though, only its parent learns; without one, an end that it did not record is an interruption.

Not covered: one run at a time, see queue.py; `start` starts at once. Other places: `start(run,
where=...)` will run the same training of the same directory on all GPUs of this machine, several
machines or a Hub Job, by another `command`. POSIX only.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import tuner
from tuner.device import TRAINING_ENVIRONMENT, training_refused
from tuner.errors import RunError
from tuner.runs.atomic import locked
from tuner.runs.events import Event, EventWriter
from tuner.runs.handover import Task
from tuner.runs.process import birth
from tuner.runs.redact import redact
from tuner.runs.run import Run
from tuner.runs.spare import Spare
from tuner.runs.status import (
    LIVE_STATES,
    Status,
    changed,
    is_in_line,
    read_status,
    write_status,
)

GRACE_SECONDS = 60.0
KILL_SECONDS = 10.0  # for the system to clear a killed process away
GONE_POLL_SECONDS = 0.02
LOG_TAIL_BYTES, LOG_TAIL_LINES, LOG_TAIL_CHARACTERS = 8192, 5, 600
PROJECT_ROOT = Path(tuner.__file__).resolve().parents[1]
# A process that dies of these did so by itself; of others, somebody or the system killed it.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves a stack in train.log
    "PYTHONSAFEPATH": "1",  # a datasets.py in the folder we are in is not the library
    "PYTHONUNBUFFERED": "1",  # train.log is complete when the process is killed
    "TOKENIZERS_PARALLELISM": "true",
}

# Processes started here, by pid, until their end is recorded: a parent alone learns exit codes.
_children: dict[int, subprocess.Popen[bytes]] = {}

# Nobody has to warm it: without, every process begins with its imports.
spare = Spare()


def command(run: Run, *, resume: bool = False) -> list[str]:
    """The command that trains a run."""
    training = [sys.executable, "-m", "tuner.training", str(run.dir.resolve())]
    return [*training, "--resume"] if resume else training


def warm_spare() -> None:
    """Have a process ready for the next run that is started here; `spare.close()` ends it."""
    spare.warm([sys.executable, "-m", "tuner.training", "--spare"], _environment())


def start(run: Run, *, resume: bool = False) -> int:
    """Start a run's process and record it.

    Args:
        resume: Go on from the last checkpoint.

    Returns:
        The pid.

    Raises:
        RunError: The run was started before (or, to be resumed, was not), is at work, or the
            process cannot be started.
    """
    with locked(run.dir):  # two who start it at once: the second finds it preparing
        require_startable(run, resume)
        process = _spawn(run, resume)
        # Its first update of the status waits for this lock, so that the pid is always there.
        _record_start(run, process, resume)
    _children[process.pid] = process
    threading.Thread(target=_reap, args=(run, process), daemon=True).start()
    return process.pid


def wait(
    run: Run,
    on_event: Callable[[Event], None] | None = None,
    poll_seconds: float = 0.2,
    *,
    offset: int = 0,
) -> Status:
    """Follow a run until its process ends.

    Args:
        on_event: Called for every event, in order.
        offset: Where in events.jsonl to begin; 0 tells earlier sessions of a resumed run again.

    Returns:
        Its last status. A run that nobody started returns at once.
    """
    while True:
        # Asked before reading: what a process wrote before it went is then read as well.
        alive = run.is_process_alive()
        if not alive:
            _settle(run)
        events, offset = run.events(offset)
        if on_event:
            for event in events:
                on_event(event)
        if not alive:
            return run.status()
        time.sleep(poll_seconds)


def stop(run: Run, grace_seconds: float = GRACE_SECONDS) -> Status:
    """Ask a run to finish its step, save and end; kill it when it does not.

    A run that waits in line leaves it.

    Args:
        grace_seconds: How long it may take.

    Raises:
        RunError: It is neither at work nor in line.
    """
    if is_in_line(run.status()) and _left(run):
        return run.status()
    state = run.status()["state"]
    if state not in LIVE_STATES:
        raise RunError(f"Run {run.id} is {state}: there is nothing to stop.")
    run.update_status(stop_asked=time.time())
    _signal(run, signal.SIGTERM)
    if not _is_gone_within(run, grace_seconds):
        if run.status()["state"] in LIVE_STATES:  # else it has its last word, and hangs after it
            run.update_status(reason=f"It did not stop within {grace_seconds:g} s and was killed.")
        _signal(run, signal.SIGKILL)
        _is_gone_within(run, KILL_SECONDS)
    _settle(run)
    return run.status()


def leave(run: Run) -> None:
    """Take a run out of line; it is stopped then, with what a resume would find.

    Raises:
        RunError: It is not in line: it was never put there, or has begun meanwhile.
    """
    if not _left(run):
        raise RunError(f"Run {run.id} is {run.status()['state']}: it does not wait in line.")


def resume(run: Run) -> int:
    """Start a run again at its last checkpoint.

    Returns:
        The pid.

    Raises:
        RunError: It completed, is at work, was never started, or has no checkpoint.
    """
    return start(run, resume=True)


def require_startable(run: Run, resume: bool) -> None:
    """Refuse to start a run, or to put it in line for that, where it cannot be.

    Raises:
        RunError: See `start` and `resume`; or nothing can be trained on this machine.
    """
    if refused := training_refused():
        raise RunError(refused)
    status = run.status()
    state, begun = status["state"], status["state"] != "queued" or status["waiting_to"] == "resume"
    if state in LIVE_STATES:
        raise RunError(f"Run {run.id} is {state} already.")
    if run.is_process_alive():
        raise RunError(f"Run {run.id} is {state}, and its process is about to end. Try again.")
    if resume:
        _require_resumable(run, state, begun)
    elif begun:
        raise RunError(
            f"Run {run.id} is {state}, and a run is started once. Resume it, or begin a new one: "
            f"`{run.train_again()}`."
        )


def _require_resumable(run: Run, state: str, begun: bool) -> None:
    if state == "completed":
        raise RunError(f"Run {run.id} completed; there is nothing to resume.")
    if not begun:
        raise RunError(f"Run {run.id} has not begun; start it.")
    if not run.last_checkpoint():
        raise RunError(f"Run {run.id} cannot be resumed. {run.what_is_left()}")


def _left(run: Run) -> bool:
    """Take a run out of line; False where it does not stand in it."""
    # The line's lock, then the run's, as who moves the line takes them: it cannot start meanwhile.
    with locked(run.dir.absolute().parent), locked(run.dir):
        status = read_status(run.status_path)
        if not is_in_line(status):
            return False
        waited_to_resume = status["waiting_to"] == "resume"
        left = run.what_is_left() if waited_to_resume else f"Start again: `{run.train_again()}`."
        record(run, Status(state="stopped", reason=f"Cancelled while it waited in line. {left}"))
        return True


def record(run: Run, changes: Status) -> None:
    """Change the state of a run without a process, and tell its readers; `run.dir` is locked.

    Raises:
        OSError: The disk is full; nothing changed, or the event alone is missing.
    """
    write_status(run.status_path, changed(read_status(run.status_path), changes))
    with EventWriter(run.events_path) as events:
        events.write("state", state=changes["state"], reason=changes["reason"])


def _spawn(run: Run, resume: bool) -> subprocess.Popen[bytes]:
    task, environment = Task(str(run.dir.resolve()), resume), _environment()
    try:
        with open(run.log_path, "ab") as log:
            return spare.take(task, log.fileno(), environment) or subprocess.Popen(
                command(run, resume=resume),
                stdin=subprocess.DEVNULL,
                stdout=log,  # a file: a pipe that nobody reads would stop the training
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # closing the terminal or Ctrl-C there is not for it
            )
    except OSError as error:
        raise RunError(f"Run {run.id} cannot be started: {error.strerror}.") from None


def _environment() -> dict[str, str]:
    """Ours, with defaults, and with tuner importable from whatever folder we are in."""
    paths = [str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **TRAINING_ENVIRONMENT,
        **ENVIRONMENT,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _record_start(run: Run, process: subprocess.Popen[bytes], resume: bool) -> None:
    began, checkpoint = birth(process.pid), run.last_checkpoint() if resume else None
    changes = Status(
        state="preparing",
        reason="",
        pid=process.pid,
        pid_started=began.started,
        pid_started_after_boot=began.after_boot,
        started=time.time(),
        resumed_from=checkpoint[0] if checkpoint else None,
        stop_asked=None,
        exit_code=None,
    )
    try:
        write_status(run.status_path, changed(read_status(run.status_path), changes))
    except OSError as error:
        process.kill()  # nobody would find it again
        process.wait()
        raise RunError(f"Run {run.id} cannot be started: {error.strerror}.") from None


def _reap(run: Run, process: subprocess.Popen[bytes]) -> None:
    """Wait for a child, so that no zombie stays, and record its end."""
    process.wait()
    with suppress(OSError, RunError):  # the run was deleted meanwhile
        _settle(run)
    _children.pop(process.pid, None)


def _settle(run: Run) -> None:
    """Record how a process ended that did not do so itself, if it did end and we know how."""
    with locked(run.dir):
        status = read_status(run.status_path)
        if status["state"] not in LIVE_STATES or run.is_process_alive():
            return
        child = _children.get(status["pid"] or 0)
        code = child.wait() if child else None
        if (ending := _ending(run, status, code)) is None:
            return  # reads as interrupted; its parent may know better
        state, reason = ending
        with suppress(OSError):  # a full disk: reads as interrupted, too
            record(run, Status(state=state, reason=reason, exit_code=code))


def _ending(run: Run, status: Status, code: int | None) -> tuple[str, str] | None:
    """The state and the reason for a process that is gone; None when they can't be known."""
    left = run.what_is_left()
    if status["stop_asked"]:
        return "stopped", f"{status['reason'] or 'It ended at once, without saving.'} {left}"
    if code is None:
        return None
    if code < 0 and -code not in CRASHES:
        hint = ", often for lack of memory" if -code == signal.SIGKILL else ""
        return "interrupted", f"The training process was killed ({_name(-code)}{hint}). {left}"
    how = f"crashed ({_name(-code)})" if code < 0 else f"ended with exit code {code}"
    return "failed", f"The training process {how}. {_log_tail(run)}"


def _name(number: int) -> str:
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")


def _log_tail(run: Run) -> str:
    """The last words of train.log, where the reason usually stands."""
    with open(run.log_path, "rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        text = redact(log.read().decode("utf-8", errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    tail = "\n".join(lines[-LOG_TAIL_LINES:])[-LOG_TAIL_CHARACTERS:]
    return f"train.log ends with:\n{tail}" if tail else "It left nothing in train.log."


def _signal(run: Run, number: signal.Signals) -> None:
    """Send a signal to the process; a kill also reaches what it started."""
    pid = read_status(run.status_path)["pid"]
    if pid is None or not run.is_process_alive():
        return
    with suppress(ProcessLookupError):  # it went in this very moment
        if number == signal.SIGKILL and os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def _is_gone_within(run: Run, seconds: float) -> bool:
    # Not psutil's wait(): for a child of ours it would take the exit code away from Popen.
    until = time.monotonic() + seconds
    while run.is_process_alive():
        if time.monotonic() >= until:
            return False
        time.sleep(GONE_POLL_SECONDS)
    return True
