"""
Say what is wrong with settings: one sentence a problem, with the setting, its value and the remedy.

Pydantic finds the problems. Its own words ("unable to parse string as an integer") are for
programmers, and a setting that may be one of two types is reported once for each of them.
Not covered: problems between settings, which the Recipe words itself.
"""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

# What a value must be, by pydantic's name of the problem. The braces are filled from its context.
MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a group of settings (key: value)",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a group of settings (key: value)",
    "string_type": "text",
}

# Names that people bring from other tools and from the page's words, where spelling is no guide.
OTHER_NAMES = {
    "alpha": "lora.lora_alpha",
    "base": "base_model",
    "batch": "batch_size",
    "cutoff_len": "max_length",
    "data": "dataset.source",
    "dropout": "lora.lora_dropout",
    "epochs": "num_train_epochs",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "method": "adapter",
    "model": "base_model",
    "model_name_or_path": "base_model",
    "path": "dataset.source",
    "per_device_train_batch_size": "micro_batch_size",
    "rank": "lora.r",
    "steps": "max_steps",
    "warmup_ratio": "warmup_steps",
}

# Pydantic puts the branch of a union into the place of a problem: ("seed", "int").
BRANCHES = {"bool", "constrained-int", "constrained-float", "float", "int", "str"}


def sentences(error: ValidationError, known: Sequence[str]) -> list[str]:
    """Word every problem of a failed validation.

    Args:
        error: What pydantic raised.
        known: All dotted keys, to name the nearest one to an unknown key.

    Returns:
        One sentence a setting, in the order found; then the model's own, one a contradiction.
    """
    by_key: dict[str, list[Any]] = {}
    for problem in error.errors():
        by_key.setdefault(_key(problem["loc"]), []).append(problem)
    own = by_key.pop("", [])
    return [_sentence(key, problems, known) for key, problems in by_key.items()] + [
        line for problem in own for line in _own_words(problem)
    ]


def unknown_setting(key: str, known: Sequence[str]) -> str:
    """Say that a key is not a setting, and which one was probably meant."""
    near = nearest(key, known)
    hint = f"Did you mean {near}?" if near else "See `python -m tuner train --help`."
    return f"{key} is not a recipe setting. {hint}"


def nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key that `key` most likely stands for, or None.

    >>> nearest("lora.rank", ["r", "lora.r"]), nearest("r", ["lora.r"]), nearest("zzz", ["r"])
    ('lora.r', 'lora.r', None)
    """
    last = key.rsplit(".", 1)[-1]
    if OTHER_NAMES.get(last) in known:
        return OTHER_NAMES[last]
    by_last = {name.rsplit(".", 1)[-1]: name for name in known}
    if last in by_last:
        return by_last[last]
    close = difflib.get_close_matches(key, known, n=1)
    close = close or [by_last[name] for name in difflib.get_close_matches(last, by_last, n=1)]
    return close[0] if close else None


def _sentence(key: str, problems: Sequence[Any], known: Sequence[str]) -> str:
    first = problems[0]
    if first["type"] == "extra_forbidden":
        return unknown_setting(key, known)
    if first["type"] == "missing":
        return f"{key} is missing. Write it as `key: value`."
    if first["type"] not in MUST_BE:
        return f"{key}={first['input']!r} cannot be used: {first['msg']}."
    words = " or ".join(dict.fromkeys(_must_be(problem) for problem in problems))
    return f"{key}={first['input']!r} cannot be used: it must be {words}."


def _must_be(problem: Any) -> str:
    words = MUST_BE.get(problem["type"], problem["msg"]).format(**problem.get("ctx", {}))
    if problem["type"] == "string_type" and not isinstance(problem["input"], (str, list, dict)):
        words += " (in quotes)"  # YAML read 12345678 or 2026-01-01 as something else
    return f"a list of {words}" if _inside_a_branch(problem["loc"]) else words


def _key(place: Sequence[str | int]) -> str:
    """The dotted key of a place, without the branch of a union and what comes after it."""
    parts = []
    for part in place:
        if _is_branch(part):
            break
        parts.append(str(part))
    return ".".join(parts)


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (part in BRANCHES or "[" in part)


def _inside_a_branch(place: Sequence[str | int]) -> bool:
    return any(map(_is_branch, place[:-1]))


def _own_words(problem: Any) -> list[str]:
    """A model's own sentences, or pydantic's when the input was no mapping at all."""
    told = problem.get("ctx", {}).get("error")
    return str(told).split("\n") if told else [f"{problem['msg']}."]
