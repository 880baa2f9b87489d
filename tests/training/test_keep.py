"""Which weights a run keeps, and which loss is theirs."""

from types import SimpleNamespace

import pytest

from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore
from tuner.training.keep import _choose

RECIPE = make_recipe({"dataset": {"source": "rows.jsonl"}})


@pytest.fixture
def run(tmp_path) -> Run:
    return RunStore(tmp_path).create(RECIPE)


def trainer(step: int, losses: dict[int, float], best: int | None = None) -> SimpleNamespace:
    history = [{"step": at, "eval_loss": loss} for at, loss in losses.items()]
    state = SimpleNamespace(
        global_step=step,
        best_global_step=best,
        best_metric=losses.get(best) if best else None,
        log_history=history,
        best_model_checkpoint=None,
    )
    return SimpleNamespace(state=state, _load_best_model=lambda: None)


def test_the_best_evaluated_step_is_kept(run):
    (run.checkpoints_dir / "step-4").mkdir(parents=True)

    assert _choose(run, trainer(9, {0: 3.0, 4: 1.0, 8: 2.0}, best=4), RECIPE) == (4, 1.0)


def test_a_last_step_that_was_not_evaluated_has_no_loss_of_an_earlier_one(run):
    assert _choose(run, trainer(9, {0: 3.0}), RECIPE) == (9, None)
    assert _choose(run, trainer(9, {0: 3.0, 9: 1.5}), RECIPE) == (9, 1.5)
