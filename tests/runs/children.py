"""Stand-ins for the training process: real processes that import no torch."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuner.runs import launch

# Trains until it is asked to stop, and then says so, as tuner.training does.
OBEYS = """
import signal, sys, time
from pathlib import Path
from tuner.runs.events import EventWriter
from tuner.runs.store import Run

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
run = Run(Path(sys.argv[1]))
events = EventWriter(run.events_path)
run.update_status(state="running", max_steps=1000)
step = 0
while not asked:
    step += 1
    events.write("metric", step=step, loss=1 / step)
    time.sleep(0.01)
run.update_status(state="stopped", reason=f"Stopped at step {step}.", step=step)
events.write("state", state="stopped", reason="")
sys.exit(3)
"""

# Neither stops when asked, nor alone: it has a child, as a data loader would be.
IGNORES = """
import signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
Path(sys.argv[1], "worker").write_text(str(worker.pid))
time.sleep(60)
"""

COMPLETES = """
import sys
from pathlib import Path
from tuner.runs.events import EventWriter
from tuner.runs.store import Run

run = Run(Path(sys.argv[1]))
events = EventWriter(run.events_path)
for step in range(1, 4):
    events.write("metric", step=step, loss=1 / step)
run.update_status(state="completed", step=3)
events.write("state", state="completed", reason="")
"""

SLEEPS = "import time; time.sleep(60)"


def trains_as(monkeypatch: Any, source: str) -> None:
    """Let launch.start run this Python source; argv[1] is the run's folder."""

    def command(run: Any, *, resume: bool = False) -> list[str]:
        return [sys.executable, "-c", source, str(run.dir), *(["--resume"] if resume else [])]

    monkeypatch.setattr(launch, "command", command)


def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    """Wait for something another process does."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
    return value


def names_in(folder: Path) -> list[str]:
    """What is in a folder, hidden things included, sorted."""
    return sorted(entry.name for entry in folder.iterdir())
