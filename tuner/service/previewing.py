"""
A recipe's data as its model will see it: for the shell at once, for the page again and again.

Its functions import transformers, so the page calls them in its helper process (worker.py), where
the data sets that were looked at last stay prepared: turning to the next row reads nothing again.
"""

import hashlib
import json
from collections import OrderedDict
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tuner.base_models.lookup import check_length, find_base_model
from tuner.data.columns import Columns, suggested_roles
from tuner.data.inspection import inspect_dataset
from tuner.data.sources import local_path
from tuner.errors import TunerError
from tuner.recipe import Recipe

if TYPE_CHECKING:
    from tuner.data.prepare import Progress
    from tuner.data.preview import Preview, PreviewedData

PREPARED_KEPT = 3
PROMPTS = 5
FILES_LOOKED_AT = 10_000  # of a folder, for whether any was changed
RAW_ROWS, RAW_CHARACTERS = 3, 80
# Of a recipe, all that decides what its rows look like as tokens.
DECIDES_TOKENS = {"dataset", "base_model", "revision", "objective", "max_length"}


class Look(TypedDict):
    """What the page shows of a data set, sound or not.

    Attributes:
        preview: None where training could not begin with it.
        problems: Why not, a sentence each.
        columns: All that were met, so that they can be mapped; [] where it cannot be opened.
        prompts: Questions of some held-out rows, to ask while it trains.
        rows: The first raw rows by column, shortened, for a person who maps them.
        suggestion: Role → columns, at a guess, where none were recognised.
    """

    preview: "Preview | None"
    problems: list[str]
    columns: list[str]
    prompts: list[str]
    rows: list[dict[str, str]]
    suggestion: dict[str, list[str]]


_prepared: "OrderedDict[str, PreviewedData]" = OrderedDict()
_made_of: dict[str, str | None] = {}  # key → source_state before the reading


def preview_document(recipe: Recipe, first_row: int | None = 1, rows: int = 3) -> "Preview":
    """Preview a recipe's data.

    Args:
        first_row: 1-based; None draws rows at random.

    Raises:
        TunerError: The base model or the data cannot be used.
    """
    return prepared_data(recipe).document(first_row, rows)


def look(
    recipe: Recipe, first_row: int | None = 1, rows: int = 10, progress: "Progress | None" = None
) -> Look:
    """As preview_document; problems are part of the answer, with what is needed to solve them."""
    try:
        data = prepared_data(recipe, progress)
        shown = data.document(first_row, rows)
    except TunerError as error:
        return _problems(recipe, error)
    columns, prompts = shown["recognised"]["all_columns"], data.held_out_prompts(PROMPTS)
    return Look(
        preview=shown, problems=[], columns=columns, prompts=prompts, rows=[], suggestion={}
    )


def no_look(problems: list[str]) -> Look:
    """A look at data of which nothing can be shown but why."""
    return Look(preview=None, problems=problems, columns=[], prompts=[], rows=[], suggestion={})


def write_cleaned(recipe: Recipe, path: Path) -> None:
    """Write the rows that a recipe keeps, in the form in which they train, as JSONL.

    Raises:
        TunerError: As preview_document.
    """
    prepared_data(recipe).write_cleaned(path)


def prepared_data(recipe: Recipe, progress: "Progress | None" = None) -> "PreviewedData":
    """A recipe's data with its tokens; the last PREPARED_KEPT are kept, unless the file changed."""
    key = data_key(recipe)
    if key in _prepared:
        _prepared.move_to_end(key)
        return _prepared[key]
    from tuner.data.preview import PreviewedData
    from tuner.data.tokenizer import load_tokenizer

    base = find_base_model(recipe.base_model, recipe.revision)
    check_length(recipe, base)
    tokenizer = load_tokenizer(str(base.folder or base.name), base.revision)
    _made_of[key] = source_state(recipe)
    data = PreviewedData(recipe, tokenizer, progress=progress)
    _prepared[key] = data
    while len(_prepared) > PREPARED_KEPT:
        oldest, forgotten = _prepared.popitem(last=False)
        _made_of.pop(oldest, None)
        forgotten.close()
    return data


def hand_over(recipe: Recipe, data_dir: Path) -> bool:
    """Give a new run the rows and tokens that were made for its preview, if they are still those.

    Never an obstacle: the run reads for itself whatever it is not given.

    Returns:
        Whether it was given them.
    """
    key = data_key(recipe)
    state = _made_of.get(key)
    if key not in _prepared or state is None or state != source_state(recipe):
        return False
    try:
        _prepared[key].hand_over(data_dir)
    except OSError:
        return False
    return True


def source_state(recipe: Recipe) -> str | None:
    """Another one when any file of the source was changed, also deep in a folder.

    Returns:
        None where that is too much to look at.
    """
    dataset = recipe.dataset
    source = local_path(dataset.source) if dataset.source and dataset.kind != "hub" else None
    if source is None:
        return ""
    digest, files = hashlib.sha256(), [source]
    with suppress(OSError):
        files += islice(source.rglob("*"), FILES_LOOKED_AT)
        for path in sorted(files):
            stat = path.stat()
            digest.update(f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}\n".encode())
        return digest.hexdigest() if len(files) <= FILES_LOOKED_AT else None
    return None


def data_key(recipe: Recipe) -> str:
    """What decides how the rows look, as text; another one when the file was changed."""
    source = local_path(recipe.dataset.source) if recipe.dataset.kind != "hub" else None
    try:
        stat = source.stat() if source else None
    except OSError:
        stat = None
    changed = [stat.st_mtime_ns, stat.st_size] if stat else None
    return json.dumps([recipe.model_dump(include=DECIDES_TOKENS), changed], sort_keys=True)


def _problems(recipe: Recipe, error: TunerError) -> Look:
    """With the columns and first rows as they are in the file, if it can be read at all."""
    try:
        found = inspect_dataset(recipe.dataset, recipe.objective)
    except TunerError:
        return no_look(error.problems)
    columns = found.columns
    rows = [
        {name: str(row.values.get(name, ""))[:RAW_CHARACTERS] for name in columns}
        for row in found.rows[:RAW_ROWS]
    ]
    guess = suggested_roles(Columns(columns), [row.values for row in found.rows])
    return Look(
        preview=None,
        problems=error.problems,
        columns=columns,
        prompts=[],
        rows=rows,
        suggestion={role: [column] for role, column in guess.items()},
    )
