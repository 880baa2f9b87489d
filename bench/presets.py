"""
The four presets as they stand, on the practice model: what each learns, in which time.

    python bench/presets.py               # about 5 minutes on 2 cores
    python bench/presets.py code          # one of them

Losses are of the held-out rows, before the first step and of the weights that are kept.
"""

import sys
import tempfile
from pathlib import Path

from tuner.presets import load_preset, preset_names
from tuner.runs import launch
from tuner.runs.store import RunStore


def main(names: list[str]) -> None:
    """Print a Markdown table, one preset a row."""
    print("| preset | steps | eval loss | change | seconds | estimated | peak MB | estimated |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names or preset_names():
            run = RunStore(Path(folder)).create(load_preset(name).recipe())
            launch.start(run)
            launch.wait(run)
            result = run.result() or sys.exit(run.status()["reason"])
            before, after = result["base_eval_loss"], result["eval_loss"]
            cells = [
                name,
                result["steps"],
                f"{before:.2f} → {after:.2f}",
                f"{after / before - 1:+.0%}",
                f"{result['seconds']:.0f}",
                f"{result['estimated_seconds']:.0f}",
                f"{result['peak_memory_bytes'] / 1e6:.0f}",
                f"{result['estimated_memory_bytes'] / 1e6:.0f}",
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
