"""
What of a run can be downloaded: its weights as a zip that is made while it is sent, and its files.

    for chunk in zip_chunks(run.adapter_dir): send(chunk)

The zip is never whole anywhere, neither in memory nor on the disk. Regular files inside the folder
only: links are not followed, and an optimizer's state is left out. train.log is written by the
training process itself, so secrets are taken out of it here, as out of a recipe.
Not covered: who may download; see routes.py.
"""

import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from tuner.runs.redact import redact
from tuner.runs.run import Run
from tuner.runs.status import ENDED_STATES

CHUNK_BYTES = 1_000_000
REDACTED_BYTES = 64_000  # at once: other threads wait for a regular expression
OPTIMIZER = ("optimizer.", "scheduler.", "scaler.", "rng_state")
FIRST_YEAR = 1980  # of a zip's calendar
MODE = 0o644 << 16


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


def members(folder: Path) -> list[tuple[str, Path]]:
    """The regular files in a folder and its folders: name inside the zip, and path; sorted."""
    return sorted(_members(folder, folder.name))


def zip_chunks(folder: Path) -> Iterator[bytes]:
    """A zip of a folder, made while it is read.

    Raises:
        OSError: A file went away or cannot be read.
    """
    outlet = _Outlet()
    with ZipFile(outlet, "w", ZIP_STORED, allowZip64=True) as archive:
        for name, path in members(folder):
            with _open(path) as source, archive.open(_info(name, source), "w") as member:
                while chunk := source.read(CHUNK_BYTES):
                    member.write(chunk)
                    yield outlet.take()
    yield outlet.take()


class _Outlet(io.RawIOBase):
    """Where ZipFile writes to; it cannot seek, so sizes follow the contents."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._written.append(piece)
        return len(piece)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def _members(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            inside = f"{name}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _members(Path(entry.path), inside)
            elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(OPTIMIZER):
                yield inside, Path(entry.path)


def _info(name: str, source: BinaryIO) -> ZipInfo:
    found = os.fstat(source.fileno())
    changed = time.localtime(found.st_mtime)[:6]
    info = ZipInfo(name, changed if changed[0] >= FIRST_YEAR else (FIRST_YEAR, 1, 1, 0, 0, 0))
    info.external_attr = MODE
    info.file_size = found.st_size  # by which zipfile sees that a file needs ZIP64
    return info


def _open(path: Path) -> BinaryIO:
    """Open a regular file, be it exchanged for a link or a pipe in this very moment."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file.")
    return os.fdopen(descriptor, "rb")


def _file_chunks(path: Path) -> Iterator[bytes]:
    with _open(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _redacted_lines(path: Path) -> Iterator[bytes]:
    # Whole lines, so that no secret lies across two pieces.
    with _open(path) as file:
        while lines := file.readlines(REDACTED_BYTES):
            yield redact(b"".join(lines).decode("utf-8", errors="replace")).encode()


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0
