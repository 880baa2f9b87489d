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
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tuner.base_models.lookup import BaseModel
from tuner.errors import ModelError, TrainingError
from tuner.recipe import Recipe

QUANTIZED_LAYERS = ("Linear4bit", "Linear8bitLt")


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model; packed 4-bit weights count as the weights they stand for."""

    trainable: int
    total: int


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


def load_base(recipe: Recipe, base: BaseModel, dtype: torch.dtype, device: torch.device) -> Any:
    """Load the base model, quantized if the recipe says so.

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
    prepare_4bit_layers(model)
    model.config.use_cache = False  # generation asks for the cache by itself
    return model


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


def prepare_4bit_layers(model: nn.Module) -> None:
    """Keep bitsandbytes from changing its 4-bit layers while the model is at work.

    On CPUs with AVX512-BF16, the first forward without gradients (an evaluation, a sample) repacks
    a 4-bit weight into a form without a backward, and later steps lose the gradient through it
    without a word. And the first forward of all rounds each bias to the type it computes in: done
    here, so that the base has one set of values from the start.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            if isinstance(layer.bias, nn.Parameter):
                layer.bias.data = layer.bias.data.to(layer.compute_dtype)  # type: ignore[arg-type]


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
