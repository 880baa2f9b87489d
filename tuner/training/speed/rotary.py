"""
Rotary position embedding as one autograd function: each half of a head's width, turned in place.

    with rotary_in_one(model):
        model(…)

transformers negates, joins, multiplies and adds whole tensors, and autograd walks back through all
of that; a rotation's backward is the rotation the other way. transformers calls it as a function
of each family's module, so it is that name which changes while entered, where its code is Llama's.
RoFormer: https://arxiv.org/abs/2104.09864
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.models.llama import modeling_llama

from tuner.training.speed.same_code import same_code

NAME = "apply_rotary_pos_emb"
HELPER = "rotate_half"


def qualifies(model: nn.Module) -> bool:
    """Whether the model rotates as Llama does."""
    return bool(_homes(model))


@contextmanager
def rotary_in_one(model: nn.Module) -> Iterator[None]:
    """Rotate by the function below while entered."""
    before = [(home, getattr(home, NAME)) for home in _homes(model)]
    for home, _ in before:
        setattr(home, NAME, rotate)
    try:
        yield
    finally:
        for home, plain in before:
            setattr(home, NAME, plain)


def rotate(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As transformers' apply_rotary_pos_emb.

    Args:
        q, k: (B, heads, T, D).
        cos, sin: (B, T, D), without a gradient.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)


def _homes(model: nn.Module) -> list[Any]:
    """The Python modules of the model's layers that have Llama's function under its name."""
    homes = {sys.modules[type(module).__module__] for module in model.modules()}
    names = (NAME, HELPER)
    return [
        home
        for home in homes
        if all(hasattr(home, name) for name in names)
        and all(same_code(getattr(home, name), getattr(modeling_llama, name)) for name in names)
    ]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        (x1, x2), (cos1, cos2), (sin1, sin2) = _halves(x), _halves(cos), _halves(sin)
        turned = torch.empty_like(x, dtype=torch.result_type(x, cos))
        first, second = _halves(turned)
        torch.mul(x1, cos1, out=first).addcmul_(x2, sin1, value=-1)
        torch.mul(x2, cos2, out=second).addcmul_(x1, sin2)
        return turned

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        (g1, g2), (cos1, cos2), (sin1, sin2) = _halves(upstream), _halves(cos), _halves(sin)
        gradient = torch.empty_like(upstream)
        first, second = _halves(gradient)
        torch.mul(g1, cos1, out=first).addcmul_(g2, sin2)
        torch.mul(g2, cos2, out=second).addcmul_(g1, sin1, value=-1)
        return gradient, None, None


def _halves(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = states.chunk(2, dim=-1)
    return first, second
