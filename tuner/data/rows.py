"""
Rows as they are read, before anyone knows what their columns mean.

A reader is a generator of RawRow. What it cannot read it reports to a ReadLog and goes on; what
makes the whole file useless it raises as a DatasetError. Whether bad rows are an error is decided
later, by prepare.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

BAD_ROWS_KEPT = 1000  # reported in full; the rest is counted


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a source.

    Attributes:
        file: Name of the file it stands in, as a person knows it.
        line: 1-based line where it starts, or 1-based row number where lines say nothing
            (JSON lists, Parquet, Arrow, Hub data sets).
        values: Column → value, any JSON-like value.
        document: The row is running text, so a line within it is a line of the file.
    """

    file: str
    line: int
    values: dict[str, Any]
    document: bool = False


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read; `line` as in RawRow."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file} line {self.line:,}: {self.reason}"


class ReadLog:
    """What a reader met on its way.

    Attributes:
        bad_rows: The first BAD_ROWS_KEPT of them; `bad_row_count` is whole.
        notes: Sentences that a person should read although nothing is wrong.
    """

    def __init__(self, notes: Sequence[str] = ()):
        self.bad_rows: list[BadRow] = []
        self.bad_row_count = 0
        self.notes: list[str] = list(notes)

    def bad(self, file: str, line: int, reason: str) -> None:
        """Count a row that cannot be read."""
        self.bad_row_count += 1
        if len(self.bad_rows) < BAD_ROWS_KEPT:
            self.bad_rows.append(BadRow(file, line, reason))

    def note(self, sentence: str) -> None:
        """Say something once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


Read = Callable[[ReadLog], Iterator[RawRow]]


class Source:
    """Rows that can be iterated lazily, and again from the start.

    Args:
        description: What is read, for a person: "support.csv", "code repository shop.zip".
        read: Reads all rows once.
        notes: What opening the source already found out.
        license: As the Hub states it.
        revision: Commit of a Hub data set.
        meaning: Why the columns mean what they mean, where the source itself made them.

    `bad_rows`, `bad_row_count` and `notes` describe the latest iteration.
    """

    def __init__(
        self,
        description: str,
        read: Read,
        *,
        notes: Sequence[str] = (),
        license: str | None = None,
        revision: str | None = None,
        meaning: str | None = None,
    ):
        self.description = description
        self.license = license
        self.revision = revision
        self.meaning = meaning
        self._read = read
        self._opening_notes = list(notes)
        self._log = ReadLog(notes)

    def __iter__(self) -> Iterator[RawRow]:
        self._log = ReadLog(self._opening_notes)
        return self._read(self._log)

    @property
    def bad_rows(self) -> list[BadRow]:
        """Rows that could not be read, the first BAD_ROWS_KEPT."""
        return self._log.bad_rows

    @property
    def bad_row_count(self) -> int:
        """How many rows could not be read."""
        return self._log.bad_row_count

    @property
    def notes(self) -> list[str]:
        """What reading found out: "a.json holds JSON Lines and is read as that."."""
        return self._log.notes
