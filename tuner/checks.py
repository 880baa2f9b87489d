"""
What can be known before a run begins, in a second and without torch: all problems at once.

    check_before_start(recipe, Path("runs"))

This machine may train; the base model is there, takes such rows and can be downloaded; the data
opens and is recognised (small files are read to their end); the runs folder can be written and has
room. Nothing is made.
Not covered: what only tokens tell, such as rows that max_length empties (training finds those out
before it loads the model); memory (estimated, and tried by the run itself).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.base_models.lookup import BaseModel, check_length, find_base_model
from tuner.data.documents import CHARACTERS_PER_TOKEN
from tuner.data.inspection import inspect_dataset
from tuner.data.prepare import prepare_dataset
from tuner.data.sources import local_path
from tuner.device import this_device, training_refused
from tuner.errors import DatasetError, ModelError, RunError, TunerError
from tuner.memory.estimate import estimate
from tuner.recipe import Recipe
from tuner.runs import names
from tuner.runs.store import MIN_FREE_BYTES

READ_WHOLE_BYTES = 64_000_000  # read in about three seconds
# A checkpoint holds the trained weights and Adam's two moments, all float32.
CHECKPOINT_BYTES_PER_PARAMETER = 12
KEPT_BYTES_PER_PARAMETER = 4
NOT_RENDERED = ("source", "role", "label")


@dataclass(frozen=True)
class DataSize:
    """How much data trains.

    Attributes:
        mean_tokens: Of a row, guessed from its characters: counting would import transformers.
    """

    train_rows: int
    mean_tokens: float


def check_before_start(recipe: Recipe, runs_dir: Path, name: str | None = None) -> None:
    """Make sure that a run of this recipe could begin.

    Args:
        runs_dir: Where the run would be made.
        name: What the run would be called, if the person said so.

    Raises:
        TunerError: Of the first problem's kind, with every problem found.
    """
    if refused := training_refused():
        raise RunError(refused)  # no recipe could change that
    found: list[TunerError] = []
    needed = MIN_FREE_BYTES
    with _collected(found):
        if name is not None:
            names.slug(name)
    with _collected(found):
        base = find_base_model(recipe.base_model, recipe.revision)
        with _collected(found):
            check_length(recipe, base)
        check_download(base)
        needed = needed_bytes(recipe, base)
    with _collected(found):
        look_at_data(recipe)
    with _collected(found):
        check_folder(runs_dir, needed)
    if found:
        raise type(found[0])([sentence for error in found for sentence in error.problems])


def look_at_data(recipe: Recipe) -> DataSize | None:
    """Read a small data set whole, of a large one the first rows.

    Returns:
        Its size; None where only the first rows were read.

    Raises:
        DatasetError: Training could not begin with it.
    """
    if not _is_small(recipe):
        problem = inspect_dataset(recipe.dataset, recipe.objective).problem
        if problem:
            raise DatasetError(problem)
        return None
    with tempfile.TemporaryDirectory(prefix="tuner-check-") as folder:
        report = prepare_dataset(
            recipe.dataset, recipe.objective, Path(folder), max_length=recipe.max_length
        )
        return DataSize(report["train_rows"], _mean_tokens(Path(folder) / "train.jsonl"))


def check_folder(runs_dir: Path, needed: int) -> None:
    """Make sure that runs_dir could be written, without making it.

    Raises:
        RunError: It cannot, or `needed` bytes are not free.
    """
    existing = _nearest_existing(runs_dir)
    try:
        # Tried out, because permissions alone don't tell: the disk may be mounted read-only.
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


def check_download(base: BaseModel) -> None:
    """Make sure that the Hub's cache has room for what is still to be downloaded.

    Raises:
        ModelError: It has not.
    """
    if base.folder is not None:
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    snapshot = cache / f"models--{base.name.replace('/', '--')}" / "snapshots" / str(base.revision)
    missing = base.weight_bytes - sum(f.stat().st_size for f in snapshot.glob("*.safetensors"))
    free = shutil.disk_usage(_nearest_existing(cache)).free
    if free < missing:
        raise ModelError(
            f"{base.name} is a download of {missing / 1e9:.1f} GB, and the disk of {cache} has "
            f"{free / 1e9:.1f} GB free. Make room, or set HF_HOME to a folder on another disk."
        )


def needed_bytes(recipe: Recipe, base: BaseModel) -> int:
    """Room for a run's checkpoints, the weights it keeps, its data and its log."""
    trained = estimate(recipe, base, this_device()).trainable_parameters
    at_once = recipe.save_total_limit + 1  # a new one is complete before an old one goes
    per_parameter = CHECKPOINT_BYTES_PER_PARAMETER * at_once + KEPT_BYTES_PER_PARAMETER
    return MIN_FREE_BYTES + trained * per_parameter


def _mean_tokens(rows: Path) -> float:
    with rows.open(encoding="utf-8") as lines:
        lengths = [_characters(json.loads(line)) for line in lines]
    return sum(lengths) / max(1, len(lengths)) / CHARACTERS_PER_TOKEN


def _characters(value: Any) -> int:
    """Characters that are rendered: the contents of messages, or a text."""
    if isinstance(value, dict):
        return sum(_characters(part) for key, part in value.items() if key not in NOT_RENDERED)
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str) else 0


@contextmanager
def _collected(found: list[TunerError]) -> Iterator[None]:
    """Keep a problem for later, so that the other checks are made as well."""
    try:
        yield
    except TunerError as error:
        found.append(error)


def _nearest_existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _is_small(recipe: Recipe) -> bool:
    path = None if recipe.dataset.kind == "hub" else local_path(recipe.dataset.source)
    if path is None:
        return False
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        total += file.stat().st_size if file.is_file() else 0
        if total > READ_WHOLE_BYTES:
            return False
    return True
