"""
A run's story: events.jsonl, one JSON object a line, only ever appended to.

Readers keep a byte offset and ask for what came after it. A torn last line (a killed writer, a
reader in mid-write) is left for the next read, and repaired by the next writer.
"""

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from tuner.runs.redact import redact

Kind = Literal["log", "metric", "eval", "sample", "checkpoint", "state", "warning", "resume"]


class Event(TypedDict, total=False):
    """seq, time (Unix seconds) and kind are always there; the rest by kind.

    log, warning {message} · state {state, reason} · checkpoint {step, path} · resume {step}
    metric {step, max_steps, epoch, loss, learning_rate, grad_norm, tokens_per_second,
    memory_bytes, eta_seconds} · eval {step, eval_loss} · sample {step, index, prompt, text}
    """

    seq: int
    time: float
    kind: Kind
    message: str
    state: str
    reason: str
    path: str
    prompt: str
    text: str
    index: int
    step: int
    max_steps: int
    epoch: float | None
    loss: float | None
    eval_loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_second: float | None
    memory_bytes: int
    eta_seconds: float | None


class EventWriter:
    """Appends events to one file; numbers go on where an earlier writer stopped."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        _drop_torn_line(path)
        self._seq = _last_seq(path)

    def write(self, kind: Kind, **fields: Any) -> Event:
        """Append one event; NaN and infinity become null, tokens and keys in text are blanked."""
        with self._lock:
            self._seq += 1
            event = {
                "seq": self._seq,
                "time": round(time.time(), 3),
                "kind": kind,
                **_plain(fields),
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event, ensure_ascii=False) + "\n")
        return event  # type: ignore[return-value]

    def resume(self, step: int) -> None:
        """Mark that training goes on from `step`: what was told of later steps no longer holds."""
        self.write("resume", step=step)


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Read the events after a byte offset.

    Returns:
        The events, and the offset to go on from. A half-written last line is not part of either.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    events = [event for line in whole.splitlines() if (event := _parse(line)) is not None]
    return events, offset + len(whole)


def current_history(events: Sequence[Event]) -> list[Event]:
    """Leave out what a resume took back, so that curves go on without a zigzag.

    >>> current_history([{"kind": "metric", "step": 5}, {"kind": "resume", "step": 4}])
    [{'kind': 'resume', 'step': 4}]
    """
    kept: list[Event] = []
    for event in events:
        if event["kind"] == "resume":
            kept = [e for e in kept if e.get("step", 0) <= event["step"]]
        kept.append(event)
    return kept


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # one damaged line does not hide the others
    return event if isinstance(event, dict) and "kind" in event else None  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def _last_seq(path: Path) -> int:
    events, _ = read_events(path)
    return max((event.get("seq", 0) for event in events), default=0)
