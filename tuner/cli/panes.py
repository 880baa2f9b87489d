"""
Answers as they come: side by side where the terminal is wide enough, else one under the other.

Side by side, the block is drawn anew at every change: as much of its end as fits the screen while
the answers grow, and all of it when they are complete. One under the other, the first answer
streams and the others, which come at the same time, follow when it is complete.
"""

import re
import shutil
import time
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import count, zip_longest
from typing import TextIO

NARROWEST = 36
GAP = " │ "
REDRAW_SECONDS = 0.05


class Panes:
    """Shows the answers of several voices to one question.

    Args:
        stream: A terminal, or a file, which gets one answer under the other.
    """

    def __init__(self, stream: TextIO, names: Sequence[str]):
        self.stream, self.names = stream, list(names)
        self.texts = [""] * len(self.names)
        self.done = [False] * len(self.names)
        screen = shutil.get_terminal_size()
        width = (screen.columns - len(GAP) * (len(names) - 1)) // len(names)
        self.width, self.height = width, screen.lines
        self.side_by_side = len(names) > 1 and stream.isatty() and width >= NARROWEST
        self._drawn = 0
        self._drawn_at = 0.0
        self._row = 0  # one under the other: whose turn it is
        self._told: int | None = None  # characters of it; None before its name

    def add(self, row: int, text: str, done: bool) -> None:
        """Append to one answer."""
        self.texts[row] += printable(text)
        self.done[row] = done
        if not self.side_by_side:
            self._tell(all_of_it=False)
        elif time.monotonic() - self._drawn_at >= REDRAW_SECONDS:
            self._draw(self._lines()[-max(1, self.height - 2) :])

    def close(self) -> None:
        """Show all that there is."""
        if self.side_by_side:
            self._draw(self._lines())
        else:
            self._tell(all_of_it=True)
        self.stream.flush()

    def _lines(self) -> list[str]:
        return columns(self.names, self.texts, self.width)

    def _draw(self, lines: list[str]) -> None:
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}F\x1b[J")
        self.stream.write("".join(f"{line}\n" for line in lines))
        self.stream.flush()
        self._drawn, self._drawn_at = len(lines), time.monotonic()

    def _tell(self, all_of_it: bool) -> None:
        """Print what is new of the answer whose turn it is, and go on to the next."""
        while self._row < len(self.names):
            if self._told is None:
                self._told = 0
                head = f"── {self.names[self._row]}\n" if len(self.names) > 1 else ""
                self.stream.write(head)
            text = self.texts[self._row]
            self.stream.write(text[self._told :])
            self._told = len(text)
            if not (self.done[self._row] or all_of_it):
                break
            self.stream.write("\n")
            self._row, self._told = self._row + 1, None
        self.stream.flush()


def columns(names: Sequence[str], texts: Sequence[str], width: int) -> list[str]:
    """Texts beside one another, under their names.

    >>> print("\\n".join(columns(["base", "bot"], ["One two three", "Four"], 8)))
    base     │ bot
    ──────── │ ────────
    One two  │ Four
    three    │
    """
    columns = [
        [name[:width], "─" * width, *wrapped(text, width)]
        for name, text in zip(names, texts, strict=True)
    ]
    return [
        GAP.join(padded(cell, width) for cell in cells).rstrip()
        for cells in zip_longest(*columns, fillvalue="")
    ]


def wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of at most `width` columns, broken between words where that is possible."""
    for paragraph in text.split("\n"):
        line = ""
        for word in _words(paragraph, width):
            if line and display_width(line + word.rstrip()) > width:
                yield line.rstrip()
                line = ""
            line += word
        yield line.rstrip()


def _words(text: str, width: int) -> Iterator[str]:
    """Words with the space after them, in pieces where one is wider than a line."""
    for word in re.split(r"(?<=\s)(?=\S)", text):
        while display_width(word.rstrip()) > width:
            cut = next(end for end in count(1) if display_width(word[: end + 1]) > width)
            yield word[:cut]
            word = word[cut:]
        yield word


def padded(text: str, width: int) -> str:
    """Text with spaces up to a width."""
    return text + " " * (width - display_width(text))


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese letters take two, accents none.

    >>> display_width("né"), display_width("中文")
    (2, 4)
    """
    return sum(
        0
        if unicodedata.combining(letter)
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )


def printable(text: str) -> str:
    """A model's words without what would command the terminal.

    >>> printable("a\\x1b[2Jb\\tc")
    'a[2Jb    c'
    """
    text = text.replace("\t", "    ")
    return "".join(
        letter for letter in text if letter == "\n" or unicodedata.category(letter) != "Cc"
    )
