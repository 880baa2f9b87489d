"""
Attention within rows that lie one after the other, or of what a part of a batch has of them.

    with rows_attend_to_themselves(model):
        for part in parts_of(collator(rows)):  # row_collator.py
            model(**part, …)

A mask over all rows would cost what padding did; here a row's queries go a block at a time
against the keys up to the block's end, and so hardly a product is computed to be masked. Weights
are made again in the backward, as in FlashAttention (https://arxiv.org/abs/2205.14135); of torch's
own kernels on CPUs, the backward is slow at such lengths. A row that began in an earlier part has
keys there, too: that part hands them over, and gets their gradients (context_parallel.py).
Registered through transformers' attention interface (transformers.AttentionInterface).
Not covered: GPUs, sliding windows, attention sinks, soft caps, dropout of weights (see levers.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface

from tuner.training.speed.context_parallel import Link
from tuner.training.speed.row_collator import Piece

NAME = "tuner_rows"
BLOCK = 128  # queries at once, or half as many
# Heads times keys, from where a block's weights leave a core's cache; and heads that share a key,
# from where half a block still makes large products (docs/EXPERIMENTS.md).
CACHED, SHARING = 3200, 3
LENGTH_STEP = 64  # tokens; in 16 bits, see few_shapes.py
Links = tuple[Link | None, Link | None]


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
    pieces: Sequence[Piece] | None = None,
    links: Links = (None, None),
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row, in the signature of transformers' attention functions.

    Args:
        query: (1, heads, T, D).
        key, value: (1, key heads, T, D); the number of heads is a multiple of theirs.
        pieces: What these T tokens are of which rows; what comes after them is padding. None: all
            of them are a row.
        links: To the parts that have the row before the first piece, and after the last one.

    Returns:
        (1, T, heads, D), zero for padding, and no weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended: torch.Tensor = _Rows.apply(
        *(states.squeeze(0) for states in (query, key, value)),
        scale,
        [Piece(0, query.shape[2])] if pieces is None else pieces,
        links,
    )
    return attended.unsqueeze(0), None


class _Block(NamedTuple):
    """Some queries of a piece, and the keys up to the last one's own.

    Attributes:
        queries: Counted from the piece's start.
        before: Keys that each of them sees.
        keys: In all; none sees those after the row.
    """

    queries: slice
    before: int
    keys: int


class _Rows(torch.autograd.Function):
    """softmax(s q k') v, piece by piece and block by block.

    Heads that share a key lie one under the other: one product for all of them, nothing repeated.
    The order is such that the part that waits for something gets it first.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        pieces: Sequence[Piece],
        links: Links,
    ) -> torch.Tensor:
        """query, key, value: (heads, T, D). Returns (T, heads, D)."""
        attended = value.new_empty(query.shape[1], query.shape[0], value.shape[-1])
        attended[_end(pieces) :] = 0
        step = ctx.step = LENGTH_STEP if query.dtype != torch.float32 else 1
        earlier: tuple[torch.Tensor, ...] = ()
        for piece in reversed(pieces):
            earlier = links[0].take() if piece.before and links[0] else ()
            states = _so_far(key, piece, earlier[:1]), _so_far(value, piece, earlier[1:])
            if piece.goes_on and links[1]:
                links[1].give(*states)
            k, v = (_filled_up(so_far, step) for so_far in states)
            q = _filled_up(_own(query, piece) * scale, step)
            for block in _blocks(piece, step, _block_size(query, key, piece)):
                weights = _weights(_stacked(q[:, block.queries], len(k)), k, block)
                _put(attended, piece, block.queries, weights @ v[:, : block.keys])
        ctx.save_for_backward(query, key, value, *earlier)
        ctx.scale, ctx.pieces, ctx.links = scale, pieces, links
        return attended

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        query, key, value, *earlier = ctx.saved_tensors
        gradients = [torch.empty_like(states.transpose(0, 1)) for states in (query, key, value)]
        for gradient in gradients:
            gradient[_end(ctx.pieces) :] = 0
        upstream = upstream.transpose(0, 1)
        for piece in ctx.pieces:
            has = earlier if piece.before else []
            k = _filled_up(_so_far(key, piece, has[:1]), ctx.step)
            v = _filled_up(_so_far(value, piece, has[1:]), ctx.step)
            q = _filled_up(_own(query, piece) * ctx.scale, ctx.step)
            g = _filled_up(_own(upstream, piece), ctx.step)
            grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
            for block in _blocks(piece, ctx.step, _block_size(query, key, piece)):
                stacked = _stacked(q[:, block.queries], len(k))
                given = _stacked(g[:, block.queries], len(k))
                seen = slice(0, block.keys)
                weights = _weights(stacked, k, block)
                grad_v[:, seen].baddbmm_(weights.transpose(1, 2), given)
                error = given @ v[:, seen].transpose(1, 2)
                error = torch._softmax_backward_data(error, weights, -1, error.dtype)
                grad_k[:, seen].baddbmm_(error.transpose(1, 2), stacked)
                _put(gradients[0], piece, block.queries, (error @ k[:, seen]).mul_(ctx.scale))
            _meet(grad_k, grad_v, piece, ctx.links)
            for whole, found in zip(gradients[1:], (grad_k, grad_v), strict=True):
                _put(whole, piece, slice(0, piece.length), found[:, piece.before :])
        return *(gradient.transpose(0, 1) for gradient in gradients), None, None, None


def _meet(grad_k: torch.Tensor, grad_v: torch.Tensor, piece: Piece, links: Links) -> None:
    """Add what the later part found for these keys and values; tell the earlier one about its."""
    if piece.goes_on and links[1]:
        of_later = links[1].take_back()
        grad_k[:, : piece.seen] += of_later[0]
        grad_v[:, : piece.seen] += of_later[1]
    if piece.before and links[0]:
        links[0].give_back(grad_k[:, : piece.before], grad_v[:, : piece.before])


def _end(pieces: Sequence[Piece]) -> int:
    return pieces[-1].start + pieces[-1].length if pieces else 0


def _own(states: torch.Tensor, piece: Piece) -> torch.Tensor:
    return states[:, piece.start : piece.start + piece.length]


def _so_far(states: torch.Tensor, piece: Piece, earlier: Sequence[torch.Tensor]) -> torch.Tensor:
    """(heads, T, D) of a part as (heads, before + length, D) of a row up to the piece's end."""
    own = _own(states, piece)
    return torch.cat([*earlier, own], 1) if earlier else own


def _filled_up(states: torch.Tensor, step: int) -> torch.Tensor:
    """(heads, length, D) with zeros to a multiple of the step: later than all, seen by nobody."""
    return functional.pad(states, (0, 0, 0, -states.shape[1] % step))


def _block_size(query: torch.Tensor, key: torch.Tensor, piece: Piece) -> int:
    """Queries at once. query, key: (heads, T, D)."""
    heads = len(query)
    is_large = heads * piece.seen > CACHED and heads >= SHARING * len(key)
    return BLOCK // 2 if is_large else BLOCK


def _blocks(piece: Piece, step: int, size: int) -> Iterator[_Block]:
    padded, all_keys = (length + -length % step for length in (piece.length, piece.seen))
    for first in range(0, padded, size):
        stop = min(first + size, padded)
        last = piece.before + stop
        yield _Block(slice(first, stop), piece.before + first, min(last + -last % step, all_keys))


def _stacked(states: torch.Tensor, groups: int) -> torch.Tensor:
    """(heads, block, D) as (groups, heads of a group x block, D)."""
    return states.reshape(groups, -1, states.shape[-1])


def _weights(stacked: torch.Tensor, key: torch.Tensor, block: _Block) -> torch.Tensor:
    """Softmax of a block's queries over the keys up to its end: (groups, queries, keys)."""
    scores = stacked @ key[:, : block.keys].transpose(1, 2)
    size = block.queries.stop - block.queries.start
    by_head = scores.view(len(key), -1, size, block.keys)
    by_head[..., block.before :] += _mask(size, block.keys - block.before, scores.dtype)
    return torch.softmax(scores, -1)


def _put(whole: torch.Tensor, piece: Piece, queries: slice, states: torch.Tensor) -> None:
    """Write (groups, heads of a group x block, D) to (T, heads, D), padding left out."""
    start = piece.start + queries.start
    end = piece.start + min(piece.length, queries.stop)
    by_head = states.reshape(whole.shape[1], -1, whole.shape[-1])
    whole[start:end] = by_head.transpose(0, 1)[: end - start]


_masks: dict[torch.dtype, torch.Tensor] = {}


def _mask(queries: int, keys: int, dtype: torch.dtype) -> torch.Tensor:
    """-inf where a key comes after its query, else 0: a corner of one that is made once."""
    if dtype not in _masks:
        whole = torch.full((BLOCK, BLOCK + LENGTH_STEP), float("-inf"), dtype=dtype)
        _masks[dtype] = whole.triu(1)
    return _masks[dtype][:queries, :keys]


AttentionInterface.register(NAME, attend)
