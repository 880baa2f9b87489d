"""
Where a run's time goes, from its start to its result:

    python bench/shares.py                     # the four presets as they stand, about 5 minutes
    python bench/shares.py chatbot llama-135m  # these; llama-135m is a random model, 8 minutes
    python bench/shares.py runs/20261123-…     # a run that is there

"start" is imports, data, loading and the first try; "end" what is kept and the proof. Evaluation
and samples include those before training, and their share is of the whole run.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.playground import save_random_llama
from tuner.presets import load_preset, preset_names
from tuner.recipe import Recipe
from tuner.runs import launch
from tuner.runs.run import Run
from tuner.runs.store import RunStore

COLUMNS = ("run", "steps", "start", "training", "evaluation", "samples", "checkpoints", "end")
LLAMA = "llama-135m"
LLAMA_EPOCHS = 2.0  # of the chatbot preset's rows


def main(wanted: Sequence[str]) -> None:
    """Print a Markdown table, one run a row."""
    print("| " + " | ".join((*COLUMNS, "in all", "estimated", "evaluation and samples")) + " |")
    print("|---" + "|--:" * (len(COLUMNS) + 2) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted or preset_names():
            run = Run(Path(name)) if Path(name).is_dir() else trained(name, Path(folder))
            print(row(name, run), flush=True)


def trained(name: str, folder: Path) -> Run:
    """A run of a preset, or of the random model on a preset's rows."""
    run = RunStore(folder / "runs").create(recipe(name, folder))
    launch.start(run)
    status = launch.wait(run)
    if status["state"] != "completed":
        raise SystemExit(f"{name}: {status['reason']}\n{run.log_path.read_text()[-2000:]}")
    return run


def recipe(name: str, folder: Path) -> Recipe:
    """The recipe of that name."""
    if name != LLAMA:
        return load_preset(name).recipe()
    save_random_llama(folder / LLAMA)
    changes = {"base_model": str(folder / LLAMA), "num_train_epochs": LLAMA_EPOCHS}
    return load_preset("chatbot").recipe().model_copy(update=changes)


def row(name: str, run: Run) -> str:
    """One line of the table."""
    events, result = run.events()[0], run.result() or {}
    seconds = parts(events, result["seconds"])
    share = (seconds["evaluation"] + seconds["samples"]) / result["seconds"]
    evaluations = sum(event["kind"] == "eval" for event in events)
    figures = [f"{seconds[column]:.1f}" for column in COLUMNS[2:]]
    whole = [f"{result['seconds']:.0f}", f"{result['estimated_seconds']:.0f}"]
    cells = [name, str(result["steps"]), *figures, *whole, f"{share:.1%} ({evaluations} times)"]
    return f"| {' | '.join(cells)} |"


def parts(events: Sequence[Any], whole: float) -> dict[str, float]:
    """Seconds by column; together they are the whole."""

    def spent(kind: str, since: float = 0.0) -> float:
        return sum(e["seconds"] for e in events if e["kind"] == kind and e["time"] >= since)

    running = next(e["time"] for e in events if e["kind"] == "state" and e["state"] == "running")
    told = [e["time"] for e in events if e["kind"] in ("metric", "eval", "sample", "checkpoint")]
    end = events[-1]["time"] - told[-1]
    between = sum(spent(kind, running) for kind in ("eval", "sample", "checkpoint"))
    found = {
        "training": told[-1] - running - between,
        "evaluation": spent("eval"),
        "samples": spent("sample"),
        "checkpoints": spent("checkpoint"),
        "end": end,
    }
    return {"start": whole - sum(found.values()), **found}


if __name__ == "__main__":
    main(sys.argv[1:])
