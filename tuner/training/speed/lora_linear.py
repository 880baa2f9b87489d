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
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional

try:
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
except ImportError:  # without bitsandbytes there are no packed layers
    LoraLinear4bit = None


NAME = "default"  # what peft calls an adapter
# A 16-bit product of so few lines costs a CPU ten times a float32 one of an adapter's size: it is
# prepared anew each time. So few lines are one more token of each sample.
FEW_LINES = 64


class Gradients(NamedTuple):
    """Of the input, of A and of B."""

    x: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True)
class LoraLayer:
    """The arithmetic of one layer, for autograd functions.

    Attributes:
        base: The frozen linear layer, W and perhaps a bias.
        a, b: (rank, inputs) and (outputs, rank), in float32.
        scale: s.
    """

    base: Any
    a: torch.Tensor
    b: torch.Tensor
    scale: float

    @classmethod
    def of(cls, module: Any) -> "LoraLayer":
        """From a layer of peft's that qualifies."""
        a, b = module.lora_A[NAME].weight, module.lora_B[NAME].weight
        return cls(module.get_base_layer(), a, b, module.scaling[NAME])

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """W in a precision; a packed one is unpacked each time, in its own."""
        state = getattr(self.base.weight, "quant_state", None)
        if state is None:
            return self.base.weight.to(dtype)  # type: ignore[no-any-return]
        precision = self.base.compute_dtype or dtype
        return dequantize_4bit(self.base.weight.data, state).to(precision)  # type: ignore[no-any-return]

    def forward(
        self, x: torch.Tensor, seen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """y and A x.

        Args:
            x: (…, inputs).
            seen: What the adapter sees of it, where that is something else.
        """
        w, bias = self.weight(x.dtype), self.base.bias
        y = functional.linear(x.to(w.dtype), w, None if bias is None else bias.to(w.dtype))
        y = y.to(x.dtype)
        seen = x if seen is None else seen
        if len(lines(x)) <= FEW_LINES:
            through_a = functional.linear(seen.float(), self.a)
            lines(y).add_(functional.linear(lines(through_a), self.b), alpha=self.scale)
            return y, through_a.to(x.dtype)
        through_a = functional.linear(seen, self.a.to(x.dtype))
        lines(y).addmm_(lines(through_a), self.b.to(x.dtype).T, alpha=self.scale)
        return y, through_a

    def backward(
        self,
        upstream: torch.Tensor,
        x: torch.Tensor,
        through_a: torch.Tensor,
        add_to: torch.Tensor | None = None,
    ) -> Gradients:
        """All gradients of one that has no dropout.

        Args:
            add_to: The input's gradient from elsewhere; it becomes the sum.
        """
        through_b, grad_a, grad_b = self.adapter_backward(upstream, x, through_a)
        grad_x = self.base_backward(upstream, add_to)
        lines(grad_x).addmm_(through_b, self.a.to(grad_x.dtype))
        return Gradients(grad_x, grad_a, grad_b)

    def adapter_backward(
        self, upstream: torch.Tensor, seen: torch.Tensor, through_a: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """s B' g, a line for each input line, and the gradients of A and B."""
        g = lines(upstream)
        through_b = (g @ self.b.to(g.dtype)) * self.scale
        grad_a = through_b.T @ lines(seen)
        grad_b = g.T @ lines(through_a) * self.scale
        return through_b, grad_a.to(self.a.dtype), grad_b.to(self.b.dtype)

    def base_backward(
        self, upstream: torch.Tensor, add_to: torch.Tensor | None = None
    ) -> torch.Tensor:
        """W' g, perhaps added to something."""
        w = self.weight(upstream.dtype)
        g = upstream.to(w.dtype)
        if add_to is None or add_to.dtype != w.dtype:
            grad_x = (g @ w).to(upstream.dtype)
            return grad_x if add_to is None else add_to.add_(grad_x)
        lines(add_to).addmm_(lines(g), w)
        return add_to


def lines(states: torch.Tensor) -> torch.Tensor:
    """(…, width) as (lines, width)."""
    return states.reshape(-1, states.shape[-1])


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
        and list(module.lora_A) == [NAME]
        and not module.lora_variant  # DoRA and others
        and not module.lora_bias.get(NAME, False)
        and isinstance(base, nn.Linear)
        and not any(parameter.requires_grad for parameter in base.parameters())
    )


def is_used(module: Any) -> bool:
    """Whether a layer that qualifies has its adapter on: for preferences, trl also asks without it,
    or with a copy of it as it began."""
    return not module.disable_adapters and not module.merged and module.active_adapters == [NAME]


def drops(module: Any) -> bool:
    """Whether the adapter of a layer that qualifies has dropout."""
    return not isinstance(module.lora_dropout[NAME], nn.Identity)


def _forward_of(module: Any) -> Callable[..., torch.Tensor]:
    plain, layer = module.forward, LoraLayer.of(module)
    dropout = module.lora_dropout[NAME] if drops(module) else None

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not is_used(module) or args or kwargs:
            answer: torch.Tensor = plain(x, *args, **kwargs)
            return answer
        seen = dropout(x) if dropout else x
        fused: torch.Tensor = _LoraLinear.apply(x, seen, layer, layer.a, layer.b)
        return fused

    return forward


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        seen: torch.Tensor,
        layer: LoraLayer,
        *_: torch.Tensor,
    ) -> torch.Tensor:
        """x and seen, the adapter's input after dropout: (…, inputs). Returns (…, outputs)."""
        y, through_a = layer.forward(x, seen)
        ctx.save_for_backward(seen, through_a)
        ctx.layer, ctx.dropped = layer, seen is not x
        return y

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        layer, (seen, through_a) = ctx.layer, ctx.saved_tensors
        if not ctx.dropped and ctx.needs_input_grad[0]:
            of = layer.backward(upstream, seen, through_a)
            return of.x, None, None, of.a, of.b
        through_b, grad_a, grad_b = layer.adapter_backward(upstream, seen, through_a)
        grad_x = layer.base_backward(upstream) if ctx.needs_input_grad[0] else None
        grad_seen = None
        if ctx.dropped and ctx.needs_input_grad[1]:
            grad_seen = (through_b @ layer.a.to(upstream.dtype)).view(seen.shape)
        return grad_x, grad_seen, None, grad_a, grad_b
