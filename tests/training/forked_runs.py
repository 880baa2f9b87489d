"""
Runs that train one after the other, with their imports done once:

    train_all([run, another])
    run.status()["state"]

Each is a fork of one process that has imported what training takes, as the page's spare process has
(runs/spare.py), and is told its run there. So the seconds of imports are paid once, and nothing of
a run is left for the next. What a fresh process does is looked at in test_run.py.
"""

import subprocess
import sys
from collections.abc import Sequence

from tuner.runs import launch
from tuner.runs.store import Run

# Folders of runs as arguments; a run's output goes to its log, as `launch` would have it.
FORKS = """
import os, sys
from pathlib import Path
from tuner.runs.run import Run
from tuner.training.__main__ import main
from tuner.training.libraries import import_for_any_run

def train(folder):
    log = os.open(Run(Path(folder)).log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = main([folder])
    sys.stdout.flush()
    os._exit(code)

import_for_any_run()
for folder in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        train(folder)
    os.waitpid(pid, 0)
"""
SECONDS = 300


def train_all(runs: Sequence[Run]) -> None:
    """Train them to their ends, whatever these are: each run's status tells."""
    folders = [str(run.dir.resolve()) for run in runs]
    subprocess.run(
        [sys.executable, "-c", FORKS, *folders],
        check=True,
        env=launch._environment(),
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
    )
