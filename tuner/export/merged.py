"""
Merged weights of a run, written by a process of their own (merge/) that can be killed.

    for message in merge_run(run, Path("support-bot-merged")):
        print(message["stage"], message["done_bytes"], "of", message["total_bytes"])

Nothing here imports torch: the page and the shell follow the process, which holds a whole model.
The folder is there when the last message is, and in every other case it is not.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import tuner
from tuner import errors
from tuner.device import TRAINING_ENVIRONMENT
from tuner.errors import ExportError, RunError, TunerError
from tuner.runs.store import Run

PROJECT_ROOT = Path(tuner.__file__).resolve().parents[1]
TELL_SECONDS = 1.0  # whoever follows is told at least so often, and can cancel then
KEPT_PIECES = 20  # of the child's stderr
STARTING = {
    "kind": "progress",
    "stage": "Starting to merge",  # until torch is imported
    "done_bytes": 0,
    "total_bytes": 0,
}


def merge_run(run: Run, out: Path) -> Generator[dict[str, Any], None, None]:
    """Write a run's model as 16-bit weights with a Modelfile. Closing the iterator cancels.

    Args:
        out: A folder that does not exist yet, in one that does.

    Yields:
        `progress` with stage, done_bytes and total_bytes, at least once a second; at last `merged`
        with the same keys, files, and the figures and notes of merge/steps.py.

    Raises:
        TunerError: The run has no weights, `out` exists, or why it failed; `out` is not there then.
    """
    _require(run, out)
    child = _Child(run, out)
    merged = False
    try:
        for message in child.messages():
            merged = message["kind"] == "merged"
            yield message
    finally:
        child.end()
        if not merged:
            for left in (half_written(out), out):
                shutil.rmtree(left, ignore_errors=True)


def half_written(out: Path) -> Path:
    """Where the folder is until it is complete."""
    return out.with_name(f"{out.name}.writing")


def _require(run: Run, out: Path) -> None:
    if not run.adapter_dir.is_dir() and not run.model_dir.is_dir():
        raise RunError(
            f"Run {run.id} has no trained weights to merge. Wait until it has completed, or choose "
            "another run."
        )
    if os.path.lexists(out):
        raise RunError(f"{out} exists, and is not overwritten. Choose another folder.")
    if not out.parent.is_dir():
        raise RunError(f"There is no folder {out.parent} to write to. Make it first.")


class _Child:
    """The process that merges, and what it says."""

    def __init__(self, run: Run, out: Path):
        command = [sys.executable, "-m", "tuner.export.merge", str(run.dir.resolve())]
        self.popen = subprocess.Popen(
            [*command, str(out.absolute()), "--until-stdin-ends"],
            stdin=subprocess.PIPE,  # open as long as this process lives, and the child with it
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is answered here, by ending it
        )
        self.said: queue.Queue[bytes | None] = queue.Queue()
        self.last_words: deque[str] = deque(maxlen=KEPT_PIECES)
        self.readers = [
            threading.Thread(target=read, daemon=True)
            for read in (self._read_answers, self._read_errors)
        ]
        for reader in self.readers:
            reader.start()

    def messages(self) -> Iterator[dict[str, Any]]:
        last = dict(STARTING)
        while True:
            yield last
            try:
                line = self.said.get(timeout=TELL_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                raise ExportError(self._ended())
            message = json.loads(line)
            if message["kind"] == "error":
                raise _error(message)
            if message["kind"] == "merged":
                yield message
                return
            last = message

    def end(self) -> None:
        """End it, whatever it does."""
        self.popen.kill()
        self.popen.wait()
        for reader in self.readers:
            reader.join()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe:
                pipe.close()

    def _read_answers(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self.said.put(line)
        self.said.put(None)

    def _read_errors(self) -> None:
        assert self.popen.stderr
        while piece := self.popen.stderr.read1():  # type: ignore[attr-defined]
            self.last_words.append(piece.decode(errors="replace"))

    def _ended(self) -> str:
        code = self.popen.wait()
        self.readers[1].join()
        how = f"exit code {code}"
        if code == -signal.SIGKILL:
            how = "killed, often for lack of memory"
        words = "".join(self.last_words).strip().splitlines() or [""]
        told = f": {words[-1].strip()[:200]}" if words[-1].strip() else ""
        return f"Merging ended unexpectedly ({how}){told}. Nothing was kept. Try again."


def _error(message: dict[str, Any]) -> TunerError:
    kind = getattr(errors, message["type"], ExportError)
    error: TunerError = kind(message["problems"])
    return error


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",  # a datasets.py in the folder we are in is not the library
        "TOKENIZERS_PARALLELISM": "true",
    }
    return {**os.environ, **TRAINING_ENVIRONMENT, **ours}
