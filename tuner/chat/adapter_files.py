"""
Read a LoRA adapter as peft saved it: adapter_config.json and adapter_model.safetensors.

    read_adapter("runs/20261123-0915-support-bot/adapter")["model.layers.0.self_attn.q_proj"].a

What is in it is taken from the weights, not from target_modules, which may be a pattern. Taken are
LoRA and DoRA in all ranks and scalings. Refused, with a sentence: pickled weights, other methods,
and adapters that carry more than LoRA weights or were begun by changing the base.

LoRA: https://arxiv.org/abs/2106.09685 · rsLoRA: https://arxiv.org/abs/2312.03732
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tuner.base_models.patterns import may_take_for_ever
from tuner.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
KEY = re.compile(
    r"(?:base_model\.model\.)?(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?"
)

LONGEST_NAME, MOST_REPEATS = 100, 2  # of a layer, and in a pattern for some

# Settings that say how it was trained or are read here; any other that is set changes what is
# computed, and an adapter with it is refused.
HARMLESS = set(
    "auto_mapping base_model_name_or_path revision inference_mode peft_type peft_version task_type "
    "r lora_alpha target_modules exclude_modules lora_dropout fan_in_fan_out use_rslora use_dora "
    "init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_core "
    "qalora_group_size ensure_weight_tying runtime_config loftq_config eva_config corda_config "
    "lora_ga_config bias".split()
)
# Ways to begin that leave the base's weights as they are. PiSSA, OLoRA, CorDA and LoftQ do not.
KEEPS_BASE = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraWeights:
    """The adapter of one linear layer, in float32, as peft computes it.

    Attributes:
        a: r × inputs.
        b: outputs × r.
        scale: What the product is multiplied with.
        magnitude: DoRA's, one number an output; else None.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None


def read_adapter(folder: str) -> dict[str, LoraWeights]:
    """Layer's name in the base → its adapter.

    Raises:
        ModelError: No adapter, an unsafe one, or one of a kind that is not read here.
    """
    path = Path(folder)
    config = _read_config(path)
    _require_lora(folder, config)
    tensors = _read_tensors(path)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None or tensor.ndim != (1 if match[2] == "lora_magnitude_vector" else 2):
            raise ModelError(
                f"{folder} holds {key}, which is no LoRA weight of a linear layer. "
                "Merge the adapter into its base model, and choose the merged model."
            )
        found.setdefault(match[1], {})[match[2]] = tensor
    try:
        return {name: _weights(folder, name, parts, config) for name, parts in found.items()}
    except (AttributeError, OverflowError, TypeError, ValueError, re.error) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path / CONFIG} holds what no adapter has ({type(error).__name__}: "
            f"{str(error)[:80]}). Choose a complete adapter."
        ) from None


def stamp(folder: str) -> tuple[int, int]:
    """Newest time and total size of a folder's weights: they change when these are written anew."""
    try:
        files = [path.stat() for path in Path(folder).glob("*.safetensors")]
    except OSError:
        return 0, 0
    return max((file.st_mtime_ns for file in files), default=0), sum(f.st_size for f in files)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"{folder} has no {CONFIG}, so it is not an adapter. Choose the folder that holds "
            f"{CONFIG} and {WEIGHTS}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / CONFIG} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / CONFIG} is not an adapter's configuration.")
    return config


def _require_lora(folder: str, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder} is a {kind} adapter. Only LoRA and DoRA can be talked to.")
    reasons = [f"{key}={value}" for key, value in config.items() if key not in HARMLESS and value]
    if config.get("bias", "none") != "none":
        reasons.append(f"bias={config['bias']}")
    if config.get("init_lora_weights") not in KEEPS_BASE:
        reasons.append(f"init_lora_weights={config['init_lora_weights']}")
    if reasons:
        raise ModelError(
            f"{folder} is not a plain LoRA adapter ({', '.join(sorted(reasons))}). "
            "Merge it into its base model, and choose the merged model."
        )


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / WEIGHTS).is_file():
        pickled = [name for name in PICKLED if (folder / name).exists()]
        if pickled:
            raise ModelError(
                f"{folder} holds its weights as {pickled[0]}, a format that can run any program "
                f"when it is read. Choose an adapter with {WEIGHTS}."
            )
        raise ModelError(f"{folder} has no {WEIGHTS}. Choose a complete adapter.")
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read: {error}.") from None
    if not tensors:
        raise ModelError(f"{folder / WEIGHTS} holds no weights. Choose a complete adapter.")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ModelError(f"{folder} holds values that are not numbers: its training diverged.")
    return tensors


def _weights(
    folder: str, name: str, parts: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> LoraWeights:
    magnitude = parts.get("lora_magnitude_vector")
    if "lora_A" not in parts or "lora_B" not in parts:
        raise ModelError(f"{folder} holds half an adapter of {name}. Choose a complete one.")
    a, b = parts["lora_A"], parts["lora_B"]
    rank = int(_pattern(config, "rank_pattern", name, config.get("r", 8)))
    if not a.shape[0] == b.shape[1] == rank or bool(config.get("use_dora")) != (
        magnitude is not None
    ):
        raise ModelError(
            f"{folder}: the adapter of {name} is not what {CONFIG} says (r={rank}, "
            f"use_dora={bool(config.get('use_dora'))}). Choose a complete adapter."
        )
    alpha = float(_pattern(config, "alpha_pattern", name, config.get("lora_alpha", 8)))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LoraWeights(a, b, scale, magnitude)


def _pattern(config: Mapping[str, Any], setting: str, name: str, default: Any) -> Any:
    """A layer's own value: of the first pattern that its name ends on, as peft takes them."""
    for pattern, value in (config.get(setting) or {}).items():
        if len(name) > LONGEST_NAME or may_take_for_ever(pattern, MOST_REPEATS):
            raise ModelError(
                f"{setting} has the pattern {pattern[:40]!r}, which could take for ever to compare "
                f"with {name[:40]!r}. Choose an adapter whose patterns are names of layers."
            )
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
