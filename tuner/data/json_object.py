"""
Rows of one JSON object, which has to be whole in memory before its shape is known:

    {"data": [row, …]}             one list inside an object
    {"train": [row, …], "test": …} splits
    {"id1": row, "id2": row}       keyed by id; the id becomes the column `id`
    {"a": [1, 2], "b": [3, 4]}     columns; also pandas' {"a": {"0": 1, "1": 2}}
    {"instruction": …}             a single row
"""

import json
from collections.abc import Iterator
from typing import Any

from tuner.data.blobs import Blob
from tuner.data.decoding import open_text
from tuner.data.json_lines import NotARow, hostile, is_cut_off, require_object
from tuner.data.rows import RawRow, ReadLog
from tuner.errors import DatasetError

MAX_OBJECT = 1 << 30  # characters; Python needs several times that in memory


def read_object(blob: Blob, encoding: str, split: str, log: ReadLog) -> Iterator[RawRow]:
    """Rows numbered from 1, in the order of the object.

    Args:
        split: Which list to take where there are several.

    Raises:
        DatasetError: Not JSON, too large, or several lists and none named `split`.
    """
    rows = _rows_of_object(_load_object(blob, encoding), blob.name, split, log)
    for number, value in enumerate(rows, 1):
        try:
            yield RawRow(blob.name, number, require_object(value))
        except NotARow as problem:
            log.bad(blob.name, number, str(problem))


def _load_object(blob: Blob, encoding: str) -> dict[str, Any]:
    with open_text(blob, encoding) as stream:
        text = stream.read(MAX_OBJECT)
    if len(text) == MAX_OBJECT:
        raise DatasetError(
            f"{blob.name} is one JSON object of more than {MAX_OBJECT >> 30} GB, which would "
            "have to fit into memory. Write its rows as JSON Lines."
        )
    try:
        return require_object(json.loads(text))
    except json.JSONDecodeError as error:
        if is_cut_off(error):
            problem = f"the JSON is cut off (line {error.lineno:,}): the file ends inside it"
        else:
            problem = f"not JSON: {error.msg} (line {error.lineno:,}, column {error.colno:,})"
        raise DatasetError(f"{blob.name}: {problem}. Export it again.") from None
    except (RecursionError, ValueError) as error:
        raise DatasetError(f"{blob.name}: {hostile(error)}. Export it again.") from None


def _rows_of_object(value: dict[str, Any], name: str, split: str, log: ReadLog) -> Iterator[Any]:
    lists = {key: rows for key, rows in value.items() if _is_list_of_rows(rows)}
    if lists:
        key = _chosen_list(lists, name, split)
        log.note(f'{name} is an object; its rows are the list "{key}".')
        return iter([_viewer_row(row) for row in lists[key]])
    if _is_columns(value):
        log.note(f"{name} holds columns, not rows; they are put together row by row.")
        return _transposed({key: _column(cells) for key, cells in value.items()})
    if value and all(isinstance(row, dict) for row in value.values()):
        log.note(f"{name} is an object keyed by id; the key is the column `id`.")
        return ({"id": key, **row} for key, row in value.items())
    return iter([value])


def _is_list_of_rows(value: Any) -> bool:
    """A list of objects that are not the messages of one conversation."""
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        return False
    return not {"role", "from", "content", "value"} & value[0].keys()


def _chosen_list(lists: dict[str, list[Any]], name: str, split: str) -> str:
    if len(lists) == 1:
        return next(iter(lists))
    if split in lists:
        return split
    raise DatasetError(
        f"{name} is an object with several lists of rows: {', '.join(lists)}. "
        f"Set dataset.split to one of them (it is {split})."
    )


def _viewer_row(row: dict[str, Any]) -> Any:
    """The Hub's viewer wraps each row as {"row_idx": 0, "row": {…}}."""
    return row["row"] if {"row_idx", "row"} <= row.keys() else row


def _is_columns(value: dict[str, Any]) -> bool:
    lengths = {len(cells) if _is_column(cells) else -1 for cells in value.values()}
    return len(lengths) == 1 and lengths.pop() > 0


def _is_column(cells: Any) -> bool:
    if isinstance(cells, list):
        return not any(isinstance(cell, dict) for cell in cells)
    return isinstance(cells, dict) and list(cells) == [str(i) for i in range(len(cells))]


def _column(cells: Any) -> list[Any]:
    return list(cells.values()) if isinstance(cells, dict) else cells


def _transposed(columns: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))
