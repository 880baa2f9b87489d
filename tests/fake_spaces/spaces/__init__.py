"""
ZeroGPU without a GPU: a `spaces` that treats a call as the one of a Space does.

    PYTHONPATH=tests/fake_spaces SPACES_ZERO_GPU=true python …

`GPU(duration=…)` wraps a generator function. A call asks for its seconds, with the visitor's token
from the Gradio event that its thread answers; is refused with a Gradio error when `left_seconds`
are fewer; and else forks a daemonic process. What goes there and comes back is pickled. Of an
exception only its class's name comes back, in a Gradio error. Closing the generator lets the fork
end at its next `yield`; a fork that is killed is an error, too.
Not covered: functions that return, queues for a GPU, forks that are kept for the next call, the
imitation of CUDA in this process.
"""

import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, wraps
from multiprocessing.connection import Connection, wait
from typing import Any

if "gradio" in sys.modules and not hasattr(sys.modules["gradio"], "Blocks"):
    raise ImportError("Gradio asks whether spaces is there; only an app's own import counts.")

FORK = multiprocessing.get_context("fork")
calls: list[dict[str, Any]] = []  # what was asked for: seconds, visitor, and the fork's pid
left_seconds = 3600  # of everybody's quota
decorated = 0


def GPU(  # noqa: N802 (its name)
    task: Callable[..., Any] | None = None, *, duration: Any = 60, size: str | None = None
) -> Any:
    """Run a generator function in a fork of its own, once per call."""
    global decorated  # noqa: PLW0603
    if task is None:
        return partial(GPU, duration=duration, size=size)
    decorated += 1

    @wraps(task)
    def call(*args: Any, **options: Any) -> Iterator[Any]:
        seconds = duration(*args, **options) if callable(duration) else duration
        _schedule(seconds)
        ours, theirs = FORK.Pipe(duplex=False)
        stop = FORK.Event()
        given = pickle.dumps((args, options))
        process = FORK.Process(target=_work, args=(task, given, theirs, stop), daemon=True)
        process.start()
        theirs.close()
        calls[-1]["pid"] = process.pid
        try:
            yield from _results(ours, process)
        finally:
            stop.set()
            with suppress(EOFError):
                while True:  # a full pipe would hold it
                    ours.recv()
            process.join()

    return call


def _schedule(seconds: int) -> None:
    from gradio import Error
    from gradio.context import LocalContext

    request = LocalContext.request.get(None)
    visitor = request.headers.get("x-ip-token") if request else None
    calls.append({"seconds": seconds, "visitor": visitor})
    if seconds > left_seconds:
        message = (
            f"You have exceeded your free ZeroGPU quota ({seconds}s requested vs. {left_seconds}s "
            "left). Try again in 3:07:00. "
        )
        raise Error(message, title="ZeroGPU quota exceeded", print_exception=False)


def _results(ours: Connection, process: Any) -> Iterator[Any]:
    from gradio import Error

    while True:
        wait([ours, process.sentinel])
        try:
            kind, value = ours.recv() if ours.poll() else ("error", "GPU task aborted")
        except EOFError:
            kind, value = "error", "GPU task aborted"
        if kind == "error":
            raise Error(value, title="ZeroGPU worker error", print_exception=False)
        if kind == "end":
            return
        yield value


def _work(task: Callable[..., Any], given: bytes, theirs: Connection, stop: Any) -> None:
    args, options = pickle.loads(given)  # noqa: S301 (made by ourselves)
    results = task(*args, **options)
    try:
        for result in results:
            if stop.is_set():
                results.close()
                break
            theirs.send(("value", result))
    except Exception as error:  # noqa: BLE001 (whatever the task raises)
        theirs.send(("error", type(error).__name__))
    else:
        theirs.send(("end", None))
