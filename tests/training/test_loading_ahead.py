"""The base model, loaded beside the data."""

import json
import threading
import time

import pytest
import torch

from tests.tiny_models import tiny_model
from tests.training import forked_runs
from tuner.base_models.lookup import find_base_model
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.store import RunStore
from tuner.training import loading_ahead
from tuner.training.callbacks import StoppedBeforeTraining, StopRequest
from tuner.training.loading_ahead import LoadingAhead, load


@pytest.fixture
def base(tmp_path):
    return find_base_model(str(tiny_model(tmp_path)))


@pytest.fixture
def recipe(base):
    return make_recipe({"base_model": base.name, "dtype": "float32"})


def test_what_is_loaded_ahead_is_what_would_be_loaded_later(base, recipe):
    ahead = LoadingAhead()
    ahead.begin(recipe, base)
    found = ahead.loaded(StopRequest())
    again = load(recipe, base, torch.float32, torch.device("cpu"))
    assert (found.hash, found.weight_bytes) == (again.hash, again.weight_bytes)
    assert found.weight_bytes == sum(4 * p.numel() for p in again.model.parameters())
    assert ahead.loaded(StopRequest()) is None  # it was given away


def test_nothing_is_loaded_ahead_that_takes_much_of_the_free_memory(base, recipe, monkeypatch):
    monkeypatch.setattr(loading_ahead, "SHARE", 1e-9)
    ahead = LoadingAhead()
    ahead.begin(recipe, base)
    assert ahead.loaded(StopRequest()) is None


def test_weights_that_cannot_be_loaded_are_an_error_when_they_are_asked_for(base, recipe):
    (base.folder / "model.safetensors").write_bytes(b"broken")
    ahead = LoadingAhead()
    ahead.begin(recipe, base)
    with pytest.raises(Exception) as ours:  # noqa: PT011 (the library's, whatever it is)
        ahead.loaded(StopRequest())
    with pytest.raises(type(ours.value)) as later:
        load(recipe, base, torch.float32, torch.device("cpu"))
    assert str(ours.value) == str(later.value)


def test_a_stop_does_not_wait_for_the_weights(base, recipe, monkeypatch):
    go_on, stop = threading.Event(), StopRequest()
    monkeypatch.setattr(loading_ahead, "load", lambda *_: go_on.wait(30))
    ahead = LoadingAhead()
    ahead.begin(recipe, base)
    stop.asked = True
    with pytest.raises(StoppedBeforeTraining):
        ahead.loaded(stop)
    assert loading_ahead.is_loading()
    go_on.set()
    ahead._thread.join()
    assert not loading_ahead.is_loading()


SLOW = """
import sys, time
from pathlib import Path
from tuner.training import __main__ as training, loading_ahead
loading_ahead.load = lambda *_: time.sleep(600)
training._end(training.main(sys.argv[1:]))
"""


def test_data_that_does_not_train_ends_the_process_though_a_base_is_loading(base, tmp_path):
    rows = tmp_path / "empty.jsonl"
    rows.write_text(json.dumps({"question": "", "answer": ""}))
    recipe = make_recipe({"base_model": base.name, "dataset": {"source": str(rows)}})
    run = RunStore(tmp_path / "runs").create(recipe, "bad")
    forked_runs.start(run, source=SLOW)
    began = time.monotonic()
    status = launch.wait(run)
    assert (status["state"], status["exit_code"]) == ("failed", 2), status
    assert time.monotonic() - began < 300
    assert not (run.data_dir / "tokens").exists()
    assert not run.is_process_alive()
