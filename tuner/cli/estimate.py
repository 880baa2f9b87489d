"""`estimate`: will it fit on this machine, how long will it take, how much of the model trains."""

from typing import Any

from tuner.cli.answers import Answer
from tuner.cli.quantities import aligned, duration, gigabytes, parameters, share
from tuner.cli.recipe_options import (
    BaseModelOption,
    DatasetOption,
    HardwareOption,
    JsonOption,
    MapOption,
    PresetOption,
    RecipeFileOption,
    RecipeOptions,
    SetOption,
    SkipBadRowsOption,
    recipe_from_options,
)
from tuner.recipe import Recipe


def estimate(
    preset: PresetOption = None,
    hardware: HardwareOption = "builtin",
    recipe: RecipeFileOption = None,
    base_model: BaseModelOption = None,
    dataset: DatasetOption = None,
    columns: MapOption = None,
    settings: SetOption = None,
    skip_bad_rows: SkipBadRowsOption = False,
    as_json: JsonOption = False,
) -> Answer:
    """Estimate memory and time on this machine."""
    options = RecipeOptions(
        preset, hardware, recipe, base_model, dataset, columns or (), settings or (), skip_bad_rows
    )
    figures = estimate_of(recipe_from_options(options, needs_data=False))
    return Answer(figures, estimate_text(figures))


def estimate_of(recipe: Recipe) -> dict[str, Any]:
    """The estimate as --json prints it; data that is quick to read counts."""
    from tuner.base_models import check_length, find_base_model
    from tuner.checks import look_at_data
    from tuner.device import this_device
    from tuner.memory import estimate as estimate_memory

    base = find_base_model(recipe.base_model, recipe.revision)
    check_length(recipe, base)
    report = look_at_data(recipe) if recipe.dataset.source else None
    rows = report["train_rows"] if report else None
    found = estimate_memory(recipe, base, this_device(), rows=rows)
    return {"base_model": recipe.base_model, "rows": rows, **found.document()}


def estimate_text(figures: dict[str, Any]) -> str:
    """The same for a person."""
    needed, there = figures["estimated_memory_bytes"], figures["available_memory_bytes"]
    fits = "fits" if figures["fits"] else "does not fit"
    trains, total = figures["trainable_parameters"], figures["total_parameters"]
    lines = [
        f"{gigabytes(needed)} of {gigabytes(there)}: {fits}.",
        aligned(
            [(f"  {k.replace('_', ' ')}", gigabytes(v)) for k, v in figures["breakdown"].items()],
            (1,),
        ),
        f"{share(trains, total)} of {parameters(total)} parameters train.",
    ]
    if figures["estimated_seconds"] is not None:
        lines.append(f"About {duration(figures['estimated_seconds'])} on this machine.")
    return "\n".join(lines)
