"""
What is said between a warm training process and who keeps it, over a socket pair:

    give(channel, task, log)         the keeper: "train this run", with its log as an open file
    receive(channel)                 the process: waits for that; None when the keeper is gone
    confirm(channel)                 the process: "I have it", once it writes to that log

A task is said in one line of JSON. Nothing else is ever sent, and no more than one task.
"""

import json
import socket
from contextlib import suppress
from typing import NamedTuple

CONFIRMED = b"+"
PATIENCE_SECONDS = 2.0  # less than who waits for the run's lock has
LINE_BYTES = 65536


class Task(NamedTuple):
    """A run to train.

    Attributes:
        run_dir: Its absolute folder.
        resume: From its last checkpoint.
    """

    run_dir: str
    resume: bool


def give(channel: socket.socket, task: Task, log: int) -> bool:
    """Hand a task and the file of its log over; False where nobody confirms it in time."""
    line = json.dumps(task._asdict()).encode() + b"\n"
    try:
        channel.settimeout(PATIENCE_SECONDS)
        socket.send_fds(channel, [line], [log])
        return channel.recv(len(CONFIRMED)) == CONFIRMED
    except OSError:  # it died, or hangs
        return False


def receive(channel: socket.socket) -> tuple[Task, int] | None:
    """Wait for a task; with the descriptor of its log."""
    line: bytes = b""
    logs: list[int] = []
    while not line.endswith(b"\n"):
        more, descriptors, _, _ = socket.recv_fds(channel, LINE_BYTES, 1)
        if not more:
            return None
        line += more
        logs.extend(descriptors)
    return Task(**json.loads(line)), logs[0]


def confirm(channel: socket.socket) -> None:
    """Say that the task is in hand."""
    with suppress(OSError):  # the keeper is gone since: its run is trained all the same
        channel.sendall(CONFIRMED)
