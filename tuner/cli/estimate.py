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
    from tuner.base_models.lookup import check_length, find_base_model
    from tuner.checks import look_at_data
    from tuner.device import this_device
    from tuner.memory.estimate import estimate as estimate_memory

    base = find_base_model(recipe.base_model, recipe.revision)
    check_length(recipe, base)
    data = look_at_data(recipe) if recipe.dataset.source else None
    rows = data.train_rows if data else None
    mean_tokens = min(data.mean_tokens, recipe.max_length) if data else None
    found = estimate_memory(recipe, base, this_device(), rows=rows, mean_tokens=mean_tokens)
    return {"base_model": recipe.base_model, "train_rows": rows, **found.document()}


def estimate_text(figures: dict[str, Any]) -> str:
    """The same for a person."""
    needed, there = figures["estimated_memory_bytes"], figures["available_memory_bytes"]
    trains, total = figures["trainable_parameters"], figures["total_parameters"]
    parts = [(f"  {part}", gigabytes(size)) for part, size in figures["breakdown"].items() if size]
    lines = [
        f"{gigabytes(needed)} of {gigabytes(there)}: {figures['verdict']}.",
        aligned(parts, numeric=(1,)),
        f"{share(trains, total)} of {parameters(total)} parameters train.",
        f"{figures['micro_batch_size']} rows at once"
        + (", with gradient checkpointing." if figures["gradient_checkpointing"] else "."),
    ]
    if figures["estimated_seconds"] is not None:
        lines.append(f"About {duration(figures['estimated_seconds'])} on this machine.")
    return "\n".join(lines)
