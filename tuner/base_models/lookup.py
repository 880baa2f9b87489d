"""
Find a base model and what it is, before anything large is downloaded or loaded.

    find_base_model("starter")                                  # comes with Tuner
    find_base_model("./models/my-llama")                        # a folder
    find_base_model("HuggingFaceTB/SmolLM2-135M-Instruct")      # the Hub, or its local cache

From the Hub come the model's page, config.json and the headers of its weights: some 100 kB. With
HF_HUB_OFFLINE, or when the Hub cannot be reached, a model that was downloaded before is used.
Refused, with a sentence: what is missing, gated, pickled, needs its own code, or is no language
model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.base_models import checkpoint
from tuner.base_models.checkpoint import CONFIG, Tensor
from tuner.base_models.hub import Unreachable, cached_folder, look_up
from tuner.errors import ModelError, RecipeError
from tuner.recipe import Recipe
from tuner.starter import STARTER_DIR

STARTER = "starter"

# By the memory they ask for with QLoRA at usual lengths. Licence and gating are asked of the Hub.
SUGGESTED: dict[str, tuple[str, ...]] = {
    "builtin": (STARTER,),
    "cpu": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "ibm-granite/granite-4.0-350m",
        "google/gemma-3-270m-it",
    ),
    "gpu": (
        "mistralai/Mistral-7B-Instruct-v0.3",
        "Qwen/Qwen3-4B-Instruct-2507",
        "HuggingFaceTB/SmolLM3-3B",
        "microsoft/Phi-4-mini-instruct",
        "microsoft/Phi-3-mini-4k-instruct",
        "bigcode/starcoder2-3b",
        "google/gemma-2-2b-it",
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-3.2-1B-Instruct",
    ),
}


@dataclass(frozen=True)
class BaseModel:
    """A model that can be fine-tuned.

    Args:
        name: As given: `starter`, a folder or a Hub id.
        revision: The commit on the Hub; None for a folder.
        folder: Where its files are, if they are on this machine.
        parameters: Stored numbers, tied weights once.
        weight_bytes: Size of the weights as stored.
        license: The Hub's short name for it, if the model's page says one.
        context_length: Tokens; 0 where the config sets no limit.
    """

    name: str
    revision: str | None
    folder: Path | None
    config: dict[str, Any]
    parameters: int
    weight_bytes: int
    license: str | None
    license_link: str | None
    gated: bool
    context_length: int
    has_chat_template: bool


def find_base_model(name: str, revision: str | None = None, token: str | None = None) -> BaseModel:
    """Look a base model up.

    Args:
        revision: Branch, tag or commit, for a model on the Hub.
        token: Of the person asking, for private and gated models; None for the machine's own.

    Raises:
        ModelError: It cannot be found, reached or used.
    """
    if name == STARTER:
        return _from_folder(name, STARTER_DIR)
    if folder := _folder(name):
        return _from_folder(name, folder)
    if not name.strip() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"base_model={name} is not a folder on this machine. Give a folder with a config.json, "
            "a Hub id such as Qwen/Qwen3-0.6B, or starter."
        )
    return _from_hub(name, revision, token)


def check_length(recipe: Recipe, base: BaseModel) -> None:
    """Refuse rows that are longer than the model can attend to.

    Raises:
        RecipeError: recipe.max_length exceeds the context.
    """
    limit = base.context_length
    if limit and recipe.max_length > limit:
        raise RecipeError(
            f"max_length={recipe.max_length} exceeds the {limit}-token context of "
            f"{recipe.base_model}. Set max_length to {limit} or less."
        )


def _folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if name.strip() and folder.is_dir() else None
    except (OSError, RuntimeError):  # too long for a path, behind a closed door, or ~nobody
        return None


def _from_folder(name: str, folder: Path, revision: str | None = None) -> BaseModel:
    config = checkpoint.parse_config(_read_config(name, folder), name)
    checkpoint.require_causal_lm(config, name)
    return _base_model(
        name,
        config,
        checkpoint.read_tensors(folder, name),
        checkpoint.card_of(folder),
        revision=revision,
        folder=folder,
        gated=False,
        has_chat_template=checkpoint.has_chat_template(folder),
    )


def _from_hub(name: str, revision: str | None, token: str | None) -> BaseModel:
    suggestions = [model for models in SUGGESTED.values() for model in models]
    try:
        found = look_up(name, revision, token, suggestions)
    except Unreachable as unreachable:
        folder = cached_folder(name, revision)
        if folder is None:
            wanted = f"{name} at revision {revision}" if revision else name
            raise ModelError(
                f"{wanted} is not on this machine, and {unreachable}. {unreachable.remedy}, "
                "or choose starter or a local folder."
            ) from None
        return _from_folder(name, folder, revision=folder.name)
    return _base_model(
        name,
        found.config,
        found.tensors,
        found.card,
        revision=found.commit,
        folder=None,
        gated=found.gated,
        has_chat_template=found.has_chat_template,
    )


def _base_model(
    name: str,
    config: dict[str, Any],
    tensors: Mapping[str, Tensor],
    card: Mapping[str, Any],
    **found: Any,
) -> BaseModel:
    return BaseModel(
        name=name,
        config=config,
        parameters=checkpoint.count_parameters(tensors, config),
        weight_bytes=sum(tensor.bytes for tensor in tensors.values()),
        license=_text(card.get("license")),
        license_link=_text(card.get("license_link")),
        context_length=checkpoint.context_length(config),
        **found,
    )


def _read_config(name: str, folder: Path) -> str:
    try:
        return (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise _without_config(name, folder) from None
    except OSError as error:
        raise ModelError(f"{folder / CONFIG} cannot be read: {error.strerror}.") from None


def _without_config(name: str, folder: Path) -> ModelError:
    if (folder / "adapter_config.json").is_file():
        return ModelError(
            f"{name} is an adapter, not a base model. Choose the model it belongs to."
        )
    return ModelError(
        f"{name} has no config.json, so it is not a model folder. "
        "Choose the folder that holds config.json and model.safetensors."
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
