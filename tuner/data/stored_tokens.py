"""
Prepared rows with their tokens, handed from the preview of a data set to the run that trains on it.

    data/train.jsonl  eval.jsonl  report.json
    data/tokens/train.arrow  eval.arrow  tokens.json

The run takes the tokens only where it would make the same ones itself: tokens.json, written last,
names all that decides them, the rows' own bytes included. What is damaged, cut short or of another
tokenizer is passed over, and the run makes its own.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import transformers

from tuner.data.data_report import REPORT_FILE
from tuner.data.rendering import Renderer
from tuner.data.stored import Side, sha256
from tuner.data.token_report import TokenReport

if TYPE_CHECKING:
    from datasets import Dataset

FOLDER, FACTS = "tokens", "tokens.json"
# Raised whenever other tokens or labels are made of the same rows.
MADE_BY = [1, tokenizers.__version__, transformers.__version__]
ROWS = ("train.jsonl", "eval.jsonl")


def tokens_path(folder: Path, side: Side) -> Path:
    """Where the tokens of one side are."""
    return folder / f"{side}.arrow"


def save_reports(folder: Path, reports: Mapping[Side, TokenReport], mark: str) -> None:
    """Write tokens.json, once all tokens are in the folder.

    Args:
        mark: See `tokens_mark`.
    """
    facts = {"mark": mark, "reports": {side: asdict(report) for side, report in reports.items()}}
    aside = folder / f"{FACTS}.partial"
    aside.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    os.replace(aside, folder / FACTS)


def load_tokens(folder: Path, side: Side, mark: str) -> "tuple[Dataset, TokenReport] | None":
    """The tokens of one side with their report; None where there are none with this mark."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import MemoryMappedTable

    from tuner.data.tokenized import SCHEMAS

    with suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        facts = json.loads((folder / FACTS).read_bytes())
        report = TokenReport(**facts["reports"][side])
        table = MemoryMappedTable.from_file(str(tokens_path(folder, side)))
        is_whole = table.schema in SCHEMAS.values() and table.num_rows == report.kept
        if facts["mark"] == mark and is_whole:
            return Dataset(table, fingerprint=f"{mark[:16]}-{side}"), report
    return None


def tokens_mark(directory: Path, renderer: Renderer) -> str:
    """SHA-256 of all that decides the tokens of the prepared rows in a directory."""
    tokenizer = renderer.tokenizer
    decides: list[Any] = [
        MADE_BY,
        renderer.max_length,
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,
        hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        *(sha256(directory / name) for name in ROWS),
    ]
    return hashlib.sha256(json.dumps(decides, default=str).encode()).hexdigest()


def hand_over(prepared: Path, data_dir: Path) -> None:
    """Give a run what was prepared elsewhere: all of it, or nothing.

    Args:
        prepared: Where `prepare_dataset` wrote, with the tokens in a folder of their own.
        data_dir: Of a run that has no data yet. The rows are copied, since a run's files are its
            own; the tokens, which nobody edits and which go when the run ends, are linked.

    Raises:
        OSError: There is no room, or the run has data.
    """
    aside = data_dir.with_name(f".{data_dir.name}-{uuid.uuid4().hex[:12]}")
    try:
        (aside / FOLDER).mkdir(parents=True)
        for name in (*ROWS, REPORT_FILE):
            shutil.copyfile(prepared / name, aside / name)
        for path in (prepared / FOLDER).iterdir():
            _link(path, aside / FOLDER / path.name)
        os.rename(aside, data_dir)  # never onto a folder that holds something
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)
