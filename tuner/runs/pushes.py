"""
What became of the copies on the Hub that `push_every_save` asks for: pushes.jsonl, a line each.

    record_push(run, "failed", "anna/bot", 40, "The Hub is out of order (503).")
    read_pushes(run)

A file of its own, because events.jsonl has one writer, the training, and pushes go on without it.
Whoever writes here holds its lock while it lives (hub/saves.py), which is how others see it.
"""

import fcntl
import json
import time
from pathlib import Path
from typing import Any, Literal, TypedDict

from tuner.runs.plain import plain
from tuner.runs.run import Run

PUSHES = "pushes.jsonl"
KINDS = ("pushed", "failed")


class PushRecord(TypedDict):
    """One push, or why there was none.

    Attributes:
        time: Unix seconds.
        repo: user/name.
        step: Of the newest checkpoint in it; None where there was none to push.
        message: A sentence for the person.
    """

    time: float
    kind: Literal["pushed", "failed"]
    repo: str
    step: int | None
    message: str


def pushes_path(run: Run) -> Path:
    """Where the records of a run are."""
    return run.dir / PUSHES


def record_push(
    run: Run, kind: Literal["pushed", "failed"], repo: str, step: int | None, message: str
) -> None:
    """Append one record. Secrets in it are replaced.

    Raises:
        OSError: The disk is full, or the run is gone.
    """
    record = PushRecord(time=time.time(), kind=kind, repo=repo, step=step, message=message)
    line = json.dumps(plain(record), ensure_ascii=False)
    with open(pushes_path(run), "ab", buffering=0) as file:
        file.write(line.encode("utf-8", errors="replace") + b"\n")


def read_pushes(run: Run) -> list[PushRecord]:
    """All records in order; a line that is none, or half of one, is skipped."""
    try:
        lines = pushes_path(run).read_bytes().split(b"\n")
    except OSError:
        return []
    return [record for line in lines[:-1] if (record := _record(line)) is not None]


def last_push(run: Run) -> tuple[PushRecord | None, PushRecord | None]:
    """The last copy that arrived, and the failure since then, where there is one."""
    arrived = failed = None
    for record in read_pushes(run):
        if record["kind"] == "pushed":
            arrived, failed = record, None
        else:
            failed = record
    return arrived, failed


def is_being_pushed(run: Run) -> bool:
    """Whether somebody is there who copies this run."""
    try:
        with open(pushes_path(run), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no file yet; or a mounted bucket without locks, which cannot tell
        return False
    return False


def _record(line: bytes) -> PushRecord | None:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("kind") not in KINDS:
        return None
    sound = (
        isinstance(value.get("time"), (int, float))
        and isinstance(value.get("repo"), str)
        and isinstance(value.get("step"), (int, type(None)))
        and isinstance(value.get("message"), str)
    )
    return value if sound else None  # type: ignore[return-value]
