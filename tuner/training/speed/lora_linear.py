"""
A frozen linear layer and its LoRA as one autograd function: y = W x + b + s B A x.

    replaced = fuse_lora(model)

peft runs five small operations where two matrix products are, casts the input for the adapter, and
lets autograd keep what lies between. Here the backward is written down, from the input and A x:

    dx = W' g + s A' B' g      dA = s (B' g) x'      dB = s g (A x)'

and a packed 4-bit W is unpacked in each direction, never kept. Sums and updates of A and B stay in
float32; products run in the input's precision, as peft's do under autocast.
LoRA: https://arxiv.org/abs/2106.09685 · QLoRA: https://arxiv.org/abs/2305.14314
Not covered: DoRA, int8, several adapters at once, biases that train (left as they are).
"""

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional

try:
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
except ImportError:  # without bitsandbytes there are no packed layers
    LoraLinear4bit = None

Weight = Callable[[torch.dtype], torch.Tensor]


def fuse_lora(model: nn.Module) -> list[str]:
    """Give every layer that qualifies the fused forward; returns the names of those that do not."""
    left = []
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        if qualifies(module):
            module.forward = _forward_of(module)
        else:
            left.append(name)
    return left


def part_lora(model: nn.Module) -> None:
    """Take the fused forwards away again."""
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.__dict__.pop("forward", None)


def qualifies(module: Any) -> bool:
    """Whether this layer of peft's is a plain LoRA on a frozen weight."""
    kinds = [LoraLinear] if LoraLinear4bit is None else [LoraLinear, LoraLinear4bit]
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else None
    return (
        type(module) in kinds
        and list(module.lora_A) == ["default"]
        and not module.lora_variant  # DoRA and others
        and not module.lora_bias.get("default", False)
        and isinstance(base, nn.Linear)
        and not any(parameter.requires_grad for parameter in base.parameters())
    )


def _forward_of(module: Any) -> Callable[..., torch.Tensor]:
    plain, base = module.forward, module.get_base_layer()
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    dropout, weight = module.lora_dropout["default"], _weight_of(base)
    scale = module.scaling["default"]

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if module.disable_adapters or module.merged or args or kwargs:
            answer: torch.Tensor = plain(x, *args, **kwargs)
            return answer
        seen = x if isinstance(dropout, nn.Identity) else dropout(x)
        fused: torch.Tensor = _LoraLinear.apply(x, seen, a, b, base.bias, weight, scale)
        return fused

    return forward


def _weight_of(base: Any) -> Weight:
    """How to get W in a precision; a packed one is unpacked each time, in its own."""

    def weight(dtype: torch.dtype) -> torch.Tensor:
        state = getattr(base.weight, "quant_state", None)
        if state is None:
            return base.weight.to(dtype)  # type: ignore[no-any-return]
        return dequantize_4bit(base.weight.data, state).to(base.compute_dtype or dtype)  # type: ignore[no-any-return]

    return weight


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        seen: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        bias: torch.Tensor | None,
        weight: Weight,
        scale: float,
    ) -> torch.Tensor:
        """x and seen, the adapter's input after dropout: (…, inputs). Returns (…, outputs)."""
        compressed = functional.linear(seen, a.to(seen.dtype))
        w = weight(x.dtype)
        y = functional.linear(x.to(w.dtype), w, None if bias is None else bias.to(w.dtype))
        y = y.to(x.dtype)
        lines = y.view(-1, y.shape[-1])
        lines.addmm_(compressed.view(-1, len(a)), b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(seen, compressed, a, b)
        ctx.weight, ctx.scale, ctx.dropped = weight, scale, seen is not x
        return y

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        seen, compressed, a, b = ctx.saved_tensors
        g = upstream.reshape(-1, upstream.shape[-1])
        lines = seen.view(-1, seen.shape[-1])
        through_b = (g @ b.to(g.dtype)) * ctx.scale
        grad_a = (through_b.T @ lines).to(a.dtype)
        grad_b = (g.T @ compressed.view(-1, len(a)) * ctx.scale).to(b.dtype)
        grad_x = grad_seen = None
        if ctx.needs_input_grad[0]:
            w = ctx.weight(g.dtype)
            grad_x = (g.to(w.dtype) @ w).to(g.dtype)
            if not ctx.dropped:
                grad_x.addmm_(through_b, a.to(g.dtype))
            grad_x = grad_x.view(seen.shape)
        if ctx.dropped and ctx.needs_input_grad[1]:
            grad_seen = (through_b @ a.to(g.dtype)).view(seen.shape)
        return grad_x, grad_seen, grad_a, grad_b, None, None, None
