"""
All runs in a line each, and some of them side by side.

A run that ended is read once; of those at work, the story that live.py keeps is asked. The list is
made at most once a second, however many look at it.
"""

import threading
import time
from typing import Any, NamedTuple

import orjson

from tuner.errors import RunError
from tuner.runs.names import slug_of
from tuner.runs.run import Run
from tuner.runs.status import LIVE_STATES, Status
from tuner.ui.live import LiveRun, LiveRuns, place_in
from tuner.ui.run_facts import method
from tuner.ui.run_settings import Settings, differences, load_object, load_settings, number
from tuner.ui.story import Story, stamp_of
from tuner.ui.words import page_words

LIST_SECONDS = 1.0
SPARK_POINTS = 40


class Digest(NamedTuple):
    """What a line of the list says of a run's events."""

    step: int
    last_time: float | None
    eval_loss: float | None
    base_eval_loss: float | None
    spark: list[float]


class Described(NamedTuple):
    """What a line of the list says of a run's files; they rarely change."""

    settings: Settings
    rows: float | None
    result: dict[str, Any]


class RunList:
    """The list as it was within the last second."""

    def __init__(self, runs: LiveRuns):
        self._runs = runs
        self._lock = threading.Lock()
        self._made: tuple[float, list[tuple[Run, bytes]]] | None = None
        self._digests: dict[str, tuple[Any, Digest]] = {}
        self._described: dict[str, tuple[Any, Described]] = {}

    def is_fresh(self) -> bool:
        """Whether `lines` has nothing to read."""
        made = self._made
        return made is not None and time.monotonic() - made[0] < LIST_SECONDS

    def lines(self) -> list[tuple[Run, bytes]]:
        """Every run, newest first, with its line as JSON."""
        with self._lock:
            if self._made is None or not self.is_fresh():
                made = [(run, line) for run in self._runs.store.list() if (line := self._line(run))]
                self._forget_others({run.id for run, _ in made})
                self._made = (time.monotonic(), made)
            return self._made[1]

    def _line(self, run: Run) -> bytes | None:
        try:
            status = run.status()
        except RunError:  # deleted since the store listed it
            return None
        told, files = self._digest(run, status), self._describe(run)
        return orjson.dumps(
            {
                "run": run.id,
                "name": slug_of(run.id),
                "state": status["state"],
                "reason": page_words(status["reason"]),
                "position": self._place(run, status),
                "preset": files.settings.text("preset"),
                "base_model": files.settings.text("base_model"),
                "method": method(files.settings),
                "rows": files.rows,
                "created": status["created"],
                "seconds": _seconds(status, told),
                "step": max(status["step"], told.step if status["state"] in LIVE_STATES else 0),
                "max_steps": status["max_steps"],
                "eval_loss": _eval_loss(status, files, told),
                "base_eval_loss": told.base_eval_loss,
                "spark": told.spark,
            }
        )

    def _place(self, run: Run, status: Status) -> int:
        return place_in(self._runs.line, run.id) if status["state"] == "queued" else 0

    def _digest(self, run: Run, status: Status) -> Digest:
        stamp = stamp_of(run.events_path)
        kept = self._digests.get(run.id)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        if status["state"] in LIVE_STATES:
            digest = self._runs.of(run).with_story(_digest_of)
        else:  # read it once and let go: a list may hold hundreds
            digest = LiveRun(run).with_story(_digest_of)
        self._digests[run.id] = (stamp, digest)
        return digest

    def _describe(self, run: Run) -> Described:
        report_path = run.data_dir / "report.json"
        paths = (run.recipe_path, report_path, run.result_path)
        stamps = [stamp_of(path) for path in paths]
        kept = self._described.get(run.id)
        if kept is not None and kept[0] == stamps:
            return kept[1]
        rows = number(load_object(report_path), "train_rows")
        described = Described(load_settings(run), rows, load_object(run.result_path))
        self._described[run.id] = (stamps, described)
        return described

    def _forget_others(self, ids: set[str]) -> None:
        for kept in (self._digests, self._described):
            for gone in set(kept) - ids:
                del kept[gone]


def compare(runs: list[LiveRun]) -> bytes:
    """Runs side by side as JSON: their losses, and the settings in which they differ.

    Raises:
        RunError: One of them is not there any more.
    """
    told = [
        {
            "run": live.run.id,
            "name": slug_of(live.run.id),
            "state": live.run.status()["state"],
            **live.curves(),
        }
        for live in runs
    ]
    settings = differences([load_settings(live.run) for live in runs])
    return orjson.dumps({"runs": told, "settings": settings})


def _digest_of(story: Story) -> Digest:
    evals = story.evals.points("eval_loss")
    return Digest(
        step=story.metrics.steps[-1] if len(story.metrics) else 0,
        last_time=story.last_time,
        eval_loss=evals[-1][1] if evals else None,
        base_eval_loss=evals[0][1] if evals and evals[0][0] == 0 else None,
        spark=story.metrics.spread("loss", SPARK_POINTS),
    )


def _eval_loss(status: Status, files: Described, told: Digest) -> float | None:
    """That of the kept weights, once some are kept; before, the latest."""
    kept = number(files.result, "eval_loss")
    has_kept = status["state"] in ("completed", "stopped") and kept is not None
    return kept if has_kept else told.eval_loss


def _seconds(status: Status, told: Digest) -> float | None:
    """From the start of the last process to its end, to its last word, or until now."""
    if status["started"] is None:
        return None
    if status["state"] in LIVE_STATES:
        end: float | None = time.time()
    else:
        end = status["finished"] or told.last_time
    return None if end is None else max(0.0, end - status["started"])
