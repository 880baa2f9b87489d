"""
Where a text's tokens stand, from their ids alone: the token of a byte-level vocabulary is a stretch
of the text's bytes, so the lengths of those before it say where it begins.

    places = BytePlaces.of(tokenizer.backend_tokenizer)      None where that does not hold
    ranges = places.trained_ranges(ids, ends, texts)

The tokenizers library takes up to a quarter longer when it has to keep every token's place. Most
vocabularies of today are byte-level. Where a text's lengths do not add up, since a special token
swallowed the white space beside it, say, that text has no answer here.
Byte-level BPE: Radford et al. 2019, "Language models are unsupervised multitask learners", 2.2.
Not covered: vocabularies of characters, normalizers but NFC on texts that have it already.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from tuner.data.answer_text import Written

KEEPS_TEXT = {"ByteLevel", "Split", "Digits", "Punctuation"}  # pre-tokenizers that only cut
ONLY_ADDS = {"ByteLevel", "TemplateProcessing"}  # post-processors whose additions are not asked for

Range = tuple[int, int]
Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class BytePlaces:
    """Of one vocabulary.

    Attributes:
        lengths: Bytes of each token, by id.
        composes: Whether texts are brought to NFC first.
    """

    lengths: Numbers
    composes: bool

    @classmethod
    def of(cls, backend: Tokenizer) -> "BytePlaces | None":
        """None where tokens are no stretches of the text's bytes."""
        parts = backend.normalizer, backend.pre_tokenizer, backend.post_processor
        before, cuts, after = map(_parts, parts)
        if not (
            _is_plain_bpe(backend.model)
            and _keep_bytes(cuts)
            and {part["type"] for part in before} <= {"NFC"}
            and {part["type"] for part in after} <= ONLY_ADDS
            and not any(part.get("trim_offsets") for part in after)  # then spaces are not its own
        ):
            return None
        added = backend.get_added_tokens_decoder()
        sizes = {index: len(token) for token, index in backend.get_vocab().items()}
        sizes |= {index: len(token.content.encode()) for index, token in added.items()}
        lengths = np.zeros(max(sizes) + 1, np.int64)
        lengths[list(sizes)] = list(sizes.values())
        return cls(lengths, composes=bool(before))

    def trained_ranges(
        self, ids: Numbers, ends: Numbers, texts: Sequence[Written]
    ) -> list[list[Range] | None]:
        """Which tokens lie in an answer, as rendering.trained_ranges says it.

        Args:
            ids: Of all texts' tokens, one text after the other.
            ends: Where each text's tokens end.

        Returns:
            A range for each span of a text; None for a text that does not add up.
        """
        begun = np.concatenate([[0], self.lengths[ids].cumsum()])  # bytes before each token
        firsts = np.concatenate([[0], ends[:-1]])
        bases, sizes = begun[firsts], begun[ends] - begun[firsts]
        places = [_places(written) for written in texts]
        counts = [len(own) for own in places]
        wanted = np.fromiter(chain.from_iterable(places), np.int64, sum(counts))
        found = np.searchsorted(begun[:-1], wanted + bases.repeat(counts)) - firsts.repeat(counts)
        bounds = iter(found.tolist())
        ranges = [[(next(bounds), next(bounds)) for _ in written.spans] for written in texts]
        return [
            own if self._adds_up(written.text, size) else None
            for own, written, size in zip(ranges, texts, sizes.tolist(), strict=True)
        ]

    def _adds_up(self, text: str, size: int) -> bool:
        if text.isascii():
            return len(text) == size
        as_it_was = not self.composes or unicodedata.is_normalized("NFC", text)
        return as_it_was and len(text.encode()) == size


def _places(written: Written) -> list[int]:
    """Beginning and end of each span, in bytes."""
    text, places = written.text, [place for span in written.spans for place in span]
    return places if text.isascii() else [len(text[:place].encode()) for place in places]


def _parts(part: Any) -> list[dict[str, Any]]:
    """What a part of a tokenizer consists of, as tokenizer.json has it."""
    if part is None:
        return []
    described = json.loads(part.__getstate__())
    names = ("normalizers", "pretokenizers", "processors")
    return next((described[name] for name in names if name in described), [described])


def _is_plain_bpe(model: Any) -> bool:
    if not isinstance(model, models.BPE):
        return False
    return not (model.continuing_subword_prefix or model.end_of_word_suffix or model.byte_fallback)


def _keep_bytes(cuts: list[dict[str, Any]]) -> bool:
    """Whether pre-tokenizers lose nothing, add nothing, and make bytes of it."""
    kinds = {part["type"] for part in cuts}
    adds = any(part.get("add_prefix_space") for part in cuts)
    loses = any(part.get("behavior") == "Removed" for part in cuts)
    return "ByteLevel" in kinds and kinds <= KEEPS_TEXT and not adds and not loses
