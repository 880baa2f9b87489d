"""
Weights in 16 bits: an adapter merged into them, and what that costs in accuracy.

    merge_layers(adapted, told)                        W' = round(W + ΔW), layer by layer
    logits_in_float32(model, rows)                     what its weights say, computed in float32
    relative_difference(merged, tuned) <= tolerance(torch.bfloat16)

Sums of 16-bit numbers in thousands of terms have errors of their own, as large as those looked for.
So both sides are computed in float32, with one layer's weights at a time in that precision: what
then differs is the rounding of the merged weights alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tuner.errors import ExportError
from tuner.training.verify import Logits, logits

Told = Callable[[int, int], None]  # bytes done, bytes in all

SIXTEEN = (torch.bfloat16, torch.float16)
# Rounding a weight errs by half an eps at most. Through tens of layers, errors with random signs
# add up to some eps of the logits' spread; an adapter that is lost or scaled wrongly changes more.
EPSILONS = 8


def sixteen_bit(config: dict[str, Any]) -> torch.dtype:
    """The 16-bit precision for a model: float16 if it is stored so, else bfloat16.

    bfloat16 has float32's range, so that nothing of a float32 model overflows.
    """
    return torch.float16 if stored_dtype(config) == torch.float16 else torch.bfloat16


def stored_dtype(config: dict[str, Any]) -> torch.dtype:
    """The precision that a config.json names, and float32 where it names none.

    >>> stored_dtype({"torch_dtype": "float16"}), stored_dtype({"text_config": {}})
    (torch.float16, torch.float32)
    """
    inner = config.get("text_config") or {}
    names = ("dtype", "torch_dtype")
    named = [s[name] for s in (config, inner) for name in names if s.get(name)]
    found = getattr(torch, str(named[0]), None) if named else None
    return found if isinstance(found, torch.dtype) else torch.float32


def name_of(dtype: torch.dtype) -> str:
    """bfloat16, not torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def tolerance(dtype: torch.dtype) -> float:
    """How far logits may differ, as a share of their spread.

    >>> tolerance(torch.bfloat16), round(tolerance(torch.float16), 4)
    (0.0625, 0.0078)
    """
    return EPSILONS * torch.finfo(dtype).eps


def merge_layers(adapted: Any, told: Told) -> Any:
    """Put an adapter into its base's own weights, and return the base without peft's layers.

    Each sum is computed in float32 by peft, and rounded once.

    Raises:
        ExportError: A sum is no number, or does not fit into 16 bits.
    """
    layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    total, done = sum(_weight(layer).nbytes for layer in layers), 0
    for layer in layers:
        _merge(layer)
        done += _weight(layer).nbytes
        told(done, total)
    return adapted.unload()


def logits_in_float32(model: Any, rows: list[list[int]]) -> Logits:
    """Logits of each row, computed in float32 from the weights as they are."""
    with _layers_in_float32(model):
        return logits(model, rows)


def relative_difference(left: Logits, right: Logits) -> float:
    """How far left is from right, as a share of right's spread: 0 is equal, 1 is unrelated."""
    difference = sum(
        float((a - b).double().square().sum()) for a, b in zip(left, right, strict=True)
    )
    # A constant added to all of a position's logits changes no probability.
    spread = sum(float((b - b.mean(-1, keepdim=True)).double().square().sum()) for b in right)
    return float((difference / spread) ** 0.5) if spread else float("inf")


def _merge(layer: Any) -> None:
    weight = _weight(layer)
    stored = weight.dtype
    weight.data = weight.data.float()
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise ExportError(
            "The adapter holds values that are not numbers, so it cannot be merged: its training "
            "diverged. Train again with a lower learning_rate."
        ) from error
    weight = _weight(layer)
    weight.data = weight.data.to(stored)
    if not torch.isfinite(weight).all():
        raise ExportError(
            f"The merged weights do not fit into {name_of(stored)}. Use the "
            "adapter on its base model instead of merging it."
        )


def _weight(layer: Any) -> nn.Parameter:
    weight: nn.Parameter = layer.get_base_layer().weight
    return weight


@contextmanager
def _layers_in_float32(model: nn.Module) -> Iterator[None]:
    """While a layer is at work, it holds float32 copies of its 16-bit weights."""
    held: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def before(module: nn.Module, _: Any) -> None:
        # An adapter's layer also reads the weights of the base's layer inside it.
        inside = isinstance(module, BaseTunerLayer)
        tensors = [*module.parameters(recurse=inside), *module.buffers(recurse=inside)]
        held[module] = [(tensor, tensor.data) for tensor in tensors if tensor.dtype in SIXTEEN]
        for tensor, stored in held[module]:
            tensor.data = stored.float()

    def after(module: nn.Module, *_: Any) -> None:
        for tensor, stored in held.pop(module):
            tensor.data = stored

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
