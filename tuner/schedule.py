"""
How many optimizer steps a recipe makes, and at which of them it evaluates, samples and saves.

    >>> total_steps(Recipe(num_train_epochs=2, batch_size=16), rows=100)
    14

`auto` evaluates ten times a run, and less often where that would take more than a tenth of it. What
it would take is reckoned from the recipe and its rows alone, never measured, so that a recipe
evaluates at the same steps on every machine.
"""

import math

from tuner.recipe import Recipe

EVALUATIONS = (2, 10)  # of a run: in its middle and at its end, at least
LARGEST_SHARE = 0.1  # of a run, for evaluations and samples together
HELD_OUT = (8, 500)  # rows at least and at most, as data/splitting.py holds them out
# Costs in tokens that train, measured on CPUs with LoRA (bench/shares.py): a token that is only
# read, and one more token of all samples. The latter waits for the weights and not for arithmetic.
READ, WRITTEN = 0.45, 30.0
CHARACTERS_A_TOKEN = 4.0


def total_steps(recipe: Recipe, rows: int) -> int:
    """Optimizer steps of a run over `rows` rows (packed sequences, where rows are packed)."""
    per_epoch = math.ceil(rows / recipe.batch_size)
    return recipe.max_steps or math.ceil(recipe.num_train_epochs * per_epoch)


def cadence(
    recipe: Recipe, steps: int, rows: int | None = None, mean_tokens: float | None = None
) -> dict[str, int]:
    """Steps between evaluations and between checkpoints, where the recipe says auto.

    Args:
        rows: That train; None where that is not known, and then ten evaluations are planned.
        mean_tokens: Of a row; by default half of max_length.
    """
    every = max(1, math.ceil(steps / _evaluations(recipe, steps, rows, mean_tokens)))
    evaluate = every if recipe.eval_steps == "auto" else recipe.eval_steps
    return {
        "eval_steps": evaluate,
        "save_steps": evaluate if recipe.save_steps == "auto" else recipe.save_steps,
    }


def held_out_rows(recipe: Recipe, rows: int) -> float:
    """About how many rows are held out beside `rows` that train; of packed ones, as if packed."""
    share = recipe.dataset.eval_fraction
    low, high = HELD_OUT if share else (0, 0)
    if recipe.packing:  # eight rows may be less than one sequence
        low = 0
    return min(max(rows * share / (1 - share), low), high)


def _evaluations(recipe: Recipe, steps: int, rows: int | None, mean_tokens: float | None) -> int:
    """How many of them fit into their share of the run, the one before training included."""
    fewest, most = EVALUATIONS
    if rows is None:
        return most
    mean = mean_tokens or recipe.max_length / 2
    training = steps * recipe.batch_size * mean
    once = READ * held_out_rows(recipe, rows) * mean + _samples(recipe)
    affordable = training * LARGEST_SHARE / (1 - LARGEST_SHARE) / once if once else math.inf
    return int(max(fewest, min(most, affordable - 1)))


def _samples(recipe: Recipe) -> float:
    """What the recipe's samples cost at their longest, in tokens that train."""
    if not recipe.sample_prompts:
        return 0.0
    system = len(recipe.dataset.system_prompt or "")
    characters = sum(system + len(prompt) for prompt in recipe.sample_prompts)
    return READ * characters / CHARACTERS_A_TOKEN + WRITTEN * recipe.sample_max_new_tokens
