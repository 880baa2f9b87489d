"""
What a peer's trainer is watched with: seconds, tokens and loss of every step.

A callback of transformers' Trainer, so that peers with versions of their own can take it. The
seconds are those of the step itself, forward, backward and optimizer, as our own speed counts them.
"""

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class Watch(TrainerCallback):
    """Keeps one dictionary a step: seconds, when it ended, its loss, tokens so far."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append({"seconds": time.perf_counter() - self.began, "ended": time.time()})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            # trl counts by itself; of others it is asked for (include_num_input_tokens_seen).
            tokens = logs.get("num_tokens") or state.num_input_tokens_seen
            self.steps[-1] |= {"loss": float(logs["loss"]), "tokens_so_far": float(tokens)}

    def write(self, out: Path) -> None:
        """All steps, as JSON."""
        out.write_text(json.dumps(self.steps))
