"""
Bytes to text: UTF-8, with or without a byte order mark, and UTF-16 with one.

Other encodings are refused with the place of the first byte that does not fit, because guessing one
puts wrong letters into the training data without anyone noticing.
"""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tuner.data.blobs import Blob
from tuner.errors import DatasetError

CHUNK = 1 << 20


def encoding_of(head: bytes) -> str:
    """The encoding that the first bytes announce.

    >>> encoding_of(codecs.BOM_UTF16_LE + b"a")
    'utf-16'
    >>> encoding_of(b"plain")
    'utf-8-sig'
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"  # the same as UTF-8 where there is no mark


@contextmanager
def open_text(blob: Blob, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
    """Open as text.

    Args:
        newline: As for `open`: None makes every line end \\n, "" leaves them alone.

    Raises:
        DatasetError: Somewhere while reading, a byte that is not in this encoding.
    """
    with io.TextIOWrapper(blob.open(), encoding=encoding, newline=newline) as stream:
        try:
            yield stream
        except UnicodeDecodeError:
            raise DatasetError(_where_it_breaks(blob, encoding)) from None


def _where_it_breaks(blob: Blob, encoding: str) -> str:
    """A text stream knows the position within its buffer only, so the file is read once more."""
    # Without the mark's own codec: it counts positions from behind the mark.
    decoder = codecs.getincrementaldecoder(encoding.removesuffix("-sig"))()
    position, line = 0, 1
    with blob.open() as stream:
        while chunk := stream.read(CHUNK):
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                at = position - pending + error.start
                return _sentence(blob.name, encoding, error.object[error.start], at, line)
            position += len(chunk)
            line += text.count("\n")
    return f"{blob.name} ends in the middle of a character: it was cut off. Upload it again."


def _sentence(name: str, encoding: str, byte: int, position: int, line: int) -> str:
    shown = "UTF-16" if encoding == "utf-16" else "UTF-8"
    return (
        f"{name} is not {shown}: byte 0x{byte:02X} at position {position:,} (line {line:,}) "
        "does not belong. Save it as UTF-8 (in Excel: CSV UTF-8) and give it again."
    )
