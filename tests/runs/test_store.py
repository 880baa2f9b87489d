"""Runs are made whole, found again, never outside their folder, and deleted at rest only."""

import os
import re
import shutil
import subprocess
import sys
import threading

import psutil
import pytest

from tests.runs.children import names_in, until
from tuner.errors import RunError
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore

CREATES_FIVE = """
import sys, time
from pathlib import Path
from tuner.recipe import Recipe
from tuner.runs.store import RunStore

store, go = RunStore(Path(sys.argv[1])), Path(sys.argv[2])
while not go.exists():
    pass
for _ in range(5):
    print(store.create(Recipe(), "same").id)
"""


def live(run):
    """Record this very process as the one that trains `run`."""
    run.update_status(state="running", pid=os.getpid(), pid_started=psutil.Process().create_time())


def test_a_new_run_is_queued_and_holds_the_whole_recipe(store, recipe):
    run = store.create(recipe, "Support bot", owner="ada")
    assert re.fullmatch(r"\d{8}-\d{4}-support-bot", run.id)
    assert run.recipe() == recipe
    assert run.recipe_path.read_text().count("\n") > 40
    status = run.status()
    assert (status["state"], status["owner"], status["step"]) == ("queued", "ada", 0)
    assert names_in(store.root) == [run.id]


def test_a_name_already_taken_this_minute_gets_a_number(store, recipe):
    first, second, third = (store.create(recipe, "bot") for _ in range(3))
    while first.id[:13] != third.id[:13]:  # the minute turned between them
        first, second, third = (store.create(recipe, "bot") for _ in range(3))
    assert [second.id, third.id] == [f"{first.id}-2", f"{first.id}-3"]


def test_processes_that_create_runs_of_one_name_at_once_get_one_each(tmp_path):
    root, go = tmp_path / "runs", tmp_path / "go"
    arguments = [sys.executable, "-c", CREATES_FIVE, str(root), str(go)]
    makers = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    go.touch()
    ids = [line for maker in makers for line in maker.communicate()[0].split()]
    assert len(set(ids)) == len(ids) == 15
    assert names_in(root) == sorted(ids)
    assert len(RunStore(root).list()) == 15


def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(tmp_path, recipe):
    # As root nothing is read-only to us; a file in the folder's place is refused to everybody.
    (tmp_path / "runs").write_text("not a folder")
    for root in (tmp_path / "runs", tmp_path / "runs" / "below"):
        with pytest.raises(RunError, match=r"--runs-dir") as caught:
            RunStore(root).create(recipe)
        assert str(tmp_path) in str(caught.value)


def test_a_disk_without_room_is_refused_before_anything_is_written(store, recipe):
    with pytest.raises(RunError, match="MB free"):
        store.create(recipe, min_free_bytes=10**18)
    assert names_in(store.root) == []


def test_a_run_that_fails_while_it_is_made_leaves_nothing(store, recipe, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tuner.runs.store.write_status", full)
    with pytest.raises(RunError, match="No space left"):
        store.create(recipe)
    assert names_in(store.root) == []


def test_a_hostile_name_creates_nothing(store, recipe):
    with pytest.raises(RunError):
        store.create(recipe, "../../escaped")
    assert not store.root.exists()


def test_a_run_is_found_by_its_id_its_beginning_and_its_name(store, run, recipe):
    other = store.create(recipe, "legal helper")
    assert store.get(run.id) == store.get("support-bot") == store.get(run.id[:-2]) == run
    assert store.get("legal-helper") == other


def test_a_name_that_several_runs_have_is_refused_and_they_are_named(store, run):
    earlier = "20200101-0000-support-bot"
    shutil.copytree(run.dir, store.root / earlier)
    with pytest.raises(RunError, match=f"2 runs.*{run.id}.*{earlier}"):
        store.get("support-bot")
    assert store.get(earlier).id == earlier


def test_the_whole_id_is_found_though_it_begins_another(store, run):
    shutil.copytree(run.dir, f"{run.dir}-2")
    assert store.get(run.id) == run


def test_an_unknown_run_is_answered_with_the_nearest_ids(store, run):
    with pytest.raises(RunError, match=f"Did you mean {run.id}") as caught:
        store.get("suport-bot")
    assert "'suport-bot'" in str(caught.value)


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "../outside", "/", "/etc", "*", "a/b", "\x00", "x" * 5000, "\n"]
)
def test_a_hostile_id_finds_nothing_and_deletes_nothing(store, run, run_id):
    outside = store.root.parent / "outside"
    outside.mkdir()
    for ask in (store.get, store.delete):
        with pytest.raises(RunError) as caught:
            ask(run_id)
        assert str(caught.value).isprintable()
    assert outside.exists() and run.dir.exists()


def test_a_link_out_of_the_folder_is_no_run(store, run, tmp_path):
    outside = shutil.copytree(run.dir, tmp_path / "20200101-0000-outside")
    (store.root / outside.name).symlink_to(outside)
    assert store.list() == [run]
    with pytest.raises(RunError):
        store.delete(outside.name)
    assert outside.exists()


def test_runs_are_listed_newest_first_and_junk_is_passed_over(store, run, recipe):
    newer = store.create(recipe, "aaa")
    for junk in ("notes", ".new-1", ".deleted-1", "20200101-0000-empty"):
        (store.root / junk).mkdir()
    (store.root / "20200101-0000-file").write_text("")
    broken = shutil.copytree(run.dir, store.root / "20200101-0000-broken")
    (broken / "status.json").write_text('{"state": "runn')
    assert store.list() == [newer, run]


def test_a_store_that_does_not_exist_yet_is_empty(tmp_path):
    assert RunStore(tmp_path / "none").list() == []


def test_delete_removes_the_folder_and_what_earlier_deletions_left(store, run):
    (run.data_dir).mkdir()
    (store.root / ".deleted-before").mkdir()
    store.delete(run.id)
    assert names_in(store.root) == []
    with pytest.raises(RunError):
        store.get(run.id)


def test_a_run_at_work_is_not_deleted(store, run):
    live(run)
    with pytest.raises(RunError, match="is running"):
        store.delete(run.id)
    assert run.status()["state"] == "running"


def test_a_run_whose_process_still_tidies_up_is_not_deleted(store, run):
    live(run)
    run.update_status(state="completed")
    with pytest.raises(RunError, match="about to end"):
        store.delete(run.id)


def test_a_run_without_a_readable_status_can_still_be_deleted(store, run):
    run.status_path.write_text("{")
    store.delete(run.id)
    assert names_in(store.root) == []


def test_a_reader_never_sees_half_a_run(store, recipe):
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            seen.extend(run.summary()["preset"] for run in store.list())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        store.create(recipe, "bot")
    until(lambda: seen)
    done.set()
    reader.join()
    assert set(seen) == {"chatbot"}


def test_a_run_made_from_no_settings_is_called_run(store):
    assert store.create(make_recipe({})).id.endswith("-run")
