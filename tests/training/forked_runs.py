"""
Runs whose processes have their imports done, once for all tests of a worker:

    start(run)                       as launch.start; launch.wait, stop and the rest follow
    train_all([run, another])        one after the other, to their ends
    python(source, "argument")       any other program that takes what training takes

Each is a fork of one process that has imported what training takes, as the page's spare process has
(runs/spare.py), and is told there what to do. So the seconds of imports are paid once, and nothing
of one is left for the next. What a fresh process does is looked at in test_run.py, and what a spare
one does in test_spare.py.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace

import pytest

from tuner.runs import launch
from tuner.runs.handover import Task
from tuner.runs.store import Run

TRAINS = """
import sys
from tuner.training.__main__ import _end, main
_end(main(sys.argv[1:]))
"""
MESSAGE_BYTES = 65536
PATIENCE = 300.0  # seconds, for imports that take five
# Of the environment, what is read while a process begins or imports.
READ_ONCE = ("CUDA_", "GLIBC_", "GOMP_", "HF_", "OMP_", "PYTHON", "TUNER_")


def start(run: Run, *, resume: bool = False, source: str = TRAINS) -> int:
    """As launch.start, of a process that has its imports done.

    Args:
        source: What it executes then, with the arguments of a training process.
    """
    with pytest.MonkeyPatch.context() as patch:
        spare = SimpleNamespace(take=partial(_forks.take, source))
        patch.setattr(launch, "spare", spare)
        return launch.start(run, resume=resume)


def train_all(runs: Sequence[Run]) -> None:
    """Train them to their ends, whatever these are: each run's status tells."""
    for run in runs:
        start(run)
        launch.wait(run)


def python(source: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As `python -c source`, with the environment of a training process."""
    environment = launch._environment()
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        outputs = (out.fileno(), err.fileno())
        forked = _forks.fork(source, arguments, outputs, environment)
        code = forked.wait() if forked else _fresh(source, arguments, outputs, environment)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _fresh(
    source: str,
    arguments: Sequence[str],
    outputs: tuple[int, int],
    environment: Mapping[str, str],
) -> int:
    words, (out, err) = [sys.executable, "-c", source, *arguments], outputs
    return subprocess.run(words, stdout=out, stderr=err, env=environment, check=False).returncode


class Forked:
    """A fork as `launch` knows a process that it started."""

    def __init__(self, pid: int, end: int):
        self.pid = pid
        self._end, self._code, self._lock = end, b"", threading.Lock()

    def wait(self) -> int:
        with self._lock:  # who comes second finds what the first was told
            if not self._code:
                self._code = os.read(self._end, MESSAGE_BYTES)
                os.close(self._end)
        return int(self._code)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Forks:
    """The process that has its imports done, from the first time that it is asked for a fork."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        # As it is before any test: whichever comes first may have another.
        self._environment = _read_once(launch._environment())

    def take(
        self, source: str, task: Task, log: int, environment: Mapping[str, str]
    ) -> Forked | None:
        """What `launch` asks its spare process for."""
        arguments = [task.run_dir, *(["--resume"] if task.resume else [])]
        return self.fork(source, arguments, (log, log), environment)

    def fork(
        self,
        source: str,
        arguments: Sequence[str],
        outputs: tuple[int, int],
        environment: Mapping[str, str],
    ) -> Forked | None:
        """A process at work; None where the libraries would have been imported otherwise."""
        if _read_once(environment) != self._environment:
            return None
        if self._channel is None:
            self._channel = _imported(environment)
        end, its_end = os.pipe()
        told = [source, list(arguments), str(Path.cwd()), dict(environment)]
        words = json.dumps(told).encode()
        socket.send_fds(self._channel, [words], [*outputs, its_end])
        os.close(its_end)
        return Forked(int(self._channel.recv(MESSAGE_BYTES)), end)


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: environment[key] for key in environment if key.startswith(READ_ONCE)}


_forks = Forks()


def _imported(environment: Mapping[str, str]) -> socket.socket:
    """A process that imports, and forks whenever it is told what for; it ends with ours."""
    ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    with its:
        subprocess.Popen([sys.executable, "-m", __name__], stdin=its.fileno(), env=environment)
    return ours


def _serve(channel: socket.socket) -> None:
    """Fork for all that is told, and tell who asked for it how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of those who wait below, no zombie stays
    while True:
        words, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 3)
        if not words:
            return
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if pid := os.fork():
                _, status = os.waitpid(pid, 0)
                os.write(descriptors[-1], str(os.waitstatus_to_exitcode(status)).encode())
                os._exit(0)
            _execute(channel, descriptors, *json.loads(words))
        for descriptor in descriptors:
            os.close(descriptor)


def _execute(
    channel: socket.socket,
    outputs: list[int],
    source: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
) -> None:
    """Be like a process that was started for this."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    channel.send(str(os.getpid()).encode())
    channel.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, *outputs[:2])):
        os.dup2(descriptor, number)
    sys.argv[1:] = arguments
    exec(compile(source, "forked", "exec"), {"__name__": "__main__"})  # noqa: S102 (a test's)
    sys.exit()


if __name__ == "__main__":
    from tuner.training.libraries import import_for_any_run

    import_for_any_run()
    with socket.socket(fileno=os.dup(0)) as asked:
        _serve(asked)
