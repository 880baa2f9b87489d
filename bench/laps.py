"""
One lap of a race: a fine-tune in a process of its own, and what it took.

speed.py and grid.py use it. Racers get the same model, rows, LoRA (r 16, alpha 32, all linear
layers), batch, length, learning rate and schedule, and an empty cache of data sets. Ours is started
with the environment that the product starts a training with (device.TRAINING_ENVIRONMENT), others
with the bench's own.

- Tokens a second: tokens without padding of the steps after the warm-up, over the seconds of these
  steps alone. For ours both come from the run's events: tokens_per_second of each step,
  weighted by how long it took.
- Memory: the most that the process held at any time, imports and the preparation of data included;
  for ours also the try of the longest batch, which others may not meet within a few steps, and the
  proof at the end, which loads the base again. Read from outside every 20 ms, since ru_maxrss would
  lie: ours lets Linux count anew after its imports, and a child inherits its parent's peak. On a
  GPU this is not the device's memory.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tuner.device import TRAINING_ENVIRONMENT
from tuner.levers import LEVERS
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore

ROOT = Path(__file__).resolve().parent.parent
PLAIN, FACTORY = "plain", "llama-factory"
FACTORY_FASTER = f"{FACTORY} without checkpointing"
# Ours: a name, and the recipe's `levers`.
OURS: dict[str, Any] = {
    "none": "none",
    "ours": "auto",
    **{f"only {name}": [name] for name in LEVERS},
    **{f"without {name}": [each for each in LEVERS if each != name] for name in LEVERS},
}
RACERS = [PLAIN, FACTORY, FACTORY_FASTER, *OURS]
# What each imports whatever it trains; the rest of its memory is the training's.
IMPORTS = "from trl import SFTTrainer; from peft import LoraConfig; import bitsandbytes"
FACTORY_IMPORTS = "from llamafactory.train.tuner import run_exp"


@dataclass(frozen=True)
class Job:
    """What all racers do.

    Attributes:
        warm_up: Steps that count neither in tokens nor in seconds.
        factory: The Python of LLaMA-Factory's own venv, None where there is none.
    """

    model: Path
    rows: Path
    batch: int
    max_length: int
    steps: int
    nf4: bool = False
    warm_up: int = 2
    factory: str | None = None


@dataclass(frozen=True)
class Lap:
    """What one process took.

    Attributes:
        speed: Non-padding tokens a second after the first steps.
        memory: Bytes at the peak, imports included.
        first: Seconds from start to the end of the first step.
        loss: Of the last step.
        tokens: Without padding, of all steps.
    """

    speed: float
    memory: int
    first: float
    loss: float
    tokens: int


def race(racer: str, job: Job, folder: Path) -> Lap:
    """One process from start to end.

    Args:
        folder: Empty, this lap's own.
    """
    if racer in OURS:
        return our_lap(OURS[racer], job, folder)
    if racer == PLAIN:
        return peer_lap([sys.executable, ROOT / "bench" / "plain_trl.py"], job, folder)
    command = [job.factory, ROOT / "bench" / "llama_factory.py"]
    return peer_lap(command, job, folder, ["--no-checkpointing"] * (racer == FACTORY_FASTER))


def peer_lap(command: list[Any], job: Job, folder: Path, options: list[str] | None = None) -> Lap:
    """A script that writes what bench/watch.py saw."""
    out = folder / "steps.json"
    words = [*command, job.model, job.rows, out, "--steps", job.steps, "--batch", job.batch]
    words += ["--max-length", job.max_length, *["--nf4"] * job.nf4, *(options or [])]
    began, memory = run(words, folder)
    steps = json.loads(out.read_text())
    tokens = steps[-1]["tokens_so_far"] - steps[job.warm_up - 1]["tokens_so_far"]
    seconds = sum(step["seconds"] for step in steps[job.warm_up :])
    last = steps[-1]
    first = steps[0]["ended"] - began
    return Lap(tokens / seconds, memory, first, last["loss"], int(last["tokens_so_far"]))


def our_lap(levers: Any, job: Job, folder: Path) -> Lap:
    """A run of ours, with the proof at its end."""
    recipe = {
        "base_model": str(job.model),
        "quantization": "nf4" if job.nf4 else "none",
        "dtype": "bfloat16",
        "dataset": {"source": str(job.rows), "eval_fraction": 0},
        "max_length": job.max_length,
        "batch_size": job.batch,
        "micro_batch_size": job.batch,
        "max_steps": job.steps,
        "save_steps": job.steps,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "levers": levers,
    }
    made = RunStore(folder / "runs").create(make_recipe(recipe), "race")
    words = [sys.executable, "-m", "tuner.training", made.dir]
    began, memory = run(words, folder, TRAINING_ENVIRONMENT)
    events = made.events()[0]
    metrics: list[Any] = [event for event in events if event["kind"] == "metric"]
    tokens = json.loads((made.dir / "result.json").read_text())["tokens"]
    first = metrics[0]["time"] - began
    return Lap(speed_of(metrics, job.warm_up), memory, first, metrics[-1]["loss"], tokens)


def speed_of(metrics: list[Any], warm_up: int) -> float:
    """Tokens over seconds of all steps after the warm-up, from the speed of each."""
    counted = metrics[warm_up:]
    before = [event["time"] for event in metrics[warm_up - 1 :]]
    seconds = [event["time"] - began for event, began in zip(counted, before, strict=False)]
    speeds = [event["tokens_per_second"] for event in counted]
    return float(sum(v * s for v, s in zip(speeds, seconds, strict=True)) / sum(seconds))


def run(
    words: list[Any], folder: Path, environment: dict[str, str] | None = None
) -> tuple[float, int]:
    """Run a command to its end; returns when it began, and its peak memory in bytes.

    Raises:
        SystemExit: It failed; with the end of what it said.
    """
    log = folder / "log.txt"
    here = (environment or {}) | {
        "PYTHONPATH": str(ROOT),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1",
    }
    began, peak = time.time(), 0
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, words)), stdout=out, stderr=out, cwd=folder, env=os.environ | here
        )
        while process.poll() is None:
            peak = max(peak, most_resident(process.pid))
            time.sleep(0.02)
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{said}")
    return began, peak


def most_resident(pid: int) -> int:
    """Bytes that a process held at most since Linux counts; elsewhere what it holds."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0  # it has just ended
    except OSError:
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0


def memory_of_imports(racer: str, job: Job, folder: Path) -> int:
    """Bytes of a process that only imports what a racer does."""
    factory = racer in (FACTORY, FACTORY_FASTER)
    python, imports = (job.factory, FACTORY_IMPORTS) if factory else (sys.executable, IMPORTS)
    words = [python, "-c", f"{imports}; import time; time.sleep(0.1)"]
    return run(words, folder, TRAINING_ENVIRONMENT if racer in OURS else None)[1]
