"""
Rows of Parquet and Arrow, a batch at a time: the file may be larger than memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuner.data.blobs import Blob, refuse_bomb, seekable
from tuner.data.rows import RawRow
from tuner.errors import DatasetError

BATCH_ROWS = 500


def read_parquet(blob: Blob, cache_dir: Path | None = None) -> Iterator[RawRow]:
    """Rows numbered from 1.

    Raises:
        DatasetError: Damaged or cut off, or a bomb.
    """
    with seekable(blob, cache_dir) as stream:
        yield from _numbered(blob, "Parquet", _parquet_batches(stream))


def read_arrow(blob: Blob, cache_dir: Path | None = None) -> Iterator[RawRow]:
    """Rows of an Arrow IPC file or stream (what `datasets` writes), numbered from 1.

    Raises:
        DatasetError: Damaged or cut off.
    """
    with seekable(blob, cache_dir) as stream:
        yield from _numbered(blob, "Arrow", _arrow_batches(stream))


def table_rows(tables: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Rows of Arrow tables or record batches, a few in memory at once."""
    for table in tables:
        # Arrow trusts its offsets: without this, a damaged file ends the process, not the read.
        table.validate(full=True)
        for start in range(0, table.num_rows, BATCH_ROWS):
            yield from table.slice(start, BATCH_ROWS).to_pylist()


def _numbered(blob: Blob, kind: str, batches: Iterator[Any]) -> Iterator[RawRow]:
    name, number = blob.name, 0
    try:
        for values in table_rows(_counted(blob, batches)):
            number += 1
            yield RawRow(name, number, values)
    except DatasetError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        where = f" after row {number:,}" if number else ""
        raise DatasetError(
            f"{name} cannot be read as {kind}{where}: it is damaged or cut off "
            f"({' '.join(str(error).split())[:120]}). Upload it again."
        ) from None


def _counted(blob: Blob, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, up to where they are far more than data unpacks to: one text a million times."""
    unpacked = 0
    for batch in batches:
        written_out = pa.Table.from_arrays(
            [_decoded(column) for column in batch.columns], batch.schema.names
        )
        unpacked += written_out.nbytes
        refuse_bomb(blob.name, blob.size, unpacked)
        yield written_out


def _decoded(column: Any) -> Any:
    """A column that names each of its texts once, with the texts in every row."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _parquet_batches(stream: IO[bytes]) -> Iterator[Any]:
    with pq.ParquetFile(stream) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS)


def _arrow_batches(stream: IO[bytes]) -> Iterator[Any]:
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"ARROW1":
        with pa.ipc.open_file(stream) as file:
            for index in range(file.num_record_batches):
                yield file.get_batch(index)
        return
    with pa.ipc.open_stream(stream) as batches:
        yield from batches
