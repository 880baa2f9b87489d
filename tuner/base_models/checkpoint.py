"""
What a model folder holds: its config, the headers of its weights, its licence. Nothing is loaded.

The header of a safetensors file names every tensor's type and shape, in JSON behind 8 bytes of
length: https://huggingface.co/docs/safetensors/index#format. Pickled weights (.bin, .pt) can run
code when they are opened, so they are never opened.
"""

import functools
import importlib.util
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tuner.base_models.families import FAMILIES
from tuner.errors import ModelError

CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
CARD = re.compile(r"\ufeff?---\n(.*?)\n---(?:\n|$)", re.DOTALL)
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
ELEMENT_BITS = {  # by the letters and digits that a dtype begins with; others have 8
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    "F6": 6,
    "F4": 4,
}
HEADS = {"lm_head.weight", "embed_out.weight"}
# Masks and frequencies that older models stored beside their parameters.
BUFFER = re.compile(r"(.*\.)?(attn|attention)\.(masked_)?bias|(.*\.)?rotary_emb\.inv_freq")
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
LAYER_KEYS, MOST_LAYERS = ("num_hidden_layers", "n_layer", "num_layers"), 10_000
GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
CONFIG_TYPES = {"model_type": str, "architectures": list, "text_config": dict}


@dataclass(frozen=True)
class Tensor:
    """One stored tensor, from a header."""

    numbers: int
    bytes: int


def parse_config(text: str, name: str) -> dict[str, Any]:
    """The settings in a config.json.

    Raises:
        ModelError: Not a JSON object, or one that no model has.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"The config.json of {name} is damaged: {error}. Download the model again."
        ) from None
    if not isinstance(config, dict):
        raise ModelError(f"The config.json of {name} holds no settings. Download the model again.")
    for key, kind in CONFIG_TYPES.items():
        if not isinstance(config.get(key), (kind, type(None))):
            raise ModelError(
                f"The config.json of {name} is damaged: its {key} cannot be read. "
                "Download the model again."
            )
    return config


def require_causal_lm(config: Mapping[str, Any], name: str) -> None:
    """Refuse what cannot be fine-tuned to continue text with the installed transformers.

    Raises:
        ModelError: It needs code of its own, is too new, or is another kind of model.
    """
    kind = config.get("model_type")
    architectures = config.get("architectures") or []
    known = _native_types("modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES") or set(FAMILIES)
    if kind not in known and "auto_map" in config:
        raise ModelError(
            f"{name} needs program code from its own repository, which Tuner never runs "
            "(trust_remote_code stays off). Choose a model that transformers knows by itself."
        )
    if kernel := _foreign_kernel(config):
        raise ModelError(
            f"{name} wants to be computed by program code from {kernel[:80]}, which Tuner never "
            "runs. Choose a model that transformers knows by itself."
        )
    if layers := _too_many_layers(config):
        raise ModelError(
            f"The config.json of {name} asks for {layers:,} layers, which no machine could even "
            "list. Choose another model."
        )
    if kind is None:
        raise ModelError(
            f"The config.json of {name} names no model_type. Choose a model made for transformers."
        )
    if kind not in known and kind not in _native_types("auto_mappings.py", "CONFIG_MAPPING_NAMES"):
        raise ModelError(
            f"{name} is a {kind!r} model, which the installed transformers does not know. "
            "Choose another model, or update transformers."
        )
    unfit = architectures and not any(str(a).endswith(GENERATES) for a in architectures)
    if kind not in known or unfit or config.get("is_encoder_decoder"):
        what = architectures[0] if architectures else kind
        raise ModelError(
            f"{name} is not a causal language model: its config.json says {what}. "
            "Choose one that continues text, such as a Llama, Mistral or Qwen model."
        )


def context_length(config: Mapping[str, Any]) -> int:
    """Tokens that the model can attend to; 0 where its config sets no limit."""
    inner = config.get("text_config") or {}
    found = (source.get(key) for source in (config, inner) for key in CONTEXT_KEYS)
    return next((value for value in found if isinstance(value, int) and value > 0), 0)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Every tensor of a folder's safetensors weights, by name.

    Raises:
        ModelError: Weights are missing, pickled or damaged.
    """
    files = [SINGLE] if (folder / SINGLE).is_file() else _indexed_files(folder, name)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_header(folder / Path(file).name, name)
    return tensors


def _foreign_kernel(value: Any) -> str | None:
    """A repository that some part of a config names as the one to compute attention or experts."""
    if isinstance(value, list):
        return next(filter(None, map(_foreign_kernel, value)), None)
    if not isinstance(value, Mapping):
        return None
    named = [str(value[key]) for key in value if str(key).endswith("_implementation")]
    kernels = [name for name in named if "/" in name]
    return kernels[0] if kernels else _foreign_kernel(list(value.values()))


def _too_many_layers(config: Mapping[str, Any]) -> int | None:
    counts = [
        part.get(key) for part in (config, config.get("text_config") or {}) for key in LAYER_KEYS
    ]
    return next((n for n in counts if isinstance(n, int) and n > MOST_LAYERS), None)


def _indexed_files(folder: Path, name: str) -> list[str]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
        # Only these: transformers opens a file of another name as a pickle.
        if files and all(str(file).endswith(".safetensors") for file in files):
            return [str(file) for file in files]
    except FileNotFoundError:
        return weight_files((path.name for path in folder.iterdir()), name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ModelError(f"{INDEX} of {name} is damaged. Download the model again.")


def weight_files(names: Iterable[str], model: str) -> list[str]:
    """Those of a model's files that transformers reads its weights from.

    Raises:
        ModelError: There are none in safetensors format.
    """
    names = sorted(names)
    if SINGLE in names:
        return [SINGLE]
    if shards := [n for n in names if SHARD.fullmatch(n)]:
        if INDEX in names:
            return shards
        raise ModelError(
            f"{model} has its weights in several files, but no {INDEX} that lists them. "
            "Download the model again, with all its files."
        )
    if any(n.endswith((".bin", ".pt", ".pth", ".ckpt")) for n in names):
        raise ModelError(
            f"{model} has pickled weights only, and opening a pickle can run harmful code. "
            "Choose a model with safetensors weights, or ask its authors for them."
        )
    if "adapter_config.json" in names:
        raise ModelError(
            f"{model} is an adapter, not a base model. Choose the model it was trained on."
        )
    raise ModelError(
        f"{model} has no safetensors weights ({SINGLE}). Choose a model that has them."
    )


def parse_header(header: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by name from one safetensors header.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: It is none.
    """
    tensors = {
        name: _tensor(entry["dtype"], entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    if not tensors:
        raise ValueError("it holds no weights")
    return tensors


def count_parameters(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> int:
    """Stored numbers; a head that is tied to the embeddings is left out if it was stored too."""
    family = FAMILIES.get(str(config.get("model_type")))
    tied = config.get("tie_word_embeddings", bool(family and family.tied))
    counts = {name: t.numbers for name, t in tensors.items() if not BUFFER.fullmatch(name)}
    head = sum(counts.pop(name, 0) for name in HEADS)
    # Of two tied tensors some checkpoints store the head only: then the embeddings have no twin.
    return sum(counts.values()) + (0 if tied and head in counts.values() else head)


def card_of(folder: Path) -> dict[str, Any]:
    """The YAML block at the top of a folder's README.md; empty if there is none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
        block = CARD.match(text)
        card = yaml.safe_load(block[1]) if block else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return card if isinstance(card, dict) else {}


def has_chat_template(folder: Path) -> bool:
    """Whether the folder's tokenizer knows how to write a conversation."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        text = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        return bool(json.loads(text).get("chat_template"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _tensor(dtype: str, shape: list[int]) -> Tensor:
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"it has a tensor of shape {shape}")
    numbers = math.prod(shape)
    return Tensor(numbers, numbers * ELEMENT_BITS.get(dtype.partition("_")[0], 8) // 8)


def _read_header(path: Path, name: str) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(LONGEST_HEADER, path.stat().st_size):
                raise ValueError("its header is longer than the file")
            tensors = parse_header(json.loads(file.read(length)))
        _require_all(path, 8 + length + sum(tensor.bytes for tensor in tensors.values()))
        return tensors
    except FileNotFoundError:
        reason = "is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"is damaged ({error})"
    raise ModelError(f"{path.name} of {name} {reason}. Download the model again.") from None


def _require_all(path: Path, expected: int) -> None:
    if path.stat().st_size < expected:
        raise ValueError(f"{path.stat().st_size:,} of {expected:,} bytes are there")


@functools.cache
def _native_types(file: str, mapping: str) -> frozenset[str]:
    """Keys of one of transformers' tables, read as text: importing transformers takes seconds."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        return frozenset()
    path = Path(package.origin).parent / "models" / "auto" / file
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    _, _, table = text.partition(f"\n{mapping} = ")
    rows, _, _ = table.partition("\n)\n")
    return frozenset(re.findall(r'^        \("([^"]+)",', rows, re.MULTILINE))
