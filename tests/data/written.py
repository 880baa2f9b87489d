"""Small data files, written by tests."""

import csv
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tuner.data.rows import RawRow, Source
from tuner.data.sources import open_source
from tuner.recipe import DatasetSettings

ROWS = [{"instruction": f"Say {n}.", "output": f"{n}!"} for n in range(1, 41)]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Sequence[str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def write_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def source_of(path: Path, **settings: Any) -> Source:
    return open_source(DatasetSettings(source=str(path), **settings))


def read(path: Path, **settings: Any) -> tuple[list[RawRow], Source]:
    """All rows, and the source with what it found out on the way."""
    source = source_of(path, **settings)
    return list(source), source


def values(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return [row.values for row in read(path, **settings)[0]]
