"""A store in a folder of its own, and no process left behind."""

import os
import signal
from contextlib import suppress

import pytest

from tuner.recipe import make_recipe
from tuner.runs.store import RunStore


@pytest.fixture
def recipe():
    return make_recipe({"preset": "chatbot", "dataset": {"source": "support.csv"}})


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "runs")
    yield store
    for run in store.list():
        if run.is_process_alive():
            with suppress(ProcessLookupError):
                os.killpg(run.status()["pid"], signal.SIGKILL)


@pytest.fixture
def run(store, recipe):
    return store.create(recipe, "support bot")
