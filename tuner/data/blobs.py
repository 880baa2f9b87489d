"""
A Blob: named bytes that can be opened again and again, on disk, in a zip or behind gzip.

Whatever is unpacked is counted while it is read, so a file that says it is small and unpacks to
terabytes is stopped on the way. Nothing is unpacked to disk, except into a nameless temporary file
for formats that jump around (Parquet, Arrow).
"""

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

from tuner.errors import DatasetError

MAX_UNPACKED_BYTES = 16 << 30
MAX_RATIO = 200  # unpacked over packed; prose and tables pack 3 to 30 times
RATIO_MATTERS_ABOVE = 64 << 20  # bytes unpacked; below, any ratio is harmless
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Blob:
    """Named bytes.

    Attributes:
        name: Shown to people; its extension is a hint of the type.
        size: Bytes as stored, before gzip is undone.
        open: A fresh stream from the first byte on.
        path: Where the bytes lie as they are, if they do.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    path: Path | None = None

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or all there are."""
        with self.open() as stream:
            return stream.read(size)


def local_blob(path: Path, name: str | None = None) -> Blob:
    """A file on disk.

    Raises:
        DatasetError: It cannot be opened.
    """
    name = name or shown_name(path)

    def open_file() -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError as error:
            raise DatasetError(f"{name} cannot be read: {error.strerror}.") from error

    return Blob(name, path.stat().st_size, open_file, path)


def shown_name(path: Path) -> str:
    """The last part of a path; bytes of it that are no UTF-8 become question marks."""
    name = path.name if path.name not in ("", "..") else path.resolve().name
    return name.encode(errors="replace").decode()


def is_gzip(blob: Blob) -> bool:
    """Whether its content, whatever its name, is gzip."""
    return blob.head(2) == GZIP_MAGIC


def gunzipped(blob: Blob) -> Blob:
    """The same file without its gzip layer; `table.csv.gz` is named `table.csv`."""

    def open_unpacked() -> IO[bytes]:
        packed = blob.open()
        return checked(gzip.GzipFile(fileobj=packed), blob.name, blob.size, packed)

    name = blob.name[:-3] if blob.name.lower().endswith(".gz") else blob.name
    return replace(blob, name=name, open=open_unpacked, path=None)


def checked(
    stream: IO[bytes] | gzip.GzipFile, name: str, packed: int, beneath: IO[bytes] | None = None
) -> IO[bytes]:
    """Count what a decompressing stream gives, and say its errors in sentences.

    Args:
        packed: Bytes before unpacking.
        beneath: Closed along with the stream, which does not do that itself.
    """
    closing = [stream, beneath] if beneath else [stream]
    return io.BufferedReader(_CheckedStream(stream, name, packed, closing), 1 << 16)


class _CheckedStream(io.RawIOBase):
    def __init__(
        self,
        stream: IO[bytes] | gzip.GzipFile,
        name: str,
        packed: int,
        closing: list[IO[bytes] | gzip.GzipFile],
    ):
        self._stream, self._name, self._packed = stream, name, max(packed, 1)
        self._closing = closing
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except EOFError:
            raise DatasetError(
                f"{self._name} ends too early: it was cut off. Upload it again."
            ) from None
        except (BadZipFile, gzip.BadGzipFile, zlib.error, OSError) as error:
            raise DatasetError(
                f"{self._name} cannot be unpacked: it is damaged ({str(error)[:80]}). "
                "Pack it again."
            ) from None
        self._count(len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            for stream in self._closing:
                stream.close()
        super().close()

    def _count(self, size: int) -> None:
        self._unpacked += size
        refuse_bomb(self._name, self._packed, self._unpacked)


def refuse_bomb(name: str, packed: int, unpacked: int) -> None:
    """Refuse what unpacks to far more than data does.

    Raises:
        DatasetError: More than MAX_UNPACKED_BYTES, or beyond MAX_RATIO.
    """
    too_dense = unpacked > RATIO_MATTERS_ABOVE and unpacked > MAX_RATIO * packed
    if too_dense or unpacked > MAX_UNPACKED_BYTES:
        raise DatasetError(
            f"{name} unpacks to more than {unpacked >> 20:,} MB from {packed / (1 << 20):,.1f} MB: "
            "that is a zip bomb, not data. Give the unpacked file itself."
        )


@contextmanager
def seekable(blob: Blob, cache_dir: Path | None = None) -> Iterator[IO[bytes]]:
    """A stream that can seek: the file itself, or a temporary copy that is gone afterwards."""
    if blob.path is not None:
        with blob.open() as stream:
            yield stream
        return
    with tempfile.TemporaryFile(dir=cache_dir) as copy, blob.open() as stream:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield copy
