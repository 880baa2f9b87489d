"""
Tokens as they come → text that can be shown: no half characters, no pieces of stop strings.

All pieces joined are the text of all tokens decoded at once, up to the stop string.
"""

from collections.abc import Sequence
from typing import Any

HALF = "\ufffd"  # what a decoder writes for bytes that are no whole character


class TextStream:
    """The text of one answer.

    Args:
        tokenizer: Decodes its tokens; special ones are left out.
        stop: Texts that end it; they are not shown.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()):
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        # Decoding is not additive (a space may belong to either token), so each new token is
        # decoded after the ones shown last: ids[_start:_shown] is context, ids[_shown:] is new.
        self._ids: list[int] = []
        self._start = self._shown = 0
        self._context = ""
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token; returns the text that can be shown now."""
        self._ids.append(token)
        text = self._decode(self._start)
        if text.endswith(HALF) or len(text) < len(self._context):
            return ""
        new = text[len(self._context) :]
        if new:
            self._start, self._shown = self._shown, len(self._ids)
            self._context = self._decode(self._start)
        return self._without_stop(new)

    def finish(self) -> str:
        """What was held back, once no token follows."""
        if self.stopped:
            return ""
        rest = self._without_stop(self._decode(self._start)[len(self._context) :])
        held, self._held = self._held, ""
        return rest if self.stopped else rest + held

    def _decode(self, start: int) -> str:
        text: str = self._tokenizer.decode(
            self._ids[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _without_stop(self, new: str) -> str:
        """Show what cannot be part of a stop string, and hold the rest."""
        text = self._held + new
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text begin the stop string.

    >>> _overlap("and so #", "## End")
    1
    """
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0
    )
