"""
Runs as the page's server follows them: what a viewer's poll gets, without reading anything twice.

    runs = LiveRuns(store)
    reply = runs.find(run_id).reply(after=None, version=None)     # JSON, the whole story
    reply = runs.find(run_id).reply(after=next, version=version)  # what is new; None: nothing

Everything is read from the run directories and can be forgotten at any time. Fifty viewers cost one
look at the status in half a second, one read of what was appended, and one encoding for those who
know equally much. Thread-safe.
"""

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from tuner.errors import RunError
from tuner.runs.names import RUN_ID, slug_of
from tuner.runs.pushes import pushes_path
from tuner.runs.run import Run
from tuner.runs.status import LIVE_STATES, Status
from tuner.runs.store import RunStore
from tuner.ui.curves import Point
from tuner.ui.files import downloads
from tuner.ui.run_facts import copy_facts, facts, result_facts, use_code
from tuner.ui.run_settings import load_object, load_settings
from tuner.ui.story import Story, stamp_of
from tuner.ui.words import page_words

STATUS_SECONDS = 0.5
QUICK_BYTES = 200_000  # of events are read in a millisecond or two
RUNS_KEPT = 32
REPLIES_KEPT = 64
RESUMABLE = ("failed", "stopped", "interrupted")
Value = TypeVar("Value")
Line = Callable[[], Sequence[str]]


def no_line() -> Sequence[str]:
    """The ids of the runs that wait for their turn, where none do."""
    return ()


@dataclass(frozen=True)
class Standing:
    """Where a run stands, beside its events.

    Attributes:
        status: As the browser gets it; `step` may be behind the events.
        facts: JSON.
        ending: JSON by key: result, files, use.
        facts_version: Changes with the facts.
        version: Changes with the rest.
    """

    status: dict[str, Any]
    facts: bytes
    ending: dict[str, bytes]
    facts_version: str
    version: str


class LiveRun:
    """One run, with its story so far and the last replies.

    Args:
        line: The ids of the runs that wait for their turn, the next one first.
    """

    def __init__(self, run: Run, line: Line = no_line):
        self.run, self._line = run, line
        self.story = Story(run.events_path)
        self._lock = threading.Lock()
        self._files = _Files()
        self._standing: tuple[float, Standing] | None = None
        self._moment: tuple[int, str] | None = None
        self._replies: dict[tuple[int | None, bool], bytes] = {}

    def is_quick(self, after: int | None) -> bool:
        """Whether a reply takes a millisecond or two, so that an event loop may wait for it."""
        if after is None or self._lock.locked():
            return False
        return self.story.unread() <= QUICK_BYTES

    def reply(self, after: int | None, version: str | None) -> bytes | None:
        """What a viewer needs who knows the story up to byte `after`, as JSON.

        Args:
            after: `next` of the viewer's last reply; None at first.
            version: `version` of that reply.

        Returns:
            None when the viewer knows everything.

        Raises:
            RunError: The run is not there any more.
        """
        with self._lock:
            # The status first: what a process wrote before its last word is then in the events.
            standing = self._stand()
            self.story.catch_up()
            identity = self.story.identity
            now = f"{identity}.{standing.facts_version}.{standing.version}"
            if after is not None and not self._can_continue(after, version):
                after = None
            if after == self.story.offset and version == now:
                return None
            knows_facts = after is not None and _facts_part(version) == standing.facts_version
            return self._encoded(after, knows_facts, standing, now)

    def curves(self) -> dict[str, list[Point]]:
        """The loss and the eval loss so far, long ones reduced."""
        with self._lock:
            self.story.catch_up()
            told = self.story.tell()["curves"]
        return {name: told[name] for name in ("loss", "eval_loss")}

    def with_story(self, read: Callable[[Story], Value]) -> Value:
        """What `read` makes of the story as it is now."""
        with self._lock:
            self.story.catch_up()
            return read(self.story)

    def _can_continue(self, after: int, version: str | None) -> bool:
        same_file = version is None or version.split(".")[0] == self.story.identity
        return same_file and self.story.is_current(after)

    def _encoded(
        self, after: int | None, knows_facts: bool, standing: Standing, version: str
    ) -> bytes:
        if self._moment != (self.story.offset, version) or len(self._replies) >= REPLIES_KEPT:
            self._moment = (self.story.offset, version)
            self._replies.clear()
        key = (after, knows_facts)
        if key not in self._replies:
            told = self._told(after, standing)
            told |= {"version": version}
            if not knows_facts:
                told["facts"] = orjson.Fragment(standing.facts)
            self._replies[key] = orjson.dumps(told)
        return self._replies[key]

    def _told(self, after: int | None, standing: Standing) -> dict[str, Any]:
        told, status = dict(self.story.tell(after)), standing.status
        if status["state"] not in ("queued", "preparing"):
            told["progress"] = None
        if status["state"] in LIVE_STATES and len(self.story.metrics):
            status = status | {"step": max(status["step"], self.story.metrics.steps[-1])}
        return {
            "reset": after is None,
            "next": self.story.offset,
            "run": self.run.id,
            "name": slug_of(self.run.id),
            "status": status,
            **told,
            **{key: orjson.Fragment(part) for key, part in standing.ending.items()},
        }

    def _stand(self) -> Standing:
        now = time.monotonic()
        if self._standing is None or now - self._standing[0] >= STATUS_SECONDS:
            self._standing = (now, self._look())
        return self._standing[1]

    def _look(self) -> Standing:
        run, status = self.run, self.run.status()
        settings = self._files.get(run.recipe_path, lambda _: load_settings(run))
        report = self._files.get(run.data_dir / "report.json", load_object)
        shown = shown_status(run, status, self._line)
        copies = self._files.get(pushes_path(run), lambda _: copy_facts(run))
        told_facts = orjson.dumps([*facts(settings, report, status["device"]), *copies])
        ending = self._ending(shown, use_code(settings, is_adapter=shown["has_adapter"]))
        # A live run's step changes all the time, and its events tell it.
        steady = shown if shown["state"] not in LIVE_STATES else shown | {"step": 0}
        version = _digest(orjson.dumps(steady), *ending.values())
        return Standing(shown, told_facts, ending, _digest(told_facts), version)

    def _ending(self, shown: dict[str, Any], code: str) -> dict[str, bytes]:
        result = self._files.get(self.run.result_path, load_object)
        files = [
            {"name": found.name, "label": found.label, "bytes": found.size(shown["state"])}
            for found in downloads(self.run)
        ]
        kept = shown["has_adapter"] or shown["has_model"]
        return {
            "result": orjson.dumps(result_facts(result) if result else None),
            "files": orjson.dumps(files),
            "use": orjson.dumps(code if kept else None),
        }


class LiveRuns:
    """The runs that somebody looks at; the one that was longest not looked at is forgotten first.

    Args:
        line: The ids of the runs that wait for their turn, the next one first.
    """

    def __init__(self, store: RunStore, line: Line = no_line, kept: int = RUNS_KEPT):
        self.store, self.line, self._kept = store, _Recent(line), kept
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, LiveRun] = OrderedDict()

    def known(self, run_id: str) -> LiveRun | None:
        """The run if it was found before and is kept. Reads nothing."""
        with self._lock:
            if run_id in self._runs:
                self._runs.move_to_end(run_id)
            return self._runs.get(run_id)

    def find(self, run_id: str) -> LiveRun:
        """The run of exactly this id.

        Raises:
            RunError: There is none; a part of an id or a name finds nothing here.
        """
        if (known := self.known(run_id)) is not None:
            return known
        # The pattern first: the store searches long for what a person may have mistyped.
        if not RUN_ID.fullmatch(run_id) or (run := self.store.get(run_id)).id != run_id:
            raise RunError(f"There is no run {run_id[:200]!r}.")
        return self.of(run)

    def of(self, run: Run) -> LiveRun:
        """A run that the store has found."""
        with self._lock:
            live = self._runs.setdefault(run.id, LiveRun(run, self.line))
            self._runs.move_to_end(run.id)
            while len(self._runs) > self._kept:
                self._runs.popitem(last=False)
        return live

    def forget(self, run_id: str) -> None:
        """Let go of a run that was deleted."""
        with self._lock:
            self._runs.pop(run_id, None)


def shown_status(run: Run, status: Status, line: Line = no_line) -> dict[str, Any]:
    """A run's status as the browser gets it."""
    state = status["state"]
    return {
        "state": state,
        "reason": page_words(status["reason"]),
        "position": place_in(line, run.id) if state == "queued" else 0,
        "step": status["step"],
        "max_steps": status["max_steps"],
        "created": status["created"],
        "started": status["started"],
        "finished": status["finished"],
        "device": status["device"],
        "public": status["public"] is True,
        "stop_asked": bool(status["stop_asked"]),
        "resumable": state in RESUMABLE and run.last_checkpoint() is not None,
        "has_adapter": run.adapter_dir.is_dir(),
        "has_model": run.model_dir.is_dir(),
    }


def place_in(line: Line, run_id: str) -> int:
    """A run's place in the line, 1 for the next; 0 when it is not in it."""
    waiting = list(line())
    return waiting.index(run_id) + 1 if run_id in waiting else 0


class _Recent:
    """The line as it was within the last half second: to tell it, every run may have to be read."""

    def __init__(self, line: Line):
        self._line = line
        self._told: tuple[float, Sequence[str]] = (float("-inf"), ())

    def __call__(self) -> Sequence[str]:
        if time.monotonic() - self._told[0] >= STATUS_SECONDS:
            self._told = (time.monotonic(), tuple(self._line()))
        return self._told[1]


class _Files:
    """Small files, read again when they change."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[Any, Any]] = {}

    def get(self, path: Path, load: Callable[[Path], Value]) -> Value:
        stamp = stamp_of(path)
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = (stamp, load(path))
        value: Value = self._read[path][1]
        return value


def _digest(*parts: bytes) -> str:
    return f"{zlib.crc32(b'|'.join(parts)):08x}"


def _facts_part(version: str | None) -> str:
    return (version or "").split(".")[1] if (version or "").count(".") == 2 else ""
