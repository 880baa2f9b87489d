"""
What a card tells of a run, gathered once: its recipe, result, data report, events and base.

Files of older versions, or edited ones, tell what they tell: what is missing or of another type is
left out of the card, and nothing is raised for it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import RecipeError
from tuner.hub.card.base import BaseFacts, base_of
from tuner.presets import Preset, load_preset
from tuner.recipe import Recipe
from tuner.runs.events import Event, current_history
from tuner.runs.names import slug_of
from tuner.runs.run import Run


@dataclass(frozen=True)
class Facts:
    """One run, for people elsewhere.

    Attributes:
        repo: Where the card will stand; user/name.
        result, report: result.json and data/report.json; empty where there are none.
        history: Its events, without what a resume did over again.
        merged: What is published has its adapter merged into the base.
    """

    run: Run
    repo: str
    recipe: Recipe
    result: Mapping[str, Any]
    report: Mapping[str, Any]
    history: list[Event]
    base: BaseFacts
    preset: Preset | None
    merged: bool

    @property
    def name(self) -> str:
        """What the model is called: as its repo."""
        return self.repo.rpartition("/")[2] or slug_of(self.run.id)

    @property
    def loads_alone(self) -> bool:
        """Whether what is published is a whole model, not an adapter."""
        return self.merged or self.recipe.adapter == "none"

    @property
    def kept(self) -> Path | None:
        """The folder with tokenizer, template and weights; None where the run kept none."""
        return kept_folder(self.run)

    @property
    def method(self) -> str:
        """How it was trained, as the field calls it."""
        recipe = self.recipe
        if recipe.adapter == "none":
            return "full fine-tuning"
        name = {"lora": "LoRA", "dora": "DoRA"}[recipe.adapter]
        return {"nf4": f"Q{name} (4-bit NF4 base)", "int8": f"{name} (8-bit base)"}.get(
            recipe.quantization, name
        )

    @property
    def trains_plain_text(self) -> bool:
        """Whether it continued documents, rather than answered in conversations."""
        return self.report.get("kind") == "text"

    def figure(self, name: str) -> float | None:
        """A finite number of the result."""
        return number(self.result, name)

    def count(self, name: str) -> int | None:
        """A count of the data report, or else of the result."""
        found = number(self.report, name)
        found = number(self.result, name) if found is None else found
        return None if found is None else int(found)


def facts_of(
    run: Run, repo: str, merged: bool = False, token: str | None = None, licence: bool = True
) -> Facts:
    """Read a run.

    Args:
        merged: The adapter is merged into its base.
        token: Of who asks the Hub for the base's licence.
        licence: False does not ask.

    Raises:
        RecipeError: Its recipe is gone or is none.
    """
    recipe = run.recipe()
    return Facts(
        run=run,
        repo=" ".join(repo.split()),
        recipe=recipe,
        result=json_object(run.result_path),
        report=json_object(run.data_dir / "report.json"),
        history=current_history(run.events()[0]),
        base=base_of(recipe, token, licence),
        preset=_preset(recipe),
        merged=merged,
    )


def kept_folder(run: Run) -> Path | None:
    """adapter/, or model/ of a full fine-tune."""
    for folder, config in (
        (run.adapter_dir, "adapter_config.json"),
        (run.model_dir, "config.json"),
    ):
        if (folder / config).is_file() and not folder.is_symlink():
            return folder
    return None


def json_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty when it is gone or holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def number(values: Mapping[str, Any], name: str) -> float | None:
    """A finite number under this name, else None."""
    value: Any = values.get(name)
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _preset(recipe: Recipe) -> Preset | None:
    try:
        return load_preset(recipe.preset) if recipe.preset else None
    except RecipeError:  # one of another version, or somebody's own name
        return None
