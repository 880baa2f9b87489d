"""
What can be known before a run begins, in a second and without torch: all problems at once.

    check_before_start(recipe, Path("runs"))

The base model is there and takes such rows; the data opens and is recognised (small files are read
to their end); the runs folder can be written and has room. Nothing is created.
Not covered: what only tokens tell, such as rows that max_length empties (training finds those out
before it loads the model); memory (estimated, and tried by the run itself).
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tuner.base_models import check_length, find_base_model
from tuner.data.data_report import DataReport
from tuner.data.inspection import inspect_dataset
from tuner.data.prepare import prepare_dataset
from tuner.data.sources import local_path
from tuner.device import this_device
from tuner.errors import DatasetError, RunError, TunerError
from tuner.memory import estimate
from tuner.recipe import Recipe
from tuner.runs import names
from tuner.runs.store import MIN_FREE_BYTES

READ_WHOLE_BYTES = 64_000_000  # read in about three seconds
# A checkpoint holds the trained weights and Adam's two moments, all float32.
CHECKPOINT_BYTES_PER_PARAMETER = 12


def check_before_start(recipe: Recipe, runs_dir: Path, name: str | None = None) -> None:
    """Make sure that a run of this recipe could begin.

    Args:
        runs_dir: Where the run would be made.
        name: What the run would be called, if the person said so.

    Raises:
        TunerError: Of the first problem's kind, with every problem found.
    """
    problems = [
        error
        for check in (
            lambda: names.slug(name) if name is not None else None,
            lambda: check_length(recipe, find_base_model(recipe.base_model, recipe.revision)),
            lambda: look_at_data(recipe),
            lambda: check_folder(runs_dir, needed_bytes(recipe)),
        )
        if (error := _error_of(check))
    ]
    if problems:
        raise type(problems[0])([line for error in problems for line in error.problems])


def look_at_data(recipe: Recipe) -> DataReport | None:
    """Read a small data set whole, of a large one the first rows.

    Returns:
        What became of all rows; None where only the first were read.

    Raises:
        DatasetError: Training could not begin with it.
    """
    if not _is_small(recipe):
        problem = inspect_dataset(recipe.dataset, recipe.objective).problem
        if problem:
            raise DatasetError(problem)
        return None
    with tempfile.TemporaryDirectory(prefix="tuner-check-") as folder:
        return prepare_dataset(
            recipe.dataset, recipe.objective, Path(folder), max_length=recipe.max_length
        )


def check_folder(runs_dir: Path, needed: int) -> None:
    """Make sure that runs_dir could be written, without making it.

    Raises:
        RunError: It cannot, or `needed` bytes are not free.
    """
    folder = runs_dir.expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".tuner-"):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        raise RunError(
            f"No run can be made in {runs_dir}: {error.strerror}. "
            "Choose a folder that you may write to with --runs-dir."
        ) from None
    if free < needed:
        raise RunError(
            f"The disk of {runs_dir} has {free / 1e6:,.0f} MB free; a run needs "
            f"{needed / 1e6:,.0f} MB for its checkpoints. Delete old runs or other files, choose "
            "another folder with --runs-dir, or lower save_total_limit."
        )


def needed_bytes(recipe: Recipe) -> int:
    """Room for a run's checkpoints and kept weights; the least of any run where it is unknown."""
    try:
        base = find_base_model(recipe.base_model, recipe.revision)
    except TunerError:
        return MIN_FREE_BYTES  # reported by itself
    trained = estimate(recipe, base, this_device()).trainable_parameters
    at_once = recipe.save_total_limit + 1  # a new one is complete before an old one goes
    return MIN_FREE_BYTES + trained * (CHECKPOINT_BYTES_PER_PARAMETER * at_once + 4)


def _error_of(check: Callable[[], object]) -> TunerError | None:
    try:
        check()
    except TunerError as error:
        return error
    return None


def _is_small(recipe: Recipe) -> bool:
    path = None if recipe.dataset.kind == "hub" else local_path(recipe.dataset.source)
    if path is None:
        return False
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        total += file.stat().st_size if file.is_file() else 0
        if total > READ_WHOLE_BYTES:
            return False
    return True
