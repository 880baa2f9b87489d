"""Runs as the training leaves them on the disk, made by hand and in no time."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.process import birth
from tuner.runs.run import Run
from tuner.runs.store import RunStore

REPO = "anna/bot"
PUSHED = {"push_every_save": True, "hub_model_id": REPO}
REPORT = '{"rows": 1, "fingerprint": "abc"}\n'
STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "README.md")


def made_run(root: Path, **settings: Any) -> Run:
    """A run with prepared rows that has not begun."""
    data = {"source": "/home/anna/sums.jsonl"}
    recipe = make_recipe({"base_model": "starter", "dataset": data, **PUSHED, **settings})
    run = RunStore(root).create(recipe, "bot")
    run.data_dir.mkdir()
    for name, text in (("train.jsonl", "{}\n"), ("eval.jsonl", ""), ("report.json", REPORT)):
        (run.data_dir / name).write_text(text)
    (run.data_dir / "arrow").mkdir()
    (run.data_dir / "arrow" / "train.arrow").write_bytes(b"a cache")
    run.log_path.write_text("what it printed\n")
    tell(run, "log", message="Reading sums.jsonl")
    return run


def tell(run: Run, kind: str, **fields: Any) -> None:
    with EventWriter(run.events_path) as events:
        events.write(kind, **fields)


def save(run: Run, step: int, best: int | None = None) -> Path:
    """Let a checkpoint appear, whole as they do."""
    aside = run.checkpoints_dir / ".writing"
    aside.mkdir(parents=True)
    state = {"global_step": step, "best_global_step": best}
    (aside / "trainer_state.json").write_text(json.dumps(state))
    (aside / "token_count.json").write_text('{"seen": 1, "trained": 1}')
    (aside / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (aside / "adapter_model.safetensors").write_bytes(f"weights of {step}".encode() * 1000)
    for name in STATE:
        (aside / name).write_bytes(f"{name} of {step}".encode())
    run.update_status(step=step)
    tell(run, "checkpoint", step=step, path=f"checkpoints/step-{step}")
    return aside.rename(run.checkpoints_dir / f"step-{step}")


@contextmanager
def at_work(run: Run) -> Iterator["subprocess.Popen[bytes]"]:
    """While the block lasts a process does nothing in the run's name; after it, it is gone."""
    wait = [sys.executable, "-c", "input()"]
    process = subprocess.Popen(wait, stdin=subprocess.PIPE)
    began = birth(process.pid)
    run.update_status(
        state="running",
        pid=process.pid,
        pid_started=began.started,
        pid_started_after_boot=began.after_boot,
        max_steps=8,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin
        process.stdin.close()
