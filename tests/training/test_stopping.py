"""Whoever stops a run may not wait long: its steps are saved first, then what is quick is done."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.tiny_models import tiny_model
from tests.training import forked_runs
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.events import read_events
from tuner.runs.store import Run, RunStore

PATIENCE = 180.0  # seconds


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


def started(folder: Path, base: Path, answer: str = "Yes. ", rows: int = 40, **settings) -> Run:
    data = folder / "rows.jsonl"
    lines = [{"prompt": f"Is it {n}?", "completion": answer + str(n)} for n in range(rows)]
    data.write_text("\n".join(map(json.dumps, lines)))
    values = {
        "base_model": str(base),
        "dataset": {"source": str(data), "eval_fraction": 0.3},
        "max_length": 400,
        "batch_size": 2,
        "micro_batch_size": 1,
        "max_steps": 100_000,
        "eval_steps": 50_000,
        "sample_prompts": ["Is it 7?"],
        "sample_max_new_tokens": 4,
    }
    run = RunStore(folder / "runs").create(make_recipe(values | settings))
    forked_runs.start(run)
    return run


def told(run: Run, kind: str) -> list[int]:
    """Steps of the events of a kind."""
    return [event["step"] for event in read_events(run.events_path)[0] if event["kind"] == kind]


def stop_after(run: Run, step: int) -> None:
    """SIGTERM as soon as that step's figures are there."""
    deadline = time.monotonic() + PATIENCE
    while step not in told(run, "metric"):
        assert time.monotonic() < deadline, run.log_path.read_text()[-2000:]
        time.sleep(0.005)
    os.kill(run.status()["pid"], signal.SIGTERM)
    launch.wait(run)


def test_a_stopped_run_saves_before_it_evaluates_and_takes_no_samples(tmp_path, base):
    run = started(tmp_path, base)

    stop_after(run, 3)

    result, last = run.result(), run.result()["steps"]
    assert run.status()["state"] == "stopped"
    assert told(run, "sample") == [0]
    assert told(run, "checkpoint") == [last] and told(run, "eval") == [0, last]
    order = [event["kind"] for event in read_events(run.events_path)[0]]
    assert order.index("checkpoint") < len(order) - 1 - order[::-1].index("eval")
    assert (result["kept_step"], result["eval_loss"]) == (last, run.result()["eval_loss"])
    state = json.loads((run.checkpoints_dir / f"step-{last}/trainer_state.json").read_text())
    assert state["best_global_step"] == last  # a resume compares with it


def test_a_stop_in_an_evaluation_is_answered_in_it(tmp_path, base):
    run = started(tmp_path, base, "Yes, it is so. " * 30, rows=1600, eval_steps=2)

    stop_after(run, 2)

    assert run.status()["state"] == "stopped", run.log_path.read_text()[-2000:]
    assert run.result()["steps"] == 2
    assert told(run, "checkpoint") == [2]
    kinds = [(e["kind"], e.get("step")) for e in read_events(run.events_path)[0]]
    if ("eval", 2) in kinds:  # it was quick enough to be done again
        assert kinds.index(("checkpoint", 2)) < kinds.index(("eval", 2))
    assert told(run, "sample") == [0]
    assert run.last_checkpoint()[0] == 2
