"""What a training process would record and write, and a reply as the browser reads it."""

import json
import os

from tuner.runs.process import birth


def lives(run, **changes):
    """Record this very process as the one that trains `run`."""
    began = birth(os.getpid())
    recorded = {"pid_started": began.started, "pid_started_after_boot": began.after_boot}
    run.update_status(**{"state": "running", "pid": os.getpid(), **recorded, **changes})


def metric(events, step, **figures):
    """Write the point of one training step, with everything that a real one has."""
    figures = {
        "max_steps": 1000,
        "epoch": step / 100,
        "loss": 3 / (step + 1),
        "learning_rate": 2e-4,
        "grad_norm": 0.5,
        "tokens_per_second": 812.3,
        "memory_bytes": 123_456_789,
        "eta_seconds": 12.5,
    } | figures
    return events.write("metric", step=step, **figures)


def told(reply):
    """A reply as the browser reads it; None for nothing new."""
    return None if reply is None else json.loads(reply)
