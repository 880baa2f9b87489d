"""Real child processes: started, followed, stopped, killed, resumed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tuner.errors import RunError
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.store import Run, RunStore

RECIPE = make_recipe({"dataset": {"source": "rows.jsonl"}})
PRELUDE = """
import signal, sys, time
from pathlib import Path
from tuner.runs.events import EventWriter
from tuner.runs.store import Run
run = Run(Path(sys.argv[1]))
events = EventWriter(run.events_path)
run.update_status(state="running")
"""
COUNTS_AND_ENDS = (
    PRELUDE
    + """
for step in range(3):
    events.write("metric", step=step, loss=1.0)
run.update_status(state="completed")
"""
)
STOPS_WHEN_ASKED = (
    PRELUDE
    + """
def leave(*_):
    run.update_status(state="stopped")
    sys.exit(3)
signal.signal(signal.SIGTERM, leave)
events.write("log", message="ready")
time.sleep(60)
"""
)
NEVER_STOPS = (
    PRELUDE
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
events.write("log", message="ready")
time.sleep(60)
"""
)
BREAKS = PRELUDE + "raise ValueError('no such thing')"


@pytest.fixture
def run(tmp_path) -> Run:
    return RunStore(tmp_path).create(RECIPE)


def becomes(monkeypatch, script: str) -> None:
    """Let the training process be this script; all else is real."""

    def command(run, resume):
        return [sys.executable, "-c", script, str(run.dir)]

    monkeypatch.setattr(launch, "command", command)


def until_ready(run: Run) -> None:
    deadline = time.monotonic() + 30
    while not run.events()[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_command_is_a_list_that_names_the_run_and_nothing_else(run):
    assert launch.command(run, False) == [sys.executable, "-m", "tuner.training", str(run.dir)]
    assert launch.command(run, True)[-1] == "--resume"


def test_wait_hands_on_every_event_and_returns_the_final_status(run, monkeypatch):
    becomes(monkeypatch, COUNTS_AND_ENDS)
    seen = []

    launch.start(run)
    status = launch.wait(run, seen.append, poll_seconds=0.02)

    assert status["state"] == "completed"
    assert [event["step"] for event in seen] == [0, 1, 2]


def test_a_process_that_breaks_is_a_failed_run_with_its_last_words(run, monkeypatch):
    becomes(monkeypatch, BREAKS)

    launch.start(run)
    status = launch.wait(run, poll_seconds=0.02)

    assert status["state"] == "failed"
    assert "no such thing" in status["reason"]


def test_a_killed_process_is_an_interrupted_run(run, monkeypatch):
    becomes(monkeypatch, NEVER_STOPS)
    pid = launch.start(run)
    until_ready(run)
    os.kill(pid, signal.SIGKILL)

    assert launch.wait(run, poll_seconds=0.02)["state"] == "interrupted"


def test_stop_waits_for_the_run_to_say_so_itself(run, monkeypatch):
    becomes(monkeypatch, STOPS_WHEN_ASKED)
    launch.start(run)
    until_ready(run)

    assert launch.stop(run)["state"] == "stopped"


def test_a_run_that_ignores_a_stop_is_killed_after_the_grace_and_it_is_said(run, monkeypatch):
    becomes(monkeypatch, NEVER_STOPS)
    launch.start(run)
    until_ready(run)
    status = launch.stop(run, grace_seconds=0.3)

    assert status["state"] == "stopped"
    assert "Killed" in status["reason"] and "no checkpoint" in status["reason"]


def test_a_live_run_is_neither_started_nor_resumed_again(run, monkeypatch):
    becomes(monkeypatch, STOPS_WHEN_ASKED)
    launch.start(run)
    until_ready(run)

    with pytest.raises(RunError, match="already"):
        launch.start(run)
    with pytest.raises(RunError, match="already"):
        launch.resume(run)
    launch.stop(run)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [("completed", "nothing to resume"), ("failed", "no checkpoint"), ("queued", "no checkpoint")],
)
def test_resume_says_why_it_cannot(run, state, sentence):
    run.update_status(state=state)

    with pytest.raises(RunError, match=sentence):
        launch.resume(run)


def test_stopping_what_does_not_run_is_a_sentence(run):
    with pytest.raises(RunError, match="nothing to stop"):
        launch.stop(run)


def test_a_run_outlives_the_process_that_started_it(run):
    starter = f"""
import sys
from pathlib import Path
from tuner.runs import launch
from tuner.runs.store import Run
launch.command = lambda run, resume: [sys.executable, "-c", {STOPS_WHEN_ASKED!r}, str(run.dir)]
launch.start(Run(Path({str(run.dir)!r})))
"""
    subprocess.run([sys.executable, "-c", starter], check=True, cwd=launch.ROOT)
    until_ready(run)

    assert run.status()["state"] == "running"
    assert launch.stop(run)["state"] == "stopped"
