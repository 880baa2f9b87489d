"""Where nothing can be trained, that is said before anything is made, wherever it is asked for."""

import pytest

from tests.ui.asking import asked
from tuner.checks import check_before_start
from tuner.device import on_zero_gpu, training_refused
from tuner.errors import RunError
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.queue import enqueue, waiting
from tuner.runs.store import RunStore
from tuner.ui.consequences import consequences
from tuner.ui.draft import first_draft
from tuner.ui.services import Services

WORDS = "runs on ZeroGPU.*Duplicate the Space.*your own machine"


@pytest.fixture
def run(tmp_path):
    recipe = make_recipe({"base_model": "starter", "dataset": {"source": "rows.csv"}})
    return RunStore(tmp_path / "runs").create(recipe, "bot")


@pytest.mark.parametrize("value", [None, "", "false", "0"])
def test_elsewhere_training_is_not_refused(value, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    if value is not None:
        monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert not on_zero_gpu() and training_refused() is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, run: check_before_start(run.recipe(), store.root),
        lambda store, run: launch.start(run),
        lambda store, run: launch.resume(run),
        enqueue,
        lambda store, run: enqueue(store, run, resume=True),
    ],
    ids=["check", "start", "resume", "line", "line to resume"],
)
def test_on_zero_gpu_no_way_leads_to_training(ask, run, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    store, before = RunStore(run.dir.parent), run.status()

    with pytest.raises(RunError, match=WORDS):
        ask(store, run)

    assert run.status() == before and waiting(store) == []


def test_on_zero_gpu_the_reason_stands_beside_start_and_start_is_not_offered(run, monkeypatch):
    services = Services.of(RunStore(run.dir.parent))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")

    first = next(consequences(services.visit(asked()), first_draft(), None))

    assert not first.may_start
    assert training_refused() == first.problems()[0]
    assert training_refused() not in first.problems("settings")
