"""`estimate`: will it fit on this machine, how long will it take, how much of the model trains."""

from typing import Any

from tuner.cli.answers import Answer
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
from tuner.quantities import aligned, duration, gigabytes, parameters, share


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
    # Here, because `runs` needs nothing of what it imports.
    from tuner.service.estimating import estimate_document

    figures = estimate_document(recipe_from_options(options, needs_data=False))
    return Answer(figures, estimate_text(figures))


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
