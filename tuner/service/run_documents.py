"""Runs as documents: the same for `--json`, for the API and for tools."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tuner.errors import TunerError
from tuner.recipe import Recipe
from tuner.runs import launch
from tuner.runs.pushes import read_pushes
from tuner.runs.queue import enqueue, position
from tuner.runs.run import Run, Summary
from tuner.runs.store import RunStore

EVENTS_SHOWN = 50


def list_document(store: RunStore) -> list[Summary]:
    """All runs in a line each, newest first."""
    return [run.summary() for run in store.list()]


def show_document(run: Run) -> dict[str, Any]:
    """One run in full, with its last events and its last copies to the Hub."""
    return {
        **_head(run),
        "status": run.status(),
        "recipe": run.recipe().model_dump(mode="json"),
        "result": run.result(),
        "events": run.events()[0][-EVENTS_SHOWN:],
        "pushes": read_pushes(run)[-EVENTS_SHOWN:],
    }


def status_document(store: RunStore, run: Run) -> dict[str, Any]:
    """Where a run stands; `position` is its place in line, 0 when it is not waiting."""
    status = run.status()
    return {
        **_head(run),
        "state": status["state"],
        "reason": status["reason"],
        "position": position(store, run),
        "step": status["step"],
        "max_steps": status["max_steps"],
        "result": run.result(),
    }


def events_document(run: Run, after: int = 0) -> dict[str, Any]:
    """A run's events after an offset, and the offset to ask with next time."""
    events, following = run.events(after)
    return {"events": events, "next": following}


def enqueue_document(
    store: RunStore,
    recipe: Recipe,
    name: str | None = None,
    owner: str | None = None,
    *,
    hand_over: Callable[[Recipe, Path], object] | None = None,
) -> dict[str, Any]:
    """Make a run and put it in line.

    Args:
        hand_over: Called with the recipe and the new run's data folder before the run may start:
            see previewing.hand_over. Without it, or where it fails, the run reads for itself.

    Raises:
        RunError: As RunStore.create.
    """
    run = store.create(recipe, name, owner=owner)
    if hand_over:
        with suppress(TunerError):
            hand_over(recipe, run.data_dir)
    return {**_head(run), "state": "queued", "position": enqueue(store, run)}


def resume_document(store: RunStore, run: Run) -> dict[str, Any]:
    """Put a run in line to go on at its last checkpoint.

    Raises:
        RunError: It cannot be resumed.
    """
    place = enqueue(store, run, resume=True)
    return {**_head(run), "state": "queued", "position": place}


def stop_document(run: Run) -> dict[str, Any]:
    """Stop a run after its step, or take it out of line, and say how it ended.

    Raises:
        RunError: It is neither at work nor in line.
    """
    status = launch.stop(run)
    return {**_head(run), "state": status["state"], "reason": status["reason"]}


def _head(run: Run) -> dict[str, str]:
    return {"run": run.id, "dir": str(Path(run.dir).resolve())}
