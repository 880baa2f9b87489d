"""
A folder as a zip, made while it is read.

    for chunk in zip_chunks(run.adapter_dir): send(chunk)

The zip is never whole anywhere, neither in memory nor on the disk. Regular files inside the folder
only: links are not followed, and an optimizer's state is left out.
"""

import io
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

CHUNK_BYTES = 1_000_000
OPTIMIZER = ("optimizer.", "scheduler.", "scaler.", "rng_state")
FIRST_YEAR = 1980  # of a zip's calendar
MODE = 0o644 << 16


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
            with open_regular(path) as source, archive.open(_info(name, source), "w") as member:
                while chunk := source.read(CHUNK_BYTES):
                    member.write(chunk)
                    yield outlet.take()
    yield outlet.take()


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, be it exchanged for a link or a pipe in this very moment."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file.")
    return os.fdopen(descriptor, "rb")


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
