"""
The folder that holds the runs: make one, find it again, list them, delete one.

    store = RunStore(Path("runs"))
    run = store.create(recipe, name="support bot")
    run = store.get("support-bot")

A run appears whole, under its final name, or not at all; it disappears likewise.
"""

import builtins
import os
import shutil
import uuid
from collections.abc import Callable
from difflib import get_close_matches
from itertools import count
from pathlib import Path

from tuner.errors import RunError
from tuner.recipe import Recipe
from tuner.runs import names
from tuner.runs.atomic import locked
from tuner.runs.run import Run, Summary
from tuner.runs.status import LIVE_STATES, new_status, read_status, write_status

__all__ = ["Run", "RunStore", "Summary"]

MIN_FREE_BYTES = 200_000_000  # a small run's checkpoints, adapter and log
HINTS = 3


class RunStore:
    """All runs under one folder.

    Args:
        root: The folder; it is made with the first run.
    """

    def __init__(self, root: Path):
        # Absolute from here on: a run outlives a change of the working directory.
        self.root = Path(root).expanduser().resolve()

    def create(
        self,
        recipe: Recipe,
        name: str | None = None,
        *,
        owner: str | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> Run:
        """Make a run of this recipe, queued.

        Args:
            name: What the person calls it; else its preset or data does.
            owner: Who makes it, where people sign in.
            min_free_bytes: Room on the disk without which no run begins.

        Raises:
            RunError: A name that cannot be used, a folder that cannot be written, a full disk.
        """
        last_part = names.default_slug(recipe) if name is None else names.slug(name)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._require_room(min_free_bytes)
            return self._create(recipe, last_part, owner)
        except OSError as error:
            raise RunError(
                f"No run can be made in {self.root}: {error.strerror}. "
                "Choose a folder that you may write to with --runs-dir."
            ) from None

    def admit(self, folder: Path, run_id: str) -> Run:
        """Take in a finished run directory from elsewhere on this disk.

        Args:
            folder: It is moved.
            run_id: What it is called; where that is taken, with the first free number.

        Raises:
            RunError: An id that cannot be one, or a folder that cannot be written.
        """
        if not names.RUN_ID.fullmatch(run_id):
            raise RunError(f"{run_id[:120]!r} is no run's id, such as 20261123-0915-support-bot.")
        try:
            return self._publish(Run(folder), run_id)
        except OSError as error:
            raise RunError(f"No run can be made in {self.root}: {error.strerror}.") from None

    def get(self, run_id: str, among: Callable[[Run], bool] | None = None) -> Run:
        """Find a run by its id, the beginning of it, or its name.

        Only what stands in the folder is found; no path is ever made of `run_id`.

        Args:
            among: Which runs there are, for who asks; None for all. Others are not even hinted at.

        Raises:
            RunError: No run is meant, or several are; the sentence names the nearest.
        """
        ids = self.ids()
        if run_id in ids and (among is None or among(self._run(run_id))):
            return self._run(run_id)
        if among is not None:
            ids = [known for known in ids if among(self._run(known))]
        found = [known for known in ids if names.slug_of(known) == run_id]
        found = found or [known for known in ids if run_id and known.startswith(run_id)]
        if len(found) == 1:
            return Run(self.root / found[0])
        raise RunError(self._ambiguous(run_id, found) if found else self._unknown(run_id, ids))

    def delete(self, run_id: str) -> None:
        """Remove a run and all it holds.

        Raises:
            RunError: There is no such run, it is at work, or not all of it could be removed.
        """
        run = self.get(run_id)
        aside = self.root / f".deleted-{uuid.uuid4().hex[:12]}"
        with locked(run.dir):  # nobody starts it in between
            _require_at_rest(run)
            os.rename(run.dir, aside)
        # Others lie here when a deletion was cut short.
        for leftover in self.root.glob(".deleted-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if aside.exists():
            raise RunError(f"Run {run.id} is deleted, but parts of it remain in {aside}.")

    def list(self) -> builtins.list[Run]:
        """All runs, newest first. Folders that are no run, or no longer one, are passed over."""
        created = [(at, run) for run in map(self._run, self.ids()) if (at := _created(run))]
        created.sort(key=lambda pair: (pair[0], pair[1].id), reverse=True)
        return [run for _, run in created]

    def ids(self) -> builtins.list[str]:
        """Names of run folders, oldest first. A link is none: it may lead anywhere."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if names.RUN_ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
                )
        except OSError:  # no folder yet, or none at all: then it holds no runs either
            return []

    def _run(self, run_id: str) -> Run:
        return Run(self.root / run_id)

    def _create(self, recipe: Recipe, last_part: str, owner: str | None) -> Run:
        aside = Run(self.root / f".new-{uuid.uuid4().hex[:12]}")
        aside.dir.mkdir()
        try:
            status = new_status(owner)
            aside.save_recipe(recipe)
            write_status(aside.status_path, status)
            return self._publish(aside, names.run_id(status["created"], last_part))
        except BaseException:
            shutil.rmtree(aside.dir, ignore_errors=True)
            raise

    def _publish(self, aside: Run, run_id: str) -> Run:
        """Give a finished folder its name, or that name with the first free number."""
        for number in count(1):
            target = self.root / (run_id if number == 1 else f"{run_id}-{number}")
            try:
                # The claim itself: a folder is never renamed onto one that holds something.
                os.rename(aside.dir, target)
                return Run(target)
            except OSError:
                if not os.path.lexists(target):
                    raise
        raise AssertionError("count() does not end")

    def _require_room(self, min_free_bytes: int) -> None:
        free = shutil.disk_usage(self.root).free
        if free < min_free_bytes:
            raise RunError(
                f"The disk of {self.root} has {free / 1e6:,.0f} MB free; a run needs "
                f"{min_free_bytes / 1e6:,.0f} MB for its checkpoints. Delete old runs or other "
                "files, or choose another folder with --runs-dir."
            )

    def _ambiguous(self, run_id: str, found: builtins.list[str]) -> str:
        newest = ", ".join(sorted(found, reverse=True)[:HINTS])
        return f"{len(found)} runs are called {run_id}: {newest}. Give the whole id of one."

    def _unknown(self, run_id: str, ids: builtins.list[str]) -> str:
        by_name = {names.slug_of(known): known for known in ids}  # of one name, the newest
        near = get_close_matches(run_id[:200], [*by_name, *ids], n=HINTS, cutoff=0.4)
        hint = ", ".join(dict.fromkeys(by_name.get(match, match) for match in near))
        remedy = f"Did you mean {hint}?" if hint else "`python -m tuner runs` lists them."
        return f"There is no run {run_id[:200]!r} in {self.root}. {remedy}"


def _created(run: Run) -> float | None:
    try:
        return read_status(run.status_path)["created"]
    except RunError:
        return None


def _require_at_rest(run: Run) -> None:
    if _created(run) is None:
        return  # its status is lost; all that is left to do with it is to delete it
    state = run.status()["state"]
    if state in LIVE_STATES:
        raise RunError(f"Run {run.id} is {state}. Stop it before you delete it.")
    if run.is_process_alive():
        raise RunError(f"Run {run.id} is {state}, and its process is about to end. Try again.")
