"""Run directories: created whole, found safely, deleted on purpose."""

import json
import multiprocessing
import os
import subprocess
import sys

import psutil
import pytest

from tuner.errors import RunError
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore

RECIPE = make_recipe({"preset": "chatbot", "dataset": {"source": "rows.jsonl"}})


def test_a_new_run_is_queued_and_keeps_its_recipe(tmp_path):
    run = RunStore(tmp_path / "runs").create(RECIPE, "Support bot")

    assert run.id.endswith("-support-bot")
    assert run.status()["state"] == "queued"
    assert run.recipe() == RECIPE


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../b",
        "/etc/x",
        "a/b",
        "..",
        ".hidden",
        "",
        " ",
        "x" * 61,
        "a\nb",
        "$(id)",
        "a\0b",
    ],
)
def test_names_that_lead_elsewhere_are_refused_and_leave_nothing(tmp_path, name):
    with pytest.raises(RunError, match="cannot be named"):
        RunStore(tmp_path / "runs").create(RECIPE, name)

    assert not (tmp_path / "runs").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file stands where the folder should be")

    with pytest.raises(RunError, match="--runs-dir"):
        RunStore(tmp_path / "runs").create(RECIPE)


def test_a_full_disk_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(RunError, match="MB free"):
        RunStore(tmp_path).require_room(needed=1 << 62)


def _create(root, results):
    results.put(RunStore(root).create(RECIPE, "same").id)


def test_two_processes_that_want_one_name_get_two_runs(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_create, args=(tmp_path, results)) for _ in range(4)]
    for process in processes:
        process.start()
    ids = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()

    assert len(ids) == 4
    assert {run.id for run in RunStore(tmp_path).list()} == ids


def test_runs_are_found_by_id_by_its_start_and_by_their_name(tmp_path):
    store = RunStore(tmp_path)
    run = store.create(RECIPE, "support bot")

    assert store.get(run.id) == store.get("support-bot") == store.get(run.id[:15]) == run


def test_a_run_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    store = RunStore(tmp_path)
    store.create(RECIPE, "support bot")

    with pytest.raises(RunError, match="Did you mean support-bot"):
        store.get("suport-bot")


@pytest.mark.parametrize("name", ["../secret", "..", "", "/", "secret"])
def test_get_never_leaves_the_folder(tmp_path, name):
    outside = RunStore(tmp_path / "other").create(RECIPE, "secret")
    inside = tmp_path / "runs"
    inside.mkdir()
    os.symlink(outside.dir, inside / outside.id)

    with pytest.raises(RunError):
        RunStore(inside).get(name)
    assert RunStore(inside).list() == []


def test_newest_runs_come_first_and_junk_is_passed_over(tmp_path):
    store = RunStore(tmp_path)
    ids = [store.create(RECIPE, name).id for name in ("one", "two", "three")]
    (tmp_path / "20260101-0000-half").mkdir()
    (tmp_path / "notes.txt").touch()

    assert [run.id for run in store.list()] == ids[::-1]


def test_a_live_state_without_its_process_reads_as_interrupted(tmp_path):
    run = RunStore(tmp_path).create(RECIPE)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    run.update_status(state="running", pid=child.pid, pid_started=1.0)

    assert run.status()["state"] == "interrupted"


def test_a_reused_pid_is_not_taken_for_the_run(tmp_path):
    run = RunStore(tmp_path).create(RECIPE)
    me = psutil.Process()
    run.update_status(state="running", pid=me.pid, pid_started=me.create_time())
    alive = run.status()["state"]
    run.update_status(pid_started=me.create_time() - 3600)

    assert (alive, run.status()["state"]) == ("running", "interrupted")


def test_a_live_run_is_not_deleted_and_a_finished_one_is_gone(tmp_path):
    store = RunStore(tmp_path)
    run = store.create(RECIPE)
    me = psutil.Process()
    run.update_status(state="running", pid=me.pid, pid_started=me.create_time())
    with pytest.raises(RunError, match="Stop it first"):
        store.delete(run)
    run.update_status(state="completed")

    store.delete(run)

    assert list(tmp_path.iterdir()) == []


def _update_many(run, key):
    for number in range(100):
        run.update_status(**{key: number})


def test_two_writers_of_a_status_do_not_lose_each_others_words(tmp_path):
    run = RunStore(tmp_path).create(RECIPE)
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_update_many, args=(run, key)) for key in ("step", "max_steps")
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        json.loads(run.status_path.read_text())  # never half a file
    status = run.status()

    assert (status["step"], status["max_steps"]) == (99, 99)
