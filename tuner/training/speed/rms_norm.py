"""
RMS norm as one autograd function: y = w x / sqrt(mean(x²) + eps).

    fused = fuse_norms(model)

Written as its formula, autograd keeps x in float32 and walks back through every operation; here x
stays as it came, and the backward is one formula, with x̂ = x / sqrt(mean(x²) + eps):

    dx = (w g - x̂ mean(w g x̂)) / sqrt(mean(x²) + eps)

Roundings are where transformers has them. RMS norm: https://arxiv.org/abs/1910.07467
Not covered: weights that train; norms that are not written as Llama's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tuner.training.speed.same_code import has_code_of


def fuse_norms(model: nn.Module) -> int:
    """Give every norm that qualifies the fused forward; returns how many do."""
    norms = [module for module in model.modules() if qualifies(module)]
    for module in norms:
        module.forward = _forward_of(module)
    return len(norms)


def part_norms(model: nn.Module) -> None:
    """Take the fused forwards away again."""
    for module in model.modules():
        if qualifies(module):
            module.__dict__.pop("forward", None)


def qualifies(module: Any) -> bool:
    """Whether this is an RMS norm as Llama's, frozen."""
    return has_code_of(module, LlamaRMSNorm) and not module.weight.requires_grad


def _forward_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = _RmsNorm.apply(hidden_states, module.weight, module.variance_epsilon)
        return normed

    return forward


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x: (…, width)."""
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        normed: torch.Tensor = weight * (wide * inverse).to(x.dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        x, inverse, weight = ctx.saved_tensors
        error = (upstream * weight).float()
        normed = x.float() * inverse
        mean = (error * normed).mean(-1, keepdim=True)
        return error.sub_(normed.mul_(mean)).mul_(inverse).to(x.dtype), None, None
