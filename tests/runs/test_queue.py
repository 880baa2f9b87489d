"""The line: in order, one at a time, by itself, whoever dispatches and is killed meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from tests.runs.children import OBEYS, SLEEPS, trains_as, until
from tuner.errors import RunError
from tuner.runs import launch, queue
from tuner.runs.queue import Dispatcher, Glance, advance, enqueue, leave, position, waiting
from tuner.runs.store import Run, RunStore

TICK = 0.02

# Trains until there is a file named "end" in its folder.
ENDS_WHEN_TOLD = """
import sys, time
from pathlib import Path
from tuner.runs.events import EventWriter
from tuner.runs.store import Run

run = Run(Path(sys.argv[1]))
run.update_status(state="running")
while not (run.dir / "end").exists():
    time.sleep(0.01)
run.update_status(state="completed")
with EventWriter(run.events_path) as events:
    events.write("state", state="completed", reason="")
"""

# Leaves a word where another run is at work at the same time.
WANTS_TO_BE_ALONE = """
import sys, time
from pathlib import Path
from tuner.runs.store import Run

run = Run(Path(sys.argv[1]))
place = run.dir.parent / "at-work"
try:
    place.touch(exist_ok=False)
except FileExistsError:
    (run.dir.parent / "two-at-once").touch()
time.sleep(0.05)
place.unlink(missing_ok=True)
run.update_status(state="completed")
"""

DISPATCHES = """
import sys, time
from pathlib import Path
from tuner.runs import launch
from tuner.runs.queue import Dispatcher
from tuner.runs.store import RunStore

def command(run, *, resume=False):
    return [sys.executable, "-c", sys.argv[2], str(run.dir), *(["--resume"] if resume else [])]

launch.command = command
Dispatcher(RunStore(Path(sys.argv[1])), tick_seconds=0.02).start()
time.sleep(600)
"""


@contextmanager
def dispatching(store):
    dispatcher = Dispatcher(store, tick_seconds=TICK)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        dispatcher.close()


@pytest.fixture
def app(store):
    """Start another process that dispatches for the store; it is killed afterwards."""
    apps = []

    def begin(source):
        arguments = [sys.executable, "-c", DISPATCHES, str(store.root), source]
        apps.append(subprocess.Popen(arguments))
        return apps[-1]

    yield begin
    for process in apps:
        process.kill()
        process.wait()


@pytest.fixture
def runs(store, recipe):
    return [store.create(recipe, name) for name in ("first", "second", "third")]


def state(run):
    return run.status()["state"]


def is_running(run):
    return state(run) == "running"


def told(run):
    """The states that a reader of the events sees."""
    return [event["state"] for event in run.events()[0] if event["kind"] == "state"]


def end(run):
    (run.dir / "end").touch()


def with_checkpoint(run, **status):
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    run.update_status(**{"state": "interrupted", "reason": "Old."} | status)
    return run


def test_runs_wait_in_the_order_in_which_they_came_and_know_their_place(store, runs):
    first, second, third = runs
    assert [enqueue(store, run) for run in (second, first, third)] == [1, 2, 3]
    assert waiting(store) == [second, first, third]
    assert [position(store, run) for run in (second, first, third)] == [1, 2, 3]
    leave(second)
    assert [position(store, run) for run in (second, first, third)] == [0, 1, 2]


def test_a_run_in_line_says_so_in_its_status_and_its_events(store, run):
    before = time.time()
    enqueue(store, run)
    status = run.status()
    assert (status["state"], status["waiting_to"]) == ("queued", "start")
    assert before <= status["waiting_since"] <= time.time()
    assert told(run) == ["queued"]


def test_a_run_that_was_only_made_is_not_in_line(store, run):
    assert (waiting(store), position(store, run)) == ([], 0)
    assert advance(store) is None
    assert state(run) == "queued"


def test_a_clock_that_was_set_back_lets_nobody_jump_the_line(store, runs, monkeypatch):
    first, second, third = runs
    enqueue(store, first)
    now = time.time()
    monkeypatch.setattr(queue.time, "time", lambda: now - 3600)
    assert (enqueue(store, second), enqueue(store, third)) == (2, 3)
    assert waiting(store) == runs


def test_runs_that_are_put_in_line_at_once_get_a_place_each(store, recipe):
    runs = [store.create(recipe, f"run {number}") for number in range(8)]
    places = []
    threads = [
        threading.Thread(target=lambda run=run: places.append(enqueue(store, run))) for run in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(places) == list(range(1, 9))


def test_a_run_is_put_in_line_once(store, run):
    enqueue(store, run)
    with pytest.raises(RunError, match="waits in line already"):
        enqueue(store, run)
    assert told(run) == ["queued"]


@pytest.mark.parametrize(
    ("at", "resume", "sentence"),
    [
        ("completed", False, "started once"),
        ("stopped", False, "started once"),
        ("completed", True, "nothing to resume"),
        ("queued", True, "has not begun"),
        ("failed", True, "cannot be resumed. It left no checkpoint"),
    ],
)
def test_what_could_not_be_started_is_not_put_in_line(store, run, at, resume, sentence):
    run.update_status(state=at)
    with pytest.raises(RunError, match=sentence):
        enqueue(store, run, resume=resume)
    assert (state(run), told(run)) == (at, [])


def test_a_run_at_work_is_not_put_in_line(store, run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    launch.start(run)
    for resume in (False, True):
        with pytest.raises(RunError, match="is preparing already"):
            enqueue(store, run, resume=resume)


def test_the_line_is_empty_where_no_run_was_ever_made(tmp_path):
    store = RunStore(tmp_path / "not there")
    assert (waiting(store), advance(store)) == ([], None)
    assert not Glance(store).line_can_move()


def test_advance_starts_the_next_and_nobody_else_while_it_is_at_work(store, runs, monkeypatch):
    trains_as(monkeypatch, ENDS_WHEN_TOLD)
    first, second, _ = runs
    enqueue(store, first)
    enqueue(store, second)
    assert advance(store) == first
    status = first.status()
    assert (status["state"], status["waiting_since"], status["waiting_to"]) == (
        "preparing",
        None,
        None,
    )
    assert advance(store) is None
    end(first)
    until(lambda: not first.is_process_alive())
    assert advance(store) == second


def test_a_process_that_tidies_up_after_its_last_word_keeps_the_line_waiting(
    store, runs, monkeypatch
):
    trains_as(monkeypatch, SLEEPS)
    first, second, _ = runs
    pid = launch.start(first)
    first.update_status(state="completed")
    enqueue(store, second)
    assert advance(store) is None
    assert not Glance(store).line_can_move()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not first.is_process_alive())
    assert advance(store) == second


def test_a_run_started_from_a_shell_keeps_the_line_waiting(store, runs, monkeypatch):
    trains_as(monkeypatch, ENDS_WHEN_TOLD)
    first, second, _ = runs
    with dispatching(store):
        launch.start(first)
        enqueue(store, second)
        time.sleep(10 * TICK)
        assert position(store, second) == 1
        end(first)
        until(lambda: is_running(second))


def test_each_starts_by_itself_when_the_one_before_it_ends(store, runs, monkeypatch):
    trains_as(monkeypatch, ENDS_WHEN_TOLD)
    for run in runs:
        enqueue(store, run)
    with dispatching(store):
        for place, run in enumerate(runs):
            until(lambda run=run: is_running(run))
            assert [position(store, other) for other in runs[place + 1 :]] == [1, 2][: 2 - place]
            end(run)
        until(lambda: not runs[-1].is_process_alive())
    began = [run.status()["started"] for run in runs]
    assert began == sorted(began)
    assert told(runs[-1]) == ["queued", "completed"]


def test_the_next_starts_when_the_one_before_it_is_killed(store, runs, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    first, second, _ = runs
    enqueue(store, first)
    enqueue(store, second)
    with dispatching(store):
        until(lambda: is_running(first))
        os.kill(first.status()["pid"], signal.SIGKILL)
        until(lambda: is_running(second))
    assert state(first) == "interrupted"


def test_wake_starts_a_run_without_waiting_for_the_next_look(store, run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    dispatcher = Dispatcher(store, tick_seconds=60)
    dispatcher.start()
    time.sleep(0.2)
    enqueue(store, run)
    assert state(run) == "queued"
    dispatcher.wake()
    until(lambda: state(run) == "preparing")
    dispatcher.close()


def test_a_closed_dispatcher_starts_nobody_and_ends_nothing(store, runs, monkeypatch):
    trains_as(monkeypatch, ENDS_WHEN_TOLD)
    first, second, _ = runs
    enqueue(store, first)
    with dispatching(store) as dispatcher:
        until(lambda: is_running(first))
    assert not dispatcher._thread.is_alive()
    enqueue(store, second)
    end(first)
    until(lambda: state(first) == "completed")
    time.sleep(10 * TICK)
    assert position(store, second) == 1


def test_the_line_outlives_the_app_and_so_does_the_run_at_work(store, runs, app):
    first, second, third = runs
    for run in runs:
        enqueue(store, run)
    killed = app(ENDS_WHEN_TOLD)
    until(lambda: is_running(first))
    killed.kill()
    killed.wait()
    assert is_running(first) and waiting(store) == [second, third]
    app(ENDS_WHEN_TOLD)
    time.sleep(0.5)
    assert position(store, second) == 1  # the orphan is found by its pid
    end(first)
    until(lambda: is_running(second))
    assert (state(first), told(first)) == ("completed", ["queued", "completed"])
    assert position(store, third) == 1


def test_a_run_that_ended_while_no_app_was_there_does_not_hold_up_the_line(store, runs, app):
    first, second, _ = runs
    enqueue(store, first)
    enqueue(store, second)
    killed = app(ENDS_WHEN_TOLD)
    until(lambda: is_running(first))
    killed.kill()
    killed.wait()
    os.kill(first.status()["pid"], signal.SIGKILL)
    until(lambda: not first.is_process_alive())
    assert state(first) == "interrupted"
    app(ENDS_WHEN_TOLD)
    until(lambda: is_running(second))


def test_two_apps_on_one_folder_never_have_two_runs_at_work(store, recipe, app):
    runs = [store.create(recipe, f"run {number}") for number in range(6)]
    for run in runs:
        enqueue(store, run)
    app(WANTS_TO_BE_ALONE)
    app(WANTS_TO_BE_ALONE)
    until(lambda: all(state(run) == "completed" for run in runs), seconds=30)
    assert not (store.root / "two-at-once").exists()
    began = [run.status()["started"] for run in runs]
    assert began == sorted(began)


def test_two_who_advance_at_once_start_one_run(store, runs, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    for run in runs:
        enqueue(store, run)
    started = []
    threads = [threading.Thread(target=lambda: started.append(advance(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run for run in started if run] == runs[:1]
    assert waiting(store) == runs[1:]


def test_a_run_that_cannot_be_started_fails_with_the_reason_and_the_next_is_started(
    store, runs, monkeypatch
):
    broken, lost, sound = runs
    for run in (broken, with_checkpoint(lost), sound):
        enqueue(store, run, resume=run is lost)
    (lost.checkpoints_dir / "step-40").rmdir()
    trains_as(monkeypatch, SLEEPS)
    works = launch.command
    monkeypatch.setattr(
        launch, "command", lambda run, **how: ["/no"] if run == broken else works(run, **how)
    )
    assert advance(store) == sound
    assert (state(broken), state(lost)) == ("failed", "failed")
    assert "No such file" in broken.status()["reason"]
    assert "It left no checkpoint" in lost.status()["reason"]
    assert told(broken) == ["queued", "failed"]
    assert broken.events()[0][-1]["reason"] == broken.status()["reason"]
    assert broken.status()["waiting_since"] is None


def test_the_dispatcher_outlives_errors_of_the_disk(store, run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    failures = [OSError(5, "Input/output error"), RunError("No."), OSError(28, "No space")]

    def fails_at_first(store):
        if failures:
            raise failures.pop()
        return advance(store)

    monkeypatch.setattr(queue, "advance", fails_at_first)
    enqueue(store, run)
    with dispatching(store):
        until(lambda: state(run) == "preparing")
    assert not failures


def test_folders_that_are_no_runs_do_not_stop_the_line(store, runs, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    first, second, third = runs
    first.status_path.write_text("{")
    second.status_path.unlink()
    enqueue(store, third)
    with dispatching(store):
        until(lambda: state(third) == "preparing")


def test_a_run_waits_to_be_resumed_and_goes_on_at_its_checkpoint(store, runs, monkeypatch):
    trains_as(monkeypatch, "import sys, time; print(sys.argv[2], flush=True); time.sleep(60)")
    first, second, _ = runs
    with_checkpoint(second, stop_asked=1.0, exit_code=3)
    enqueue(store, second, resume=True)
    status = second.status()
    assert (status["state"], status["waiting_to"], status["reason"]) == ("queued", "resume", "")
    assert (status["finished"], status["stop_asked"], status["exit_code"]) == (None, None, None)
    assert advance(store) == second
    status = second.status()
    assert (status["resumed_from"], status["waiting_to"]) == (40, None)
    until(lambda: second.log_path.read_text() == "--resume\n")
    assert state(first) == "queued"


def test_a_run_that_waits_to_be_resumed_is_never_started_from_scratch(store, run):
    enqueue(store, with_checkpoint(run), resume=True)
    with pytest.raises(RunError, match="started once"):
        launch.start(run)


def test_a_shell_may_resume_a_waiting_run_at_once(store, run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    enqueue(store, with_checkpoint(run), resume=True)
    launch.resume(run)
    assert (state(run), position(store, run)) == ("preparing", 0)


def test_cancelling_stops_a_run_that_never_began(store, run):
    enqueue(store, run)
    leave(run)
    status = run.status()
    assert (status["state"], status["waiting_since"], status["waiting_to"]) == (
        "stopped",
        None,
        None,
    )
    assert status["reason"].startswith("Cancelled while it waited in line. Start again: `python")
    assert told(run) == ["queued", "stopped"]
    assert advance(store) is None


def test_cancelling_a_resume_leaves_the_checkpoint_for_another(store, run):
    enqueue(store, with_checkpoint(run), resume=True)
    leave(run)
    assert state(run) == "stopped"
    assert "checkpoint of step 40 is kept" in run.status()["reason"]
    assert enqueue(store, run, resume=True) == 1


@pytest.mark.parametrize("at", ["queued", "completed", "failed", "stopped"])
def test_who_is_not_in_line_cannot_leave_it(run, at):
    run.update_status(state=at)
    with pytest.raises(RunError, match=f"is {at}: it does not wait in line"):
        leave(run)
    assert (state(run), told(run)) == (at, [])


def test_stopping_a_waiting_run_takes_it_out_of_line(store, runs, monkeypatch):
    trains_as(monkeypatch, ENDS_WHEN_TOLD)
    first, second, third = runs
    for run in runs:
        enqueue(store, run)
    with dispatching(store):
        until(lambda: is_running(first))
        assert launch.stop(second)["state"] == "stopped"
        assert position(store, third) == 1
        end(first)
        until(lambda: is_running(third))
    assert (state(second), told(second)) == ("stopped", ["queued", "stopped"])


def test_a_run_that_begins_while_it_is_stopped_is_stopped_at_work(store, run, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    enqueue(store, run)
    in_line = launch.is_in_line

    def it_begins_meanwhile(status):
        monkeypatch.setattr(launch, "is_in_line", in_line)
        advance(store)
        until(lambda: is_running(run))
        return True

    monkeypatch.setattr(launch, "is_in_line", it_begins_meanwhile)
    status = launch.stop(run, grace_seconds=10)
    assert (status["state"], status["reason"][:15]) == ("stopped", "Stopped at step")


def test_deleting_a_waiting_run_takes_it_out_of_line(store, runs, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    first, second, _ = runs
    glance = Glance(store)
    enqueue(store, first)
    enqueue(store, second)
    assert glance.line_can_move()
    store.delete(first.id)
    assert waiting(store) == [second]
    assert advance(store) == second
    assert not glance.line_can_move()


def test_a_waiting_run_in_a_relative_folder_leaves_too(store, run, monkeypatch):
    enqueue(store, run)
    monkeypatch.chdir(store.root)
    leave(Run(run.dir.relative_to(store.root)))
    assert state(run) == "stopped"


def test_a_disk_that_is_full_keeps_a_run_out_of_line_with_a_sentence(store, run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="cannot be put in line: No space left"):
        enqueue(store, run)
    assert position(store, run) == 0


def test_a_glance_reads_a_status_again_only_when_its_file_was_replaced(store, runs, monkeypatch):
    for run in runs:
        run.update_status(state="completed")
        os.utime(run.status_path, (1.0, 1.0))
    glance, read = Glance(store), []
    stand = queue._stand
    monkeypatch.setattr(queue, "_stand", lambda run: read.append(run.id) or stand(run))
    assert not glance.line_can_move()
    assert len(read) == 3
    assert not glance.line_can_move()
    assert len(read) == 3
    (runs[0].checkpoints_dir / "step-1").mkdir(parents=True)
    runs[0].update_status(state="stopped")
    enqueue(store, runs[0], resume=True)
    assert glance.line_can_move()
    assert read[3:] == [runs[0].id]
