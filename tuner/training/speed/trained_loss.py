"""
Cross-entropy of the next token on trained positions, without the logits of all others.

    lend_loss(model)
    summed = model(input_ids=…, labels=…, summed_loss=True)

Most tokens of a conversation carry no loss, and the LM head is the largest matrix of a small model.
Positions whose label is -100 never reach it, nor the last layer's MLP where that layer can be
narrowed (last_layer.py); the others go through it in pieces, and what the backward needs is
computed while a piece's logits are there, so no logits are kept or made twice.
The same idea in Triton: Liger Kernel's fused linear cross-entropy, https://arxiv.org/abs/2410.10989
Not covered: a head that trains, soft-capped logits, auxiliary losses of experts (see levers.py).
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from tuner.training.speed.few_shapes import SMALLEST_STEP, coarsely_up, rounded_up
from tuner.training.speed.last_layer import last_layer_of, narrow

LOGITS_AT_ONCE = 1 << 24  # numbers: 32 MB in 16 bits
WIDENED_AT_ONCE = 1 << 20  # of them in float32: they stay in a processor's cache
IGNORED = -100


def lend_loss(model: Any, logit_scale: float = 1.0, narrowed: bool = False) -> None:
    """Let a causal LM answer `summed_loss=True` with its loss instead of logits.

    Args:
        model: The bare transformers model, below peft: wrappers around it stay in effect.
        logit_scale: What its logits are multiplied with.
        narrowed: Whether the last layer may answer for trained positions only. No dropout in it:
            that would fall on other numbers.
    """
    plain, last = model.forward, last_layer_of(model) if narrowed else None
    if last is not None:
        narrow(last)

    @functools.wraps(plain)  # generate() looks at the signature
    def forward(*args: Any, summed_loss: bool = False, **kwargs: Any) -> Any:
        if not summed_loss:
            return plain(*args, **kwargs)
        labels, shifted = kwargs.pop("labels"), kwargs.pop("shift_labels", None)
        targets = next_tokens(labels) if shifted is None else shifted
        head = model.get_output_embeddings()
        if last is not None:
            kept = trained_first(targets, few_counts=head.weight.dtype != torch.float32)
            targets, kwargs["kept"] = targets.flatten()[kept].unsqueeze(0), kept
        hidden = model.base_model(*args, **kwargs).last_hidden_state
        return summed_loss_of(hidden, targets, head.weight, head.bias, logit_scale)

    model.forward = forward


def next_tokens(labels: torch.Tensor, row_lengths: Sequence[int] | None = None) -> torch.Tensor:
    """What each position is to predict: the label after it, within its row.

    Args:
        labels: (B, T).
        row_lengths: Lengths of the rows that lie one after the other in a single one; B is 1 then.

    >>> next_tokens(torch.tensor([[5, 6, 7, 8]]), [2, 2])
    tensor([[   6, -100,    8, -100]])
    """
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    if row_lengths is not None:
        targets[0, torch.tensor(row_lengths).cumsum(0) - 1] = IGNORED
    return targets


def trained_first(targets: torch.Tensor, few_counts: bool = False) -> torch.Tensor:
    """Positions with a target, as indices into all of them laid out as one row; one at least.

    Args:
        targets: (B, T).
        few_counts: Whether others make up one of few counts (few_shapes.py), if there are so many.

    >>> trained_first(torch.tensor([[-100, 7, -100, 9]]))
    tensor([1, 3])
    """
    trained = targets.flatten() != IGNORED
    count = max(1, int(trained.sum()))
    return torch.argsort(~trained, stable=True)[: coarsely_up(count) if few_counts else count]


def summed_loss_of(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    logit_scale: float = 1.0,
) -> torch.Tensor:
    """Sum of -log p(target) in float32, over positions whose target is not -100.

    Args:
        hidden: (B, T, H), after the last norm.
        targets: (B, T), already shifted.
        weight: (V, H), frozen.
        bias: (V), frozen.
    """
    trained = targets != IGNORED
    summed: torch.Tensor = _TrainedLoss.apply(
        hidden[trained], targets[trained], weight, bias, logit_scale
    )
    return summed


class _TrainedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        logit_scale: float,
    ) -> torch.Tensor:
        summed = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(1, LOGITS_AT_ONCE // len(weight) // SMALLEST_STEP) * SMALLEST_STEP
        for start in range(0, len(hidden), rows):
            piece = slice(start, min(start + rows, len(hidden)))
            count = piece.stop - start
            logits = functional.linear(_filled_up(hidden[piece], weight.dtype), weight, bias)
            summed += _turn_into_errors(logits[:count], targets[piece], logit_scale)
            if gradient is not None:
                gradient[piece] = (logits @ weight)[:count]
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return summed

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None, None


def _filled_up(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """States in a precision, in 16 bits with more lines of zeros."""
    missing = rounded_up(len(hidden)) - len(hidden) if dtype != torch.float32 else 0
    return functional.pad(hidden.to(dtype), (0, 0, 0, missing))


def _turn_into_errors(
    logits: torch.Tensor, targets: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Put the loss's gradient at some logits in their place.

    Args:
        logits: (N, V), before they are scaled.
        targets: (N).

    Returns:
        The summed loss.
    """
    summed = torch.zeros((), dtype=torch.float32, device=logits.device)
    count = max(1, WIDENED_AT_ONCE // logits.shape[-1])
    for few, wanted in zip(logits.split(count), targets[:, None].split(count), strict=True):
        wide = few.float() * logit_scale if logit_scale != 1.0 else few.float()
        top, at_target = wide.amax(-1, keepdim=True), wide.gather(-1, wanted)
        error = torch.softmax(wide, -1)
        # The largest probability never underflows, so the sum's logarithm is exact.
        summed += (top - error.amax(-1, keepdim=True).log() - at_target).sum()
        error.scatter_add_(-1, wanted, error.new_full(wanted.shape, -1.0))
        few.copy_(error.mul_(logit_scale) if logit_scale != 1.0 else error)
    return summed
