"""Will it fit on this machine, how long will it take, how much of the model trains."""

from dataclasses import dataclass
from typing import Any

from tuner.base_models.lookup import BaseModel, check_length, find_base_model
from tuner.checks import look_at_data
from tuner.device import this_device
from tuner.memory.estimate import Estimate, estimate
from tuner.recipe import Recipe


@dataclass(frozen=True)
class RowSizes:
    """The rows that train, as far as they are known.

    Attributes:
        mean_tokens, longest: Of a row; longest before max_length cuts it, None if not counted.
    """

    rows: int
    mean_tokens: float
    longest: int | None = None


def estimate_document(recipe: Recipe) -> dict[str, Any]:
    """The estimate of a recipe; data that is quick to read counts.

    Raises:
        TunerError: The base model or the data cannot be used.
    """
    base = find_base_model(recipe.base_model, recipe.revision)
    check_length(recipe, base)
    data = look_at_data(recipe) if recipe.dataset.source else None
    sizes = RowSizes(data.train_rows, data.mean_tokens) if data else None
    found = estimate_run(recipe, base, sizes)
    rows = sizes.rows if sizes else None
    return {"base_model": recipe.base_model, "train_rows": rows, **found.document()}


def estimate_run(recipe: Recipe, base: BaseModel, sizes: RowSizes | None) -> Estimate:
    """The estimate for rows of these sizes, on this machine.

    Raises:
        ModelError, RecipeError: As memory.estimate.
    """
    if sizes is None:
        return estimate(recipe, base, this_device())
    return estimate(
        recipe,
        base,
        this_device(),
        longest=sizes.longest,
        rows=sizes.rows,
        mean_tokens=min(sizes.mean_tokens, recipe.max_length),
    )
