"""
What goes over the pipe between a ChatClient and the process that answers: one JSON object a line.

    to the process    {"id", "do": "generate", "base", "rows"}
                      {"id", "do": "score", "base", "messages", "answer", "voices"}
                      {"id", "do": "cancel", "row"}       row null: all rows
    from the process  {"id", "piece"} …, {"id", "end"}    of generate
                      {"id", "scores"}                    of score
                      {"id", "error", "kind"}             of either: sentences, and their class
                      {"state", "base"}                   what is in memory, as it changes

Ids are the client's. A request ends with `end`, `scores` or `error`. A cancelled one ends as any.
The process ends when its standard input does, and by itself, with exit code 0, when nobody asked
anything for a while.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, NotRequired, TypedDict

from tuner.chat.voices import Base, Row, Sampling, Voice


class BaseMessage(TypedDict):
    """See voices.Base."""

    model: str
    revision: str | None
    quantization: Literal["nf4", "int8", "none"]
    dtype: str


class VoiceMessage(TypedDict):
    """See voices.Voice."""

    name: str
    adapter: str | None
    model: str | None


class RowMessage(TypedDict):
    """See voices.Row; `sampling` may leave out what has its default."""

    voice: VoiceMessage
    messages: list[dict[str, str]]
    sampling: dict[str, Any]


class PieceMessage(TypedDict):
    """See voices.Piece. Of pieces that wait to be read, those of one row are joined."""

    row: int
    text: str
    done: bool
    reason: str
    tokens: int
    seconds: float
    first_seconds: float
    note: str


class Request(TypedDict):
    """What a client asks; the keys beside `id` and `do` depend on the latter."""

    id: str
    do: Literal["generate", "score", "cancel"]
    base: NotRequired[BaseMessage]
    rows: NotRequired[list[RowMessage]]
    row: NotRequired[int | None]
    messages: NotRequired[list[dict[str, str]]]
    answer: NotRequired[str]
    voices: NotRequired[list[VoiceMessage]]


class Reply(TypedDict, total=False):
    """What the process says; see the top of this file."""

    id: str
    piece: PieceMessage
    end: bool
    scores: Any
    error: list[str]
    kind: str
    state: Literal["loading", "ready", "empty"]
    base: BaseMessage | None


def base_message(base: Base) -> BaseMessage:
    """A base as JSON."""
    return asdict(base)  # type: ignore[return-value]


def base_of(message: BaseMessage) -> Base:
    """The base that a message names."""
    return Base(**message)


def voice_message(voice: Voice) -> VoiceMessage:
    """A voice as JSON."""
    return asdict(voice)  # type: ignore[return-value]


def voice_of(message: VoiceMessage) -> Voice:
    """The voice that a message names."""
    return Voice(**message)


def row_message(row: Row) -> RowMessage:
    """A row as JSON."""
    return asdict(row)  # type: ignore[return-value]


def row_of(message: RowMessage) -> Row:
    """The row that a message describes.

    >>> row_of({"voice": {"name": "base", "adapter": None, "model": None},
    ...         "messages": [{"role": "user", "content": "Hi"}],
    ...         "sampling": {"stop": ["###"]}}).sampling.stop
    ('###',)
    """
    sampling = dict(message["sampling"])
    sampling["stop"] = tuple(sampling.get("stop", ()))
    return Row(voice_of(message["voice"]), tuple(message["messages"]), Sampling(**sampling))


def generate_request(base: Base, rows: Sequence[Row], name: str) -> Request:
    """Asks for answers."""
    asked = [row_message(row) for row in rows]
    return Request(id=name, do="generate", base=base_message(base), rows=asked)


def score_request(
    base: Base,
    messages: Sequence[dict[str, str]],
    answer: str,
    voices: Sequence[Voice],
    name: str,
) -> Request:
    """Asks how likely an answer was found."""
    return Request(
        id=name,
        do="score",
        base=base_message(base),
        messages=list(messages),
        answer=answer,
        voices=[voice_message(voice) for voice in voices],
    )


def joined(earlier: PieceMessage, later: PieceMessage) -> PieceMessage:
    """Two successive pieces of one row as one.

    >>> piece = PieceMessage(row=0, text="He", done=False, reason="", tokens=1, seconds=1.0,
    ...                      first_seconds=1.0, note="slow")
    >>> both = joined(piece, {**piece, "text": "llo", "tokens": 2, "done": True, "note": ""})
    >>> both["text"], both["tokens"], both["done"], both["note"]
    ('Hello', 2, True, 'slow')
    """
    notes = dict.fromkeys([*earlier["note"].splitlines(), *later["note"].splitlines()])
    return {**later, "text": earlier["text"] + later["text"], "note": "\n".join(notes)}
