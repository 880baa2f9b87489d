"""
What each method would take on this machine, in words and numbers, and the summary beside the form.
"""

from dataclasses import dataclass

from tuner.base_models.lookup import BaseModel
from tuner.errors import TunerError
from tuner.memory.estimate import Estimate
from tuner.quantities import duration, gigabytes, parameters, share
from tuner.recipe import Recipe, make_recipe
from tuner.service.estimating import RowSizes, estimate_run
from tuner.ui.draft import METHODS, method_of
from tuner.ui.markup import element, facts, notes

NAMES = {
    "qlora": ("QLoRA 4-bit", "Base in NF4. Least memory."),
    "lora8": ("LoRA 8-bit", "Base in 8 bit."),
    "lora": ("LoRA 16-bit", "Base as it is. Fastest."),
    "full": ("Full fine-tuning", "All weights train; no adapter."),
}
VERDICTS = {"fits": "✓ fits", "tight": "△ tight", "will not fit": "✕ will not fit"}
FULL_RATE = 1e-4  # full fine-tuning's learning rate is about a tenth of LoRA's


@dataclass(frozen=True)
class MethodFigures:
    """One method for one recipe: its estimate, or why there is none."""

    estimate: Estimate | None
    problem: str = ""


def figures_of_methods(
    recipe: Recipe, base: BaseModel, sizes: RowSizes | None
) -> dict[str, MethodFigures]:
    """The estimate of every method, all else being as the recipe has it."""
    return {method: _figures(recipe, method, base, sizes) for method in METHODS}


def labels(figures: dict[str, MethodFigures] | None) -> list[tuple[str, str]]:
    """(text of the card, method) for each method; without figures while the base is unknown."""
    return [(_label(method, (figures or {}).get(method)), method) for method in METHODS]


def summary_html(
    recipe: Recipe, figures: dict[str, MethodFigures], sizes: RowSizes | None, held_out: int
) -> str:
    """What Start will do: whether it fits, how long it takes, what trains."""
    found = figures[method_of(recipe.model_dump())].estimate
    if found is None:
        return ""
    lines = [("Memory", fit_words(found)), ("Time", time_words(found))]
    trained = f"{share(found.trainable_parameters, found.total_parameters)} of "
    lines.append(("Trains", f"{trained}{parameters(found.total_parameters)} parameters"))
    if sizes:
        lines.append(("Rows", f"{sizes.rows:,} train · {held_out:,} held out"))
    micro = f"{found.micro_batch_size} of {recipe.batch_size} rows at once"
    checkpointing = ", gradient checkpointing" if found.gradient_checkpointing else ""
    lines.append(("Batch", micro + checkpointing))
    verdict = found.verdict.replace(" ", "-")
    return element("div", inner=facts(lines), class_=f"tuner-fit tuner-{verdict}") + notes(
        advice(recipe), "warning"
    )


def fit_words(found: Estimate) -> str:
    """ "✓ fits: 0.9 of 15.8 GB" """
    needed, there = found.estimated_memory_bytes, found.available_memory_bytes
    return f"{VERDICTS[found.verdict]}: {gigabytes(needed)} of {gigabytes(there)}"


def time_words(found: Estimate) -> str:
    """How long it takes here; not known before the rows are."""
    if found.estimated_seconds is None:
        return "not known before the data is"
    return f"≈ {duration(found.estimated_seconds)} on this machine"


def advice(recipe: Recipe) -> list[str]:
    """What is allowed but rarely meant."""
    if recipe.adapter == "none" and recipe.learning_rate > FULL_RATE:
        return [
            f"learning_rate={recipe.learning_rate:g} is usual for LoRA; full fine-tuning takes "
            f"about a tenth, {recipe.learning_rate / 10:g}."
        ]
    return []


def _figures(recipe: Recipe, method: str, base: BaseModel, sizes: RowSizes | None) -> MethodFigures:
    change = dict(METHODS[method])
    if recipe.adapter == "dora" and method != "full":
        change["adapter"] = "dora"
    try:
        changed = make_recipe({**recipe.model_dump(), **change})
        return MethodFigures(estimate_run(changed, base, sizes))
    except TunerError as error:
        return MethodFigures(None, error.problems[0])


def _label(method: str, figures: MethodFigures | None) -> str:
    """Three lines of a card: name, figures, what it is."""
    name, words = NAMES[method]
    if figures is None:
        return f"{name}\n{words}"
    if figures.estimate is None:
        return f"{name}\n{figures.problem}\n{words}"
    found = figures.estimate
    parts = [fit_words(found)]
    if found.estimated_seconds is not None:
        parts.append(f"≈ {duration(found.estimated_seconds)}")
    trains = share(found.trainable_parameters, found.total_parameters)
    return f"{name}\n{' · '.join(parts)}\n{trains} of the parameters train. {words}"
