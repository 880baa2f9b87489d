"""What a Modelfile is written from, read from merged weights, their tokenizer and the run."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tuner.base_models.checkpoint import CONFIG
from tuner.base_models.lookup import BaseModel
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import adds_bos
from tuner.errors import DatasetError
from tuner.export.modelfile import NAME, Source, modelfile
from tuner.recipe import Recipe


def write_modelfile(
    folder: Path, name: str, recipe: Recipe, base: BaseModel, renderer: Renderer
) -> list[str]:
    """Add a Modelfile to a folder of merged weights.

    Args:
        name: The run's id.
        base: For its licence and context length.

    Returns:
        Sentences on what Ollama will not do as one might expect.
    """
    settings, generation = _json(folder / CONFIG), _json(folder / "generation_config.json")
    tokenizer = renderer.tokenizer
    source = Source(
        name=name,
        architecture=(settings.get("architectures") or ["this architecture"])[0],
        base_model=shown(recipe.base_model),
        license=base.license,
        bos=tokenizer.bos_token if adds_bos(tokenizer) else "",
        stops=_stops(renderer, generation),
        system_prompt=recipe.dataset.system_prompt,
        generation=generation,
        context_length=base.context_length,
        trained_length=recipe.max_length,
    )
    text, notes = modelfile(source, renderer.prompt_text)
    (folder / NAME).write_text(text, encoding="utf-8")
    return notes


def shown(base_model: str) -> str:
    """A base model's name as others may see it: of a folder, its last part.

    >>> shown("Qwen/Qwen3-0.6B"), shown("/home/ann/models/qwen")
    ('Qwen/Qwen3-0.6B', 'qwen')
    """
    is_path = base_model.startswith(("/", ".", "~")) or Path(base_model).is_dir()
    return Path(base_model).name if is_path else base_model


def _stops(renderer: Renderer, generation: Mapping[str, Any]) -> list[str]:
    """Texts of the tokens that end an answer."""
    tokenizer = renderer.tokenizer
    ends = generation.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    ids = {tokenizer.eos_token_id, *(end for end in listed if isinstance(end, int))}
    with suppress(DatasetError):  # a template that finds no answer: the tokenizer's must do
        ids |= set(renderer.stop_token_ids)
    texts: list[str | None] = tokenizer.convert_ids_to_tokens(sorted(ids))
    return [text for text in texts if text]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:  # not every model has advice on sampling
        return {}
