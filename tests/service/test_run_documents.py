"""Runs as documents: plain values that say where each run stands."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.runs.children import COMPLETES, OBEYS, trains_as, until
from tuner.errors import DatasetError, RunError
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.events import EventWriter
from tuner.runs.queue import advance
from tuner.runs.run import Run
from tuner.runs.store import RunStore
from tuner.service.run_documents import (
    EVENTS_SHOWN,
    enqueue_document,
    events_document,
    list_document,
    resume_document,
    show_document,
    status_document,
    stop_document,
)

RECIPE = make_recipe({"preset": "chatbot", "dataset": {"source": "support.csv"}})


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "runs")
    yield store
    for run in store.list():
        if run.is_process_alive():
            with suppress(ProcessLookupError):
                os.killpg(run.status()["pid"], signal.SIGKILL)


def enqueued(store, name):
    return store.get(enqueue_document(store, RECIPE, name)["run"])


def plain(document):
    """What a document is after it went over a wire; the same, or it is none."""
    assert json.loads(json.dumps(document)) == document
    return document


def test_a_hand_over_comes_before_the_run_is_in_line_and_its_failure_stops_nothing(store):
    seen = []

    def fail(recipe, data_dir):
        run = store.get(data_dir.parent.name)
        seen.append((recipe, run.status()["waiting_since"]))
        raise DatasetError("The process that reads the data ended unexpectedly.")

    document = enqueue_document(store, RECIPE, "run", hand_over=fail)
    assert seen == [(RECIPE, None)]
    assert document["position"] == 1


def test_a_run_that_is_put_in_line_is_made_and_says_its_place(store):
    first = plain(enqueue_document(store, RECIPE, "first", owner="ada"))
    second = plain(enqueue_document(store, RECIPE, "second"))
    assert (first["state"], first["position"]) == ("queued", 1)
    assert second["position"] == 2
    run = store.get("first")
    assert (first["run"], first["dir"]) == (run.id, str(run.dir))
    assert run.recipe() == RECIPE
    assert (run.status()["owner"], store.get("second").status()["owner"]) == ("ada", None)


def test_a_name_that_cannot_be_used_makes_no_run(store):
    with pytest.raises(RunError):
        enqueue_document(store, RECIPE, "///")
    assert list_document(store) == []


def test_the_list_is_newest_first(store):
    ids = [enqueue_document(store, RECIPE, name)["run"] for name in ("first", "second", "third")]
    listed = plain(list_document(store))
    assert [run["run"] for run in listed] == ids[::-1]
    assert {run["state"] for run in listed} == {"queued"}
    assert {run["base_model"] for run in listed} == {"starter"}


def test_the_list_of_a_folder_without_runs_is_empty(store):
    assert list_document(store) == []


def test_a_status_counts_those_ahead_in_line_and_begins_at_zero_steps(store):
    runs = [enqueued(store, name) for name in ("first", "second")]
    found = [plain(status_document(store, run)) for run in runs]
    assert [document["position"] for document in found] == [1, 2]
    assert (found[0]["state"], found[0]["step"], found[0]["result"]) == ("queued", 0, None)
    stop_document(runs[0])
    assert status_document(store, runs[1])["position"] == 1


def test_a_run_that_waits_leaves_the_line_when_it_is_stopped(store):
    run = enqueued(store, "first")
    stopped = plain(stop_document(run))
    assert (stopped["state"], stopped["run"]) == ("stopped", run.id)
    assert stopped["reason"]
    assert status_document(store, run)["position"] == 0
    with pytest.raises(RunError, match="nothing to stop"):
        stop_document(run)


def test_a_run_at_work_stops_after_its_step_and_the_next_one_can_begin(store, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    run, other = enqueued(store, "first"), enqueued(store, "second")
    assert advance(store).id == run.id
    until(lambda: run.status()["state"] == "running" and run.events()[0])
    found = plain(status_document(store, run))
    assert (found["position"], found["max_steps"]) == (0, 1000)
    assert status_document(store, other)["position"] == 1
    stopped = plain(stop_document(run))
    assert stopped["state"] == "stopped"
    assert stopped["reason"].startswith("Stopped at step ")
    assert status_document(store, run)["step"] > 0


def test_a_run_that_completed_shows_everything_it_left(store, monkeypatch):
    trains_as(monkeypatch, COMPLETES)
    run = enqueued(store, "first")
    advance(store)
    launch.wait(run)
    run.write_result({"eval_loss": 0.5})
    shown = plain(show_document(run))
    assert (shown["run"], shown["dir"]) == (run.id, str(run.dir))
    assert (shown["status"]["state"], shown["result"]) == ("completed", {"eval_loss": 0.5})
    assert shown["recipe"] == RECIPE.model_dump(mode="json")
    assert [event["kind"] for event in shown["events"]][-4:] == ["metric"] * 3 + ["state"]
    assert plain(status_document(store, run))["result"] == {"eval_loss": 0.5}
    assert plain(list_document(store))[0]["eval_loss"] == 0.5


def test_only_the_last_events_are_shown(store):
    run = store.create(RECIPE, "first")
    with EventWriter(run.events_path) as events:
        for step in range(1, EVENTS_SHOWN + 20):
            events.write("metric", step=step, loss=1.0)
    steps = [event["step"] for event in show_document(run)["events"]]
    assert steps == list(range(20, EVENTS_SHOWN + 20))


def test_events_are_told_once_to_who_asks_with_the_last_offset(store):
    run = store.create(RECIPE, "first")
    assert plain(events_document(run)) == {"events": [], "next": 0}
    with EventWriter(run.events_path) as events:
        events.write("metric", step=1, loss=2.0)
        first = plain(events_document(run))
        events.write("metric", step=2, loss=1.0)
    second = events_document(run, first["next"])
    assert [event["step"] for event in first["events"]] == [1]
    assert [event["step"] for event in second["events"]] == [2]
    assert events_document(run, second["next"]) == {"events": [], "next": second["next"]}


def test_a_run_is_resumed_where_its_checkpoint_is_and_only_once(store):
    run = store.create(RECIPE, "first")
    with pytest.raises(RunError, match="has not begun"):
        resume_document(store, run)
    run.update_status(state="interrupted", reason="Gone.")
    with pytest.raises(RunError, match="left no checkpoint"):
        resume_document(store, run)
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    enqueued(store, "second")
    resumed = plain(resume_document(store, run))
    assert (resumed["state"], resumed["position"], resumed["run"]) == ("queued", 2, run.id)
    assert status_document(store, run)["position"] == 2
    with pytest.raises(RunError, match="waits in line already"):
        resume_document(store, run)


def test_a_folder_that_is_named_from_where_we_are_is_told_in_full(store, monkeypatch):
    run = store.create(RECIPE, "first")
    monkeypatch.chdir(store.root)
    assert plain(show_document(Run(run.dir.relative_to(store.root))))["dir"] == str(run.dir)


def test_a_run_that_was_never_one_is_a_sentence(store, tmp_path):
    with pytest.raises(RunError):
        show_document(Run(tmp_path / "nothing"))


def test_documents_need_no_model_library():
    code = (
        "import sys, tuner.service.run_documents, tuner.service.estimating\n"
        "print({'torch', 'transformers', 'datasets', 'gradio'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(launch.PROJECT_ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert found.stdout.strip() == "set()"
