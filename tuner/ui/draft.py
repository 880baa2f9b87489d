"""
The recipe that a person is putting together. Its YAML text is the form's only state.

Every control writes into that text and every figure on the page follows from it. The text is in
the browser, so a restarted app loses none of it; it may hold what is wrong, so bad input is kept
until it is corrected. All functions here are plain: text or values in, text or values out.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tuner.base_models.lookup import STARTER, SUGGESTED
from tuner.errors import RecipeError
from tuner.plain_yaml import read_plain
from tuner.presets import BUILTIN, Preset, load_preset, preset_names
from tuner.recipe import Recipe, make_recipe, with_settings

# What the form calls a method, and the settings that it stands for.
METHODS: dict[str, dict[str, str]] = {
    "qlora": {"quantization": "nf4", "adapter": "lora"},
    "lora8": {"quantization": "int8", "adapter": "lora"},
    "lora": {"quantization": "none", "adapter": "lora"},
    "full": {"quantization": "none", "adapter": "none"},
}
SMALL_MODEL_PARAMETERS = 1_000_000_000
# What belongs to one data set only, and goes when another is chosen.
OF_ONE_DATASET = ("source", "kind", "config", "split", "revision", "columns", "fingerprint")
FIRST_PRESET = "chatbot"
MOST_CHARACTERS = 200_000  # read in about a second
NO_DATA = "There is no data yet. Drop a file, name a Hub dataset, or choose the sample data."


@dataclass(frozen=True)
class Draft:
    """A draft as it was read.

    Attributes:
        values: Nested settings as written; {} where the text is no YAML mapping.
        recipe: None while something is wrong.
        problems: What is wrong, a sentence each.
    """

    values: dict[str, Any]
    recipe: Recipe | None
    problems: list[str]

    @property
    def source(self) -> str:
        """What dataset.source names; empty where nothing is given."""
        return str(section(self.values, "dataset").get("source") or "")


class DraftBox:
    """The draft of one open page as the server knows it, so that quick changes add up.

    An event carries the text as the browser had it, perhaps before the answer to the last one came.
    A page's process that was restarted has an empty box: then the browser's text counts.

    >>> box = DraftBox()
    >>> box.change("a", lambda text: text + "b"), box.change("a", lambda text: text + "c")
    ('ab', 'abc')
    """

    def __init__(self) -> None:
        self._text: str | None = None
        self._lock = threading.Lock()

    def change(self, shown: str, change: Callable[[str], str]) -> str:
        """Change the draft and return it.

        Args:
            shown: The text as the browser has it.
        """
        with self._lock:
            self._text = change(self.now(shown))
            return self._text

    def put(self, text: str) -> str:
        """Replace the draft: a person typed it, or chose another."""
        return self.change(text, lambda _: text)

    def now(self, shown: str) -> str:
        """The draft, where the browser shows this."""
        return shown if self._text is None else self._text

    def __deepcopy__(self, memo: Any) -> "DraftBox":
        return DraftBox()  # each page that is opened gets a copy of the first


def read_draft(text: str) -> Draft:
    """Read a draft; what is wrong with it is part of the answer.

    >>> read_draft("learning_rate: 7").problems
    ['learning_rate=7 cannot be used: it must be 1 or less.']
    """
    try:
        values = parse_yaml(text)
        return Draft(values, make_recipe(values), [])
    except RecipeError as error:
        return Draft(_mapping(text), None, error.problems)


def require_recipe(text: str) -> Recipe:
    """The recipe that a draft makes.

    Raises:
        RecipeError: Everything that is wrong with it, no data included.
    """
    found = read_draft(text)
    if found.recipe is None:
        raise RecipeError(found.problems)
    if not found.source:
        raise RecipeError(NO_DATA)
    return found.recipe


def parse_yaml(text: str) -> dict[str, Any]:
    """The mapping that a recipe's text holds; a preset's `about` is passed over.

    Raises:
        RecipeError: It is not YAML, or no mapping.
    """
    if len(text) > MOST_CHARACTERS:
        raise RecipeError(
            f"The recipe has {len(text):,} characters; {MOST_CHARACTERS:,} are read at most. "
            "Shorten its longest texts."
        )
    try:
        values = read_plain(text)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 1}" if place else ""
        what = getattr(error, "problem", None) or "it is not written as YAML is"
        raise RecipeError(
            f"The recipe cannot be read{where}: {what}. Correct it, or choose a preset again."
        ) from None
    if not isinstance(values, dict):
        raise RecipeError("The recipe holds no settings. It is lines of `key: value`.")
    return {str(key): value for key, value in values.items() if key != "about"}


def write_draft(values: Mapping[str, Any]) -> str:
    """Write settings as YAML, defaults included, in the recipe's order.

    Unknown keys come last, as they are.
    """
    merged = _over(Recipe().model_dump(mode="json"), values)
    return str(yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=88))


def first_draft() -> str:
    """What the page opens with: it can be started as it is."""
    return write_draft(load_preset(FIRST_PRESET).values)


def with_values(text: str, settings: Mapping[str, Any]) -> str:
    """Put dotted settings into a draft. A text that is no YAML stays as it is."""
    try:
        return write_draft(with_settings(parse_yaml(text), settings))
    except RecipeError:
        return text


def with_preset(text: str, name: str) -> str:
    """Begin again with a preset, keeping the person's own data and base model."""
    before = _mapping(text)
    preset = load_preset(name)
    values = preset.values_for(_tier(preset, str(before.get("base_model") or STARTER)))
    if (base := before.get("base_model")) and str(base) not in _bases_of_presets():
        values |= {"base_model": base, "revision": before.get("revision")}
    if is_own_data(before):
        data = section(before, "dataset")
        own = {key: data[key] for key in (*OF_ONE_DATASET, "system_prompt") if key in data}
        values["dataset"] = {**section(values, "dataset"), **own}
        values["sample_prompts"] = before.get("sample_prompts") or []
    return write_draft(values)


def with_base_model(text: str, name: str, parameters: int | None = None) -> str:
    """Choose a base model, and the settings that the draft's preset has for one of its size.

    Args:
        parameters: The model's, where they are known: they tell which tier's settings suit it.
    """
    values = _mapping(text)
    chosen = {"base_model": name, "revision": None}
    preset = _preset(values)
    if preset is None:
        return with_values(text, chosen)
    tier = _tier(preset, name, parameters)
    settings = {**_of_tiers(preset), **preset.about.hardware[tier].settings, **chosen}
    return with_values(text, settings)


def with_method(text: str, method: str) -> str:
    """Choose a method. A DoRA adapter stays one, as long as there is an adapter."""
    settings = dict(METHODS[method])
    if settings["adapter"] == "lora" and _mapping(text).get("adapter") == "dora":
        settings["adapter"] = "dora"
    return with_values(text, settings)


def with_data(text: str, source: str, kind: str = "auto", **settings: Any) -> str:
    """Choose other data; what belongs to the last goes: a mapping, a revision, its questions.

    A preset's system prompt speaks of the sample's world, so it goes too; a person's own stays.
    """
    fresh: dict[str, Any] = {**dict.fromkeys(OF_ONE_DATASET), "columns": {}, "split": "train"}
    if section(_mapping(text), "dataset").get("system_prompt") in _of_presets("system_prompt"):
        fresh["system_prompt"] = None
    chosen = {**fresh, "source": source, "kind": kind, **settings}
    dotted = {f"dataset.{key}": value for key, value in chosen.items()}
    return with_values(text, {**dotted, "sample_prompts": []})


def with_sample_data(text: str) -> str:
    """Choose the sample data of the draft's preset."""
    preset = _preset(_mapping(text)) or load_preset(FIRST_PRESET)
    data = dict(section(preset.values, "dataset"))
    kept: dict[str, Any] = {
        key: data.get(key) for key in ("columns", "system_prompt") if data.get(key)
    }
    text = with_data(text, data["source"], **kept)
    return with_values(text, {"sample_prompts": preset.values.get("sample_prompts", [])})


def with_own_prompts(text: str, prompts: Sequence[str]) -> str:
    """Ask questions from the person's own held-out rows, where no others were written."""
    values = _mapping(text)
    if not prompts or not is_own_data(values) or values.get("sample_prompts"):
        return text
    return with_values(text, {"sample_prompts": list(prompts)})


def with_columns(text: str, columns: Mapping[str, Iterable[str]]) -> str:
    """Map roles to columns; a role without columns is left to be recognised."""
    mapped = {role: list(names) for role, names in columns.items() if names}
    return with_values(text, {"dataset.columns": mapped})


def of_recipe(recipe: Recipe) -> str:
    """A draft that begins with the recipe of an earlier run."""
    values = recipe.model_dump(mode="json")
    values["dataset"]["fingerprint"] = None
    return write_draft(values)


def method_of(values: Mapping[str, Any]) -> str:
    """The method that a draft's settings stand for: a key of METHODS."""
    if values.get("adapter") == "none":
        return "full"
    return {"nf4": "qlora", "int8": "lora8"}.get(str(values.get("quantization")), "lora")


def is_own_data(values: Mapping[str, Any]) -> bool:
    """Whether the data is anything but the sample of some preset."""
    source = section(values, "dataset").get("source")
    return bool(source) and source not in _of_presets("source")


def data_kind(values: Mapping[str, Any]) -> str:
    """Where the draft's data comes from: sample, files, hub or repository."""
    data = section(values, "dataset")
    if data.get("kind") in ("hub", "repository"):
        return str(data["kind"])
    return "files" if is_own_data(values) or not data.get("source") else "sample"


def section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of nested settings; {} where something else stands in its place."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _mapping(text: str) -> dict[str, Any]:
    try:
        return parse_yaml(text)
    except RecipeError:
        return {}


def _preset(values: Mapping[str, Any]) -> Preset | None:
    name = values.get("preset")
    return load_preset(name) if name in preset_names() else None


def _tier(preset: Preset, base_model: str, parameters: int | None = None) -> str:
    """The tier of a preset whose settings suit a base model."""
    for name, tier in preset.about.hardware.items():
        if tier.settings.get("base_model", STARTER if name == BUILTIN else None) == base_model:
            return name
    if base_model == STARTER:
        return BUILTIN
    small = base_model in SUGGESTED["cpu"]
    if parameters is not None:
        small = parameters < SMALL_MODEL_PARAMETERS
    wanted = "cpu" if small else "gpu-16gb"
    return wanted if wanted in preset.about.hardware else BUILTIN


def _of_tiers(preset: Preset) -> dict[str, Any]:
    """The builtin values of everything that some tier changes, dotted."""
    keys = {key for tier in preset.about.hardware.values() for key in tier.settings}
    whole = _over(Recipe().model_dump(mode="json"), preset.values)
    return {key: _at(whole, key) for key in keys}


@cache
def _bases_of_presets() -> frozenset[str]:
    tiers = [tier for name in preset_names() for tier in load_preset(name).about.hardware.values()]
    return frozenset([STARTER, *(tier.settings.get("base_model", STARTER) for tier in tiers)])


@cache  # reading all presets takes 30 ms, and every keystroke asks
def _of_presets(key: str) -> tuple[Any, ...]:
    """What the presets' sample data has under a key."""
    return tuple(section(load_preset(name).values, "dataset").get(key) for name in preset_names())


def _at(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _over(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults with values laid over them, section by section; a mapping of columns whole."""
    merged = copy.deepcopy(dict(defaults))
    for key, value in values.items():
        if key in ("lora", "dataset") and isinstance(value, dict):
            merged[key] = _over(merged.get(key, {}), value)
        else:
            merged[key] = value
    return merged
