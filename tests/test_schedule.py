"""How often a run evaluates when its recipe leaves that open."""

import math

import pytest

from tuner.recipe import Recipe, make_recipe
from tuner.schedule import cadence, held_out_rows, total_steps

PROMPTS = [f"A question of some length, number {number}?" for number in range(10)]


def recipe(**settings) -> Recipe:
    return make_recipe({"dataset": {"source": "rows.jsonl"}, "max_length": 512, **settings})


def evaluations(recipe: Recipe, steps: int, rows: int, mean: float = 150.0) -> int:
    return math.ceil(steps / cadence(recipe, steps, rows, mean)["eval_steps"])


def test_a_run_in_which_evaluations_are_cheap_evaluates_ten_times():
    assert evaluations(recipe(), 1800, 9600) == 10
    assert evaluations(recipe(sample_prompts=PROMPTS), 1800, 9600) == 10


def test_the_longer_the_samples_the_fewer_times():
    counts = [
        evaluations(recipe(sample_prompts=PROMPTS, sample_max_new_tokens=most), 110, 160)
        for most in (20, 80, 200, 800)
    ]

    assert counts == sorted(counts, reverse=True) and counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 21])
def test_a_short_run_still_evaluates_in_its_middle_and_at_its_end(steps):
    every = cadence(recipe(sample_prompts=PROMPTS), steps, 160, 150.0)["eval_steps"]

    assert every == math.ceil(steps / 2)


def test_a_single_pass_with_many_rows_held_out_evaluates_less_often_than_three_passes():
    few, many = (
        evaluations(made, total_steps(made, 9500), 9500)
        for made in (recipe(num_train_epochs=1), recipe(num_train_epochs=3))
    )

    assert 2 <= few < many == 10


def test_what_the_recipe_says_is_not_decided_again():
    assert cadence(recipe(eval_steps=7), 100, 160, 150.0) == {"eval_steps": 7, "save_steps": 7}
    assert cadence(recipe(save_steps=3), 100, 160, 150.0)["save_steps"] == 3


def test_without_samples_and_held_out_rows_nothing_is_dear():
    none = recipe(dataset={"source": "rows.jsonl", "eval_fraction": 0})

    assert held_out_rows(none, 5000) == 0
    assert evaluations(none, 20, 160) == 10


def test_held_out_rows_are_at_least_eight_and_at_most_five_hundred():
    assert [held_out_rows(recipe(), rows) for rows in (20, 1900, 10**6)] == [8, 100, 500]
