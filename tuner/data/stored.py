"""
Prepared examples on disk: train.jsonl and eval.jsonl, whole or absent, and read back memory-mapped.

The JSON Lines are the truth; an Arrow file beside them, named after their SHA-256, is a cache that
is made when it is missing, so a run can be repeated from the JSON Lines alone.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from tuner.data.data_report import load_report
from tuner.data.examples import Example, Kind, kind_of

if TYPE_CHECKING:
    from datasets import Dataset

Side = Literal["train", "eval"]

BATCH_ROWS = 1000
CACHE_FOLDER = "arrow"

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SOURCE = ("source", pa.struct([("file", pa.string()), ("line", pa.int64())]))
SCHEMAS: dict[Kind, Any] = {
    "sft": pa.schema([("messages", _MESSAGES), _SOURCE]),
    "text": pa.schema([("text", pa.string()), _SOURCE]),
    "preference": pa.schema(
        [("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES), _SOURCE]
    ),
    "kto": pa.schema(
        [("prompt", _MESSAGES), ("completion", _MESSAGES), ("label", pa.bool_()), _SOURCE]
    ),
}
_SOURCE_MARK = b', "source": '


def json_line(example: Example, file: str, line: int) -> bytes:
    """One example and its source as a line; `content_of` takes the source off again."""
    content = _json(example)
    source = _json({"file": file, "line": line})
    return f'{content[:-1]}, "source": {source}}}\n'.encode()


def content_of(line: bytes) -> bytes:
    """What counts for the fingerprint: the example without its source.

    Quotes inside strings are escaped, so the mark can only be the one that json_line wrote.
    """
    return line.rpartition(_SOURCE_MARK)[0]


def load_examples(directory: Path, side: Side) -> "Dataset":
    """One side of the prepared data, memory-mapped.

    Args:
        directory: Where `prepare_dataset` wrote.

    Returns:
        Rows in the order of the file; its fingerprint depends on their content only.
    """
    from datasets import Dataset
    from datasets.table import MemoryMappedTable

    path = directory / f"{side}.jsonl"
    digest = sha256(path)
    cache = directory / CACHE_FOLDER / f"{side}-{digest[:16]}.arrow"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        _write_arrow(path, cache, _schema(path, directory))
    # A fingerprint of its own, because the one that datasets makes up contains times of files.
    return Dataset(MemoryMappedTable.from_file(str(cache)), fingerprint=digest[:16])


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # Line breaks to some readers (str.splitlines among them), though not to JSON.
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


def _schema(path: Path, directory: Path) -> Any:
    """By the first row; of no rows, by the report."""
    first = next(_rows(path), None)
    if first is not None:
        return SCHEMAS[kind_of(first)]
    report = load_report(directory)
    return SCHEMAS[report["kind"] if report else "sft"]


def _write_arrow(path: Path, cache: Path, schema: Any) -> None:
    aside = cache.with_suffix(f".{os.getpid()}.partial")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for rows in _batches(_rows(path)):
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    os.replace(aside, cache)


def _rows(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _batches(rows: Iterable[Example]) -> Iterator[list[Example]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
