"""
Run directories: create, find, list, delete, and what each one says of itself.

    runs/20261123-0915-support-bot/recipe.yaml, status.json, events.jsonl, data/, checkpoints/, …

The directory is the truth: nothing about a run is kept in memory, so any process, started at any
time, sees the same. A live state whose process is gone reads as `interrupted`.
"""

import difflib
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import psutil

from tuner.errors import RunError
from tuner.recipe import Recipe, load_recipe, to_yaml
from tuner.runs.events import Event, read_events

State = Literal["queued", "preparing", "running", "completed", "failed", "stopped", "interrupted"]
LIVE_STATES = ("preparing", "running")
STARTING_SECONDS = 10.0  # from "preparing" to the pid being written down
NEEDED_BYTES = 200 * 1024 * 1024  # for checkpoints of a small adapter, logs and data
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}")
ID = re.compile(r"\d{8}-\d{4}-[a-z0-9][a-z0-9-]*")
INTERRUPTED = "The process ended without a word: killed, out of memory, or the machine restarted."


class Status(TypedDict, total=False):
    """status.json. Times are Unix seconds; `pid_started` tells a reused pid from the run's own."""

    state: State
    reason: str
    pid: int | None
    pid_started: float | None
    created: float
    started: float | None
    finished: float | None
    step: int
    max_steps: int | None
    resumed_from: int | None
    exit_code: int | None


@dataclass(frozen=True)
class Run:
    """One run directory."""

    dir: Path

    @property
    def id(self) -> str:
        """The directory's name."""
        return self.dir.name

    @property
    def recipe_path(self) -> Path:
        return self.dir / "recipe.yaml"

    @property
    def data_dir(self) -> Path:
        return self.dir / "data"

    @property
    def status_path(self) -> Path:
        return self.dir / "status.json"

    @property
    def events_path(self) -> Path:
        return self.dir / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.dir / "train.log"

    @property
    def checkpoints_dir(self) -> Path:
        return self.dir / "checkpoints"

    @property
    def adapter_dir(self) -> Path:
        """The trained adapter, in PEFT's format."""
        return self.dir / "adapter"

    @property
    def model_dir(self) -> Path:
        """The trained model, where all weights were trained."""
        return self.dir / "model"

    @property
    def result_path(self) -> Path:
        return self.dir / "result.json"

    def recipe(self) -> Recipe:
        """What is trained."""
        return load_recipe(self.recipe_path)

    def save_recipe(self, recipe: Recipe) -> None:
        """Replace recipe.yaml, as when an `auto` has been decided."""
        _replace(self.recipe_path, to_yaml(recipe))

    def status(self) -> Status:
        """What status.json says, and `interrupted` where its process is gone."""
        status = self.written_status()
        if status["state"] in LIVE_STATES and not _is_alive(status):
            status |= {"state": "interrupted", "reason": INTERRUPTED}
        return status

    def update_status(self, **changes: Any) -> None:
        """Change some fields; a reader sees the old status or the new, never half of one."""
        state = changes.get("state")
        if state and state not in (*LIVE_STATES, "queued"):
            changes.setdefault("finished", time.time())
        with self._status_lock():  # starter and run may both have something to say
            _replace(self.status_path, json.dumps({**self.written_status(), **changes}, indent=2))

    def result(self) -> dict[str, Any] | None:
        """result.json, or None while there is none."""
        try:
            return cast(dict[str, Any], json.loads(self.result_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def write_result(self, result: dict[str, Any]) -> None:
        _replace(self.result_path, json.dumps(result, indent=2))

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """Events after a byte offset, and the next offset."""
        return read_events(self.events_path, offset)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Complete checkpoints by step."""
        found = [
            (int(path.name.removeprefix("step-")), path)
            for path in self.checkpoints_dir.glob("step-*")
            if path.name.removeprefix("step-").isdigit()
        ]
        return sorted(found)

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """The newest complete checkpoint, or None."""
        found = self.checkpoints()
        return found[-1] if found else None

    def summary(self) -> dict[str, Any]:
        """One row of the list of runs."""
        status, recipe, result = self.status(), self.recipe(), self.result() or {}
        return {
            "run": self.id,
            "state": status["state"],
            "preset": recipe.preset,
            "base_model": recipe.base_model,
            "created": status["created"],
            "steps": result.get("steps", status.get("step", 0)),
            "eval_loss": result.get("eval_loss"),
        }

    @contextmanager
    def _status_lock(self) -> Iterator[None]:
        with (self.dir / ".status.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            yield

    def written_status(self) -> Status:
        """status.json as it stands, without asking whether the process is still there."""
        return cast(Status, json.loads(self.status_path.read_text(encoding="utf-8")))


class RunStore:
    """All runs of one folder.

    Args:
        root: Made when the first run is created.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    def create(self, recipe: Recipe, name: str | None = None) -> Run:
        """Make a run directory in state `queued`.

        Raises:
            RunError: The name cannot be used, the folder cannot be written, or the disk is full.
        """
        slug = _slug(name if name is not None else _default_name(recipe))
        self.require_room()
        aside = self.root / f".new-{uuid.uuid4().hex}"
        aside.mkdir()
        draft = Run(aside)
        draft.save_recipe(recipe)
        first: Status = {"state": "queued", "reason": "", "created": time.time(), "step": 0}
        _replace(draft.status_path, json.dumps(first, indent=2))
        return Run(self._claim(aside, f"{time.strftime('%Y%m%d-%H%M')}-{slug}"))

    def get(self, name: str) -> Run:
        """Find a run by its id, the start of it, or the part after its time.

        Raises:
            RunError: No such run, or several.
        """
        ids = [run.id for run in self.list()]
        found = [i for i in ids if name in (i, i[14:])] or [
            i for i in ids if name and i.startswith(name)
        ]
        if len(found) == 1:
            return Run(self.root / found[0])
        if found:
            raise RunError(f"{name} could be any of {', '.join(found[:5])}. Give the whole id.")
        near = difflib.get_close_matches(name, [*ids, *(i[14:] for i in ids)], n=1)
        hint = f"Did you mean {near[0]}?" if near else "`python -m tuner runs` lists them."
        raise RunError(f"There is no run {name!r} in {self.root}. {hint}")

    def list(self) -> list[Run]:
        """All runs, newest first; whatever else lies in the folder is passed over."""
        if not self.root.is_dir():
            return []
        entries = (e for e in os.scandir(self.root) if e.is_dir(follow_symlinks=False))
        runs = [Run(Path(e.path)) for e in entries if ID.fullmatch(e.name)]
        whole = [run for run in runs if run.status_path.exists() and run.recipe_path.exists()]
        return sorted(whole, key=lambda run: (run.written_status()["created"], run.id))[::-1]

    def delete(self, run: Run) -> None:
        """Remove a run and all its files.

        Raises:
            RunError: It is still training.
        """
        state = run.status()["state"]
        if state in LIVE_STATES:
            raise RunError(f"Run {run.id} is {state}. Stop it first: python -m tuner stop {run.id}")
        # Renamed first: a list made meanwhile shows the run whole or not at all.
        aside = self.root / f".deleted-{uuid.uuid4().hex}"
        os.rename(run.dir, aside)
        shutil.rmtree(aside)

    def require_room(self, needed: int = NEEDED_BYTES) -> None:
        """Make sure that runs can be written here.

        Raises:
            RunError: The folder cannot be made or written, or `needed` bytes are not free.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"The runs folder {self.root} cannot be written ({error.strerror}). "
                "Give another one with --runs-dir."
            ) from None
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise RunError(
                f"{self.root} has {free / 1e6:,.0f} MB free and a run needs {needed / 1e6:,.0f} MB. "
                "Delete old runs, or give another folder with --runs-dir."
            )

    def _claim(self, aside: Path, run_id: str) -> Path:
        """Give a finished directory its name; of two that want one at once, the later gets -2."""
        for number in range(1, 1000):
            target = self.root / (run_id if number == 1 else f"{run_id}-{number}")
            try:
                os.rename(aside, target)  # fails where a non-empty directory has the name
                return target
            except OSError:
                continue
        raise RunError(f"There are a thousand runs named {run_id}. Choose another name.")


def _slug(name: str) -> str:
    if not NAME.fullmatch(name) or ".." in name:
        raise RunError(
            f"A run cannot be named {name!r}: 1 to 60 letters, digits, spaces, dots, dashes and "
            "underscores, beginning with a letter or digit."
        )
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _default_name(recipe: Recipe) -> str:
    source = Path(recipe.dataset.source).name.split(".")[0]
    base = recipe.preset or re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-") or "run"
    return base[:40]


def _is_alive(status: Status) -> bool:
    pid, started = status.get("pid"), status.get("pid_started")
    if not pid:  # being started just now
        return time.time() - (status.get("started") or 0) < STARTING_SECONDS
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started is None or abs(process.create_time() - started) < 1.0
    except psutil.Error:
        return False


def _replace(path: Path, text: str) -> None:
    """Write a whole file at once: os.replace is atomic on one filesystem."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text + ("" if text.endswith("\n") else "\n"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
