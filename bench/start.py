"""
How long it takes from Start to the first optimizer step: cold, and with a warm spare process.

    python bench/start.py                 # about five minutes on 2 cores
    python bench/start.py --rounds 1 --models starter

The chatbot preset as it is, on the built-in model; and the same rows on a random Llama of 135 M
parameters (SmolLM2-135M's shape, bfloat16), with --batch rows a step, because its first step itself
takes a while. Seconds are from the call that starts the run until its first step is on the disk as
an event; CPU seconds are those that the process took from then to then, on all cores. Ways take
turns. A spare process is given its run when its imports are done.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tuner.presets import load_preset
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.run import Run
from tuner.runs.store import RunStore

POLL_SECONDS = 0.01
SETTLED_SECONDS = 1.0  # without work: its imports are done


class Start(NamedTuple):
    """One start: seconds, and seconds of all cores."""

    wall: float
    cpu: float


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2, help="rows a step of the 135 M model")
    parser.add_argument("--models", nargs="*", default=["starter", "135m"])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipes = {model: recipe(model, Path(folder), chosen.batch) for model in chosen.models}
        store = RunStore(Path(folder) / "runs")
        found: dict[str, dict[str, list[Start]]] = {m: {"cold": [], "warm": []} for m in recipes}
        for _ in range(chosen.rounds):
            for model, settings in recipes.items():
                for way, starts in found[model].items():
                    starts.append(started(store.create(make_recipe(settings), model), way))
    show(found)


def recipe(model: str, folder: Path, batch: int) -> dict[str, Any]:
    """The chatbot preset, with every step told."""
    settings = {**load_preset("chatbot").values_for("builtin"), "logging_steps": 1}
    if model == "starter":
        return settings
    from bench.playground import save_random_llama  # imports torch

    save_random_llama(folder / "llama")
    return {**settings, "base_model": str(folder / "llama"), "batch_size": batch}


def started(run: Run, way: str) -> Start:
    """Start a run, wait for its first step, and end it."""
    if way == "warm":
        launch.warm_spare()
        wait_until_settled(psutil.Process().children()[-1])
    spent = sum(cpu(child) for child in psutil.Process().children())
    began = time.time()
    process = psutil.Process(launch.start(run))
    while not (steps := [event for event in run.events()[0] if event["kind"] == "metric"]):
        if not run.is_process_alive():
            raise SystemExit(run.log_path.read_text()[-2000:])
        time.sleep(POLL_SECONDS)
    start = Start(steps[0]["time"] - began, cpu(process) - spent)
    os.killpg(process.pid, signal.SIGKILL)
    launch.wait(run)
    return start


def cpu(process: psutil.Process) -> float:
    """Seconds of all cores that a process took."""
    times = process.cpu_times()
    return float(times.user + times.system)


def wait_until_settled(process: psutil.Process) -> None:
    """Until it has taken no time for a while."""
    while True:
        before = cpu(process)
        time.sleep(SETTLED_SECONDS)
        if before > 1 and cpu(process) == before:
            return


def show(found: dict[str, dict[str, list[Start]]]) -> None:
    """Medians of all rounds, and their ratio."""
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; median of all rounds (each)")
    print("| model | cold s | warm s | cold : warm | CPU s cold | CPU s warm |")
    print("|---|--:|--:|--:|--:|--:|")
    for model, ways in found.items():
        cold, warm = (statistics.median(s.wall for s in ways[way]) for way in ("cold", "warm"))
        cells = [
            f"{middle:.1f} ({each(ways[way])})"
            for way, middle in zip(ways, (cold, warm), strict=True)
        ]
        spent = [f"{statistics.median(s.cpu for s in starts):.1f}" for starts in ways.values()]
        print(f"| {model} | {' | '.join([*cells, f'{cold / warm:.1f}', *spent])} |")


def each(starts: list[Start]) -> str:
    """Every round's seconds."""
    return " ".join(f"{start.wall:.1f}" for start in starts)


if __name__ == "__main__":
    main()
