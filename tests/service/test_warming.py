"""When a process is kept warm, and when not."""

import sys

import pytest

from tests.runs.children import until
from tests.runs.test_spare import WAITS
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.spare import Spare
from tuner.runs.store import RunStore
from tuner.service import warming
from tuner.service.warming import SCARCE_BYTES, Warmth

LOOK_SECONDS = 0.02
SEVERAL_LOOKS = 0.5


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """One with memory, and with a spare process that imports nothing."""
    monkeypatch.setattr(launch, "spare", Spare())
    monkeypatch.setattr(warming, "cpu_limits", lambda: (2 * SCARCE_BYTES, SCARCE_BYTES, 2))
    command = [sys.executable, "-c", WAITS]
    monkeypatch.setattr(
        launch, "warm_spare", lambda: launch.spare.warm(command, launch._environment())
    )
    monkeypatch.delenv("TUNER_SPARE", raising=False)
    return monkeypatch


@pytest.fixture
def warmth(store):
    made = Warmth(store, LOOK_SECONDS, is_idle=lambda: True)
    yield made
    made.close()


def stays_cold(warmth: Warmth) -> bool:
    warmth._closed.wait(SEVERAL_LOOKS)
    return not launch.spare.is_waiting()


def test_a_process_is_warmed_on_an_idle_machine_and_again_when_it_was_taken(warmth):
    warmth.start()
    until(launch.spare.is_waiting)
    first = launch.spare._waiting.process.pid
    launch.spare.close()
    until(launch.spare.is_waiting)
    assert launch.spare._waiting.process.pid != first


def test_closing_ends_it_and_no_other_follows(warmth):
    warmth.start()
    until(launch.spare.is_waiting)
    warmth.close()
    assert stays_cold(warmth)


def test_none_is_warmed_while_the_machine_is_busy(store):
    warmth = Warmth(store, LOOK_SECONDS, is_idle=lambda: False)
    warmth.start()
    assert stays_cold(warmth)
    warmth.close()


def test_one_idle_moment_is_not_enough(store):
    moments = [True, False] * 1000
    warmth = Warmth(store, LOOK_SECONDS, is_idle=moments.pop)
    warmth.start()
    assert stays_cold(warmth)
    assert len(moments) < 1990
    warmth.close()


def test_none_is_warmed_beside_training_but_after_it(warmth, store):
    run = store.create(make_recipe({"dataset": {"source": "rows.csv"}}), "bot")
    mine = launch.birth(1)
    run.update_status(state="running", pid=1, pid_started=mine.started)
    warmth.start()
    assert stays_cold(warmth)
    run.update_status(state="completed")
    until(launch.spare.is_waiting)


def test_none_is_kept_where_memory_becomes_scarce(warmth, machine):
    warmth.start()
    until(launch.spare.is_waiting)
    machine.setattr(warming, "cpu_limits", lambda: (2 * SCARCE_BYTES, SCARCE_BYTES - 1, 2))
    until(lambda: not launch.spare.is_waiting())
    assert stays_cold(warmth) and not launch.spare.broken


@pytest.mark.parametrize(("name", "value"), [("TUNER_SPARE", "0"), ("SPACES_ZERO_GPU", "true")])
def test_none_is_warmed_where_it_is_switched_off_or_nothing_can_be_trained(
    warmth, machine, name, value
):
    machine.setenv(name, value)
    warmth.start()
    assert stays_cold(warmth)


def test_a_spare_process_that_breaks_is_given_up(warmth, machine):
    command = [sys.executable, "-c", "raise SystemExit(1)"]
    machine.setattr(launch, "warm_spare", lambda: launch.spare.warm(command, {}))
    warmth.start()
    until(lambda: launch.spare.broken)
    warmth._thread.join(5)
    assert not warmth._thread.is_alive()
