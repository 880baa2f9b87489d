"""
The recipe's settings as fields of a form: made from the Recipe itself, so none is missing.

    for field in fields(): field.key, field.label, field.help, field.kind, field.choices

Not covered: what has a place of its own on the page (preset, base model, data, method).
"""

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tuner.recipe import Recipe, Section, parse_setting

Kind = Literal["text", "choice", "flag", "lines"]

ELSEWHERE = {
    "preset",
    "base_model",
    "quantization",
    "dataset.source",
    "dataset.kind",
    "dataset.columns",
    "dataset.fingerprint",
    "dataset.skip_bad_rows",
}
# In plain view, in this order; the label is the field's term, the help its effect.
MAIN = {
    "num_train_epochs": ("Epochs", "Passes over the rows. 1 to 3 for real models."),
    "learning_rate": ("Learning rate", "Step size. Too high forgets, too low learns nothing."),
    "lora.r": ("Rank (r)", "How much the adapter can learn; higher needs more memory."),
    "max_length": ("Max length", "Tokens of a row; what is longer is cut. Longer needs memory."),
    "batch_size": ("Batch size", "Rows per step. Memory decides how many go at once."),
}
GROUPS = {
    "Adapter": ("adapter", "lora."),
    "Objective": ("objective", "beta"),
    "Data": ("dataset.",),
    "Evaluation and samples": (
        "eval_steps",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "early_stopping_patience",
        "load_best_model_at_end",
        "sample_",
    ),
    "Hub": ("push_every_save", "hub_model_id"),
}
OTHERS = "Training"
LISTS = ("lora.target_modules", "levers")  # of names, or one word
LINE_END = "⏎"  # inside one of the prompts that stand under one another, a line each
WORDS = {"lora": "LoRA", "lr": "LR", "rslora": "rsLoRA", "dtype": "Precision", "optim": "Optimizer"}


@dataclass(frozen=True)
class Field:
    """One setting as a field.

    Attributes:
        key: Dotted, as in `--set`.
        choices: (shown, value), for kind choice.
        is_prose: Whatever is written is meant as text, be it 123, true or [a].
    """

    key: str
    label: str
    help: str
    kind: Kind
    choices: tuple[tuple[str, Any], ...] = ()
    is_prose: bool = False

    @property
    def group(self) -> str:
        """The heading under which it stands."""
        for name, prefixes in GROUPS.items():
            if any(self.key.startswith(prefix) for prefix in prefixes):
                return name
        return OTHERS

    def shown(self, values: Mapping[str, Any]) -> Any:
        """What the field shows of nested settings."""
        value = _at(values, self.key)
        if self.kind == "lines":
            return "\n".join(map(_on_one_line, value if isinstance(value, list) else [value or ""]))
        if self.kind == "text":
            return _as_text(value)
        return value

    def read(self, shown: Any) -> Any:
        """The setting that a field's content means; nonsense stays, for the recipe to refuse.

        >>> one = next(field for field in fields() if field.key == "learning_rate")
        >>> one.read("2e-4"), one.read(" "), one.read("high")
        (0.0002, None, 'high')
        """
        if self.kind == "lines":
            lines = [line.strip(" \t") for line in str(shown or "").split("\n")]
            return [line.replace(LINE_END, "\n") for line in lines if line.strip()]
        if self.kind != "text":
            return shown
        text = str(shown if shown is not None else "").strip(" \t")
        if self.is_prose:
            return text if text.strip() else None
        text = text.strip()
        if self.key in LISTS and "," in text:
            return [name.strip() for name in text.split(",") if name.strip()]
        return parse_setting(f"value={text}")[1] if text else None


def fields() -> list[Field]:
    """Every setting that is a field: the main ones first, the others in the recipe's order."""
    every = {field.key: field for field in _fields_of(Recipe, "")}
    return [every.pop(key) for key in MAIN] + list(every.values())


def _fields_of(section: type[Section], prefix: str) -> list[Field]:
    found: list[Field] = []
    for name, info in section.model_fields.items():
        key = prefix + name
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            found += _fields_of(inner, f"{key}.")
        elif key not in ELSEWHERE:
            label, words = MAIN.get(key, (_label(name), info.description or ""))
            kind, choices = _kind(inner)
            is_prose = kind == "text" and set(_parts(inner)) <= {str, type(None)}
            found.append(Field(key, label, words, kind, choices, is_prose))
    return found


def _kind(annotation: Any) -> tuple[Kind, tuple[tuple[str, Any], ...]]:
    parts = _parts(annotation)
    if bool in parts and len(parts) == 1:
        return "flag", ()
    if list[str] in parts and str not in parts:
        return "lines", ()
    literals = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    only_literals = all(get_origin(part) is Literal or part is bool for part in parts)
    if only_literals:
        values = [*literals, *((True, False) if bool in parts else ())]
        return "choice", tuple((_shown(value), value) for value in values)
    return "text", ()


def _parts(annotation: Any) -> list[Any]:
    """The types of a union, without what is only annotated to them."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for one in get_args(annotation) for part in _parts(one)]
    return [annotation]


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else value


def _label(name: str) -> str:
    words = [WORDS.get(word, word) for word in name.split("_")]
    text = " ".join(words)
    return text[0].upper() + text[1:] if text[0].islower() and words[0] not in WORDS else text


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) if len(value) > 1 else "".join(f"{one}," for one in value)
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _on_one_line(value: Any) -> str:
    return re.sub(r"\r\n|[\r\n]", LINE_END, str(value))


def _at(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
