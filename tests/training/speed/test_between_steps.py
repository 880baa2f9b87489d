"""What a run does between its steps: evaluations and samples, with levers as without."""

from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.tiny_models import tiny_tokenizer
from tests.training.speed.tiny_trainers import (
    curve,
    levers_with,
    our_trainer,
    recipe_of,
    row,
    tiny,
    trained,
)
from tuner.data.rendering import Renderer
from tuner.levers import LEVERS
from tuner.training.model import add_adapter
from tuner.training.sampling import Sampler

ROWS = [row(5 + 11 * n % 70, 1 + 3 * n % 5, seed=n) for n in range(16)]
HELD_OUT = [
    row(9, 4),
    row(64, 30),
    row(33, 33),
    row(2, 1),
    row(130, 7),
]  # the last batch is smaller
STEPS = {"max_steps": 4, "eval_steps": 2, "batch_size": 4, "micro_batch_size": 2}
STEPS |= {"learning_rate": 1e-3, "max_grad_norm": 1.0}
PROMPTS = ["Where is my order?", "Let me look that up for you, and then", "def add(a"]


class Samples(TrainerCallback):
    """Answers prompts after every step; keeps them beside the adapter of that moment."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[torch.Tensor], list[str]]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.taken.append((trained(model), answers(model)))


def answers(model: Any) -> list[str]:
    return Sampler(Renderer(tiny_tokenizer(), 256), None, 24).answer(model, PROMPTS)


def trainer_of(folder: Any, levers: Any, callbacks: Any = (), **settings: Any) -> Any:
    recipe = recipe_of(ROWS, **STEPS, levers=levers, **settings)
    return our_trainer(tiny(initializer_range=0.15), recipe, folder, ROWS, callbacks, HELD_OUT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Any:
    trainer = trainer_of(tmp_path_factory.mktemp("plain"), "none")
    trainer.train()
    return trainer


@pytest.mark.parametrize("lever", [*LEVERS, "auto"])
def test_an_evaluation_has_the_loss_that_it_has_without_levers(tmp_path, plain, lever):
    levers = lever if lever == "auto" else sorted(levers_with(lever, tiny()).on)
    trainer = trainer_of(tmp_path, levers)
    trainer.train()

    assert len(curve(plain, "eval_loss")) == 2
    assert curve(trainer, "eval_loss") == pytest.approx(curve(plain, "eval_loss"), rel=1e-5)
    assert curve(trainer) == pytest.approx(curve(plain), rel=1e-5)


def test_evaluations_and_samples_change_nothing_of_the_training(tmp_path):
    samples = Samples()
    watched, alone = trainer_of(tmp_path, "auto", [samples]), trainer_of(tmp_path, "auto")
    alone.args.eval_strategy = "no"
    watched.train(), alone.train()

    assert len(samples.taken) == 4 and curve(watched, "eval_loss") and not curve(alone, "eval_loss")
    assert curve(watched) == curve(alone)
    pairs = zip(trained(watched.model), trained(alone.model), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sample_in_training_is_what_plain_peft_answers(tmp_path, checkpointing):
    samples = Samples()
    trainer_of(tmp_path, "auto", [samples], gradient_checkpointing=checkpointing).train()
    model = add_adapter(tiny(initializer_range=0.15), recipe_of())

    assert len(samples.taken) == 4 and all(all(texts) for _, texts in samples.taken)
    for weights, texts in samples.taken:
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter, then in zip(own, weights, strict=True):
            parameter.data.copy_(then)
        assert answers(model) == texts
