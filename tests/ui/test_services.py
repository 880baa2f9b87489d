"""What the page's services do beside calling the engine."""

from dataclasses import replace

import pytest

from tests.runs.children import COMPLETES, trains_as, until
from tuner.errors import RunError
from tuner.recipe import make_recipe
from tuner.runs.queue import enqueue
from tuner.ui import services as module
from tuner.ui.services import Services

SMALL, LARGE = {"max_length": 64, "batch_size": 1}, {"max_length": 2048, "batch_size": 16}


class Loaded:
    """A playground with a model in memory."""

    def __init__(self):
        self.is_there = True

    def is_loaded(self):
        return self.is_there

    def unload(self):
        self.is_there = False

    def close(self):
        pass


@pytest.fixture
def services(store):
    store.root.mkdir(parents=True)
    made = Services.of(store)
    made.chat = Loaded()
    yield made
    made.end()


@pytest.fixture
def hardly_any_memory(services, monkeypatch):
    full = replace(services.device, kind="cpu", available_bytes=600_000_000)
    monkeypatch.setattr(module, "this_device", lambda: full)


def a_run(store, settings):
    return store.create(make_recipe({**settings, "dataset": {"source": "rows.csv"}}), "bot")


def test_a_run_that_fits_beside_the_playground_leaves_it_alone(services, store):
    services.make_room(a_run(store, SMALL))
    assert services.chat.is_loaded()


def test_a_run_that_needs_the_room_gets_it(services, store, hardly_any_memory):
    services.make_room(a_run(store, LARGE))
    assert not services.chat.is_loaded()


def test_on_a_gpu_training_has_the_card_for_itself(services, store):
    services.device = replace(services.device, kind="cuda")
    services.make_room(a_run(store, SMALL))
    assert not services.chat.is_loaded()


def test_whoever_is_next_in_line_gets_the_room_however_it_came_there(
    services, store, hardly_any_memory, monkeypatch
):
    trains_as(monkeypatch, COMPLETES)
    run = a_run(store, LARGE)
    enqueue(store, run)
    services.dispatcher.start()
    until(lambda: run.status()["state"] == "completed")
    assert not services.chat.is_loaded()


def test_a_run_whose_recipe_is_broken_does_not_stop_the_line(services, store, monkeypatch):
    trains_as(monkeypatch, COMPLETES)
    broken, sound = a_run(store, SMALL), a_run(store, SMALL)
    broken.recipe_path.write_text("learning_rate: 7")
    for run in (broken, sound):
        enqueue(store, run)
    services.dispatcher.start()
    until(lambda: sound.status()["state"] == "completed")


def test_an_open_page_loads_no_adapter_from_a_folder_of_its_machine(store, tmp_path):
    services = Services.of(store, open_to_others=True)
    with pytest.raises(RunError, match="is a path of this machine"):
        services.lineup(str(tmp_path))
    with pytest.raises(RunError, match="There is no run"):
        services.lineup("nobody")
