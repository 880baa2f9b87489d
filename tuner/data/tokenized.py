"""
Whole data sets as token ids and labels: exactly what trains, and its statistics.

`tokenize` renders a side (train or eval) of a run's examples into memory-mapped Arrow with the
columns that trl's trainers and their collators read:

    sft, text    input_ids, labels
    preference   prompt_ids, chosen_ids, rejected_ids
    kto          prompt_ids, completion_ids, label

The report is made in the same pass, so the numbers people see are the numbers that train.
While the tokenizers library works on one batch of rows, on all cores and without Python's lock,
Python writes the texts of the next and stores the tokens of the last.
"""

import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable, MemoryMappedTable

from tuner.data.answer_text import Written, WrittenPair
from tuner.data.examples import Kind, kind_of
from tuner.data.rendering import Encoded, Ids, Renderer, mask_labels
from tuner.data.token_report import LINES_KEPT, TokenReport, require_trained_rows
from tuner.errors import DatasetError

__all__ = ["LINES_KEPT", "TokenReport", "require_trained_rows", "tokenize", "tokenize_rows"]

# Of rows: small at first, so that progress shows soon; large ones keep all cores at work longer.
BATCHES = (1000, 1000, 2000, 4000, 8000)
PROMPT_ALONE = "the prompt alone fills max_length"
NO_LIMIT = 1 << 62

_IDS = pa.list_(pa.int32())
_ANSWERS = pa.schema([("input_ids", _IDS), ("labels", _IDS)])
SCHEMAS: dict[Kind, Any] = {
    "sft": _ANSWERS,
    "text": _ANSWERS,
    "preference": pa.schema([("prompt_ids", _IDS), ("chosen_ids", _IDS), ("rejected_ids", _IDS)]),
    "kto": pa.schema([("prompt_ids", _IDS), ("completion_ids", _IDS), ("label", pa.bool_())]),
}

Row = dict[str, Any]
Texts = Sequence[Written | WrittenPair | DatasetError]  # of each row, or why it has none
Columns = dict[str, list[Any]]


def tokenize(
    examples: Dataset,
    renderer: Renderer,
    cache_file: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Dataset, TokenReport]:
    """Render every example of one side.

    Args:
        examples: Rows of one kind, as data/prepare.py writes them.
        renderer: Whose max_length cuts the rows.
        cache_file: Where the Arrow file goes; None keeps the tokens in memory.
        progress: Called with the number of rows done so far.

    Returns:
        The tokens, in the order of the rows, and the report.
    """
    report = TokenReport()
    schema = SCHEMAS[kind_of(dict.fromkeys(examples.column_names))]
    batches = _batches(examples, renderer, schema, report, progress)
    with _garbage_kept():
        if cache_file:
            _write_arrow(cache_file, batches, schema)
            table = MemoryMappedTable.from_file(str(cache_file))
        else:
            table = InMemoryTable(pa.Table.from_batches(batches, schema))
    # A fingerprint of its own, because the one that datasets makes up contains times of files.
    return Dataset(table, fingerprint=f"{examples._fingerprint}-tokens"), report


def tokenize_rows(rows: list[Row], renderer: Renderer, report: TokenReport) -> Columns:
    """Render some rows of one kind; those that cannot train are left out and counted."""
    texts = _texts(rows, renderer)
    encoded = renderer.encode(_to_encode(texts))
    batch = _batch(rows, texts, encoded, renderer.max_length, SCHEMAS[kind_of(rows[0])], report)
    return dict(batch.to_pydict())


def _batches(
    examples: Dataset,
    renderer: Renderer,
    schema: Any,
    report: TokenReport,
    progress: Callable[[int], None] | None,
) -> Iterator[Any]:
    for rows, texts, encoded in _encoded_ahead(examples, renderer):
        yield _batch(rows, texts, encoded.result(), renderer.max_length, schema, report)
        gc.collect()
        if progress:
            progress(report.rows)


def _encoded_ahead(
    examples: Dataset, renderer: Renderer
) -> Iterator[tuple[list[Row], Texts, Future[list[Encoded]]]]:
    """Rows with their texts and, in the making, their tokens; one batch ahead of who asks."""
    waiting: deque[tuple[list[Row], Texts, Future[list[Encoded]]]] = deque()
    table = examples.with_format("arrow")
    with ThreadPoolExecutor(1, thread_name_prefix="tokens") as pool:
        for begin, end in _bounds(len(examples)):
            rows = table[begin:end].to_pylist()
            texts = _texts(rows, renderer)
            waiting.append((rows, texts, pool.submit(renderer.encode, _to_encode(texts))))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect garbage once a batch, and only among what is made from here on.

    So many rows would call the collector so often that it took a seventh of the time, most of it
    for looking through torch and transformers once more.
    """
    # A training process has set its imports aside for good, and loads a model meanwhile: were that
    # set aside with them, it would never be let go of.
    was_on, was_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    if not was_frozen:
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()
        if was_on:
            gc.enable()


def _bounds(rows: int) -> Iterator[tuple[int, int]]:
    begin, sizes = 0, chain(BATCHES, repeat(BATCHES[-1]))
    while begin < rows:
        end = min(rows, begin + next(sizes))
        yield begin, end
        begin = end


def _texts(rows: list[Row], renderer: Renderer) -> Texts:
    if "prompt" in rows[0]:
        return renderer.write_pairs(rows)
    return renderer.write(rows)


def _to_encode(texts: Texts) -> list[Written]:
    found: list[Written] = []
    for text in texts:
        if isinstance(text, WrittenPair):
            found += [text.prompt, *text.answers]
        elif isinstance(text, Written):
            found.append(text)
    return found


def _batch(
    rows: list[Row],
    texts: Texts,
    encoded: list[Encoded],
    max_length: int | None,
    schema: Any,
    report: TokenReport,
) -> Any:
    """The tokens of some rows as an Arrow batch, without those that cannot train."""
    report.rows += len(rows)
    columns: Columns = {name: [] for name in schema.names}
    add = _add_pairs if "prompt_ids" in columns else _add_answers
    add(columns, rows, texts, iter(encoded), max_length or NO_LIMIT, report)
    return pa.record_batch([_array(columns[field.name], field.type) for field in schema], schema)


def _add_answers(
    columns: Columns,
    rows: list[Row],
    texts: Texts,
    encoded: Iterator[Encoded],
    max_length: int,
    report: TokenReport,
) -> None:
    for row, text in zip(rows, texts, strict=True):
        if isinstance(text, DatasetError):
            report.drop(str(text), _line(row))
    written = [row for row, text in zip(rows, texts, strict=True) if isinstance(text, Written)]
    for row, (ids, ranges) in zip(written, encoded, strict=True):
        kept = ids[:max_length]
        trained = sum(len(range(first, min(last, len(kept)))) for first, last in ranges)
        if not trained:
            report.drop(PROMPT_ALONE, _line(row))
            continue
        report.keep(len(kept), trained, len(ids) - len(kept))
        columns["input_ids"].append(kept)
        columns["labels"].append(mask_labels(kept, ranges))


def _add_pairs(
    columns: Columns,
    rows: list[Row],
    texts: Texts,
    encoded: Iterator[Encoded],
    max_length: int,
    report: TokenReport,
) -> None:
    for row, text in zip(rows, texts, strict=True):
        if isinstance(text, DatasetError):
            report.drop(str(text), _line(row))
            continue
        assert isinstance(text, WrittenPair)
        prompt = next(encoded).ids
        answers = [next(encoded).ids for _ in text.answers]
        room = max_length - len(prompt)
        if room <= 0:
            report.drop(PROMPT_ALONE, _line(row))
            continue
        longest = max(map(len, answers))
        trained = min(longest, room)
        report.keep(len(prompt) + trained, trained, longest - trained)
        kept = [prompt, *(answer[:room] for answer in answers), row.get("label")]
        for column, value in zip(columns.values(), kept, strict=False):
            column.append(value)


def _array(values: list[Any], kind: Any) -> Any:
    if kind != _IDS:
        return pa.array(values, kind)
    ids: list[Ids] = [np.empty(0, np.int32), *values]
    offsets = np.cumsum([len(row) for row in ids], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(ids)))


def _write_arrow(path: Path, batches: Iterable[Any], schema: Any) -> None:
    aside = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _line(row: Row) -> int:
    return int((row.get("source") or {}).get("line", 0))
