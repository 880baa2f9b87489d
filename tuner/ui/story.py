"""
A run's events.jsonl as the page keeps it: read once, then only what was appended.

    story = Story(run.events_path)
    story.catch_up()                             # a stat when nothing was appended
    story.tell(after=None)                       # all of it, long curves reduced
    story.tell(after=story.offset)               # what came since

It leaves out what a resume did over again, as events.current_history does, but keeps figures in
arrays instead of an event each. Not thread-safe; live.py has the lock.
"""

import os
import zlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypedDict, TypeGuard

import orjson

from tuner.ui.curves import MAX_STEP, Point, Series
from tuner.ui.words import page_words

CHUNK_BYTES = 256_000  # what a processor keeps near; 4 MB take a quarter longer
METRICS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes")
NOW = ("step", "max_steps", "epoch", *METRICS, "eta_seconds")
POINTS, FRESH = 2000, 200  # of a curve at most; of them, such as came after it was last reduced
HEAD_BYTES = 300
LOG_LINES, SAMPLES = 200, 400
NO_STEP = -1  # of lines that are about none: a resume leaves them


class Told(TypedDict):
    """A piece of the story, in the shape in which the browser gets it."""

    curves: dict[str, list[Point]]
    now: dict[str, Any] | None
    progress: dict[str, Any] | None
    samples: list[dict[str, Any]]
    log: list[dict[str, Any]]


class Line(NamedTuple):
    """A log line or a sample: where its line of the file ends, its step, and what is shown."""

    end: int
    step: int
    shown: dict[str, Any]


class Story:
    """What a file of events tells so far.

    Args:
        path: A run's events.jsonl; it need not exist yet.

    Attributes:
        offset: Bytes that were read and understood; a half-written last line is left.
        last_time: Of the last event, Unix seconds.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._head = b""
        self._beginnings = 0
        self._begin()

    def _begin(self) -> None:
        self._beginnings += 1
        self._head, self.offset, self._rewritten = b"", 0, 0
        self.metrics, self.evals = Series(METRICS), Series(["eval_loss"])
        self._base_samples: deque[Line] = deque(maxlen=SAMPLES)
        self._samples: deque[Line] = deque(maxlen=SAMPLES)
        self._log: deque[Line] = deque(maxlen=LOG_LINES)
        self._now: dict[str, Any] | None = None
        self._progress: dict[str, Any] | None = None
        self.last_time: float | None = None
        self._forget_reduced()

    @property
    def identity(self) -> str:
        """Changes when the file is another one than before, so that its bytes mean other lines."""
        return f"{zlib.crc32(self._head):x}-{self._beginnings}"

    def unread(self) -> int:
        """How many bytes the next catch_up will read, at a guess: all of a file that shrank."""
        stamp = stamp_of(self.path)
        if stamp is None or stamp == self._stamp:
            return 0
        return stamp[1] - self.offset if stamp[1] >= self.offset else stamp[1]

    def catch_up(self) -> None:
        """Read what was appended since the last time."""
        stamp = stamp_of(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            with open(self.path, "rb") as file:
                self._read_on(file)
        except FileNotFoundError:
            self._begin()

    def is_current(self, after: int) -> bool:
        """Whether a reader who knows the story up to byte `after` only needs what came since."""
        if not self._rewritten <= after <= self.offset:
            return False
        return len(self.metrics) - self.metrics.since(after) <= POINTS

    def tell(self, after: int | None = None) -> Told:
        """The story since byte `after`; all of it for None."""
        since = -1 if after is None else after
        lines = [*self._base_samples, *self._samples]
        return Told(
            curves=self._reduced() if after is None else self._curves_since(after),
            now=self._now,
            progress=self._progress,
            samples=[line.shown for line in lines if line.end > since],
            log=[line.shown for line in self._log if line.end > since],
        )

    def _read_on(self, file: BinaryIO) -> None:
        # Its first line, with its time, tells a file: a mounted bucket has no lasting inodes.
        head = file.readline(HEAD_BYTES)
        if not head.startswith(self._head) or os.fstat(file.fileno()).st_size < self.offset:
            self._begin()
        self._head = head
        file.seek(self.offset)
        torn = b""
        while chunk := file.read(CHUNK_BYTES):
            *lines, torn = (torn + chunk).split(b"\n")
            self._take_lines(lines)

    def _take_lines(self, lines: list[bytes]) -> None:
        metrics: list[dict[str, Any]] = []  # taken together, thousands at once
        ends: list[int] = []
        for line in lines:
            self.offset += len(line) + 1
            if (event := _event(line)) is None:
                continue
            if event["kind"] == "metric" and _is_step(event.get("step")):
                metrics.append(event)
                ends.append(self.offset)
            else:
                self._take_metrics(metrics, ends)
                self._take(event)
        self._take_metrics(metrics, ends)

    def _take_metrics(self, metrics: list[dict[str, Any]], ends: list[int]) -> None:
        if metrics:
            self.metrics.extend([event["step"] for event in metrics], ends, metrics)
            self._now = {name: metrics[-1].get(name) for name in NOW}
            self.last_time = metrics[-1]["time"]
            metrics.clear()
            ends.clear()

    def _take(self, event: dict[str, Any]) -> None:
        kind, step, self.last_time = event["kind"], event.get("step"), event["time"]
        if kind == "eval" and _is_step(step):
            self.evals.append(step, self.offset, event)
        elif kind == "sample" and _is_step(step):
            self._take_sample(event, step)
        elif kind == "progress":
            self._progress = {key: event.get(key) for key in ("what", "done", "total", "unit")}
        else:
            self._take_said(event)

    def _take_sample(self, event: dict[str, Any], step: int) -> None:
        shown = {key: event.get(key) for key in ("step", "index", "prompt", "text")}
        kept = self._samples if step else self._base_samples
        kept.append(Line(self.offset, step, shown))

    def _take_said(self, event: dict[str, Any]) -> None:
        """A line of the log: what was said, a checkpoint, a state and its reason."""
        kind, step, text, level = event["kind"], NO_STEP, event.get("message"), "info"
        if kind == "state":
            self._progress = None
            text, level = page_words(str(event.get("reason") or "")), _level(event.get("state"))
            if _is_step(resumed_from := event.get("resumed_from")):
                self._resume(resumed_from)
        elif kind == "checkpoint" and _is_step(event.get("step")):
            step, text = event["step"], f"Checkpoint of step {event['step']:,} saved."
        elif kind == "warning":
            level = "warning"
        if isinstance(text, str) and text:
            shown = {"time": event["time"], "level": level, "text": text}
            self._log.append(Line(self.offset, step, shown))

    def _resume(self, step: int) -> None:
        """Forget what came after the step at which training goes on."""
        self._rewritten = self.offset
        self.metrics.drop_after(step)
        self.evals.drop_after(step)
        for lines in (self._base_samples, self._samples, self._log):
            kept = [line for line in lines if line.step <= step]
            lines.clear()
            lines.extend(kept)
        if self._now and self._now["step"] > step:
            self._now = self._now_again()
        self._forget_reduced()

    def _now_again(self) -> dict[str, Any] | None:
        """The last point that stayed. What only its own line held is not known any more."""
        if not len(self.metrics):
            return None
        known = {name: self.metrics.last(name) for name in METRICS}
        return dict.fromkeys(NOW) | known | {"step": self.metrics.steps[-1]}

    def _curves_since(self, after: int) -> dict[str, list[Point]]:
        begin = self.metrics.since(after)
        curves = {name: self.metrics.points(name, begin) for name in METRICS}
        return curves | {"eval_loss": self.evals.points("eval_loss", self.evals.since(after))}

    def _forget_reduced(self) -> None:
        self._reduced_lines, self._reduced_curves = 0, dict[str, list[Point]]()

    def _reduced(self) -> dict[str, list[Point]]:
        """Every curve in POINTS at most; reduced anew only once FRESH lines were appended."""
        lines = len(self.metrics)
        if lines - self._reduced_lines > FRESH:
            limit = POINTS - FRESH
            self._reduced_curves = {name: self.metrics.reduced(name, limit) for name in METRICS}
            self._reduced_lines = lines
        older, newer = self._reduced_curves, self._reduced_lines
        curves = {name: older.get(name, []) + self.metrics.points(name, newer) for name in METRICS}
        return curves | {"eval_loss": self.evals.reduced("eval_loss", POINTS)}


def _event(line: bytes) -> dict[str, Any] | None:
    """What a line says, if it is an event as runs/events.py reads them."""
    if not line:
        return None
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:  # a disk that lost power leaves zeros, or anything
        return None
    return event if isinstance(event, dict) and _is_sound(event) else None


def _is_sound(event: Mapping[str, Any]) -> bool:
    return (
        type(event.get("seq")) is int
        and type(event.get("time")) in (float, int)
        and type(event.get("kind")) is str
    )


def _is_step(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < MAX_STEP


def _level(state: Any) -> str:
    if state == "failed":
        return "error"
    return "warning" if state == "interrupted" else "info"


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does: which one it is, its size and its time."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
