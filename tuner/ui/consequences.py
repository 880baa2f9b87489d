"""
What follows from a draft, step by step: problems, base model, data, memory and time.

`consequences` yields what to show as soon as it is known, so a slow step (a hub that doesn't
answer, a large file) keeps nothing else waiting. Plain values; form_events.py puts them on screen.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tuner.base_models.lookup import BaseModel
from tuner.device import training_refused
from tuner.errors import TunerError
from tuner.recipe import Recipe
from tuner.service.estimating import RowSizes
from tuner.service.previewing import Look, data_key, look, no_look
from tuner.ui.base_model_view import Lookup
from tuner.ui.draft import NO_DATA, Draft
from tuner.ui.method_view import MethodFigures, figures_of_methods
from tuner.ui.uploads import shown_source
from tuner.ui.visit import Visit

ROWS_SHOWN = 10
# The first word of a problem says where it belongs.
PLACES = {
    "base_model": "base_model",
    "revision": "base_model",
    "dataset": "data",
    "quantization": "method",
    "adapter": "method",
}


@dataclass(frozen=True)
class Seen:
    """The data that the page shows now, so that a changed learning rate reads nothing again.

    Attributes:
        key: What decided it.
        problems: Why it cannot be trained on.
    """

    key: str
    sizes: RowSizes | None
    held_out: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Consequences:
    """What is known so far; None is not known yet, or could not be.

    Attributes:
        busy: What is being waited for, in words.
        look: New data to show; None leaves what is shown.
    """

    draft: Draft
    lookup: Lookup | None = None
    busy: str = ""
    look: Look | None = None
    seen: Seen | None = None
    figures: dict[str, MethodFigures] | None = None
    done: bool = False

    def problems(self, place: str | None = None) -> list[str]:
        """All problems, or those that belong to one step; what forbids any training is first."""
        found = [("start", line)] if (line := training_refused()) else []
        found += [(_place(line), line) for line in self.draft.problems]
        found += [("base_model", line) for line in (self.lookup.problems if self.lookup else [])]
        found += [
            (_place(line, "data", ends="="), line)
            for line in (self.seen.problems if self.seen else ())
        ]
        if not self.draft.source and self.draft.recipe:
            found.append(("data", NO_DATA))
        return [line for where, line in found if place in (None, where)]

    @property
    def may_start(self) -> bool:
        """Whether nothing is known to be wrong. Start looks at everything itself, too."""
        return not self.problems()


def consequences(visit: Visit, text: str, seen: Seen | None) -> Iterator[Consequences]:
    """Work out what follows from a draft, for who may use it so."""
    now = Consequences(visit.read(text), seen=seen)
    yield now
    recipe = now.draft.recipe
    if recipe is None:
        return
    now = replace(now, lookup=visit.models.find(recipe.base_model, recipe.revision))
    yield now
    base = now.lookup.base if now.lookup else None
    if base is None:
        return
    for step in _with_data(visit, now):
        yield (now := step)
    yield replace(now, look=None, figures=_figures(now, base), done=True)


def _with_data(visit: Visit, now: Consequences) -> Iterator[Consequences]:
    recipe = now.draft.recipe
    assert recipe is not None
    key = data_key(recipe)
    if not recipe.dataset.source:
        yield replace(now, seen=None)
        return
    if now.seen and now.seen.key == key:
        yield now
        return
    now = replace(now, seen=None, busy=f"Reading {_name(recipe.dataset.source)}")
    yield now
    try:
        for step in visit.worker.follow(look, recipe, 1, ROWS_SHOWN):
            if isinstance(step, int):
                yield replace(now, busy=f"{now.busy}: {step:,} rows")
            else:
                yield replace(now, busy="", look=step, seen=_seen(key, step))
    except TunerError as error:  # the helper process died: the next look may be more lucky
        unseen = no_look(error.problems)
        yield replace(now, busy="", look=unseen, seen=_seen("", unseen))


def _seen(key: str, found: Look) -> Seen:
    shown = found["preview"]
    if shown is None:
        return Seen(key, None, 0, tuple(found["problems"]))
    mean = shown["tokens"] / max(1, shown["kept"])
    sizes = RowSizes(shown["train_rows"], mean, shown["length"]["max"])
    return Seen(key, sizes, shown["eval_rows"], ())


def _figures(now: Consequences, base: BaseModel) -> dict[str, MethodFigures] | None:
    assert now.draft.recipe is not None
    sizes = now.seen.sizes if now.seen else None
    try:
        return figures_of_methods(now.draft.recipe, base, sizes)
    except TunerError:
        return None


def _place(problem: str, otherwise: str = "settings", ends: str = "[=. ]") -> str:
    """The step that a sentence belongs to: it begins with the setting that it is about.

    Args:
        ends: What follows the setting's name. Sentences about data may begin with that of a file.
    """
    key = re.split(ends, problem, maxsplit=1)[0]
    if key in PLACES:
        return PLACES[key]
    return "settings" if key in Recipe.model_fields else otherwise


def _name(source: str) -> str:
    shown = shown_source(source)
    return shown.rstrip("/").rsplit("/", 1)[-1] if "/" in shown else shown
