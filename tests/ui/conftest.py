"""A store in a folder of its own, a run in it, and what writes its events; and the real page."""

import pytest

from tests.ui.pages import Page
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import RunStore


@pytest.fixture
def recipe():
    return make_recipe({"preset": "chatbot", "dataset": {"source": "support.csv"}})


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(store, recipe):
    return store.create(recipe, "support bot")


@pytest.fixture
def events(run):
    with EventWriter(run.events_path) as events:
        yield events


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The page as people start it, one for all tests: leave no run at work and none in line."""
    with Page(tmp_path_factory.mktemp("page") / "runs") as page:
        yield page
