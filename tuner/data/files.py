"""
One file to rows, by its type: the only place that knows every reader.
"""

from collections.abc import Iterator
from pathlib import Path

from tuner.data.arrow_rows import read_arrow, read_parquet
from tuner.data.blobs import Blob, gunzipped, is_gzip
from tuner.data.csv_rows import read_csv
from tuner.data.documents import read_document
from tuner.data.file_types import detect, type_by_name
from tuner.data.json_rows import read_json
from tuner.data.rows import RawRow, ReadLog
from tuner.errors import DatasetError


def read_file(
    blob: Blob, log: ReadLog, *, split: str = "train", cache_dir: Path | None = None
) -> Iterator[RawRow]:
    """Rows of one file, gzip undone.

    Args:
        split: Which list to take from a JSON object that holds several.
        cache_dir: Where a temporary copy may go when a packed file must be read out of order.

    Raises:
        DatasetError: Empty, damaged, in the wrong encoding, or of a type that holds no rows.
    """
    blob = unpacked(blob)
    found = detect(blob)
    if found.note:
        log.note(found.note)
    if found.type in ("json", "jsonl"):
        return read_json(blob, found.encoding, type_by_name(blob.name), split, log)
    if found.type == "csv":
        return read_csv(blob, found.encoding, log)
    if found.type == "text":
        return read_document(blob, found.encoding)
    return (read_parquet if found.type == "parquet" else read_arrow)(blob, cache_dir)


def unpacked(blob: Blob) -> Blob:
    """The file without its gzip layer, if it has one.

    Raises:
        DatasetError: gzip within gzip.
    """
    if not is_gzip(blob):
        return blob
    inner = gunzipped(blob)
    if is_gzip(inner):
        raise DatasetError(f"{blob.name} is gzip within gzip. Unpack it once.")
    return inner
