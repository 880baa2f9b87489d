"""
Write a run's model as a folder of 16-bit weights that loads without peft, in its own process:

    python -m tuner.export.merge runs/20261123-0915-support-bot support-bot-merged

stdout has one JSON object a line: progress, then `merged` or `error`. Exit codes: 0 merged, 1 not.
With --until-stdin-ends it ends with whoever started it.
Not covered: starting and following it; see merged.py.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import TunerError
from tuner.runs.store import Run


def main(arguments: list[str]) -> int:
    """Merge the run named on the command line, and tell; the exit code says how it ended."""
    # Libraries print: what they say must not come between the messages.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(message: Mapping[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    run, out = Run(Path(arguments[0])), Path(arguments[1])
    if "--until-stdin-ends" in arguments:
        end_with_stdin(out)
    try:
        from tuner.export.merge.steps import merge  # torch, transformers and peft: seconds

        tell(merge(run, out, tell))
    except TunerError as error:
        tell({"kind": "error", "type": type(error).__name__, "problems": error.problems})
        return 1
    return 0


def end_with_stdin(out: Path) -> None:
    """End when whoever started this process is gone, and leave nothing half-written."""
    from tuner.export.merged import half_written

    def wait() -> None:
        sys.stdin.buffer.read()
        shutil.rmtree(half_written(out), ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
