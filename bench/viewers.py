"""
Fifty people watch one run: what it costs the server, how late they see a step, what training loses.

    python bench/viewers.py               # a minute; the routes alone
    python bench/viewers.py --url http://127.0.0.1:7860 --pid PID --runs-dir runs    # a whole app

A process appends 5 steps a second to a run as a training would, one process polls as 50 open pages
do (each every 0.8 s on a connection of its own), and another trains a small network on all cores
the whole time. Watched and unwatched seconds take turns, so that a machine whose speed drifts is
fair to both. What training loses includes the 50 clients' own work, which elsewhere other machines
do; it is printed too.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil

from tuner.device import TRAINING_ENVIRONMENT
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.process import birth
from tuner.runs.store import Run, RunStore

POLL_SECONDS = 0.8
EVENTS_PER_SECOND = 5
SETTLE_SECONDS = 1.0  # at the begin of each phase, not counted

TRAINS = """
import sys, time, torch
torch.manual_seed(0)
width, rows = 512, 256
model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(6)])
optimizer = torch.optim.AdamW(model.parameters())
batch = torch.randn(rows, width)
while True:
    optimizer.zero_grad()
    (model(batch) - batch).square().mean().backward()
    optimizer.step()
    print(time.time(), flush=True)
"""


def serve(runs_dir: Path, port: int) -> None:
    """Serve the routes as Gradio starts its server, until the process is ended."""
    import uvicorn
    from starlette.applications import Starlette

    from tuner.ui.access import Everyone
    from tuner.ui.routes import routes

    app = Starlette(routes=list(routes(RunStore(runs_dir), Everyone())))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def write(run_dir: Path) -> None:
    """Append steps to a run as its training process, until the process is ended."""
    run, began = Run(run_dir), birth(os.getpid())
    run.update_status(
        state="running",
        pid=os.getpid(),
        pid_started=began.started,
        pid_started_after_boot=began.after_boot,
        started=time.time(),
        max_steps=100_000,
    )
    with EventWriter(run.events_path) as events:
        for step in range(1, 100_000):
            events.write("metric", step=step, max_steps=100_000, **figures(step))
            if step % EVENTS_PER_SECOND == 0:
                run.update_status(step=step)
            time.sleep(1 / EVENTS_PER_SECOND)


def figures(step: int) -> dict[str, Any]:
    """What a real metric event holds beside its steps."""
    chance = random.Random(step)
    return {
        "epoch": step / 1234,
        "loss": 1 + 8 / (step + 3) + chance.random() / 7,
        "learning_rate": 2e-4 / (1 + step / 1e5),
        "grad_norm": chance.random(),
        "tokens_per_second": round(800 + 50 * chance.random(), 1),
        "memory_bytes": 1_234_567_890 + chance.randrange(10**6),
        "eta_seconds": round(1e5 / (step + 1), 1),
    }


class Client:
    """One open page: a connection that is kept, and what it was told and when."""

    def __init__(self, url: str, run_id: str):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.path = f"{parts.path.rstrip('/')}/tuner/runs/{run_id}/live"
        self.known = ""
        self.seen: dict[int, float] = {}
        self.replies = 0
        self.seconds: list[float] = []

    async def follow(self, until: float) -> None:
        """Poll until then, beginning at a moment of its own."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        await asyncio.sleep(random.random() * POLL_SECONDS)
        while time.time() < until:
            began = time.perf_counter()
            self._take(await self._get(reader, writer))
            self.seconds.append(time.perf_counter() - began)
            await asyncio.sleep(POLL_SECONDS)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _get(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        head = f"GET {self.path}{self.known} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n\r\n"
        writer.write(head.encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        if not lines[0].split()[1].startswith(b"2"):
            raise RuntimeError(f"{self.path} answered {lines[0].decode()}")
        lengths = [line for line in lines if line.startswith(b"content-length:")]
        return await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)

    def _take(self, body: bytes) -> None:
        self.replies += 1
        if not body:
            return
        told, now = json.loads(body), time.time()
        self.known = f"?after={told['next']}&version={told['version']}"
        if not told["reset"]:  # what was there before this page opened was not waited for
            for step, _ in told["curves"]["loss"]:
                self.seen.setdefault(step, now)


async def poll(url: str, run_id: str, count: int, seconds: float) -> list[Client]:
    """Let `count` pages watch a run for some seconds."""
    clients = [Client(url, run_id) for _ in range(count)]
    until = time.time() + seconds
    await asyncio.gather(*(client.follow(until) for client in clients))
    return clients


def watch(url: str, run_id: str, count: int, seconds: float) -> None:
    """Watch, in a process of its own; print what came of it as JSON."""
    began, clients = time.process_time(), asyncio.run(poll(url, run_id, count, seconds))
    document = {
        "cpu": time.process_time() - began,
        "replies": sum(client.replies for client in clients),
        "seconds": [second for client in clients for second in client.seconds],
        "seen": [list(client.seen.items()) for client in clients],
    }
    print(json.dumps(document))


@contextmanager
def process(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block takes."""
    child = subprocess.Popen([sys.executable, *map(str, arguments)], **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextmanager
def server(runs_dir: Path) -> Iterator[tuple[str, int]]:
    """The routes, served by a process of their own: their address and its pid."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with process(__file__, "serve", runs_dir, port) as child:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", child.pid


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measure(url: str, pid: int, run: Run, options: argparse.Namespace) -> None:
    """Let watched and unwatched phases take turns, and print what was found."""
    seconds = options.seconds / options.rounds
    watched: list[tuple[float, float]] = []
    unwatched: list[tuple[float, float]] = []
    found, cpu, idle = [], 0.0, 0.0
    with tempfile.TemporaryFile() as steps, ExitStack() as stack:
        environment = os.environ | TRAINING_ENVIRONMENT
        if not options.no_training:
            stack.enter_context(process("-c", TRAINS, stdout=steps, env=environment))
            time.sleep(5)  # torch is loaded, the first steps are slow
        stack.enter_context(process(__file__, "write", run.dir))
        time.sleep(1)
        for _ in range(options.rounds):
            before = cpu_seconds(pid)
            unwatched.append(phase(seconds, time.sleep, seconds))
            idle += cpu_seconds(pid) - before
            before = cpu_seconds(pid)
            watching = (url, run.id, options.viewers, seconds)
            watched.append(phase(seconds, lambda *given: found.append(_watched(*given)), *watching))
            cpu += cpu_seconds(pid) - before
        steps.seek(0)
        times = [float(line) for line in steps.read().splitlines()[:-1]]
    wall = sum(end - begin for begin, end in watched)
    report(found, cpu / wall, idle / options.seconds, wall, _lateness(run, found))
    if times:
        report_training(times, watched, unwatched)


def phase(seconds: float, act: Any, *given: Any) -> tuple[float, float]:
    """Do something that takes about `seconds`; returns its begin and its end."""
    begin = time.time()
    act(*given)
    return begin, max(time.time(), begin + seconds)


def report(
    found: list[dict[str, Any]], load: float, idle: float, wall: float, late: list[float]
) -> None:
    """Print the table of what watching costs and how late it is."""
    replies, clients = sum(one["replies"] for one in found), sum(one["cpu"] for one in found)
    waits = sorted(second for one in found for second in one["seconds"])
    print(f"replies                        {replies:,}, {replies / wall:.0f} a second")
    print(f"server, watched                {load:.1%} of a core")
    print(f"server, unwatched              {idle:.1%} of a core")
    print(f"server, a reply                {(load - idle) * wall / replies * 1e3:.2f} ms of CPU")
    print(f"the clients themselves         {clients / wall:.1%} of a core")
    print(f"request to reply               {spread(waits, 1e3)} ms")
    print(f"step written to step seen      {spread(late)} s")


def spread(values: list[float], scale: float = 1.0) -> str:
    """Median, 95% and maximum of sorted values."""
    if not values:
        return "–"
    middle, most, last = median(values), values[int(0.95 * (len(values) - 1))], values[-1]
    return ", ".join(
        f"{name} {value * scale:.2f}"
        for name, value in (("median", middle), ("95%", most), ("max", last))
    )


def report_training(
    times: list[float], watched: list[tuple[float, float]], unwatched: list[tuple[float, float]]
) -> None:
    """Print the steps a second of the training beside, with and without viewers."""
    with_viewers, without = (
        [rate(times, *one) for one in phases] for phases in (watched, unwatched)
    )
    longer = sorted(before / after - 1 for before, after in zip(without, with_viewers, strict=True))
    print(f"training, unwatched            median {median(without):.1f} steps/s")
    print(f"training, watched              median {median(with_viewers):.1f} steps/s")
    span = f"{longer[0]:+.0%} to {longer[-1]:+.0%}"
    print(f"training takes longer by       median {median(longer):+.1%}, rounds {span}")


def rate(times: list[float], begin: float, end: float) -> float:
    """Steps a second in a phase, without its beginning."""
    begin += SETTLE_SECONDS
    return sum(begin <= at < end for at in times) / (end - begin)


def _watched(*given: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "watch", *map(str, given)]
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return document


def _lateness(run: Run, found: list[dict[str, Any]]) -> list[float]:
    written = {
        event["step"]: event["time"] for event in run.events()[0] if event["kind"] == "metric"
    }
    return sorted(at - written[step] for one in found for seen in one["seen"] for step, at in seen)


def main(arguments: list[str]) -> None:
    """Measure routes that are served here, or an app that is at work."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30, help="watched in all")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--no-training", action="store_true", help="nothing trains beside")
    parser.add_argument("--url", help="of an app at work; --pid and --runs-dir are its own")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--runs-dir", type=Path)
    options = parser.parse_args(arguments)
    if options.url and not (options.pid and options.runs_dir):
        parser.error("--url needs the app's --pid and --runs-dir.")
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory())
        store = RunStore(options.runs_dir or Path(temporary))
        run = store.create(make_recipe({"preset": "chatbot"}), "watched")
        url, pid = options.url, options.pid
        if not url:
            url, pid = stack.enter_context(server(store.root))
        measure(url, pid, run, options)
        run.update_status(state="stopped", reason="The measurement is over.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["watch"]:
        watch(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    else:
        main(sys.argv[1:])
