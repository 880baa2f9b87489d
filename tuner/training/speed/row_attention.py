"""
A batch without padding: its rows one after the other, each attending to itself only.

    collator = RowCollator(pad_to_multiple_of=32)
    with rows_attend_to_themselves(model):
        model(**collator(rows), …)

Rows of instruction data differ much in length: in a random batch of four, 44% of a padded batch is
padding. Positions restart with every row, so a position means what it means in a row alone.
A mask over all of them would cost what the padding did; here a row's scores are computed alone, as
plain products up to EAGER_LENGTH tokens on CPUs (whose fused kernels have slow backwards at these
lengths), and by torch's scaled_dot_product_attention beyond.
Registered through transformers' attention interface (transformers.AttentionInterface).
Not covered: sliding windows, attention sinks, soft caps (see levers.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from tuner.training.speed.trained_loss import IGNORED, next_tokens

NAME = "tuner_rows"
EAGER_LENGTH = 512  # tokens
LENGTH_STEP = 32  # tokens


class RowCollator:
    """Puts rows of token ids one after the other.

    Args:
        pad_token_id: Of a last row of padding.
        pad_to_multiple_of: It fills the batch up to a multiple of so many tokens.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int = 1):
        self.pad_token_id, self.step = pad_token_id, pad_to_multiple_of

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """input_ids, position_ids, labels and shift_labels, (1, T) each; row_lengths; tokens."""
        ids = [token for row in rows for token in row["input_ids"]]
        labels = [label for row in rows for label in row.get("labels", row["input_ids"])]
        # A packed row says where the rows are that it was packed from.
        lengths = [n for row in rows for n in row.get("seq_lengths") or [len(row["input_ids"])]]
        tokens = len(ids)
        if missing := -len(ids) % self.step:
            ids += [self.pad_token_id] * missing
            labels += [IGNORED] * missing
            lengths.append(missing)
        positions = [position for length in lengths for position in range(length)]
        whole = {"input_ids": ids, "position_ids": positions, "labels": labels}
        batch: dict[str, Any] = {name: torch.tensor([numbers]) for name, numbers in whole.items()}
        batch["shift_labels"] = next_tokens(batch["labels"], lengths)
        return {**batch, "row_lengths": lengths, "tokens": tokens}


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
        row_lengths: They add up to T.

    Returns:
        (1, T, heads, D), and no weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths = list(row_lengths or [query.shape[2]])
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    rows = [_row(q, k, v, scale, dropout) for q, k, v in parts]
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float
) -> torch.Tensor:
    length = query.shape[2]
    if query.device.type != "cpu" or length > EAGER_LENGTH or dropout:
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
    # In 16 bits, oneDNN compiles and keeps a program for every length that it meets. What is put
    # after a row is later than all of it, so nothing of the row sees it.
    missing = -length % LENGTH_STEP
    if missing:
        query, key, value = (
            functional.pad(states, (0, 0, 0, missing)) for states in (query, key, value)
        )
    row: torch.Tensor = _EagerRow.apply(query, key, value, scale)
    return row[:, :, :length]


class _EagerRow(torch.autograd.Function):
    """softmax(q k' s) v of one row; what is kept for the backward is the weights, once.

    Heads that share a key lie one under the other: one product for all of them, nothing repeated.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        _, heads, length, width = query.shape
        groups = key.shape[1]
        stacked = (query * scale).reshape(groups, -1, width)
        scores = (stacked @ key[0].transpose(1, 2)).view(heads, length, length).float()
        scores.masked_fill_(_later(length, query.device), float("-inf"))
        weights = torch.softmax(scores, -1).to(value.dtype).view(groups, -1, length)
        ctx.save_for_backward(stacked, key, value, weights)
        ctx.scale = scale
        return (weights @ value[0]).view(1, heads, length, -1)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        stacked, key, value, weights = ctx.saved_tensors
        shape = upstream.shape[:3]
        g = upstream.reshape(len(stacked), -1, upstream.shape[-1])
        grad_value = weights.transpose(1, 2) @ g
        error = (g @ value[0].transpose(1, 2)).float()
        # The softmax's own backward: w (e - sum of w e); masked weights are zero.
        error -= (error * weights).sum(-1, keepdim=True)
        error = error.mul_(weights).to(key.dtype)
        grad_query = (error @ key[0]) * ctx.scale
        grad_key = error.transpose(1, 2) @ stacked
        return grad_query.view(*shape, -1), grad_key[None], grad_value[None], None


_masks: dict[tuple[int, torch.device], torch.Tensor] = {}


def _later(length: int, device: torch.device) -> torch.Tensor:
    """True where a key comes after its query; a corner of one mask that is made once."""
    mask = _masks.get((EAGER_LENGTH, device))
    if mask is None:
        mask = torch.ones(EAGER_LENGTH, EAGER_LENGTH, dtype=torch.bool, device=device).triu(1)
        _masks[EAGER_LENGTH, device] = mask
    return mask[:length, :length]


AttentionInterface.register(NAME, attend)
