"""
The page's helper process: what needs transformers runs there, so the page's own never imports it.

    worker = Worker()
    worker.call(look, recipe)

One process, started at the first call and kept warm; calls wait for one another. If it dies (out
of memory on a huge file), the call that was running fails with a sentence and the next one starts
another. It ends with the process that started it, however that ended.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tuner.errors import DatasetError

POLL_SECONDS = 0.25
Result = TypeVar("Result")

_rows_done: Any = None  # in the helper: where it tells how far it is


class Worker:
    """Calls functions in one other process."""

    def __init__(self) -> None:
        # spawn: this process has threads, whose locks a fork would copy as they happen to be.
        self._context = multiprocessing.get_context("spawn")
        self._rows_done = self._context.Value("q", 0)
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Start the process and its imports, without waiting for them."""
        self._submit(_import)

    def call(self, function: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Call a module's function there and return what it returns.

        Raises:
            DatasetError: The process died.
            Exception: What the function raised.
        """
        result: Result = self._result(self._submit(function, *args, **options))
        return result

    def follow(self, function: Callable[..., Result], *args: Any) -> Iterator[int | Result]:
        """As call, of a function with `progress`: yields the rows done, and last the result."""
        future = self._submit(_with_progress, function, *args)
        told = 0
        while not wait([future], POLL_SECONDS).done:
            if future.running() and (rows := self._rows_done.value) != told:
                told = rows
                yield told
        yield self._result(future)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._pool:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None

    def _submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        with self._lock:
            try:
                return self._started().submit(function, *args, **options)
            except BrokenProcessPool:
                self._pool = None
                return self._started().submit(function, *args, **options)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, self._context, initializer=_begin, initargs=(self._rows_done,)
            )
        return self._pool

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenProcessPool:
            raise DatasetError(
                "The process that reads the data ended unexpectedly, often for lack of memory. "
                "Try again, or give a smaller file (dataset.max_rows does not help: all rows are "
                "read before some are drawn)."
            ) from None


def _begin(rows_done: Any) -> None:
    global _rows_done  # noqa: PLW0603 (a process has one such place)
    _rows_done = rows_done
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # nobody sees this process's terminal
    # Ctrl-C in the terminal is for the page, which ends this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot say so, and reading its queue would wait for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(0)


def _import() -> None:
    """What takes seconds at the first preview."""
    from tuner.data import preview, tokenizer  # noqa: F401


def _with_progress(function: Callable[..., Any], *args: Any) -> Any:
    _rows_done.value = 0
    return function(*args, progress=_tell)


def _tell(rows: int) -> None:
    _rows_done.value = rows
