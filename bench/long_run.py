"""
Open a run of 100,000 steps: from the request to the whole reply.

    python bench/long_run.py              # about a minute; --steps changes the length

Cold: a server that was just started, and a file that the system no longer holds in memory. Warm: a
server just started. Kept: the server has read the run before. Beside the first read, another page
polls another run every 10 ms; what it waits longest is what everybody else feels of that read.
"""

import argparse
import http.client
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil

from bench.viewers import cpu_seconds, figures, server
from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore

BESIDE_SECONDS = 0.01
OTHER_EVENTS = 10


def write_events(run: Run, steps: int) -> None:
    """Write a training's events, as EventWriter would in an hour."""
    with open(run.events_path, "w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            head = {"seq": step, "time": 1.76e9 + step / 7, "kind": "metric", "step": step}
            file.write(json.dumps(head | {"max_steps": steps} | figures(step)) + "\n")
            if step % (steps // 10) == 0:
                head |= {"kind": "eval", "eval_loss": 2.5}
                file.write(json.dumps(head) + "\n")
        file.flush()
        os.fsync(file.fileno())


def drop_from_memory(path: Path) -> None:
    """Let the system read a file from its disk the next time."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def get(url: str, path: str) -> tuple[float, bytes]:
    """Seconds from the request to the whole reply, and the reply."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    began = time.perf_counter()
    connection.request("GET", path)
    body = connection.getresponse().read()
    seconds = time.perf_counter() - began
    connection.close()
    return seconds, body


class Beside(threading.Thread):
    """Another page that polls another run, and how long it waits."""

    def __init__(self, url: str, run: Run):
        super().__init__(daemon=True)
        self.url, self.path = url, f"/tuner/runs/{run.id}/live?after=0"
        self.waits: list[float] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(BESIDE_SECONDS):
            self.waits.append(get(self.url, self.path)[0])


def measure(store: RunStore, run: Run, other: Run, *, cold: bool) -> dict[str, float]:
    """One fresh server's figures: seconds, bytes of the reply, longest wait, memory."""
    with server(store.root) as (url, pid):
        get(url, f"/tuner/runs/{other.id}/live")
        if cold:
            drop_from_memory(run.events_path)
        beside = Beside(url, run=other)
        beside.start()
        before, used = psutil.Process(pid).memory_info().rss, cpu_seconds(pid)
        first, body = get(url, f"/tuner/runs/{run.id}/live")
        used = cpu_seconds(pid) - used
        beside.done.set()
        beside.join()
        kept, _ = get(url, f"/tuner/runs/{run.id}/live")
        told = json.loads(body)
        path = f"/tuner/runs/{run.id}/live?after={told['next']}&version={told['version']}"
        polled = median(get(url, path)[0] for _ in range(20))
        return {
            "first": first,
            "cpu": used,
            "kept": kept,
            "polled": polled,
            "reply": len(body),
            "longest": max(beside.waits, default=0.0),
            "memory": psutil.Process(pid).memory_info().rss - before,
        }


def main() -> None:
    """Print the medians of some rounds, cold and warm in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # a disk: /tmp may be in memory
        store = RunStore(Path(folder))
        run, other = (store.create(make_recipe({}), name) for name in ("long", "other"))
        write_events(run, options.steps)
        write_events(other, OTHER_EVENTS)
        rounds = [
            (measure(store, run, other, cold=True), measure(store, run, other, cold=False))
            for _ in range(options.rounds)
        ]
        size = run.events_path.stat().st_size
    print(f"{options.steps:,} steps, {size / 1e6:.1f} MB of events")
    print(
        "| server, file | first reply s | its CPU s | again ms | nothing new ms | others wait ms |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name, found in zip(("cold", "warm"), zip(*rounds, strict=True), strict=True):
        of = {key: median(one[key] for one in found) for key in found[0]}
        again, nothing, wait = (1e3 * of[key] for key in ("kept", "polled", "longest"))
        first = f"{of['first']:.2f} | {of['cpu']:.2f}"
        print(f"| {name} | {first} | {again:.0f} | {nothing:.1f} | {wait:.0f} |")
    reply, memory = rounds[-1][0]["reply"], rounds[-1][0]["memory"]
    print(f"the reply has {reply / 1e3:,.0f} KB, the server keeps {memory / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
