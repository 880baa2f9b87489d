"""Everything that trains is stopped together, because the machine is about to go."""

import fcntl
import threading

import pytest

from tests.runs.children import IGNORES, OBEYS, trains_as, until
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.pushes import is_being_pushed, pushes_path
from tuner.runs.queue import enqueue
from tuner.runs.store import RunStore
from tuner.service.stopping import stop_runs

RECIPE = make_recipe({"preset": "chatbot", "dataset": {"source": "support.csv"}})
BECAUSE = "The Space restarts."


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def test_what_trains_is_stopped_with_a_reason_and_the_rest_is_left_as_it_is(store, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    first, second, waiting, new = (store.create(RECIPE, name) for name in ("a", "b", "c", "d"))
    enqueue(store, waiting)
    for run in (first, second):
        launch.start(run)
    until(lambda: first.status()["state"] == second.status()["state"] == "running")
    (first.checkpoints_dir / "step-3").mkdir(parents=True)
    assert {run.id for run in stop_runs(store, BECAUSE)} == {first.id, second.id}
    assert first.status()["state"] == second.status()["state"] == "stopped"
    assert first.status()["reason"].startswith(f"{BECAUSE} Stopped at step ")
    assert first.events()[0][-1]["reason"] == first.status()["reason"]
    assert [run.status()["state"] for run in (waiting, new)] == ["queued", "queued"]
    assert stop_runs(store, BECAUSE) == []


def test_what_does_not_stop_in_time_is_killed_and_says_so(store, monkeypatch):
    trains_as(monkeypatch, IGNORES)
    run = store.create(RECIPE, "stubborn")
    launch.start(run)
    until((run.dir / "worker").is_file)
    stop_runs(store, BECAUSE, grace_seconds=0.2)
    assert not run.is_process_alive()
    assert run.status()["reason"].startswith(f"{BECAUSE} It did not stop within 0.2 s")


def test_a_last_copy_on_its_way_to_the_hub_is_waited_for(store, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    run = store.create(RECIPE, "copied")
    launch.start(run)
    until(lambda: run.status()["state"] == "running")
    with open(pushes_path(run), "ab") as held:  # as hub/saves.py holds it while it copies
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(2.0, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        stop_runs(store, BECAUSE)
        assert run.status()["state"] == "stopped"
        assert not is_being_pushed(run)


def test_a_copy_that_hangs_is_not_waited_for_longer_than_there_is_time(store, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    run = store.create(RECIPE, "hanging")
    launch.start(run)
    until(lambda: run.status()["state"] == "running")
    with open(pushes_path(run), "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stop_runs(store, BECAUSE, grace_seconds=1.0)
        assert is_being_pushed(run)
