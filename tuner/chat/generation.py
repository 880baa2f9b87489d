"""
Answer several prompts in one batch: one forward over all prompts, then one a token.

    for piece in generate(model, tokenizer, prompts, stop_token_ids, plan_for):
        print(piece.row, piece.text)

Prompts of different lengths are padded on the left, and positions count from each prompt's first
token. A row that is finished or cancelled leaves the batch as soon as half of the batch has, and
until then costs what it did. transformers' own `generate` can't stream, stop or cancel rows one by
one.
Not covered: beams; images; models that keep their past in a form of their own (refused).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tuner.chat.sampling import Noise, TokenChoice, choose_tokens
from tuner.chat.streaming import TextStream
from tuner.chat.voices import Piece, Sampling
from tuner.models.decoding import Decoder as Decoder
from tuner.models.decoding import require_cache as require_cache

PlanFor = Callable[[Sequence[int]], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue, and how."""

    ids: Sequence[int]
    sampling: Sampling


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    stop_token_ids: Sequence[int],
    plan_for: PlanFor,
    cancelled: Callable[[int], bool],
) -> Iterator[Piece]:
    """Answer prompts together; pieces come as they are written.

    Args:
        model: In evaluation mode.
        stop_token_ids: End an answer, and are not shown.
        plan_for: What to enter around each forward, given the prompts that are still in the batch.
        cancelled: Asked before each token of a row.
    """
    began = time.perf_counter()
    answers = [
        _Answer(number, prompt, tokenizer, set(stop_token_ids))
        for number, prompt in enumerate(prompts)
    ]
    for answer in answers:
        if cancelled(answer.number):
            yield answer.end("cancelled", 0.0)
        elif answer.left <= 0:
            yield answer.end("length", 0.0)
    batch = [answer for answer in answers if not answer.done]
    if not batch:
        return
    decoder = Decoder(model, [answer.prompt.ids for answer in batch])
    plan, noise = plan_for([answer.number for answer in batch]), Noise()
    logits = decoder.prefill(plan)
    while True:
        tokens = choose_tokens([None if a.done else a.choice for a in batch], logits, noise)
        yield from _pieces(batch, tokens, cancelled, began)
        left = [index for index, answer in enumerate(batch) if not answer.done]
        if not left:
            return
        if 2 * len(left) <= len(batch):
            decoder.keep(left)
            batch, tokens = [batch[i] for i in left], [tokens[i] for i in left]
            plan = plan_for([answer.number for answer in batch])
        logits = decoder.step(tokens, plan)


def _pieces(
    batch: "Sequence[_Answer]",
    tokens: Sequence[int],
    cancelled: Callable[[int], bool],
    began: float,
) -> Iterator[Piece]:
    """Give each row that is not done its token; what there is to show of it."""
    seconds = time.perf_counter() - began
    for answer, token in zip(batch, tokens, strict=True):
        if not answer.done:
            piece = answer.take(token, cancelled(answer.number), seconds)
            if piece:
                yield piece


class _Answer:
    """One row's answer, as far as it has come."""

    def __init__(self, number: int, prompt: Prompt, tokenizer: Any, stop_token_ids: set[int]):
        self.number = number
        self.prompt = prompt
        self.choice = TokenChoice(prompt.sampling, prompt.ids)
        self.done = False
        self._text = TextStream(tokenizer, prompt.sampling.stop)
        self._stop_token_ids = stop_token_ids
        self._tokens = 0
        self._first_seconds = 0.0

    @property
    def left(self) -> int:
        """Tokens that may still come."""
        return self.prompt.sampling.max_new_tokens - self._tokens

    def take(self, token: int, cancelled: bool, seconds: float) -> Piece | None:
        """Add a token; what there is to show, if anything."""
        self._first_seconds = self._first_seconds or seconds
        if cancelled:
            return self.end("cancelled", seconds)
        if token in self._stop_token_ids:
            return self.end("stop token", seconds)
        self._tokens += 1
        text = self._text.push(token)
        if self._text.stopped:
            return self.end("stop string", seconds, text)
        if self.left <= 0:
            return self.end("length", seconds, text)
        return self._piece(text, seconds) if text else None

    def end(self, reason: str, seconds: float, text: str = "") -> Piece:
        """The last piece."""
        self.done = True
        text += self._text.finish()
        if self._text.stopped:
            reason = "stop string"
        return self._piece(text, seconds, done=True, reason=reason)

    def _piece(self, text: str, seconds: float, done: bool = False, reason: str = "") -> Piece:
        return Piece(
            row=self.number,
            text=text,
            done=done,
            reason=reason,
            tokens=self._tokens,
            seconds=seconds,
            first_seconds=self._first_seconds,
        )
