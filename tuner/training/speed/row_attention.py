"""
A batch without padding: its rows one after the other, each attending to itself only.

    collator = RowCollator(pad_token_id)
    with rows_attend_to_themselves(model):
        for part in parts_of(collator(rows)):
            model(**part, …)

Rows of instruction data differ much in length: in a random batch of four, 44% of a padded batch is
padding. Positions restart with every row, so a position means what it means in a row alone.
A mask over all of them would cost what the padding did; here a row's queries go a block at a time
against the keys up to the block's end, and so hardly a product is computed to be masked. Weights
are made again in the backward, as in FlashAttention (https://arxiv.org/abs/2205.14135); of torch's
own kernels on CPUs, the backward is slow at such lengths.
Registered through transformers' attention interface (transformers.AttentionInterface).
Not covered: GPUs, sliding windows, attention sinks, soft caps, dropout of weights (see levers.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface

from tuner.training.speed.few_shapes import rounded_up
from tuner.training.speed.parallel_rows import shares
from tuner.training.speed.trained_loss import IGNORED, next_tokens

NAME = "tuner_rows"
TENSORS = ("input_ids", "position_ids", "labels", "shift_labels")
BLOCK = 128  # queries at once
LENGTH_STEP = 64  # tokens; in 16 bits, see few_shapes.py


class RowCollator:
    """Puts rows of token ids one after the other, in one or several parts.

    Args:
        pad_token_id: Of a last row of padding.
        few_lengths: Whether padding fills each part up to one of few lengths (few_shapes.py).
        threads: Among which the rows may be shared out, each part for itself (parallel_rows.py).
    """

    def __init__(self, pad_token_id: int, few_lengths: bool = False, threads: int = 1):
        self.pad_token_id, self.few_lengths, self.threads = pad_token_id, few_lengths, threads

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """input_ids, position_ids, labels and shift_labels, (1, T) each; tokens; and of the parts,
        which stand one after the other in them, part_lengths and a list each of row_lengths."""
        sequences = [sequence for row in rows for sequence in _sequences(row)]
        shared = shares([len(ids) for ids, _ in sequences], self.threads)
        parts = [self._joined([sequences[index] for index in share]) for share in shared]
        joined = {name: torch.cat([part[name] for part in parts], 1) for name in TENSORS}
        tokens = sum(len(ids) for ids, _ in sequences)
        of_parts = {
            "part_lengths": [part["input_ids"].shape[1] for part in parts],
            "row_lengths": [part["row_lengths"] for part in parts],
        }
        return {**joined, **of_parts, "tokens": tokens}

    def _joined(self, sequences: Sequence[Sequence[list[int]]]) -> dict[str, Any]:
        ids, labels = ([token for s in sequences for token in s[which]] for which in (0, 1))
        lengths = [len(own) for own, _ in sequences]
        missing = rounded_up(len(ids)) - len(ids) if self.few_lengths else 0
        ids += [self.pad_token_id] * missing
        labels += [IGNORED] * missing
        positions = [position for length in (*lengths, missing) for position in range(length)]
        whole = {"input_ids": ids, "position_ids": positions, "labels": labels}
        batch: dict[str, Any] = {name: torch.tensor([numbers]) for name, numbers in whole.items()}
        batch["shift_labels"] = next_tokens(batch["labels"], lengths)
        return {**batch, "row_lengths": lengths}


def parts_of(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """What goes into the model at once, of a batch that a RowCollator made or another collator."""
    given = {name: value for name, value in batch.items() if name != "tokens"}
    if "row_lengths" not in given:
        return [given]
    split = zip(*(given[name].split(given["part_lengths"], 1) for name in TENSORS), strict=True)
    return [
        {**dict(zip(TENSORS, tensors, strict=True)), "row_lengths": lengths}
        for tensors, lengths in zip(split, given["row_lengths"], strict=True)
    ]


@contextmanager
def rows_attend_to_themselves(model: Any) -> Iterator[None]:
    """Use the attention below while entered; generation goes its own way."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    row_lengths: Sequence[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row, in the signature of transformers' attention functions.

    Args:
        query: (1, heads, T, D).
        key, value: (1, key heads, T, D); the number of heads is a multiple of theirs.
        row_lengths: They add up to T, or less: what comes after them is padding.

    Returns:
        (1, T, heads, D), zero for padding, and no weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths = list(row_lengths or [query.shape[2]])
    attended: torch.Tensor = _Rows.apply(
        query.squeeze(0), key.squeeze(0), value.squeeze(0), scale, lengths
    )
    return attended.unsqueeze(0), None


def _sequences(row: dict[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of a row; of a packed one, of each row that it was packed from."""
    ids, labels = row["input_ids"], row.get("labels", row["input_ids"])
    start = 0
    for length in row.get("seq_lengths") or [len(ids)]:
        yield ids[start : start + length], labels[start : start + length]
        start += length


class _Row(NamedTuple):
    """Where a row stands, and how long it is with the padding that its programs want.

    What is put after a row is later than all of it, so nothing of the row sees it.
    """

    start: int
    end: int
    padded: int

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """Its part of (heads, T, D), as (heads, padded, D)."""
        own = states[:, self.start : self.end]
        return functional.pad(own, (0, 0, 0, self.padded - own.shape[1]))

    def blocks(self) -> Iterator[slice]:
        """Its queries, counted from its start."""
        for first in range(0, self.padded, BLOCK):
            yield slice(first, min(first + BLOCK, self.padded))


def _rows(lengths: Sequence[int], step: int) -> Iterator[_Row]:
    start = 0
    for length in lengths:
        yield _Row(start, start + length, length - length % -step)
        start += length


class _Rows(torch.autograd.Function):
    """softmax(q k' s) v, row by row and block by block.

    Heads that share a key lie one under the other: one product for all of them, nothing repeated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        lengths: Sequence[int],
    ) -> torch.Tensor:
        """query, key, value: (heads, T, D). Returns (T, heads, D)."""
        attended = value.new_empty(query.shape[1], query.shape[0], value.shape[-1])
        attended[sum(lengths) :] = 0
        step = LENGTH_STEP if query.dtype != torch.float32 else 1
        ctx.rows, ctx.scale = list(_rows(lengths, step)), scale
        for row in ctx.rows:
            q, k, v = row.of(query), row.of(key), row.of(value)
            for block in row.blocks():
                weights = _weights(_stacked(q[:, block], len(k)), k, block, scale)
                _put(attended, row, block, weights @ v[:, : block.stop])
        ctx.save_for_backward(query, key, value)
        return attended

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        gradients = [torch.empty_like(states.transpose(0, 1)) for states in (query, key, value)]
        for gradient in gradients:
            gradient[sum(row.end - row.start for row in ctx.rows) :] = 0
        upstream = upstream.transpose(0, 1)
        for row in ctx.rows:
            q, k, v, g = (row.of(states) for states in (query, key, value, upstream))
            grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
            for block in row.blocks():
                stacked, given = _stacked(q[:, block], len(k)), _stacked(g[:, block], len(k))
                seen = slice(0, block.stop)
                weights = _weights(stacked, k, block, ctx.scale)
                grad_v[:, seen].baddbmm_(weights.transpose(1, 2), given)
                error = given @ v[:, seen].transpose(1, 2)
                error = torch._softmax_backward_data(error, weights, -1, error.dtype)
                grad_k[:, seen].baddbmm_(error.transpose(1, 2), stacked, alpha=ctx.scale)
                _put(gradients[0], row, block, (error @ k[:, seen]).mul_(ctx.scale))
            whole = slice(0, row.padded)
            _put(gradients[1], row, whole, grad_k)
            _put(gradients[2], row, whole, grad_v)
        return *(gradient.transpose(0, 1) for gradient in gradients), None, None


def _stacked(states: torch.Tensor, groups: int) -> torch.Tensor:
    """(heads, block, D) as (groups, heads of a group x block, D)."""
    return states.reshape(groups, -1, states.shape[-1])


def _weights(stacked: torch.Tensor, key: torch.Tensor, block: slice, scale: float) -> torch.Tensor:
    """Softmax of a block's queries over the keys up to its end: (groups, queries, keys)."""
    scores = (stacked @ key[:, : block.stop].transpose(1, 2)).mul_(scale)
    size = block.stop - block.start
    by_head = scores.view(len(key), -1, size, block.stop)
    by_head[..., block.start :] += _mask(size, scores.dtype)
    return torch.softmax(scores, -1)


def _put(whole: torch.Tensor, row: _Row, block: slice, states: torch.Tensor) -> None:
    """Write a block's (groups, heads of a group x block, D) to (T, heads, D), padding left out."""
    start, end = row.start + block.start, min(row.end, row.start + block.stop)
    by_head = states.view(whole.shape[1], -1, whole.shape[-1])
    whole[start:end] = by_head.transpose(0, 1)[: end - start]


_masks: dict[torch.dtype, torch.Tensor] = {}


def _mask(size: int, dtype: torch.dtype) -> torch.Tensor:
    """-inf where a key comes after its query, else 0: a corner of one that is made once."""
    if dtype not in _masks:
        _masks[dtype] = torch.full((BLOCK, BLOCK), float("-inf"), dtype=dtype).triu(1)
    return _masks[dtype][:size, :size]


AttentionInterface.register(NAME, attend)
