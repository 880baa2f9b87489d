"""
A run's recipe and reports as they stand in their files, unchecked.

    settings = load_settings(run)
    settings.number("lora.r"), settings.text("base_model")

A run of an older version, or one whose files were edited into something else, must still be shown:
what is missing or of another type is None, and nothing is raised.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

try:  # as runs/run.py does, and for its reason
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

from tuner.runs.run import Run
from tuner.ui.uploads import shown_source

NOT_SET = "–"
SHORT_HASH = 12
MAX_CHARACTERS = 300


class Settings:
    """A recipe as it stands in its file, unchecked, by dotted key."""

    def __init__(self, values: Mapping[str, Any]):
        self.flat = dict(_flat(values))

    def text(self, key: str) -> str | None:
        """A setting that is text and not empty."""
        value = self.flat.get(key)
        return shortened(value) if isinstance(value, str) and value else None

    def number(self, key: str) -> float | None:
        """A setting that is a number."""
        return number(self.flat, key)


def load_settings(run: Run) -> Settings:
    """The run's recipe; empty when it is gone or is no YAML mapping."""
    try:
        values = yaml.load(run.recipe_path.read_bytes(), Loader=SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        values = None
    return Settings(values if isinstance(values, dict) else {})


def load_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty when it is gone or holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number under this key, else None."""
    value: Any = values.get(key)
    sound = type(value) in (int, float) and math.isfinite(value)
    return value if sound else None


def differences(recipes: list[Settings]) -> list[dict[str, Any]]:
    """The settings in which recipes differ, each with its value in every one, as text."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe.flat)
    rows = [(key, [_shown(key, recipe.flat.get(key)) for recipe in recipes]) for key in keys]
    return [{"setting": key, "values": values} for key, values in rows if len(set(values)) > 1]


def _flat(values: Mapping[Any, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{inside}{key}"
        if isinstance(value, dict) and value and not inside.count("."):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _shown(key: str, value: Any) -> str:
    if value is None or value in ("", [], {}):
        return NOT_SET
    if key == "dataset.source":
        return shortened(shown_source(str(value)))
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text[:SHORT_HASH] if key == "dataset.fingerprint" else shortened(text)


def shortened(text: str) -> str:
    """Text that fits beside its label."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
