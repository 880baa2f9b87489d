"""
Rows of a JSON list, streamed: one row and a buffer are in memory, never the file.
"""

import json
from collections.abc import Iterator
from typing import Any, TextIO

from tuner.data.blobs import Blob
from tuner.data.decoding import open_text
from tuner.data.json_lines import NotARow, hostile, is_cut_off, require_object
from tuner.data.rows import RawRow, ReadLog
from tuner.errors import DatasetError

CHUNK = 1 << 20  # characters
MAX_ROW = 64 << 20  # characters
JSON_SPACE = " \t\r\n"


def read_list(blob: Blob, encoding: str, log: ReadLog) -> Iterator[RawRow]:
    """Rows numbered from 1. From where the list is broken or cut off, nothing more can be read.

    Raises:
        DatasetError: Broken before the first row.
    """
    number = 0
    with open_text(blob, encoding) as stream:
        scan = ListScan(stream)
        try:
            for value in scan.values():
                number += 1
                try:
                    yield RawRow(blob.name, number, require_object(value))
                except NotARow as problem:
                    log.bad(blob.name, number, str(problem))
        except Broken as problem:
            if number == 0:
                raise DatasetError(f"{blob.name}: its first row: {problem}") from None
            log.bad(blob.name, number + 1, f"{problem}; nothing after it can be read")


class Broken(ValueError):
    """A JSON list that cannot be read on from here."""


class ListScan:
    """Values of one JSON list, decoded one by one from a growing buffer."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._decoder = json.JSONDecoder()
        self._buffer = ""
        self._at = 0
        self._line = 1  # of the buffer's first character
        self._ended = False

    def values(self) -> Iterator[Any]:
        """Yield each value.

        Raises:
            Broken: Cut off, or not JSON; says where.
        """
        self._next_character()
        self._at += 1  # the opening bracket
        if self._next_character() == "]":
            self._at += 1
            return self._require_end()
        while True:
            yield self._value()
            separator = self._next_character()
            self._at += 1
            if separator == "]":
                return self._require_end()
            if separator != ",":
                raise Broken(f"not JSON: no comma before the next row (line {self._here()})")
            self._next_character()

    def _require_end(self) -> None:
        while self._buffer[self._at :].isspace() or self._at == len(self._buffer):
            self._at = len(self._buffer)
            if not self._grow():
                return
        raise Broken(f"not JSON: text after the end of the list (line {self._here()})")

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if not self._grow():
                    raise Broken(self._reason(error)) from None
            except (RecursionError, ValueError) as error:
                raise Broken(f"{hostile(error)} (line {self._here()})") from None
            else:
                # A number at the end of the buffer may go on behind it.
                if end < len(self._buffer) or not self._grow():
                    self._at = end
                    return value

    def _next_character(self) -> str:
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in JSON_SPACE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._grow():
                raise Broken(f"the JSON is cut off (line {self._here()}): the file ends inside it")

    def _grow(self) -> bool:
        """Drop what is done and read more; False at the end, or where a row is impossibly long."""
        rest = self._buffer[self._at :]
        if self._ended or len(rest) > MAX_ROW:
            return False
        self._line += self._buffer.count("\n", 0, self._at)
        more = self._stream.read(max(CHUNK, len(rest)))
        self._ended = not more
        self._buffer, self._at = rest + more, 0
        return True

    def _reason(self, error: json.JSONDecodeError) -> str:
        line = self._line + error.lineno - 1
        if self._ended and is_cut_off(error):
            return f"the JSON is cut off (line {line:,}): the file ends inside it"
        return f"not JSON: {error.msg} (line {line:,})"

    def _here(self) -> str:
        return f"{self._line + self._buffer.count(chr(10), 0, self._at):,}"
