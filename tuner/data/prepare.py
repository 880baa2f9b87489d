"""
A data set to train.jsonl, eval.jsonl and report.json in a run's data folder.

One pass reads, recognises, converts and spools the examples to disk; of each row only two hashes
stay in memory (16 bytes), by which duplicates are found and rows drawn and split. A second pass
copies the chosen rows out. report.json is written last: where it stands, the data is complete.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuner.data.columns import listed
from tuner.data.conversations import NO_ANSWER, with_system_prompt
from tuner.data.data_report import REPORT_FILE, DataReport, Recognised, Tally, load_report
from tuner.data.documents import CHARACTERS_PER_TOKEN, document_spans
from tuner.data.examples import Example, RowError
from tuner.data.formats import Format
from tuner.data.inspection import recognise_source, require_good_rows
from tuner.data.rows import RawRow, Source
from tuner.data.sources import open_source
from tuner.data.splitting import drawn, first_of_each, split
from tuner.data.spool import Spool
from tuner.data.stored import load_examples
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings

__all__ = ["DataReport", "load_examples", "load_report", "prepare_dataset"]

PROGRESS_ROWS = 1000
REASONS_SHOWN = 5

Progress = Callable[[int], None]


def prepare_dataset(
    dataset: DatasetSettings,
    objective: str,
    directory: Path,
    *,
    max_length: int = 1024,
    token: str | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """Read a data set and write its two sides.

    Args:
        objective: "sft", "dpo" or "kto"; decides what examples are made.
        directory: Made if missing; train.jsonl, eval.jsonl and report.json in it are replaced.
        max_length: Tokens of a row; plain text is cut into pieces of about so many.
        token: For private and gated Hub datasets; never stored.
        progress: Called with the rows read so far, every PROGRESS_ROWS.

    Returns:
        The report, as `load_report(directory)` gives it later.

    Raises:
        DatasetError: The source cannot be opened, read or recognised; bad rows without
            skip_bad_rows; no usable row; no place to write.
    """
    source = open_source(dataset, token=token)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / REPORT_FILE).unlink(missing_ok=True)
        return _prepare(source, dataset, objective, directory, max_length, progress)
    except OSError as error:
        raise DatasetError(
            f"{source.description} cannot be prepared in {directory}: {error.strerror or error}. "
            "Check the free disk space and who may write there."
        ) from error


def _prepare(
    source: Source,
    dataset: DatasetSettings,
    objective: str,
    directory: Path,
    max_length: int,
    progress: Progress | None,
) -> DataReport:
    found, columns, rows = recognise_source(source, dataset, objective)
    converter = _Converter(found, dataset.system_prompt, max_length * CHARACTERS_PER_TOKEN)
    tally = Tally()
    with Spool(directory) as spool:
        for row in rows:
            _convert_row(row, converter, spool, tally)
            if progress and tally.rows % PROGRESS_ROWS == 0:
                progress(tally.rows)
        if not dataset.skip_bad_rows:
            require_good_rows(source)
        _require_examples(len(spool), tally, source, found)
        different = first_of_each(spool.contents)
        chosen = drawn(spool.contents, different, dataset.max_rows, dataset.seed)
        sides = split(spool.prompts, chosen, dataset.eval_fraction, dataset.seed)
        fingerprint = spool.write_sides(sides)
        duplicates = len(spool) - len(different)
    warnings = _warnings(source, dataset, tally, duplicates, found, fingerprint)
    report = DataReport(
        rows=tally.rows + source.bad_row_count,
        kept=len(different),
        dropped=tally.dropped,
        duplicates=duplicates,
        bad_rows=[asdict(row) for row in source.bad_rows],
        bad_row_count=source.bad_row_count,
        recognised=_recognised(source, found, columns, dataset.columns),
        kind=found.kind,
        train_rows=len(sides.train),
        eval_rows=len(sides.held_out),
        fingerprint=fingerprint,
        source=source.description,
        revision=source.revision,
        license=source.license,
        notes=source.notes,
        warnings=[*warnings, *sides.warnings],
    )
    _write_report(directory, report)
    return report


def _convert_row(row: RawRow, converter: "_Converter", spool: Spool, tally: Tally) -> None:
    tally.rows += 1
    try:
        for example, line in converter.examples(row):
            spool.add(example, row.file, line)
            if "label" in example:
                tally.labels[example["label"]] += 1
    except RowError as reason:
        tally.drop(str(reason), row.line)


class _Converter:
    """Rows to examples of one format, with the system prompt, and long texts cut."""

    def __init__(self, found: Format, system_prompt: str | None, max_chars: int):
        self._format = found
        self._system_prompt = system_prompt
        self._max_chars = max_chars

    def examples(self, row: RawRow) -> Iterator[tuple[Example, int]]:
        """Examples of one row, each with the line it begins on."""
        example = self._format.convert(row.values)
        if "text" in example:
            yield from self._pieces(row, example["text"])
            return
        opening = "messages" if "messages" in example else "prompt"
        example[opening] = with_system_prompt(example[opening], self._system_prompt)
        yield example, row.line

    def _pieces(self, row: RawRow, text: str) -> Iterator[tuple[Example, int]]:
        if row.document:
            text = row.values["text"]  # as it stands in the file, so that lines can be counted
        line, counted = row.line, 0
        for start, end in document_spans(text, self._max_chars):
            if row.document:
                line += text.count("\n", counted, start)
                counted = start
            yield {"text": text[start:end]}, line


def _require_examples(examples: int, tally: Tally, source: Source, found: Format) -> None:
    if examples:
        return
    empty = tally.dropped.get(NO_ANSWER)
    if empty and empty["count"] == tally.rows:
        columns = next((found.columns[r] for r in ("answer", "chosen") if r in found.columns), [])
        where = f" (column {listed(columns)})" if columns else ""
        raise DatasetError(
            f"{source.description}: all {tally.rows:,} answers are empty{where}. "
            "Choose another column with --map answer=COLUMN"
        )
    raise DatasetError(
        f"{source.description}: none of its {tally.rows:,} rows can be used. "
        f"{'; '.join(tally.sentences()[:REASONS_SHOWN])}."
    )


def _recognised(
    source: Source, found: Format, columns: list[str], mapping: Mapping[str, Any]
) -> Recognised:
    made = source.meaning if source.meaning and not mapping else None
    return Recognised(
        format="code" if made else found.name,
        reason=f"{made}." if made else found.reason,
        columns=found.columns,
        all_columns=columns,
    )


def _warnings(
    source: Source,
    dataset: DatasetSettings,
    tally: Tally,
    duplicates: int,
    found: Format,
    fingerprint: str,
) -> Iterator[str]:
    if source.bad_row_count:
        yield f"Left out: unreadable, {_rows(source.bad_row_count)} ({source.bad_rows[0]})."
    for sentence in tally.sentences()[:REASONS_SHOWN]:
        yield f"Left out: {sentence}."
    if duplicates:
        yield f"Left out: repeats of an earlier row, {_rows(duplicates)}."
    if dataset.system_prompt and found.kind == "text":
        yield "dataset.system_prompt is not used: plain text has no turns."
    if len(tally.labels) == 1:
        yield f"All answers have the same label ({next(iter(tally.labels))}); kto learns from both."
    if source.license and "nc" in source.license.lower().split("-"):
        yield f"The licence of {source.description}, {source.license}, forbids commercial use."
    if dataset.fingerprint and dataset.fingerprint != fingerprint:
        yield "The rows are not the ones this recipe was made with: their fingerprint differs."


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _write_report(directory: Path, report: DataReport) -> None:
    aside = directory / f"{REPORT_FILE}.partial"
    aside.write_text(json.dumps(report, ensure_ascii=False, indent=2), encoding="utf-8")
    os.replace(aside, directory / REPORT_FILE)
