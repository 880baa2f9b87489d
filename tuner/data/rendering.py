"""
The one place where text becomes token ids: for training, preview, chat and evaluation.

A conversation is written as text (answer_text.py), tokenized once, and the tokens of the
assistant's answers and their stop tokens are trained; everything else is context.

    renderer.render(example)                             one, with the place of every token
    renderer.encode(renderer.write(examples))            many: ids, and which of them are trained

Not covered: recognising columns (formats.py); whole data sets and their statistics (tokenized.py).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tuner.data.answer_text import (
    AnswerText,
    Made,
    Messages,
    Written,
    WrittenPair,
    merge_system_message,
)
from tuner.data.byte_places import BytePlaces
from tuner.data.chat_template import Span, no_template_runs
from tuner.errors import DatasetError

__all__ = ["IGNORE_INDEX", "Encoded", "Rendered", "RenderedPair", "Renderer", "mask_labels",
           "merge_system_message", "trained_ranges"]  # fmt: skip

IGNORE_INDEX = -100  # torch's cross-entropy leaves these positions out
MANY = 500  # texts; for fewer, a table of the vocabulary takes longer than it saves
LEFT_AT_MOST = 0.2  # of some texts, for which the table has no answer: of more, it saves nothing
ENCODED_CHARACTERS = 4_000_000  # at once; an Encoding takes some 40 bytes for each

Range = tuple[int, int]  # half-open [first, last), in tokens
Ids = NDArray[np.int32]


class Encoded(NamedTuple):
    """Token ids of one text, whole, and the ranges of them that are trained, ascending."""

    ids: Ids
    trained: list[Range]


@dataclass(frozen=True)
class Rendered:
    """One example as the model sees it.

    Attributes:
        input_ids: T token ids, cut to max_length.
        labels: T labels: the id itself where it is trained, else IGNORE_INDEX. Not shifted.
        offsets: T character ranges in `text`.
        text: The rendered text, whole.
        cut: Tokens that max_length cut off.
    """

    input_ids: list[int]
    labels: list[int]
    offsets: list[Span]
    text: str
    cut: int

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return sum(label != IGNORE_INDEX for label in self.labels)


@dataclass(frozen=True)
class RenderedPair:
    """A prompt and one or two answers to it: DPO's pair, or KTO's single answer (`rejected` empty).

    The answers end on a stop token and are cut so that prompt and answer fit max_length.
    """

    prompt: Rendered
    chosen: Rendered
    rejected: Rendered | None


class Renderer:
    """Renders examples with one tokenizer and one max_length.

    Args:
        tokenizer: From `load_tokenizer` (data/tokenizer.py).
        max_length: Tokens kept of one example, from its start; None keeps all.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._answer_text = AnswerText(tokenizer)

    def render(self, example: dict[str, Any]) -> Rendered:
        """Render one `messages` or `text` example.

        Raises:
            DatasetError: The template refuses the conversation, or finds no answer in it.
        """
        return self.render_batch([example])[0]

    def render_batch(self, examples: Sequence[dict[str, Any]]) -> list[Rendered]:
        """Render several at once.

        Raises:
            DatasetError: As `render`, for the first that fails.
        """
        return self._rendered([_whole(written) for written in self.write(examples)])

    def render_pair(self, example: dict[str, Any]) -> RenderedPair:
        """Render one `preference` or `kto` example: a prompt and the answers to it.

        Raises:
            DatasetError: As `render`.
        """
        pair = _whole(self.write_pairs([example])[0])
        prompt, chosen, *rejected = self._rendered([pair.prompt, *pair.answers])
        return RenderedPair(prompt, chosen, rejected[0] if rejected else None)

    def write(self, examples: Sequence[dict[str, Any]]) -> list[Written | DatasetError]:
        """The texts of `messages` or `text` examples; for one that cannot be rendered, why."""
        return self._answer_text.write(examples)

    def write_pairs(self, examples: Sequence[dict[str, Any]]) -> list[WrittenPair | DatasetError]:
        """The texts of `preference` or `kto` examples; for one that cannot be rendered, why."""
        return self._answer_text.write_pairs(examples)

    def encode(self, texts: Sequence[Written]) -> list[Encoded]:
        """Tokenize texts on all cores, nearly all the time without Python's lock."""
        encoded: list[Encoded] = []
        for some in _pieces(texts):
            if sum(len(written.text) for written in some) <= ENCODED_CHARACTERS:
                encoded += self._encode(some)
            else:  # one text, so huge that its memory would be taken for a template's
                with no_template_runs():
                    encoded += self._encode(some)
        return encoded

    def prompt_text(self, messages: Messages) -> str:
        """The text after which the assistant speaks: what chat and generation start from."""
        return self._answer_text.prompt_text(messages)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of `prompt_text`; the template brings its own special tokens."""
        ids: list[int] = self._encodings([self.prompt_text(messages)])[0].ids
        return ids

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Ids that end an answer: the tokenizer's, and the one the template puts after answers."""
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        last = self.render({"messages": probe})
        trained = [label for label in last.labels if label != IGNORE_INDEX]
        stops = {self.tokenizer.eos_token_id, *trained[-1:]}
        return sorted(stops & self._answer_text.special_ids)

    @cached_property
    def _byte_places(self) -> BytePlaces | None:
        if not self._is_encoded_by_backend:
            return None
        return BytePlaces.of(self.tokenizer.backend_tokenizer)

    @property
    def _is_encoded_by_backend(self) -> bool:
        """Whether the tokenizer's class adds nothing to what the tokenizers library does."""
        return type(self.tokenizer)._encode_plus is PreTrainedTokenizerFast._encode_plus

    def _encodings(self, texts: list[str], places: bool = True) -> list[Any]:
        """What the tokenizers library makes of each text, without special tokens of its own.

        Args:
            places: Whether it must be known where a token stands, which takes a quarter longer.
        """
        if not self._is_encoded_by_backend:
            found: list[Any] = self.tokenizer(texts, add_special_tokens=False).encodings
            return found
        self.tokenizer("", add_special_tokens=False)  # ends any cutting or padding left switched on
        backend = self.tokenizer.backend_tokenizer
        encode = backend.encode_batch if places else backend.encode_batch_fast
        return list(encode(texts, add_special_tokens=False))

    def _encode(self, texts: Sequence[Written]) -> list[Encoded]:
        by_bytes = self._byte_places if len(texts) >= MANY else None
        asks = by_bytes is None and any(map(_is_trained_in_part, texts))
        encodings = self._encodings([written.text for written in texts], places=asks)
        ends = np.cumsum([len(encoding) for encoding in encodings])
        flat = chain.from_iterable(encoding.ids for encoding in encodings)
        ids = np.fromiter(flat, np.int32, ends[-1])
        if by_bytes:
            ranges = self._ranges_by_bytes(by_bytes, ids, ends, texts)
        else:
            ranges = list(map(trained_ranges, encodings, texts))
        return list(map(Encoded, np.split(ids, ends[:-1]), ranges))

    def _ranges_by_bytes(
        self, places: BytePlaces, ids: Ids, ends: Any, texts: Sequence[Written]
    ) -> list[list[Range]]:
        """As `trained_ranges` of each, which is asked for the texts that do not add up."""
        ranges = places.trained_ranges(ids, ends, texts)
        left = [index for index, own in enumerate(ranges) if own is None]
        if len(left) > LEFT_AT_MOST * len(texts):
            self._byte_places = None
        encodings = self._encodings([texts[index].text for index in left])
        again = {
            index: trained_ranges(e, texts[index]) for index, e in zip(left, encodings, strict=True)
        }
        return [again[index] if own is None else own for index, own in enumerate(ranges)]

    def _rendered(self, texts: Sequence[Written]) -> list[Rendered]:
        made = []
        encodings = self._encodings([written.text for written in texts])
        for written, encoding in zip(texts, encodings, strict=True):
            ids = np.array(encoding.ids[: self.max_length], np.int32)
            labels = mask_labels(ids, trained_ranges(encoding, written))
            made.append(
                Rendered(
                    input_ids=ids.tolist(),
                    labels=labels.tolist(),
                    offsets=encoding.offsets[: len(ids)],
                    text=written.text,
                    cut=len(encoding) - len(ids),
                )
            )
        return made


def trained_ranges(encoding: Any, written: Written) -> list[Range]:
    """Which tokens of a text lie in an answer.

    Args:
        encoding: Of the text, from the tokenizers library. It is asked for the few places that
            decide: all of them, as Python numbers, would take ten times as long.

    Returns:
        A range for each span of the text. A token that begins before an answer is context.
    """
    tokens = range(len(encoding))
    if not _is_trained_in_part(written):
        return [(0, len(tokens)) for _ in written.spans]

    def first_from(character: int) -> int:
        return bisect_left(tokens, character, key=lambda token: encoding.token_to_chars(token)[0])

    return [(first_from(start), first_from(end)) for start, end in written.spans]


def _is_trained_in_part(written: Written) -> bool:
    """Whether some of its tokens are trained and others are not."""
    return bool(written.spans) and written.spans != [(0, len(written.text))]


def mask_labels(ids: Ids, trained: Sequence[Range]) -> Ids:
    """Copy token ids to labels where they are trained.

    Args:
        ids: T token ids, perhaps cut at their end.
        trained: Token ranges, ascending.

    Returns:
        T labels; IGNORE_INDEX elsewhere.

    >>> mask_labels(np.array([5, 6, 7, 8], np.int32), [(1, 3)]).tolist()
    [-100, 6, 7, -100]
    """
    labels = np.full_like(ids, IGNORE_INDEX)
    for first, last in trained:
        labels[first:last] = ids[first:last]
    return labels


def _whole(made: Made | DatasetError) -> Made:
    if isinstance(made, DatasetError):
        raise made
    return made


def _pieces(texts: Sequence[Written]) -> Iterator[list[Written]]:
    """Parts of at most ENCODED_CHARACTERS, or of one text."""
    piece: list[Written] = []
    room = ENCODED_CHARACTERS
    for written in texts:
        if piece and len(written.text) > room:
            yield piece
            piece, room = [], ENCODED_CHARACTERS
        piece.append(written)
        room -= len(written.text)
    if piece:
        yield piece
