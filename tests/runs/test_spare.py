"""A process that waits for its run: real ones, which import no torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.runs.children import COMPLETES, SLEEPS, trains_as, until
from tuner.runs import handover, launch
from tuner.runs.spare import Spare

WAITS = """
import sys, time
from tuner.training.spare import Waiting
task = Waiting().task()
print("has", task.run_dir, task.resume)
"""
GOES_ON = WAITS + "time.sleep(60)"
# Keeps a spare process, tells its pid, gives it the run whose folder it is told, and sleeps.
KEEPS = """
import sys, time
from pathlib import Path
from tuner.runs import launch
from tuner.runs.store import Run
launch.spare.warm([sys.executable, "-c", sys.argv[1]], launch._environment())
print(launch.spare._waiting.process.pid, flush=True)
if len(sys.argv) > 2:
    print(launch.start(Run(Path(sys.argv[2]))), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def spare(monkeypatch):
    monkeypatch.setattr(launch, "spare", Spare())
    yield launch.spare
    launch.spare.close()


@pytest.fixture
def keep(request):
    """A process that keeps a spare one, and what it says."""

    def started(*arguments):
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPS, *arguments], stdout=subprocess.PIPE, text=True
        )
        request.addfinalizer(keeper.wait)
        request.addfinalizer(keeper.kill)
        return keeper

    return started


def warm(source: str = WAITS) -> int:
    launch.spare.warm([sys.executable, "-c", source], launch._environment())
    return launch.spare._waiting.process.pid


def is_gone(pid: int) -> bool:
    # Whether an orphan is cleared away depends on the machine's first process.
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_run_is_given_to_the_process_that_waits_which_is_like_a_fresh_one_then(run, monkeypatch):
    monkeypatch.setattr(launch, "command", lambda run, *, resume: ["/no/such/python"])
    pid = warm(GOES_ON)
    assert launch.start(run) == pid
    until(run.log_path.read_text)
    assert run.log_path.read_text() == f"has {run.dir} False\n"
    assert run.status()["pid_started"] == pytest.approx(psutil.Process(pid).create_time())
    assert os.getsid(pid) == pid != os.getsid(0)
    open_files = {int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115
    assert open_files == {0: os.devnull, 1: str(run.log_path), 2: str(run.log_path)}
    assert not launch.spare.is_waiting()


def test_a_resume_is_given_to_it_too_and_continues_the_log(run):
    (run.checkpoints_dir / "step-40").mkdir(parents=True)
    run.update_status(state="stopped")
    run.log_path.write_text("before\n")
    pid = warm(GOES_ON)
    assert launch.resume(run) == pid
    until(lambda: run.log_path.read_text() == f"before\nhas {run.dir} True\n")


def test_how_it_ends_is_recorded_as_of_any_process(run):
    warm(WAITS + "print('CUDA driver too old', file=sys.stderr); sys.exit(7)")
    launch.start(run)
    status = launch.wait(run, poll_seconds=0.02)
    assert (status["state"], status["exit_code"]) == ("failed", 7)
    assert "exit code 7" in status["reason"] and "CUDA driver too old" in status["reason"]


def test_it_is_stopped_and_killed_as_any_process(run):
    pid = warm(WAITS + "import signal; signal.signal(15, signal.SIG_IGN); print('deaf');" + SLEEPS)
    launch.start(run)
    until(lambda: "deaf" in run.log_path.read_text())
    status = launch.stop(run, grace_seconds=0.1)
    assert status["state"] == "stopped" and "killed" in status["reason"]
    until(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize("change", ["environment", "folder"])
def test_what_has_changed_since_it_was_started_is_never_the_runs(
    run, monkeypatch, tmp_path, change
):
    pid = warm()
    if change == "environment":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    else:
        monkeypatch.chdir(tmp_path)
    trains_as(monkeypatch, "import os; print(os.getcwd(), os.environ.get('CUDA_VISIBLE_DEVICES'))")
    assert launch.start(run) != pid
    assert not psutil.pid_exists(pid)
    launch.wait(run, poll_seconds=0.02)
    here = (str(Path.cwd()), os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert run.log_path.read_text() == f"{here[0]} {here[1]}\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hanging"])
def test_a_run_does_not_fail_for_a_spare_process_that_cannot_take_it(run, monkeypatch, number):
    trains_as(monkeypatch, COMPLETES)
    monkeypatch.setattr(handover, "PATIENCE_SECONDS", 0.5)
    pid = warm()
    os.kill(pid, number)
    assert launch.start(run) != pid
    assert launch.wait(run, poll_seconds=0.02)["state"] == "completed"
    assert not psutil.pid_exists(pid)


def test_one_that_broke_by_itself_is_not_started_again(spare):
    warm("raise SystemExit('No module named torch')")
    until(lambda: not spare.is_waiting())
    assert spare.broken
    spare.warm([sys.executable, "-c", WAITS], launch._environment())
    assert not spare.is_waiting()


def test_a_program_that_is_not_there_is_no_failure(spare):
    spare.warm(["/no/such/python"], {})
    assert spare.broken and not spare.is_waiting()


def test_the_run_may_come_before_the_imports_are_done(run):
    busy = "import time\nuntil = time.monotonic() + 3\nwhile time.monotonic() < until: pass\n"
    source = WAITS.replace("task = Waiting()", f"waiting = Waiting()\n{busy}task = waiting")
    pid = warm(source)
    began = time.monotonic()
    assert launch.start(run) == pid
    assert time.monotonic() - began < 3
    launch.wait(run, poll_seconds=0.02)
    assert run.log_path.read_text() == f"has {run.dir} False\n"


def test_sigterm_ends_one_that_has_no_run():
    pid = warm()
    os.kill(pid, signal.SIGTERM)
    assert launch.spare._waiting.process.wait(15) == -signal.SIGTERM


def test_closing_leaves_neither_a_process_nor_a_zombie(spare):
    pid = warm()
    spare.close()
    assert not psutil.pid_exists(pid)
    assert not spare.broken


def test_without_a_run_it_ends_with_its_keeper_however_that_ended(keep):
    keeper = keep(WAITS)
    pid = int(keeper.stdout.readline())
    assert not is_gone(pid)
    keeper.kill()
    until(lambda: is_gone(pid))


def test_with_a_run_it_outlives_its_keeper(keep, run):
    keeper = keep(GOES_ON, str(run.dir))
    pid = int(keeper.stdout.readline())
    assert int(keeper.stdout.readline()) == pid
    keeper.kill()
    keeper.wait()
    until(run.log_path.read_text)
    assert run.is_process_alive()
    launch.stop(run, grace_seconds=5)
    assert is_gone(pid)
