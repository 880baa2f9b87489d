"""One run's files: the status tells the truth about its process, and nothing is ever half there."""

import json
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.runs.children import names_in, until
from tuner.errors import RunError
from tuner.runs import atomic
from tuner.runs.process import birth, is_alive
from tuner.runs.store import Run


def live(run, **changes):
    """Record this very process as the one that trains `run`."""
    began = birth(os.getpid())
    recorded = {"pid_started": began.started, "pid_started_after_boot": began.after_boot}
    run.update_status(**{"state": "running", "pid": os.getpid(), **recorded, **changes})


def test_a_live_state_with_its_process_is_what_it_says(run):
    live(run)
    assert run.status()["state"] == "running"


def test_a_live_state_without_its_process_reads_as_interrupted(run):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    live(run, pid=gone.pid)
    status = run.status()
    assert status["state"] == "interrupted"
    assert "train --recipe" in status["reason"]
    assert json.loads(run.status_path.read_text())["state"] == "running"  # readers don't write


def test_a_pid_that_was_given_out_again_is_another_process(run):
    live(run, pid_started=psutil.Process().create_time() - 60, pid_started_after_boot=None)
    assert run.status()["state"] == "interrupted"


def test_a_clock_that_was_set_does_not_interrupt_a_run(run):
    live(run, pid_started=psutil.Process().create_time() - 3600)
    assert run.status()["state"] == "running"


def test_a_zombie_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = birth(child.pid)
    assert is_alive(child.pid, began.started)
    child.stdin.close()
    until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_alive(child.pid, began.started)
    child.wait()


@pytest.mark.parametrize(
    ("pid", "started"), [(None, 1.0), (0, 1.0), (-1, 1.0), (1, None), (2**40, 1)]
)
def test_a_pid_that_means_nothing_is_nobody(pid, started):
    assert not is_alive(pid, started)


def test_a_live_state_that_ends_between_two_looks_is_not_interrupted(run, monkeypatch):
    live(run)

    def it_ends_meanwhile(*_):
        if json.loads(run.status_path.read_text())["state"] == "running":
            run.update_status(state="completed")
        return False

    monkeypatch.setattr("tuner.runs.run.is_alive", it_ends_meanwhile)
    assert run.status()["state"] == "completed"


def test_an_interrupted_run_says_where_a_resume_would_continue(run):
    for name in ("step-20", "step-100"):
        (run.checkpoints_dir / name).mkdir(parents=True)
    run.update_status(state="running", pid=2**22 + 1, pid_started=1.0)
    assert "step 100" in run.status()["reason"]


def test_update_status_changes_what_it_is_given_and_keeps_the_rest(run):
    run.update_status(state="running", max_steps=60)
    run.update_status(step=7)
    status = json.loads(run.status_path.read_text())
    assert (status["state"], status["max_steps"], status["step"]) == ("running", 60, 7)


def test_finished_is_set_by_an_ended_state_and_cleared_by_a_live_one(run):
    before = time.time()
    run.update_status(state="failed", reason="No rows.")
    finished = run.status()["finished"]
    assert before <= finished <= time.time()
    run.update_status(reason="No rows at all.")
    assert run.status()["finished"] == finished
    run.update_status(state="preparing")
    assert json.loads(run.status_path.read_text())["finished"] is None


@pytest.mark.parametrize("changes", [{"state": "paused"}, {"sate": "running"}])
def test_a_state_or_key_that_does_not_exist_is_a_mistake_in_the_program(run, changes):
    with pytest.raises(ValueError, match="cannot be changed"):
        run.update_status(**changes)


def test_a_token_in_a_reason_never_reaches_the_status_or_the_result(run):
    token = "hf_" + "Ab1" * 11 + "x"
    run.update_status(state="failed", reason=f"401: {token}")
    run.write_result({"note": token})
    assert token not in run.status_path.read_text() + run.result_path.read_text()


def test_writers_of_different_keys_do_not_undo_each_other(run):
    def write(key):
        for number in range(1, 26):
            run.update_status(**{key: number})

    threads = [threading.Thread(target=write, args=(key,)) for key in ("step", "max_steps", "pid")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = run.status()
    assert [status[key] for key in ("step", "max_steps", "pid")] == [25, 25, 25]


def test_a_reader_never_sees_half_a_status(run):
    done = threading.Event()

    def write():
        while not done.is_set():
            run.update_status(reason="x" * 20_000, step=1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            assert len(run.status()["reason"]) in (0, 20_000)
    finally:
        done.set()
        writer.join()
    assert names_in(run.dir) == ["recipe.yaml", "status.json"]


def test_a_lock_whose_holder_hangs_is_passed_after_a_while(run, monkeypatch):
    monkeypatch.setattr(atomic, "LOCK_PATIENCE_SECONDS", 0.1)
    with atomic.locked(run.dir):
        run.update_status(step=5)
    assert run.status()["step"] == 5


def test_a_disk_without_locks_is_written_all_the_same(run, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.fcntl, "flock", unsupported)
    run.update_status(step=5)
    assert run.status()["step"] == 5


def test_a_failed_replacement_leaves_the_old_file_and_nothing_beside_it(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run.update_status(step=5)
    assert run.status()["step"] == 0
    assert names_in(run.dir) == ["recipe.yaml", "status.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": "x", "created": 1}', "\x00" * 9])
def test_a_folder_with_a_broken_status_is_refused_in_a_sentence(run, text):
    run.status_path.write_text(text)
    with pytest.raises(RunError, match=r"status\.json"):
        run.status()


def test_a_status_of_a_newer_version_is_read_without_what_is_new(run):
    values = json.loads(run.status_path.read_text())
    run.status_path.write_text(json.dumps({**values, "queue_position": 3}))
    assert "queue_position" not in run.status()


def test_only_finished_checkpoints_count_and_they_are_sorted_by_step(run):
    for name in ("step-9", "step-100", "step-20", ".writing", "step-x", "step-5.writing"):
        (run.checkpoints_dir / name).mkdir(parents=True)
    (run.checkpoints_dir / "step-7").write_text("a file")
    assert [step for step, _ in run.checkpoints()] == [9, 20, 100]
    assert run.last_checkpoint() == (100, run.checkpoints_dir / "step-100")


def test_a_run_without_checkpoints_or_result_says_so(run):
    assert (run.checkpoints(), run.last_checkpoint(), run.result()) == ([], None, None)


def test_a_result_is_read_back_and_strict_json(run):
    run.write_result({"eval_loss": float("nan"), "steps": 3})
    assert run.result() == {"eval_loss": None, "steps": 3}


def test_a_summary_has_the_kept_eval_loss_once_the_run_is_over(run):
    run.update_status(state="completed", step=60)
    run.write_result({"eval_loss": 1.25})
    created = run.status()["created"]
    assert run.summary() == {
        "run": run.id,
        "state": "completed",
        "preset": "chatbot",
        "base_model": "starter",
        "created": created,
        "steps": 60,
        "eval_loss": 1.25,
    }


def test_a_summary_of_a_run_at_work_has_its_latest_eval_loss(run):
    line = '{{"seq": {0}, "time": 1, "kind": "eval", "step": {0}, "eval_loss": {1}}}\n'
    run.events_path.write_text(line.format(1, 3.0) + line.format(2, 2.5))
    live(run)
    assert run.summary()["eval_loss"] == 2.5


def test_a_recipe_that_no_longer_holds_does_not_hide_the_run(run):
    run.recipe_path.write_text("base_model: starter\nremoved_setting: 1\n")
    assert run.summary()["base_model"] == "starter"
    run.recipe_path.write_text("{")
    assert run.summary()["base_model"] is None


def test_a_relative_path_has_the_folders_name_as_id(run, monkeypatch):
    monkeypatch.chdir(run.dir)
    assert Run(run.dir.relative_to(run.dir)).id == run.id
