"""
Rows of CSV and TSV, streamed. The first line names the columns; the delimiter is found out.

Quoting is strict: a quote that is never closed would otherwise swallow the rest of the file into
one field, and the file would seem to have fewer rows instead of a mistake.
"""

import csv
from collections.abc import Iterator
from typing import TextIO

from tuner.data.blobs import Blob
from tuner.data.decoding import open_text
from tuner.data.file_types import extension
from tuner.data.rows import RawRow, ReadLog
from tuner.errors import DatasetError

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
SAMPLE_CHARACTERS = 1 << 18
SAMPLE_RECORDS = 50

# A global of the csv module; its default of 128 KB refuses long documents.
csv.field_size_limit(64 << 20)


def read_csv(blob: Blob, encoding: str, log: ReadLog) -> Iterator[RawRow]:
    """Rows with the line they start on; all values are strings, empty ones included.

    Raises:
        DatasetError: No header, or text in the wrong encoding.
    """
    delimiter = _delimiter(blob, encoding, log)
    with open_text(blob, encoding, newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        columns = _columns(reader, blob.name, log)
        line = reader.line_num + 1
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                log.bad(blob.name, line, _reason(error))
            else:
                if len(fields) == len(columns):
                    yield RawRow(blob.name, line, dict(zip(columns, fields, strict=True)))
                elif any(field.strip() for field in fields):
                    log.bad(blob.name, line, f"{len(fields)} fields, not {len(columns)}")
            line = reader.line_num + 1


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text or "field larger" in text:
        return "a quote opened in this row is never closed"
    if "expected after" in text:
        return 'text after a closing quote (a quote inside a field is written "")'
    return text


def _columns(reader: Iterator[list[str]], name: str, log: ReadLog) -> list[str]:
    try:
        header = next((row for row in reader if any(cell.strip() for cell in row)), None)
    except csv.Error as error:
        raise DatasetError(f"{name}, first line: {_reason(error)}.") from None
    if header is None:
        raise DatasetError(f"{name} is empty. Give a file with rows.")
    columns: list[str] = []
    for number, cell in enumerate(header, 1):
        column = cell.strip() or f"column {number}"
        if column in columns:
            log.note(f"{name} has two columns {column}; the later one is called {column}.{number}.")
            column = f"{column}.{number}"
        columns.append(column)
    return columns


def _delimiter(blob: Blob, encoding: str, log: ReadLog) -> str:
    with open_text(blob, encoding, newline="") as stream:
        sample = _whole_lines(stream)
    usual = "\t" if extension(blob.name) in (".tsv", ".tab") else ","
    scores = {mark: _agreement(sample, mark) for mark in DELIMITERS}
    best = max(scores, key=lambda mark: (scores[mark], mark == usual))
    if scores[best] <= 1:
        return usual  # a single column
    if best != usual:
        log.note(f"{blob.name} separates its fields with {DELIMITERS[best]}.")
    return best


def _whole_lines(stream: TextIO) -> list[str]:
    lines = stream.read(SAMPLE_CHARACTERS).splitlines(keepends=True)
    return lines[:-1] if len(lines) > 1 and not lines[-1].endswith(("\n", "\r")) else lines


def _agreement(lines: list[str], delimiter: str) -> float:
    """Columns that this delimiter gives, times the share of records that have as many."""
    widths = []
    try:
        for record in csv.reader(lines, delimiter=delimiter):
            if record:
                widths.append(len(record))
            if len(widths) == SAMPLE_RECORDS:
                break
    except csv.Error:
        return 0.0
    if not widths or widths[0] < 2:
        return 0.0
    return widths[0] * (widths.count(widths[0]) / len(widths)) ** 2
