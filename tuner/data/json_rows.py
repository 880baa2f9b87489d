"""
Rows of a file that holds JSON: as lines, as a list, or as an object; content decides, not the name.
"""

import json
from collections.abc import Iterator

from tuner.data.blobs import Blob
from tuner.data.json_lines import read_lines
from tuner.data.json_list import JSON_SPACE, read_list
from tuner.data.json_object import read_object
from tuner.data.rows import RawRow, ReadLog

HEAD_BYTES = 4 << 20  # two lines, unless rows are enormous


def read_json(
    blob: Blob, encoding: str, named: str | None, split: str, log: ReadLog
) -> Iterator[RawRow]:
    """Rows of a file that holds JSON in whatever arrangement.

    Args:
        named: "json" or "jsonl", as its extension says; the other one is read all the same and
            noted.
        split: Which list to take from an object with several.

    Raises:
        DatasetError: Nothing in it can be read, or its shape is ambiguous.
    """
    arrangement = _arrangement(blob, encoding, named)
    if arrangement == "lines":
        if named == "json":
            log.note(f"{blob.name} holds JSON Lines and is read as that.")
        return read_lines(blob, encoding, log)
    if named == "jsonl":
        log.note(f"{blob.name} holds one JSON {arrangement} and is read as that.")
    if arrangement == "list":
        return read_list(blob, encoding, log)
    return read_object(blob, encoding, split, log)


def _arrangement(blob: Blob, encoding: str, named: str | None) -> str:
    """lines, list or object: from the first two lines that hold anything."""
    # Errors of encoding are found, and placed, by the reading itself.
    text = blob.head(HEAD_BYTES).decode(encoding, "ignore")
    first, _, rest = text.lstrip(JSON_SPACE).partition("\n")
    second = rest.lstrip(JSON_SPACE).partition("\n")[0]
    row_follows = second.startswith("{") and _parses(second)
    if second and second[0] in "{[" and _parses(first):
        return "lines"
    if named == "jsonl" and (row_follows or not first.startswith("[")):
        # Pretty-printed JSON under the wrong name has its first bracket on a line of its own.
        return {"[": "list", "{": "object"}.get(first.strip(), "lines")
    if first.startswith("["):
        return "list"
    # A first line that was meant as a row, but is broken, closes; the start of an object does not.
    return "lines" if row_follows and first.rstrip().endswith("}") else "object"


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
