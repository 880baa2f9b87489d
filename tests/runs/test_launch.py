"""Processes that are started, followed, stopped, killed and resumed for real."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.runs.children import COMPLETES, IGNORES, OBEYS, SLEEPS, trains_as, until
from tuner.device import TRAINING_ENVIRONMENT
from tuner.errors import RunError
from tuner.runs import launch

STARTS_AND_EXITS = """
import sys
from pathlib import Path
from tuner.runs import launch
from tuner.runs.store import Run
launch.command = lambda run, *, resume: [sys.executable, "-c", sys.argv[2], str(run.dir)]
print(launch.start(Run(Path(sys.argv[1]))))
"""


def running(run):
    return run.status()["state"] == "running" and run.status()


def test_the_command_trains_this_folder_with_this_python(run, monkeypatch):
    monkeypatch.chdir(run.dir.parent)
    relative = type(run)(Path(run.id))
    expected = [sys.executable, "-m", "tuner.training", str(run.dir)]
    assert launch.command(relative) == expected
    assert launch.command(run, resume=True) == [*expected, "--resume"]


def test_a_run_is_followed_to_its_end_with_every_event(run, monkeypatch):
    trains_as(monkeypatch, COMPLETES)
    launch.start(run)
    events = []
    status = launch.wait(run, events.append, poll_seconds=0.02)
    assert (status["state"], status["step"]) == ("completed", 3)
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert events[-1]["state"] == "completed"


def test_start_records_the_process_and_detaches_it(run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    pid = launch.start(run)
    status = run.status()
    assert (status["state"], status["pid"]) == ("preparing", pid)
    assert status["pid_started"] == pytest.approx(psutil.Process(pid).create_time())
    assert os.getsid(pid) == pid != os.getsid(0)
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path(os.devnull)
    assert Path(f"/proc/{pid}/fd/1").readlink() == run.log_path
    assert Path(f"/proc/{pid}/fd/2").readlink() == run.log_path


def test_the_process_imports_tuner_and_nothing_from_the_folder_it_was_started_in(
    run, monkeypatch, tmp_path
):
    (tmp_path / "tuner.py").write_text("raise SystemExit(9)")
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    source = "import json, os, tuner; print(tuner.__file__, os.environ['PYTHONPATH'])"
    trains_as(monkeypatch, source)
    launch.start(run)
    launch.wait(run, poll_seconds=0.02)
    root = str(launch.PROJECT_ROOT)
    assert run.log_path.read_text().split() == [f"{root}/tuner/__init__.py", f"{root}:/elsewhere"]


def test_the_process_has_the_settings_for_training_unless_the_person_has_others(run, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    source = "import os; print(os.environ['GLIBC_TUNABLES'], os.environ['GOMP_SPINCOUNT'])"
    trains_as(monkeypatch, source)
    launch.start(run)
    launch.wait(run, poll_seconds=0.02)
    assert run.log_path.read_text().split() == [TRAINING_ENVIRONMENT["GLIBC_TUNABLES"], "7"]


def test_two_who_start_one_run_at_once_start_one_process(run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    answers = []

    def start():
        try:
            answers.append(launch.start(run))
        except RunError as error:
            answers.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (pid,) = [answer for answer in answers if isinstance(answer, int)]
    assert run.status()["pid"] == pid
    assert any("preparing already" in answer for answer in answers if isinstance(answer, str))


def test_a_command_that_is_not_there_is_refused_and_the_run_stays_queued(run, monkeypatch):
    monkeypatch.setattr(launch, "command", lambda run, *, resume: ["/no/such/python"])
    with pytest.raises(RunError, match="No such file"):
        launch.start(run)
    assert run.status()["state"] == "queued"


def test_a_process_that_cannot_be_recorded_is_not_left_running(run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    began, pids = time.monotonic(), []

    def full(_, status):
        pids.append(status["pid"])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch, "write_status", full)
    with pytest.raises(RunError, match="No space"):
        launch.start(run)
    assert not psutil.pid_exists(pids[0])
    assert time.monotonic() - began < 30  # it was killed, not waited for


def test_a_finished_process_leaves_no_zombie_though_nobody_waits(run, monkeypatch):
    trains_as(monkeypatch, COMPLETES)
    pid = launch.start(run)
    until(lambda: not psutil.pid_exists(pid))
    assert run.status()["state"] == "completed"


def test_a_killed_process_is_interrupted_and_its_last_event_says_so(run, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    pid = launch.start(run)
    until(lambda: running(run))
    os.kill(pid, signal.SIGKILL)
    events = []
    status = launch.wait(run, events.append, poll_seconds=0.02)
    assert status["state"] == "interrupted"
    assert "SIGKILL" in status["reason"] and "memory" in status["reason"]
    assert (events[-1]["kind"], events[-1]["state"]) == ("state", "interrupted")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_a_process_that_fails_by_itself_is_failed_with_the_end_of_its_log(run, monkeypatch):
    token = "hf_" + "Ab1" * 11 + "x"
    # The reason holds 600 characters: where it is cut is in the middle of the token.
    source = f"import sys; print('{token}', 'x' * 563); print('CUDA driver too old'); sys.exit(7)"
    trains_as(monkeypatch, source)
    launch.start(run)
    status = launch.wait(run, poll_seconds=0.02)
    assert (status["state"], status["exit_code"]) == ("failed", 7)
    assert "exit code 7" in status["reason"] and "CUDA driver too old" in status["reason"]
    assert token[-8:] not in status["reason"]


def test_a_crash_in_native_code_is_failed(run, monkeypatch):
    trains_as(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    launch.start(run)
    status = launch.wait(run, poll_seconds=0.02)
    assert status["state"] == "failed" and "SIGSEGV" in status["reason"]


def test_a_reason_that_the_process_wrote_itself_stays(run, monkeypatch):
    source = """
import sys
from pathlib import Path
from tuner.runs.store import Run
Run(Path(sys.argv[1])).update_status(state="failed", reason="No rows.", exit_code=2)
sys.exit(2)
"""
    trains_as(monkeypatch, source)
    launch.start(run)
    status = launch.wait(run, poll_seconds=0.02)
    assert (status["state"], status["reason"]) == ("failed", "No rows.")


def test_waiting_for_a_run_that_nobody_started_returns_at_once(run):
    assert launch.wait(run)["state"] == "queued"


def test_a_run_outlives_its_starter_and_is_stopped_by_somebody_else(run):
    starter = [sys.executable, "-c", STARTS_AND_EXITS, str(run.dir), OBEYS]
    pid = int(subprocess.run(starter, check=True, capture_output=True, text=True).stdout)
    until(lambda: running(run))
    assert run.is_process_alive() and run.status()["pid"] == pid
    status = launch.stop(run, grace_seconds=10)
    assert (status["state"], status["reason"][:15]) == ("stopped", "Stopped at step")
    assert not run.is_process_alive()


def test_a_run_killed_after_its_starter_is_gone_reads_as_interrupted(run):
    starter = [sys.executable, "-c", STARTS_AND_EXITS, str(run.dir), OBEYS]
    pid = int(subprocess.run(starter, check=True, capture_output=True, text=True).stdout)
    until(lambda: running(run))
    os.killpg(pid, signal.SIGKILL)
    assert launch.wait(run, poll_seconds=0.02)["state"] == "interrupted"


def test_stop_lets_the_process_finish_and_keeps_its_own_words(run, monkeypatch):
    trains_as(monkeypatch, OBEYS)
    launch.start(run)
    until(lambda: running(run))
    status = launch.stop(run, grace_seconds=10)
    assert status["state"] == "stopped" and status["reason"].startswith("Stopped at step")
    assert status["stop_asked"] <= status["finished"]
    assert not run.is_process_alive()


def test_a_process_that_ignores_the_stop_is_killed_with_all_it_started(run, monkeypatch):
    trains_as(monkeypatch, IGNORES)
    pid = launch.start(run)
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    worker = int(until(lambda: (run.dir / "worker").exists() and _text(run.dir / "worker")))
    status = launch.stop(run, grace_seconds=0.1)
    assert status["state"] == "stopped"
    assert "killed" in status["reason"] and "step 40" in status["reason"]
    until(lambda: not psutil.pid_exists(pid))
    until(lambda: not psutil.pid_exists(worker) or _is_zombie(worker))
    assert run.events()[0][-1]["state"] == "stopped"


def test_a_process_that_hangs_after_its_last_word_is_killed_and_keeps_it(run, monkeypatch):
    said = "Run(Path(sys.argv[1])).update_status(state='stopped', reason='Saved.')"
    imports = "import signal, sys, time; from pathlib import Path; from tuner.runs.store import Run"
    listens = "signal.signal(signal.SIGTERM, lambda *_: (run(), time.sleep(60)))"
    ready = "Run(Path(sys.argv[1])).update_status(state='running')"
    trains_as(monkeypatch, f"{imports}\nrun = lambda: {said}\n{listens}\n{ready}\ntime.sleep(60)")
    launch.start(run)
    until(lambda: running(run))
    status = launch.stop(run, grace_seconds=0.5)
    assert (status["state"], status["reason"]) == ("stopped", "Saved.")
    assert not run.is_process_alive()


def test_a_process_stopped_before_it_can_listen_is_stopped(run, monkeypatch):
    trains_as(monkeypatch, SLEEPS)
    launch.start(run)
    status = launch.stop(run, grace_seconds=10)
    assert status["state"] == "stopped"
    assert "train --recipe" in status["reason"]


@pytest.mark.parametrize("state", ["queued", "completed", "failed", "stopped", "interrupted"])
def test_stopping_a_run_that_is_not_at_work_says_what_it_is(run, state):
    run.update_status(state=state)
    with pytest.raises(RunError, match=f"is {state}: there is nothing to stop"):
        launch.stop(run)


@pytest.mark.parametrize("state", ["stopped", "interrupted", "failed"])
def test_a_run_with_a_checkpoint_is_resumed_from_it(run, monkeypatch, state):
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    run.update_status(state=state, reason="Old.", exit_code=3, stop_asked=1.0)
    trains_as(monkeypatch, "import sys, time; print(sys.argv[2], flush=True); time.sleep(60)")
    pid = launch.resume(run)
    status = run.status()
    assert (status["state"], status["pid"], status["resumed_from"]) == ("preparing", pid, 40)
    assert (status["reason"], status["exit_code"], status["stop_asked"]) == ("", None, None)
    assert status["finished"] is None
    until(lambda: run.log_path.read_text() == "--resume\n")


def test_a_log_is_continued_by_a_resume(run, monkeypatch):
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    trains_as(monkeypatch, "import sys; print(*sys.argv[2:], 'here'); sys.exit(1)")
    launch.start(run)
    launch.wait(run, poll_seconds=0.02)
    until(lambda: not run.is_process_alive())
    launch.resume(run)
    launch.wait(run, poll_seconds=0.02)
    assert run.log_path.read_text() == "here\n--resume here\n"


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("completed", "completed; there is nothing to resume"),
        ("queued", "has not begun"),
        ("stopped", "train --recipe"),
        ("failed", "train --recipe"),
    ],
)
def test_a_run_that_cannot_be_resumed_says_why(run, state, sentence):
    run.update_status(state=state)
    with pytest.raises(RunError, match=sentence):
        launch.resume(run)


def test_a_run_at_work_is_neither_started_nor_resumed_again(run, monkeypatch):
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    trains_as(monkeypatch, SLEEPS)
    launch.start(run)
    for again in (launch.start, launch.resume):
        with pytest.raises(RunError, match="is preparing already"):
            again(run)


def test_a_run_whose_process_still_tidies_up_is_not_resumed_beside_it(run, monkeypatch):
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    trains_as(monkeypatch, SLEEPS)
    launch.start(run)
    run.update_status(state="stopped")
    with pytest.raises(RunError, match="about to end"):
        launch.resume(run)


def test_a_deleted_run_is_not_started(run, store):
    store.delete(run.id)
    with pytest.raises(RunError, match="no run"):
        launch.start(run)


def test_a_run_that_ended_is_not_started_from_scratch(run):
    run.update_status(state="failed")
    with pytest.raises(RunError, match="started once"):
        launch.start(run)


def _text(path):
    return path.read_text()


def _is_zombie(pid):
    # Whether an orphan is cleared away depends on the machine's first process.
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
