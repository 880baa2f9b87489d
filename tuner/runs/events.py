"""
What a run tells while it trains: events.jsonl, one JSON object a line, only ever appended to.

    with EventWriter(run.events_path) as events:
        events.write("metric", step=1, loss=2.31, ...)

    events, offset = read_events(run.events_path)          # all so far
    events, offset = read_events(run.events_path, offset)  # what came since

One process writes, any number read, without locks: a line counts once its newline is there. A
resumed run goes on in the same file; current_history leaves out what the resume did over again.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NotRequired, Self, TypedDict

from tuner.runs.plain import plain


class LogEvent(TypedDict):
    """A line of the run's story: what it does now."""

    seq: int
    time: float
    kind: Literal["log"]
    message: str


class MetricEvent(TypedDict):
    """A point of the training curves. A figure that is not a finite number is None.

    Attributes:
        epoch: Passes over the data so far, with a fraction.
        memory_bytes: What the run takes now, beyond its process without a model.
        eta_seconds: Until the last step, at the speed so far.
    """

    seq: int
    time: float
    kind: Literal["metric"]
    step: int
    max_steps: int
    epoch: float | None
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_second: float | None
    memory_bytes: int | None
    eta_seconds: float | None


class EvalEvent(TypedDict):
    """A point of the held-out curve; step 0 is the base. `seconds` is what it took."""

    seq: int
    time: float
    kind: Literal["eval"]
    step: int
    eval_loss: float | None
    seconds: NotRequired[float]


class SampleEvent(TypedDict):
    """What the model answered to the recipe's prompt number `index`.

    Attributes:
        seconds: Its share of what all answers of that step took together.
    """

    seq: int
    time: float
    kind: Literal["sample"]
    step: int
    index: int
    prompt: str
    text: str
    seconds: NotRequired[float]


class CheckpointEvent(TypedDict):
    """A checkpoint is complete; `path` is relative to the run's folder, `seconds` what it took."""

    seq: int
    time: float
    kind: Literal["checkpoint"]
    step: int
    path: str
    seconds: NotRequired[float]


class StateEvent(TypedDict):
    """The run's state changed. `resumed_from` is there where training went back to that step."""

    seq: int
    time: float
    kind: Literal["state"]
    state: str
    reason: str
    resumed_from: NotRequired[int]


class WarningEvent(TypedDict):
    """Something the person should know; the run goes on."""

    seq: int
    time: float
    kind: Literal["warning"]
    message: str


class ProgressEvent(TypedDict):
    """How far long work before training is; about one a second, and a last one.

    Attributes:
        what: The work, without an end: "Downloading Qwen/Qwen3-0.6B".
        total: What `done` will be at the end; None while that is not known.
    """

    seq: int
    time: float
    kind: Literal["progress"]
    what: str
    done: int
    total: int | None
    unit: Literal["bytes", "rows"]


Event = (
    LogEvent
    | MetricEvent
    | EvalEvent
    | SampleEvent
    | CheckpointEvent
    | StateEvent
    | WarningEvent
    | ProgressEvent
)


class EventWriter:
    """Appends a run's events. One writer a run: it takes the end of the file for its own.

    Opening removes the torn line that a killed process may have left, and continues its numbers.
    """

    def __init__(self, path: Path):
        self._lock = threading.Lock()
        events, end = read_events(path)
        self._seq = max((event["seq"] for event in events), default=0)
        # Unbuffered: a line goes to the system at once and whole, or write() fails.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        self._file.truncate(end)

    def write(self, kind: str, **fields: Any) -> Event:
        """Append one event and return it as a reader will see it.

        Args:
            kind: log, metric, eval, sample, checkpoint, state, warning or progress.
            fields: What the kind's TypedDict names. Secrets in text are replaced.

        Raises:
            OSError: The disk is full. Nothing was written; the file is still sound.
        """
        with self._lock:
            head = {"seq": self._seq + 1, "time": time.time(), "kind": kind}
            event = {**head, **plain(fields)}
            self._append(json.dumps(event, ensure_ascii=False, allow_nan=False))
            self._seq += 1
        return event  # type: ignore[return-value]

    def resume(self, step: int) -> Event:
        """Mark that training continues at the checkpoint of `step`.

        What came after that step stays in the file; current_history leaves it out.
        """
        reason = f"Resumed at step {step}."
        return self.write("state", state="running", reason=reason, resumed_from=step)

    def close(self) -> None:
        """Let go of the file. Everything is written already."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, line: str) -> None:
        # "replace": half a character from a byte-level tokenizer must not end the run.
        data = line.encode("utf-8", errors="replace") + b"\n"
        written = self._file.write(data)
        if written != len(data):  # a disk takes what fits
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Read the events after a byte offset.

    Args:
        path: A run's events.jsonl; it need not exist yet.
        offset: 0, or what the last call returned.

    Returns:
        The events, and the offset to go on from. A half-written last line is left for the next
        call; a line that is no event is skipped.
    """
    try:
        with open(path, "rb") as file:
            # Beyond the end: another file by now, read from its beginning.
            begin = offset if 0 <= offset <= os.fstat(file.fileno()).st_size else 0
            file.seek(begin)
            data = file.read()
    except FileNotFoundError:
        return [], 0
    complete = data[: data.rfind(b"\n") + 1]
    events = [event for line in complete.split(b"\n") if (event := _event(line)) is not None]
    return events, begin + len(complete)


def current_history(events: Iterable[Event]) -> list[Event]:
    """Drop what a resume did over again, so that curves continue without a zigzag.

    Args:
        events: Of one run, from its first event on.

    Returns:
        Them, without those of a step after N that stand before a resume at N.
    """
    history: list[Event] = []
    for event in events:
        if event["kind"] == "state" and "resumed_from" in event:
            step = event["resumed_from"]
            history = [earlier for earlier in history if _step(earlier) <= step]
        history.append(event)
    return history


def _step(event: Event) -> int:
    """The step an event is about; -1 for those that are about none and always stay."""
    if event["kind"] == "log" or event["kind"] == "state" or event["kind"] == "warning":
        return -1
    if event["kind"] == "progress":
        return -1
    return event.get("step", -1)  # a newer version's kind may be about none either


def _event(line: bytes) -> Event | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # a disk that lost power leaves zeros, or anything
        return None
    if not isinstance(value, dict) or not isinstance(value.get("seq"), int):
        return None
    sound = isinstance(value.get("time"), (int, float)) and isinstance(value.get("kind"), str)
    return value if sound else None  # type: ignore[return-value]
