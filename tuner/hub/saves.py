"""
Copy a run to the Hub at every save, in a process of its own, so that a lost disk loses nothing.

    saver = start_saver(run, token)     python -m tuner.hub.saves RUN_DIR FD, detached

The recipe asks for it with `push_every_save` and names the repo with `hub_model_id`: a private one
of this run alone, in which run/ is what pull.py brings back (run_copy.py) and, once an adapter is
kept, the root is what publish.py would push. Called when a run is started or put in line; it waits,
so the token of whoever asked is in its environment only. It ends with the run.

The training knows nothing of it. A copy that fails is a line in pushes.jsonl and is tried again at
the next save; the last one a few times. What it prints itself goes to push.log.
Not covered: who may push what (see ui/saves.py), and going on after a restart of the machine:
nobody kept the token, so whoever resumes the run brings one.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tuner.errors import RunError, TunerError
from tuner.hub.own_repo import own_target
from tuner.hub.push import REPLACED, child_environment, push_folder
from tuner.hub.run_copy import FOLDER, copy_run
from tuner.hub.target import Target
from tuner.runs.pushes import pushes_path, record_push
from tuner.runs.redact import redact
from tuner.runs.run import Run
from tuner.runs.status import ENDED_STATES, LIVE_STATES, is_in_line, read_status

POLL_SECONDS = 1.0
LAST_WAITS = (10.0, 60.0, 180.0)  # seconds before the last copy is tried again
LOG = "push.log"
NICENESS = 10  # hashing a copy must not slow the training
GAVE_UP = 3


def start_saver(run: Run, token: str | None) -> "subprocess.Popen[bytes] | None":
    """Start the process that copies a run, if its recipe wants that; see own_repo.require_saves.

    What goes wrong here is told in pushes.jsonl: the run itself is on its way.
    """
    recipe = run.recipe()
    if not recipe.push_every_save or not recipe.hub_model_id:
        return None
    try:
        if not token:
            raise OSError(0, "nobody is signed in; resume the run when you are")
        process = _spawn(run, token)
    except OSError as error:
        with suppress(OSError):
            said = f"No copies are pushed: {error.strerror}."
            record_push(run, "failed", recipe.hub_model_id, None, said)
        return None
    threading.Thread(target=process.wait, daemon=True).start()  # so that no zombie stays
    return process


def _spawn(run: Run, token: str) -> "subprocess.Popen[bytes]":
    with open(run.dir / LOG, "ab") as log, open(pushes_path(run), "ab") as held:
        with suppress(OSError):  # another saver is at its end: the new one waits for that
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return subprocess.Popen(
            [sys.executable, "-m", "tuner.hub.saves", str(run.dir.resolve()), str(held.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(token),
            pass_fds=(held.fileno(),),  # with its lock: from now on the run is being copied
            start_new_session=True,  # it outlives the terminal and the page, as the run does
        )


class Gone(Exception):
    """The run was deleted: nobody wants its copy any more."""


class Saver:
    """Copies one run until it ends.

    Args:
        token: Of who pushes.
        last_waits: Seconds before each new try of the last copy.
    """

    def __init__(self, run: Run, token: str, last_waits: Sequence[float] = LAST_WAITS):
        self.run, self.token, self.last_waits = run, token, last_waits
        self.recipe = run.recipe()
        self.repo = self.recipe.hub_model_id or ""
        self._target: Target | None = None
        self._tried: int | None = None

    def follow(self) -> None:
        """Push each new checkpoint, and at last what the run came to.

        Raises:
            Gone: The run was deleted.
        """
        while (state := self._state()) != "over":
            step = self._step()
            if state == "training" and step is not None and step != self._tried:
                self._tried = step
                self._push()
                continue  # a push takes a while: look again at once
            time.sleep(POLL_SECONDS)
        if self._step() is not None or self.run.adapter_dir.is_dir():
            self._push_last()

    def _push_last(self) -> None:
        for wait in self.last_waits:
            if self._push():
                return
            time.sleep(wait)
        self._push()

    def _state(self) -> str:
        """`waiting`, `training`, or `over`: nothing more will come."""
        try:
            status, alive = self.run.status(), self.run.is_process_alive()
        except RunError:
            raise Gone from None
        if status["state"] in LIVE_STATES:
            return "training"
        if status["state"] in ENDED_STATES:
            return "waiting" if alive else "over"
        return "waiting" if is_in_line(status) else "over"  # else nobody is about to start it

    def _step(self) -> int | None:
        last = self.run.last_checkpoint()
        return last[0] if last else None

    def _push(self) -> bool:
        """Push the run as it stands; whether that worked is told in pushes.jsonl."""
        step = self._step()
        try:
            step = self._push_copy()
            kind, said = "pushed", f"The copy in {self.repo} is of {_what(step)}."
        except TunerError as error:
            kind, said = "failed", " ".join(error.problems)
        except OSError as error:
            kind, said = "failed", f"The run cannot be copied: {error.strerror or error}."
        self._require_run()
        with suppress(OSError):  # a full disk; the copy is on the Hub nevertheless
            record_push(self.run, kind, self.repo, step, said.replace(self.token, "[token]"))  # type: ignore[arg-type]
        return kind == "pushed"

    def _push_copy(self) -> int | None:
        with tempfile.TemporaryDirectory(prefix=_aside(self.run), dir=self.run.dir.parent) as aside:
            folder = Path(aside) / "files"
            folder.mkdir()
            self._write_root(folder)
            step = copy_run(self.run, folder, self.repo)
            if self._target is None:
                created = read_status(self.run.status_path)["created"]
                self._target = own_target(self.recipe, self.token, created)
            message = f"Run {self.run.id} at {_what(step)}"
            pushing = push_folder(
                folder, self._target, self.token, message, replaces=(*REPLACED, f"{FOLDER}/")
            )
            with closing(pushing) as messages:
                for _ in messages:
                    self._require_run()
        return step

    def _write_root(self, folder: Path) -> None:
        """What loads without Tuner, once there is something; its absence stops no copy."""
        if not self.run.adapter_dir.is_dir():
            return
        from tuner.hub.bundle import write_bundle

        try:
            write_bundle(self.run, folder, self.repo)
        except (TunerError, OSError) as error:
            print(f"The card could not be written: {error}", flush=True)

    def _require_run(self) -> None:
        if not self.run.status_path.exists():
            raise Gone


def _what(step: int | None) -> str:
    """
    >>> _what(1200), _what(None)
    ('step 1,200', 'its end')
    """
    return "its end" if step is None else f"step {step:,}"


def _aside(run: Run) -> str:
    return f".push-{run.id}-"


@contextmanager
def alone(run: Run, descriptor: int) -> Iterator[None]:
    """Wait until nobody else copies this run, and keep others out.

    A saver may still push the end of a run that was stopped when it is resumed.

    Args:
        descriptor: Of pushes.jsonl, whose lock may be held with it already.
    """
    with open(descriptor, "ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not run.status_path.exists():
                    raise Gone from None
                time.sleep(POLL_SECONDS)
            except OSError:  # a mounted bucket without locks
                break
        for leftover in run.dir.parent.glob(f"{_aside(run)}*"):  # of one that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def main(arguments: Sequence[str]) -> int:
    """Copy the run named on the command line, holding the file whose descriptor is named there.

    Returns:
        The exit code: 0 its end was reached, 1 a mistake in the program.
    """
    signal.signal(signal.SIGTERM, _give_up)
    os.nice(NICENESS)
    run, token = Run(Path(arguments[0])), os.environ["HF_TOKEN"]
    try:
        with alone(run, int(arguments[1])):
            Saver(run, token).follow()
    except (Gone, FileNotFoundError):
        return 0
    except Exception:  # noqa: BLE001 (the run goes on; its log says what happened here)
        print(redact(traceback.format_exc()).replace(token, "[token]"), flush=True)
        with suppress(OSError, TunerError):
            said = f"The copying ended unexpectedly; {LOG} has the whole story."
            record_push(run, "failed", run.recipe().hub_model_id or "", None, said)
        return 1
    return 0


def _give_up(*_: object) -> None:
    raise SystemExit(GAVE_UP)  # ends a push on the way out; the Hub has all of it, or nothing


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
