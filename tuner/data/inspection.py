"""
Look at a data set before anything is written: its columns, first rows, and what they were taken
for. What the page shows for correction, and the first step of preparing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from tuner.data.cell_values import encodable
from tuner.data.examples import Example, RowError
from tuner.data.formats import Format, recognise
from tuner.data.rows import BadRow, RawRow, Source
from tuner.data.sources import open_source
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings

SAMPLE_ROWS = 200
BAD_ROWS_SHOWN = 10


@dataclass(frozen=True)
class Inspection:
    """What the first rows say.

    Attributes:
        description: What was opened.
        columns: All columns met in the first SAMPLE_ROWS rows, in order.
        rows: Those rows.
        format: What they were taken for; None where `problem` says why not.
        problem: A sentence, or None.
        examples: The first rows that can be used, converted.
        bad_rows: Rows among the first that cannot be read.
        notes: What reading found out.
    """

    description: str
    columns: list[str]
    rows: list[RawRow]
    format: Format | None
    problem: str | None
    examples: list[Example] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inspect_dataset(
    dataset: DatasetSettings, objective: str, *, examples: int = 5, token: str | None = None
) -> Inspection:
    """Open a data set and recognise its first rows; only these are read (of a Hub dataset, all).

    Args:
        examples: How many converted rows to return.

    Raises:
        DatasetError: It cannot be opened or read, or has no rows. Columns that are not recognised
            are no error here but a `problem`.
    """
    source = open_source(dataset, token=token)
    columns, sample, _ = first_rows(source)
    try:
        found, problem = _recognised(source, columns, sample, dataset, objective), None
    except DatasetError as error:
        found, problem = None, str(error)
    return Inspection(
        description=source.description,
        columns=columns,
        rows=sample,
        format=found,
        problem=problem,
        examples=list(islice(_converted(found, sample), examples)),
        bad_rows=source.bad_rows,
        notes=source.notes,
    )


def recognise_source(
    source: Source, dataset: DatasetSettings, objective: str
) -> tuple[Format, list[str], Iterator[RawRow]]:
    """Recognise a source by its first rows.

    Returns:
        The format, all columns met in those rows, and all rows from the first on.

    Raises:
        DatasetError: No rows, or as `formats.recognise`.
    """
    columns, sample, rows = first_rows(source)
    return _recognised(source, columns, sample, dataset, objective), columns, rows


def first_rows(source: Source) -> tuple[list[str], list[RawRow], Iterator[RawRow]]:
    """Columns and rows of the start of a source, and all rows from the first on.

    Raises:
        DatasetError: There are none.
    """
    rows = iter(source)
    sample = list(islice(rows, SAMPLE_ROWS))
    if not sample:
        require_good_rows(source)
        raise DatasetError(f"{source.description} holds no rows. Give a file with rows.")
    columns = dict.fromkeys(str(name) for row in sample for name in row.values)
    if broken := [name for name in columns if encodable(name) != name]:
        raise DatasetError(
            f"{source.description}: the column name {broken[0]!r} holds half a character. "
            "Rename the column."
        )
    return list(columns), sample, chain(sample, rows)


def require_good_rows(source: Source) -> None:
    """Refuse a source some of whose rows could not be read.

    Raises:
        DatasetError: Names the first BAD_ROWS_SHOWN, and the remedy.
    """
    if not source.bad_row_count:
        return
    shown = source.bad_rows[:BAD_ROWS_SHOWN]
    more = source.bad_row_count - len(shown)
    rows = "row that cannot be read" if source.bad_row_count == 1 else "rows that cannot be read"
    raise DatasetError(
        [
            f"{source.description} has {source.bad_row_count:,} {rows}. Repair it, or leave bad "
            "rows out with --skip-bad-rows (dataset.skip_bad_rows).",
            *map(str, shown),
            *([f"and {more:,} more"] if more else []),
        ]
    )


def _recognised(
    source: Source,
    columns: list[str],
    sample: list[RawRow],
    dataset: DatasetSettings,
    objective: str,
) -> Format:
    values = [row.values for row in sample]
    return recognise(columns, values, dataset.columns, objective, name=source.description)


def _converted(found: Format | None, rows: list[RawRow]) -> Iterator[Example]:
    for row in rows if found else []:
        try:
            yield found.convert(row.values)  # type: ignore[union-attr]
        except RowError:
            continue
