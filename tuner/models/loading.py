"""
A base model, loaded: in which precision, quantized how, on which device.

What trains (training/) and what only answers (chat/) load it here, so that both see one base.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tuner.base_models.lookup import BaseModel
from tuner.errors import ModelError
from tuner.recipe import Recipe

PACKED_WIDTH = 32  # bitsandbytes' fast 4-bit product on CPUs takes outputs in blocks of 32


def training_device() -> torch.device:
    """Where training runs: the first CUDA device, Apple's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def base_dtype(recipe: Recipe, device: torch.device, cpu_has_bf16: bool) -> torch.dtype:
    """The precision of the base's 16-bit parts.

    A T4 has no bfloat16 of its own and emulates it slowly: it gets float16, with adapters in
    float32 and a scaled loss. Full fine-tuning keeps float32 master weights.
    """
    if recipe.dtype != "auto":
        chosen: torch.dtype = getattr(torch, recipe.dtype)
        return chosen
    if recipe.adapter == "none":
        return torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16 else torch.float32


def load_base(
    recipe: Recipe,
    base: BaseModel,
    dtype: torch.dtype,
    device: torch.device,
    *,
    for_inference: bool = False,
) -> Any:
    """Load the base model, quantized if the recipe says so.

    Args:
        for_inference: Nothing will ever train on it: see `prepare_4bit_layers`.

    Raises:
        ModelError: The weights cannot be loaded.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.folder or base.name,
            revision=None if base.folder else base.revision,
            dtype=dtype,
            quantization_config=quantization_config(recipe, dtype),
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"base_model={recipe.base_model} cannot be loaded: {reason}") from error
    if recipe.quantization != "none" and device.type == "cpu":
        _let_go_of_file(model)
    prepare_4bit_layers(model, for_inference)
    model.config.use_cache = False  # generation asks for the cache by itself
    return model


def _let_go_of_file(model: nn.Module) -> None:
    """Copy what was not packed: it is a view into the weights' file, and keeps all of it mapped."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.clone()


def quantization_config(recipe: Recipe, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings; its own defaults would be fp4 with float32 compute."""
    if recipe.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if dtype == torch.float32 else dtype,
        )
    if recipe.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return None


def prepare_4bit_layers(model: nn.Module, for_inference: bool = False) -> None:
    """Keep bitsandbytes from changing its 4-bit layers while the model is at work.

    On CPUs with AVX512-BF16, the first forward without gradients (an evaluation, a sample) repacks
    a 4-bit weight into a form without a backward, and later steps lose the gradient through it
    without a word. That form is twice as fast, so a model that only answers keeps it where it fits.
    And the first forward of all rounds each bias to the type it computes in: done here, so that the
    base has one set of values from the start.

    Args:
        for_inference: Leave repacking on, but for layers whose shape it cannot take.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            packed = for_inference and _can_be_packed(layer)
            layer.support_avx512bf16_for_cpu &= packed  # type: ignore[operator]
            if isinstance(layer.bias, nn.Parameter):
                layer.bias.data = layer.bias.data.to(layer.compute_dtype)  # type: ignore[arg-type]


def _can_be_packed(layer: Any) -> bool:
    block = layer.weight.quant_state.blocksize
    return bool(layer.out_features % PACKED_WIDTH == 0 and layer.in_features % block == 0)
