"""
A gated MLP and its three LoRA as one autograd function: y = down(act(gate(x)) * up(x)).

    fused = fuse_mlps(model)

Of the four tensors of its inner width that autograd would keep, two stay: what gate and up gave.
The other two are made again in the backward, elementwise. Layers are those of lora_linear.py.
SwiGLU: https://arxiv.org/abs/2002.05202
Not covered: dropout before the adapters; MLPs without an adapter on each of the three; MLPs that
are not written as Llama's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import GELUTanh, SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP

from tuner.training.speed import lora_linear
from tuner.training.speed.lora_linear import LoraLayer
from tuner.training.speed.same_code import has_code_of

NAMES = ("gate_proj", "up_proj", "down_proj")
Activation = Callable[[torch.Tensor], torch.Tensor]
Backward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


def _gelu_backward(upstream: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.gelu_backward(upstream, x, approximate="tanh")  # type: ignore[no-any-return]


ACTIVATIONS: dict[type[nn.Module], tuple[Activation, Backward]] = {
    **dict.fromkeys((SiLUActivation, nn.SiLU), (functional.silu, torch.ops.aten.silu_backward)),
    GELUTanh: (_gelu, _gelu_backward),
}


def fuse_mlps(model: nn.Module) -> int:
    """Give every MLP that qualifies the fused forward; returns how many do."""
    blocks = [module for module in model.modules() if qualifies(module)]
    for module in blocks:
        module.forward = _forward_of(module)
    return len(blocks)


def part_mlps(model: nn.Module) -> None:
    """Take the fused forwards away again."""
    for module in model.modules():
        if has_code_of(module, LlamaMLP):
            module.__dict__.pop("forward", None)


def qualifies(module: Any) -> bool:
    """Whether this is a gated MLP as Llama's, with a plain LoRA on each layer."""
    if not has_code_of(module, LlamaMLP) or type(module.act_fn) not in ACTIVATIONS:
        return False
    layers = [getattr(module, name) for name in NAMES]
    return all(map(lora_linear.qualifies, layers)) and not any(map(lora_linear.drops, layers))


def _forward_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    plain, projections = module.forward, [getattr(module, name) for name in NAMES]
    layers = [LoraLayer.of(projection) for projection in projections]
    trained = [weight for layer in layers for weight in (layer.a, layer.b)]
    activation = ACTIVATIONS[type(module.act_fn)]

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not all(map(lora_linear.is_used, projections)):
            answer: torch.Tensor = plain(x)
            return answer
        fused: torch.Tensor = _GatedMlp.apply(x, layers, activation, *trained)
        return fused

    return forward


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        layers: list[LoraLayer],
        activation: tuple[Activation, Backward],
        *_: torch.Tensor,
    ) -> torch.Tensor:
        """x: (…, inputs). Returns (…, outputs)."""
        gate_proj, up_proj, down_proj = layers
        gate, through_gate = gate_proj.forward(x)
        up, through_up = up_proj.forward(x)
        y, through_down = down_proj.forward(activation[0](gate).mul_(up))
        ctx.save_for_backward(x, gate, up, through_gate, through_up, through_down)
        ctx.layers, ctx.activation = layers, activation
        return y

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        x, gate, up, through_gate, through_up, through_down = ctx.saved_tensors
        gate_proj, up_proj, down_proj = ctx.layers
        activate, activation_backward = ctx.activation
        active = activate(gate)
        of_down = down_proj.backward(upstream, active * up, through_down)
        grad_up = active.mul_(of_down.x)
        grad_gate = activation_backward(of_down.x.mul_(up), gate)
        of_up = up_proj.backward(grad_up, x, through_up)
        of_gate = gate_proj.backward(grad_gate, x, through_gate, add_to=of_up.x)
        trained = (of_gate.a, of_gate.b, of_up.a, of_up.b, of_down.a, of_down.b)
        return of_gate.x, None, None, *trained
