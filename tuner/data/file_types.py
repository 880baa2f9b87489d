"""
What a file is: decided by its first bytes, then by its name.

Names lie often enough (a .json that holds JSON Lines, a .csv that is an Excel workbook, a download
that is the login page), so content wins, and the difference is said. What cannot be training data
is refused with what it is and what to give instead.
"""

import json
import re
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from tuner.data.blobs import Blob
from tuner.data.decoding import encoding_of
from tuner.errors import DatasetError

Type = Literal["json", "jsonl", "csv", "parquet", "arrow", "text"]

HEAD_BYTES = 1 << 16

TYPE_OF_EXTENSION: dict[str, Type] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".rst": "text",
}
NAME_OF_TYPE = {
    "json": "JSON",
    "jsonl": "JSON Lines",
    "csv": "a table (CSV)",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "text": "plain text",
}
ACCEPTED = "JSON, JSONL, CSV, TSV, Parquet, Arrow, plain text or Markdown, or gzip or zip of these"

# First bytes → what it is, and what to give instead.
_FOREIGN = (
    (b"%PDF", "a PDF. Save its text as .txt or .md"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive. Pack it as .zip"),
    (b"Rar!", "a RAR archive. Pack it as .zip"),
    (b"\xfd7zXZ\x00", "packed with xz. Unpack it, or pack it with gzip"),
    (b"BZh", "packed with bzip2. Unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd. Unpack it, or pack it with gzip"),
    (b"SQLite format 3\x00", "an SQLite database. Export the table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Office file. Save a table as CSV, a document as plain text"),
    (b"\x89PNG", "a picture. Tuner trains on text"),
    (b"\xff\xd8\xff", "a picture. Tuner trains on text"),
    (b"GIF8", "a picture. Tuner trains on text"),
    (b"\x7fELF", "a program. Tuner trains on text"),
    (b"MZ\x90", "a program. Tuner trains on text"),
    (b"\x80\x04\x95", "a Python pickle, which can run code when opened. Save it as JSONL"),
    (b"PK\x03\x04", "a zip archive inside another. Pack its files directly"),
)
_HTML = re.compile(rb"\s*(<!doctype html|<html|<head)", re.IGNORECASE)
_LFS = b"version https://git-lfs.github.com/spec"
_JSON_ROWS = re.compile(r"\s*(\[\s*)?\{\s*(\"|\})")


class FileType(NamedTuple):
    """A file's type and text encoding, and a sentence where its name says something else."""

    type: Type
    encoding: str
    note: str | None = None


def type_by_name(name: str) -> Type | None:
    """What the extension says, gzip's set aside; None for an unknown one."""
    return TYPE_OF_EXTENSION.get(extension(name))


def extension(name: str) -> str:
    """The extension in lower case, without a trailing .gz.

    >>> extension("data/Table.CSV.gz")
    '.csv'
    """
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def detect(blob: Blob) -> FileType:
    """Find out what a file (already un-gzipped) is.

    Raises:
        DatasetError: Empty, binary of a kind that holds no rows, or of no known type.
    """
    head = blob.head(HEAD_BYTES)
    named = type_by_name(blob.name)
    if not head.strip(b"\x00\xef\xbb\xbf\xff\xfe \t\r\n"):
        raise DatasetError(f"{blob.name} is empty. Give a file with rows.")
    if binary := _binary_type(head):
        return FileType(binary, "", _note(blob.name, named, binary))
    _refuse_foreign(blob.name, head)
    encoding = encoding_of(head)
    found = _text_type(blob.name, head.decode(encoding, "ignore"), named)
    return FileType(found, encoding, _note(blob.name, named, found))


def _binary_type(head: bytes) -> Type | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):  # the file and the stream format
        return "arrow"
    return None


def _refuse_foreign(name: str, head: bytes) -> None:
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise DatasetError(f"{name} is {what}.")
    if head[257:262] == b"ustar":
        raise DatasetError(f"{name} is a tar archive. Pack its files as .zip.")
    if _HTML.match(head):
        raise DatasetError(
            f"{name} is a web page, perhaps a log-in or error page saved by a download. "
            "Download the file itself."
        )
    if head.startswith(_LFS):
        raise DatasetError(
            f"{name} is a Git LFS pointer, not the data. Run `git lfs pull`, or download the file."
        )
    if b"\x00" in head and encoding_of(head) != "utf-16":
        raise DatasetError(
            f"{name} holds binary data (or UTF-16 without a byte order mark). Give {ACCEPTED}."
        )


def _text_type(name: str, text: str, named: Type | None) -> Type:
    """JSON shows itself; tables and prose look alike, so there the name decides."""
    if _looks_like_json_rows(text):
        return named if named == "jsonl" else "json"
    if named in ("json", "jsonl") and not _may_be_json(text, named):
        begins = " ".join(text.split())[:40]
        raise DatasetError(
            f"{name} holds no JSON: it begins with {begins!r}. Rename it to what it is, or export "
            "it again."
        )
    if named in ("parquet", "arrow"):
        raise DatasetError(
            f"{name} is not {NAME_OF_TYPE[named]}: it holds text. Rename it to what it is."
        )
    if named is None:
        raise DatasetError(f"{name} is of no type that Tuner reads. Give {ACCEPTED}.")
    return named


def _may_be_json(text: str, named: Type) -> bool:
    """JSON Lines may begin with a bad line; any line that looks like a row will do."""
    lines = text.splitlines() if named == "jsonl" else [text]
    return any(line.lstrip().startswith(("[", "{")) for line in lines)


def _looks_like_json_rows(text: str) -> bool:
    """An object or a list of objects. A brace alone may be prose: the first object must parse."""
    if not _JSON_ROWS.match(text):
        return False
    start = text.index("{")
    try:
        json.JSONDecoder().raw_decode(text, start)
    except RecursionError:
        return True
    except json.JSONDecodeError as error:
        # An object longer than the head breaks off at its end, and only there.
        return error.pos >= len(text) - 1 or "Unterminated" in error.msg
    return True


def _note(name: str, named: Type | None, found: Type) -> str | None:
    """JSON and JSON Lines are told apart, and said, in json_rows.py, which reads further."""
    if named is None or named == found:
        return None
    return f"{name} holds {NAME_OF_TYPE[found]} and is read as that."
