"""
Follow a run in the foreground, from its start to its summary.

The run is a process of its own. Ctrl-C here asks it to stop, once, and it keeps its adapter;
a second Ctrl-C leaves it alone with that.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tuner.cli.answers import BAD_INPUT, DONE, FAILED, STOPPED, Answer
from tuner.cli.progress import Progress
from tuner.cli.summary import result_text
from tuner.runs import launch
from tuner.runs.run import Run
from tuner.runs.status import LIVE_STATES, Status

EXIT_CODES = {"completed": DONE, "stopped": STOPPED}


def follow(run: Run, begin: Callable[[], Any]) -> Answer:
    """Begin a run, show its progress on stderr and return how it ended.

    Args:
        begin: Starts or resumes the run's process.
    """
    progress = Progress(sys.stderr)
    _, offset = run.events()  # what an earlier session told is not told again
    with _terminate_as_interrupt():
        try:
            begin()
            status = launch.wait(run, progress, offset=offset)
        except KeyboardInterrupt:
            status = _stop(run, progress)
        finally:
            progress.close()
    return _answer(run, status)


def _stop(run: Run, progress: Progress) -> Status:
    state = run.status()["state"]
    if state not in LIVE_STATES:
        return run.status()
    running = "Stopping after this step; the adapter is kept."
    progress.say(running if state == "running" else "Stopping before training begins.")
    return launch.stop(run)


def _answer(run: Run, status: Status) -> Answer:
    state, reason, result = status["state"], status["reason"], run.result()
    document = {"run": run.id, "dir": str(run.dir.resolve()), "state": state, "result": result}
    if state in EXIT_CODES:
        return Answer(document, result_text(run, state, reason), EXIT_CODES[state])
    problems = reason.splitlines() or [f"The run {state}."]
    if status["exit_code"] == BAD_INPUT:
        told = {"error": reason, "problems": problems}
        return Answer(told, exit_code=BAD_INPUT, problems=tuple(problems))
    log = f"Its log is {run.log_path}."
    return Answer(document | {"error": reason}, exit_code=FAILED, problems=(*problems, log))


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM to this process stop the run as Ctrl-C does, instead of leaving it behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
