"""Base models on the page: which to offer for this machine, and what is known about one."""

import time
from dataclasses import dataclass

from tuner.base_models.lookup import STARTER, SUGGESTED, BaseModel, find_base_model
from tuner.device import Device
from tuner.errors import ModelError
from tuner.quantities import gigabytes, parameters
from tuner.ui.markup import element, notes

SMALL_GPU_BYTES = 22e9
SECONDS_KEPT = {True: 600.0, False: 15.0}  # found, and not found: access may be granted meanwhile
NAMES_OF_TIERS = {"builtin": "built in", "cpu": "CPU or small GPU", "gpu": "16 GB GPU or more"}


@dataclass(frozen=True)
class Lookup:
    """A base model, or why it cannot be used."""

    base: BaseModel | None
    problems: list[str]


class BaseModels:
    """Looks base models up; answers are kept a while, since the page asks at every change."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str | None], tuple[float, Lookup]] = {}

    def find(self, name: str, revision: str | None) -> Lookup:
        """A base model as find_base_model has it; problems are part of the answer."""
        now = time.monotonic()
        until, found = self._kept.get((name, revision), (0.0, Lookup(None, [])))
        if now < until:
            return found
        try:
            found = Lookup(find_base_model(name, revision), [])
        except ModelError as error:
            found = Lookup(None, error.problems)
        # Asked anew, so that a long answer from the Hub is not kept for a shorter time.
        until = time.monotonic() + SECONDS_KEPT[found.base is not None]
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > now}
        self._kept[name, revision] = (until, found)
        return found


def suggestions(device: Device) -> list[tuple[str, str]]:
    """(shown, id) of the models to offer: those for this machine first."""
    tiers = ["builtin", "cpu", "gpu"]
    if device.kind == "cuda":
        tiers = ["gpu", "cpu", "builtin"]
    return [
        (_named(model, NAMES_OF_TIERS[tier]), model) for tier in tiers for model in SUGGESTED[tier]
    ]


def base_model_html(lookup: Lookup) -> str:
    """What is known about a model, in one line; or what is wrong and what to do."""
    if lookup.base is None:
        return notes(lookup.problems, "problem")
    base = lookup.base
    line = element("p", " · ".join(model_facts(base)), class_="tuner-numbers")
    warnings = []
    if is_non_commercial(base.license):
        warnings.append(f"The licence {base.license} forbids commercial use.")
    if not base.has_chat_template:
        warnings.append("It has no chat template; a plain one is used and saved with the adapter.")
    return line + notes(warnings, "warning")


def model_facts(base: BaseModel) -> list[str]:
    """Parameters, licence, context, access and download of a model."""
    found = [f"{parameters(base.parameters)} parameters"]
    found.append(f"licence {base.license}" if base.license else "licence not stated")
    if base.context_length:
        found.append(f"{base.context_length:,} tokens of context")
    if base.folder is not None:
        found.append("works offline")
    else:
        found.append(f"{gigabytes(base.weight_bytes)} to download")
        found.append("gated, and you have access" if base.gated else "open to all")
    return found


def is_non_commercial(licence: str | None) -> bool:
    """Whether a licence's short name says that it forbids commercial use.

    >>> is_non_commercial("cc-by-nc-4.0"), is_non_commercial("mit")
    (True, False)
    """
    return not {"nc", "noncommercial"}.isdisjoint((licence or "").lower().split("-"))


def _named(model: str, tier: str) -> str:
    return f"Practice model ({tier})" if model == STARTER else f"{model} · {tier}"


def machine_words(device: Device) -> str:
    """The machine in the page's header."""
    size = gigabytes(device.memory_bytes)
    if device.kind == "cuda":
        count = f"{device.count} × " if device.count > 1 else ""
        return f"this machine: {count}{device.name}, {size}"
    return f"this machine: {device.cores} CPU cores, {size}"
