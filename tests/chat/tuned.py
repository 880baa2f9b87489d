"""Adapters that matter, made without training, and what plain peft computes with them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tuner.base_models.lookup import find_base_model
from tuner.models.loading import load_base
from tuner.recipe import make_recipe

CPU = torch.device("cpu")


def load_plain(folder: Path, quantization: str = "none", dtype: torch.dtype = torch.float32) -> Any:
    """The base as it is loaded for answering."""
    recipe = make_recipe({"base_model": str(folder), "quantization": quantization})
    base = find_base_model(str(folder))
    return load_base(recipe, base, dtype, CPU, for_inference=True).eval()


def save_adapter(base: Path, folder: Path, seed: int = 0, **settings: Any) -> str:
    """Save a random adapter that changes what the model says; returns its folder."""
    torch.manual_seed(seed)
    config = LoraConfig(**({"target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
        if "magnitude" in name:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
    model.save_pretrained(folder)
    return str(folder)


def with_peft(model: Any, *adapters: str) -> Any:
    """Plain peft with adapters "0", "1" and so on."""
    tuned = PeftModel.from_pretrained(model, adapters[0], adapter_name="0")
    for number, adapter in enumerate(adapters[1:], 1):
        tuned.load_adapter(adapter, adapter_name=str(number))
    return tuned.eval()
