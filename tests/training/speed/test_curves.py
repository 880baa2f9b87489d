"""Two hundred steps with all levers and without, and a run that was interrupted between."""

import pytest
import torch

from tests.training.speed.tiny_trainers import (
    curve,
    norm,
    our_trainer,
    recipe_of,
    row,
    tiny,
    trained,
)
from tuner.training.run import resume_at

# Rows of ten different tokens, which is what there is to learn.
ROWS = [
    {
        name: [3 + number % 10 if number >= 0 else number for number in numbers]
        for name, numbers in row(5 + 7 * n % 60, 1 + 3 * n % 5, seed=n).items()
    }
    for n in range(40)
]


def trainer_of(folder, levers, **settings):
    """With weights so large that the base is confidently wrong at first."""
    values = {"batch_size": 4, "micro_batch_size": 2, "max_grad_norm": 1.0, "levers": levers}
    base = tiny(initializer_range=0.15)
    return our_trainer(base, recipe_of(ROWS, **values | settings), folder, ROWS)


def apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
    return norm(one - other for one, other in zip(ours, theirs, strict=True))


def test_200_steps_with_all_levers_end_where_those_without_do(tmp_path):
    settings = {"max_steps": 200, "learning_rate": 1e-3}
    plain, ours = (trainer_of(tmp_path, levers, **settings) for levers in ("none", "auto"))
    began = trained(plain.model)
    plain.train(), ours.train()

    assert len(curve(plain)) == 200 and curve(plain)[-1] < 0.75 * curve(plain)[0]
    assert curve(ours) == pytest.approx(curve(plain), rel=1e-5)  # the issue asks for 1e-3
    moved = apart(trained(plain.model), began)
    assert apart(trained(ours.model), trained(plain.model)) < 1e-4 * moved


@pytest.mark.parametrize("levers", ["none", "auto"])
def test_a_run_resumed_at_a_checkpoint_ends_with_the_same_weights(tmp_path, levers):
    settings = {"max_steps": 6, "save_steps": 3, "learning_rate": 1e-3}
    whole = trainer_of(tmp_path / "whole", levers, **settings)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", levers, **settings)
    resume_at(resumed, 3, tmp_path / "whole" / "step-3")

    assert len(curve(whole)) == 6 and curve(resumed) == curve(whole)
    assert not apart(trained(resumed.model), trained(whole.model))


def test_it_may_be_resumed_without_levers_and_again_with_them(tmp_path):
    settings = {"max_steps": 9, "save_steps": 3, "learning_rate": 1e-3}
    whole = trainer_of(tmp_path / "0", "auto", **settings)
    began = trained(whole.model)
    whole.train()
    for place, levers in ((1, "none"), (2, "auto")):
        resumed = trainer_of(tmp_path / str(place), levers, **settings)
        resume_at(resumed, 3 * place, tmp_path / str(place - 1) / f"step-{3 * place}")

    moved = apart(trained(whole.model), began)
    assert curve(resumed) == pytest.approx(curve(whole), rel=1e-5)
    assert apart(trained(resumed.model), trained(whole.model)) < 1e-4 * moved
