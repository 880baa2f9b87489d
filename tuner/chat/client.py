"""
What page and shell hold of the playground: it starts the process that answers, and reads from it.

    client = ChatClient(Path("chat.log"))
    for piece in client.generate(base, rows):
        print(piece["text"], end="")

Thread-safe: many people of one page share one client, and each gets the pieces of its own request.
The process is started by the first request, ends when nobody asks for a while, on `unload` and with
whoever holds the client; the next request starts another. One that dies in mid-answer costs those
who wait a ChatError. It ends by the end of its stdin, so killing the page leaves nothing behind.
Not covered: a GPU that exists in this process only (ZeroGPU).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import tuner
from tuner import errors
from tuner.chat.protocol import (
    PieceMessage,
    Reply,
    Request,
    base_of,
    generate_request,
    joined,
    score_request,
)
from tuner.chat.voices import Base, Row, Voice
from tuner.device import TRAINING_ENVIRONMENT, on_zero_gpu
from tuner.errors import ChatError, TunerError

State = Literal["off", "starting", "loading", "ready", "empty"]

PROJECT_ROOT = Path(tuner.__file__).resolve().parents[1]
END_SECONDS = 3.0
LOG_BYTES = 1_000_000  # a log that is longer is begun anew with the next process
UNLOADED = "The model was unloaded before the answer was complete. Ask again: it is loaded anew."
CLOSED = "The playground is closed."
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves a stack in the log
    "PYTHONSAFEPATH": "1",  # a datasets.py in the folder we are in is not the library
    "TOKENIZERS_PARALLELISM": "true",
}


class Chat(Protocol):
    """What page and service ask; see ChatClient."""

    def generate(
        self, base: Base, rows: Sequence[Row], request: str | None = None
    ) -> Generator[PieceMessage, None, None]: ...

    def score(
        self, base: Base, messages: Sequence[dict[str, str]], answer: str, voices: Sequence[Voice]
    ) -> Any: ...

    def load(self, base: Base) -> None: ...

    def cancel(self, request: str, row: int | None = None) -> None: ...

    def state(self) -> State: ...

    def loaded(self) -> Base | None: ...

    def is_loaded(self) -> bool: ...

    def unload(self) -> None: ...

    def close(self) -> None: ...


def chat_client(log: Path) -> Chat:
    """Who is asked on this machine: a process of its own, or on ZeroGPU a fork of this one.

    Args:
        log: As for ChatClient.
    """
    if on_zero_gpu():
        from tuner.chat.zero_gpu import ZeroGpuClient  # imports torch, as no other page may

        return ZeroGpuClient()
    return ChatClient(log)


def command(idle_seconds: float) -> list[str]:
    """The command that starts the process."""
    return [sys.executable, "-m", "tuner.chat", "--idle-seconds", str(idle_seconds)]


class ChatClient:
    """Asks the process that answers, and starts it where there is none.

    Args:
        log: Where that process may print; a file, as a pipe that nobody reads would stop it.
        idle_seconds: It ends when nobody asks for so long.
    """

    def __init__(self, log: Path, idle_seconds: float = 600):
        self.log = log
        self.idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False

    def generate(
        self, base: Base, rows: Sequence[Row], request: str | None = None
    ) -> Generator[PieceMessage, None, None]:
        """Answer rows; closing the iterator cancels what is not answered yet.

        Nothing is asked before the first `next`. Pieces of one row that come while nobody reads are
        joined, so a slow reader costs others nothing, and no more memory than the answer has.

        Args:
            rows: At most waiting.MAX_ROWS.
            request: A name of one's own, by which `cancel` finds it; no other at work has it.

        Raises:
            TunerError: What the engine says; ChatError when it ends before the answer does.
        """
        yield from self._answers(generate_request(base, rows, request or uuid.uuid4().hex))

    def score(
        self,
        base: Base,
        messages: Sequence[dict[str, str]],
        answer: str,
        voices: Sequence[Voice],
    ) -> Any:
        """How likely each voice finds the tokens of an answer; see engine.Scores.

        Raises:
            TunerError: As `generate`.
        """
        request = score_request(base, messages, answer, voices, uuid.uuid4().hex)
        return last_reply(self._answers(request))["scores"]

    def load(self, base: Base) -> None:
        """Have a base in memory, before somebody asks it.

        Raises:
            TunerError: As `generate`.
        """
        for _ in self.generate(base, ()):
            pass

    def cancel(self, request: str, row: int | None = None) -> None:
        """End one row of a request that was named, or all of them, at the next token.

        The iterator goes on to tell so. A request that is over or unknown is passed over.
        """
        if process := self._alive():
            process.tell(Request(id=request, do="cancel", row=row))

    def state(self) -> State:
        """How far the process is: off, starting, loading a base, ready with one, or without."""
        process = self._alive()
        return process.state if process else "off"

    def loaded(self) -> Base | None:
        """The base in memory."""
        process = self._alive()
        return process.base if process and process.state == "ready" else None

    def is_loaded(self) -> bool:
        """Whether a base is in memory."""
        return self.loaded() is not None

    def unload(self) -> None:
        """Give all memory back, now, by ending the process.

        Answers on their way end with a ChatError.
        """
        with self._lock:
            process, self._process = self._process, None
        if process:
            process.end(UNLOADED)

    def close(self) -> None:
        """Unload, for good."""
        self._closed = True
        self.unload()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self, message: Request) -> Generator[PieceMessage, None, dict[str, Any]]:
        while True:
            process, replies = self._sent(message)
            try:
                yield from replies
            finally:
                if not replies.is_over:
                    process.forget(message["id"])
            last = replies.last
            if "error" in last:
                raise error_of(last)
            if not last.get("unread"):
                return last  # which `score` reads from StopIteration
            # The process had ended for want of requests when this one came: ask the next.

    def _sent(self, message: Request) -> "tuple[_Process, _Replies]":
        while True:
            with self._lock:
                if self._closed:
                    raise ChatError(CLOSED)
                if not (process := self._alive()):
                    process = self._process = _Process(command(self.idle_seconds), self.log)
            if replies := process.ask(message):
                return process, replies

    def _alive(self) -> "_Process | None":
        process = self._process
        return process if process and not process.has_ended else None


class _Replies:
    """What came for one request and was not read yet: at most one piece a row."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pieces: dict[int, PieceMessage] = {}
        self._told = False
        self._last: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        return self._last is not None

    @property
    def last(self) -> dict[str, Any]:
        """The reply that ended it."""
        assert self._last is not None
        return self._last

    @property
    def was_answered(self) -> bool:
        """Whether anything came, read or not."""
        return self._told

    def add(self, piece: PieceMessage) -> None:
        with self._changed:
            waiting = self._pieces.get(piece["row"])
            self._pieces[piece["row"]] = joined(waiting, piece) if waiting else piece
            self._told = True
            self._changed.notify_all()

    def end(self, last: Any) -> None:
        with self._changed:
            self._last = self._last or last
            self._changed.notify_all()

    def __iter__(self) -> Iterator[PieceMessage]:
        while piece := self._next():
            yield piece

    def _next(self) -> PieceMessage | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._last)
            row = next(iter(self._pieces), None)
            return None if row is None else self._pieces.pop(row)


class _Process:
    """One process that answers: a thread reads what it says and hands it to whom it belongs."""

    def __init__(self, arguments: list[str], log: Path):
        self.state: State = "starting"
        self.base: Base | None = None
        self.has_ended = False
        self._log = log
        self._why: str | None = None
        self._replies: dict[str, _Replies] = {}
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._popen = _start(arguments, log)
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, message: Request) -> _Replies | None:
        """Send a request; None when the process has ended."""
        replies = _Replies()
        with self._lock:
            if self.has_ended:
                return None
            if message["id"] in self._replies:
                raise ChatError(f"A request named {message['id']} is being answered already.")
            self._replies[message["id"]] = replies
        self.tell(message)
        return replies

    def tell(self, message: Request) -> None:
        """Send what has no reply. A process that ended meanwhile tells so by its end."""
        line = json.dumps(message).encode() + b"\n"
        with self._write_lock, suppress(BrokenPipeError, ValueError):
            assert self._popen.stdin
            self._popen.stdin.write(line)
            self._popen.stdin.flush()

    def forget(self, request: str) -> None:
        """Cancel a request whose reader is gone."""
        with self._lock:
            self._replies.pop(request, None)
        self.tell(Request(id=request, do="cancel", row=None))

    def end(self, why: str) -> None:
        """Let it end, and tell those who wait why."""
        self._why = why
        if self._write_lock.acquire(timeout=END_SECONDS):  # else it does not even read any more
            with suppress(BrokenPipeError):
                assert self._popen.stdin
                self._popen.stdin.close()
            self._write_lock.release()
        try:
            self._popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _read(self) -> None:
        assert self._popen.stdout
        for line in self._popen.stdout:
            with suppress(ValueError):  # a line that its death cut short
                self._take(json.loads(line))
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_SECONDS)
        self._popen.kill()  # where it closed its stdout and stayed
        self._finish(self._popen.wait())

    def _take(self, reply: Reply) -> None:
        if state := reply.get("state"):
            base = reply.get("base")
            self.base, self.state = base_of(base) if base else None, state
            return
        with self._lock:
            replies = self._replies.get(reply.get("id") or "")
            if replies and "piece" not in reply:
                del self._replies[reply["id"]]
        if replies and "piece" in reply:
            replies.add(reply["piece"])
        elif replies:
            replies.end(reply)

    def _finish(self, code: int) -> None:
        with self._lock:
            self.has_ended = True
            waiting = list(self._replies.values())
            self._replies.clear()
        for replies in waiting:
            unread = code == 0 and not self._why and not replies.was_answered
            why = self._why or _ended_unexpectedly(code, self._log)
            replies.end({"unread": True} if unread else {"error": [why], "kind": "ChatError"})
        for pipe in (self._popen.stdin, self._popen.stdout):
            with suppress(OSError):
                assert pipe
                pipe.close()


def _start(arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        grown = log.exists() and log.stat().st_size > LOG_BYTES
        with open(log, "wb" if grown else "ab") as stderr:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**TRAINING_ENVIRONMENT, **ENVIRONMENT, **os.environ, "PYTHONPATH": path},
                # Ctrl-C in the terminal ends an answer, not the model that gives it.
                start_new_session=True,
            )
    except OSError as error:
        raise ChatError(
            f"The engine that answers cannot be started: {error.strerror} ({error.filename})."
        ) from None


def _ended_unexpectedly(code: int, log: Path) -> str:
    if code == -signal.SIGKILL:
        how = "killed, often for lack of memory"
    elif code < 0:
        names = {known.value: known.name for known in signal.Signals}
        how = f"{names.get(-code, f'signal {-code}')}; its last words are in {log.name}"
    else:
        how = f"exit code {code}; its last words are in {log.name}"
    return f"The engine that answers ended unexpectedly ({how}). Ask again: it starts anew."


def last_reply(answers: Generator[PieceMessage, None, dict[str, Any]]) -> dict[str, Any]:
    """Read all pieces, for what ends them."""
    while True:
        try:
            next(answers)
        except StopIteration as end:
            reply: dict[str, Any] = end.value
            return reply


def error_of(last: dict[str, Any]) -> TunerError:
    """What the engine raised, in its own class."""
    kind = getattr(errors, last.get("kind", ""), ChatError)
    known = isinstance(kind, type) and issubclass(kind, TunerError)
    error: TunerError = (kind if known else ChatError)(last["error"])
    return error
