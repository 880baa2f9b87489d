"""
What became of every row: the report that stands beside the prepared data as report.json.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from tuner.data.examples import Kind

REPORT_FILE = "report.json"
LINES_KEPT = 20  # of each reason; the count is always whole
LINES_TOLD = 5  # in a sentence
REASONS_KEPT = 50


class Dropped(TypedDict):
    """Rows that were read but cannot be trained on, for one reason."""

    count: int
    lines: list[int]


class Recognised(TypedDict):
    """What the columns were taken for, and why."""

    format: str
    reason: str
    columns: dict[str, list[str]]
    all_columns: list[str]


class DataReport(TypedDict):
    """The outcome of preparing a data set.

    `rows` = rows of examples (`kept` + `duplicates`) + `dropped` + bad rows; for plain text, one
    row may become several examples. `kept` = `train_rows` + `eval_rows` + rows not drawn.

    Attributes:
        rows: Rows read, bad ones included.
        kept: Different, usable examples.
        dropped: Reason → count and the first lines.
        duplicates: Examples that repeat an earlier one; never used.
        bad_rows: The first of them: file, line, reason. `bad_row_count` is whole.
        fingerprint: SHA-256 (hex) of the contents of all train, then all eval rows.
        source: What was read, for a person; `revision` is the commit of a Hub dataset.
        license: As the Hub states it, if it does.
        notes: What reading found out, nothing being wrong.
        warnings: What may be wrong, a sentence each.
    """

    rows: int
    kept: int
    dropped: dict[str, Dropped]
    duplicates: int
    bad_rows: list[dict[str, Any]]
    bad_row_count: int
    recognised: Recognised
    kind: Kind
    train_rows: int
    eval_rows: int
    fingerprint: str
    source: str
    revision: str | None
    license: str | None
    notes: list[str]
    warnings: list[str]


def load_report(directory: Path) -> DataReport | None:
    """The report of a directory in which data was prepared to the end, else None."""
    try:
        report: DataReport = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return report


class Tally:
    """Counts rows while they are converted."""

    def __init__(self) -> None:
        self.rows = 0
        self.dropped: dict[str, Dropped] = {}
        self.labels: Counter[bool] = Counter()

    def drop(self, reason: str, line: int) -> None:
        """Count a row that cannot be used."""
        if reason not in self.dropped and len(self.dropped) == REASONS_KEPT:
            reason = "other reasons"
        entry = self.dropped.setdefault(reason, {"count": 0, "lines": []})
        entry["count"] += 1
        if len(entry["lines"]) < LINES_KEPT:
            entry["lines"].append(line)

    @property
    def dropped_count(self) -> int:
        """Rows that cannot be used."""
        return sum(entry["count"] for entry in self.dropped.values())

    def sentences(self) -> list[str]:
        """One for each reason, the most frequent first."""
        by_count = sorted(self.dropped.items(), key=lambda item: -item[1]["count"])
        return [f"{reason}, {_rows(entry)}" for reason, entry in by_count]


def where(entry: Mapping[str, Any]) -> str:
    """The first lines of what was dropped, as an editor numbers them.

    >>> where({"count": 2, "lines": [238, 1860]})
    'lines 238, 1860'
    """
    numbers = ", ".join(map(str, entry["lines"][:LINES_TOLD]))
    more = ", …" if entry["count"] > LINES_TOLD else ""
    return f"{'line' if entry['count'] == 1 else 'lines'} {numbers}{more}"


def _rows(entry: Dropped) -> str:
    rows = "row" if entry["count"] == 1 else "rows"
    return f"{entry['count']:,} {rows} ({where(entry)})"
