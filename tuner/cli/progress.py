"""
A run's events as a person follows them in a terminal: one line that keeps rewriting itself.

Where the output is a file or a pipe, a step is told every LINE_SECONDS instead.
"""

import time
from typing import Any, TextIO

from tuner.cli.quantities import duration, loss

LINE_SECONDS = 10.0
CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Shows events on a stream, in the order they are written.

    Args:
        stream: Usually stderr: stdout is for the answer.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.live = stream.isatty()
        self._rewriting = False
        self._told_at = float("-inf")

    def __call__(self, event: Any) -> None:
        """Show one event. Samples and states are left to the summary."""
        if event["kind"] == "metric":
            self._step(event)
        elif event["kind"] == "eval":
            self.say(f"step {event['step']:,}   eval loss {loss(event['eval_loss'])}")
        elif event["kind"] in ("log", "warning"):
            self.say(event["message"])

    def say(self, sentence: str) -> None:
        """Show a line that stays."""
        self.close()
        print(sentence, file=self.stream, flush=True)

    def close(self) -> None:
        """End the line that is being rewritten, so that the next output begins a new one."""
        if self._rewriting:
            print(file=self.stream, flush=True)
        self._rewriting = False

    def _step(self, event: Any) -> None:
        line = step_line(event)
        if self.live:
            print(f"{CLEAR_LINE}{line}", end="", file=self.stream, flush=True)
            self._rewriting = True
        elif self._is_due(event):
            self._told_at = time.monotonic()
            print(line, file=self.stream, flush=True)

    def _is_due(self, event: Any) -> bool:
        is_last = event["step"] >= event["max_steps"]
        return is_last or time.monotonic() - self._told_at >= LINE_SECONDS


def step_line(event: Any) -> str:
    """One optimizer step.

    >>> step_line({"step": 118, "max_steps": 300, "loss": 1.823, "tokens_per_second": 812.3,
    ...            "eta_seconds": 112.0})
    'step 118 of 300   loss 1.82   812 tokens/s   1 min 52 s left'
    """
    speed, left = event["tokens_per_second"], event["eta_seconds"]
    parts = [
        f"step {event['step']:,} of {event['max_steps']:,}",
        f"loss {loss(event['loss'])}",
        f"{speed:,.0f} tokens/s" if speed else "",
        f"{duration(left)} left" if left is not None else "",
    ]
    return "   ".join(filter(None, parts))
