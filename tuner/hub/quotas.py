"""
How much people may use of a page that is not theirs; owners are not counted.

    TUNER_TRAINING              owner (the default) or signed-in: who may train on its machine
    TUNER_MINUTES_PER_DAY       of training, for each who signed in; 30
    TUNER_MAX_ROWS              that one of their runs may train on; 2000
    TUNER_QUESTIONS_PER_MINUTE  for each visitor; who signed in may ask five times as many; 6
    TUNER_VISITOR_TOKENS        that a visitor's answer may have; 256

Questions are counted in memory, minutes in <runs>/.minutes.json: a run that is deleted or resumed
was paid for all the same. A day is one of UTC.
Not covered: how many wait in Gradio's queue, how large an upload is (tuner/ui/options.py).
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import ChatError, HubError, RunError, TunerError
from tuner.hub.identity import Person, Role
from tuner.runs.store import Run, RunStore

MINUTE = 60.0
MORE_FOR_SIGNED_IN = 5  # times a visitor's questions
ALL_VISITORS = 10  # times one visitor's questions, of all visitors together
MOST_IN_LINE = 3  # runs of one person that wait or are at work
LEDGER = ".minutes.json"
LOOK_SECONDS = 10.0
TRAINERS = ("owner", "signed-in")
AT_WORK = ("preparing", "running")


@dataclass(frozen=True)
class Limits:
    """What the environment says; see above."""

    training: str = "owner"
    minutes_per_day: int = 30
    max_rows: int = 2000
    questions_per_minute: int = 6
    visitor_tokens: int = 256

    def may_train(self, here: Person) -> bool:
        """Whether this person may use the machine for training at all."""
        signed_in = here.role is Role.SIGNED_IN and here.name is not None
        return here.role is Role.OWNER or (signed_in and self.training == "signed-in")


def read_limits() -> Limits:
    """The limits of the environment, over the defaults.

    Raises:
        HubError: Every variable that cannot be used.
    """
    problems: list[str] = []
    training = os.environ.get("TUNER_TRAINING", "").strip() or "owner"
    if training not in TRAINERS:
        problems.append(f"TUNER_TRAINING={training} is not known. Set owner or signed-in.")
    limits = Limits(
        training,
        _count("TUNER_MINUTES_PER_DAY", Limits.minutes_per_day, problems),
        _count("TUNER_MAX_ROWS", Limits.max_rows, problems),
        _count("TUNER_QUESTIONS_PER_MINUTE", Limits.questions_per_minute, problems),
        _count("TUNER_VISITOR_TOKENS", Limits.visitor_tokens, problems),
    )
    if problems:
        raise HubError(problems)
    return limits


class Questions:
    """Counts what was asked within the last minute. Thread-safe; the past is forgotten."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._asked: dict[str, deque[float]] = {}

    def count(self, here: Person, address: str, tokens: int) -> None:
        """Count one question, if it may be asked now.

        Args:
            address: Whence a visitor asks.
            tokens: Longest answer that is wanted.

        Raises:
            ChatError: It asks for too much, or comes too early.
        """
        if here.role is Role.OWNER:
            return
        most = self._limits.questions_per_minute
        if here.role is Role.SIGNED_IN:
            self._take([(f"name {here.name}", most * MORE_FOR_SIGNED_IN)])
            return
        if tokens > self._limits.visitor_tokens:
            raise ChatError(
                f"max_new_tokens={tokens} is more than the {self._limits.visitor_tokens} that "
                "visitors get. Ask for a shorter answer, or sign in."
            )
        self._take([(f"address {address}", most), ("visitors", most * ALL_VISITORS)])

    def _take(self, counted: list[tuple[str, int]]) -> None:
        with self._lock:
            now = self._clock()
            self._forget(now - MINUTE)
            for name, most in counted:
                asked = self._asked.get(name, deque())
                if len(asked) >= most:
                    wait = max(1, round(asked[0] + MINUTE - now))
                    who = "All visitors together" if name == "visitors" else "You"
                    raise ChatError(
                        f"{who} may ask {most} questions a minute here. Ask again in {wait} s."
                    )
            for name, _ in counted:
                self._asked.setdefault(name, deque()).append(now)

    def _forget(self, before: float) -> None:
        for name, asked in list(self._asked.items()):
            while asked and asked[0] <= before:
                asked.popleft()
            if not asked:
                del self._asked[name]


class Minutes:
    """Counts training of those who signed in, and ends what has used up its day.

    Args:
        stop: Asks a run to stop; it keeps its adapter.
    """

    def __init__(self, store: RunStore, limits: Limits, stop: Callable[[Run], object]):
        self._store, self._limits, self._stop = store, limits, stop
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="minutes", daemon=True)
        self._looked: float | None = None

    def start(self) -> None:
        """Watch from now on, where anybody's minutes count."""
        if self._limits.training == "signed-in":
            self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def require(self, here: Person) -> None:
        """Let this person's next run in line, and count it from then on.

        Raises:
            RunError: Today's minutes are used up, or enough of their runs wait.
        """
        if here.role is Role.OWNER or here.name is None:
            return
        with self._lock:
            used = self._read()
            spent = used.setdefault(here.name, 0.0)
            self._write(used)
        if spent >= self._limits.minutes_per_day * MINUTE:
            raise RunError(
                f"Your {self._limits.minutes_per_day} minutes of training on this machine are "
                "used up for today (UTC). Go on tomorrow, or duplicate this Space."
            )
        if sum(_is_unfinished(run, here.name) for run in self._store.list()) >= MOST_IN_LINE:
            raise RunError(
                f"{MOST_IN_LINE} of your runs wait or are at work. Wait for one, or cancel one."
            )

    def look(self, seconds: float) -> None:
        """Add these seconds to everybody who trains, and stop whose minutes are used up."""
        with self._lock:
            used = self._read()
            at_work = [(run, owner) for run, owner in self._at_work() if owner in used]
            for _, owner in at_work:
                used[owner] += seconds
            if at_work:
                self._write(used)
        for run, owner in at_work:
            if used[owner] >= self._limits.minutes_per_day * MINUTE:
                with suppress(TunerError, OSError):  # it ended a moment ago
                    if not run.status()["stop_asked"]:
                        self._stop(run)

    def _at_work(self) -> list[tuple[Run, str]]:
        found = []
        for run in self._store.list():
            with suppress(RunError):
                status = run.status()
                if status["state"] in AT_WORK and status["owner"]:
                    found.append((run, status["owner"]))
        return found

    def _work(self) -> None:
        before = time.monotonic()
        while not self._closed.wait(LOOK_SECONDS):
            now = time.monotonic()
            with suppress(OSError):  # a full disk may have room again at the next look
                self.look(now - before)
            before = now

    @property
    def _path(self) -> Path:
        return self._store.root / LEDGER

    def _read(self) -> dict[str, float]:
        """Seconds by name, of today. Who trained before today stays counted, from 0 on."""
        try:
            kept = json.loads(self._path.read_bytes())
            begun = {str(name): float(spent) for name, spent in kept["seconds"].items()}
            return begun if kept["day"] == _today() else dict.fromkeys(begun, 0.0)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self, used: dict[str, float]) -> None:
        self._store.root.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps({"day": _today(), "seconds": used}), encoding="utf-8")
        os.replace(aside, self._path)


def _is_unfinished(run: Run, owner: str) -> bool:
    with suppress(RunError):
        status = run.status()
        return status["owner"] == owner and status["state"] in ("queued", *AT_WORK)
    return False


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _count(name: str, default: int, problems: list[str]) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0:
        return int(text)
    problems.append(f"{name}={text} is no count. Set a whole number above 0, such as {default}.")
    return default
