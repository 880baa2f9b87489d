"""
The model that trains: a frozen, perhaps quantized base and an adapter on it.

QLoRA (NF4, double quantization, 16-bit compute): https://arxiv.org/abs/2305.14314
DoRA: https://arxiv.org/abs/2402.09353 · LoRA: https://arxiv.org/abs/2106.09685
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import xxhash
from peft import LoraConfig, get_peft_model
from torch import nn

from tuner.errors import ModelError, TrainingError
from tuner.recipe import Recipe

QUANTIZED_LAYERS = ("Linear4bit", "Linear8bitLt")


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model; packed 4-bit weights count as the weights they stand for."""

    trainable: int
    total: int


def add_adapter(model: Any, recipe: Recipe) -> Any:
    """Freeze the base and put the recipe's adapter on it, in float32; B starts at zero.

    Raises:
        ModelError: target_modules names layers that the model does not have.
    """
    if recipe.adapter == "none":
        return model
    torch.manual_seed(recipe.seed)
    try:
        adapted = get_peft_model(model, lora_config(recipe))
    except ValueError as error:
        names = ", ".join(sorted(set(linear_layer_names(model))))
        raise ModelError(
            f"lora.target_modules={recipe.lora.target_modules} does not fit "
            f"{recipe.base_model}, whose linear layers are {names}. "
            "Name some of these, or use all-linear."
        ) from error
    return adapted


def lora_config(recipe: Recipe) -> LoraConfig:
    """peft's own settings for the recipe's adapter."""
    return LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.lora_alpha,
        lora_dropout=recipe.lora.lora_dropout,
        target_modules=recipe.lora.target_modules,
        use_rslora=recipe.lora.use_rslora,
        use_dora=recipe.adapter == "dora",
        task_type="CAUSAL_LM",
    )


def adapters_in_float32(model: nn.Module) -> None:
    """Hold what trains in float32: in 16 bits, small updates round away."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def require_trainable(model: nn.Module, recipe: Recipe) -> None:
    """Refuse a model in which nothing would learn.

    Raises:
        TrainingError: No parameter trains.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(
            f"No parameter of {recipe.base_model} would train with adapter={recipe.adapter}. "
            "Set lora.target_modules to all-linear."
        )


def linear_layer_names(model: nn.Module) -> Iterator[str]:
    """Last name of each linear layer, as target_modules takes them."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ in QUANTIZED_LAYERS:
            yield name.rpartition(".")[2]


def quantized_modules(model: nn.Module) -> int:
    """How many layers really hold 4- or 8-bit weights."""
    return len(_quantized_layers(model))


def quantized_bytes(model: nn.Module) -> int:
    """Bytes of the packed weights of those layers, without their scales."""
    return sum(w.numel() * w.element_size() for w in map(_weight, _quantized_layers(model)))


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count as the model's makers do: tied weights once, packed weights unpacked."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return ParameterCount(trainable, sum(_unpacked(p) for p in model.parameters()))


def hash_base_weights(model: nn.Module) -> str:
    """A fingerprint of every weight of the base, packed ones as they are (xxh3, 128 bit).

    Adapter weights are left out, and peft's `base_layer` in names, so that the fingerprint is the
    same with and without an adapter.
    """
    digest = xxhash.xxh3_128()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: _bare_name(item[0])):
        if "lora_" not in name:
            digest.update(_bare_name(name).encode())
            digest.update(_bytes_of(parameter))
    return digest.hexdigest()


def _quantized_layers(model: nn.Module) -> list[nn.Module]:
    # Under an adapter they are the `base_layer` of peft's layer, whose type has another module.
    return [
        module
        for module in model.modules()
        if type(module).__name__ in QUANTIZED_LAYERS
        and type(module).__module__.startswith("bitsandbytes")
    ]


def _weight(layer: nn.Module) -> torch.Tensor:
    return cast(torch.Tensor, layer.weight)


def _unpacked(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def _bare_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _bytes_of(parameter: torch.Tensor) -> memoryview:
    flat = parameter.detach().to("cpu").contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
