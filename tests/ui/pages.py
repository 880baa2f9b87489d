"""
The real page as a process of its own:

    with Page(folder / "runs", TUNER_MAX_UPLOAD="1mb") as page:
        page.kill()      # SIGKILL: it has no time to say anything
        page.start()     # again, at the same address

Leaving the block ends it, and every training process that it left.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tuner.data.sources import PROJECT_ROOT
from tuner.errors import RunError
from tuner.runs.store import RunStore

START_SECONDS = 90.0  # imports take 3 s on an idle machine


class Page:
    """One `python app.py`.

    Args:
        runs_dir: Where it keeps its runs. Its log, uploads and temporary files lie beside it.
        arguments: More of the command line, such as --mcp.
        environment: Variables over those of the tests.

    Attributes:
        folder: The copy of the project that is started.
        url: Its address; the same after a restart.
        pid: The process that serves it; 0 while there is none.
    """

    folder = PROJECT_ROOT

    def __init__(self, runs_dir: Path, *arguments: str, **environment: str):
        self.runs_dir, self.store = runs_dir, RunStore(runs_dir)
        self.log = runs_dir.with_name(f"{runs_dir.name}-page.log")
        self.uploads = runs_dir.with_name(f"{runs_dir.name}-uploads")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._arguments = arguments
        # A killed process leaves its temporary files.
        places = {"TMPDIR": str(runs_dir.parent), "GRADIO_TEMP_DIR": str(self.uploads)}
        self._environment = places | environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def options(self) -> list[str]:
        """What follows `python app.py`."""
        return ["--port", str(self.port), "--runs-dir", str(self.runs_dir), *self._arguments]

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.runs_dir.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "app.py", *self.options()],
                cwd=self.folder,
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(self.said())
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, as a crash or the system would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def terminate(self, seconds: float = 60) -> int:
        """Ask it to end, as a system that shuts down does, and wait.

        Returns:
            Its exit code.
        """
        assert self._process
        self._process.terminate()
        code = self._process.wait(seconds)
        self._process = None
        return code

    def close(self) -> None:
        """End it, and what trains still."""
        self.kill()
        for run in self.store.list():
            with suppress(RunError, ProcessLookupError):
                if run.is_process_alive():
                    os.killpg(run.status()["pid"] or 0, signal.SIGKILL)

    def said(self) -> str:
        """What it wrote to its terminal."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url, timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
