"""`runs`, `show`, `stop`, `delete`: what is there, one run in full, and its end."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.answers import Answer
from tuner.cli.recipe_options import JsonOption, RunsDirOption
from tuner.cli.summary import result_text
from tuner.errors import RunError
from tuner.quantities import aligned, loss
from tuner.recipe import to_yaml
from tuner.runs.store import Run, RunStore, Summary
from tuner.service.run_documents import list_document, show_document, stop_document

LINES_SHOWN = 12  # as text, where curves and samples have no place
TOLD = ("log", "warning", "eval", "checkpoint", "state")
RUNS_DIR = Path("runs")

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Its id, or the part after the time.")
]


def runs(runs_dir: RunsDirOption = RUNS_DIR, as_json: JsonOption = False) -> Answer:
    """List the runs, newest first."""
    rows = list_document(RunStore(runs_dir))
    if not rows:
        return Answer([], "No runs yet. Start one: python -m tuner train --preset chatbot")
    head = ("run", "state", "preset", "base model", "steps", "eval loss", "created")
    return Answer(rows, aligned([head, *map(_cells, rows)], numeric=(4, 5)))


def show(
    run: RunArgument, runs_dir: RunsDirOption = RUNS_DIR, as_json: JsonOption = False
) -> Answer:
    """Show one run: its state, recipe, result and last events."""
    found = RunStore(runs_dir).get(run)
    document = show_document(found)
    status = document["status"]
    told = [event for event in document["events"] if event["kind"] in TOLD]
    told = sorted([*told, *document["pushes"]], key=lambda event: event["time"])
    text = [
        result_text(found, status["state"], status["reason"]),
        f"\n{to_yaml(found.recipe()).rstrip()}\n",
        *map(_event_line, told[-LINES_SHOWN:]),
    ]
    return Answer(document, "\n".join(text))


def stop(
    run: RunArgument, runs_dir: RunsDirOption = RUNS_DIR, as_json: JsonOption = False
) -> Answer:
    """Stop a run after its step; its adapter is kept."""
    found = RunStore(runs_dir).get(run)
    print(f"Stopping {found.id} after its step.", file=sys.stderr)
    document = stop_document(found)
    return Answer(document, result_text(found, document["state"], document["reason"]))


def delete(
    run: RunArgument,
    runs_dir: RunsDirOption = RUNS_DIR,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Delete a run and everything in its folder."""
    store = RunStore(runs_dir)
    found = store.get(run)
    if not yes:
        _ask(found, as_json)
    store.delete(found.id)
    return Answer({"run": found.id, "deleted": True}, f"Deleted {found.id}.")


def _ask(run: Run, as_json: bool) -> None:
    if as_json:
        raise RunError(f"Deleting {run.id} cannot be undone. Add --yes to do it.")
    what = "its adapter, checkpoints and log"
    typer.confirm(f"Delete {run.id} with {what}?", abort=True, err=True)


def _cells(row: Summary) -> tuple[str, ...]:
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"]))
    return (
        row["run"],
        row["state"],
        row["preset"] or "–",
        row["base_model"] or "–",
        f"{row['steps']:,}",
        loss(row["eval_loss"]),
        created,
    )


def _event_line(event: Any) -> str:
    """Time, kind and the rest, as the file has it."""
    told = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    rest = {key: value for key, value in event.items() if key not in ("seq", "time", "kind")}
    said = rest.pop("message", None) or "  ".join(
        f"{key} {_short(value)}" for key, value in rest.items() if value not in (None, "")
    )
    return f"{told}  {event['kind']:<10}  {said}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"
