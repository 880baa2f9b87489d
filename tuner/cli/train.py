"""`train` and `resume`: check, start a run, follow it or leave it to itself."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.answers import BAD_INPUT, Answer
from tuner.cli.follow import follow
from tuner.cli.recipe_options import (
    BaseModelOption,
    DatasetOption,
    HardwareOption,
    JsonOption,
    MapOption,
    PresetOption,
    RecipeFileOption,
    RecipeOptions,
    RunsDirOption,
    SetOption,
    SkipBadRowsOption,
    recipe_from_options,
)
from tuner.cli.run_commands import RUNS_DIR, RunArgument
from tuner.recipe import Recipe, to_yaml
from tuner.runs import launch
from tuner.runs.pushes import last_push
from tuner.runs.store import Run, RunStore

DetachOption = Annotated[
    bool, typer.Option("--detach", help="Start it and return at once; it goes on by itself.")
]


def train(
    preset: PresetOption = None,
    hardware: HardwareOption = "builtin",
    recipe: RecipeFileOption = None,
    base_model: BaseModelOption = None,
    dataset: DatasetOption = None,
    columns: MapOption = None,
    settings: SetOption = None,
    skip_bad_rows: SkipBadRowsOption = False,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="A name for the run, such as support-bot."),
    ] = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    detach: DetachOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, estimate and show the recipe; create nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Fine-tune a base model on your data and keep the adapter."""
    options = RecipeOptions(
        preset, hardware, recipe, base_model, dataset, columns or (), settings or (), skip_bad_rows
    )
    return _train(recipe_from_options(options), runs_dir, name, detach, dry_run)


def resume(
    run: RunArgument,
    runs_dir: RunsDirOption = RUNS_DIR,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> Answer:
    """Continue a run at its last checkpoint.

    For runs that were stopped, failed or were interrupted; those that completed stay as they are.
    """
    found = RunStore(runs_dir).get(run)
    recipe, created = found.recipe(), found.status()["created"]
    launch.require_startable(found, resume=True)
    _require_saves(recipe, created)
    if detach:
        launch.resume(found)
        _start_saver(found)
        return _detached(found)
    return _followed(found, launch.resume)


def _train(recipe: Recipe, runs_dir: Path, name: str | None, detach: bool, dry_run: bool) -> Answer:
    # Here, because `runs` and `show` need nothing of what the checks import.
    from tuner.checks import check_before_start

    check_before_start(recipe, runs_dir, name)
    _require_saves(recipe)
    if dry_run:
        return _plan(recipe, runs_dir)
    store = RunStore(runs_dir)
    run = store.create(recipe, name)
    if detach:
        launch.start(run)
        _start_saver(run)
        return _detached(run)
    print(f"{run.id}: getting ready. Ctrl-C stops it and keeps the adapter.", file=sys.stderr)
    answer = _followed(run, launch.start)
    if answer.exit_code == BAD_INPUT:
        store.delete(run.id)  # found deep in the data: nothing was trained, so nothing stays
    return answer


def _followed(run: Run, begin: Callable[[Run], Any]) -> Answer:
    """Follow a run to its end, and the last copy of it to the Hub."""
    saver = None

    def begin_both() -> None:
        nonlocal saver
        begin(run)
        saver = _start_saver(run)

    answer = follow(run, begin_both)
    if saver and answer.exit_code != BAD_INPUT:
        _wait_for_copy(run, saver)
    return answer


def _wait_for_copy(run: Run, saver: "subprocess.Popen[bytes]") -> None:
    """Whoever trains in a container that ends with this command loses the last copy otherwise."""
    repo = run.recipe().hub_model_id
    print(f"Pushing the run to {repo}. Ctrl-C leaves that to itself.", file=sys.stderr)
    try:
        saver.wait()
    except KeyboardInterrupt:
        return
    arrived, failed = last_push(run)
    for record in (arrived, failed):
        if record:
            print(record["message"], file=sys.stderr)


def _require_saves(recipe: Recipe, created: float | None = None) -> None:
    if recipe.push_every_save:
        from tuner.hub.api import machine_token
        from tuner.hub.own_repo import require_saves

        require_saves(recipe, machine_token(), created)


def _start_saver(run: Run) -> "subprocess.Popen[bytes] | None":
    if not run.recipe().push_every_save:
        return None
    from tuner.hub.api import machine_token
    from tuner.hub.saves import start_saver

    return start_saver(run, machine_token())


def _detached(run: Run) -> Answer:
    document = {"run": run.id, "dir": str(run.dir.resolve())}
    text = f"{run.id} is training. See how it goes: python -m tuner show {run.id}"
    return Answer(document, text)


def _plan(recipe: Recipe, runs_dir: Path) -> Answer:
    from tuner.cli.estimate import estimate_text
    from tuner.service.estimating import estimate_document

    figures = estimate_document(recipe)
    document = {
        "dry_run": True,
        "runs_dir": str(runs_dir.resolve()),
        "recipe": recipe.model_dump(mode="json"),
        "estimate": figures,
    }
    return Answer(document, f"{to_yaml(recipe)}\n{estimate_text(figures)}\nNothing was created.")
