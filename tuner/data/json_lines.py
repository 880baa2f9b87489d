"""
Rows of JSON Lines: each line an object of its own, streamed.

A line that is no row is reported with its number and passed over; so is a line whose bytes are not
UTF-8, because the lines around it are still good.
"""

import json
from collections.abc import Iterator
from typing import IO, Any

from tuner.data.blobs import Blob
from tuner.data.decoding import open_text
from tuner.data.rows import RawRow, ReadLog
from tuner.errors import DatasetError

MAX_LINE = 64 << 20  # bytes


class NotARow(ValueError):
    """Why a piece of JSON is not a row."""


def read_lines(blob: Blob, encoding: str, log: ReadLog) -> Iterator[RawRow]:
    """Rows in the order of their lines; blank lines are none.

    Raises:
        DatasetError: A line of more than MAX_LINE bytes.
    """
    if encoding == "utf-16":
        yield from _read_text_lines(blob, encoding, log)
        return
    with blob.open() as stream:
        for number, line in _utf8_lines(stream, blob.name):
            try:
                text = _decode(line)
                if text and not text.isspace():
                    yield RawRow(blob.name, number, parse_object(text))
            except NotARow as problem:
                log.bad(blob.name, number, str(problem))


def _read_text_lines(blob: Blob, encoding: str, log: ReadLog) -> Iterator[RawRow]:
    """UTF-16, whose line ends are not bytes."""
    with open_text(blob, encoding) as stream:
        for number, text in enumerate(stream, 1):
            try:
                if not text.isspace():
                    yield RawRow(blob.name, number, parse_object(text))
            except NotARow as problem:
                log.bad(blob.name, number, str(problem))


def _utf8_lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise DatasetError(
                f"{name} line {number:,} is longer than {MAX_LINE >> 20} MB. "
                "In JSON Lines each row has a line of its own."
            )
        yield number, line


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise NotARow(f"not UTF-8: byte 0x{byte:02X} at byte {error.start + 1} of it") from None


def parse_object(text: str) -> dict[str, Any]:
    """One row's JSON.

    Raises:
        NotARow: Cut off, not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if is_cut_off(error):
            raise NotARow("the JSON is cut off") from None
        raise NotARow(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise NotARow(hostile(error)) from None
    return require_object(value)


def require_object(value: Any) -> dict[str, Any]:
    """The value, if it is an object with something in it."""
    if isinstance(value, dict):
        return value
    kind = {list: "list", str: "string", bool: "truth value", type(None): "null"}
    raise NotARow(f"a JSON {kind.get(type(value), 'number')}, not an object")


def is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether the JSON breaks off at its end, rather than being wrong before it."""
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")


def hostile(error: Exception) -> str:
    """Why JSON that may be well-formed is still refused: depth, or numbers of endless digits."""
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    return f"not JSON: {str(error).split(';')[0]}"
