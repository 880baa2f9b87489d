"""A real training process that had its imports done before it had a run."""

import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_models import tiny_model
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.spare import Spare
from tuner.runs.store import Run, RunStore

PATIENCE = 120.0
ROWS = 24


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    rows = [{"question": f"Where is {n}?", "answer": f"{n} left on day {n}."} for n in range(ROWS)]
    data = folder / "orders.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "base_model": str(tiny_model(folder)),
        "dataset": {"source": str(data)},
        "max_length": 64,
        "batch_size": 4,
        "micro_batch_size": 2,
        "max_steps": 3,
        "eval_steps": 3,
        "logging_steps": 1,
        "lora": {"lora_dropout": 0.1},  # so that the random state matters
        "sample_prompts": ["Where is 4?"],
        "sample_max_new_tokens": 8,
    }
    return make_recipe(settings)


@pytest.fixture(autouse=True, scope="module")
def spare():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "spare", Spare())
        yield
        launch.spare.close()


def warm() -> int:
    """The pid of a process whose imports are as good as done."""
    launch.warm_spare()
    pid = launch.spare._waiting.process.pid
    until = time.monotonic() + PATIENCE
    while "_xxhash" not in Path(f"/proc/{pid}/maps").read_text() and time.monotonic() < until:
        time.sleep(0.1)  # that comes with training's own modules, late
    return pid


def settle(process: psutil.Process) -> None:
    """Until it has taken no time for a while."""
    before = -1.0
    while (now := sum(process.cpu_times()[:2])) != before:
        before = now
        time.sleep(1.5)


def trained(run: Run) -> dict[str, torch.Tensor]:
    launch.start(run)
    status = launch.wait(run)
    assert status["state"] == "completed", run.log_path.read_text()[-3000:]
    return load_file(run.adapter_dir / "adapter_model.safetensors")


class Warmed(NamedTuple):
    """A run of a process that had its imports done, and what that process was before.

    Attributes:
        threads: Their names, before it had the run.
        open_files: What it had open then.
        ended: When the run was over, Unix seconds.
    """

    pid: int
    threads: set[str]
    open_files: list[str]
    run: Run
    weights: dict[str, torch.Tensor]
    ended: float


@pytest.fixture(scope="module")
def warmed(tmp_path_factory, recipe) -> Warmed:
    pid = warm()  # here, where the run is given: pytest changes os.environ with every step
    settle(psutil.Process(pid))
    tasks = Path(f"/proc/{pid}/task").iterdir()
    threads = {(task / "comm").read_text().strip() for task in tasks}
    open_files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115
    run = RunStore(tmp_path_factory.mktemp("warmed")).create(recipe, "warm")
    weights = trained(run)
    return Warmed(pid, threads, open_files, run, weights, time.time())


def test_a_warm_process_trains_the_weights_that_a_fresh_one_trains(warmed, tmp_path, recipe):
    assert warmed.run.status()["pid"] == warmed.pid
    fresh = RunStore(tmp_path).create(recipe, "fresh")
    again = trained(fresh)
    assert fresh.status()["pid"] != warmed.pid
    assert warmed.weights.keys() == again.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in warmed.weights.items())
    told = [
        [(e["kind"], e.get("step"), e.get("loss"), e.get("message")) for e in run.events()[0]]
        for run in (warmed.run, fresh)
    ]
    assert told[0] == told[1]


def test_seconds_count_from_the_moment_it_was_given_its_run(warmed):
    result, status = warmed.run.result(), warmed.run.status()
    assert 0 < result["seconds_to_first_step"] < result["seconds"]
    assert result["seconds"] <= warmed.ended - status["started"]
    lived = warmed.ended - status["pid_started"]
    assert result["seconds"] < lived - 1.5  # while it waited


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_before_it_has_a_run_it_computes_nothing_and_opens_no_gpu(warmed):
    pools = [name for name in warmed.threads if name.startswith(("pt_", "OMP", "cuda"))]
    assert pools == []
    assert warmed.threads and warmed.open_files, "There was something to look at."
    assert not any(name.startswith("/dev/nvidia") for name in warmed.open_files)


def test_one_that_is_told_a_bad_run_says_so_in_the_runs_words(tmp_path, recipe):
    nothing = recipe.model_copy(
        update={"dataset": recipe.dataset.model_copy(update={"source": str(tmp_path / "none.csv")})}
    )
    run = RunStore(tmp_path / "runs").create(nothing, "bad")
    warm_pid = warm()
    assert launch.start(run) == warm_pid
    status = launch.wait(run)
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert "none.csv" in status["reason"] and "none.csv" in run.log_path.read_text()
