"""
Running text: plain text and Markdown in, and text cut into pieces that a model can hold.

Cuts are made where a reader would make them: between paragraphs, else lines, sentences, words, and
inside a word only where nothing else is left.
"""

import re
from collections.abc import Iterator

from tuner.data.blobs import Blob
from tuner.data.decoding import open_text
from tuner.data.rows import RawRow

CHARACTERS_PER_TOKEN = 4  # about right for English; other languages have fewer
PIECE = 1 << 20  # characters of a document held in memory at once

_PARAGRAPH = r"\n[ \t]*\n\s*"
_SENTENCE = r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])"  # Chinese and Japanese put no space
_BREAKS = tuple(map(re.compile, (_PARAGRAPH, r"\n", _SENTENCE, r"\s+")))

Span = tuple[int, int]


def read_document(blob: Blob, encoding: str) -> Iterator[RawRow]:
    """The document as one row, `text`; a long one in pieces that end between paragraphs.

    Raises:
        DatasetError: Text in the wrong encoding.
    """
    with open_text(blob, encoding) as stream:
        piece, size, line, start = [], 0, 0, 1
        while part := stream.readline(PIECE):
            line += part.endswith("\n")
            piece.append(part)
            size += len(part)
            if size >= PIECE and (part.isspace() or size >= 2 * PIECE):
                yield RawRow(blob.name, start, {"text": "".join(piece)}, document=True)
                piece, size, start = [], 0, line + 1
        if piece:
            yield RawRow(blob.name, start, {"text": "".join(piece)}, document=True)


def split_document(text: str, max_chars: int) -> list[str]:
    """Cut text into pieces of at most max_chars characters, none empty.

    >>> split_document("One two.\\n\\nThree.", 10)
    ['One two.', 'Three.']
    """
    return [text[start:end] for start, end in document_spans(text, max_chars)]


def document_spans(text: str, max_chars: int) -> list[Span]:
    """As `split_document`: half-open [start, end) character ranges, without outer white space."""
    spans = _merged(_cut(text, 0, len(text), max_chars, 0), max_chars)
    trimmed = (_trimmed(text, span) for span in spans)
    return [(start, end) for start, end in trimmed if start < end]


def _cut(text: str, start: int, end: int, max_chars: int, level: int) -> Iterator[Span]:
    """Ranges that cover [start, end), each at most max_chars long."""
    if end - start <= max_chars:
        yield start, end
    elif level == len(_BREAKS):
        for at in range(start, end, max_chars):
            yield at, min(at + max_chars, end)
    else:
        begin = start
        for match in _BREAKS[level].finditer(text, start, end):
            if match.end() > begin:
                yield from _cut(text, begin, match.end(), max_chars, level + 1)
                begin = match.end()
        if begin < end:
            yield from _cut(text, begin, end, max_chars, level + 1)


def _merged(spans: Iterator[Span], max_chars: int) -> Iterator[Span]:
    """Join neighbours as long as they fit together."""
    start = end = 0
    for span in spans:
        if span[1] - start > max_chars and end > start:
            yield start, end
            start = end
        end = span[1]
    yield start, end


def _trimmed(text: str, span: Span) -> Span:
    """Without white space at the end, and without blank lines (but with indentation) before it."""
    start, end = span
    end = start + len(text[start:end].rstrip())
    blank = re.compile(r"(?:[ \t]*\r?\n)*").match(text, start, end)
    return (blank.end() if blank else start), end
