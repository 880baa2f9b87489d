"""
The training process before it has a run:

    python -m tuner.training --spare

Its stdin is a socket of whoever keeps it (runs/spare.py), on which its run will come. A thread
listens there from the start, so that the run may come in the middle of the imports, and so that
the process ends with its keeper at any moment. Once it has its run, it is like a process that was
started for it: its output goes to the run's log, and the socket is gone. SIGTERM ends it, as it
ends any process that does not listen yet.
"""

import os
import socket
import threading
import time
from pathlib import Path

from tuner.runs.handover import Task, confirm, receive

STDIN, STDOUT, STDERR = 0, 1, 2


class Waiting:
    """Waits for this process's run.

    Attributes:
        told_at: When it came, Unix seconds; 0 until then.
    """

    def __init__(self) -> None:
        self.told_at = 0.0
        self._task: Task | None = None
        self._told = threading.Event()
        threading.Thread(target=self._listen, daemon=True, name="spare").start()

    def task(self) -> Task:
        """The run, as soon as there is one."""
        self._told.wait()
        assert self._task
        return self._task

    def _listen(self) -> None:
        with socket.socket(fileno=os.dup(STDIN)) as channel:
            received = receive(channel)
            if received is None:
                os._exit(0)  # the keeper is gone; nothing was begun
            self._task, log = received
            self.told_at = time.time()
            _write_to(log)
            confirm(channel)
        self._told.set()


def _write_to(log: int) -> None:
    """Take the file as stdout and stderr, and nothing as stdin."""
    os.dup2(log, STDOUT)
    os.dup2(log, STDERR)
    os.close(log)
    nothing = os.open(Path(os.devnull), os.O_RDONLY)
    os.dup2(nothing, STDIN)
    os.close(nothing)
