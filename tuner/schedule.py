"""
How many optimizer steps a recipe makes, and at which of them it evaluates and saves.

    >>> total_steps(Recipe(num_train_epochs=2, batch_size=16), rows=100)
    14
"""

import math

from tuner.recipe import Recipe

EVALUATIONS_PER_RUN = 10


def total_steps(recipe: Recipe, rows: int) -> int:
    """Optimizer steps of a run over `rows` rows (packed sequences, where rows are packed)."""
    per_epoch = math.ceil(rows / recipe.batch_size)
    return recipe.max_steps or math.ceil(recipe.num_train_epochs * per_epoch)


def cadence(recipe: Recipe, steps: int) -> dict[str, int]:
    """Steps between evaluations and between checkpoints, where the recipe says auto."""
    every = max(1, math.ceil(steps / EVALUATIONS_PER_RUN))
    evaluate = every if recipe.eval_steps == "auto" else recipe.eval_steps
    return {
        "eval_steps": evaluate,
        "save_steps": evaluate if recipe.save_steps == "auto" else recipe.save_steps,
    }
