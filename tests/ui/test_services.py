"""What the page's services do beside calling the engine."""

from dataclasses import replace

import pytest

from tuner.recipe import make_recipe
from tuner.ui import services as module
from tuner.ui.services import Services


class Loaded:
    """A playground with a model in memory."""

    def __init__(self):
        self.is_there = True

    def is_loaded(self):
        return self.is_there

    def unload(self):
        self.is_there = False


@pytest.fixture
def services(store):
    made = Services.of(store)
    made.chat = Loaded()
    return made


def test_a_run_that_fits_beside_the_playground_leaves_it_alone(services):
    services.make_room(make_recipe({"max_length": 64, "batch_size": 1}))
    assert services.chat.is_loaded()


def test_a_run_that_needs_the_room_gets_it(services, monkeypatch):
    full = replace(services.device, kind="cpu", available_bytes=600_000_000)
    monkeypatch.setattr(module, "this_device", lambda: full)
    services.make_room(make_recipe({"max_length": 2048, "batch_size": 16}))
    assert not services.chat.is_loaded()


def test_on_a_gpu_training_has_the_card_for_itself(services):
    services.device = replace(services.device, kind="cuda")
    services.make_room(make_recipe({"max_length": 64, "batch_size": 1}))
    assert not services.chat.is_loaded()
