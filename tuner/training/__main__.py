"""
Fine-tune one run directory, in its own process:

    python -m tuner.training runs/20261123-0915-support-bot [--resume]
    python -m tuner.training --spare        which run is told later (spare.py)

Reads recipe.yaml. Writes data/, events.jsonl, status.json, checkpoints/, adapter/ (model/ for full
fine-tuning) and result.json. Exit codes: 0 completed, 1 failed, 2 invalid input (training never
began), 3 stopped by the user.
Not covered: choosing where to run (see runs/launch.py).
"""

import os
import sys
import traceback
from pathlib import Path

import psutil

from tuner.errors import DatasetError, ModelError, RecipeError, TunerError
from tuner.runs.events import EventWriter
from tuner.runs.store import Run
from tuner.training.libraries import import_for, import_for_any_run
from tuner.training.spare import Waiting

INVALID_INPUT = (RecipeError, DatasetError, ModelError)


def main(arguments: list[str]) -> int:
    """Train the run named on the command line, or told later; the exit code says how it ended."""
    # What this process needs is on the disk by now, or it is fetched here: never half-way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if arguments == ["--spare"]:
        return _train_when_told()
    began = psutil.Process().create_time()
    return _train(Run(Path(arguments[0])), "--resume" in arguments, began)


def _train_when_told() -> int:
    waiting = Waiting()
    try:
        import_for_any_run()
    except Exception:
        if not waiting.told_at:
            raise  # who keeps this process starts a fresh one, which says what is wrong
    task = waiting.task()
    return _train(Run(Path(task.run_dir)), task.resume, waiting.told_at)


def _train(run: Run, resume: bool, began: float) -> int:
    events = EventWriter(run.events_path)
    try:
        import_for(run.recipe())
        from tuner.training.run import train  # torch, transformers, peft and trl: seconds

        return train(run, events, resume, began)
    except INVALID_INPUT as error:
        return _fail(run, events, str(error), exit_code=2)
    except TunerError as error:
        return _fail(run, events, str(error), exit_code=1)
    except Exception as error:  # noqa: BLE001 (a sentence for the page; the traceback goes to train.log)
        traceback.print_exc()
        return _fail(run, events, explain(error), exit_code=1)


def explain(error: BaseException) -> str:
    """A sentence for an error nobody foresaw."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == 28:
        return "The disk is full. Free some room and resume the run from its last checkpoint."
    if "out of memory" in text.lower() or "can't allocate memory" in text:
        return (
            "Memory ran out during training. Set micro_batch_size to 1 or max_length lower, "
            "and resume the run from its last checkpoint."
        )
    return f"{type(error).__name__}: {text[:300]}. The whole story is in train.log."


def _fail(run: Run, events: EventWriter, reason: str, exit_code: int) -> int:
    print(reason, file=sys.stderr)
    events.write("state", state="failed", reason=reason)
    run.update_status(state="failed", reason=reason, exit_code=exit_code)
    return exit_code


def _end(exit_code: int) -> None:
    """End at once, also where a base model is still loading that nobody waits for any more."""
    loading = sys.modules.get("tuner.training.loading_ahead")
    if loading and loading.is_loading():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    _end(main(sys.argv[1:]))
