"""What a run answers to a broken loss and to an eval loss that turns."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from tuner.errors import TrainingError
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter, read_events
from tuner.runs.store import RunStore
from tuner.training.callbacks import MemoryMeter, RunEvents, StopRequest
from tuner.training.sampling import Sampler

RECIPE = make_recipe({"dataset": {"source": "rows.jsonl"}, "learning_rate": 0.01})


@pytest.fixture
def callback(tmp_path) -> RunEvents:
    run = RunStore(tmp_path).create(RECIPE)
    meter = MemoryMeter(torch.device("cpu"))
    sampler = Sampler(None, None, 1)  # type: ignore[arg-type]  # without prompts it asks nothing
    callback = RunEvents(run, RECIPE, EventWriter(run.events_path), StopRequest(), sampler, meter)
    callback.trainer = SimpleNamespace(
        model=None, eval_dataset=None, token_count=SimpleNamespace(seen=100)
    )
    return callback


@pytest.mark.parametrize("broken", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_ends_training_with_what_to_change(callback, broken, value):
    logs = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.01} | {broken: value}
    state = TrainerState(global_step=7, max_steps=10)

    with pytest.raises(TrainingError, match=r"step 7.*learning_rate \(now 0.01\)"):
        callback.on_log(None, state, TrainerControl(), logs=logs)


def test_a_warning_comes_once_when_the_eval_loss_turns(callback):
    for step, loss in enumerate([2.0, 1.5, 1.6, 1.7, 1.8]):
        state = TrainerState(global_step=step, max_steps=10)
        callback.on_evaluate(None, state, TrainerControl(), metrics={"eval_loss": loss})

    warnings = [e for e in read_events(callback.run.events_path)[0] if e["kind"] == "warning"]
    assert len(warnings) == 1
    assert "since step 1" in warnings[0]["message"]


def test_a_stop_ends_training_after_the_step_and_saves(callback):
    callback.stop.asked = True
    control = TrainerControl()
    callback.on_step_begin(None, TrainerState(), control)

    callback.on_step_end(None, TrainerState(global_step=3, max_steps=10), control)

    assert control.should_training_stop and control.should_save


def test_the_last_step_is_saved_whatever_the_cadence(callback):
    control = TrainerControl()
    callback.on_step_begin(None, TrainerState(), control)

    callback.on_step_end(None, TrainerState(global_step=10, max_steps=10), control)

    assert control.should_save


def test_memory_is_counted_beyond_what_the_process_held_before():
    meter = MemoryMeter(torch.device("cpu"))
    block = torch.ones(50_000_000)  # 200 MB, touched

    assert meter.now() == pytest.approx(block.nbytes, rel=0.1)
    del block
    assert meter.peak() == pytest.approx(200e6, rel=0.1)
