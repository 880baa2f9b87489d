"""
The last decoder layer, answering for some positions only.

    narrow(layer)
    model.base_model(…, kept=positions)     # last_hidden_state has these, in one row

Positions that carry no loss are there for others to attend to, and after the last attention nobody
does: they need no MLP and no norm any more, as they need no head (trained_loss.py). That is three
quarters of a layer's work for each of them, and a small model has few layers.
Not covered: layers that are not written as Llama's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tuner.training.speed.same_code import has_code_of


def last_layer_of(model: Any) -> nn.Module | None:
    """The last decoder layer of a causal LM, with an adapter or without; None where it is not
    written as Llama's."""
    layers = getattr(bare(model).base_model, "layers", None)
    return layers[-1] if layers and has_code_of(layers[-1], LlamaDecoderLayer) else None


def bare(model: Any) -> Any:
    """The transformers model within peft's wrapper, or without one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def narrow(layer: Any) -> None:
    """Let a decoder layer's forward take `kept`, positions of (B, T) laid out as one row.

    With it the answer is (1, len(kept), H), without it as ever.
    """
    plain = layer.forward

    def forward(
        hidden_states: torch.Tensor, *args: Any, kept: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        if kept is None:
            whole: torch.Tensor = plain(hidden_states, *args, **kwargs)
            return whole
        narrowed: Callable[..., torch.Tensor] = partial(_narrowed, layer, kept, **kwargs)
        if layer.gradient_checkpointing and layer.training:  # the plain forward's wrapper does it
            narrowed = partial(layer._gradient_checkpointing_func, narrowed)
        return narrowed(hidden_states)

    layer.forward = forward


def _narrowed(
    layer: Any, kept: torch.Tensor, hidden_states: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    """As LlamaDecoderLayer.forward, leaving the others behind after the attention."""
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    residual = (hidden_states + attended).flatten(0, 1).index_select(0, kept).unsqueeze(0)
    found: torch.Tensor = residual + layer.mlp(layer.post_attention_layernorm(residual))
    return found
