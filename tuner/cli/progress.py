"""
A run's events as a person follows them in a terminal: one line that keeps rewriting itself.

Where the output is a file or a pipe, a step, or how far a download is, is told every LINE_SECONDS.
"""

import time
from typing import Any, TextIO

from tuner.quantities import duration, gigabytes, loss

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
            self._rewrite(step_line(event), event["step"] >= event["max_steps"])
        elif event["kind"] == "progress":
            self._work(event)
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

    def _work(self, event: Any) -> None:
        is_last = event["done"] == event["total"]
        self._rewrite(work_line(event), is_last)
        if is_last:
            self.close()  # it stays, above what comes next

    def _rewrite(self, line: str, is_last: bool) -> None:
        if self.live:
            print(f"{CLEAR_LINE}{line}", end="", file=self.stream, flush=True)
            self._rewriting = True
        elif is_last or time.monotonic() - self._told_at >= LINE_SECONDS:
            self._told_at = time.monotonic()
            print(line, file=self.stream, flush=True)


def work_line(event: Any) -> str:
    """How far long work is.

    >>> event = {"what": "Downloading Qwen/Qwen3-0.6B", "unit": "bytes"}
    >>> work_line(event | {"done": 400_000_000, "total": 1_503_300_000})
    'Downloading Qwen/Qwen3-0.6B: 0.4 of 1.5 GB'
    >>> work_line({"what": "Reading a.csv", "done": 7000, "total": None, "unit": "rows"})
    'Reading a.csv: 7,000 rows'
    """
    done, total = event["done"], event["total"]
    if event["unit"] == "rows":
        return f"{event['what']}: {f'{done:,}' if total is None else f'{done:,} of {total:,}'} rows"
    if total is None:
        return f"{event['what']}: {gigabytes(done)}"
    # Both in the unit of the whole: "0.0 of 1.5 GB", "12 of 48 MB".
    scale, digits = (1e9, 1) if gigabytes(total).endswith("GB") else (1e6, 0)
    return f"{event['what']}: {done / scale:.{digits}f} of {gigabytes(total)}"


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
