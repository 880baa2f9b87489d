"""
What a training process is started with (device.TRAINING_ENVIRONMENT), beside what it would have
otherwise: peak memory, speed, and speed beside a second process.

    python bench/environment.py           # 3 rounds, about 6 minutes on 2 cores

The settings take turns within a round, so that a machine whose speed drifts is fair to all.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from bench.estimate import CASES, measure
from tuner.device import TRAINING_ENVIRONMENT
from tuner.runs import launch

CASE = next(case for case in CASES if case.name == "lora float32, small")
ALLOCATOR = "GLIBC_TUNABLES"
SETTINGS: dict[str, dict[str, str]] = {
    "nothing": {},
    f"{ALLOCATOR} alone": {ALLOCATOR: TRAINING_ENVIRONMENT[ALLOCATOR]},
    "both": TRAINING_ENVIRONMENT,
}


def run(settings: dict[str, str], together: int) -> list[dict[str, Any]]:
    """Results of the same run, `together` of them at once."""
    launch.TRAINING_ENVIRONMENT = settings
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(together) as pool:
        places = [Path(folder) / str(number) for number in range(together)]
        for place in places:
            place.mkdir()
        return list(pool.map(lambda place: measure(CASE, place), places))


def main(rounds: int) -> None:
    """Print a Markdown table with the medians of all rounds."""
    for name in TRAINING_ENVIRONMENT:
        os.environ.pop(name, None)
    alone: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    beside: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, settings in SETTINGS.items():
            alone[name] += run(settings, together=1)
            beside[name] += run(settings, together=2)
    print("| started with | peak MB | estimated MB | seconds alone | seconds, two at once |")
    print("|---|--:|--:|--:|--:|")
    for name in SETTINGS:
        peak, estimated = (
            median(result[f"{kind}_memory_bytes"] for result in alone[name]) / 1e6
            for kind in ("peak", "estimated")
        )
        seconds = [median(result["seconds"] for result in found[name]) for found in (alone, beside)]
        print(f"| {name} | {peak:.0f} | {estimated:.0f} | {seconds[0]:.1f} | {seconds[1]:.1f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
