"""
Conversations into batches: packed rows, in which a conversation sees only itself.

Rows of 128 tokens, of 384 for longer conversations, and now and then one row of 2048, so that
long contexts are not wholly new to the model later.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from tuner.starter.corpus import Corpus, Message, conversations
from tuner.starter.tokenizer import ASSISTANT, END, MAX_LENGTH, render

LONG_EVERY = 25
LONG_CONVERSATIONS = 8
ROW_LENGTHS = (128, 384)
COPYING_SHARE = 0.04
# Token ids below are special tokens and single bytes.
FIRST_MERGE = 261
# A quarter more than a batch takes, so that its last rows can be filled too.
SPARE = 1.25
Encoded = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Batch:
    """Packed rows: B rows of T tokens.

    Attributes:
        input_ids: (B, T) token ids, padding after the last conversation of a row.
        targets: (B, T) the next token where it is the assistant's, else -100. Already shifted.
        conversation: (B, T) which conversation of the row a token belongs to; -1 is padding.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    conversation: torch.Tensor

    def attention_mask(self) -> torch.Tensor:
        """Return (B, 1, T, T), true where a token may look: back, within its conversation."""
        same = self.conversation[:, :, None] == self.conversation[:, None, :]
        return same.tril()[:, None]


def copying(tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> list[Message]:
    """Return a conversation that repeats random pieces of the whole vocabulary.

    Without it, the pieces that the world never uses would keep their random embeddings, which
    fine-tuning leaves frozen.
    """
    ids = [rng.randrange(FIRST_MERGE, len(tokenizer)) for _ in range(rng.randint(3, 16))]
    text = tokenizer.decode(ids).strip()
    return [
        {
            "role": "user",
            "content": rng.choice(("Repeat:\n", "Copy this:\n", "Say this:\n")) + text,
        },
        {"role": "assistant", "content": text},
    ]


def encoded(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> Encoded:
    """Return token ids, and at each position the next token if the assistant says it, else -100."""
    ids = tokenizer(render(messages), add_special_tokens=False)["input_ids"]
    assistant, end = tokenizer.convert_tokens_to_ids([ASSISTANT, END])
    targets, speaking = [], False
    for current, following in zip(ids, [*ids[1:], -100], strict=True):
        speaking = current == assistant or (speaking and current != end)
        targets.append(following if speaking else -100)
    return ids, targets


def batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, batch_tokens: int, seed: int
) -> Iterator[Batch]:
    """Yield batches without end; every 25th is one row of 2048 tokens of long conversations."""
    rng = random.Random(seed + 1)
    usual = sorted_by_length(conversations(corpus, rng), tokenizer, rng, batch_tokens)
    long = conversations(corpus, rng, long=True)
    step = 0
    while True:
        step += 1
        if step % LONG_EVERY:
            yield next(usual)
        else:
            yield packed(
                [encoded(tokenizer, next(long)) for _ in range(LONG_CONVERSATIONS)], MAX_LENGTH, 1
            )


def sorted_by_length(
    source: Iterator[list[Message]],
    tokenizer: PreTrainedTokenizerBase,
    rng: random.Random,
    size: int,
) -> Iterator[Batch]:
    """Yield batches of 128-token rows, and of 384-token rows for what is longer, up to 384."""
    waiting: dict[int, list[Encoded]] = {length: [] for length in ROW_LENGTHS}
    while True:
        messages = copying(tokenizer, rng) if rng.random() < COPYING_SHARE else next(source)
        item = encoded(tokenizer, messages)
        length = next((length for length in ROW_LENGTHS if len(item[0]) <= length), None)
        if length is None:
            continue
        waiting[length].append(item)
        if sum(len(ids) for ids, _ in waiting[length]) > SPARE * size:
            yield packed(waiting[length], length, size // length)


def packed(waiting: list[Encoded], length: int, rows: int) -> Batch:
    """Take conversations out of waiting until rows are full; what is cut off is lost."""
    columns: tuple[list[list[int]], ...] = ([], [], [])
    for _ in range(rows):
        row: tuple[list[int], list[int], list[int]] = ([], [], [])
        while item := next(
            (item for item in waiting if len(item[0]) <= length - len(row[0])), None
        ):
            waiting.remove(item)
            _add_to_row(row, item)
        if not row[0] and waiting:
            ids, targets = waiting.pop(0)
            _add_to_row(row, (ids[:length], targets[:length]))
        missing = length - len(row[0])
        for column, part, filler in zip(columns, row, (0, -100, -1), strict=True):
            column.append(part + [filler] * missing)
    return Batch(*(torch.tensor(column) for column in columns))


def _add_to_row(row: tuple[list[int], list[int], list[int]], item: Encoded) -> None:
    ids, targets = item
    row[2].extend([row[2][-1] + 1 if row[2] else 0] * len(ids))
    row[0].extend(ids)
    row[1].extend(targets)
