"""A real training process that had its imports done before it had a run."""

import json
import os
import sys
import time
from pathlib import Path

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


@pytest.fixture(autouse=True)
def spare(monkeypatch):
    monkeypatch.setattr(launch, "spare", Spare())
    yield
    launch.spare.close()


def warm() -> int:
    """The pid of a process whose imports are done; in the test, since pytest changes os.environ."""
    launch.warm_spare()
    pid = launch.spare._waiting.process.pid
    until = time.monotonic() + PATIENCE
    while "_xxhash" not in Path(f"/proc/{pid}/maps").read_text() and time.monotonic() < until:
        time.sleep(0.1)  # that comes with training's own modules, late
    settle(psutil.Process(pid))
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


def test_a_warm_process_trains_the_weights_that_a_fresh_one_trains(tmp_path, recipe):
    warm_pid, store = warm(), RunStore(tmp_path)
    warmed, fresh = store.create(recipe, "warm"), store.create(recipe, "fresh")
    weights = trained(warmed)
    assert warmed.status()["pid"] == warm_pid
    again = trained(fresh)
    assert fresh.status()["pid"] != warm_pid
    assert weights.keys() == again.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    told = [
        [(e["kind"], e.get("step"), e.get("loss"), e.get("message")) for e in run.events()[0]]
        for run in (warmed, fresh)
    ]
    assert told[0] == told[1]


def test_seconds_count_from_the_moment_it_was_given_its_run(tmp_path, recipe):
    warm()
    run = RunStore(tmp_path).create(recipe, "warm")
    trained(run)
    lived = time.time() - run.status()["pid_started"]
    result = run.result()
    assert 0 < result["seconds_to_first_step"] < result["seconds"]
    assert result["seconds"] <= time.time() - run.status()["started"]
    assert result["seconds"] < lived - 1.5  # while it waited


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_before_it_has_a_run_it_computes_nothing_and_opens_no_gpu():
    warm_pid = warm()
    threads = {
        (Path(task) / "comm").read_text().strip()
        for task in Path(f"/proc/{warm_pid}/task").iterdir()
    }
    pools = [name for name in threads if name.startswith(("pt_", "OMP", "cuda"))]
    open_files = [os.readlink(path) for path in Path(f"/proc/{warm_pid}/fd").iterdir()]  # noqa: PTH115
    assert pools == []
    assert not any(name.startswith("/dev/nvidia") for name in open_files)


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
