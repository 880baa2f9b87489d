"""
What of a run can be downloaded: its weights as a zip that is made while it is sent, and its files.

    for chunk in download(run, "adapter.zip").chunks(): send(chunk)

train.log is written by the training process itself, so secrets are taken out of it here, as out of
a recipe.
Not covered: the zip itself (export/zip_stream.py), who may download (routes.py).
"""

import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tuner.export.zip_stream import CHUNK_BYTES, members, open_regular, zip_chunks
from tuner.runs.redact import redact
from tuner.runs.run import Run
from tuner.runs.status import ENDED_STATES

REDACTED_BYTES = 64_000  # at once: other threads wait for a regular expression


@dataclass(frozen=True)
class Download:
    """One thing that can be downloaded.

    Attributes:
        path: A file, or the folder that becomes a zip.
        redacted: Whether secrets are taken out of its text.
        grows: Written to as long as the run is at work, so that its size says little.
    """

    name: str
    label: str
    path: Path
    media_type: str
    redacted: bool = False
    grows: bool = False

    @property
    def is_zip(self) -> bool:
        return self.name.endswith(".zip")

    def is_there(self) -> bool:
        """Whether it can be downloaded now."""
        mode = _mode(self.path)
        return stat.S_ISDIR(mode) if self.is_zip else stat.S_ISREG(mode)

    def size(self, state: str) -> int | None:
        """Its bytes; of a zip, of what is in it. None when that changes all the time."""
        if self.grows and state not in ENDED_STATES:
            return None
        with suppress(OSError):
            if self.is_zip:
                return sum(path.stat().st_size for _, path in members(self.path))
            return self.path.stat().st_size
        return None

    def chunks(self) -> Iterator[bytes]:
        """Its content, piece by piece.

        Raises:
            OSError: While reading; what was sent is then not whole, and must not look so.
        """
        if self.is_zip:
            return zip_chunks(self.path)
        return _redacted_lines(self.path) if self.redacted else _file_chunks(self.path)


def downloads(run: Run) -> list[Download]:
    """What of this run can be downloaded now."""
    text, lines = "text/plain; charset=utf-8", "application/jsonl"
    known = [
        Download("adapter.zip", "Adapter (zip)", run.adapter_dir, "application/zip"),
        Download("model.zip", "Model (zip)", run.model_dir, "application/zip"),
        Download("recipe.yaml", "Recipe", run.recipe_path, text, redacted=True),
        Download("result.json", "Result", run.result_path, "application/json"),
        Download("events.jsonl", "Events", run.events_path, lines, grows=True),
        Download("train.log", "Log of the process", run.log_path, text, redacted=True, grows=True),
    ]
    return [download for download in known if download.is_there()]


def download(run: Run, name: str) -> Download | None:
    """The download of exactly this name, if it is there now."""
    return next((found for found in downloads(run) if found.name == name), None)


def _file_chunks(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _redacted_lines(path: Path) -> Iterator[bytes]:
    # Whole lines, so that no secret lies across two pieces.
    with open_regular(path) as file:
        while lines := file.readlines(REDACTED_BYTES):
            yield redact(b"".join(lines).decode("utf-8", errors="replace")).encode()


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0
