"""
One training process with its imports done, kept for the run that comes next:

    spare = Spare()
    spare.warm(command, environment)             begins the imports, and returns at once
    spare.take(task, log, environment)           that process, now at work on the run; or None
    spare.close()

It is what a fresh process would be, with the same environment and folder and a session of its own.
Where these have changed since, or it died or does not answer, `take` gives None and whoever asks
starts a fresh one: no run fails for a spare. Until it is given a run it ends with the process that
keeps it, however that ends, since the socket that is its stdin ends then (training/spare.py).
"""

import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.runs.handover import Task, give


@dataclass(frozen=True)
class Surroundings:
    """What a process has from its start, and keeps."""

    environment: Mapping[str, str]
    folder: Path | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Surroundings":
        """Those that a process would be started with now."""
        try:
            return cls(environment, Path.cwd())
        except FileNotFoundError:  # the folder was deleted under us
            return cls(environment, None)


@dataclass(frozen=True)
class Waiting:
    """A process that waits for its run."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    surroundings: Surroundings

    def end(self) -> None:
        """Let it go, and leave no zombie."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


class Spare:
    """At most one process that waits. Any thread may call.

    Attributes:
        broken: One died by itself, so another would: none is started any more.
    """

    def __init__(self) -> None:
        self.broken = False
        self._waiting: Waiting | None = None
        self._lock = threading.Lock()

    def is_waiting(self) -> bool:
        """Whether there is one, with its imports done or not."""
        with self._lock:
            if self._waiting and self._waiting.process.poll() is not None:
                self.broken = True
                self._let_go()
            return self._waiting is not None

    def warm(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start one, unless one waits already. That it cannot be started is nobody's failure."""
        if self.is_waiting() or self.broken:
            return
        with self._lock:
            if self._waiting is None:
                self._waiting = _started(command, environment)
                self.broken = self._waiting is None

    def take(
        self, task: Task, log: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | None:
        """Give it a run, and give it away.

        Args:
            log: An open file: its stdout and stderr from now on.
            environment: What a fresh process would be started with.

        Returns:
            Its process; None where there is none that is like a fresh one.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        alike = waiting.surroundings == Surroundings.of(environment)
        if alike and give(waiting.channel, task, log):
            waiting.channel.close()
            return waiting.process
        self.broken = self.broken or waiting.process.poll() is not None
        waiting.end()
        return None

    def close(self) -> None:
        """End the one that waits, if there is one."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._waiting:
            self._waiting.end()
            self._waiting = None


def _started(command: Sequence[str], environment: Mapping[str, str]) -> Waiting | None:
    ours, its = socket.socketpair()
    try:
        process = subprocess.Popen(
            command,
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError:
        ours.close()
        return None
    finally:
        its.close()
    return Waiting(process, ours, Surroundings.of(environment))
